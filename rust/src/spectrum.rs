//! Singular values of a balanced stack, and the small matrices that turn it into its best
//! rank-k approximation.  The mathematics is in the head of `recompress`.

use faer::{Mat, MatRef, Side};

use crate::recompress::Rule;
use crate::stack::Stack;
use crate::{Error, Result};

/// Relative norm below which a tail of singular values is rounding noise of f32 factors.
pub(crate) const NOISE: f64 = 2e-7;
/// Relative error of a cut, and share of the largest square of the smallest kept one, above which
/// Gram matrices with errors of 1e-7 give the optimal error to six digits.
const COARSE: f64 = 1e-3;
const COARSE_KEPT: f64 = 1e-4;

/// `up_new = U left`, `down_new = right D`.
pub(crate) struct Mixers {
    /// `R x k`.
    pub(crate) left: Mat<f64>,
    /// `k x R`.
    pub(crate) right: Mat<f64>,
    /// Norms of the new columns and rows: roots of the singular values.
    pub(crate) roots: Vec<f64>,
}

pub(crate) struct Spectrum {
    /// Squared singular values, largest first.
    squares: Vec<f64>,
    /// Sum of `squares[k..]` for every k.
    tails: Vec<f64>,
    /// Eigenvectors of the core, columns in the order of `squares`.
    vectors: Mat<f64>,
}

impl Spectrum {
    pub(crate) fn new(stack: &Stack<'_, '_>, lower: &Mat<f64>) -> Result<Self> {
        let rank = stack.size();
        let down = MatRef::from_column_major_slice(&stack.down, rank, rank);
        let core = lower.transpose() * (down * lower);
        Self::of(core.as_ref(), 0.0)
    }

    /// Of a core `B B^T`; `outside` is the squared norm of what B does not hold.
    pub(crate) fn of(core: MatRef<'_, f64>, outside: f64) -> Result<Self> {
        let n = core.ncols();
        let eigen = core.self_adjoint_eigen(Side::Lower).map_err(|_| Self::failure())?;
        let ascending = eigen.S().column_vector();
        let squares: Vec<f64> = (0..n).map(|j| ascending[n - 1 - j].max(0.0)).collect();
        let vectors = Mat::from_fn(n, n, |i, j| eigen.U()[(i, n - 1 - j)]);
        let mut tails = vec![outside; n + 1];
        for k in (0..n).rev() {
            tails[k] = tails[k + 1] + squares[k];
        }
        if tails[0].is_finite() {
            Ok(Self { squares, tails, vectors })
        } else {
            Err(Self::failure())
        }
    }

    /// What to say when no spectrum can be had.
    pub(crate) fn failure() -> Error {
        Error::Param {
            name: "factors",
            value: "a spectrum that does not converge".into(),
            allowed: "factors of finite, comparable size",
        }
    }

    /// Frobenius norm of the delta.
    pub(crate) fn norm(&self) -> f64 {
        self.tails[0].sqrt()
    }

    /// Relative error of keeping the first `k`.
    pub(crate) fn tail(&self, k: usize) -> f64 {
        if self.tails[0] > 0.0 { (self.tails[k] / self.tails[0]).sqrt() } else { 0.0 }
    }

    /// Smallest rank that satisfies the rule, at most `largest`; 0 if nothing but rounding noise
    /// of terms of the size `rounding` is there.
    pub(crate) fn choose(&self, rule: &Rule, largest: usize, rounding: f64) -> usize {
        let first = |limit: f64| (0..self.squares.len()).find(|k| self.tail(*k) <= limit);
        let smallest = |limit: f64| first(limit).unwrap_or(self.squares.len());
        let noise = NOISE * rounding.max(self.norm());
        let above = (0..self.squares.len()).find(|k| self.tails[*k].sqrt() <= noise);
        let mut kept = above.unwrap_or(self.squares.len()).min(largest);
        if kept == 0 {
            return 0;
        }
        if let Some(energy) = rule.energy {
            kept = kept.min(smallest((1.0 - energy).max(0.0).sqrt()));
        }
        if let Some(max_error) = rule.max_error {
            kept = kept.min(smallest(max_error));
        }
        kept.max(1)
    }

    /// Whether keeping the first `kept` needs no more than three digits of any singular value.
    pub(crate) fn is_coarse(&self, kept: usize) -> bool {
        kept > 0
            && self.tail(kept) > COARSE
            && self.squares[kept - 1] > COARSE_KEPT * self.squares[0]
    }

    /// The first `kept` eigenvectors, and the roots of their singular values.
    pub(crate) fn leading(&self, kept: usize) -> (MatRef<'_, f64>, Vec<f64>) {
        let roots = self.squares[..kept].iter().map(|s| s.sqrt().sqrt()).collect();
        (self.vectors.subcols(0, kept), roots)
    }

    /// The matrices that make the best rank-`kept` pair, both sides of equal size.
    pub(crate) fn mixers(&self, stack: &Stack<'_, '_>, lower: &Mat<f64>, kept: usize) -> Mixers {
        let rank = stack.size();
        let down = MatRef::from_column_major_slice(&stack.down, rank, rank);
        let (leading, roots) = self.leading(kept);
        let turned = lower * leading;
        let mut left = down * &turned;
        let mut right = turned.transpose().to_owned();
        for (j, root) in roots.iter().enumerate() {
            for a in 0..rank {
                left[(a, j)] /= root * root * root;
                right[(j, a)] /= root;
            }
        }
        Mixers { left, right, roots }
    }
}
