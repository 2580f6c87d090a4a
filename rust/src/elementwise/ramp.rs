//! The probabilities of a keep rule that falls linearly with the rank, without divisions where that
//! makes no difference.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use crate::dispatch::{self, Kernel};

/// The probabilities of the ranks of rows of one length.
#[derive(Clone, Copy)]
pub(super) struct Ramp {
    density: f64,
    spread: f64,
    count: f64,
    /// The probability of rank 0, and what every further rank takes off.
    first: f64,
    slope: f64,
    /// Whether `first - slope * rank` is the probability of every rank, to the last bit.
    pub(super) straight: bool,
}

impl Ramp {
    /// `cols` are below 2^31.
    pub(super) fn new(density: f64, spread: f64, cols: usize) -> Self {
        let count = cols as f64;
        let slope = spread / count;
        let first = density + 0.5 * (spread - slope);
        let ramp = Self { density, spread, count, first, slope, straight: false };
        Self { straight: dispatch::run(Compare { ramp, cols }), ..ramp }
    }

    /// As [`super::ranked::Ranking`] says.
    #[inline(always)]
    pub(super) fn keep(&self, rank: i32) -> f32 {
        (self.density + self.spread * (0.5 - (f64::from(rank) + 0.5) / self.count)) as f32
    }

    /// Without the division, which would cost as much as finding the rank.
    #[inline(always)]
    pub(super) fn keep_straight(&self, rank: i32) -> f32 {
        (self.first - self.slope * f64::from(rank)) as f32
    }
}

/// Whether a ramp is straight, from a look at every rank.
struct Compare {
    ramp: Ramp,
    cols: usize,
}

impl Kernel for Compare {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let differ =
            |rank| self.ramp.keep(rank).to_bits() ^ self.ramp.keep_straight(rank).to_bits();
        (0..(self.cols as u32).cast_signed()).fold(0, |bits, rank| bits | differ(rank)) == 0
    }
}
