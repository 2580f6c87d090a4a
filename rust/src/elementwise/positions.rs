//! What happens at a position once it is known which entries are kept: selfish entries, mixing,
//! vote, reduce.
//!
//! Every stage is a loop over positions with all members of a position inside.  Where the number
//! of members is known to the compiler (see [`super::decide`]), it unrolls the inner loops and
//! vectorises the outer one: what belongs to a position stays in registers.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise
#![allow(clippy::needless_range_loop)] // one index for all members

use super::program::{Ballot, Program, Reduce, Selfish, Vote};
use super::selfish::Owners;
use super::source::Source;

/// Positions handled at a time: what belongs to them stays in L1.
pub(super) const LANES: usize = 64;

/// Share of its terms below which a sum is what f32 products leave of nothing.
const CANCELLED: f32 = 4e-6;

pub(super) type Lanes = [f32; LANES];

const SIGN: u32 = 1 << 31;

/// A program's arithmetic with the numbers it needs, in f32.
pub(super) struct Positions {
    vote: Vote,
    reduce: Reduce,
    /// What a value is multiplied by to get its ballot; empty for one.
    ballots: Vec<f32>,
    /// Sign bits of the ballots' factors.
    flips: Vec<u32>,
    /// What an agreeing entry adds to the divisor.
    shares: Vec<f32>,
    /// What the mean is multiplied by.
    top: f32,
    selfish: Option<(Selfish, Vec<f32>)>,
    mix: Vec<f32>,
}

impl Positions {
    pub(super) fn new<S: Source>(program: &Program, source: &S) -> Self {
        let weights: Vec<f64> = (0..source.count()).map(|i| source.weight(i)).collect();
        let sizes: Vec<f64> = weights.iter().map(|w| w.abs()).collect();
        let largest = sizes.iter().fold(0.0, |a: f64, b| a.max(*b));
        let floats = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let ones = || vec![1.0; sizes.len()];
        let over = |x: f64, size: f64| if size == 0.0 { 0.0 } else { (x / size) as f32 };
        let inverse = |values: &[f64]| values.iter().map(|v| over(1.0, *v)).collect();
        let level = |rule: Selfish| -> Vec<f32> {
            let factor = |size: &f64| if rule.level { over(largest, *size) } else { 1.0 };
            sizes.iter().map(factor).collect()
        };
        let (shares, top) = match program.reduce {
            Reduce::Sum | Reduce::Count => (ones(), 1.0),
            Reduce::Average => (ones(), over(largest, sizes.iter().sum())),
            Reduce::SignedShare => (floats(&weights), 1.0),
            Reduce::Mean | Reduce::Importance => (floats(&sizes), largest as f32),
        };
        let ballots: Vec<f32> = match program.ballot {
            Ballot::Weighted => Vec::new(),
            Ballot::Signed => inverse(&sizes),
            Ballot::Plain => inverse(&weights),
        };
        let flip = |i: usize| ballots.get(i).map_or(0, |b: &f32| b.to_bits() & SIGN);
        Self {
            vote: program.vote,
            reduce: program.reduce,
            flips: (0..sizes.len()).map(flip).collect(),
            ballots,
            shares,
            top,
            selfish: program.selfish.map(|rule| (rule, level(rule))),
            mix: floats(&program.mix),
        }
    }

    /// Number of members.
    pub(super) fn count(&self) -> usize {
        self.shares.len()
    }

    /// Everything that happens to the kept entries of some positions; changes them.
    #[inline(always)]
    pub(super) fn result(&self, values: &mut [Lanes]) -> Lanes {
        let mut aside = [0f32; LANES];
        self.take_out(values, &mut aside);
        if !self.mix.is_empty() {
            mixed(&self.mix, values);
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

    /// Vote and reduce.
    #[inline(always)]
    fn reduced(&self, values: &[Lanes]) -> Lanes {
        let winner = match self.vote {
            Vote::None => [1.0; LANES],
            Vote::Mass => self.mass(values),
            Vote::MassOrPositive => or_positive(self.mass(values)),
            Vote::Count => self.heads(values, self.mass(values)),
            Vote::CountOrPositive => or_positive(self.heads(values, [0.0; LANES])),
        };
        match (self.vote, self.reduce) {
            (Vote::None, Reduce::Sum | Reduce::Average) => {
                summed(values, |value, _| value).map(|sum| sum * self.top)
            }
            (Vote::None, Reduce::Importance) => self.by_importance::<false>(values, &winner),
            (Vote::None, _) => self.by_share::<false>(values, &winner),
            (_, Reduce::Importance) => self.by_importance::<true>(values, &winner),
            _ => self.by_share::<true>(values, &winner),
        }
    }

    /// Sums of the ballots.
    #[inline(always)]
    fn mass(&self, values: &[Lanes]) -> Lanes {
        if self.ballots.is_empty() {
            return summed(values, |value, _| value);
        }
        let ballots = &self.ballots[..values.len()]; // as many as the compiler knows
        summed(values, |value, i| value * ballots[i])
    }

    /// Positive ballots less negative ones, and `draw` where they are as many.
    #[inline(always)]
    fn heads(&self, values: &[Lanes], draw: Lanes) -> Lanes {
        let flips = &self.flips[..values.len()];
        let head = |value: f32, i: usize| {
            let value = f32::from_bits(value.to_bits() ^ flips[i]);
            let (up, down) = (f32::from(value > 0.0), f32::from(value < 0.0));
            up - down
        };
        let mut winner = summed(values, head);
        for (winner, draw) in winner.iter_mut().zip(&draw) {
            *winner = if *winner == 0.0 { *draw } else { *winner };
        }
        winner
    }

    /// The sum of the entries that count, over their shares where the program divides.
    #[inline(always)]
    fn by_share<const VOTES: bool>(&self, values: &[Lanes], winner: &Lanes) -> Lanes {
        let (flips, shares) = (&self.flips[..values.len()], &self.shares[..values.len()]);
        let (mut total, mut share) = ([0f32; LANES], [0f32; LANES]);
        for lane in 0..LANES {
            let (mut t, mut s) = (0.0, 0.0);
            for ((values, flip), weight) in values.iter().zip(flips).zip(shares) {
                let value = values[lane];
                let counts = counts::<VOTES>(winner[lane], value, *flip);
                t = if counts { t + value } else { t };
                s = if counts { s + weight } else { s };
            }
            (total[lane], share[lane]) = if winner[lane] == 0.0 { (0.0, 0.0) } else { (t, s) };
        }
        match self.reduce {
            Reduce::Sum | Reduce::Average => total.map(|total| total * self.top),
            Reduce::SignedShare => self.over(total, &share, 1.0),
            _ => self.over(total, &share, 0.0),
        }
    }

    /// The mean of the entries that count, weighted by squared deltas too; relative to the largest
    /// of the position so that nothing underflows.
    #[inline(always)]
    fn by_importance<const VOTES: bool>(&self, values: &[Lanes], winner: &Lanes) -> Lanes {
        let (flips, shares) = (&self.flips[..values.len()], &self.shares[..values.len()]);
        let (mut total, mut share) = ([0f32; LANES], [0f32; LANES]);
        for lane in 0..LANES {
            let mut unit = f32::MIN_POSITIVE;
            for (values, weight) in values.iter().zip(shares) {
                unit = larger(unit, values[lane].abs() / weight);
            }
            let (mut t, mut s) = (0.0, 0.0);
            for ((values, flip), weight) in values.iter().zip(flips).zip(shares) {
                let value = values[lane];
                let size = value / weight / unit;
                let counts = counts::<VOTES>(winner[lane], value, *flip);
                let square = if counts { size * size } else { 0.0 };
                t += value * square;
                s += weight * square;
            }
            (total[lane], share[lane]) = if winner[lane] == 0.0 { (0.0, 0.0) } else { (t, s) };
        }
        self.over(total, &share, 0.0)
    }

    /// `total * top / share`, and `nothing` times the total where the share is 0.
    #[inline(always)]
    fn over(&self, mut total: Lanes, share: &Lanes, nothing: f32) -> Lanes {
        for (total, share) in total.iter_mut().zip(share) {
            *total *= if *share == 0.0 { nothing } else { self.top / share };
        }
        total
    }
}

/// Whether an entry has the sign of a winner that is not 0, if there was a vote; entries of 0 do
/// not count.
#[inline(always)]
fn counts<const VOTES: bool>(winner: f32, value: f32, flip: u32) -> bool {
    let turned = value.to_bits() ^ flip ^ (winner.to_bits() & SIGN);
    if VOTES { f32::from_bits(turned) > 0.0 } else { value != 0.0 }
}

/// Sums over the members of what `part` makes of an entry.
#[inline(always)]
fn summed(values: &[Lanes], part: impl Fn(f32, usize) -> f32) -> Lanes {
    let mut sums = [0f32; LANES];
    for lane in 0..LANES {
        let mut sum = part(values[0][lane], 0);
        for (i, values) in values.iter().enumerate().skip(1) {
            sum += part(values[lane], i);
        }
        sums[lane] = sum;
    }
    sums
}

#[inline(always)]
fn or_positive(mut winner: Lanes) -> Lanes {
    for value in &mut winner {
        *value = if *value == 0.0 { 1.0 } else { *value };
    }
    winner
}

/// [`f32::max`] looks for NaN, too.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `mix * values`, in place; zero where the terms cancel but for rounding, which would have a vote.
#[inline(always)]
fn mixed(mix: &[f32], values: &mut [Lanes]) {
    let old = values.to_vec();
    for (new, row) in values.iter_mut().zip(mix.chunks_exact(old.len())) {
        for lane in 0..LANES {
            let (mut sum, mut noise) = (0.0, 0.0);
            for (factor, old) in row.iter().zip(&old) {
                let term = factor * old[lane];
                sum += term;
                noise += CANCELLED * term.abs();
            }
            new[lane] = if sum.abs() < noise { 0.0 } else { sum };
        }
    }
}
