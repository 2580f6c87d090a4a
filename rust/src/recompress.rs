//! Exact recompression of a stack of factors, without its dense product.
//!
//! With `G_U = U^T U = L L^T` (pivoted Cholesky) and `G_D = D D^T`, both in f64, the small matrix
//! `M = L^T G_D L` has the squared singular values of `U D` as eigenvalues, `M = W S^2 W^T`.  The
//! best rank-k approximation is `(U P)(Q D)` with `P = G_D L W_k S_k^(-3/2)` and
//! `Q = S_k^(-1/2) W_k^T L^T`, which needs no inverse of L.  (Eckart-Young; the Gram route is
//! accurate to about 1e-8 of the largest singular value, below f32 rounding.)  A cut that leaves
//! a visible error does not need that accuracy: Gram matrices of f32 products then suffice, and
//! f64 ones are made only for groups where they do not.
//!
//! Cost: `2 (rows + cols) R^2` flops for the Gram matrices, O(R^3) for the core,
//! `2 (rows + cols) R k` f32 flops for the factors.  A stack that is kept whole is only rescaled,
//! by powers of two on the down side, so what was exact in the input stays exact.

use crate::cholesky;
use crate::dtype::Dtype;
use crate::gram::{Grams, check_finite, factor_grams, is_safe};
use crate::group::Group;
use crate::spectrum::Spectrum;
use crate::stack::Stack;
use crate::{Error, Result};

/// How many singular directions to keep.  All given limits apply; none given keeps all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rule {
    /// At most this many.
    pub rank: Option<usize>,
    /// As few as hold this share of the squared norm, (0, 1].
    pub energy: Option<f64>,
    /// As few as leave a relative error of at most this, [0, 1).
    pub max_error: Option<f64>,
    /// Write factors for a reader that multiplies by `alpha / rank`; without it, by one.
    pub alpha: Option<f64>,
}

impl Rule {
    /// What the up side is multiplied by, so that `alpha / rank` undoes it.
    pub(crate) fn gain(&self, rank: usize) -> f64 {
        self.alpha.map_or(1.0, |alpha| rank as f64 / alpha)
    }
}

/// What [`recompress`] wrote.
#[derive(Clone, Copy, Debug)]
pub struct Recompressed {
    /// Columns of up and rows of down; at least one.
    pub rank: usize,
    /// Frobenius norm of the full delta.
    pub norm: f64,
    /// Norm that rounding errors are relative to: root of the sum of the members' squared norms.
    pub rounding: f64,
    /// Norm of what was cut off over `norm`.
    pub relative_error: f64,
}

/// Bytes that [`recompress`] may need: the factors at the largest rank the rule allows.
pub fn capacity(group: &Group<'_>, rule: &Rule, dtype: Dtype) -> usize {
    let rank = largest_rank(group, rule).max(1);
    (group.rows() + group.cols()) * rank * dtype.size()
}

fn largest_rank(group: &Group<'_>, rule: &Rule) -> usize {
    let bound = group.rank().min(group.rows()).min(group.cols());
    rule.rank.map_or(bound, |rank| rank.min(bound))
}

/// Writes up (`rows x k`) and then down (`k x cols`), row-major, to the front of `out`.
///
/// # Errors
/// [`Error::NonFinite`] for bad input, [`Error::Overflow`] if the output type is too small,
/// [`Error::Param`] for a rule outside its range, [`Error::Shape`] for a short `out`.
pub fn recompress(
    group: &Group<'_>,
    rule: &Rule,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<Recompressed> {
    check_rule(rule)?;
    let need = capacity(group, rule, dtype);
    if out.len() < need {
        return Err(Error::Shape {
            what: "output buffer",
            expected: format!("{need} bytes"),
            got: format!("{} bytes", out.len()),
        });
    }
    let fast = factor_grams::<f32>(group)?;
    if is_safe(group, &fast)
        && let Some(done) = attempt(group, rule, &fast, Trust::Coarse, dtype, out)?
    {
        return Ok(done);
    }
    check_finite(group)?;
    let exact = factor_grams::<f64>(group)?;
    attempt(group, rule, &exact, Trust::Full, dtype, out)?.ok_or_else(Spectrum::failure)
}

/// How many digits of the Gram matrices count.
#[derive(Clone, Copy, PartialEq)]
enum Trust {
    /// f32 products: seven digits of a square are three of a root.  Enough unless small singular
    /// values matter.
    Coarse,
    /// f64 throughout.
    Full,
}

/// The work, or `None` if it needs more digits than there are.
fn attempt(
    group: &Group<'_>,
    rule: &Rule,
    grams: &Grams,
    trust: Trust,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<Option<Recompressed>> {
    let stack = Stack::new(group, grams);
    let (norm, rounding) = (stack.norm(), stack.rounding());
    if !(norm.is_finite() && rounding.is_finite()) {
        let overflow = Error::Overflow { value: f32::INFINITY, dtype: "F64" };
        return if trust == Trust::Full { Err(overflow) } else { Ok(None) };
    }
    let lower = match (cholesky::definite(&stack.up, group.rank()), trust) {
        (Some(lower), _) => lower,
        (None, Trust::Full) => cholesky::pivoted(&stack.up, group.rank()),
        (None, Trust::Coarse) => return Ok(None),
    };
    if lower.ncols() == 0 {
        return Ok(Some(zeros(group, rounding, dtype, out)));
    }
    let largest = largest_rank(group, rule);
    if stack.is_kept_whole(rule, largest, lower.ncols()) {
        let rank = group.rank();
        stack.copy(rule.gain(rank), dtype, out)?;
        return Ok(Some(Recompressed { rank, norm, rounding, relative_error: 0.0 }));
    }
    let spectrum = Spectrum::new(&stack, &lower)?;
    let kept = spectrum.choose(rule, largest, rounding);
    if trust == Trust::Coarse && !spectrum.is_coarse(kept) {
        return Ok(None);
    }
    if kept == 0 {
        return Ok(Some(zeros(group, rounding, dtype, out)));
    }
    stack.mix(&spectrum.mixers(&stack, &lower, kept), rule.gain(kept), dtype, out)?;
    let relative_error = spectrum.tail(kept);
    Ok(Some(Recompressed { rank: kept, norm: spectrum.norm(), rounding, relative_error }))
}

pub(crate) fn check_rule(rule: &Rule) -> Result<()> {
    let bad = |name, value: String, allowed| Err(Error::Param { name, value, allowed });
    match *rule {
        Rule { rank: Some(0), .. } => bad("rank", "0".into(), "at least 1"),
        Rule { energy: Some(e), .. } if !(e > 0.0 && e <= 1.0) => {
            bad("energy", e.to_string(), "in (0, 1]")
        }
        Rule { max_error: Some(e), .. } if !(0.0..1.0).contains(&e) => {
            bad("max_error", e.to_string(), "in [0, 1)")
        }
        Rule { alpha: Some(a), .. } if !(a > 0.0 && a.is_finite()) => {
            bad("alpha", a.to_string(), "a positive number")
        }
        _ => Ok(()),
    }
}

/// A delta of zero still needs a pair that every reader accepts: rank one, all zeros.
fn zeros(group: &Group<'_>, rounding: f64, dtype: Dtype, out: &mut [u8]) -> Recompressed {
    out[..(group.rows() + group.cols()) * dtype.size()].fill(0);
    Recompressed { rank: 1, norm: 0.0, rounding, relative_error: 0.0 }
}
