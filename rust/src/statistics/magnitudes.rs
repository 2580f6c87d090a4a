//! How the magnitudes of a block are distributed.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use super::block::{Block, Lines, words};
use crate::Result;

/// Order statistics that are kept, and draws that they are of.
pub const ORDERS: usize = 64;
const DRAWS: usize = 1000;
/// Share of the energy that `density` holds.
const ENERGY: f64 = 0.95;
/// Magnitude bits that a bin of a histogram leaves open: sixteen bins for a factor of two.
const OPEN: u32 = 19;
const BINS: usize = 1 << (31 - OPEN);

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
    let mut drawn: Vec<f64> = draws.iter().map(|at| f64::from(values[*at].abs()) / scale).collect();
    drawn.sort_unstable_by(f64::total_cmp);
    let order = |j: usize| drawn[(j * drawn.len()).div_ceil(ORDERS) - 1];
    let orders =
        if drawn.is_empty() { vec![0.0; ORDERS] } else { (1..=ORDERS).map(order).collect() };
    Magnitudes { density: density(values), orders }
}

/// Smallest share of the entries that holds [`ENERGY`]: a histogram, and the order in one bin of it.
fn density(values: &[f32]) -> f64 {
    let mut bins = vec![(0u64, 0f64); BINS];
    for value in values {
        let bin = &mut bins[bin_of(*value)];
        bin.0 += 1;
        bin.1 += f64::from(*value) * f64::from(*value);
    }
    let wanted = ENERGY * bins.iter().map(|bin| bin.1).sum::<f64>();
    if wanted <= 0.0 {
        return 0.0;
    }
    let (mut count, mut held) = (0, 0.0);
    for (index, (own, square)) in bins.iter().enumerate().rev() {
        if *square > 0.0 && held + square >= wanted {
            let inside = values.iter().filter(|value| bin_of(**value) == index);
            let mut squares: Vec<f64> = inside.map(|v| f64::from(*v) * f64::from(*v)).collect();
            squares.sort_unstable_by(|a, b| b.total_cmp(a));
            for square in squares {
                if held >= wanted {
                    break;
                }
                held += square;
                count += 1;
            }
            break;
        }
        held += square;
        count += own;
    }
    count as f64 / values.len() as f64
}

fn bin_of(value: f32) -> usize {
    ((value.to_bits() << 1) >> (OPEN + 1)) as usize
}
