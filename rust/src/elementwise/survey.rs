//! What one look at the deltas left open: positions where an entry is inside of a bracket.

use std::ops::RangeInclusive;

use super::together::Place;

/// Positions whose flags are collected at a time: what belongs to them stays in L1.
pub(super) const PIECE: usize = 1 << 10;

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

    /// Makes room for so many positions.
    pub(super) fn reserve(&mut self, places: usize) {
        self.places.reserve_exact(places);
        self.values.iter_mut().for_each(|values| values.reserve_exact(places));
    }

    /// Adds the positions of a place, at most [`PIECE`], that are flagged with 1, and says where in it
    /// they are; `start` is that of its tile.
    #[inline(always)]
    #[allow(clippy::inline_always)] // dispatched loops call it
    pub(super) fn collect<'m>(
        &mut self,
        start: usize,
        place: Place<'_>,
        flags: &[u8],
        memory: &'m mut [u32; PIECE],
    ) -> &'m [u32] {
        let lanes = set(flags, memory);
        self.places.extend(lanes.iter().map(|lane| start + place.at + *lane as usize));
        for (values, entries) in self.values.iter_mut().zip(place.values.chunks_exact(place.len)) {
            let entries = &entries[place.at..][..flags.len()];
            values.extend(lanes.iter().map(|lane| entries[*lane as usize]));
        }
        lanes
    }

    /// One member's collected entries with magnitude bits in a range, in `memory`.
    pub(super) fn inside<'m>(
        &self,
        member: usize,
        range: RangeInclusive<u32>,
        memory: &'m mut Vec<Found>,
    ) -> &'m mut [Found] {
        let entries = &self.values[member];
        memory.resize(entries.len(), Found(0));
        let mut len = 0;
        // Without a branch, which would be taken at random.
        for (at, entry) in entries.iter().enumerate() {
            let bits = magnitude(*entry);
            memory[len] = Found::new(bits, at);
            len += usize::from(range.contains(&bits));
        }
        &mut memory[..len]
    }

    /// What was seen of `count` members in consecutive tiles, which may be none.
    pub(super) fn join(parts: Vec<Self>, count: usize) -> Self {
        let mut all = Self::new(count);
        let size = parts.iter().map(|part| part.places.len()).sum();
        all.reserve(size);
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

/// Writes the places of the flags that are 1, all others being 0, to the beginning of `places`.
#[inline(always)]
#[allow(clippy::inline_always)] // dispatched loops call it
pub(super) fn set<'p>(flags: &[u8], places: &'p mut [u32; PIECE]) -> &'p [u32] {
    let mut len = 0;
    for (index, flags) in flags.chunks(64).enumerate() {
        let mut rest = mask(flags);
        while rest != 0 {
            places[len] = index as u32 * 64 + rest.trailing_zeros();
            rest &= rest - 1;
            len += 1;
        }
    }
    &places[..len]
}

/// Up to 64 flags as bits.
#[inline(always)]
#[allow(clippy::inline_always)] // dispatched loops call it
fn mask(flags: &[u8]) -> u64 {
    let (eights, rest) = flags.as_chunks::<8>();
    let mut mask = 0;
    for (index, eight) in eights.iter().enumerate() {
        // Bit 8 i of the flags goes to bit 56 + i of the product, and nothing else goes there.
        let bits = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= bits << (index * 8);
    }
    for (index, flag) in rest.iter().enumerate() {
        mask |= u64::from(*flag) << (eights.len() * 8 + index);
    }
    mask
}

/// Bits whose order is that of the magnitudes.
#[inline(always)]
#[allow(clippy::inline_always)] // dispatched loops call it
pub(super) fn magnitude(value: f32) -> u32 {
    value.to_bits() & 0x7FFF_FFFF
}
