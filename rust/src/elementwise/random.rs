//! Random drops that treat all entries alike.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use crate::dispatch::{self, Kernel};
use crate::rng::Stream;

/// Keeps each entry whose draw is below `density`, times `scale`, and zeroes the others.
pub(super) fn drop_alike(density: f32, scale: f32, values: &mut [f32], words: &[u32]) {
    dispatch::run(Drop { density, scale, values, words });
}

struct Drop<'v> {
    density: f32,
    scale: f32,
    values: &'v mut [f32],
    words: &'v [u32],
}

impl Kernel for Drop<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (value, word) in self.values.iter_mut().zip(self.words) {
            let kept = Stream::uniform(*word) < self.density;
            *value = if kept { *value * self.scale } else { 0.0 };
        }
    }
}
