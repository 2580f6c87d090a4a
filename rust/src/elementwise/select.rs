//! Exact selection by magnitude over a whole delta, streamed.
//!
//! A sample of rows brackets the threshold; one pass over all entries counts what lies above the
//! bracket and collects what lies inside, where the threshold is then found exactly.  A bracket
//! that misses (possible, rare) is widened and the pass repeated.  Equal magnitudes at the cut are
//! kept in index order, so exactly the asked number is kept.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise

use std::ops::Range;

use rayon::prelude::*;

use super::source::Source;
use crate::dispatch::{self, Kernel};
use crate::tile::pieces;
use crate::{Result, scratch};

/// Rows that the bracket is estimated from.
const SAMPLE_ROWS: usize = 128;
/// Entries of a tile of the pass.
const ENTRIES: usize = 1 << 17;
/// Entries that are counted together; those with any inside the bracket are looked at singly.
const BLOCK: usize = 32;
/// Half width of the bracket, in shares of all entries.
const MARGIN: f64 = 0.004;

/// Magnitudes, as bits (their order is that of the numbers), between which entries are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// Kept from here on: magnitude bits above, and those equal up to an index.
    low: Edge,
    /// Dropped from here on, likewise.
    high: Edge,
}

/// A place in the order of all entries by falling magnitude, then rising index.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Edge {
    bits: u32,
    /// Entries with these bits are before the edge if their index is below.
    index: usize,
}

impl Edge {
    const FIRST: Self = Self { bits: u32::MAX, index: 0 };
    const LAST: Self = Self { bits: 0, index: usize::MAX };

    fn is_after(self, bits: u32, index: usize) -> bool {
        bits > self.bits || (bits == self.bits && index < self.index)
    }
}

impl Cut {
    /// Zeroes what is not kept of the entries from `start` on.
    pub(crate) fn apply(&self, start: usize, values: &mut [f32]) {
        // Whole tiles by magnitude; then the few that equal an edge, by index.
        if dispatch::run(Band { low: self.low.bits, high: self.high.bits, values }) == 0 {
            return;
        }
        for (offset, value) in values.iter_mut().enumerate() {
            let (bits, index) = (magnitude(*value), start + offset);
            if !self.low.is_after(bits, index) || self.high.is_after(bits, index) {
                *value = 0.0;
            }
        }
    }
}

/// Zeroes what is outside of `low..=high`; returns how many equal one of them.
struct Band<'v> {
    low: u32,
    high: u32,
    values: &'v mut [f32],
}

impl Kernel for Band<'_> {
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        let mut edges = 0u32;
        for value in self.values {
            let bits = magnitude(*value);
            let inside = (bits >= self.low) & (bits <= self.high);
            edges += u32::from((bits == self.low) | (bits == self.high));
            *value = if inside { *value } else { 0.0 };
        }
        edges
    }
}

/// Counts the entries above a bracket, and marks the blocks that have any inside.
struct Count<'v> {
    low: u32,
    high: u32,
    values: &'v [f32],
    marks: &'v mut [bool],
}

impl Kernel for Count<'_> {
    type Output = usize;

    #[inline(always)]
    fn run(self) -> usize {
        let mut above = 0;
        for (block, mark) in self.values.chunks(BLOCK).zip(self.marks) {
            let (mut over, mut inside) = (0u32, 0u32);
            for value in block {
                let bits = magnitude(*value);
                over += u32::from(bits > self.high);
                inside += u32::from((bits >= self.low) & (bits <= self.high));
            }
            above += over as usize;
            *mark = inside > 0;
        }
        above
    }
}

#[inline(always)]
fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7FFF_FFFF
}

/// The cut that keeps `max(1, floor(density * n))` entries after dropping `floor(skip * n)`.
pub(crate) fn cut<S: Source>(source: &S, member: usize, density: f64, skip: f64) -> Result<Cut> {
    let n = source.rows() * source.cols();
    // A density such as 0.3 is a little less than it reads; so is its product.
    let floor = |share: f64| (share * n as f64 * (1.0 + 1e-12)).floor() as usize;
    let dropped = floor(skip).min(n.saturating_sub(1));
    let kept = floor(density).max(1).min(n - dropped);
    let high = edge(source, member, dropped)?;
    let low = edge(source, member, dropped + kept)?;
    Ok(Cut { low, high })
}

/// The edge with `before` entries before it.
fn edge<S: Source>(source: &S, member: usize, before: usize) -> Result<Edge> {
    let n = source.rows() * source.cols();
    if before == 0 {
        return Ok(Edge::FIRST);
    }
    if before >= n {
        return Ok(Edge::LAST);
    }
    let mut margin = MARGIN;
    loop {
        let bracket = bracket(source, member, before as f64 / n as f64, margin)?;
        let (above, mut inside) = scan(source, member, &bracket)?;
        if above < before && before <= above + inside.len() {
            let rank = before - above;
            let order = |x: &(u32, usize)| (std::cmp::Reverse(x.0), x.1);
            let (_, last, _) = inside.select_nth_unstable_by_key(rank - 1, order);
            return Ok(Edge { bits: last.0, index: last.1 + 1 });
        }
        margin *= 8.0;
    }
}

/// Magnitude bits between which the entry of this quantile should lie.
fn bracket<S: Source>(source: &S, member: usize, share: f64, margin: f64) -> Result<Range<u32>> {
    let (rows, cols) = (source.rows(), source.cols());
    let count = SAMPLE_ROWS.min(rows);
    let mut sample = Vec::with_capacity(count * cols);
    let mut row = vec![0f32; cols];
    for i in 0..count {
        let at = i * rows / count;
        source.fill(member, at..at + 1, &mut row)?;
        sample.extend(row.iter().map(|v| magnitude(*v)));
    }
    let mut at = |share: f64| {
        let place = (share * sample.len() as f64) as usize;
        *sample.select_nth_unstable_by(place, |a, b| b.cmp(a)).1
    };
    let high = if share <= margin { u32::MAX } else { at(share - margin) };
    let low = if share + margin >= 1.0 { 0 } else { at(share + margin) };
    Ok(low..high)
}

/// Number of entries above the bracket, and those inside with their indices.
fn scan<S: Source>(
    source: &S,
    member: usize,
    bracket: &Range<u32>,
) -> Result<(usize, Vec<(u32, usize)>)> {
    let (rows, cols) = (source.rows(), source.cols());
    let tiles: Vec<_> = pieces(rows, (ENTRIES / cols).clamp(1, 256)).collect();
    let found: Vec<(usize, Vec<(u32, usize)>)> = tiles
        .into_par_iter()
        .map(|tile| {
            scratch::floats(tile.len() * cols, |values| {
                let start = tile.start * cols;
                source.fill(member, tile, values)?;
                Ok(look(values, start, bracket))
            })
        })
        .collect::<Result<_>>()?;
    let above = found.iter().map(|(above, _)| above).sum();
    Ok((above, found.into_iter().flat_map(|(_, inside)| inside).collect()))
}

fn look(values: &[f32], start: usize, bracket: &Range<u32>) -> (usize, Vec<(u32, usize)>) {
    let (low, high) = (bracket.start, bracket.end);
    let mut marks = vec![false; values.len().div_ceil(BLOCK)];
    let above = dispatch::run(Count { low, high, values, marks: &mut marks });
    let mut inside = Vec::new();
    for (index, block) in values.chunks(BLOCK).enumerate().filter(|(index, _)| marks[*index]) {
        for (offset, value) in block.iter().enumerate() {
            let bits = magnitude(*value);
            if bits >= low && bits <= high {
                inside.push((bits, start + index * BLOCK + offset));
            }
        }
    }
    (above, inside)
}
