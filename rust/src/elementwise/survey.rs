//! What one look at the deltas left open: positions where an entry is inside of a bracket.

/// What was seen in some tiles, in order.
#[derive(Default)]
pub(super) struct Survey {
    /// For every member, the number of entries that are not below the high and the low bracket.
    pub(super) reached: Vec<[usize; 2]>,
    /// Positions where some entry is inside of a bracket.
    pub(super) places: Vec<usize>,
    /// The entries of all members there.
    pub(super) values: Vec<f32>,
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

    /// Magnitude bits and positions of one member's collected entries.
    pub(super) fn entries_of(&self, member: usize) -> impl Iterator<Item = (u32, usize)> {
        let count = self.reached.len().max(1);
        let values = self.values.iter().skip(member).step_by(count);
        values.zip(&self.places).map(|(value, place)| (magnitude(*value), *place))
    }

    /// What was seen of `count` members in consecutive tiles, which may be none.
    pub(super) fn join(parts: Vec<Self>, count: usize) -> Self {
        let mut all = Self::new(count);
        all.reserve(parts.iter().map(|part| part.places.len()).sum());
        for part in parts {
            for (all, part) in all.reached.iter_mut().zip(&part.reached) {
                *all = [all[0] + part[0], all[1] + part[1]];
            }
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
