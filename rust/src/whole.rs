//! The result of a program itself, entry by entry, with an account of the members in it.
//!
//! One pass over the f32 result M after the program, tile by tile: bytes of the output type, the
//! square, and M X for the sketch `Z^T M X`.  The inner products `<M, U_i D_i>` are summed while the
//! deltas are at hand; where that is not possible, they are the sum of `(M D_i^T) * U_i`.
//!
//! Cost: one read of M, which is the only dense matrix, and `(rows + cols) R^2` flops for the Gram
//! matrices of the factors; `2 rows cols R` where M is multiplied by `D^T`.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::Result;
use crate::account::{Account, inner};
use crate::condense::{Part, check, check_result, fill};
use crate::dtype::Dtype;
use crate::gram::{factor_grams, is_safe};
use crate::group::{Group, Member};
use crate::passes::square;
use crate::probe::{BUCKETS, add_left, fold, signs};
use crate::rng::Stream;
use crate::scratch::floats;
use crate::sink::put;
use crate::tile::{TILE, down_tile, up_tile};

/// Entries that are encoded and looked at together: they stay in cache.
const BLOCK: usize = 1 << 14;

/// What was made of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    /// Frobenius norm of the result, before it was rounded to the output type.
    pub norm: f64,
    /// Of the members of all parts, one after the other.
    pub account: Account,
    /// See [`crate::probe::sketch`].
    pub sketch: Vec<f64>,
}

/// Writes the result of the programs of all parts, `rows x cols` row-major; zero where no part is.
///
/// `right` and `left` are the streams of the sketch; `scratch` is grown to `rows * cols` and may be
/// used again.
///
/// # Errors
/// Those of [`crate::condense::condense`].
pub fn write(
    parts: &[Part<'_, '_>],
    rows: usize,
    streams: (&Stream, &Stream),
    dtype: Dtype,
    scratch: &mut Vec<f32>,
    out: &mut [u8],
) -> Result<Whole> {
    let cols = parts.first().map_or(0, |part| part.group.cols());
    check(parts, rows, cols, rows * cols * dtype.size(), out.len())?;
    #[allow(clippy::redundant_closure_for_method_calls)] // the method is of one lifetime only
    let (values, along) = fill(parts, rows, cols, scratch, |one, out| one.run_along(out))?;
    encode(parts, along, rows, streams, dtype, values, out)
}

/// The second half of [`write`]: the result of its programs is in `values`, `rows x cols`.
///
/// # Errors
/// Those of [`write`]; [`crate::Error::Overflow`] for values that are not finite.
pub fn store(
    parts: &[Part<'_, '_>],
    rows: usize,
    streams: (&Stream, &Stream),
    dtype: Dtype,
    values: &[f32],
    out: &mut [u8],
) -> Result<Whole> {
    let cols = parts.first().map_or(0, |part| part.group.cols());
    check(parts, rows, cols, rows * cols * dtype.size(), out.len())?;
    check_result(values, rows, cols)?;
    encode(parts, vec![None; parts.len()], rows, streams, dtype, values, out)
}

/// The same of what fits, with the inner products of the parts as far as they are `known`: with
/// the members times their factors.
fn encode(
    parts: &[Part<'_, '_>],
    known: Vec<Option<Vec<f64>>>,
    rows: usize,
    (right, left): (&Stream, &Stream),
    dtype: Dtype,
    values: &[f32],
    out: &mut [u8],
) -> Result<Whole> {
    let (cols, size) = (parts.first().map_or(0, |part| part.group.cols()), dtype.size());
    if parts.iter().map(|part| part.group.rows()).sum::<usize>() < rows {
        out[..rows * cols * size].fill(0); // there are gaps
    }
    let mut account = Account::default();
    let (mut squares, mut sketch) = (0.0, vec![0.0; BUCKETS * BUCKETS]);
    for (part, known) in parts.iter().zip(known) {
        let range = part.row_start * cols..(part.row_start + part.group.rows()) * cols;
        let bytes = &mut out[range.start * size..range.end * size];
        let known = known.and_then(|known| without_factors(part, &known));
        let view = View::new(part, known, (right, left))?;
        let sums = view.encode(&values[range], dtype, bytes)?;
        account = account.beside(view.account(&sums));
        squares += sums.square;
        add(&mut sketch, &sums.sketch);
    }
    Ok(Whole { norm: squares.sqrt(), account, sketch })
}

/// Inner products with the members as they are stored; `None` if a factor is lost in f32.
fn without_factors(part: &Part<'_, '_>, along: &[f64]) -> Option<Vec<f64>> {
    let members = part.group.members().iter().zip(along);
    let one = |(member, along): (&Member<'_>, &f64)| {
        let factor = member.factor as f32;
        factor.is_normal().then(|| along / f64::from(factor))
    };
    members.map(one).collect()
}

/// What the result of a part is looked at with.
struct View<'g, 'a> {
    group: &'g Group<'a>,
    row_start: usize,
    /// The inner products with the members, if they are known.
    known: Option<Vec<f64>>,
    /// Every member's D times a power of two; empty where it is not needed.
    downs: Vec<f32>,
    /// These powers, by column of the stack.
    scales: Vec<f64>,
    gram: Vec<f64>,
    /// Random signs of X, by column.
    signs: Vec<f32>,
    /// The stream of Z.
    left: &'g Stream,
}

/// What is summed over the tiles of a result.
struct Sums {
    square: f64,
    /// `(M D^T) * U`, by column of the stack.
    along: Vec<f64>,
    sketch: Vec<f64>,
}

impl<'g, 'a> View<'g, 'a> {
    fn new(
        part: &Part<'g, 'a>,
        known: Option<Vec<f64>>,
        (right, left): (&Stream, &'g Stream),
    ) -> Result<Self> {
        let (group, row_start, cols) = (part.group, part.row_start, part.group.cols());
        let mut grams = factor_grams::<f32>(group)?;
        if !is_safe(group, &grams) {
            grams = factor_grams::<f64>(group)?;
        }
        let gram = inner(group, &grams);
        let scales = scales(group, &gram, &grams.down);
        let mut downs = Vec::new();
        if known.is_none() {
            downs.resize(group.rank() * cols, 0f32);
            down_tile(group, 0..cols, &mut downs)?;
        }
        for (row, scale) in downs.chunks_exact_mut(cols.max(1)).zip(&scales) {
            for value in row {
                *value = (f64::from(*value) * scale) as f32;
            }
        }
        let signs = signs(right, 0, cols);
        Ok(Self { group, row_start, known, downs, scales, gram, signs, left })
    }

    fn account(self, sums: &Sums) -> Account {
        let of_column = |a: usize| sums.along[a] / self.scales[a];
        let of_member = |i: usize| self.group.columns(i).map(of_column).sum();
        let members = 0..self.group.members().len();
        let along = self.known.unwrap_or_else(|| members.map(of_member).collect());
        Account { gram: self.gram, along }
    }

    /// Writes the entries; tiles in parallel, their sums in order.
    fn encode(&self, values: &[f32], dtype: Dtype, out: &mut [u8]) -> Result<Sums> {
        let step = (TILE * self.group.cols()).max(1);
        let tiles = values.par_chunks(step).zip(out.par_chunks_mut(step * dtype.size()));
        let one = |(index, (values, out)): (usize, (&[f32], &mut [u8]))| {
            let mut sums = self.encode_rows(index * TILE, values, dtype, out)?;
            if self.known.is_none() {
                self.add_along(index * TILE, values, &mut sums.along)?;
            }
            Ok(sums)
        };
        let found: Vec<Sums> = tiles.enumerate().map(one).collect::<Result<_>>()?;
        let mut all = Sums::new(self.group.rank());
        for sums in found {
            all.square += sums.square;
            add(&mut all.along, &sums.along);
            add(&mut all.sketch, &sums.sketch);
        }
        Ok(all)
    }

    /// Writes some rows of the part, from `first` on; sums without the inner products.
    fn encode_rows(
        &self,
        first: usize,
        values: &[f32],
        dtype: Dtype,
        out: &mut [u8],
    ) -> Result<Sums> {
        let mut sums = Sums::new(self.group.rank());
        let cols = self.group.cols();
        let step = (BLOCK / cols).max(1) * cols;
        let blocks = values.chunks(step).zip(out.chunks_mut(step * dtype.size()));
        let mut first = self.row_start + first;
        for (values, out) in blocks {
            put(dtype, values, out)?;
            sums.square += square(values);
            let folded = fold(values, &self.signs);
            add_left(&mut sums.sketch, &folded, self.left, first);
            first += values.len() / cols;
        }
        Ok(sums)
    }

    /// Adds `(M D^T) * U` over some rows of the part, from `first` on.
    fn add_along(&self, first: usize, values: &[f32], sums: &mut [f64]) -> Result<()> {
        let (cols, rank) = (self.group.cols(), self.group.rank());
        let n = values.len() / cols;
        floats(2 * n * rank, |scratch| {
            let (product, up) = scratch.split_at_mut(n * rank);
            up_tile(self.group, first..first + n, up)?;
            let tile = MatRef::from_row_major_slice(values, n, cols);
            let downs = MatRef::from_row_major_slice(&self.downs, rank, cols).transpose();
            let target = MatMut::from_row_major_slice_mut(product, n, rank);
            matmul(target, Accum::Replace, tile, downs, 1.0, Par::Seq);
            let rows = product.chunks_exact(rank.max(1)).zip(up.chunks_exact(rank.max(1)));
            for (along, up) in rows {
                for ((sum, x), y) in sums.iter_mut().zip(along).zip(up) {
                    *sum += f64::from(*x) * f64::from(*y);
                }
            }
            Ok(())
        })
    }
}

impl Sums {
    fn new(rank: usize) -> Self {
        Self { square: 0.0, along: vec![0.0; rank], sketch: vec![0.0; BUCKETS * BUCKETS] }
    }
}

/// Powers of two, by column of the stack, that bring the products of D and a result of the size
/// that its members let expect near one: no f32 product overflows or vanishes.
fn scales(group: &Group<'_>, gram: &[f64], down: &[f64]) -> Vec<f64> {
    let (n, rank) = (group.members().len(), group.rank());
    let size = |i: usize| group.members()[i].factor.abs() * gram[i * n + i].sqrt();
    let largest = (0..n).map(size).fold(0.0, f64::max);
    let wanted = -largest.log2().round().clamp(-100.0, 100.0); // inside f32 with the other side
    let of_member = |i: usize| {
        let norm = group.columns(i).map(|a| down[a * rank + a]).sum::<f64>().sqrt();
        let scale = (wanted - norm.log2().round()).exp2();
        std::iter::repeat_n(if scale.is_normal() { scale } else { 1.0 }, group.columns(i).len())
    };
    (0..n).flat_map(of_member).collect()
}

fn add(sum: &mut [f64], other: &[f64]) {
    sum.iter_mut().zip(other).for_each(|(s, o)| *s += o);
}
