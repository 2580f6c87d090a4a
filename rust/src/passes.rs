//! Passes over a dense row-major matrix, in tiles: what the range finder needs of it.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::dispatch::{self, Kernel};
use crate::dtype::Dtype;
use crate::panels::{Order, Panels};
use crate::probe::{BUCKETS, add_left, signs};
use crate::rng::Stream;
use crate::scratch::{floats, words};
use crate::sink::put;
use crate::{Result, bf16};

/// Rows that are rounded at a time: they stay in L2.
const ROUNDED: usize = 64;

/// A row-major matrix.
pub(crate) struct Dense<'v> {
    pub(crate) values: &'v [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// A matrix M times a basis, which finds its directions.
pub(crate) struct Found {
    /// `rows x p`.
    pub(crate) columns: Panels,
    /// Squared Frobenius norm of M.
    pub(crate) square: f64,
    /// Whether both sides were rounded to bf16 first.
    pub(crate) coarse: bool,
}

/// The right side of products, `k x width`.
enum Side<'b> {
    Whole(MatRef<'b, f32>),
    Rounded(bf16::Right),
}

impl<'b> Side<'b> {
    fn new(values: &'b [f32], k: usize, width: usize, coarse: bool) -> Result<Self> {
        if !coarse {
            return Ok(Self::Whole(MatRef::from_row_major_slice(values, k, width)));
        }
        let mut bytes = vec![0; values.len() * Dtype::Bf16.size()];
        put(Dtype::Bf16, values, &mut bytes)?;
        Ok(Self::Rounded(bf16::Right::new(&bytes, k, width)))
    }

    /// Rows of `k` numbers times this.
    fn times(&self, rows: &[f32], k: usize, out: &mut [f32]) {
        match self {
            Self::Whole(right) => {
                let (n, width) = (rows.len() / k, right.ncols());
                let rows = MatRef::from_row_major_slice(rows, n, k);
                let out = MatMut::from_row_major_slice_mut(out, n, width);
                matmul(out, Accum::Replace, rows, right, 1.0, Par::Seq);
            }
            Self::Rounded(right) => {
                let width = out.len() / (rows.len() / k);
                let blocks = rows.chunks(ROUNDED * k).zip(out.chunks_mut(ROUNDED * width));
                for (rows, out) in blocks {
                    words(rows.len() / k * k.div_ceil(2), |left| {
                        bf16::rounded(rows, k, left);
                        right.times(left, 1.0, Accum::Replace, out);
                    });
                }
            }
        }
    }
}

impl Dense<'_> {
    /// `self * basis`, `rows x p`, and the squared Frobenius norm of `self`, tiles in order.
    pub(crate) fn times(&self, basis: &Panels) -> (Panels, f64) {
        let p = basis.width;
        let mut made = Panels::new(self.rows, p, Order::Rows);
        let copy;
        let basis = match basis.order {
            Order::Rows => &basis.values,
            Order::Columns => {
                copy = basis.in_rows(0);
                &copy
            }
        };
        let basis = MatRef::from_row_major_slice(basis, self.cols, p);
        let tile = |(rows, out): (Range<usize>, &mut [f32])| {
            let tile = self.rows(&rows);
            let square = square(tile);
            let tile = MatRef::from_row_major_slice(tile, rows.len(), self.cols);
            let out = MatMut::from_row_major_slice_mut(out, rows.len(), p);
            matmul(out, Accum::Replace, tile, basis, 1.0, Par::Seq);
            square
        };
        let squares: Vec<f64> = made.tiles_mut().map(tile).collect();
        (made, squares.iter().sum())
    }

    /// [`Self::times`], and `Z^T self X` of [`crate::probe::sketch`] for the streams of X and Z: X
    /// stands beside the basis, where the vectors of a product have room.
    ///
    /// Where it may be `coarse`, both sides are rounded to bf16 first, so the sketch is off by a
    /// thousandth: a hundredth of what is cut where that is accepted.
    pub(crate) fn look(
        &self,
        basis: &Panels,
        (right, left): (&Stream, &Stream),
        coarse: bool,
    ) -> Result<(Found, Vec<f64>)> {
        let (p, width) = (basis.width, basis.width + BUCKETS);
        let mut columns = Panels::new(self.rows, p, Order::Rows);
        let signs = signs(right, 0, self.cols);
        let mut both = basis.in_rows(BUCKETS);
        for (at, (row, sign)) in both.chunks_exact_mut(width).zip(signs).enumerate() {
            row[p + at % BUCKETS] = sign;
        }
        let both = Side::new(&both, self.cols, width, coarse)?;
        let tile = |(rows, out): (Range<usize>, &mut [f32])| {
            let tile = self.rows(&rows);
            let square = square(tile);
            let mut random = Vec::with_capacity(rows.len() * BUCKETS);
            floats(rows.len() * width, |product| {
                both.times(tile, self.cols, product);
                for (out, row) in out.chunks_exact_mut(p).zip(product.chunks_exact(width)) {
                    out.copy_from_slice(&row[..p]);
                    random.extend_from_slice(&row[p..]);
                }
            });
            let mut sketch = vec![0.0; BUCKETS * BUCKETS];
            add_left(&mut sketch, &random, left, rows.start);
            (square, sketch)
        };
        let tiles: Vec<(f64, Vec<f64>)> = columns.tiles_mut().map(tile).collect();
        let (mut square, mut sketch) = (0.0, vec![0.0; BUCKETS * BUCKETS]);
        for (own, part) in tiles {
            square += own;
            sketch.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        Ok((Found { columns, square, coarse }, sketch))
    }

    /// `left^T * self` for an orthonormal `rows x q`, transposed: `cols x q`.  Where it may be
    /// `coarse`, both sides are rounded to bf16 first.
    pub(crate) fn projected(&self, left: &Panels, coarse: bool) -> Panels {
        let q = left.width;
        let mut made = Panels::new(self.cols, q, Order::Columns);
        if coarse {
            let left = left.rounded_columns();
            made.tiles_mut().for_each(|(cols, out)| {
                bf16::room(self.rows, cols.len(), |words| {
                    let part = bf16::Right::rounded(self.values, self.cols, cols, words);
                    part.times(&left, 1.0, Accum::Replace, out);
                });
            });
            return made;
        }
        let all = MatRef::from_row_major_slice(self.values, self.rows, self.cols);
        let left = MatRef::from_row_major_slice(&left.values, self.rows, q).transpose();
        made.tiles_mut().for_each(|(cols, out)| {
            let out = MatMut::from_row_major_slice_mut(out, q, cols.len());
            let part = all.subcols(cols.start, cols.len());
            matmul(out, Accum::Replace, left, part, 1.0, Par::Seq);
        });
        made
    }

    /// `|self - left * right^T|^2`, entry by entry: a third pass, where little is left.
    pub(crate) fn residual(&self, left: &Panels, right: &Panels) -> f64 {
        let blocks: Vec<_> = left.ranges().collect();
        let of = |rows: &Range<usize>| {
            floats(rows.len() * self.cols, |rest| {
                rest.copy_from_slice(self.rows(rows));
                let mut rest_of =
                    MatMut::from_row_major_slice_mut(&mut *rest, rows.len(), self.cols);
                for cols in right.ranges() {
                    let out = rest_of.rb_mut().subcols_mut(cols.start, cols.len());
                    let right = right.tile(&cols).transpose();
                    matmul(out, Accum::Add, left.tile(rows), right, -1.0, Par::Seq);
                }
                square(rest)
            })
        };
        let sums: Vec<f64> = blocks.par_iter().map(of).collect();
        sums.iter().sum()
    }

    fn rows(&self, rows: &Range<usize>) -> &[f32] {
        &self.values[rows.start * self.cols..rows.end * self.cols]
    }
}

/// Sum of squares.
pub(crate) fn square(values: &[f32]) -> f64 {
    dispatch::run(Square { values })
}

struct Square<'v> {
    values: &'v [f32],
}

impl Kernel for Square<'_> {
    type Output = f64;

    /// Sixteen sums side by side, which is as accurate and does not wait for itself.
    #[inline(always)]
    #[allow(clippy::inline_always)] // or it is not compiled with the vectors of the machine
    fn run(self) -> f64 {
        let (blocks, rest) = self.values.as_chunks::<16>();
        let mut sums = [0f64; 16];
        for block in blocks {
            sums.iter_mut().zip(block).for_each(|(s, v)| *s += f64::from(*v) * f64::from(*v));
        }
        let rest: f64 = rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        sums.iter().sum::<f64>() + rest
    }
}
