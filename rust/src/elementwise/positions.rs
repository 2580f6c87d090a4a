//! What happens at a position once it is known which entries are kept: selfish entries, mixing,
//! vote, reduce.
//!
//! Every stage is a loop over positions with some of the members inside; see [`super::chunks`].
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_range_loop)] // one index for all members

use super::chunks::{chunk, in_chunks};
use super::program::{Ballot, Program, Reduce, Selfish, Vote};
use super::selfish::Owners;
use super::source::Source;

/// Positions handled at a time: what belongs to them stays in L1.
pub(super) const LANES: usize = 64;

/// Share of its terms below which a sum is what f32 products leave of nothing.
const CANCELLED: f32 = 4e-6;

pub(super) type Lanes = [f32; LANES];

pub(super) const SIGN: u32 = 1 << 31;

/// A program's arithmetic with the numbers it needs, in f32.
pub(super) struct Positions {
    vote: Vote,
    /// Whether entries count by their squares.
    by_square: bool,
    /// What a value is multiplied by to get its ballot.
    pub(super) ballots: Vec<f32>,
    /// Sign bits of the ballots' factors.
    pub(super) flips: Vec<u32>,
    /// What an agreeing entry adds to the divisor; zeros where nothing is divided.
    pub(super) shares: Vec<f32>,
    /// What a total is multiplied by where its share is 0.
    pub(super) plain: f32,
    /// What the mean is multiplied by.
    pub(super) top: f32,
    selfish: Option<(Selfish, Vec<f32>)>,
    mix: Vec<f32>,
}

impl Positions {
    pub(super) fn new<S: Source>(program: &Program, source: &S) -> Self {
        let weights: Vec<f64> = (0..source.count()).map(|i| source.weight(i)).collect();
        let sizes: Vec<f64> = weights.iter().map(|w| w.abs()).collect();
        let largest = sizes.iter().fold(0.0, |a: f64, b| a.max(*b));
        let floats = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let all = |value: f32| vec![value; sizes.len()];
        let over = |x: f64, size: f64| if size == 0.0 { 0.0 } else { (x / size) as f32 };
        let inverse = |values: &[f64]| values.iter().map(|v| over(1.0, *v)).collect();
        let level = |rule: Selfish| -> Vec<f32> {
            let factor = |size: &f64| if rule.level { over(largest, *size) } else { 1.0 };
            sizes.iter().map(factor).collect()
        };
        let average = || over(largest, sizes.iter().sum());
        let (shares, plain, top) = match program.reduce {
            Reduce::Sum => (all(0.0), 1.0, 1.0),
            Reduce::Average => (all(0.0), average(), 1.0),
            Reduce::Count => (all(1.0), 0.0, 1.0),
            Reduce::SignedShare => (floats(&weights), 1.0, 1.0),
            Reduce::Mean | Reduce::Importance => (floats(&sizes), 0.0, largest as f32),
        };
        let ballots: Vec<f32> = match program.ballot {
            Ballot::Weighted => all(1.0),
            Ballot::Signed => inverse(&sizes),
            Ballot::Plain => inverse(&weights),
        };
        Self {
            vote: program.vote,
            by_square: program.reduce == Reduce::Importance,
            flips: ballots.iter().map(|ballot| ballot.to_bits() & SIGN).collect(),
            ballots,
            shares,
            plain,
            top,
            selfish: program.selfish.map(|rule| (rule, level(rule))),
            mix: floats(&program.mix),
        }
    }

    /// Number of members.
    pub(super) fn count(&self) -> usize {
        self.shares.len()
    }

    /// True if there is nothing but a vote by mass, or none, and sums.
    pub(super) fn is_plain(&self) -> bool {
        let by_mass = matches!(self.vote, Vote::None | Vote::Mass | Vote::MassOrPositive);
        by_mass && !self.by_square && self.selfish.is_none() && self.mix.is_empty()
    }

    /// Everything that happens to the kept entries of some positions; changes them.
    #[inline(always)]
    pub(super) fn result(&self, values: &mut [Lanes]) -> Lanes {
        let mut aside = [0f32; LANES];
        self.take_out(values, &mut aside);
        if !self.mix.is_empty() {
            self.blend(values);
        }
        let mut out = self.reduced(values);
        if self.selfish.is_some() {
            out.iter_mut().zip(&aside).for_each(|(out, aside)| *out += aside);
        }
        out
    }

    /// Moves selfish entries into `aside`, if the program does.
    #[inline(always)]
    pub(super) fn take_out(&self, values: &mut [Lanes], aside: &mut Lanes) {
        let Some((rule, level)) = &self.selfish else { return };
        let owners = Owners::<LANES>::new(*rule, values.len(), |i| &values[i]);
        for ((i, values), level) in values.iter_mut().enumerate().zip(level) {
            let entries = values.iter_mut().zip(aside.iter_mut());
            for ((value, aside), owned) in entries.zip(owners.owned(i)) {
                *aside = if owned { *value * level } else { *aside };
                *value = if owned { 0.0 } else { *value };
            }
        }
    }

    /// `mix * values`; zero where the terms cancel but for rounding, which would have a vote.
    #[inline(always)]
    fn blend(&self, values: &mut [Lanes]) {
        let old = values.to_vec();
        for (new, row) in values.iter_mut().zip(self.mix.chunks_exact(old.len())) {
            let (mut sum, mut size) = ([0f32; LANES], [0f32; LANES]);
            in_chunks!(old.len(), add_terms(&old, row, &mut sum, &mut size));
            for lane in 0..LANES {
                let nothing = sum[lane].abs() < CANCELLED * size[lane];
                new[lane] = if nothing { 0.0 } else { sum[lane] };
            }
        }
    }

    /// Vote and reduce.
    #[inline(always)]
    fn reduced(&self, values: &[Lanes]) -> Lanes {
        let winner = self.winner(values);
        let ballots = Ballots { winner: &winner, flips: &self.flips, seen: self.seen() };
        let mut sums = Sums { totals: [0.0; LANES], shares: [0.0; LANES] };
        if self.by_square {
            let mut units = [f32::MIN_POSITIVE; LANES];
            in_chunks!(values.len(), find_largest(values, &self.shares, &mut units));
            in_chunks!(
                values.len(),
                add_squares(values, &self.shares, &ballots, &units, &mut sums)
            );
        } else {
            in_chunks!(values.len(), add_shares(values, &self.shares, &ballots, &mut sums));
        }
        let Sums { totals: mut out, shares } = sums;
        for lane in 0..LANES {
            let share = shares[lane];
            let gain = if share == 0.0 { self.plain } else { self.top / share };
            out[lane] = if winner[lane] == 0.0 { 0.0 } else { out[lane] * gain };
        }
        out
    }

    /// Numbers with the sign that wins; 0 where nobody does, 1 where nobody votes.
    #[inline(always)]
    fn winner(&self, values: &[Lanes]) -> Lanes {
        let (mut mass, mut heads) = ([0f32; LANES], [0f32; LANES]);
        if matches!(self.vote, Vote::Count | Vote::CountOrPositive) {
            in_chunks!(values.len(), add_heads(values, &self.flips, &mut heads));
        }
        if matches!(self.vote, Vote::Mass | Vote::MassOrPositive | Vote::Count) {
            in_chunks!(values.len(), add_mass(values, &self.ballots, &mut mass));
        }
        match self.vote {
            Vote::Mass => mass,
            Vote::Count => or(&heads, &mass),
            Vote::None | Vote::MassOrPositive => or(&mass, &[self.draw(); LANES]),
            Vote::CountOrPositive => or(&heads, &[self.draw(); LANES]),
        }
    }

    /// What wins where nobody does by mass.
    pub(super) fn draw(&self) -> f32 {
        if self.vote == Vote::Mass { 0.0 } else { 1.0 }
    }

    /// Bits of an entry that matter for whether it counts.
    pub(super) fn seen(&self) -> u32 {
        if self.vote == Vote::None { !SIGN } else { !0 }
    }
}

/// Says which entries count: those with the sign of the winner, entries of 0 never.
struct Ballots<'v> {
    winner: &'v Lanes,
    flips: &'v [u32],
    seen: u32,
}

/// Of the entries that count, and of their shares.
struct Sums {
    totals: Lanes,
    shares: Lanes,
}

/// Adds `factors * values`, and the sizes of these terms.
#[inline(always)]
fn add_terms<const C: usize>(
    from: usize,
    values: &[Lanes],
    factors: &[f32],
    sums: &mut Lanes,
    sizes: &mut Lanes,
) {
    let (values, factors) = (chunk::<_, C>(values, from), *chunk::<_, C>(factors, from));
    for lane in 0..LANES {
        for i in 0..C {
            let term = factors[i] * values[i][lane];
            sums[lane] += term;
            sizes[lane] += term.abs();
        }
    }
}

/// Adds the ballots by their size.
#[inline(always)]
fn add_mass<const C: usize>(from: usize, values: &[Lanes], ballots: &[f32], sums: &mut Lanes) {
    let (values, ballots) = (chunk::<_, C>(values, from), *chunk::<_, C>(ballots, from));
    for lane in 0..LANES {
        for i in 0..C {
            sums[lane] += values[i][lane] * ballots[i];
        }
    }
}

/// Adds 1 for every positive ballot, and -1 for every negative one.
#[inline(always)]
fn add_heads<const C: usize>(from: usize, values: &[Lanes], flips: &[u32], sums: &mut Lanes) {
    let (values, flips) = (chunk::<_, C>(values, from), *chunk::<_, C>(flips, from));
    for lane in 0..LANES {
        for i in 0..C {
            let ballot = f32::from_bits(values[i][lane].to_bits() ^ flips[i]);
            sums[lane] += f32::from(ballot > 0.0) - f32::from(ballot < 0.0);
        }
    }
}

/// Adds the entries that count, and their shares.
#[inline(always)]
fn add_shares<const C: usize>(
    from: usize,
    values: &[Lanes],
    shares: &[f32],
    ballots: &Ballots<'_>,
    sums: &mut Sums,
) {
    let (values, shares) = (chunk::<_, C>(values, from), *chunk::<_, C>(shares, from));
    let (flips, seen) = (*chunk::<_, C>(ballots.flips, from), ballots.seen);
    for lane in 0..LANES {
        let turn = ballots.winner[lane].to_bits() & SIGN;
        let (mut total, mut share) = (sums.totals[lane], sums.shares[lane]);
        for i in 0..C {
            let value = values[i][lane];
            let counts = ((value.to_bits() ^ flips[i] ^ turn) & seen).cast_signed() > 0;
            total += if counts { value } else { 0.0 };
            share += if counts { shares[i] } else { 0.0 };
        }
        (sums.totals[lane], sums.shares[lane]) = (total, share);
    }
}

/// The largest `|value| / share` of a position.
#[inline(always)]
fn find_largest<const C: usize>(
    from: usize,
    values: &[Lanes],
    shares: &[f32],
    largest: &mut Lanes,
) {
    let (values, shares) = (chunk::<_, C>(values, from), *chunk::<_, C>(shares, from));
    for lane in 0..LANES {
        for i in 0..C {
            let size = values[i][lane].abs() / shares[i];
            largest[lane] = if size > largest[lane] { size } else { largest[lane] };
        }
    }
}

/// As [`add_shares`], each times the square of `value / share`, in units in which nothing
/// underflows.
#[inline(always)]
fn add_squares<const C: usize>(
    from: usize,
    values: &[Lanes],
    shares: &[f32],
    ballots: &Ballots<'_>,
    units: &Lanes,
    sums: &mut Sums,
) {
    let (values, shares) = (chunk::<_, C>(values, from), *chunk::<_, C>(shares, from));
    let (flips, seen) = (*chunk::<_, C>(ballots.flips, from), ballots.seen);
    for lane in 0..LANES {
        let turn = ballots.winner[lane].to_bits() & SIGN;
        let (mut total, mut share) = (sums.totals[lane], sums.shares[lane]);
        for i in 0..C {
            let value = values[i][lane];
            let size = value / shares[i] / units[lane];
            let counts = ((value.to_bits() ^ flips[i] ^ turn) & seen).cast_signed() > 0;
            let square = if counts { size * size } else { 0.0 };
            total += value * square;
            share += shares[i] * square;
        }
        (sums.totals[lane], sums.shares[lane]) = (total, share);
    }
}

/// `draw` in place of 0.
#[inline(always)]
fn or(winner: &Lanes, draw: &Lanes) -> Lanes {
    let mut out = *winner;
    for lane in 0..LANES {
        out[lane] = if out[lane] == 0.0 { draw[lane] } else { out[lane] };
    }
    out
}
