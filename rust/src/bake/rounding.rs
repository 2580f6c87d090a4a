//! The loop over the entries of a tile: add, round, store, measure.
#![allow(clippy::inline_always)] // or it is not compiled with the vectors of the machine

use std::marker::PhantomData;
use std::ops::{Add as Plus, AddAssign, Mul, Sub};

use super::Survival;
use crate::dispatch::Kernel;
use crate::dtype::codec::Codec;
use crate::tile::Real;

/// Entries whose numbers are widened at a time: they stay in L1.
const SPAN: usize = 256;
/// Sums side by side: as accurate as one, and none waits for itself.
const LANES: usize = 16;

/// What the arithmetic runs in.
pub(super) trait Number:
    Real + Plus<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + AddAssign
{
}

impl Number for f32 {}
impl Number for f64 {}

/// `out = round(base + delta)`; gives the sums, and the largest magnitude before rounding.
pub(super) struct Add<'v, C, T, const N: usize> {
    pub(super) base: &'v [[u8; N]],
    pub(super) delta: &'v [T],
    pub(super) out: &'v mut [[u8; N]],
    /// Of the base and of what is stored.
    pub(super) codec: PhantomData<C>,
}

impl<C: Codec<N, Number = T>, T: Number, const N: usize> Kernel for Add<'_, C, T, N> {
    type Output = (Survival, u32);

    /// Numbers first, in f64, then one sum after the other: all at once are not made into vectors.
    #[inline(always)]
    fn run(self) -> Self::Output {
        let [mut delta, mut moved, mut along] = [[0f64; LANES]; 3];
        let [mut wanted, mut change] = [[0f64; SPAN]; 2];
        let mut peak = 0;
        let base = self.base.chunks(SPAN);
        let out = self.out.chunks_mut(SPAN);
        for ((base, out), deltas) in base.zip(out).zip(self.delta.chunks(SPAN)) {
            let n = deltas.len();
            let numbers = base.iter().zip(deltas).zip(out);
            for (((base, delta), out), (wanted, change)) in
                numbers.zip(wanted.iter_mut().zip(&mut change))
            {
                let weight = C::load(*base);
                let sum = weight + *delta;
                peak = peak.max(C::magnitude(sum));
                *out = C::store(sum);
                // Exact but where one of them hardly counts beside the other.
                *change = (C::load(*out) - weight).to_f64();
                *wanted = delta.to_f64();
            }
            add_products(&mut delta, &wanted[..n], &wanted[..n]);
            add_products(&mut moved, &change[..n], &change[..n]);
            add_products(&mut along, &change[..n], &wanted[..n]);
        }
        let [delta, moved, along] = [delta, moved, along].map(|lanes| lanes.iter().sum());
        (Survival { delta, moved, along }, peak)
    }
}

#[inline(always)]
fn add_products(lanes: &mut [f64; LANES], x: &[f64], y: &[f64]) {
    let ((blocks, x), (others, y)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in blocks.iter().zip(others) {
        lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
    }
    lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += x * y);
}
