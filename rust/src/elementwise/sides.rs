//! What the members give to their group: all of their deltas, what agrees with the majority or what
//! does not, or nothing, because they go around the program.
//!
//! Cost where members give a part: two reads and a write more of every tile while it is in cache.
//! Whoever asks for one member only, such as the sample that brackets a threshold, pays for all:
//! its entries depend on those of the others.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise

use std::ops::Range;

use rayon::prelude::*;

use super::program::{Program, Side};
use super::rows_of_tile;
use super::source::Source;
use crate::dispatch::{self, Kernel};
use crate::{Result, scratch};

/// Positions handled at a time: their votes stay in L1.
const LANES: usize = 64;

/// The members of a source that a program sees, as far as they give their entries to it.
pub(super) struct Sided<'s, S> {
    source: &'s S,
    /// Places of the members that the program sees.
    seen: Vec<usize>,
    /// Places of those that go around it.
    around: Vec<usize>,
    /// What those that are seen give; empty where they give everything.
    sides: Vec<Side>,
    published: bool,
}

impl<'s, S: Source> Sided<'s, S> {
    /// The sides must be none, or one for each member.
    pub(super) fn new(program: &Program, source: &'s S) -> Self {
        let is_around = |i: &usize| program.sides.get(*i) == Some(&Side::Around);
        let (around, seen): (Vec<_>, Vec<_>) = (0..source.count()).partition(is_around);
        let masks = |side: &Side| matches!(side, Side::Low | Side::High);
        let sides = if program.sides.iter().any(masks) {
            seen.iter().map(|i| program.sides[*i]).collect()
        } else {
            Vec::new()
        };
        Self { source, seen, around, sides, published: program.published_sides }
    }

    /// The same members with all of their entries.
    pub(super) fn whole(&self) -> Self {
        let (seen, around) = (self.seen.clone(), self.around.clone());
        Self { source: self.source, seen, around, sides: Vec::new(), published: false }
    }

    /// Whether the program sees all entries of all members.
    pub(super) fn is_whole(&self) -> bool {
        self.sides.is_empty() && self.around.is_empty()
    }

    /// Adds the weighted deltas of the members that go around the program, tiles in parallel.
    pub(super) fn add_around(&self, out: &mut [f32]) -> Result<()> {
        let cols = self.cols();
        if self.around.is_empty() || out.is_empty() {
            return Ok(());
        }
        let step = rows_of_tile(cols);
        let add = |(index, out): (usize, &mut [f32])| {
            let first = index * step;
            scratch::floats(out.len(), |delta| {
                for member in &self.around {
                    self.source.fill(*member, first..first + out.len() / cols, delta)?;
                    out.iter_mut().zip(&*delta).for_each(|(out, value)| *out += value);
                }
                Ok(())
            })
        };
        out.par_chunks_mut(step * cols).enumerate().try_for_each(add)
    }

    /// Writes some rows of all members that are seen, `len` entries each, one after the other.
    pub(super) fn fill_all(&self, rows: &Range<usize>, len: usize, out: &mut [f32]) -> Result<()> {
        for (member, out) in self.seen.iter().zip(out.chunks_exact_mut(len.max(1))) {
            self.source.fill(*member, rows.clone(), out)?;
        }
        self.take(len, out);
        Ok(())
    }

    /// Zeroes what the members do not give.
    fn take(&self, len: usize, values: &mut [f32]) {
        if !self.sides.is_empty() {
            dispatch::run(Take { sides: &self.sides, published: self.published, values, len });
        }
    }

    /// What `make` writes of all members, but only the entries of one.
    fn one_of(
        &self,
        member: usize,
        out: &mut [f32],
        make: impl FnOnce(&mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let len = out.len();
        scratch::floats(self.seen.len() * len, |all| {
            make(all)?;
            out.copy_from_slice(&all[member * len..][..len]);
            Ok(())
        })
    }
}

impl<S: Source> Source for Sided<'_, S> {
    fn count(&self) -> usize {
        self.seen.len()
    }

    fn rows(&self) -> usize {
        self.source.rows()
    }

    fn cols(&self) -> usize {
        self.source.cols()
    }

    fn weight(&self, member: usize) -> f64 {
        self.source.weight(self.seen[member])
    }

    fn fill(&self, member: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        if self.sides.is_empty() {
            return self.source.fill(self.seen[member], rows, out);
        }
        let len = out.len();
        self.one_of(member, out, |all| self.fill_all(&rows, len, all))
    }

    fn pick(
        &self,
        member: usize,
        rows: Range<usize>,
        runs: &[usize],
        out: &mut [f32],
    ) -> Result<()> {
        if self.sides.is_empty() {
            return self.source.pick(self.seen[member], rows, runs, out);
        }
        let len = out.len();
        self.one_of(member, out, |all| {
            for (member, out) in self.seen.iter().zip(all.chunks_exact_mut(len.max(1))) {
                self.source.pick(*member, rows.clone(), runs, out)?;
            }
            self.take(len, all);
            Ok(())
        })
    }
}

/// Zeroes what members that are `len` long do not give.
struct Take<'v> {
    sides: &'v [Side],
    published: bool,
    values: &'v mut [f32],
    len: usize,
}

impl Kernel for Take<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { sides, published, values, len } = self;
        for at in (0..len).step_by(LANES) {
            let place = at..len.min(at + LANES);
            let winner = majority(published, values, len, &place);
            for (values, side) in values.chunks_exact_mut(len).zip(sides) {
                if *side == Side::All {
                    continue;
                }
                let low = *side == Side::Low;
                for (value, winner) in values[place.clone()].iter_mut().zip(&winner) {
                    let up = (*value > 0.0) & (*winner > 0.0);
                    let agrees = up | ((*value < 0.0) & (*winner < 0.0));
                    *value = if agrees == low { *value } else { 0.0 };
                }
            }
        }
    }
}

/// Numbers with the sign of the majority of the members; where there is none, of their sum, or
/// positive as published.
#[inline(always)]
fn majority(published: bool, values: &[f32], len: usize, place: &Range<usize>) -> [f32; LANES] {
    let (mut heads, mut sums) = ([0f32; LANES], [0f32; LANES]);
    for values in values.chunks_exact(len) {
        let counters = heads.iter_mut().zip(&mut sums);
        for ((heads, sum), value) in counters.zip(&values[place.clone()]) {
            *heads += f32::from(*value > 0.0) - f32::from(*value < 0.0);
            *sum += value;
        }
    }
    for (heads, sum) in heads.iter_mut().zip(&sums) {
        let draw = if published { 1.0 } else { *sum };
        *heads = if *heads == 0.0 { draw } else { *heads };
    }
    heads
}

#[cfg(test)]
mod tests {
    use super::{Side, Take};
    use crate::dispatch::{Isa, run_on};

    /// What the definition says of the entries of one position.
    fn given(sides: &[Side], published: bool, entries: &[f32]) -> Vec<f32> {
        let sign = |x: f32| if x == 0.0 { 0.0 } else { x.signum() };
        let heads: f32 = entries.iter().map(|x| sign(*x)).sum();
        let draw = if published { 1.0 } else { sign(entries.iter().sum()) };
        let winner = if heads == 0.0 { draw } else { sign(heads) };
        let give = |(side, entry): (&Side, &f32)| {
            let agrees = sign(*entry) * winner > 0.0;
            let gives = match side {
                Side::All | Side::Around => true,
                Side::Low => agrees,
                Side::High => !agrees,
            };
            if gives { *entry } else { 0.0 }
        };
        sides.iter().zip(entries).map(give).collect()
    }

    #[test]
    fn every_instruction_set_takes_what_the_definition_says() {
        let small = |x: usize| ((x * x * 37) % 7) as f32 - 3.0;
        let all = [Side::Low, Side::High, Side::All, Side::Low];
        for (count, len) in [(1, 1), (2, 63), (3, 64), (4, 129), (4, 1000)] {
            let values: Vec<f32> = (0..count * len).map(small).collect();
            for (shift, published) in [(0, false), (1, false), (0, true), (1, true)] {
                let sides: Vec<Side> = (0..count).map(|i| all[(i + shift) % 4]).collect();
                let mut expected = values.clone();
                for at in 0..len {
                    let entries: Vec<f32> = (0..count).map(|i| values[i * len + at]).collect();
                    let own = given(&sides, published, &entries);
                    own.iter().enumerate().for_each(|(i, value)| expected[i * len + at] = *value);
                }
                for isa in Isa::ALL {
                    let mut found = values.clone();
                    let take = Take { sides: &sides, published, values: &mut found, len };
                    if run_on(isa, take).is_some() {
                        assert_eq!(found, expected, "{isa:?} {sides:?} {published}");
                    }
                }
            }
        }
    }
}
