//! Where a threshold lies, from entries spread over a whole delta.

use super::select::{Before, Bracket, Edge};
use super::source::Source;
use super::survey::{PIECE, magnitude, set};
use crate::Result;
use crate::dispatch::{self, Kernel};
use crate::tile::pieces;

/// Entries that a bracket is estimated from: one of so many, within bounds; all if there are fewer.
const SHARE: usize = 16;
const FEWEST: usize = 1 << 13;
const MOST: usize = 1 << 17;
/// Rows of a block of the sample; each block has columns of its own.  Entries that share rows and
/// columns say less than others: with blocks of 32 rows, brackets miss several times as often.
const ROWS: usize = 4;
/// Columns that are looked at in a row: a vector.
pub(super) const RUN: usize = 16;
/// Half width of the bracket in standard deviations of the sample's quantile.
const DEVIATIONS: f64 = 3.0;
/// Magnitude bits that a bin of a histogram leaves open: sixteen bins for a factor of two.
pub(super) const OPEN: u32 = 19;
pub(super) const BINS: usize = 1 << (31 - OPEN);

/// Magnitudes at places spread over all rows and columns.
pub(super) struct Sample {
    values: Vec<f32>,
    bins: Vec<u32>,
}

impl Sample {
    pub(super) fn new<S: Source>(source: &S, member: usize) -> Result<Self> {
        let (rows, cols) = (source.rows(), source.cols());
        let mut bins = vec![0; BINS];
        if rows * cols == 0 {
            return Ok(Self { values: Vec::new(), bins });
        }
        let size = (rows * cols / SHARE).clamp(FEWEST, MOST);
        let (width, cells) = (RUN.min(cols), cols.div_ceil(RUN));
        let count = (size / rows).div_ceil(RUN).clamp(1, cells);
        let blocks: Vec<_> = pieces(rows, ROWS).collect();
        let skip = (rows * count * width).div_ceil(4 * size);
        let mut values = vec![0f32; blocks.len().div_ceil(skip) * ROWS * count * width];
        let (mut rest, mut taken) = (&mut values[..], 0);
        for (index, block) in blocks.into_iter().enumerate().step_by(skip) {
            // A comb of runs, moved on from block to block by the golden ratio.
            let shift = (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
            let shift = ((shift * cells as u64) >> 32) as usize;
            let cell = |k: usize| (shift + k * cells / count) % cells;
            let run = |k: usize| (cell(k) * RUN).min(cols - width);
            let runs: Vec<usize> = (0..count).map(run).collect();
            let (own, others) = rest.split_at_mut(block.len() * count * width);
            source.pick(member, block, &runs, own)?;
            (rest, taken) = (others, taken + own.len());
        }
        values.truncate(taken);
        for value in &values {
            bins[bin(magnitude(*value))] += 1;
        }
        Ok(Self { values, bins })
    }

    /// A bracket of the edge that `before` of `n` entries lie before.
    pub(super) fn bracket(&self, before: usize, n: usize, widening: f64) -> Bracket {
        if before == 0 || before >= n {
            return Bracket::known(if before == 0 { Edge::FIRST } else { Edge::LAST });
        }
        let size = self.values.len() as f64;
        let share = before as f64 / n as f64;
        let spread = (share * (1.0 - share) / size).sqrt() + 1.0 / size;
        let margin = DEVIATIONS * widening * spread;
        let [high, low] = self.at([share - margin, share + margin]);
        let high = if share <= margin { u32::MAX - 1 } else { high };
        let low = if share + margin >= 1.0 { 0 } else { low };
        Bracket { low, high, before: Before::Count(before), known: None }
    }

    /// Magnitude bits that two shares of the sample lie above, the smaller first.
    fn at(&self, shares: [f64; 2]) -> [u32; 2] {
        let last = self.values.len() - 1;
        let places = shares.map(|share| ((share * self.values.len() as f64) as usize).min(last));
        let [(high, above), (low, _)] = places.map(|place| self.bin_of(place));
        let size = self.bins[low..=high].iter().sum::<u32>() as usize;
        let mut found = Vec::with_capacity(size);
        let (mut flags, mut lanes) = ([0; PIECE], [0; PIECE]);
        for values in self.values.chunks(PIECE) {
            let flags = &mut flags[..values.len()];
            dispatch::run(Mark { values, low: low as u32, high: high as u32, flags });
            let lanes = set(flags, &mut lanes);
            found.extend(lanes.iter().map(|lane| magnitude(values[*lane as usize])));
        }
        places.map(|place| *found.select_nth_unstable_by(place - above, |a, b| b.cmp(a)).1)
    }

    /// The bin of a place in falling order, and how many entries are in the bins above.
    fn bin_of(&self, place: usize) -> (usize, usize) {
        let (mut bin, mut above) = (BINS - 1, 0);
        while place >= above + self.bins[bin] as usize {
            above += self.bins[bin] as usize;
            bin -= 1;
        }
        (bin, above)
    }
}

/// Flags entries: 1 for what is in the bins from `low` to `high`, 0 for all else.
struct Mark<'v> {
    values: &'v [f32],
    low: u32,
    high: u32,
    flags: &'v mut [u8],
}

impl Kernel for Mark<'_> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::inline_always)] // or it is not compiled with the vectors of the machine
    fn run(self) {
        let Self { values, low, high, flags } = self;
        for (flag, value) in flags.iter_mut().zip(values) {
            let above = (magnitude(*value) >> OPEN).wrapping_sub(low);
            *flag = u8::from(above <= high - low);
        }
    }
}

/// The bin of magnitude bits.
fn bin(bits: u32) -> usize {
    (bits >> OPEN) as usize
}
