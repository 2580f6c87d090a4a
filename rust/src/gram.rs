//! Inner products of deltas, from their factors.
//!
//! `K_ij = <delta_i, delta_j> = f_i f_j sum((U_i^T U_j) * (D_i D_j^T))`: O((rows + cols) R^2) and
//! one read of the factors; no delta is formed.  Products run in f32 over tiles of 256 and tiles
//! are summed in f64 in a fixed order (`f32` form), or everything runs in f64 (`f64` form, for
//! those who take roots of the result).

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::group::{Group, Member};
use crate::tile::{Real, TILE, down_tile, pieces, up_tile};
use crate::{Error, Result};

/// Rows or columns per parallel job; jobs are folded in order, so bits do not depend on threads.
const JOB: usize = 16 * TILE;
/// Columns of the lower triangle computed by one product.
const PANEL: usize = 32;
/// Squared factor norms outside this range leave the safe range of f32 products.
const SAFE: std::ops::Range<f64> = 1e-20..1e30;

/// Symmetric `R x R`, column-major, both triangles filled.
pub(crate) struct Grams {
    pub(crate) up: Vec<f64>,
    pub(crate) down: Vec<f64>,
}

/// `N x N` matrix of inner products of the members' deltas, row-major.
///
/// # Errors
/// [`Error::NonFinite`] if a factor holds a NaN or an infinity.
pub fn gram(group: &Group<'_>) -> Result<Vec<f64>> {
    let fast = factor_grams::<f32>(group)?;
    if is_safe(group, &fast) {
        return Ok(contract(group, &fast));
    }
    check_finite(group)?;
    Ok(contract(group, &factor_grams::<f64>(group)?))
}

/// Gram matrices of the two stacks, factors not applied.
pub(crate) fn factor_grams<T: Real>(group: &Group<'_>) -> Result<Grams> {
    let up = side::<T>(group, group.rows(), Side::Up)?;
    let down = side::<T>(group, group.cols(), Side::Down)?;
    Ok(Grams { up, down })
}

/// Names the first member that holds a NaN or an infinity.
pub(crate) fn check_finite(group: &Group<'_>) -> Result<()> {
    for (index, member) in group.members().iter().enumerate() {
        for (side, matrix) in [("up", &member.up), ("down", &member.down)] {
            if matrix.find_non_finite().is_some() {
                return Err(Error::NonFinite { member: index, side });
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Side {
    Up,
    Down,
}

fn side<T: Real>(group: &Group<'_>, len: usize, side: Side) -> Result<Vec<f64>> {
    let rank = group.rank();
    let jobs: Vec<_> = pieces(len, JOB).collect();
    let partial: Vec<Vec<f64>> = jobs
        .into_par_iter()
        .map(|job| {
            let mut sum = vec![0.0; rank * rank];
            let mut tile = vec![T::default(); TILE.min(job.len()) * rank];
            let mut block = vec![T::default(); rank * PANEL.min(rank)];
            for part in pieces(job.len(), TILE) {
                let range = job.start + part.start..job.start + part.end;
                let n = range.len();
                let stack = match side {
                    Side::Up => {
                        up_tile(group, range, &mut tile[..n * rank])?;
                        MatRef::from_row_major_slice(&tile[..n * rank], n, rank).transpose()
                    }
                    Side::Down => {
                        down_tile(group, range, &mut tile[..n * rank])?;
                        MatRef::from_row_major_slice(&tile[..n * rank], rank, n)
                    }
                };
                add_lower(stack, &mut block, &mut sum);
            }
            Ok(sum)
        })
        .collect::<Result<_>>()?;
    let mut partial = partial.into_iter();
    let mut sum = partial.next().unwrap_or_else(|| vec![0.0; rank * rank]);
    for other in partial {
        sum.iter_mut().zip(other).for_each(|(s, o)| *s += o);
    }
    mirror(&mut sum, rank);
    Ok(sum)
}

/// Adds the lower triangle (in panels) of `stack * stack^T` to `sum`.
pub(crate) fn add_lower<T: Real>(stack: MatRef<'_, T>, block: &mut [T], sum: &mut [f64]) {
    let rank = stack.nrows();
    for panel in pieces(rank, PANEL) {
        let height = rank - panel.start;
        let block = &mut block[..height * panel.len()];
        matmul(
            MatMut::from_column_major_slice_mut(block, height, panel.len()),
            Accum::Replace,
            stack.subrows(panel.start, height),
            stack.subrows(panel.start, panel.len()).transpose(),
            T::from_f64(1.0),
            Par::Seq,
        );
        for (column, values) in panel.clone().zip(block.chunks_exact(height)) {
            let target = &mut sum[column * rank + panel.start..][..height];
            target.iter_mut().zip(values).for_each(|(s, v)| *s += v.to_f64());
        }
    }
}

/// Copies the lower triangle of a column-major square to its upper one.
pub(crate) fn mirror(square: &mut [f64], n: usize) {
    for column in 1..n {
        for row in 0..column {
            square[column * n + row] = square[row * n + column];
        }
    }
}

/// Whether f32 products of these factors neither overflow nor vanish.
pub(crate) fn is_safe(group: &Group<'_>, grams: &Grams) -> bool {
    (0..group.members().len()).all(|index| {
        [&grams.up, &grams.down].iter().all(|gram| {
            let norm2: f64 = group.columns(index).map(|a| gram[a * group.rank() + a]).sum();
            SAFE.contains(&norm2)
        })
    })
}

/// `N x N` inner products, row-major, from the Gram matrices of the stacks.
pub(crate) fn contract(group: &Group<'_>, grams: &Grams) -> Vec<f64> {
    let (n, rank) = (group.members().len(), group.rank());
    let mut k = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let mut sum = 0.0;
            for a in group.columns(j) {
                let rows = a * rank + group.columns(i).start..a * rank + group.columns(i).end;
                let pairs = grams.up[rows.clone()].iter().zip(&grams.down[rows]);
                sum += pairs.map(|(u, d)| u * d).sum::<f64>();
            }
            let factor = |m: &Member<'_>| m.factor;
            let value = sum * factor(&group.members()[i]) * factor(&group.members()[j]);
            k[i * n + j] = value;
            k[j * n + i] = value;
        }
    }
    k
}
