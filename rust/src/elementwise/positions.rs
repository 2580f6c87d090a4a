//! What happens at a position once it is known which entries are kept: selfish entries, mixing,
//! vote, reduce.  Over blocks that stay in registers and L1.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise

use super::program::{Ballot, Program, Reduce, Selfish, Vote};
use super::selfish::Owners;
use super::source::Source;
use crate::dispatch::{self, Kernel};

/// Positions handled at a time: what belongs to them stays in registers.
const LANES: usize = 32;

/// Share of its terms below which a sum is what f32 products leave of nothing.
const CANCELLED: f32 = 4e-6;

type Lanes = [f32; LANES];

/// A program's arithmetic with the numbers it needs, in f32.
pub(super) struct Positions {
    vote: Vote,
    reduce: Reduce,
    /// What a value is multiplied by to get its ballot; empty for one.
    ballots: Vec<f32>,
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
        Self {
            vote: program.vote,
            reduce: program.reduce,
            ballots: match program.ballot {
                Ballot::Weighted => Vec::new(),
                Ballot::Signed => inverse(&sizes),
                Ballot::Plain => inverse(&weights),
            },
            shares,
            top,
            selfish: program.selfish.map(|rule| (rule, level(rule))),
            mix: floats(&program.mix),
        }
    }

    /// Zeroes selfish entries of members that are `len` long.
    pub(super) fn drop_selfish(&self, values: &mut [f32], len: usize) {
        if let Some((rule, level)) = &self.selfish {
            dispatch::run(TakeOut { rule: *rule, level, values, len });
        }
    }

    /// Reduces kept entries, one delta after the other, each `out.len()` long.
    pub(super) fn reduce(&self, values: &[f32], out: &mut [f32]) {
        dispatch::run(Tile { rule: self, values, out });
    }
}

struct TakeOut<'t> {
    rule: Selfish,
    level: &'t [f32],
    values: &'t mut [f32],
    len: usize,
}

impl Kernel for TakeOut<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for start in (0..self.len).step_by(LANES) {
            let aside = &mut [0f32; LANES][..LANES.min(self.len - start)];
            take_out(self.rule, self.level, self.values, (start, self.len), aside);
        }
    }
}

struct Tile<'t> {
    rule: &'t Positions,
    values: &'t [f32],
    out: &'t mut [f32],
}

impl Kernel for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (len, count) = (self.out.len(), self.rule.shares.len());
        let (whole, tail) = self.out.as_chunks_mut::<LANES>();
        let mut changed = vec![[0f32; LANES]; count];
        let at = |i: usize, index: usize| &self.values[i * len + index * LANES..];
        for (index, out) in whole.iter_mut().enumerate() {
            let member = |i: usize| at(i, index).first_chunk().unwrap_or(&[0.0; LANES]);
            *out = self.rule.position(member, &mut changed);
        }
        if tail.is_empty() {
            return;
        }
        let mut padded = vec![[0f32; LANES]; count];
        for (i, padded) in padded.iter_mut().enumerate() {
            let rest = &at(i, whole.len())[..tail.len()];
            padded[..tail.len()].copy_from_slice(rest);
        }
        let last = self.rule.position(|i| &padded[i], &mut changed);
        tail.copy_from_slice(&last[..tail.len()]);
    }
}

impl Positions {
    /// Everything that happens to the entries of some positions; `changed` is room for them.
    #[inline(always)]
    fn position<'v>(&self, member: impl Fn(usize) -> &'v Lanes, changed: &mut [Lanes]) -> Lanes {
        if self.selfish.is_none() && self.mix.is_empty() {
            return self.reduced(member);
        }
        changed.iter_mut().enumerate().for_each(|(i, lanes)| *lanes = *member(i));
        let mut aside = [0f32; LANES];
        if let Some((selfish, level)) = &self.selfish {
            take_out(*selfish, level, changed.as_flattened_mut(), (0, LANES), &mut aside);
        }
        if !self.mix.is_empty() {
            mixed(&self.mix, changed);
        }
        let mut out = self.reduced(|i| &changed[i]);
        out.iter_mut().zip(&aside).for_each(|(out, aside)| *out += aside);
        out
    }

    /// Vote and reduce.
    #[inline(always)]
    fn reduced<'v>(&self, member: impl Fn(usize) -> &'v Lanes) -> Lanes {
        let divided = !matches!(self.reduce, Reduce::Sum | Reduce::Average);
        if self.vote == Vote::None && !divided {
            let mut sum = *member(0);
            for i in 1..self.shares.len() {
                sum.iter_mut().zip(member(i)).for_each(|(s, v)| *s += v);
            }
            for s in &mut sum {
                *s *= self.top;
            }
            return sum;
        }
        let winner = self.winner(&member);
        let (mut total, mut share) = ([0f32; LANES], [0f32; LANES]);
        if self.reduce == Reduce::Importance {
            self.weigh_by_square(&member, &winner, &mut total, &mut share);
        } else {
            for (i, weight) in self.shares.iter().enumerate() {
                let (ballot, values) = (self.ballot(i), member(i));
                for lane in 0..LANES {
                    let counts = self.counts(winner[lane], values[lane], ballot);
                    total[lane] += if counts { values[lane] } else { 0.0 };
                    share[lane] += if counts { *weight } else { 0.0 };
                }
            }
        }
        let nothing = if self.reduce == Reduce::SignedShare { 1.0 } else { 0.0 };
        let mut out = total;
        for lane in 0..LANES {
            let scale = if share[lane] == 0.0 { nothing } else { self.top / share[lane] };
            out[lane] *= if divided { scale } else { self.top };
        }
        out
    }

    #[inline(always)]
    fn ballot(&self, member: usize) -> f32 {
        self.ballots.get(member).copied().unwrap_or(1.0)
    }

    #[inline(always)]
    fn counts(&self, winner: f32, value: f32, ballot: f32) -> bool {
        let agrees = (winner.to_bits() ^ (value * ballot).to_bits()) >> 31 == 0;
        ((self.vote == Vote::None) | (agrees & (winner != 0.0))) & (value != 0.0)
    }

    /// A number whose sign is the one that wins.
    #[inline(always)]
    fn winner<'v>(&self, member: &impl Fn(usize) -> &'v Lanes) -> Lanes {
        let (mut sum, mut heads) = ([0f32; LANES], [0f32; LANES]);
        let by_heads = matches!(self.vote, Vote::Count | Vote::CountOrPositive);
        for i in 0..self.shares.len() {
            let (ballot, values) = (self.ballot(i), member(i));
            sum.iter_mut().zip(values).for_each(|(s, v)| *s += v * ballot);
            if by_heads {
                for (heads, value) in heads.iter_mut().zip(values) {
                    let value = value * ballot;
                    let up = if value > 0.0 { 1.0 } else { 0.0 };
                    let down = if value < 0.0 { 1.0 } else { 0.0 };
                    *heads += up - down;
                }
            }
        }
        if by_heads {
            let draw = if self.vote == Vote::CountOrPositive { 0.0 } else { 1.0 };
            for (sum, heads) in sum.iter_mut().zip(&heads) {
                *sum = if *heads == 0.0 { *sum * draw } else { *heads };
            }
        }
        if matches!(self.vote, Vote::MassOrPositive | Vote::CountOrPositive) {
            for sum in &mut sum {
                *sum = if *sum == 0.0 { 1.0 } else { *sum };
            }
        }
        sum
    }

    /// Totals and shares with every entry weighted by its squared delta, relative to the largest
    /// of the position so that nothing underflows.
    #[inline(always)]
    fn weigh_by_square<'v>(
        &self,
        member: &impl Fn(usize) -> &'v Lanes,
        winner: &Lanes,
        total: &mut Lanes,
        share: &mut Lanes,
    ) {
        let mut unit = [f32::MIN_POSITIVE; LANES];
        for (i, weight) in self.shares.iter().enumerate() {
            for (unit, value) in unit.iter_mut().zip(member(i)) {
                *unit = unit.max(value.abs() / weight);
            }
        }
        for (i, weight) in self.shares.iter().enumerate() {
            let (ballot, values) = (self.ballot(i), member(i));
            for lane in 0..LANES {
                let counts = self.counts(winner[lane], values[lane], ballot);
                let size = values[lane] / weight / unit[lane];
                let square = if counts { size * size } else { 0.0 };
                total[lane] += values[lane] * square;
                share[lane] += weight * square;
            }
        }
    }
}

/// Moves selfish entries into `aside`: those of the members begin at `start`, `stride` apart.
#[inline(always)]
fn take_out(
    rule: Selfish,
    level: &[f32],
    values: &mut [f32],
    (start, stride): (usize, usize),
    aside: &mut [f32],
) {
    let len = aside.len();
    let place = |i: usize| i * stride + start..i * stride + start + len;
    let owners = Owners::<LANES>::new(rule, level.len(), |i| &values[place(i)]);
    for (i, level) in level.iter().enumerate() {
        let entries = values[place(i)].iter_mut().zip(aside.iter_mut());
        for ((value, aside), owned) in entries.zip(owners.owned(i)) {
            *aside = if owned { *value * level } else { *aside };
            *value = if owned { 0.0 } else { *value };
        }
    }
}

/// `mix * values`, in place; zero where the terms cancel but for rounding, which would have a vote.
#[inline(always)]
fn mixed(mix: &[f32], values: &mut [Lanes]) {
    let old = values.to_vec();
    for (new, row) in values.iter_mut().zip(mix.chunks_exact(old.len())) {
        let (mut sum, mut noise) = ([0f32; LANES], [0f32; LANES]);
        for (factor, old) in row.iter().zip(&old) {
            for ((sum, noise), old) in sum.iter_mut().zip(&mut noise).zip(old) {
                let term = factor * old;
                *sum += term;
                *noise += CANCELLED * term.abs();
            }
        }
        for ((new, sum), noise) in new.iter_mut().zip(&sum).zip(&noise) {
            *new = if sum.abs() < *noise { 0.0 } else { *sum };
        }
    }
}
