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
//!
//! Stacks that are mixed first, `(stack_up A) (B stack_down)`, have the Gram matrices
//! `A^T G_U A` and `B G_D B^T`; the rest is the same, and `A P`, `Q B` are applied to the stacks
//! as they are stored.

use faer::Mat;

use crate::account::{self, Account};
use crate::cholesky;
use crate::dtype::Dtype;
use crate::gram::{Grams, check_finite, factor_grams, is_safe};
use crate::group::Group;
use crate::spectrum::Spectrum;
use crate::stack::{Meant, Stack};
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
    /// Steps of subspace iteration beyond the first, where the entries of a result are
    /// approximated: each is two more passes over them.
    pub steps: usize,
}

impl Rule {
    /// What the up side is multiplied by, so that `alpha / rank` undoes it.
    pub(crate) fn gain(&self, rank: usize) -> f64 {
        self.alpha.map_or(1.0, |alpha| rank as f64 / alpha)
    }

    /// The largest rank to begin with, and to end with, of a result of full rank `bound`: what
    /// must hold some share, whatever the rank, may need all of it.
    pub(crate) fn ranks(&self, first: usize, bound: usize) -> (usize, usize) {
        let most = self.rank.unwrap_or(bound).min(bound).max(1);
        let open = self.energy.is_some() || self.max_error.is_some();
        let first = if open || self.rank.is_none() { first.clamp(1, most) } else { most };
        (first, if open { most } else { first })
    }

    /// Whether what is left out is as little as is asked for.
    pub(crate) fn is_met(&self, done: &Recompressed) -> bool {
        let error = done.relative_error;
        self.max_error.is_none_or(|most| error <= most)
            && self.energy.is_none_or(|least| 1.0 - error * error >= least)
    }
}

/// Two small matrices between the stacks: the delta is `(stack_up A) (B stack_down)`, with the
/// members' factors on the up side.
#[derive(Clone, Debug)]
pub struct Mixing {
    /// A, `R x p`.
    pub(crate) up: Mat<f64>,
    /// B, `p x R`.
    pub(crate) down: Mat<f64>,
}

impl Mixing {
    /// From row-major A (`rank x p`) and B (`p x rank`), `rank` being R of the group.
    ///
    /// # Errors
    /// [`Error::Shape`] if they have other sizes, [`Error::Param`] for entries that are not finite.
    pub fn new(rank: usize, p: usize, up: &[f64], down: &[f64]) -> Result<Self> {
        if rank.checked_mul(p) != Some(up.len()) || up.len() != down.len() {
            return Err(Error::Shape {
                what: "mixers",
                expected: format!("{rank} x {p} and {p} x {rank}"),
                got: format!("{} and {} entries", up.len(), down.len()),
            });
        }
        let bad = up.iter().chain(down).find(|x| !x.is_finite());
        if let Some(bad) = bad {
            let value = bad.to_string();
            return Err(Error::Param { name: "mixers", value, allowed: "finite numbers" });
        }
        let up = Mat::from_fn(rank, p, |a, j| up[a * p + j]);
        let down = Mat::from_fn(p, rank, |j, a| down[j * rank + a]);
        Ok(Self { up, down })
    }

    /// One that changes nothing.
    pub(crate) fn none(rank: usize) -> Self {
        let one = Mat::from_fn(rank, rank, |i, j| if i == j { 1.0 } else { 0.0 });
        Self { up: one.clone(), down: one }
    }

    /// Block by block of consecutive stacks.
    pub(crate) fn diagonal(blocks: &[Self]) -> Self {
        let rank = blocks.iter().map(Self::rank).sum();
        let size = blocks.iter().map(Self::size).sum();
        let mut all = Self { up: Mat::zeros(rank, size), down: Mat::zeros(size, rank) };
        let (mut a, mut j) = (0, 0);
        for block in blocks {
            let (n, p) = (block.rank(), block.size());
            all.up.submatrix_mut(a, j, n, p).copy_from(&block.up);
            all.down.submatrix_mut(j, a, p, n).copy_from(&block.down);
            (a, j) = (a + n, j + p);
        }
        all
    }

    /// R of the stacks.
    pub fn rank(&self) -> usize {
        self.up.nrows()
    }

    /// p: no result has a larger rank.
    pub fn size(&self) -> usize {
        self.up.ncols()
    }
}

/// What was written.
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
    let bound = group.rank().min(group.rows()).min(group.cols());
    space_for(group, bound, rule, dtype)
}

fn space_for(group: &Group<'_>, bound: usize, rule: &Rule, dtype: Dtype) -> usize {
    (group.rows() + group.cols()) * largest_rank(bound, rule).max(1) * dtype.size()
}

fn largest_rank(bound: usize, rule: &Rule) -> usize {
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
    Ok(work(group, None, rule, dtype, out)?.done)
}

/// [`recompress`], and how the result relates to the members.
///
/// # Errors
/// Those of [`recompress`].
pub fn accounted(
    group: &Group<'_>,
    rule: &Rule,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<(Recompressed, Account)> {
    let work = work(group, None, rule, dtype, out)?;
    Ok((work.done, account::of_meant(group, &work.grams, &work.meant)))
}

/// The same of the stacks after `mixing`: `(stack_up A) (B stack_down)` is recompressed, the
/// account is that of the members as they are stored.
///
/// The result does not depend on how A and B share their scale or their directions: A G and
/// `G^-1` B give the same.  Rounding is relative to `rounding`, here the root of the sum of the
/// squared norms of the terms `U_i A_i B_j D_j`; where A or B cancel more than a few bits, Gram
/// matrices and, if need be, products run in f64.  Cost: as [`recompress`], `O(R^2 p)` more.
///
/// # Errors
/// Those of [`recompress`]; [`Error::Shape`] for a mixing of another stack.
pub fn recompress_mixed(
    group: &Group<'_>,
    mixing: &Mixing,
    rule: &Rule,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<(Recompressed, Account)> {
    let work = work(group, Some(mixing), rule, dtype, out)?;
    Ok((work.done, account::of_meant(group, &work.grams, &work.meant)))
}

/// What was written, what was meant by it, and the Gram matrices that it was made with.
pub(crate) struct Work {
    pub(crate) done: Recompressed,
    pub(crate) meant: Meant,
    pub(crate) grams: Grams,
}

/// All of [`recompress`] and [`recompress_mixed`] but the account.
pub(crate) fn work(
    group: &Group<'_>,
    mixing: Option<&Mixing>,
    rule: &Rule,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<Work> {
    check(group, mixing, rule, dtype, out)?;
    let fast = factor_grams::<f32>(group)?;
    if is_safe(group, &fast) {
        let stack = stack(group, mixing, &fast);
        if let Some((done, meant)) = attempt(&stack, rule, Trust::Coarse, dtype, out)? {
            return Ok(Work { done, meant, grams: fast });
        }
    }
    check_finite(group)?;
    work_exact(group, mixing, factor_grams::<f64>(group)?, rule, dtype, out)
}

/// [`work`] with Gram matrices of f64 products, of finite factors.
pub(crate) fn work_exact(
    group: &Group<'_>,
    mixing: Option<&Mixing>,
    grams: Grams,
    rule: &Rule,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<Work> {
    check(group, mixing, rule, dtype, out)?;
    let found = attempt(&stack(group, mixing, &grams), rule, Trust::Full, dtype, out)?;
    let (done, meant) = found.ok_or_else(Spectrum::failure)?;
    Ok(Work { done, meant, grams })
}

fn stack<'g, 'a>(group: &'g Group<'a>, mixing: Option<&Mixing>, grams: &'g Grams) -> Stack<'g, 'a> {
    match mixing {
        Some(mixing) => Stack::mixed(group, grams, mixing),
        None => Stack::new(group, grams),
    }
}

fn check(
    group: &Group<'_>,
    mixing: Option<&Mixing>,
    rule: &Rule,
    dtype: Dtype,
    out: &[u8],
) -> Result<()> {
    check_rule(rule)?;
    check_mixing(group, mixing)?;
    let size = mixing.map_or(group.rank(), Mixing::size).min(group.rank());
    let bound = size.min(group.rows()).min(group.cols());
    let need = space_for(group, bound, rule, dtype);
    if out.len() < need {
        return Err(Error::Shape {
            what: "output buffer",
            expected: format!("{need} bytes"),
            got: format!("{} bytes", out.len()),
        });
    }
    Ok(())
}

fn check_mixing(group: &Group<'_>, mixing: Option<&Mixing>) -> Result<()> {
    match mixing {
        Some(mixing) if mixing.rank() != group.rank() => Err(Error::Shape {
            what: "mixers",
            expected: format!("{} rows of A and columns of B", group.rank()),
            got: mixing.rank().to_string(),
        }),
        _ => Ok(()),
    }
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
    stack: &Stack<'_, '_>,
    rule: &Rule,
    trust: Trust,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<Option<(Recompressed, Meant)>> {
    let (norm, rounding) = (stack.norm(), stack.rounding());
    if !(norm.is_finite() && rounding.is_finite()) {
        let overflow = Error::Overflow { value: f32::INFINITY, dtype: "F64" };
        return if trust == Trust::Full { Err(overflow) } else { Ok(None) };
    }
    let coarse = trust == Trust::Coarse;
    if coarse && !stack.is_mild() {
        return Ok(None);
    }
    let lower = match cholesky::definite(&stack.up, stack.size()) {
        Some(lower) => lower,
        None if coarse => return Ok(None),
        None => cholesky::pivoted(&stack.up, stack.size()),
    };
    if lower.ncols() == 0 {
        return Ok(Some(zeros(stack, dtype, out)));
    }
    let largest = largest_rank(stack.bound(), rule);
    if stack.is_kept_whole(rule, largest, lower.ncols()) {
        let rank = stack.size();
        let meant = stack.keep(rule.gain(rank), dtype, out)?;
        return Ok(Some((Recompressed { rank, norm, rounding, relative_error: 0.0 }, meant)));
    }
    let spectrum = Spectrum::new(stack, &lower)?;
    let kept = spectrum.choose(rule, largest, rounding);
    if coarse && !spectrum.is_coarse(kept) {
        return Ok(None);
    }
    if kept == 0 {
        return Ok(Some(zeros(stack, dtype, out)));
    }
    let meant = stack.mix(&spectrum.mixers(stack, &lower, kept), rule.gain(kept), dtype, out)?;
    let (norm, relative_error) = (spectrum.norm(), spectrum.tail(kept));
    Ok(Some((Recompressed { rank: kept, norm, rounding, relative_error }, meant)))
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
fn zeros(stack: &Stack<'_, '_>, dtype: Dtype, out: &mut [u8]) -> (Recompressed, Meant) {
    let group = stack.group();
    out[..(group.rows() + group.cols()) * dtype.size()].fill(0);
    let rounding = stack.rounding();
    let done = Recompressed { rank: 1, norm: 0.0, rounding, relative_error: 0.0 };
    (done, Meant::zero(group.rank()))
}
