//! Deltas added to base weights: `W' = round(W + delta)`, and what of the delta survives it.
//!
//! The delta is multiplied out, added, rounded, stored and measured in tiles of 128 rows by 512
//! columns, which stay in cache: it never exists as a whole.  What a member has entry by entry is
//! added as it is.  Arithmetic is f32, and f64 where the base is F64; rounding is to nearest, ties
//! to even.
//!
//! Cost for a delta of rank R: `2 R` flops per entry, one read and one write of the base; one
//! decode of the down stack.  Sums run over fixed tiles in a fixed order: no bit of the output
//! depends on the number of threads.

pub mod checksum;

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::dispatch::{self, Kernel};
use crate::dtype::{Dtype, Matrix};
use crate::gram::check_finite;
use crate::group::Group;
use crate::sink::put;
use crate::tile::{Real, down_tile, pieces, up_tile};
use crate::{Error, Result};

const ROWS: usize = 128;
const COLS: usize = 512;
const LANES: usize = 8;

/// A member that is given entry by entry: `factor * matrix` in some rows of the delta.
#[derive(Clone, Copy)]
pub struct Whole<'a> {
    /// As many columns as the delta.
    pub matrix: Matrix<'a>,
    /// Scale of the adapter, times the coefficient a method gave it.
    pub factor: f64,
    /// First row of the delta that it covers.
    pub row_start: usize,
}

/// The sum of what is low-rank and what is not.
pub struct Delta<'g, 'a> {
    /// Low-rank members, perhaps none.
    pub group: &'g Group<'a>,
    /// The others, perhaps none.
    pub whole: Vec<Whole<'a>>,
}

/// Sums over the entries of a weight, with `moved = W' - W` as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Survival {
    /// `|delta|^2`.
    pub delta: f64,
    /// `|moved|^2`.
    pub moved: f64,
    /// `<moved, delta>`.
    pub along: f64,
    /// `|moved - delta|^2`: what the rounding took.
    pub gap: f64,
}

impl Survival {
    fn plus(self, other: Self) -> Self {
        Self {
            delta: self.delta + other.delta,
            moved: self.moved + other.moved,
            along: self.along + other.along,
            gap: self.gap + other.gap,
        }
    }
}

/// Adds rows `first..first + base.rows()` of a delta to a base and stores the sum in its type.
///
/// # Errors
/// [`Error::Shape`] for what does not fit; [`Error::NonFinite`] for a NaN or an infinity in the
/// factors (sides `up` and `down`), in what is given entry by entry (`dense`, by its position
/// there) or in the base (`base`); [`Error::Overflow`] if the type of the base is too small.
pub fn add(
    base: &Matrix<'_>,
    delta: &Delta<'_, '_>,
    first: usize,
    out: &mut [u8],
) -> Result<Survival> {
    check(base, delta, first, out.len())?;
    let done = match base.dtype() {
        Dtype::F64 => tiles::<f64>(base, delta, first, out),
        _ => tiles::<f32>(base, delta, first, out),
    };
    match done {
        Ok(sums) if sums.delta.is_finite() => Ok(sums),
        _ => Err(blame(base, delta)),
    }
}

fn check(base: &Matrix<'_>, delta: &Delta<'_, '_>, first: usize, room: usize) -> Result<()> {
    let (rows, cols) = (delta.group.rows(), delta.group.cols());
    let inside = first.checked_add(base.rows()).is_some_and(|end| end <= rows);
    let fits = |w: &Whole<'_>| {
        let end = w.row_start.checked_add(w.matrix.rows());
        w.matrix.cols() == cols && w.factor.is_finite() && end.is_some_and(|end| end <= rows)
    };
    if inside && base.cols() == cols && room == base.bytes().len() && delta.whole.iter().all(fits) {
        return Ok(());
    }
    Err(Error::Shape {
        what: "base, delta and output",
        expected: format!("rows of {rows} x {cols} and {} bytes", base.bytes().len()),
        got: format!("{} x {} from row {first}, {room} bytes", base.rows(), base.cols()),
    })
}

/// What was not finite, if not the sum.
fn blame(base: &Matrix<'_>, delta: &Delta<'_, '_>) -> Error {
    if let Err(error) = check_finite(delta.group) {
        return error;
    }
    if let Some(member) = delta.whole.iter().position(|w| w.matrix.find_non_finite().is_some()) {
        return Error::NonFinite { member, side: "dense" };
    }
    if base.find_non_finite().is_some() {
        return Error::NonFinite { member: 0, side: "base" };
    }
    Error::Overflow { value: f32::INFINITY, dtype: base.dtype().name() }
}

fn tiles<T: Number>(
    base: &Matrix<'_>,
    delta: &Delta<'_, '_>,
    first: usize,
    out: &mut [u8],
) -> Result<Survival> {
    let (cols, rank) = (base.cols(), delta.group.rank());
    let mut down = vec![T::default(); rank * cols];
    down_tile(delta.group, 0..cols, &mut down)?;
    let adding = Adding { base, delta, first, down: &down };
    let chunks = out.par_chunks_mut((ROWS * cols * base.dtype().size()).max(1)).enumerate();
    let one = |(index, out): (usize, &mut [u8])| {
        let start = index * ROWS;
        adding.rows(start..(start + ROWS).min(base.rows()), out)
    };
    let sums: Vec<Survival> = chunks.map(one).collect::<Result<_>>()?;
    Ok(sums.into_iter().fold(Survival::default(), Survival::plus))
}

struct Adding<'x, 'g, 'a, T> {
    base: &'x Matrix<'a>,
    delta: &'x Delta<'g, 'a>,
    first: usize,
    down: &'x [T],
}

impl<T: Number> Adding<'_, '_, '_, T> {
    /// Rows of the base, whose bytes go to `out`.
    fn rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<Survival> {
        let (n, cols, rank) = (rows.len(), self.base.cols(), self.delta.group.rank());
        let (dtype, size) = (self.base.dtype(), self.base.dtype().size());
        let mut up = vec![T::default(); n * rank];
        up_tile(self.delta.group, self.first + rows.start..self.first + rows.end, &mut up)?;
        let factors = self.delta.group.factors();
        for row in up.chunks_exact_mut(rank.max(1)) {
            row.iter_mut().zip(&factors).for_each(|(x, f)| *x = T::from_f64(x.to_f64() * f));
        }
        let mut tile = vec![T::default(); 3 * n * COLS.min(cols)];
        let mut sums = Survival::default();
        for part in pieces(cols, COLS) {
            let width = part.len();
            let (moved, rest) = tile.split_at_mut(n * width);
            let (weight, rest) = rest.split_at_mut(n * width);
            let stored = &mut rest[..n * width];
            self.expand(&rows, &part, &up, moved, stored)?;
            T::decode(self.base, rows.clone(), part.clone(), weight, width)?;
            for ((stored, weight), delta) in stored.iter_mut().zip(&*weight).zip(&*moved) {
                *stored = weight.plus(*delta);
            }
            for (row, values) in stored.chunks_exact(width).enumerate() {
                let at = (row * cols + part.start) * size;
                T::encode(dtype, values, &mut out[at..at + width * size])?;
            }
            let written = Matrix::new(dtype, n, cols, out)?;
            T::decode(&written, 0..n, part, stored, width)?;
            let delta = &*moved;
            sums = sums.plus(dispatch::run(Sums { weight, delta, stored }));
        }
        Ok(sums)
    }

    /// The delta of a tile; `spare` is as large.
    fn expand(
        &self,
        rows: &Range<usize>,
        part: &Range<usize>,
        up: &[T],
        out: &mut [T],
        spare: &mut [T],
    ) -> Result<()> {
        let (n, rank) = (rows.len(), self.delta.group.rank());
        if rank == 0 {
            out.fill(T::default());
        } else {
            let up = MatRef::from_row_major_slice(up, n, rank);
            let down = MatRef::from_row_major_slice(self.down, rank, self.base.cols());
            let down = down.subcols(part.start, part.len());
            let target = MatMut::from_row_major_slice_mut(&mut *out, n, part.len());
            matmul(target, Accum::Replace, up, down, T::from_f64(1.0), Par::Seq);
        }
        for whole in &self.delta.whole {
            let wanted = self.first + rows.start..self.first + rows.end;
            let start = wanted.start.max(whole.row_start);
            let end = wanted.end.min(whole.row_start + whole.matrix.rows());
            if start < end {
                let own = start - whole.row_start..end - whole.row_start;
                let values = &mut spare[..own.len() * part.len()];
                T::decode(&whole.matrix, own, part.clone(), values, part.len())?;
                let factor = T::from_f64(whole.factor);
                let target = &mut out[(start - wanted.start) * part.len()..][..values.len()];
                target.iter_mut().zip(values).for_each(|(t, v)| *t = t.plus(v.times(factor)));
            }
        }
        Ok(())
    }
}

/// What the arithmetic runs in.
trait Number: Real {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn encode(dtype: Dtype, values: &[Self], out: &mut [u8]) -> Result<()>;
}

impl Number for f32 {
    #[inline]
    fn plus(self, other: Self) -> Self {
        self + other
    }
    #[inline]
    fn times(self, other: Self) -> Self {
        self * other
    }
    fn encode(dtype: Dtype, values: &[Self], out: &mut [u8]) -> Result<()> {
        put(dtype, values, out)
    }
}

impl Number for f64 {
    #[inline]
    fn plus(self, other: Self) -> Self {
        self + other
    }
    #[inline]
    fn times(self, other: Self) -> Self {
        self * other
    }
    fn encode(dtype: Dtype, values: &[Self], out: &mut [u8]) -> Result<()> {
        for (slot, value) in out.as_chunks_mut::<8>().0.iter_mut().zip(values) {
            if !value.is_finite() {
                return Err(Error::Overflow { value: f32::INFINITY, dtype: dtype.name() });
            }
            *slot = value.to_le_bytes();
        }
        Ok(())
    }
}

struct Sums<'v, T> {
    weight: &'v [T],
    delta: &'v [T],
    stored: &'v [T],
}

impl<T: Number> Kernel for Sums<'_, T> {
    type Output = Survival;

    /// Eight sums side by side for each number: as accurate as one, and none waits for itself.
    #[inline(always)]
    #[allow(clippy::inline_always)] // or it is not compiled with the vectors of the machine
    fn run(self) -> Survival {
        let mut lanes = [[0f64; LANES]; 4];
        let mut add = |at: usize, w: T, d: T, s: T| {
            let (moved, delta) = (s.to_f64() - w.to_f64(), d.to_f64());
            lanes[0][at] += delta * delta;
            lanes[1][at] += moved * moved;
            lanes[2][at] += moved * delta;
            lanes[3][at] += (moved - delta) * (moved - delta);
        };
        let (weights, rest) = self.weight.as_chunks::<LANES>();
        let blocks = weights.iter().zip(self.delta.as_chunks::<LANES>().0);
        for ((w, d), s) in blocks.zip(self.stored.as_chunks::<LANES>().0) {
            for at in 0..LANES {
                add(at, w[at], d[at], s[at]);
            }
        }
        let tail = self.weight.len() - rest.len();
        for (at, w) in rest.iter().enumerate() {
            add(at, *w, self.delta[tail + at], self.stored[tail + at]);
        }
        let [delta, moved, along, gap] = lanes.map(|lane| lane.iter().sum());
        Survival { delta, moved, along, gap }
    }
}
