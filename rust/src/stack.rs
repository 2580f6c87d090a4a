//! The balanced stack of a group, and the writing of factors made from it.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::Result;
use crate::cholesky;
use crate::dtype::Dtype;
use crate::gram::Grams;
use crate::group::Group;
use crate::recompress::Rule;
use crate::sink::Sink;
use crate::spectrum::Mixers;
use crate::tile::{Real, TILE, down_tile, pieces, up_tile};

/// Growth of rounding errors in `U P` above which the product runs in f64.
const GROWTH: f64 = 64.0;

/// A stack with its columns scaled so that `|U_a|` is about `|D_a|`, and its Gram matrices.
pub(crate) struct Stack<'g, 'a> {
    group: &'g Group<'a>,
    /// What multiplies column a of the stored up stack: factor and balance.
    up_scale: Vec<f64>,
    /// What multiplies row a of the stored down stack: a power of two.
    down_scale: Vec<f64>,
    /// `U^T U` of the balanced stack, column-major.
    pub(crate) up: Vec<f64>,
    /// `D D^T` of the balanced stack, column-major.
    pub(crate) down: Vec<f64>,
}

impl<'g, 'a> Stack<'g, 'a> {
    pub(crate) fn new(group: &'g Group<'a>, grams: &Grams) -> Self {
        let rank = group.rank();
        let mut up_scale = group.factors();
        let mut down_scale = vec![0.0; rank];
        for a in 0..rank {
            let up = grams.up[a * rank + a] * up_scale[a] * up_scale[a];
            let down = grams.down[a * rank + a];
            if up > 0.0 && down > 0.0 {
                // A power of two changes no digit of any element.
                let balance = ((up / down).log2() / 4.0).round().exp2();
                down_scale[a] = balance;
                up_scale[a] /= balance;
            } else {
                up_scale[a] = 0.0;
            }
        }
        let scaled = |gram: &[f64], scale: &[f64]| -> Vec<f64> {
            let value = |(x, g): (usize, &f64)| scale[x / rank] * scale[x % rank] * g;
            gram.iter().enumerate().map(value).collect()
        };
        let (up, down) = (scaled(&grams.up, &up_scale), scaled(&grams.down, &down_scale));
        Self { group, up_scale, down_scale, up, down }
    }

    /// R, the sum of the ranks.
    pub(crate) fn rank(&self) -> usize {
        self.group.rank()
    }

    /// Frobenius norm of the delta.
    pub(crate) fn norm(&self) -> f64 {
        let terms = self.up.iter().zip(&self.down).map(|(u, d)| u * d);
        terms.sum::<f64>().max(0.0).sqrt()
    }

    /// Root of the sum of the members' squared norms.
    pub(crate) fn rounding(&self) -> f64 {
        let rank = self.rank();
        let square = |member| {
            let columns = self.group.columns(member);
            let of_column = |a: usize| {
                let block = a * rank + columns.start..a * rank + columns.end;
                let terms = self.up[block.clone()].iter().zip(&self.down[block]);
                terms.map(|(u, d)| u * d).sum::<f64>()
            };
            columns.clone().map(of_column).sum::<f64>()
        };
        (0..self.group.members().len()).map(square).sum::<f64>().max(0.0).sqrt()
    }

    /// True if nothing has to be cut and no direction is redundant.
    pub(crate) fn is_kept_whole(&self, rule: &Rule, largest: usize, up_rank: usize) -> bool {
        let rank = self.rank();
        let cut = rule.energy.is_some() || rule.max_error.is_some() || largest < rank;
        rank > 0 && !cut && up_rank == rank && cholesky::definite(&self.down, rank).is_some()
    }

    /// Writes the stack itself, up times `gain`.
    pub(crate) fn copy(&self, gain: f64, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        let rank = self.rank();
        let up_scale: Vec<f32> = self.up_scale.iter().map(|s| (s * gain) as f32).collect();
        let down_scale: Vec<f32> = self.down_scale.iter().map(|s| *s as f32).collect();
        let mut sink = Sink::new(self.group.rows(), self.group.cols(), rank, dtype, out);
        let mut tile = vec![0f32; TILE * rank];
        for rows in pieces(self.group.rows(), TILE) {
            let tile = &mut tile[..rows.len() * rank];
            up_tile(self.group, rows.clone(), tile)?;
            for row in tile.chunks_exact_mut(rank) {
                row.iter_mut().zip(&up_scale).for_each(|(x, s)| *x *= s);
            }
            sink.up(rows.start, tile)?;
        }
        for cols in pieces(self.group.cols(), TILE) {
            let tile = &mut tile[..cols.len() * rank];
            down_tile(self.group, cols.clone(), tile)?;
            for (row, scale) in tile.chunks_exact_mut(cols.len()).zip(&down_scale) {
                for x in row {
                    *x *= scale;
                }
            }
            sink.down(cols, tile)?;
        }
        Ok(())
    }

    /// Writes `gain * U left` and `right D`, in f64 where f32 would lose digits.
    pub(crate) fn mix(
        &self,
        mixers: &Mixers,
        gain: f64,
        dtype: Dtype,
        out: &mut [u8],
    ) -> Result<()> {
        if self.growth(mixers) <= GROWTH {
            self.write::<f32>(mixers, gain, dtype, out)
        } else {
            self.write::<f64>(mixers, gain, dtype, out)
        }
    }

    /// Largest ratio of the terms of a column to their sum: how far rounding errors grow.
    fn growth(&self, mixers: &Mixers) -> f64 {
        let rank = self.rank();
        let size = |gram: &[f64], a: usize| gram[a * rank + a].max(0.0).sqrt();
        let of_column = |(j, root): (usize, &f64)| {
            let left = |a| mixers.left[(a, j)].abs() * size(&self.up, a);
            let right = |a| mixers.right[(j, a)].abs() * size(&self.down, a);
            (0..rank).map(left).sum::<f64>().max((0..rank).map(right).sum()) / root
        };
        mixers.roots.iter().enumerate().map(of_column).fold(0.0, f64::max)
    }

    fn write<T: Real>(
        &self,
        mixers: &Mixers,
        gain: f64,
        dtype: Dtype,
        out: &mut [u8],
    ) -> Result<()> {
        let (rank, kept) = (self.rank(), mixers.roots.len());
        let left = |a, j| T::from_f64(mixers.left[(a, j)] * self.up_scale[a] * gain);
        let right = |j, a| T::from_f64(mixers.right[(j, a)] * self.down_scale[a]);
        let left = Mat::from_fn(rank, kept, left);
        let right = Mat::from_fn(kept, rank, right);
        let mut sink = Sink::new(self.group.rows(), self.group.cols(), kept, dtype, out);
        let mut tile = vec![T::default(); TILE * rank];
        let mut product = vec![T::default(); TILE * kept];
        let mut values = vec![0f32; TILE * kept];
        let one = T::from_f64(1.0);
        for rows in pieces(self.group.rows(), TILE) {
            let n = rows.len();
            up_tile(self.group, rows.clone(), &mut tile[..n * rank])?;
            let source = MatRef::from_row_major_slice(&tile[..n * rank], n, rank);
            let target = MatMut::from_row_major_slice_mut(&mut product[..n * kept], n, kept);
            matmul(target, Accum::Replace, source, left.as_ref(), one, Par::Seq);
            sink.up(rows.start, to_f32(&product[..n * kept], &mut values))?;
        }
        for cols in pieces(self.group.cols(), TILE) {
            let n = cols.len();
            down_tile(self.group, cols.clone(), &mut tile[..n * rank])?;
            let source = MatRef::from_row_major_slice(&tile[..n * rank], rank, n);
            let target = MatMut::from_row_major_slice_mut(&mut product[..n * kept], kept, n);
            matmul(target, Accum::Replace, right.as_ref(), source, one, Par::Seq);
            sink.down(cols, to_f32(&product[..n * kept], &mut values))?;
        }
        Ok(())
    }
}

fn to_f32<'v, T: Real>(from: &[T], to: &'v mut [f32]) -> &'v [f32] {
    let to = &mut to[..from.len()];
    to.iter_mut().zip(from).for_each(|(t, f)| *t = f.to_f64() as f32);
    to
}
