//! What one look at the deltas left open: positions where an entry is inside of a bracket.

use std::ops::RangeInclusive;

/// An entry of a survey, ordered by falling magnitude, then rising position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found(u64);

impl Found {
    /// The entry at the place with this number; the memory of a survey bounds it to 32 bits.
    fn new(bits: u32, at: usize) -> Self {
        Self((u64::from(!bits) << 32) | at as u64)
    }

    /// Magnitude bits.
    pub(super) fn bits(self) -> u32 {
        !((self.0 >> 32) as u32)
    }

    /// Which of the places it is at.
    pub(super) fn at(self) -> usize {
        self.0 as u32 as usize
    }
}

/// What was seen in some tiles, in order.
#[derive(Default)]
pub(super) struct Survey {
    /// For every member, the number of entries that are not below the high and the low bracket.
    pub(super) reached: Vec<[usize; 2]>,
    /// Positions where some entry is inside of a bracket.
    pub(super) places: Vec<usize>,
    /// The entries of all members there.
    pub(super) values: Vec<f32>,
    /// Inner products of the members with the result, if they are wanted.
    pub(super) along: Vec<f64>,
}

impl Survey {
    /// Nothing seen yet of `count` members.
    pub(super) fn new(count: usize) -> Self {
        Self { reached: vec![[0; 2]; count], ..Self::default() }
    }

    /// Makes room for so many positions more.
    pub(super) fn reserve(&mut self, places: usize) {
        self.places.reserve_exact(places);
        self.values.reserve_exact(places * self.reached.len());
    }

    /// One member's collected entries with magnitude bits in a range.
    pub(super) fn inside(&self, member: usize, range: RangeInclusive<u32>) -> Vec<Found> {
        let count = self.reached.len().max(1);
        let mut found = vec![Found(0); self.places.len()];
        let mut len = 0;
        // Without a branch, which would be taken at random.
        for (at, entries) in self.values.chunks_exact(count).enumerate() {
            let bits = magnitude(entries[member]);
            found[len] = Found::new(bits, at);
            len += usize::from(range.contains(&bits));
        }
        found.truncate(len);
        found
    }

    /// What was seen of `count` members in consecutive tiles, which may be none.
    pub(super) fn join(parts: Vec<Self>, count: usize) -> Self {
        let mut all = Self::new(count);
        all.reserve(parts.iter().map(|part| part.places.len()).sum());
        for part in parts {
            for (all, part) in all.reached.iter_mut().zip(&part.reached) {
                *all = [all[0] + part[0], all[1] + part[1]];
            }
            all.along.resize(part.along.len(), 0.0);
            all.along.iter_mut().zip(&part.along).for_each(|(all, part)| *all += part);
            all.places.extend(part.places);
            all.values.extend(part.values);
        }
        all
    }
}

/// Bits whose order is that of the magnitudes.
#[inline(always)]
#[allow(clippy::inline_always)] // dispatched loops call it
pub(super) fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7FFF_FFFF
}
