//! One look at the tiles of deltas whose thresholds are known up to a bracket.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise

use super::select::Brackets;
use crate::dispatch::{self, Kernel};

/// Positions that are counted before the counts are widened.
const BLOCK: usize = 256;

/// What was seen in some tiles, in order.
#[derive(Default)]
pub(super) struct Survey {
    /// For every member, the number of entries above the high and the low bracket.
    pub(super) above: Vec<[usize; 2]>,
    /// Positions where some entry is inside of a bracket.
    pub(super) places: Vec<usize>,
    /// The entries of all members there.
    pub(super) values: Vec<f32>,
}

impl Survey {
    /// Magnitude bits and positions of one member's collected entries.
    pub(super) fn entries_of(&self, member: usize) -> impl Iterator<Item = (u32, usize)> {
        let count = self.above.len().max(1);
        let values = self.values.iter().skip(member).step_by(count);
        values.zip(&self.places).map(|(value, place)| (magnitude(*value), *place))
    }

    /// What was seen of `count` members in consecutive tiles, which may be none.
    pub(super) fn join(parts: Vec<Self>, count: usize) -> Self {
        let mut all = Self { above: vec![[0; 2]; count], ..Self::default() };
        for part in parts {
            for (all, part) in all.above.iter_mut().zip(&part.above) {
                *all = [all[0] + part[0], all[1] + part[1]];
            }
            all.places.extend(part.places);
            all.values.extend(part.values);
        }
        all
    }

    /// Looks at a tile from position `start` on, `len` entries of each member in turn; zeroes what
    /// is surely not kept, after it was collected.
    pub(super) fn of(brackets: &[Brackets], start: usize, values: &mut [f32], len: usize) -> Self {
        if len == 0 || brackets.iter().all(Brackets::keeps_all) {
            return Self { above: vec![[0; 2]; brackets.len()], ..Self::default() };
        }
        let mut flags = vec![0u8; len.next_multiple_of(8)];
        let mut above = Vec::with_capacity(brackets.len());
        for (bracket, values) in brackets.iter().zip(values.chunks_exact_mut(len)) {
            above.push(dispatch::run(Sweep { bracket, values, flags: &mut flags }));
        }
        let mut survey = Self { above, ..Self::default() };
        if brackets.iter().any(|b| b.high.is_open() || b.low.is_open()) {
            survey.collect(&flags, start, values, len);
        }
        for (bracket, values) in brackets.iter().zip(values.chunks_exact_mut(len)) {
            if bracket.high.is_open() {
                dispatch::run(DropAbove { high: bracket.high.high, values });
            }
        }
        survey
    }

    fn collect(&mut self, flags: &[u8], start: usize, values: &[f32], len: usize) {
        let count = self.above.len();
        for (index, eight) in flags.as_chunks::<8>().0.iter().enumerate() {
            if u64::from_ne_bytes(*eight) == 0 {
                continue;
            }
            for at in (index * 8..index * 8 + 8).filter(|at| flags[*at] != 0) {
                self.places.push(start + at);
                self.values.extend((0..count).map(|i| values[i * len + at]));
            }
        }
    }
}

/// Counts what is above the brackets, flags what is inside, zeroes what is below both.
struct Sweep<'v> {
    bracket: &'v Brackets,
    values: &'v mut [f32],
    flags: &'v mut [u8],
}

impl Kernel for Sweep<'_> {
    type Output = [usize; 2];

    #[inline(always)]
    fn run(self) -> [usize; 2] {
        let (high, low) = (self.bracket.high, self.bracket.low);
        let mut above = [0; 2];
        for (values, flags) in self.values.chunks_mut(BLOCK).zip(self.flags.chunks_mut(BLOCK)) {
            let mut counts = [0u32; 2];
            for (value, flag) in values.iter_mut().zip(flags) {
                let bits = magnitude(*value);
                let over = [bits > high.high, bits > low.high];
                let inside = ((bits >= high.low) & !over[0]) | ((bits >= low.low) & !over[1]);
                counts[0] += u32::from(over[0]);
                counts[1] += u32::from(over[1]);
                *flag |= u8::from(inside);
                *value = if bits >= low.low { *value } else { 0.0 };
            }
            above = [above[0] + counts[0] as usize, above[1] + counts[1] as usize];
        }
        above
    }
}

/// Zeroes what is above a bracket.
struct DropAbove<'v> {
    high: u32,
    values: &'v mut [f32],
}

impl Kernel for DropAbove<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for value in self.values {
            *value = if magnitude(*value) > self.high { 0.0 } else { *value };
        }
    }
}

#[inline(always)]
pub(super) fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7FFF_FFFF
}
