//! Deltas added to base weights: `W' = round(W + delta)`, and what of the delta survives it.
//!
//! The delta is multiplied out in tiles of whole rows, which stay in L2, and added, rounded, stored and
//! measured in parts of them, which stay in L1: it never exists as a whole, and the base is read from
//! end to end.  What a member has entry by entry is added as it is.  Arithmetic is f32, and f64 where
//! the base is F64; rounding is to nearest, ties to even.
//!
//! Cost for a delta of rank R: `2 R` flops per entry, one read and one write of the base; one
//! decode of the down stack.  Sums run over fixed tiles in a fixed order: no bit of the output
//! depends on the number of threads.

pub mod checksum;

use std::ops::Range;

use rayon::prelude::*;

use crate::dispatch::{self, Kernel};
use crate::dtype::{Dtype, Matrix};
use crate::expand::Product;
use crate::gram::check_finite;
use crate::group::Group;
use crate::sink::put;
use crate::tile::{Real, pieces};
use crate::{Error, Result};

/// Entries of the delta that are made at a time, about: they stay in L2.
const TILE: usize = 1 << 16;
/// Bounds of their rows, which are a power of two: strips begin at multiples of the larger one.
const ROWS: (usize, usize) = (4, 128);
/// Entries that are added and measured at a time: they stay in L1.
const STEP: usize = 1 << 11;
/// Entries that are widened at a time.
const SPAN: usize = 256;
const LANES: usize = 16;

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
    let cols = base.cols().max(1);
    let adding = Adding { base, delta, product: Product::<T>::new(delta.group)?, first };
    let rows = 1 << (TILE / cols).clamp(ROWS.0, ROWS.1).ilog2();
    let tiles = out.par_chunks_mut(rows * cols * base.dtype().size()).enumerate();
    let one = |room: &mut Vec<T>, (index, out): (usize, &mut [u8])| {
        let start = index * rows;
        adding.tile(start..(start + rows).min(base.rows()), room, out)
    };
    let sums: Vec<Survival> = tiles.map_init(Vec::new, one).collect::<Result<_>>()?;
    Ok(sums.into_iter().fold(Survival::default(), Survival::plus))
}

struct Adding<'x, 'g, 'a, T> {
    base: &'x Matrix<'a>,
    delta: &'x Delta<'g, 'a>,
    product: Product<'g, 'a, T>,
    first: usize,
}

impl<T: Number> Adding<'_, '_, '_, T> {
    /// Rows of the base, whose bytes go to `out`; `room` is grown and used again.
    fn tile(&self, rows: Range<usize>, room: &mut Vec<T>, out: &mut [u8]) -> Result<Survival> {
        let (cols, size) = (self.base.cols(), self.base.dtype().size());
        let step = (STEP / cols.max(1)).max(1);
        room.resize((rows.len() + 2 * step) * cols, T::default());
        let (delta, rest) = room.split_at_mut(rows.len() * cols);
        let (weight, stored) = rest.split_at_mut(step * cols);
        self.expand(&rows, delta, weight)?;
        let mut sums = Survival::default();
        let parts = pieces(rows.len(), step).zip(delta.chunks((step * cols).max(1)));
        for ((part, delta), out) in parts.zip(out.chunks_mut((step * cols * size).max(1))) {
            let (weight, stored) = (&mut weight[..delta.len()], &mut stored[..delta.len()]);
            let part = rows.start + part.start..rows.start + part.end;
            T::decode(self.base, part.clone(), 0..cols, weight, cols)?;
            dispatch::run(Plus { weight, delta, sum: stored });
            T::encode(self.base.dtype(), stored, out)?;
            let written = Matrix::new(self.base.dtype(), part.len(), cols, out)?;
            T::decode(&written, 0..part.len(), 0..cols, stored, cols)?;
            sums = sums.plus(dispatch::run(Sums { weight, delta, stored }));
        }
        Ok(sums)
    }

    /// Rows of the delta; `spare` holds a row at least.
    fn expand(&self, rows: &Range<usize>, out: &mut [T], spare: &mut [T]) -> Result<()> {
        let cols = self.base.cols();
        let wanted = self.first + rows.start..self.first + rows.end;
        self.product.fill(wanted.clone(), out)?;
        for whole in &self.delta.whole {
            let factor = T::from_f64(whole.factor);
            let start = wanted.start.max(whole.row_start);
            let end = wanted.end.min(whole.row_start + whole.matrix.rows());
            for row in start..end {
                let (own, values) = (row - whole.row_start, &mut spare[..cols]);
                T::decode(&whole.matrix, own..own + 1, 0..cols, values, cols)?;
                let target = &mut out[(row - wanted.start) * cols..][..cols];
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

struct Plus<'v, T> {
    weight: &'v [T],
    delta: &'v [T],
    sum: &'v mut [T],
}

impl<T: Number> Kernel for Plus<'_, T> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::inline_always)] // or it is not compiled with the vectors of the machine
    fn run(self) {
        for ((sum, weight), delta) in self.sum.iter_mut().zip(self.weight).zip(self.delta) {
            *sum = weight.plus(*delta);
        }
    }
}

struct Sums<'v, T> {
    weight: &'v [T],
    delta: &'v [T],
    stored: &'v [T],
}

impl<T: Number> Kernel for Sums<'_, T> {
    type Output = Survival;

    /// Sums of `LANES` numbers side by side: as accurate as one, and none waits for itself.
    #[inline(always)]
    #[allow(clippy::inline_always)] // as above
    fn run(self) -> Survival {
        let [mut delta, mut moved, mut along, mut gap] = [[0f64; LANES]; 4];
        // In f64 first, then one sum after the other: all at once are not made into vectors.
        let [mut wanted, mut change, mut lost] = [[0f64; SPAN]; 3];
        let parts = self.weight.chunks(SPAN).zip(self.delta.chunks(SPAN));
        for ((weights, deltas), stored) in parts.zip(self.stored.chunks(SPAN)) {
            let n = weights.len();
            let numbers = weights.iter().zip(deltas).zip(stored);
            let places = wanted.iter_mut().zip(&mut change).zip(&mut lost);
            for (((wanted, change), lost), ((weight, delta), stored)) in places.zip(numbers) {
                *wanted = delta.to_f64();
                *change = stored.to_f64() - weight.to_f64();
                *lost = *change - *wanted;
            }
            add_products(&mut delta, &wanted[..n], &wanted[..n]);
            add_products(&mut moved, &change[..n], &change[..n]);
            add_products(&mut along, &change[..n], &wanted[..n]);
            add_products(&mut gap, &lost[..n], &lost[..n]);
        }
        let [delta, moved, along, gap] = [delta, moved, along, gap].map(|lanes| lanes.iter().sum());
        Survival { delta, moved, along, gap }
    }
}

#[inline(always)]
#[allow(clippy::inline_always)] // as above
fn add_products(lanes: &mut [f64; LANES], x: &[f64], y: &[f64]) {
    let ((blocks, x), (others, y)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in blocks.iter().zip(others) {
        lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
    }
    lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
}
