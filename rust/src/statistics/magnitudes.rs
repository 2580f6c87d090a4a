//! How the magnitudes of a block are distributed.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use super::block::{Block, Lines, words};
use super::pairs::MAGNITUDE;
use crate::Result;
use crate::dispatch::{self, Kernel};

/// Order statistics that are kept, and draws that they are of.
pub const ORDERS: usize = 64;
const DRAWS: usize = 1000;
/// Share of the energy that `density` holds.
const ENERGY: f64 = 0.95;
/// Entries that are sorted where the last of the largest is looked for.
const FEW: u64 = 512;
/// Shares of the energy of the draws that the bracket begins with, around [`ENERGY`].
const AROUND: [f64; 2] = [0.96, 0.94];
/// Lanes of a sum, and entries that are summed in f32.
const LANES: usize = 16;
const RUN: usize = 64 * LANES;

/// Magnitudes of one delta.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Magnitudes {
    /// Smallest share of the entries that holds 95 % of the energy; 0 for a delta of zeros.
    pub density: f64,
    /// [`ORDERS`] rising order statistics of 1000 draws; of all entries, if there are no more.
    pub orders: Vec<f64>,
}

/// Places in a block, cell after cell, of draws with replacement: draw i is entry
/// `floor(word(i) size / 2^32)` of the block, its rows and columns in the order of the delta, with
/// word i of the stream of adapter 2; see [`super::block`].
pub(super) fn draws(block: &Block, key: u64) -> Result<Vec<usize>> {
    let (rows, cols) = (block.rows.len(), block.cols.len());
    let size = rows * cols;
    if size <= DRAWS {
        return Ok((0..size).collect());
    }
    let place = |word: u32| {
        let at = ((u64::from(word) * size as u64) >> 32) as usize;
        let ((row_cluster, i), (panel, j)) = (Lines::place(at / cols), Lines::place(at % cols));
        let panel = block.cols.cluster(panel);
        panel.start * rows + (block.rows.cluster(row_cluster).start + i) * panel.len() + j
    };
    Ok(words(key, 2, DRAWS)?.into_iter().map(place).collect())
}

/// Of the entries of one delta in a block, cell after cell, that are too large by `scale`.
pub(super) fn magnitudes(values: &[f32], draws: &[usize], scale: f64) -> Magnitudes {
    let mut drawn: Vec<f32> = draws.iter().map(|at| values[*at].abs()).collect();
    drawn.sort_unstable_by(f32::total_cmp);
    let order = |j: usize| f64::from(drawn[(j * drawn.len()).div_ceil(ORDERS) - 1]) / scale;
    let orders =
        if drawn.is_empty() { vec![0.0; ORDERS] } else { (1..=ORDERS).map(order).collect() };
    Magnitudes { density: density(values, &drawn), orders }
}

/// Entries above a magnitude, which is given as bits: their order is that of the numbers.
#[derive(Clone, Copy)]
struct Above {
    bits: u32,
    count: u64,
    square: f64,
}

/// Smallest share of the entries that holds [`ENERGY`].
///
/// The draws say roughly where the smallest of them lies; a few reads of the entries, which are in
/// cache, close a bracket around it, and what is left inside is sorted.
fn density(values: &[f32], drawn: &[f32]) -> f64 {
    let above = |bits: u32| dispatch::run(Look { values, bits });
    let mut low = above(0);
    let mut high = Above { bits: f32::MAX.to_bits(), count: 0, square: 0.0 };
    let wanted = ENERGY * low.square;
    if wanted <= 0.0 {
        return 0.0;
    }
    let mut guesses = AROUND.map(|share| holding(drawn, share)).to_vec();
    while high.bits - low.bits > 1 && low.count - high.count > FEW {
        for bits in guesses {
            if low.bits < bits && bits < high.bits && low.count - high.count > FEW {
                let found = above(bits);
                *(if found.square >= wanted { &mut low } else { &mut high }) = found;
            }
        }
        guesses = between(&low, &high, wanted);
    }
    let mut squares = dispatch::run(Inside { values, low: low.bits, high: high.bits });
    squares.sort_unstable_by(|a, b| b.total_cmp(a));
    let mut held = high.square;
    let missing = |square: &&f64| {
        let is_missing = held < wanted;
        held += **square;
        is_missing
    };
    (high.count as usize + squares.iter().take_while(missing).count()) as f64 / values.len() as f64
}

/// The magnitude above which rising draws hold a share of their energy.
fn holding(drawn: &[f32], share: f64) -> u32 {
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    let wanted = share * drawn.iter().map(square).sum::<f64>();
    let mut held = 0.0;
    let reached = |value: &&f32| {
        held += square(value);
        held >= wanted
    };
    drawn.iter().rev().find(reached).map_or(0, |value| value.to_bits())
}

/// Where to look next: on both sides of the straight line, and in the middle so that it ends.
fn between(low: &Above, high: &Above, wanted: f64) -> Vec<u32> {
    let width = high.bits - low.bits;
    let share = (low.square - wanted) / (low.square - high.square);
    let line = low.bits + (share * f64::from(width)) as u32;
    let step = width / 64 + 1;
    vec![line.saturating_sub(step), line.saturating_add(step), low.bits + width / 2]
}

/// Counts entries above a magnitude.
struct Look<'v> {
    values: &'v [f32],
    bits: u32,
}

impl Kernel for Look<'_> {
    type Output = Above;

    #[inline(always)]
    fn run(self) -> Above {
        let mut all = Above { bits: self.bits, count: 0, square: 0.0 };
        for run in self.values.chunks(RUN) {
            let (mut count, mut square) = ([0u32; LANES], [0f32; LANES]);
            let mut add = |block: &[f32; LANES]| {
                for k in 0..LANES {
                    let above = block[k].to_bits() & MAGNITUDE > self.bits;
                    count[k] += u32::from(above);
                    square[k] += if above { block[k] * block[k] } else { 0.0 };
                }
            };
            let (blocks, rest) = run.as_chunks::<LANES>();
            for block in blocks {
                add(block);
            }
            let mut last = [0f32; LANES];
            last[..rest.len()].copy_from_slice(rest);
            add(&last);
            all.count += count.iter().map(|c| u64::from(*c)).sum::<u64>();
            all.square += square.iter().map(|s| f64::from(*s)).sum::<f64>();
        }
        all
    }
}

/// Squares of the entries above one magnitude, and not above another.
struct Inside<'v> {
    values: &'v [f32],
    low: u32,
    high: u32,
}

impl Kernel for Inside<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run(self) -> Vec<f64> {
        // One comparison: what is not above the low end wraps around.
        let first = self.low.wrapping_add(1);
        let inside =
            |value: f32| (value.to_bits() & MAGNITUDE).wrapping_sub(first) < self.high - self.low;
        let mut found = vec![];
        for block in self.values.chunks(LANES) {
            // Most blocks have none, and no branch then.
            if block.iter().fold(false, |any, value| any | inside(*value)) {
                let those = block.iter().filter(|value| inside(**value));
                found.extend(those.map(|v| f64::from(*v) * f64::from(*v)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{ENERGY, FEW, density};

    fn expected(values: &[f32]) -> f64 {
        let mut squares: Vec<f64> = values.iter().map(|v| f64::from(*v).powi(2)).collect();
        squares.sort_by(|a, b| b.total_cmp(a));
        let wanted = ENERGY * squares.iter().sum::<f64>();
        let mut held = 0.0;
        let count = squares.iter().take_while(|s| {
            let missing = held < wanted;
            held += **s;
            missing
        });
        count.count() as f64 / values.len().max(1) as f64
    }

    /// Whatever the draws say, even nothing, the bracket closes around the right entry.
    #[test]
    fn density_needs_no_good_draws() {
        let len = 40 * FEW as usize + 3;
        let rising: Vec<f32> = (0..len).map(|x| (x as f32 - 100.0) * 1e-3).collect();
        let steep: Vec<f32> = (0..len).map(|x| (-(x as f32) / 900.0).exp()).collect();
        let alike = vec![-2f32; len];
        let mut spiked = vec![1e-6f32; len];
        spiked[7] = -1e6;
        let mut sparse = vec![0f32; len];
        sparse[len / 2..].fill(3.0);
        for values in [rising, steep, alike, spiked, sparse, vec![5.0], vec![-0.0; len], vec![]] {
            let right = expected(&values);
            for drawn in [&[][..], &[1.0], &[1e-30, 1e30]] {
                let found = density(&values, drawn);
                let slack = 1.5 / values.len().max(1) as f64;
                assert!((found - right).abs() <= slack, "{found} {right} {drawn:?}");
            }
        }
    }
}
