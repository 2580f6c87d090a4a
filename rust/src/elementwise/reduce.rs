//! Vote and reduce, over blocks that stay in registers and L1.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise

use super::{Program, Reduce, Vote};
use crate::dispatch::Kernel;

/// Positions handled at a time.
const BLOCK: usize = 256;

/// One tile: the kept entries of one delta after the other, each `out.len()` long.
pub(super) struct ReduceTile<'t> {
    pub(super) program: &'t Program,
    pub(super) values: &'t [f32],
    /// Magnitudes of the users' weights.
    pub(super) weights: &'t [f32],
    pub(super) largest: f32,
    pub(super) out: &'t mut [f32],
}

impl Kernel for ReduceTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let len = self.out.len();
        for (index, out) in self.out.chunks_mut(BLOCK).enumerate() {
            let start = index * BLOCK;
            let member = |i: usize| &self.values[i * len + start..][..out.len()];
            let mut sum = [0f32; BLOCK];
            for i in 0..self.weights.len() {
                sum.iter_mut().zip(member(i)).for_each(|(s, v)| *s += v);
            }
            if self.program.vote == Vote::Count {
                majority(&mut sum, (0..self.weights.len()).map(member));
            }
            if self.program.vote == Vote::None && self.program.reduce == Reduce::Sum {
                out.copy_from_slice(&sum[..out.len()]);
                continue;
            }
            let everybody = self.program.vote == Vote::None;
            let mut total = [0f32; BLOCK];
            let mut share = [0f32; BLOCK];
            for (i, weight) in self.weights.iter().enumerate() {
                let places = total.iter_mut().zip(&mut share).zip(&sum).zip(member(i));
                for (((total, share), winner), value) in places {
                    let agrees = (winner.to_bits() ^ value.to_bits()) >> 31 == 0;
                    let votes = everybody | (agrees & (*winner != 0.0));
                    let counts = votes & (*value != 0.0);
                    *total += if counts { *value } else { 0.0 };
                    *share += if counts { *weight } else { 0.0 };
                }
            }
            let mean = self.program.reduce == Reduce::Mean;
            for ((out, total), share) in out.iter_mut().zip(&total).zip(&share) {
                let scale = if *share > 0.0 { self.largest / share } else { 0.0 };
                *out = total * if mean { scale } else { 1.0 };
            }
        }
    }
}

/// Replaces sums by the count of heads where that is not a draw.
#[inline(always)]
fn majority<'v>(sum: &mut [f32; BLOCK], members: impl Iterator<Item = &'v [f32]>) {
    let mut heads = [0f32; BLOCK];
    for values in members {
        for (heads, value) in heads.iter_mut().zip(values) {
            let up = if *value > 0.0 { 1.0 } else { 0.0 };
            let down = if *value < 0.0 { 1.0 } else { 0.0 };
            *heads += up - down;
        }
    }
    for (sum, heads) in sum.iter_mut().zip(&heads) {
        *sum = if *heads == 0.0 { *sum } else { *heads };
    }
}
