//! Which entries of dense deltas are selfish, as masks.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use std::ops::Range;

use rayon::prelude::*;

use super::flat_length;
use super::program::Selfish;
use super::selfish::Owners;
use crate::dispatch::{self, Kernel};
use crate::dtype::Matrix;
use crate::{Error, Result, scratch};

/// Entries of a tile, and those of its blocks that stay in L1.
const TILE: usize = 1 << 14;
const BLOCK: usize = 256;

/// Marks with 1 the entries that belong to one delta, with 0 all others.
///
/// An entry `w_i d_i` (in f32) is selfish if it is larger than every other one of its position,
/// and at least `lambda` times as large: the rule of [`super::Selfish`] that is not `published`.
///
/// Every delta is one row of a view; `out` has one row of as many bytes for each.  Cost: a read
/// of every delta, a byte written per entry.
///
/// # Errors
/// [`Error::Shape`] if sizes differ; [`Error::Param`] for a `lambda` below 1, or weighted entries
/// that f32 cannot hold; [`Error::NonFinite`] for a NaN or an infinity.
pub fn owners(deltas: &[Matrix<'_>], weights: &[f64], lambda: f64, out: &mut [u8]) -> Result<()> {
    let len = flat_length(deltas)?;
    if weights.len() != deltas.len() || out.len() != deltas.len() * len {
        return Err(Error::Shape {
            what: "weights and masks",
            expected: format!("{} and {} bytes", deltas.len(), deltas.len() * len),
            got: format!("{} and {} bytes", weights.len(), out.len()),
        });
    }
    if !(lambda >= 1.0 && lambda.is_finite()) {
        let value = lambda.to_string();
        return Err(Error::Param { name: "lambda", value, allowed: "at least 1" });
    }
    let mut tiles: Vec<Vec<&mut [u8]>> = (0..len.div_ceil(TILE)).map(|_| vec![]).collect();
    for masks in out.chunks_exact_mut(len.max(1)) {
        tiles.iter_mut().zip(masks.chunks_mut(TILE)).for_each(|(tile, mask)| tile.push(mask));
    }
    let one = |(index, masks): (usize, Vec<&mut [u8]>)| {
        let width = masks.first().map_or(0, |mask| mask.len());
        let place = index * TILE..index * TILE + width;
        scratch::floats(deltas.len() * width, |values| {
            let bad = fill(deltas, weights, place, values)?;
            dispatch::run(Mark { values, masks, lambda });
            Ok(bad)
        })
    };
    let found: Vec<Option<usize>> =
        tiles.into_par_iter().enumerate().map(one).collect::<Result<_>>()?;
    match found.into_iter().flatten().min() {
        Some(member) if deltas[member].find_non_finite().is_some() => {
            Err(Error::NonFinite { member, side: "dense" })
        }
        Some(member) => Err(Error::Param {
            name: "weight * delta",
            value: format!("{:e} * entries of delta {member}", weights[member]),
            allowed: "at most 3.4e38, which float32 holds",
        }),
        None => Ok(()),
    }
}

/// Weighted entries of all deltas in turn; the first delta that has one that is not finite.
fn fill(
    deltas: &[Matrix<'_>],
    weights: &[f64],
    place: Range<usize>,
    values: &mut [f32],
) -> Result<Option<usize>> {
    let width = place.len();
    let mut bad = None;
    let members = deltas.iter().zip(weights).zip(values.chunks_exact_mut(width.max(1)));
    for (index, ((delta, weight), values)) in members.enumerate() {
        crate::tile::decode(delta, 0..1, place.clone(), values, width)?;
        if !dispatch::run(Weigh { weight: *weight as f32, values }) {
            bad = bad.or(Some(index));
        }
    }
    Ok(bad)
}

/// Multiplies by a weight; false if a product is not finite.
struct Weigh<'v> {
    weight: f32,
    values: &'v mut [f32],
}

impl Kernel for Weigh<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let mut largest = 0u32; // as bits: their order is that of the numbers, NaN above all
        for value in self.values {
            *value *= self.weight;
            largest = largest.max(value.to_bits() & (u32::MAX >> 1));
        }
        largest < f32::INFINITY.to_bits()
    }
}

struct Mark<'v> {
    values: &'v [f32],
    masks: Vec<&'v mut [u8]>,
    lambda: f64,
}

impl Kernel for Mark<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let width = self.values.len() / self.masks.len().max(1);
        let rule = Selfish { lambda: self.lambda, published: false, level: false };
        for start in (0..width).step_by(BLOCK) {
            let place = |i: usize| i * width + start..i * width + width.min(start + BLOCK);
            let member = |i: usize| &self.values[place(i)];
            let owners = Owners::<BLOCK>::new(rule, self.masks.len(), member);
            for (i, mask) in self.masks.iter_mut().enumerate() {
                for (mask, owned) in mask[start..].iter_mut().zip(owners.owned(i)) {
                    *mask = u8::from(owned);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mark;
    use crate::dispatch::{Isa, run_on};

    #[test]
    fn every_instruction_set_marks_what_the_definition_says() {
        let (count, width, lambda) = (3, 613, 2.0f32);
        let small = |x: usize| ((x * x * 37) % 23) as f32 - 11.0;
        let values: Vec<f32> = (0..count * width).map(small).collect();
        let selfish = |i: usize, at: usize| {
            let size = |j: usize| values[j * width + at].abs();
            (0..count).filter(|j| *j != i).all(|j| size(i) > size(j) && size(i) >= lambda * size(j))
        };
        let all = (0..count).flat_map(|i| (0..width).map(move |at| (i, at)));
        let expected: Vec<u8> = all.map(|(i, at)| u8::from(selfish(i, at))).collect();
        assert!(expected.contains(&0) && expected.contains(&1));
        for isa in Isa::ALL {
            let mut masks = vec![7; count * width];
            let rows = masks.chunks_mut(width).collect();
            if run_on(isa, Mark { values: &values, masks: rows, lambda: 2.0 }).is_some() {
                assert_eq!(masks, expected, "{isa:?}");
            }
        }
    }
}
