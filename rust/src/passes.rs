//! Passes over a dense row-major matrix, in tiles: what the range finder needs of it.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::dispatch::{self, Kernel};
use crate::panels::{Order, Panels};
use crate::probe::{PROBES, add_left, signs};
use crate::rng::Stream;
use crate::scratch::floats;

/// A row-major matrix.
pub(crate) struct Dense<'v> {
    pub(crate) values: &'v [f32],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
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
    pub(crate) fn times_beside(
        &self,
        basis: &Panels,
        (right, left): (&Stream, &Stream),
    ) -> (Panels, f64, Vec<f64>) {
        let (p, width) = (basis.width, basis.width + PROBES);
        let mut made = Panels::new(self.rows, p, Order::Rows);
        let signs = signs(right, 0, self.cols);
        let mut both = basis.in_rows(PROBES);
        for (row, signs) in both.chunks_exact_mut(width).zip(signs.chunks_exact(PROBES)) {
            row[p..].copy_from_slice(signs);
        }
        let both = MatRef::from_row_major_slice(&both, self.cols, width);
        let tile = |(rows, out): (Range<usize>, &mut [f32])| {
            let tile = self.rows(&rows);
            let square = square(tile);
            let tile = MatRef::from_row_major_slice(tile, rows.len(), self.cols);
            let mut random = Vec::with_capacity(rows.len() * PROBES);
            floats(rows.len() * width, |product| {
                let target = MatMut::from_row_major_slice_mut(product, rows.len(), width);
                matmul(target, Accum::Replace, tile, both, 1.0, Par::Seq);
                for (out, row) in out.chunks_exact_mut(p).zip(product.chunks_exact(width)) {
                    out.copy_from_slice(&row[..p]);
                    random.extend_from_slice(&row[p..]);
                }
            });
            let mut sketch = vec![0.0; PROBES * PROBES];
            add_left(&mut sketch, &random, left, rows.start);
            (square, sketch)
        };
        let found: Vec<(f64, Vec<f64>)> = made.tiles_mut().map(tile).collect();
        let (mut square, mut sketch) = (0.0, vec![0.0; PROBES * PROBES]);
        for (own, part) in found {
            square += own;
            sketch.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        (made, square, sketch)
    }

    /// `left^T * self` for an orthonormal `rows x q`, transposed: `cols x q`.
    pub(crate) fn projected(&self, left: &Panels) -> Panels {
        let q = left.width;
        let mut made = Panels::new(self.cols, q, Order::Columns);
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
