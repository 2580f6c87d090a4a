//! How far two groups' deltas are apart, measured on a few random sums.
//!
//! A count sketch (Charikar, Chen & Farach-Colton 2002; Clarkson & Woodruff 2013): entry `j` of a
//! vector goes to bucket `j mod 8` with a random sign, as the matrix X with one +-1 in every row.
//! `E |A X|_F^2 = |A|_F^2`, and likewise with `Z^T` on the left, so the difference of what was meant and
//! what was written is measured end to end, decoding included, without cancellation of large Gram
//! entries.  One addition per entry, where eight random vectors (Hutchinson 1990) take eight.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::dispatch::{self, Kernel};
use crate::group::Group;
use crate::recompress::Mixing;
use crate::rng::Stream;
use crate::tile::{TILE, down_tile, pieces, up_tile};
use crate::{Error, Result};

/// Number of buckets; the estimate of a full-rank difference is good to a few percent.
pub const BUCKETS: usize = 8;
/// Sums side by side, whole turns of the buckets: they do not wait for each other.
const LANES: usize = 8 * BUCKETS;

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
    Ok((sums.0.sqrt(), sums.1.sqrt()))
}

/// `Z^T A X` of a factored delta, `BUCKETS x BUCKETS` row-major.
///
/// Sixty-four numbers that stand for a matrix: the sum of their squares is `|A|_F^2` on average.
///
/// # Errors
/// What the bytes refuse.
pub fn sketch(group: &Group<'_>, right: &Stream, left: &Stream) -> Result<Vec<f64>> {
    finish(group, &project(group, right)?, left)
}

fn finish(group: &Group<'_>, projected: &[f32], left: &Stream) -> Result<Vec<f64>> {
    let mut sum = vec![0f64; BUCKETS * BUCKETS];
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
    let raw = MatRef::from_row_major_slice(&raw, group.rank(), BUCKETS);
    let mixed = &mixing.up * (&mixing.down * raw);
    let factors = group.factors();
    let projected: Vec<f32> = (0..group.rank() * BUCKETS)
        .map(|x| (mixed[(x / BUCKETS, x % BUCKETS)] * factors[x / BUCKETS]) as f32)
        .collect();
    finish(group, &projected, left)
}

/// The same of a dense row-major matrix.
pub fn sketch_dense(values: &[f32], cols: usize, right: &Stream, left: &Stream) -> Vec<f64> {
    let signs = signs(right, 0, cols);
    let mut sum = vec![0f64; BUCKETS * BUCKETS];
    for (index, tile) in values.chunks((TILE * cols).max(1)).enumerate() {
        add_left(&mut sum, &fold(tile, &signs), left, index * TILE);
    }
    sum
}

/// Random signs of `count` rows or columns from `first` on.
pub(crate) fn signs(stream: &Stream, first: usize, count: usize) -> Vec<f32> {
    let mut words = vec![0u32; count];
    stream.fill(first as u64, &mut words);
    words.iter().map(|w| if w >> 31 == 0 { 1.0 } else { -1.0 }).collect()
}

/// Rows of as many numbers as there are signs, times X: [`BUCKETS`] numbers for each.
pub(crate) fn fold(rows: &[f32], signs: &[f32]) -> Vec<f32> {
    let mut sums = vec![0f32; rows.len() / signs.len().max(1) * BUCKETS];
    dispatch::run(Fold { rows, signs, sums: &mut sums });
    sums
}

struct Fold<'v> {
    rows: &'v [f32],
    signs: &'v [f32],
    sums: &'v mut [f32],
}

impl Kernel for Fold<'_> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::inline_always)] // or it is not compiled with the vectors of the machine
    fn run(self) {
        let (signs, last_signs) = self.signs.as_chunks::<LANES>();
        let rows = self.rows.chunks_exact(self.signs.len().max(1));
        for (row, sums) in rows.zip(self.sums.as_chunks_mut::<BUCKETS>().0) {
            let (blocks, last) = row.as_chunks::<LANES>();
            let mut lanes = [0f32; LANES];
            for (block, signs) in blocks.iter().zip(signs) {
                for lane in 0..LANES {
                    lanes[lane] += block[lane] * signs[lane];
                }
            }
            let last = lanes.iter_mut().zip(last.iter().zip(last_signs));
            last.for_each(|(lane, (value, sign))| *lane += value * sign);
            for turn in lanes.as_chunks::<BUCKETS>().0 {
                sums.iter_mut().zip(turn).for_each(|(sum, lane)| *sum += lane);
            }
        }
    }
}

/// Adds `Z^T rows` for `rows` of [`BUCKETS`] numbers from `first` on.
pub(crate) fn add_left(sum: &mut [f64], rows: &[f32], left: &Stream, first: usize) {
    let rows = rows.as_chunks::<BUCKETS>().0;
    for (at, (row, sign)) in rows.iter().zip(signs(left, first, rows.len())).enumerate() {
        let sum = &mut sum[(first + at) % BUCKETS * BUCKETS..][..BUCKETS];
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(sign * value));
    }
}

/// `factors * D X`, `R x BUCKETS` row-major.
fn project(group: &Group<'_>, stream: &Stream) -> Result<Vec<f32>> {
    let sum = downs(group, stream)?;
    let factors = group.factors();
    Ok(sum.iter().enumerate().map(|(x, s)| (s * factors[x / BUCKETS]) as f32).collect())
}

/// `D X`, likewise.
fn downs(group: &Group<'_>, stream: &Stream) -> Result<Vec<f64>> {
    let rank = group.rank();
    let mut sum = vec![0f64; rank * BUCKETS];
    let mut tile = vec![0f32; rank * TILE];
    for cols in pieces(group.cols(), TILE) {
        let n = cols.len();
        let signs = signs(stream, cols.start, n);
        down_tile(group, cols, &mut tile[..rank * n])?;
        let folded = fold(&tile[..rank * n], &signs);
        sum.iter_mut().zip(&folded).for_each(|(s, b)| *s += f64::from(*b));
    }
    Ok(sum)
}

fn rows_of(group: &Group<'_>, projected: &[f32], rows: std::ops::Range<usize>) -> Result<Vec<f32>> {
    let (n, rank) = (rows.len(), group.rank());
    let mut tile = vec![0f32; n * rank];
    let mut out = vec![0f32; n * BUCKETS];
    up_tile(group, rows, &mut tile)?;
    matmul(
        MatMut::from_row_major_slice_mut(&mut out, n, BUCKETS),
        Accum::Replace,
        MatRef::from_row_major_slice(&tile, n, rank),
        MatRef::from_row_major_slice(projected, rank, BUCKETS),
        1.0,
        Par::Seq,
    );
    Ok(out)
}
