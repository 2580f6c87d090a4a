//! Where the range finder of [`crate::condense`] starts: the row space of the down factors.
//!
//! What an elementwise program keeps of deltas lies mostly in their row spaces.  Where all rows
//! together are more than are wanted, the leading right singular vectors of the deltas set one
//! above the other are taken (not those of their sum, which may cancel).  They come from Gram
//! matrices: `C = K K^T` of the up sides, one block per member, `S^2` and W from
//! `K^T D D^T K = W S^2 W^T`, and the vectors are `D^T K W S^-1`.  Rows that are nearly orthogonal
//! and all wanted are taken as they are, at length one: their span is all that matters.
//!
//! Cost for R rows: one read of the factors, `cols R^2` flops for the Gram matrix, `2 cols R p`
//! for p vectors, O(R^3) for the small problem.

use std::ops::Range;

use faer::{Mat, MatRef};
use rayon::prelude::*;

use crate::cholesky;
use crate::condense::Part;
use crate::gram::{add_lower, mirror};
use crate::group::Group;
use crate::panels::{
    DIM, Order, Panels, cholesky_turn, leading_turn, orthonormal, well_conditioned,
};
use crate::passes::square;
use crate::rng::Stream;
use crate::tile::{TILE, down_tile, pieces, up_tile};
use crate::{Error, Result};

/// Share of its square that every row must have for itself for all to be as good as orthonormal,
/// where no direction is left out later.
const CLEAR: f64 = 0.5;

/// At least `least` (if there are as many columns) well conditioned columns, `cols x p`, that span
/// the row space of the deltas, or the leading part of it where it has more than `most`
/// dimensions.  Random signs fill up what is missing.
pub(crate) fn start(
    parts: &[Part<'_, '_>],
    cols: usize,
    least: usize,
    most: usize,
) -> Result<Panels> {
    let known: usize = parts.iter().map(|part| part.group.rank()).sum();
    let extra = least.saturating_sub(known).min(cols);
    let (rows, sizes) = unit_rows(parts, cols, extra)?;
    if sizes.iter().all(|size| *size == 0.0) {
        return Ok(Panels::new(cols, 1, Order::Rows)); // of no deltas
    }
    let gram = rows.gram::<f32>();
    if known > most
        && let Some(turn) = leading(parts, &gram, &sizes, most)?
    {
        return filled(rows.times(&turn), least);
    }
    if known <= least && cholesky::definite_above(gram.as_ref(), CLEAR).is_some() {
        return Ok(rows);
    }
    match cholesky_turn(&gram, DIM) {
        Some(turn) => Ok(rows.times(&turn)),
        None => filled(well_conditioned(&rows)?, least),
    }
}

/// A start for a matrix of which nothing is known: `count` random directions of `cols`, or all.
pub(crate) fn random(cols: usize, count: usize) -> Result<Panels> {
    let mut made = Panels::new(cols, count.min(cols), Order::Rows);
    if count >= cols {
        (0..cols).for_each(|i| made.values[i * cols + i] = 1.0);
        return Ok(made);
    }
    let signs = Random::new(cols, count)?;
    made.tiles_mut().for_each(|(rows, out)| {
        signs.fill(&rows, |i, j, value| out[i * count + j] = value);
    });
    orthonormal(&made, true)
}

/// With random signs where columns are missing.
fn filled(known: Panels, least: usize) -> Result<Panels> {
    let missing = least.saturating_sub(known.width).min(known.len.saturating_sub(known.width));
    if missing == 0 { Ok(known) } else { orthonormal(&with_random(&known, missing)?, true) }
}

/// All rows of the down factors and `extra` random ones, scaled to length one, as columns; and the
/// lengths of the former.
fn unit_rows(parts: &[Part<'_, '_>], cols: usize, extra: usize) -> Result<(Panels, Vec<f64>)> {
    let width = extra + parts.iter().map(|part| part.group.rank()).sum::<usize>();
    let random = Random::new(cols, extra)?;
    let mut rows = Panels::new(cols, width, Order::Columns);
    rows.tiles_mut().try_for_each(|(range, out)| {
        let mut rest = out;
        for part in parts {
            let (mine, others) = rest.split_at_mut(part.group.rank() * range.len());
            down_tile(part.group, range.clone(), mine)?;
            rest = others;
        }
        random.fill(&range, |i, j, value| rest[j * range.len() + i] = value);
        Ok::<_, Error>(())
    })?;
    let mut squares = vec![0.0; width];
    for range in rows.ranges() {
        let tile = &rows.values[range.start * width..range.end * width];
        for (sum, column) in squares.iter_mut().zip(tile.chunks_exact(range.len())) {
            *sum += square(column);
        }
    }
    let sizes: Vec<f64> = squares.into_iter().map(f64::sqrt).collect();
    rows.tiles_mut().for_each(|(range, out)| {
        for (column, size) in out.chunks_exact_mut(range.len()).zip(&sizes) {
            let scale = if *size > 0.0 { 1.0 / size } else { 0.0 };
            for value in column {
                *value = (f64::from(*value) * scale) as f32;
            }
        }
    });
    Ok((rows, sizes[..width - extra].to_vec()))
}

/// What turns unit rows into the `most` leading right singular vectors of all deltas, or `None`
/// if the Gram matrices of the up sides left the range of f32.
fn leading(
    parts: &[Part<'_, '_>],
    gram: &Mat<f64>,
    sizes: &[f64],
    most: usize,
) -> Result<Option<Mat<f64>>> {
    let blocks = parts.iter().map(|part| weighted(part.group)).collect::<Result<Vec<_>>>()?;
    let width = sizes.len();
    let mut root = Mat::<f64>::zeros(width, width);
    let mut at = 0;
    for (mut block, n) in blocks.into_iter().flatten() {
        for (x, value) in block.iter_mut().enumerate() {
            *value *= sizes[at + x / n] * sizes[at + x % n];
        }
        if !(0..n).all(|a| block[a * n + a].is_finite()) {
            return Ok(None);
        }
        let lower = cholesky::definite(&block, n);
        let lower = lower.unwrap_or_else(|| cholesky::pivoted(&block, n));
        root.submatrix_mut(at, at, n, lower.ncols()).copy_from(&lower);
        at += n;
    }
    let core = root.transpose() * (gram * &root);
    if !(core.norm_l2().is_normal()) {
        return Ok(None);
    }
    Ok(Some(&root * leading_turn(&core, most, DIM)?))
}

/// `f^2 U^T U` of every member and its rank, column-major.
fn weighted(group: &Group<'_>) -> Result<Vec<(Vec<f64>, usize)>> {
    let one = |index: usize| {
        let columns = group.columns(index);
        (vec![0.0; columns.len() * columns.len()], columns.len())
    };
    let mut sums: Vec<_> = (0..group.members().len()).map(one).collect();
    let mut tile = vec![0f32; TILE * group.rank()];
    let mut block = vec![0f32; group.rank() * group.rank()];
    for rows in pieces(group.rows(), TILE) {
        let tile = &mut tile[..rows.len() * group.rank()];
        up_tile(group, rows.clone(), tile)?;
        let stack = MatRef::from_row_major_slice(tile, rows.len(), group.rank());
        for (index, (sum, _)) in sums.iter_mut().enumerate() {
            let columns = group.columns(index);
            let member = stack.subcols(columns.start, columns.len()).transpose();
            add_lower(member, &mut block, sum);
        }
    }
    for ((sum, n), member) in sums.iter_mut().zip(group.members()) {
        mirror(sum, *n);
        for value in sum {
            *value *= member.factor * member.factor;
        }
    }
    Ok(sums)
}

/// The same columns, and `count` random ones.
fn with_random(known: &Panels, count: usize) -> Result<Panels> {
    let (width, old) = (known.width + count, known.width);
    let random = Random::new(known.len, count)?;
    let mut all = Panels::new(known.len, width, Order::Rows);
    all.tiles_mut().for_each(|(rows, out)| {
        let source = &known.values[rows.start * old..rows.end * old];
        for (line, source) in out.chunks_exact_mut(width).zip(source.chunks_exact(old)) {
            line[..old].copy_from_slice(source);
        }
        random.fill(&rows, |i, j, value| out[i * width + old + j] = value);
    });
    Ok(all)
}

/// Columns of random signs, of length one.
struct Random {
    stream: Stream,
    count: usize,
    unit: f32,
}

impl Random {
    fn new(len: usize, count: usize) -> Result<Self> {
        let unit = (1.0 / (len as f64).sqrt()) as f32;
        Ok(Self { stream: Stream::new(0, 0, 0)?, count, unit })
    }

    /// Calls `put` with the row within `rows`, the column and the value of every entry.
    fn fill(&self, rows: &Range<usize>, mut put: impl FnMut(usize, usize, f32)) {
        let mut words = vec![0u32; rows.len() * self.count];
        self.stream.fill((rows.start * self.count) as u64, &mut words);
        for (x, word) in words.iter().enumerate() {
            let value = if word >> 31 == 0 { self.unit } else { -self.unit };
            put(x / self.count, x % self.count, value);
        }
    }
}
