//! How far two groups' deltas are apart, measured on random vectors.
//!
//! For X with independent +-1 entries, `E |A X|^2 = probes * |A|_F^2` (Hutchinson 1990), so the
//! difference of what was meant and what was written is measured end to end, decoding included,
//! without cancellation of large Gram entries: `2 R probes` flops per row and column.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::group::Group;
use crate::recompress::Mixing;
use crate::rng::Stream;
use crate::tile::{TILE, down_tile, pieces, up_tile};
use crate::{Error, Result};

/// Number of random vectors; the estimate of a full-rank difference is good to a few percent.
pub const PROBES: usize = 8;

/// Estimated Frobenius norms of `a - b` and of `a`, up to rounding of f32 products.
///
/// # Errors
/// [`Error::Shape`] if the two deltas differ in shape.
pub fn difference(a: &Group<'_>, b: &Group<'_>, stream: &Stream) -> Result<(f64, f64)> {
    if (a.rows(), a.cols()) != (b.rows(), b.cols()) {
        return Err(Error::Shape {
            what: "delta",
            expected: format!("{} x {}", a.rows(), a.cols()),
            got: format!("{} x {}", b.rows(), b.cols()),
        });
    }
    let (left, right) = (project(a, stream)?, project(b, stream)?);
    let mut sums = (0.0, 0.0);
    for rows in pieces(a.rows(), TILE) {
        let (x, y) = (rows_of(a, &left, rows.clone())?, rows_of(b, &right, rows)?);
        for (x, y) in x.iter().zip(&y) {
            let gap = f64::from(*x) - f64::from(*y);
            sums.0 += gap * gap;
            sums.1 += f64::from(*x) * f64::from(*x);
        }
    }
    let norm = |sum: f64| (sum / PROBES as f64).sqrt();
    Ok((norm(sums.0), norm(sums.1)))
}

/// `Z^T A X` of a factored delta, `PROBES x PROBES` row-major, Z and X with entries +-1.
///
/// Sixty-four numbers that stand for a matrix: `E (Z^T A X)_ij^2 = |A|_F^2`.
///
/// # Errors
/// What the bytes refuse.
pub fn sketch(group: &Group<'_>, right: &Stream, left: &Stream) -> Result<Vec<f64>> {
    finish(group, &project(group, right)?, left)
}

fn finish(group: &Group<'_>, projected: &[f32], left: &Stream) -> Result<Vec<f64>> {
    let mut sum = vec![0f64; PROBES * PROBES];
    for rows in pieces(group.rows(), TILE) {
        let tile = rows_of(group, projected, rows.clone())?;
        add_left(&mut sum, &tile, left, rows.start);
    }
    Ok(sum)
}

/// The same of `(stack_up A) (B stack_down)`.
///
/// # Errors
/// [`Error::Shape`] for a mixing of another rank; what the bytes refuse.
pub fn sketch_mixed(
    group: &Group<'_>,
    mixing: &Mixing,
    right: &Stream,
    left: &Stream,
) -> Result<Vec<f64>> {
    if mixing.rank() != group.rank() {
        return Err(Error::Shape {
            what: "mixers",
            expected: group.rank().to_string(),
            got: mixing.rank().to_string(),
        });
    }
    let raw = downs(group, right)?;
    let raw = MatRef::from_row_major_slice(&raw, group.rank(), PROBES);
    let mixed = &mixing.up * (&mixing.down * raw);
    let factors = group.factors();
    let projected: Vec<f32> = (0..group.rank() * PROBES)
        .map(|x| (mixed[(x / PROBES, x % PROBES)] * factors[x / PROBES]) as f32)
        .collect();
    finish(group, &projected, left)
}

/// The same of a dense row-major matrix.
pub fn sketch_dense(values: &[f32], cols: usize, right: &Stream, left: &Stream) -> Vec<f64> {
    let signs = signs(right, 0, cols);
    let signs = MatRef::from_row_major_slice(&signs, cols, PROBES);
    let mut sum = vec![0f64; PROBES * PROBES];
    for (index, tile) in values.chunks(TILE * cols.max(1)).enumerate() {
        let n = tile.len() / cols;
        let mut out = vec![0f32; n * PROBES];
        let target = MatMut::from_row_major_slice_mut(&mut out, n, PROBES);
        let tile = MatRef::from_row_major_slice(tile, n, cols);
        matmul(target, Accum::Replace, tile, signs, 1.0, Par::Seq);
        add_left(&mut sum, &out, left, index * TILE);
    }
    sum
}

/// Random signs of `count` rows or columns from `first` on, `PROBES` each.
pub(crate) fn signs(stream: &Stream, first: usize, count: usize) -> Vec<f32> {
    let mut words = vec![0u32; count * PROBES];
    stream.fill((first * PROBES) as u64, &mut words);
    words.iter().map(|w| if w >> 31 == 0 { 1.0 } else { -1.0 }).collect()
}

/// Adds `Z^T rows` for `rows` of `PROBES` numbers from `first` on.
pub(crate) fn add_left(sum: &mut [f64], rows: &[f32], left: &Stream, first: usize) {
    let signs = signs(left, first, rows.len() / PROBES);
    for (row, signs) in rows.chunks_exact(PROBES).zip(signs.chunks_exact(PROBES)) {
        for (i, sign) in signs.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                sum[i * PROBES + j] += f64::from(sign * value);
            }
        }
    }
}

/// `factors * D X`, `R x PROBES` row-major.
fn project(group: &Group<'_>, stream: &Stream) -> Result<Vec<f32>> {
    let sum = downs(group, stream)?;
    let factors = group.factors();
    Ok(sum.iter().enumerate().map(|(x, s)| (s * factors[x / PROBES]) as f32).collect())
}

/// `D X`, likewise.
fn downs(group: &Group<'_>, stream: &Stream) -> Result<Vec<f64>> {
    let rank = group.rank();
    let mut sum = vec![0f64; rank * PROBES];
    let mut tile = vec![0f32; rank * TILE];
    let mut block = vec![0f32; rank * PROBES];
    for cols in pieces(group.cols(), TILE) {
        let n = cols.len();
        let signs = signs(stream, cols.start, n);
        down_tile(group, cols, &mut tile[..rank * n])?;
        matmul(
            MatMut::from_row_major_slice_mut(&mut block, rank, PROBES),
            Accum::Replace,
            MatRef::from_row_major_slice(&tile[..rank * n], rank, n),
            MatRef::from_row_major_slice(&signs, n, PROBES),
            1.0,
            Par::Seq,
        );
        sum.iter_mut().zip(&block).for_each(|(s, b)| *s += f64::from(*b));
    }
    Ok(sum)
}

fn rows_of(group: &Group<'_>, projected: &[f32], rows: std::ops::Range<usize>) -> Result<Vec<f32>> {
    let (n, rank) = (rows.len(), group.rank());
    let mut tile = vec![0f32; n * rank];
    let mut out = vec![0f32; n * PROBES];
    up_tile(group, rows, &mut tile)?;
    matmul(
        MatMut::from_row_major_slice_mut(&mut out, n, PROBES),
        Accum::Replace,
        MatRef::from_row_major_slice(&tile, n, rank),
        MatRef::from_row_major_slice(projected, rank, PROBES),
        1.0,
        Par::Seq,
    );
    Ok(out)
}
