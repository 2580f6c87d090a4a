//! What one look at the deltas left open: positions where an entry is inside of a bracket.

use std::ops::RangeInclusive;

use super::together::Place;

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
    /// The entries of every member there.
    pub(super) values: Vec<Vec<f32>>,
    /// Inner products of the members with the result, if they are wanted.
    pub(super) along: Vec<f64>,
}

impl Survey {
    /// Nothing seen yet of `count` members.
    pub(super) fn new(count: usize) -> Self {
        Self { reached: vec![[0; 2]; count], values: vec![vec![]; count], ..Self::default() }
    }

    /// Adds the positions of a place that are flagged with 1; `start` is that of its tile.
    #[inline(always)]
    #[allow(clippy::inline_always)] // dispatched loops call it
    pub(super) fn collect(&mut self, start: usize, place: Place<'_>, flags: &[u8]) {
        let before = self.places.len();
        self.places.extend(set(flags).map(|lane| start + place.at + lane));
        let found = &self.places[before..];
        for (values, entries) in self.values.iter_mut().zip(place.values.chunks_exact(place.len)) {
            values.extend(found.iter().map(|place| entries[place - start]));
        }
    }

    /// One member's collected entries with magnitude bits in a range.
    pub(super) fn inside(&self, member: usize, range: RangeInclusive<u32>) -> Vec<Found> {
        let mut found = vec![Found(0); self.places.len()];
        let mut len = 0;
        // Without a branch, which would be taken at random.
        for (at, entry) in self.values[member].iter().enumerate() {
            let bits = magnitude(*entry);
            found[len] = Found::new(bits, at);
            len += usize::from(range.contains(&bits));
        }
        found.truncate(len);
        found
    }

    /// What was seen of `count` members in consecutive tiles, which may be none.
    pub(super) fn join(parts: Vec<Self>, count: usize) -> Self {
        let mut all = Self::new(count);
        let size = parts.iter().map(|part| part.places.len()).sum();
        all.places.reserve_exact(size);
        all.values.iter_mut().for_each(|values| values.reserve_exact(size));
        for part in parts {
            for (all, part) in all.reached.iter_mut().zip(&part.reached) {
                *all = [all[0] + part[0], all[1] + part[1]];
            }
            all.along.resize(part.along.len(), 0.0);
            all.along.iter_mut().zip(&part.along).for_each(|(all, part)| *all += part);
            all.places.extend(part.places);
            for (all, part) in all.values.iter_mut().zip(&part.values) {
                all.extend_from_slice(part);
            }
        }
        all
    }
}

/// The places of the flags that are 1; all others are 0.
#[inline(always)]
#[allow(clippy::inline_always)] // dispatched loops call it
fn set(flags: &[u8]) -> impl Iterator<Item = usize> {
    let (eights, rest) = flags.as_chunks::<8>();
    let whole = eights.len() * 8;
    let lanes = eights.iter().enumerate().flat_map(|(index, eight)| {
        let mut rest = u64::from_le_bytes(*eight);
        std::iter::from_fn(move || {
            let at = (rest != 0).then(|| rest.trailing_zeros() as usize / 8)?;
            rest &= rest - 1; // flags are 0 or 1: one bit each
            Some(index * 8 + at)
        })
    });
    let others = rest.iter().enumerate().filter(|(_, flag)| **flag != 0);
    lanes.chain(others.map(move |(lane, _)| whole + lane))
}

/// Bits whose order is that of the magnitudes.
#[inline(always)]
#[allow(clippy::inline_always)] // dispatched loops call it
pub(super) fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7FFF_FFFF
}
