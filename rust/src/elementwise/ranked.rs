//! Random drops that spare the large entries of each row: the keep rule of DELLA.
//!
//! The probability of an entry falls linearly with its rank in its row, and a survivor is divided
//! by its own probability, so every rank is needed, exactly.  Sorting is not: entries go to buckets
//! by magnitude, a prefix sum over the buckets says where each begins, and inside a bucket, which
//! seldom has more than a handful, each entry is compared with its neighbours, without branches.
//!
//! The bucket of x is cut from the bits of `|x| + c`, where c is 5/4 of the mean: the octave above c,
//! which holds the magnitudes below c, is divided evenly, the next half as finely, and from its middle
//! on buckets are four times as wide, as befits the number of entries there.  This is monotone, so
//! the buckets decide only speed, never ranks.  Where a bucket is crowded all the same (equal
//! magnitudes cost nothing, they are in order), it is sorted.
//!
//! Cost: 2.5 to 3 ns per entry of normal rows of 640 to 12288, in cache, on one core of a 2.6 GHz
//! machine with AVX2 or AVX-512, 3.8 to 4.4 without; beside 16 for sorting pairs of magnitude and
//! index and 11 for a radix sort of them.  Up to 5 with heavy tails (cubes of normal numbers), and as
//! for a sort where most magnitudes are far below the mean.
//!
//! Source: Deep, Bhardwaj, Poria, "DELLA-Merging: Reducing Interference in Model Merging through
//! Magnitude-Based Sampling", arXiv 2406.11617; the ends of the ramp are ours, so that its mean is
//! the density.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use super::ramp::Ramp;
use crate::dispatch::{self, Kernel};
use crate::rng::Stream;
use crate::{Error, Result, scratch};

/// Running sums that are made together, each over its own range of buckets.
const LANES: usize = 16;
/// Entries that are ranked together.
const BLOCK: usize = 32;
/// Entries of a bucket that are compared each with each; more are sorted.
const FEW: usize = 9;
/// Counters that are looked through at once for crowded buckets.
const SPAN: usize = 256;
/// Entries that are counted or moved by one turn of a loop: the compiler does not unroll loops
/// whose indices it checks.
const STEPS: usize = 8;

/// The probability with which an entry is kept, by its rank in its row.
///
/// Rank j of n (0 is the largest magnitude; equal ones, and zeros of either sign, in index order)
/// is kept with `density + spread * (0.5 - (j + 0.5) / n)`, computed in f64 and rounded to f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranking {
    /// Mean of the probabilities, (0, 1].
    pub density: f64,
    /// Probability of the first rank less that of the last, at most `2 min(density, 1 - density)`.
    /// With 0 the ranks do not matter and are not computed.
    pub spread: f64,
}

impl Ranking {
    /// Keeps each entry with the probability of its rank, divided by it, and zeroes the others.
    ///
    /// `values` are rows of `cols` finite entries (below 2^31), row-major; entry i survives if
    /// `Stream::uniform(words[i])` is below its probability, in steps of 2^-24.
    ///
    /// # Errors
    /// [`Error::Shape`] where `values` are not whole rows, or `words` not as many.
    pub fn apply(&self, cols: usize, values: &mut [f32], words: &[u32]) -> Result<()> {
        let shape = |what, expected, got: usize| Error::Shape {
            what,
            expected,
            got: format!("{got} entries"),
        };
        if words.len() != values.len() {
            return Err(shape("words", format!("{} entries", values.len()), words.len()));
        }
        if values.is_empty() {
            return Ok(());
        }
        if cols == 0 || !values.len().is_multiple_of(cols) {
            return Err(shape("values", format!("rows of {cols}"), values.len()));
        }
        if self.spread == 0.0 {
            dispatch::run(Thin { keep: self.density as f32, values, words });
            return Ok(());
        }
        let buckets = Buckets::new(cols);
        let padded = cols.next_multiple_of(BLOCK);
        let sizes = [buckets.count() + LANES, cols, padded + 2 * (FEW - 1)];
        scratch::words(sizes.iter().sum(), |memory| {
            let (counts, rest) = memory.split_at_mut(sizes[0]);
            let (places, sorted) = rest.split_at_mut(sizes[1]);
            scratch::floats(padded, |keeps| {
                let ramp = Ramp::new(self.density, self.spread, cols);
                let rows = Row { ramp, buckets, counts, places, sorted, keeps };
                dispatch::run(Rows { row: rows, cols, values, words });
            });
        });
        Ok(())
    }
}

/// The survivor of one draw, or zero.
#[inline(always)]
fn draw(value: f32, word: u32, keep: f32) -> f32 {
    // In f32: the quotient of two f32 rounded from f64 would be the same number.
    if Stream::uniform(word) < keep { value * (1.0 / keep) } else { 0.0 }
}

/// One probability for all.
struct Thin<'v> {
    keep: f32,
    values: &'v mut [f32],
    words: &'v [u32],
}

impl Kernel for Thin<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (value, word) in self.values.iter_mut().zip(self.words) {
            *value = draw(*value, *word, self.keep);
        }
    }
}

struct Rows<'v> {
    row: Row<'v>,
    cols: usize,
    values: &'v mut [f32],
    words: &'v [u32],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        let rows = self.values.chunks_exact_mut(self.cols);
        for (values, words) in rows.zip(self.words.chunks_exact(self.cols)) {
            self.row.apply(values, words);
        }
    }
}

/// A place in a row, which has fewer than 2^31.
#[inline(always)]
fn signed(place: usize) -> i32 {
    (place as u32).cast_signed()
}

/// How a row is divided into buckets, largest magnitudes first.
#[derive(Clone, Copy)]
struct Buckets {
    /// Logarithm of the number of one octave: half to one per entry, and one lane at least.
    octave_log: u32,
}

impl Buckets {
    fn new(cols: usize) -> Self {
        Self { octave_log: cols.ilog2().clamp(LANES.ilog2(), 20) }
    }

    #[inline(always)]
    fn count(self) -> usize {
        2 << self.octave_log
    }

    /// Writes the slot of every entry: where the counter of its bucket lies.
    ///
    /// Lane l has the l-th part of all buckets, and the counters of the lanes alternate in memory.
    #[inline(always)]
    fn assign(self, row: &[f32], slots: &mut [u32]) {
        let (middle, shift) = (middle(row), f32::MANTISSA_DIGITS - 1 - self.octave_log);
        let (first, last) = (middle.to_bits() >> shift, self.count() as u32 - 1);
        let lane_log = self.count().ilog2() - LANES.ilog2();
        let knee = 3 << (self.octave_log - 1);
        let coarse = |rising: u32| knee - knee / 4 + rising / 4;
        for (slot, value) in slots.iter_mut().zip(row) {
            let rising = ((value.abs() + middle).to_bits() >> shift).wrapping_sub(first);
            let bucket = last - rising.min(coarse(rising)).min(last);
            *slot = ((bucket & ((1 << lane_log) - 1)) << LANES.ilog2()) | (bucket >> lane_log);
        }
    }
}

/// Five quarters of the mean magnitude, roughly; never infinite.
#[inline(always)]
fn middle(row: &[f32]) -> f32 {
    let (blocks, tail) = row.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for block in blocks {
        sums.iter_mut().zip(block).for_each(|(sum, value)| *sum += value.abs());
    }
    let sum = sums.iter().sum::<f32>() + tail.iter().map(|value| value.abs()).sum::<f32>();
    let middle = 1.25 * (sum / row.len() as f32);
    if middle < f32::MAX { middle } else { f32::MAX }
}

/// A row at work, in memory that is used again for the next.
struct Row<'s> {
    ramp: Ramp,
    buckets: Buckets,
    /// By slot: entries of the bucket, then where its next entry goes.  Then the sums of the lanes.
    counts: &'s mut [u32],
    /// By entry: its slot, then its place in bucket order, then its probability as bits.
    places: &'s mut [u32],
    /// Magnitude bits in bucket order, between borders that look in order.
    sorted: &'s mut [u32],
    /// Probabilities in bucket order.
    keeps: &'s mut [f32],
}

impl Row<'_> {
    #[inline(always)]
    fn apply(&mut self, row: &mut [f32], words: &[u32]) {
        // The steps are functions of slices: through `self` the loops would load them every time.
        let Self { ramp, buckets, counts, places, sorted, keeps } = self;
        buckets.assign(row, places);
        let (reach, crowded) = count(places, counts);
        accumulate(counts);
        distribute(row, places, counts, sorted, reach);
        if ramp.straight {
            rank(sorted, reach, keeps, |rank| ramp.keep_straight(rank));
        } else {
            rank(sorted, reach, keeps, |rank| ramp.keep(rank));
        }
        if !crowded.is_empty() {
            let sorted = &sorted[reach..];
            sort(&crowded, counts, sorted, keeps, |rank| ramp.keep(rank));
        }
        pick(places, keeps);
        for ((value, word), keep) in row.iter_mut().zip(words).zip(&**places) {
            *value = draw(*value, *word, f32::from_bits(*keep));
        }
    }
}

/// Counts the entries of the buckets.  Returns how far apart two that must be compared may be, and
/// slot and size of the buckets that must be sorted.
#[inline(always)]
fn count(slots: &[u32], counts: &mut [u32]) -> (usize, Vec<(usize, usize)>) {
    counts.fill(0);
    let (blocks, rest) = slots.as_chunks::<STEPS>();
    for block in blocks {
        for slot in block {
            counts[*slot as usize] += 1;
        }
    }
    for slot in rest {
        counts[*slot as usize] += 1;
    }
    let (mut most, mut crowded) = (0, Vec::new());
    for (index, block) in counts.chunks(SPAN).enumerate() {
        let here = block.iter().fold(0, |most: u32, count| most.max(*count));
        most = most.max(here);
        if here as usize > FEW {
            let sizes = (index * SPAN..).zip(block.iter().map(|count| *count as usize));
            crowded.extend(sizes.filter(|(_, size)| *size > FEW));
        }
    }
    ((most as usize).min(FEW) - 1, crowded)
}

/// Turns the counts of buckets into those of all entries before.
#[inline(always)]
fn accumulate(counts: &mut [u32]) {
    let (rows, _) = counts.as_chunks_mut::<LANES>();
    let mut sums = [0u32; LANES];
    for row in rows {
        for (sum, count) in sums.iter_mut().zip(row) {
            let before = *sum;
            *sum += *count;
            *count = before;
        }
    }
    // Read back: sums that are also wanted one by one would not stay in vectors above.  And several
    // rows at once: the compiler would vectorise across single ones, with gathers and scatters.
    let (counts, sums) = counts.split_at_mut(counts.len() - LANES);
    let (mut begins, mut begin) = ([0; LANES * 8], 0);
    for (lane, sum) in sums.iter().enumerate() {
        begins.iter_mut().skip(lane).step_by(LANES).for_each(|at| *at = begin);
        begin += sum;
    }
    for rows in counts.chunks_mut(begins.len()) {
        rows.iter_mut().zip(&begins).for_each(|(count, begin)| *count += begin);
    }
}

/// Brings the magnitudes into bucket order, those of a bucket in index order.
#[inline(always)]
fn distribute(
    row: &[f32],
    places: &mut [u32],
    counts: &mut [u32],
    sorted: &mut [u32],
    reach: usize,
) {
    let (before, rest) = sorted.split_at_mut(reach);
    let (sorted, after) = rest.split_at_mut(row.len());
    before.fill(i32::MAX.cast_unsigned());
    after.fill(0);
    // Two loops: the stores of one would wait for the loads of the other.
    in_pairs(places, |slot| {
        let next = &mut counts[slot as usize];
        *next += 1;
        *next - 1
    });
    let mut bring = |(place, value): (&u32, &f32)| sorted[*place as usize] = value.abs().to_bits();
    let (blocks, rest) = places.as_chunks::<STEPS>();
    let (values, last) = row.as_chunks::<STEPS>();
    for (block, values) in blocks.iter().zip(values) {
        block.iter().zip(values).for_each(&mut bring);
    }
    rest.iter().zip(last).for_each(bring);
}

/// The probabilities, if no bucket is crowded: all that are out of order lie within reach.
#[inline(always)]
fn rank(sorted: &[u32], reach: usize, keeps: &mut [f32], keep: impl Fn(i32) -> f32) {
    let (blocks, _) = keeps.as_chunks_mut::<BLOCK>();
    for (index, keeps) in blocks.iter_mut().enumerate() {
        let from = |place: usize| &sorted[place..place + BLOCK];
        let start = index * BLOCK + reach;
        let mut ranks: [i32; BLOCK] = std::array::from_fn(|i| signed(index * BLOCK + i));
        for step in 1..=reach {
            let neighbours = from(start - step).iter().zip(from(start + step));
            let places = ranks.iter_mut().zip(from(start)).zip(neighbours);
            for ((rank, here), (before, after)) in places {
                // Signed, which the baseline can compare; magnitudes have no sign bit.
                let (before, here) = (before.cast_signed(), here.cast_signed());
                let after = after.cast_signed();
                *rank += i32::from(here < after) - i32::from(before < here);
            }
        }
        keeps.iter_mut().zip(ranks).for_each(|(slot, rank)| *slot = keep(rank));
    }
}

/// The probabilities of crowded buckets, given as slot and size; `ends` tells where they end.
#[cold]
#[inline(never)]
fn sort(
    crowded: &[(usize, usize)],
    ends: &[u32],
    sorted: &[u32],
    keeps: &mut [f32],
    keep: impl Fn(i32) -> f32,
) {
    let mut order = Vec::new();
    for (slot, size) in crowded {
        let end = ends[*slot] as usize;
        let begin = end - size;
        let bits = &sorted[begin..end];
        if bits.is_sorted_by(|a, b| a >= b) {
            continue; // nothing was found out of order, so the ranks are right
        }
        order.clear();
        order.extend((begin..).zip(bits).map(|(place, bits)| (!bits, place)));
        order.sort_unstable();
        for (rank, (_, place)) in (signed(begin)..).zip(&order) {
            keeps[*place] = keep(rank);
        }
    }
}

/// Replaces every place by the probability there.
#[inline(always)]
fn pick(places: &mut [u32], keeps: &[f32]) {
    in_pairs(places, |place| keeps[place as usize].to_bits());
}

/// Replaces every word, in order.  Two are written at once: stores are what such a loop waits for.
#[inline(always)]
fn in_pairs(words: &mut [u32], mut change: impl FnMut(u32) -> u32) {
    let (blocks, rest) = words.as_chunks_mut::<STEPS>();
    for block in blocks {
        for pair in block.as_chunks_mut::<2>().0 {
            let first = u64::from(change(pair[0]));
            let both = first | u64::from(change(pair[1])) << 32;
            *pair = [both as u32, (both >> 32) as u32];
        }
    }
    for word in rest {
        *word = change(*word);
    }
}
