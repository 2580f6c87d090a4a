//! Long thin matrices and their orthonormal bases.
//!
//! A basis of p columns is found through its Gram matrix G: `T^T G T = 1`, then one product with T
//! (Cholesky-QR; Stathopoulos and Wu, "A block orthogonalization procedure with constant
//! synchronization requirements", SISC 2002, for the form with eigenvectors).  With n rows a turn
//! costs `n p^2` flops for one triangle of G and `2 n p q` for q new columns.  Gram matrices are
//! made of f32 products where their errors of 1e-7 are shown to be small beside what the columns
//! have of their own, and of f64 ones where not.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

use crate::cholesky;
use crate::gram::{add_lower, mirror};
use crate::spectrum::Spectrum;
use crate::tile::{Real, TILE, pieces};
use crate::{Result, bf16};

/// Relative square below which a direction is rounding noise of f32 values.
const DEPENDENT: f64 = 1e-13;
/// The same where the Gram matrix is made of f32 products, with room for three digits.
pub(crate) const DIM: f64 = 1e-4;
/// Tiles per parallel job of a Gram matrix; jobs are folded in order.
const JOB: usize = 16;
/// Columns of the lower triangle computed by one product.
const PANEL: usize = 32;
/// A cache line of a column.
const BLOCK: usize = 16;

/// How the numbers of a tile lie in memory.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Order {
    /// Rows of `width` numbers.
    Rows,
    /// Columns of as many numbers as the tile has rows.
    Columns,
}

/// A `len x width` matrix in tiles of [`TILE`] rows, one after the other.
pub(crate) struct Panels {
    pub(crate) values: Vec<f32>,
    pub(crate) len: usize,
    pub(crate) width: usize,
    pub(crate) order: Order,
}

impl Panels {
    /// Zeros.
    pub(crate) fn new(len: usize, width: usize, order: Order) -> Self {
        Self { values: vec![0.0; len * width], len, width, order }
    }

    /// Ranges of rows, one per tile.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        pieces(self.len, TILE)
    }

    /// The tile of these rows.
    pub(crate) fn tile(&self, rows: &Range<usize>) -> MatRef<'_, f32> {
        view(&self.values[self.place(rows)], rows.len(), self.width, self.order)
    }

    fn place(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start * self.width..rows.end * self.width
    }

    /// All numbers, row by row, with room for `extra` more at the end of each.
    pub(crate) fn in_rows(&self, extra: usize) -> Vec<f32> {
        let stride = self.width + extra;
        let mut made = vec![0.0; self.len * stride];
        for rows in self.ranges() {
            let (tile, made) = (self.tile(&rows), &mut made[rows.start * stride..]);
            for block in pieces(rows.len(), BLOCK) {
                for column in 0..self.width {
                    for row in block.clone() {
                        made[row * stride + column] = tile[(row, column)];
                    }
                }
            }
        }
        made
    }

    /// Every column as the left side of a product of bf16 numbers, for panels in [`Order::Rows`].
    pub(crate) fn rounded_columns(&self) -> Vec<u32> {
        let mut columns = vec![0f32; self.len * self.width];
        for rows in pieces(self.len, BLOCK) {
            for column in 0..self.width {
                for row in rows.clone() {
                    columns[column * self.len + row] = self.values[row * self.width + column];
                }
            }
        }
        let mut words = vec![0; self.width * self.len.div_ceil(2)];
        bf16::rounded(&columns, self.len, &mut words);
        words
    }

    /// Every tile's rows and numbers, to be filled in parallel.
    pub(crate) fn tiles_mut(
        &mut self,
    ) -> impl IndexedParallelIterator<Item = (Range<usize>, &mut [f32])> {
        let (len, width) = (self.len, self.width);
        let tiles = self.values.par_chunks_mut((TILE * width).max(1)).enumerate();
        tiles.map(move |(index, out)| (index * TILE..((index + 1) * TILE).min(len), out))
    }

    /// `self * turn`, rows in order.
    pub(crate) fn times(&self, turn: &Mat<f64>) -> Self {
        let (p, q) = (self.width, turn.ncols());
        let turn = Mat::from_fn(p, q, |i, j| turn[(i, j)] as f32);
        let mut made = Self::new(self.len, q, Order::Rows);
        made.tiles_mut().for_each(|(rows, out)| {
            let out = MatMut::from_row_major_slice_mut(out, rows.len(), q);
            matmul(out, Accum::Replace, self.tile(&rows), turn.as_ref(), 1.0, Par::Seq);
        });
        made
    }

    /// `self^T * self`, in products of type T, tiles summed in f64.
    pub(crate) fn gram<T: Real>(&self) -> Mat<f64> {
        let p = self.width;
        let tiles: Vec<_> = self.ranges().collect();
        let job = |tiles: &[Range<usize>]| {
            let mut sum = vec![0.0; p * p];
            let mut tile = vec![T::default(); tiles[0].len() * p];
            let mut block = vec![T::default(); p * PANEL.min(p)];
            for rows in tiles {
                let values = &self.values[self.place(rows)];
                let tile = &mut tile[..values.len()];
                tile.iter_mut().zip(values).for_each(|(t, v)| *t = T::from_f64(f64::from(*v)));
                let tile = view(tile, rows.len(), p, self.order);
                add_lower(tile.transpose(), &mut block, &mut sum);
            }
            sum
        };
        let partial: Vec<Vec<f64>> = tiles.par_chunks(JOB).map(job).collect();
        let mut sum = vec![0.0; p * p];
        for other in partial {
            sum.iter_mut().zip(other).for_each(|(s, o)| *s += o);
        }
        mirror(&mut sum, p);
        MatRef::from_column_major_slice(&sum, p, p).to_owned()
    }
}

fn view<T>(values: &[T], n: usize, width: usize, order: Order) -> MatRef<'_, T> {
    match order {
        Order::Rows => MatRef::from_row_major_slice(values, n, width),
        Order::Columns => MatRef::from_column_major_slice(values, n, width),
    }
}

/// An orthonormal basis of the columns, in one turn if it may be `quick` and they are clearly
/// independent (three digits then), in two careful ones if not: the first then
/// leaves what f32 makes of directions far smaller than the others.
pub(crate) fn orthonormal(columns: &Panels, quick: bool) -> Result<Panels> {
    if quick && let Some(turn) = cholesky_turn(&columns.gram::<f32>(), DIM) {
        return Ok(columns.times(&turn));
    }
    let once = well_conditioned(columns)?;
    let turn = match cholesky_turn(&once.gram::<f32>(), DIM) {
        Some(turn) => turn,
        None => leading_turn(&once.gram::<f64>(), once.width, DEPENDENT)?,
    };
    Ok(once.times(&turn))
}

/// One careful turn: a basis of the columns that is orthonormal up to f32 errors, grown where
/// directions are far smaller than the others.
pub(crate) fn well_conditioned(columns: &Panels) -> Result<Panels> {
    let gram = columns.gram::<f64>();
    Ok(columns.times(&leading_turn(&gram, columns.width, DEPENDENT)?))
}

/// T with `T^T G T = 1`, if every column has more than the share `own` of its square for itself.
pub(crate) fn cholesky_turn(gram: &Mat<f64>, own: f64) -> Option<Mat<f64>> {
    let lower = cholesky::definite_above(gram.as_ref(), own)?;
    let mut inverse = Mat::zeros(lower.nrows(), lower.nrows());
    invert_lower_triangular(inverse.as_mut(), lower.as_ref(), Par::Seq);
    Some(inverse.transpose().to_owned())
}

/// T with `T^T G T = 1` on the leading eigenvectors: at most `keep` of those whose eigenvalue is
/// above `floor` times the largest; `p x q`.
pub(crate) fn leading_turn(gram: &Mat<f64>, keep: usize, floor: f64) -> Result<Mat<f64>> {
    let n = gram.nrows();
    let eigen = gram.self_adjoint_eigen(Side::Lower).map_err(|_| Spectrum::failure())?;
    let values = eigen.S().column_vector();
    let above = (0..n).rev().take_while(|j| values[*j] > floor * values[n - 1]).count();
    if above == 0 {
        return Err(Spectrum::failure());
    }
    let turn = |i, j: usize| eigen.U()[(i, n - 1 - j)] / values[n - 1 - j].sqrt();
    Ok(Mat::from_fn(n, above.min(keep), turn))
}
