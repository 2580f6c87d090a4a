//! Positions stage by stage, for any number of members and every program.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise
#![allow(clippy::needless_range_loop)] // one index for all members

use super::chunks::{chunk, chunk_mut, in_chunks};
use super::positions::{LANES, Lanes, Positions};
use super::select::{Bracket, Brackets};
use super::survey::magnitude;
use super::together::{Place, Seen};

/// By lane, entries that are not below a bracket.
type Counts = [u32; LANES];

/// The entries from `at` on, [`LANES`] of each, of members that are `len` long.
#[derive(Clone, Copy)]
struct Block<'v> {
    values: &'v [f32],
    len: usize,
    at: usize,
}

impl Block<'_> {
    #[inline(always)]
    fn chunk<const C: usize>(&self, from: usize) -> [&Lanes; C] {
        let of = |i: usize| self.values[i * self.len + self.at..].first_chunk();
        std::array::from_fn(|i| of(from + i).expect("a whole block"))
    }
}

/// A whole block of the entries from `at` on, with zeros behind them.
fn padded(values: &[f32], len: usize, at: usize) -> Vec<f32> {
    let mut block = vec![0f32; values.len() / len * LANES];
    for (block, values) in block.chunks_exact_mut(LANES).zip(values.chunks_exact(len)) {
        block[..len - at].copy_from_slice(&values[at..]);
    }
    block
}

/// Copies members `from..from + C`.
#[inline(always)]
fn load<const C: usize>(from: usize, block: Block<'_>, entries: &mut [Lanes]) {
    let (block, entries) = (block.chunk::<C>(from), chunk_mut::<_, C>(entries, from));
    entries.iter_mut().zip(block).for_each(|(entries, block)| *entries = *block);
}

/// Goes through positions stage by stage, whatever the program is.
pub(super) struct Staged {
    highs: Vec<Bracket>,
    lows: Vec<Bracket>,
    edges: usize,
    /// For every member, by the high and the low bracket.
    reached: Vec<[Counts; 2]>,
    entries: Vec<Lanes>,
}

impl Staged {
    pub(super) fn new(brackets: &[Brackets], edges: usize) -> Self {
        Self {
            highs: brackets.iter().map(|b| b.high).collect(),
            lows: brackets.iter().map(|b| b.low).collect(),
            edges,
            reached: vec![[[0; LANES]; 2]; brackets.len()],
            entries: Vec::new(),
        }
    }

    /// Fills `seen`, but for the counts, which [`Self::add_to`] gives at the end.
    #[inline(always)]
    pub(super) fn fill(&mut self, rule: &Positions, place: Place<'_>, seen: Seen<'_>) {
        let Place { values, len, at } = place;
        self.entries.resize(rule.count(), [0.0; LANES]);
        let Seen { out, inside, .. } = seen;
        let blocks = out.chunks_mut(LANES).zip(inside.chunks_mut(LANES));
        for (index, (out, inside)) in blocks.enumerate() {
            let at = at + index * LANES;
            let rest;
            let block = if out.len() == LANES {
                Block { values, len, at }
            } else {
                rest = padded(values, len, at);
                Block { values: &rest, len: LANES, at: 0 }
            };
            if self.edges > 0 {
                inside.copy_from_slice(&self.surely_kept(block)[..out.len()]);
            } else {
                in_chunks!(rule.count(), load(block, &mut self.entries));
            }
            let result = rule.result(&mut self.entries);
            if let Some(whole) = out.first_chunk_mut() {
                *whole = result;
            } else {
                out.copy_from_slice(&result[..out.len()]);
            }
        }
    }

    /// Fills the entries, with zeros for what is below the low bracket or above the high one, and
    /// counts what is not below.  Gives 1 where some entry is inside of a bracket.
    #[inline(always)]
    fn surely_kept(&mut self, block: Block<'_>) -> [u8; LANES] {
        let mut inside = [0u8; LANES];
        let (entries, reached) = (&mut self.entries[..], &mut self.reached[..]);
        in_chunks!(entries.len(), keep_large(block, &self.lows, entries, reached, &mut inside));
        if self.edges > 1 {
            in_chunks!(
                entries.len(),
                drop_large(block, &self.highs, entries, reached, &mut inside)
            );
        }
        inside
    }

    /// Adds what was counted in `len` positions.
    pub(super) fn add_to(&self, reached: &mut [[usize; 2]], len: usize) {
        for (sums, reached) in reached.iter_mut().zip(&self.reached) {
            for (sum, lanes) in sums.iter_mut().zip(reached) {
                // A bracket that reaches down to 0 has counted the zeros behind the last entry.
                *sum += (lanes.iter().sum::<u32>() as usize).min(len);
            }
        }
    }
}

/// Copies what is not below the low brackets.
#[inline(always)]
fn keep_large<const C: usize>(
    from: usize,
    block: Block<'_>,
    brackets: &[Bracket],
    entries: &mut [Lanes],
    reached: &mut [[Counts; 2]],
    inside: &mut [u8; LANES],
) {
    let block = block.chunk::<C>(from);
    let brackets = chunk::<_, C>(brackets, from).map(|b| (b.low, b.high));
    let (entries, reached) = (chunk_mut::<_, C>(entries, from), chunk_mut::<_, C>(reached, from));
    for lane in 0..LANES {
        let mut any = false;
        for i in 0..C {
            let (value, (low, high)) = (block[i][lane], brackets[i]);
            let bits = magnitude(value);
            let reaches = bits >= low;
            any |= reaches & (bits <= high);
            reached[i][1][lane] += u32::from(reaches);
            entries[i][lane] = if reaches { value } else { 0.0 };
        }
        inside[lane] |= u8::from(any);
    }
}

/// Zeroes what is above the high brackets.
#[inline(always)]
fn drop_large<const C: usize>(
    from: usize,
    block: Block<'_>,
    brackets: &[Bracket],
    entries: &mut [Lanes],
    reached: &mut [[Counts; 2]],
    inside: &mut [u8; LANES],
) {
    let block = block.chunk::<C>(from);
    let brackets = chunk::<_, C>(brackets, from).map(|b| (b.low, b.high));
    let (entries, reached) = (chunk_mut::<_, C>(entries, from), chunk_mut::<_, C>(reached, from));
    for lane in 0..LANES {
        let mut any = false;
        for i in 0..C {
            let (low, high) = brackets[i];
            let bits = magnitude(block[i][lane]);
            any |= (bits >= low) & (bits <= high);
            reached[i][0][lane] += u32::from(bits >= low);
            entries[i][lane] = if bits > high { 0.0 } else { entries[i][lane] };
        }
        inside[lane] |= u8::from(any);
    }
}
