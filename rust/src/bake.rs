//! Deltas added to base weights: `W' = round(W + delta)`, and what of the delta survives it.
//!
//! The delta is multiplied out in tiles of whole rows, which stay in L2, and added, rounded, stored and
//! measured in one pass: it never exists as a whole, and the base is read from end to end.  What a
//! member has entry by entry is added as it is.  Arithmetic is f32, and f64 where the base is F64;
//! rounding is to nearest, ties to even.
//!
//! Cost for a delta of rank R: `2 R` flops per entry, one read and one write of the base; one
//! decode of the down stack.  Sums run over fixed tiles in a fixed order: no bit of the output
//! depends on the number of threads.

pub mod checksum;
mod rounding;

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use self::rounding::{Add, Number};
use crate::dispatch;
use crate::dtype::codec::{Bf16, Codec, F8E4m3, F8E5m2, F16, F32, F64};
use crate::dtype::{Dtype, Matrix};
use crate::expand::Product;
use crate::gram::check_finite;
use crate::group::Group;
use crate::{Error, Result};

/// Entries of the delta that are made at a time, about: they stay in L2.
const TILE: usize = 1 << 16;
/// Bounds of their rows, which are a power of two: strips begin at multiples of the larger one.
const ROWS: (usize, usize) = (4, 128);

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
}

impl Survival {
    fn plus(self, other: Self) -> Self {
        Self {
            delta: self.delta + other.delta,
            moved: self.moved + other.moved,
            along: self.along + other.along,
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
        Dtype::F64 => tiles::<F64, 8>(base, delta, first, out),
        Dtype::F32 => tiles::<F32, 4>(base, delta, first, out),
        Dtype::F16 => tiles::<F16, 2>(base, delta, first, out),
        Dtype::Bf16 => tiles::<Bf16, 2>(base, delta, first, out),
        Dtype::F8E4m3 => tiles::<F8E4m3, 1>(base, delta, first, out),
        Dtype::F8E5m2 => tiles::<F8E5m2, 1>(base, delta, first, out),
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

fn tiles<C: Codec<N, Number: Number>, const N: usize>(
    base: &Matrix<'_>,
    delta: &Delta<'_, '_>,
    first: usize,
    out: &mut [u8],
) -> Result<Survival> {
    let cols = base.cols().max(1);
    let adding = Adding { base, delta, product: Product::new(delta.group)?, first };
    let rows = 1 << (TILE / cols).clamp(ROWS.0, ROWS.1).ilog2();
    let tiles = out.par_chunks_mut(rows * cols * N).enumerate();
    let one = |room: &mut Vec<C::Number>, (index, out): (usize, &mut [u8])| {
        let start = index * rows;
        adding.tile::<C, N>(start..(start + rows).min(base.rows()), room, out)
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
    fn tile<C: Codec<N, Number = T>, const N: usize>(
        &self,
        rows: Range<usize>,
        room: &mut Vec<T>,
        out: &mut [u8],
    ) -> Result<Survival> {
        let (cols, dtype) = (self.base.cols(), self.base.dtype());
        room.resize((rows.len() + 1) * cols, T::default());
        let (delta, spare) = room.split_at_mut(rows.len() * cols);
        self.expand(&rows, delta, spare)?;
        let base = &self.base.bytes()[rows.start * cols * N..rows.end * cols * N];
        let (base, out) = (base.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
        let (sums, peak) = dispatch::run(Add { base, delta, out, codec: PhantomData::<C> });
        if peak >= C::LIMIT {
            return Err(Error::Overflow { value: f32::INFINITY, dtype: dtype.name() });
        }
        Ok(sums)
    }

    /// Rows of the delta; `spare` holds a row.
    fn expand(&self, rows: &Range<usize>, out: &mut [T], spare: &mut [T]) -> Result<()> {
        let cols = self.base.cols();
        let wanted = self.first + rows.start..self.first + rows.end;
        self.product.fill(wanted.clone(), out)?;
        for whole in &self.delta.whole {
            let factor = T::from_f64(whole.factor);
            let start = wanted.start.max(whole.row_start);
            let end = wanted.end.min(whole.row_start + whole.matrix.rows());
            for row in start..end {
                let own = row - whole.row_start;
                T::decode(&whole.matrix, own..own + 1, 0..cols, spare, cols)?;
                let target = &mut out[(row - wanted.start) * cols..][..cols];
                target.iter_mut().zip(&*spare).for_each(|(t, v)| *t += *v * factor);
            }
        }
        Ok(())
    }
}
