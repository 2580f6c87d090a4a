//! Spectra of deltas, and how much of their directions two of them share, from the Gram matrices of
//! the factors.
//!
//! With `A = U_a^T U_a`, `C = D_a D_a^T` (`r x r`) and `X = U_a^T U_b`:
//!
//! ```text
//! squared singular values      eigenvalues of L^T C L,  A = L L^T
//! |delta_a^T delta_b|^2        tr(C_a X C_b X^T)
//! |Q_a^T Q_b|^2                |W_a^T X W_b|^2,  Q = U W orthonormal
//! ```
//!
//! and the same for the right sides with up and down exchanged.  Cost: O(R r^2) for each member,
//! O(r^3) for each pair.

use faer::{Mat, MatRef, Side};

use super::pairs::pairs;
use crate::Result;
use crate::cholesky;
use crate::gram::{Grams, factor_grams};
use crate::group::Group;
use crate::spectrum::Spectrum;

/// Share of the largest eigenvalue of a Gram matrix of unit columns up to which an eigenvalue is
/// rounding noise: far above that of f64 sums, far below what makes a direction.
const DEPENDENT: f64 = 1e-10;
/// Share of the square of every column that must be its own for bases from f32 products: their
/// errors of 1e-7 become 1e-5.
const OWN: f64 = 1e-2;

/// The spectrum of one delta; all 0 for a delta of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// `sum s^2 / s_1^2`.
    pub stable_rank: f64,
    /// `exp(entropy of s^2 / sum s^2)`.
    pub effective_rank: f64,
    /// `(sum s^2)^2 / sum s^4`.
    pub participation: f64,
}

/// What two deltas share; see `loramix.analysis.statistics.PairStatistics`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shared {
    /// Mean of both sides of `|Q_a^T Q_b|^2 / min(r_a, r_b)`.
    pub overlap: f64,
    /// `<G_a, G_b> / (|G_a| |G_b|)` with `G = delta delta^T`.
    pub left: f64,
    /// The same with `G = delta^T delta`.
    pub right: f64,
    /// `left` of independent deltas with these spectra, on average.
    pub left_chance: f64,
    /// The same of `right`.
    pub right_chance: f64,
}

/// Of every member, and of every pair.
pub(super) fn subspaces(group: &Group<'_>, grams: &Grams) -> Result<(Vec<Shape>, Vec<Shared>)> {
    let (up, down) = (Blocks::new(group, &grams.up), Blocks::new(group, &grams.down));
    let n = group.members().len();
    let shape = |i: usize| shape(up.of(i, i), down.of(i, i), group.members()[i].factor != 0.0);
    let shapes: Vec<Shape> = (0..n).map(shape).collect::<Result<_>>()?;
    if n < 2 {
        return Ok((shapes, vec![]));
    }
    let published = published(group, &up, &down)?;
    let (left, right) = (energies(&up, &down), energies(&down, &up));
    let cosine = |inner: &Mat<f64>, i: usize, j: usize| {
        let size = (inner[(i, i)] * inner[(j, j)]).sqrt();
        if size > 0.0 { (inner[(i, j)] / size).clamp(0.0, 1.0) } else { 0.0 }
    };
    let shared = |((i, j), overlap): ((usize, usize), f64)| {
        let (a, b) = (shapes[i].participation, shapes[j].participation);
        let chance = |dim: usize| ((a * b).sqrt() / dim.max(1) as f64).min(1.0);
        let there = a > 0.0 && b > 0.0;
        Shared {
            overlap: if there { overlap } else { 0.0 },
            left: if there { cosine(&left, i, j) } else { 0.0 },
            right: if there { cosine(&right, i, j) } else { 0.0 },
            left_chance: chance(group.rows()),
            right_chance: chance(group.cols()),
        }
    };
    let shared = pairs(n).zip(published).map(shared).collect();
    Ok((shapes, shared))
}

/// A Gram matrix in blocks of members, each member of trace 1 so that no power leaves the range.
struct Blocks {
    gram: Mat<f64>,
    starts: Vec<usize>,
}

impl Blocks {
    fn new(group: &Group<'_>, gram: &[f64]) -> Self {
        let rank = group.rank();
        let gram = MatRef::from_column_major_slice(gram, rank, rank);
        let mut scale = Vec::with_capacity(rank);
        let mut starts = vec![0];
        for columns in (0..group.members().len()).map(|i| group.columns(i)) {
            let trace: f64 = columns.clone().map(|a| gram[(a, a)]).sum();
            let inverse = if trace > 0.0 { 1.0 / trace.sqrt() } else { 0.0 };
            scale.extend(columns.clone().map(|_| inverse));
            starts.push(columns.end);
        }
        Self { gram: Mat::from_fn(rank, rank, |a, b| gram[(a, b)] * scale[a] * scale[b]), starts }
    }

    fn count(&self) -> usize {
        self.starts.len() - 1
    }

    fn len(&self, member: usize) -> usize {
        self.starts[member + 1] - self.starts[member]
    }

    fn of(&self, i: usize, j: usize) -> MatRef<'_, f64> {
        self.gram.submatrix(self.starts[i], self.starts[j], self.len(i), self.len(j))
    }

    /// Columns of one member, rows of it and all before.
    fn above(&self, member: usize) -> MatRef<'_, f64> {
        self.gram.submatrix(0, self.starts[member], self.starts[member + 1], self.len(member))
    }
}

fn shape(up: MatRef<'_, f64>, down: MatRef<'_, f64>, there: bool) -> Result<Shape> {
    let rank = up.nrows();
    let flat: Vec<f64> = (0..rank).flat_map(|j| (0..rank).map(move |i| up[(i, j)])).collect();
    let lower = cholesky::definite(&flat, rank).unwrap_or_else(|| cholesky::pivoted(&flat, rank));
    let core = lower.transpose() * (down * &lower);
    let values = core.self_adjoint_eigenvalues(Side::Lower).map_err(|_| Spectrum::failure())?;
    let squares: Vec<f64> = values.into_iter().map(|s| s.max(0.0)).collect();
    let sum: f64 = squares.iter().sum();
    if !there || sum <= 0.0 {
        return Ok(Shape::default());
    }
    let share = |s: &f64| s / sum;
    let fourth: f64 = squares.iter().map(share).map(|p| p * p).sum();
    let entropy: f64 = squares.iter().map(share).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
    Ok(Shape {
        stable_rank: 1.0 / squares.iter().map(share).fold(0.0, f64::max),
        effective_rank: entropy.exp(),
        participation: 1.0 / fourth,
    })
}

/// `tr(inner_i X inner_j X^T)` with blocks X of `outer`, for all `i <= j`.
fn energies(outer: &Blocks, inner: &Blocks) -> Mat<f64> {
    let n = outer.count();
    let mut found = Mat::zeros(n, n);
    for j in 0..n {
        let turned = outer.above(j) * inner.of(j, j);
        for i in 0..=j {
            let turned = inner.of(i, i) * turned.subrows(outer.starts[i], outer.len(i));
            found[(i, j)] = inner_product(turned.as_ref(), outer.of(i, j));
        }
    }
    found
}

fn inner_product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> f64 {
    let column = |j: usize| (0..a.nrows()).map(|i| a[(i, j)] * b[(i, j)]).sum::<f64>();
    (0..a.ncols()).map(column).sum()
}

/// The published overlap of every pair.
fn published(group: &Group<'_>, up: &Blocks, down: &Blocks) -> Result<Vec<f64>> {
    let sides = if let [Some(left), Some(right)] = [fast_bases(up), fast_bases(down)] {
        [overlaps(up, &left), overlaps(down, &right)]
    } else {
        // Nearly dependent columns: only f64 tells a direction from rounding.
        let grams = factor_grams::<f64>(group)?;
        let (up, down) = (Blocks::new(group, &grams.up), Blocks::new(group, &grams.down));
        [overlaps(&up, &bases(&up)?), overlaps(&down, &bases(&down)?)]
    };
    Ok(sides[0].iter().zip(&sides[1]).map(|(l, r)| f64::midpoint(*l, *r)).collect())
}

/// `W` of every member, if the columns of all are clearly independent.
fn fast_bases(side: &Blocks) -> Option<Vec<Mat<f64>>> {
    let one = |i: usize| {
        let rank = side.len(i);
        let gram = side.of(i, i);
        let lower = cholesky::definite_above(gram, OWN)?;
        let mut inverse = Mat::<f64>::identity(rank, rank);
        faer::linalg::triangular_solve::solve_lower_triangular_in_place(
            lower.as_ref(),
            inverse.as_mut(),
            faer::Par::Seq,
        );
        Some(inverse.transpose().to_owned())
    };
    (0..side.count()).map(one).collect()
}

/// `W` of every member, from eigenvectors of unit columns.
fn bases(side: &Blocks) -> Result<Vec<Mat<f64>>> {
    let one = |i: usize| {
        let gram = side.of(i, i);
        let rank = gram.nrows();
        let inverse = |a: usize| if gram[(a, a)] > 0.0 { 1.0 / gram[(a, a)].sqrt() } else { 0.0 };
        let unit: Vec<f64> = (0..rank).map(inverse).collect();
        let cosines = Mat::from_fn(rank, rank, |a, b| gram[(a, b)] * unit[a] * unit[b]);
        let eigen = cosines.self_adjoint_eigen(Side::Lower).map_err(|_| Spectrum::failure())?;
        let values: Vec<f64> = eigen.S().column_vector().iter().copied().collect();
        let least = values.last().copied().unwrap_or(0.0) * DEPENDENT;
        let kept: Vec<usize> = (0..rank).filter(|k| values[*k] > least).collect();
        let vector = |a: usize, k: usize| unit[a] * eigen.U()[(a, kept[k])];
        Ok(Mat::from_fn(rank, kept.len(), |a, k| vector(a, k) / values[kept[k]].sqrt()))
    };
    (0..side.count()).map(one).collect()
}

/// `|W_i^T X W_j|^2 / min(columns)` of every pair.
fn overlaps(side: &Blocks, bases: &[Mat<f64>]) -> Vec<f64> {
    let n = side.count();
    let turned: Vec<Mat<f64>> = (0..n).map(|j| side.above(j) * &bases[j]).collect();
    let one = |(i, j): (usize, usize)| {
        let rows = turned[j].subrows(side.starts[i], side.len(i));
        let both = bases[i].transpose() * rows;
        let least = both.nrows().min(both.ncols());
        if least == 0 {
            return 0.0;
        }
        (inner_product(both.as_ref(), both.as_ref()) / least as f64).min(1.0)
    };
    pairs(n).map(one).collect()
}
