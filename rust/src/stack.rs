//! The balanced stack of a group, and the writing of factors made from it.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::Result;
use crate::cholesky;
use crate::dtype::Dtype;
use crate::gram::Grams;
use crate::group::Group;
use crate::recompress::{Mixing, Rule};
use crate::sink::Sink;
use crate::spectrum::Mixers;
use crate::tile::{Real, TILE, down_tile, pieces, up_tile};

/// Growth of rounding errors in `U P` above which the product runs in f64.
pub(crate) const GROWTH: f64 = 64.0;

/// Ratio of squares, of the terms of a mixed column to their sum, up to which Gram matrices of f32
/// products stay good to 2e-6 after mixing.
const MIXED: f64 = 16.0;

/// What was meant: `[U_1 | ...] left right [D_1; ...]` of the factors as they are stored.
pub(crate) struct Meant {
    /// `R x k`.
    pub(crate) left: Mat<f64>,
    /// `k x R`.
    pub(crate) right: Mat<f64>,
}

impl Meant {
    /// A delta of zero.
    pub(crate) fn zero(rank: usize) -> Self {
        Self { left: Mat::zeros(rank, 0), right: Mat::zeros(0, rank) }
    }
}

/// A stack, mixed or as it is, with its columns scaled so that `|U_a|` is about `|D_a|`, and its
/// Gram matrices.
pub(crate) struct Stack<'g, 'a> {
    group: &'g Group<'a>,
    /// Those of the stored stack.
    grams: &'g Grams,
    /// With the members' factors in `up`.
    mixing: Option<Mixing>,
    /// What multiplies column a of the up stack: balance, and the factor where nothing is mixed.
    up_scale: Vec<f64>,
    /// What multiplies row a of the down stack: a power of two.
    down_scale: Vec<f64>,
    /// `U^T U` of the balanced stack, column-major.
    pub(crate) up: Vec<f64>,
    /// `D D^T` of the balanced stack, column-major.
    pub(crate) down: Vec<f64>,
    rounding: f64,
}

impl<'g, 'a> Stack<'g, 'a> {
    pub(crate) fn new(group: &'g Group<'a>, grams: &'g Grams) -> Self {
        let mut stack = Self::balanced(group, grams, &grams.up, &grams.down, group.factors());
        stack.rounding = stack.members_norm();
        stack
    }

    /// The stack after `mixing`.
    pub(crate) fn mixed(group: &'g Group<'a>, grams: &'g Grams, mixing: &Mixing) -> Self {
        let (rank, p) = (group.rank(), mixing.size());
        let factors = group.factors();
        let down = mixing.down.clone();
        let up = Mat::from_fn(rank, p, |a, j| factors[a] * mixing.up[(a, j)]);
        let stored_up = MatRef::from_column_major_slice(&grams.up, rank, rank);
        let stored_down = MatRef::from_column_major_slice(&grams.down, rank, rank);
        let up_gram = flat(&(up.transpose() * (stored_up * &up)));
        let down_gram = flat(&(&down * (stored_down * down.transpose())));
        let mut stack = Self::balanced(group, grams, &up_gram, &down_gram, vec![1.0; p]);
        stack.rounding = terms_norm(group, grams, &(&up * &down));
        stack.mixing = Some(Mixing { up, down });
        stack
    }

    /// Balances Gram matrices; `up_scale` is what the up side is multiplied by anyway.
    fn balanced(
        group: &'g Group<'a>,
        grams: &'g Grams,
        up_gram: &[f64],
        down_gram: &[f64],
        mut up_scale: Vec<f64>,
    ) -> Self {
        let size = up_scale.len();
        let mut down_scale = vec![0.0; size];
        for a in 0..size {
            let up = up_gram[a * size + a] * up_scale[a] * up_scale[a];
            let down = down_gram[a * size + a];
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
            let value = |(x, g): (usize, &f64)| scale[x / size] * scale[x % size] * g;
            gram.iter().enumerate().map(value).collect()
        };
        let (up, down) = (scaled(up_gram, &up_scale), scaled(down_gram, &down_scale));
        Self { group, grams, mixing: None, up_scale, down_scale, up, down, rounding: 0.0 }
    }

    pub(crate) fn group(&self) -> &'g Group<'a> {
        self.group
    }

    /// Columns of the stack: R, or p of a mixed one.
    pub(crate) fn size(&self) -> usize {
        self.up_scale.len()
    }

    /// No delta of this stack has a larger rank.
    pub(crate) fn bound(&self) -> usize {
        self.size().min(self.group.rank()).min(self.group.rows()).min(self.group.cols())
    }

    /// What multiplies column a of the up stack of the members' factors, and row a of the down
    /// stack, in a stack that is not mixed.
    pub(crate) fn scales(&self) -> (&[f64], &[f64]) {
        (&self.up_scale, &self.down_scale)
    }

    /// Frobenius norm of the delta.
    pub(crate) fn norm(&self) -> f64 {
        root(self.up.iter().zip(&self.down).map(|(u, d)| u * d))
    }

    /// Norm that rounding errors are relative to: root of the sum of the squared norms of the
    /// members, or of the terms `U_i A_i B_j D_j` of a mixed stack.
    pub(crate) fn rounding(&self) -> f64 {
        self.rounding
    }

    fn members_norm(&self) -> f64 {
        let rank = self.size();
        let square = |member| {
            let columns = self.group.columns(member);
            let of_column = |a: usize| {
                let block = a * rank + columns.start..a * rank + columns.end;
                let terms = self.up[block.clone()].iter().zip(&self.down[block]);
                terms.map(|(u, d)| u * d).sum::<f64>()
            };
            columns.clone().map(of_column).sum::<f64>()
        };
        root((0..self.group.members().len()).map(square))
    }

    /// Whether Gram matrices of f32 products survive the mixing: their errors are random, so they
    /// add up like the squares of the terms.
    pub(crate) fn is_mild(&self) -> bool {
        let Some(Mixing { up, down }) = &self.mixing else {
            return true;
        };
        let (rank, size) = (self.group.rank(), self.size());
        let terms = |entry: &dyn Fn(usize) -> f64, gram: &[f64]| {
            (0..rank).map(|a| entry(a).powi(2) * gram[a * rank + a]).sum::<f64>()
        };
        (0..size).all(|j| {
            let (up_scale, down_scale) = (self.up_scale[j], self.down_scale[j]);
            let of_up = terms(&|a| up_scale * up[(a, j)], &self.grams.up);
            let of_down = terms(&|a| down_scale * down[(j, a)], &self.grams.down);
            let own = j * size + j;
            of_up <= MIXED * self.up[own] && of_down <= MIXED * self.down[own]
        })
    }

    /// True if nothing has to be cut and no direction is redundant.
    pub(crate) fn is_kept_whole(&self, rule: &Rule, largest: usize, up_rank: usize) -> bool {
        let size = self.size();
        let cut = rule.energy.is_some() || rule.max_error.is_some() || largest < size;
        size > 0 && !cut && up_rank == size && cholesky::definite(&self.down, size).is_some()
    }

    /// Writes all of the stack, up times `gain`; digit for digit if nothing is mixed.
    pub(crate) fn keep(&self, gain: f64, dtype: Dtype, out: &mut [u8]) -> Result<Meant> {
        let size = self.size();
        let one = Mat::from_fn(size, size, |i, j| if i == j { 1.0 } else { 0.0 });
        let norm = |j: usize| self.up[j * size + j].min(self.down[j * size + j]).sqrt();
        let roots = (0..size).map(norm).collect();
        let mixers = Mixers { left: one.clone(), right: one, roots };
        if self.mixing.is_some() {
            return self.mix(&mixers, gain, dtype, out);
        }
        self.copy(gain, dtype, out)?;
        Ok(self.meant(&mixers))
    }

    fn copy(&self, gain: f64, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        let rank = self.group.rank();
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
    ) -> Result<Meant> {
        let meant = self.meant(mixers);
        if self.growth(&meant, &mixers.roots) <= GROWTH {
            self.write::<f32>(&meant, gain, dtype, out)?;
        } else {
            self.write::<f64>(&meant, gain, dtype, out)?;
        }
        Ok(meant)
    }

    /// What mixers of the balanced stack make of the stored one.
    fn meant(&self, mixers: &Mixers) -> Meant {
        let (size, kept) = (self.size(), mixers.roots.len());
        let left = Mat::from_fn(size, kept, |a, j| self.up_scale[a] * mixers.left[(a, j)]);
        let right = Mat::from_fn(kept, size, |j, a| self.down_scale[a] * mixers.right[(j, a)]);
        match &self.mixing {
            Some(mixing) => Meant { left: &mixing.up * left, right: right * &mixing.down },
            None => Meant { left, right },
        }
    }

    /// Largest ratio of the terms of a column to their sum: how far rounding errors grow.
    fn growth(&self, meant: &Meant, roots: &[f64]) -> f64 {
        let rank = self.group.rank();
        let sizes = |gram: &[f64]| -> Vec<f64> {
            (0..rank).map(|a| gram[a * rank + a].max(0.0).sqrt()).collect()
        };
        let (up, down) = (sizes(&self.grams.up), sizes(&self.grams.down));
        let of_column = |(j, root): (usize, &f64)| {
            let left = |a: usize| meant.left[(a, j)].abs() * up[a];
            let right = |a: usize| meant.right[(j, a)].abs() * down[a];
            (0..rank).map(left).sum::<f64>().max((0..rank).map(right).sum()) / root
        };
        roots.iter().enumerate().map(of_column).fold(0.0, f64::max)
    }

    fn write<T: Real>(&self, meant: &Meant, gain: f64, dtype: Dtype, out: &mut [u8]) -> Result<()> {
        let kept = meant.left.ncols();
        let mut sink = Sink::new(self.group.rows(), self.group.cols(), kept, dtype, out);
        self.write_up::<T>(&meant.left, gain, &mut sink)?;
        self.write_down::<T>(&meant.right, &mut sink)
    }

    /// `gain * [U_1 | ...] left` of the stored factors.
    pub(crate) fn write_up<T: Real>(
        &self,
        left: &Mat<f64>,
        gain: f64,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let (rank, kept) = (self.group.rank(), left.ncols());
        let left = Mat::from_fn(rank, kept, |a, j| T::from_f64(left[(a, j)] * gain));
        let mut buffers = Buffers::<T>::new(rank, kept);
        for rows in pieces(self.group.rows(), TILE) {
            let n = rows.len();
            let (tile, product, values) = buffers.parts(n);
            up_tile(self.group, rows.clone(), tile)?;
            let source = MatRef::from_row_major_slice(tile, n, rank);
            let target = MatMut::from_row_major_slice_mut(product, n, kept);
            matmul(target, Accum::Replace, source, left.as_ref(), T::from_f64(1.0), Par::Seq);
            sink.up(rows.start, to_f32(product, values))?;
        }
        Ok(())
    }

    /// `right [D_1; ...]` of the stored factors.
    pub(crate) fn write_down<T: Real>(&self, right: &Mat<f64>, sink: &mut Sink<'_>) -> Result<()> {
        let (rank, kept) = (self.group.rank(), right.nrows());
        let right = Mat::from_fn(kept, rank, |j, a| T::from_f64(right[(j, a)]));
        let mut buffers = Buffers::<T>::new(rank, kept);
        for cols in pieces(self.group.cols(), TILE) {
            let n = cols.len();
            let (tile, product, values) = buffers.parts(n);
            down_tile(self.group, cols.clone(), tile)?;
            let source = MatRef::from_row_major_slice(tile, rank, n);
            let target = MatMut::from_row_major_slice_mut(product, kept, n);
            matmul(target, Accum::Replace, right.as_ref(), source, T::from_f64(1.0), Par::Seq);
            sink.down(cols, to_f32(product, values))?;
        }
        Ok(())
    }
}

/// A tile of a stack, what becomes of it, and that in f32.
struct Buffers<T> {
    tile: Vec<T>,
    product: Vec<T>,
    values: Vec<f32>,
}

impl<T: Real> Buffers<T> {
    fn new(rank: usize, kept: usize) -> Self {
        let (tile, product) = (vec![T::default(); TILE * rank], vec![T::default(); TILE * kept]);
        Self { tile, product, values: vec![0.0; TILE * kept] }
    }

    /// The parts that `n` rows or columns need.
    fn parts(&mut self, n: usize) -> (&mut [T], &mut [T], &mut [f32]) {
        let part = |len: usize| len / TILE * n;
        let (tile, product) = (part(self.tile.len()), part(self.product.len()));
        (&mut self.tile[..tile], &mut self.product[..product], &mut self.values[..product])
    }
}

fn to_f32<'v, T: Real>(from: &[T], to: &'v mut [f32]) -> &'v [f32] {
    to.iter_mut().zip(from).for_each(|(t, f)| *t = f.to_f64() as f32);
    to
}

/// Root of the sum of the squared norms of the terms `U_i C_ij D_j`, C being `R x R`.
fn terms_norm(group: &Group<'_>, grams: &Grams, turn: &Mat<f64>) -> f64 {
    let rank = group.rank();
    let mut member = vec![0; rank];
    for index in 0..group.members().len() {
        member[group.columns(index)].fill(index);
    }
    let own = |gram: &[f64]| {
        let entry =
            |a: usize, b: usize| if member[a] == member[b] { gram[b * rank + a] } else { 0.0 };
        Mat::from_fn(rank, rank, entry)
    };
    let (left, right) = (own(&grams.up) * turn, turn * own(&grams.down));
    let column = |b: usize| (0..rank).map(|a| left[(a, b)] * right[(a, b)]).sum::<f64>();
    root((0..rank).map(column))
}

/// Root of a sum that is not below zero but for rounding; what is no number stays none.
fn root(terms: impl Iterator<Item = f64>) -> f64 {
    let sum: f64 = terms.sum();
    if sum <= 0.0 { 0.0 } else { sum.sqrt() }
}

/// Column-major entries.
fn flat(matrix: &Mat<f64>) -> Vec<f64> {
    (0..matrix.ncols()).flat_map(|j| matrix.col_as_slice(j)).copied().collect()
}
