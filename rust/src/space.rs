//! Orthonormal bases that the members of a group share, and the members in them.
//!
//! With weights w, the left basis U are the eigenvectors of `sum_i w_i^2 Delta_i Delta_i^T`: the
//! left singular vectors of `[w_1 Delta_1 | ... | w_N Delta_N]` (`KnOTS`: Stoica et al., "Model
//! merging with SVD to tie the knots", arXiv 2410.19735, where w = 1).  The right basis V are those
//! of `sum_i w_i^2 Delta_i^T Delta_i`.  In both, member i is its core, `Delta_i = U core_i V^T`.
//! Core Space (Panariello et al., arXiv 2509.17786) takes singular vectors of the stacked factors
//! instead; ours are made from the deltas, so they depend neither on how a delta is shared between
//! its factors nor on the order of the members.
//!
//! Only Gram matrices are needed.  With `Z = blockdiag(w_i^2 D_i D_i^T) = F F^T` (Cholesky) and
//! `F^T G_U F = W L W^T`, the basis is `U = stack_up T`, `T = F W L^(-1/2)`.  Everything is f64,
//! on a balanced stack.  Cost: `2 (rows + cols) R^2` flops, two eigenproblems of size R.
//!
//! Where eigenvalues of L are equal, the basis is not unique: what is decided entry by entry in it
//! is not continuous there.  Its signs are fixed, which such decisions do not see.

use std::ops::Range;

use faer::{Mat, MatRef, Side};

use crate::cholesky;
use crate::dtype::Dtype;
use crate::gram::{Grams, check_finite, factor_grams};
use crate::group::Group;
use crate::sink::Sink;
use crate::spectrum::{NOISE, Spectrum};
use crate::stack::{GROWTH, Stack};
use crate::{Error, Result};

/// Share of the largest eigenvalue of L up to which a direction is rounding noise: a millionth of
/// the largest singular value.  f64 Gram matrices of a thousand columns have noise of 1e-13.
const DEPENDENT: f64 = 1e-12;

/// The members of a group in the bases that they share; every matrix is row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Cores {
    /// Columns of the left basis: the numerical rank of `[w_1 Delta_1 | ...]`.
    pub p: usize,
    /// Columns of the right basis.
    pub q: usize,
    /// `R x p`: the left basis is `stack_up left`, the members' factors being in `stack_up`.
    pub left: Vec<f64>,
    /// `R x q`: the right basis is `stack_down^T right`.
    pub right: Vec<f64>,
    /// `n x p x q`: `Delta_i` (factor included, weight not) is `U core_i V^T`, for every member of
    /// weight other than 0, but for directions below a millionth of the largest.
    pub cores: Vec<f64>,
}

/// The cores of a group, in the bases for `weights` (any sign; only their ratios matter).
///
/// # Errors
/// [`Error::Shape`] for a number of weights that is not that of the members, [`Error::Param`] for
/// a weight that is not finite, [`Error::NonFinite`] for bad input, [`Error::Overflow`] for squares
/// that leave f64.
pub fn cores(group: &Group<'_>, weights: &[f64]) -> Result<Cores> {
    check_weights(group, weights)?;
    check_finite(group)?;
    let grams = factor_grams::<f64>(group)?;
    let bases = Bases::new(group, &grams, weights, true)?;
    let (left, right) = (&bases.left, &bases.right);
    let mut cores = Vec::with_capacity(weights.len() * left.size() * right.size());
    for member in 0..weights.len() {
        let core = bases.core(member);
        cores.extend(
            (0..left.size() * right.size()).map(|x| core[(x / right.size(), x % right.size())]),
        );
    }
    let (stored_left, stored_right) = bases.stored();
    Ok(Cores {
        p: left.size(),
        q: right.size(),
        left: rows(&stored_left),
        right: rows(&stored_right),
        cores,
    })
}

fn check_weights(group: &Group<'_>, weights: &[f64]) -> Result<()> {
    if weights.len() != group.members().len() {
        return Err(Error::Shape {
            what: "weights",
            expected: format!("{}, one for each member", group.members().len()),
            got: weights.len().to_string(),
        });
    }
    match weights.iter().find(|w| !w.is_finite()) {
        Some(bad) => {
            let value = bad.to_string();
            Err(Error::Param { name: "weight", value, allowed: "a finite number" })
        }
        None => Ok(()),
    }
}

/// Row-major entries.
fn rows(matrix: &Mat<f64>) -> Vec<f64> {
    let n = matrix.ncols();
    (0..matrix.nrows() * n).map(|x| matrix[(x / n, x % n)]).collect()
}

/// An orthonormal basis `stack turn`, of one side of a balanced stack.
pub(crate) struct Basis {
    /// T, `R x p`.
    pub(crate) turn: Mat<f64>,
    /// `G T`: row a holds the coefficients of column a of the stack.
    pub(crate) dual: Mat<f64>,
}

impl Basis {
    /// p.
    pub(crate) fn size(&self) -> usize {
        self.turn.ncols()
    }

    /// `dual` for programs: zero where a member has nothing but rounding along a direction, which
    /// would have a vote there.
    fn decided(&self, group: &Group<'_>, other: &[f64]) -> Mat<f64> {
        let (mut dual, rank) = (self.dual.clone(), group.rank());
        let gram = MatRef::from_column_major_slice(other, rank, rank);
        for member in 0..group.members().len() {
            let (start, n) = (group.columns(member).start, group.columns(member).len());
            let own = self.dual.subrows(start, n);
            let image = gram.submatrix(start, start, n, n) * own;
            let square = |j: usize| (own.col(j).transpose() * image.col(j)).max(0.0);
            let squares: Vec<f64> = (0..self.size()).map(square).collect();
            let floor = NOISE * NOISE * squares.iter().sum::<f64>();
            for (j, _) in squares.iter().enumerate().filter(|(_, square)| **square <= floor) {
                dual.submatrix_mut(start, j, n, 1).fill(0.0);
            }
        }
        dual
    }
}

/// Both bases of a group.
pub(crate) struct Bases<'g, 'a> {
    /// What the bases are of; the members' factors are in its up side.
    pub(crate) stack: Stack<'g, 'a>,
    pub(crate) left: Basis,
    /// Empty if it was not asked for.
    pub(crate) right: Basis,
}

impl<'g, 'a> Bases<'g, 'a> {
    /// From f64 Gram matrices; `both` asks for the right basis, too.
    pub(crate) fn new(
        group: &'g Group<'a>,
        grams: &'g Grams,
        weights: &[f64],
        both: bool,
    ) -> Result<Self> {
        let stack = Stack::new(group, grams);
        if !(stack.norm().is_finite() && stack.rounding().is_finite()) {
            return Err(Error::Overflow { value: f32::INFINITY, dtype: "F64" });
        }
        let largest = weights.iter().fold(0.0, |a: f64, w| a.max(w.abs()));
        let squares =
            weights.iter().map(|w| if largest > 0.0 { (w / largest).powi(2) } else { 0.0 });
        let blocks: Vec<_> =
            squares.enumerate().map(|(i, square)| (group.columns(i), square)).collect();
        let rank = group.rank();
        let view = |gram| MatRef::from_column_major_slice(gram, rank, rank);
        let left = basis(view(&stack.up), &stack.down, &blocks)?;
        let right = if both {
            basis(view(&stack.down), &stack.up, &blocks)?
        } else {
            Basis { turn: Mat::zeros(rank, 0), dual: Mat::zeros(rank, 0) }
        };
        Ok(Self { stack, left, right })
    }

    /// The coefficients of the stack's columns in both bases, for programs: `R x p`, `R x q`.
    pub(crate) fn decided(&self) -> (Mat<f64>, Mat<f64>) {
        let group = self.stack.group();
        let left = self.left.decided(group, &self.stack.down);
        (left, self.right.decided(group, &self.stack.up))
    }

    /// `R x p` and `R x q` that make the bases of the stacks as they are stored, but for the
    /// members' factors in the up side.
    pub(crate) fn stored(&self) -> (Mat<f64>, Mat<f64>) {
        let (up_scale, down_scale) = self.stack.scales();
        let factors = self.stack.group().factors();
        // What a column is scaled by beside its factor; nothing where it is zero.
        let beside = |a: usize| if up_scale[a] == 0.0 { 0.0 } else { up_scale[a] / factors[a] };
        let (left, right) = (&self.left.turn, &self.right.turn);
        (
            Mat::from_fn(left.nrows(), left.ncols(), |a, j| beside(a) * left[(a, j)]),
            Mat::from_fn(right.nrows(), right.ncols(), |a, j| down_scale[a] * right[(a, j)]),
        )
    }

    /// `V^T U` of any up sides and the left basis, from `ups`, those with the stack as it is stored.
    pub(crate) fn ups(&self, ups: MatRef<'_, f64>) -> Mat<f64> {
        let (scale, rank) = (self.stack.scales().0, self.left.turn.nrows());
        ups * Mat::from_fn(rank, self.left.size(), |a, j| scale[a] * self.left.turn[(a, j)])
    }

    /// `p x q` of a member, its factor included.
    fn core(&self, member: usize) -> Mat<f64> {
        let columns = self.stack.group().columns(member);
        let of = |dual: &'_ Mat<f64>| dual.subrows(columns.start, columns.len()).to_owned();
        of(&self.left.dual).transpose() * of(&self.right.dual)
    }

    /// f32 bytes of the left basis, `rows x p`.  Its columns will be multiplied by rows of norms
    /// `sizes`: f32 products do where their errors vanish in the whole.
    pub(crate) fn up_bytes(&self, sizes: &[f64]) -> Result<Vec<u8>> {
        let (turn, group) = (&self.left.turn, self.stack.group());
        let (scale, size) = (self.stack.scales().0, self.stack.size());
        let stored = Mat::from_fn(size, turn.ncols(), |a, j| scale[a] * turn[(a, j)]);
        let terms = |j: usize| {
            let term = |a: usize| turn[(a, j)].abs() * self.stack.up[a * size + a].sqrt();
            sizes[j] * (0..size).map(term).sum::<f64>()
        };
        let mut out = vec![0; group.rows() * turn.ncols() * Dtype::F32.size()];
        let mut sink = Sink::new(group.rows(), 0, turn.ncols(), Dtype::F32, &mut out);
        if norm((0..turn.ncols()).map(terms)) <= GROWTH * norm(sizes.iter().copied()) {
            self.stack.write_up::<f32>(&stored, 1.0, &mut sink)?;
        } else {
            self.stack.write_up::<f64>(&stored, 1.0, &mut sink)?;
        }
        Ok(out)
    }
}

/// The basis of the side with Gram matrix `gram`, from the blocks of the other side's.
fn basis(gram: MatRef<'_, f64>, other: &[f64], blocks: &[(Range<usize>, f64)]) -> Result<Basis> {
    let rank = gram.nrows();
    let root = root(other, rank, blocks);
    let inner = root.transpose() * (gram * &root);
    let eigen = inner.self_adjoint_eigen(Side::Lower).map_err(|_| Spectrum::failure())?;
    let (values, n) = (eigen.S().column_vector(), inner.ncols());
    let largest = if n > 0 { values[n - 1] } else { 0.0 };
    if !largest.is_finite() {
        return Err(Spectrum::failure());
    }
    // Ascending: the last ones count.
    let p = (0..n).filter(|j| values[*j] > DEPENDENT * largest && values[*j] > 0.0).count();
    let whitened = Mat::from_fn(n, p, |i, j| eigen.U()[(i, n - 1 - j)] / values[n - 1 - j].sqrt());
    let mut turn = root * whitened;
    for j in 0..p {
        let largest = (0..rank)
            .fold(0.0, |a: f64, i| if turn[(i, j)].abs() > a.abs() { turn[(i, j)] } else { a });
        if largest < 0.0 {
            for i in 0..rank {
                turn[(i, j)] = -turn[(i, j)];
            }
        }
    }
    let dual = gram * &turn;
    Ok(Basis { turn, dual })
}

/// F, block diagonal, with `F F^T = blockdiag(square_i G_ii)`: `R x f`, f the sum of the ranks of
/// the blocks.
fn root(gram: &[f64], rank: usize, blocks: &[(Range<usize>, f64)]) -> Mat<f64> {
    let lower = |(columns, square): &(Range<usize>, f64)| {
        let n = columns.len();
        let entry =
            |x: usize| square * gram[(columns.start + x / n) * rank + columns.start + x % n];
        let block: Vec<f64> = (0..n * n).map(entry).collect();
        cholesky::definite(&block, n).unwrap_or_else(|| cholesky::pivoted(&block, n))
    };
    let lowers: Vec<Mat<f64>> = blocks.iter().map(lower).collect();
    let mut root = Mat::zeros(rank, lowers.iter().map(Mat::ncols).sum());
    let mut at = 0;
    for ((columns, _), lower) in blocks.iter().zip(&lowers) {
        let target = root.submatrix_mut(columns.start, at, columns.len(), lower.ncols());
        { target }.copy_from(lower);
        at += lower.ncols();
    }
    root
}

/// Root of the sum of squares.
pub(crate) fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}
