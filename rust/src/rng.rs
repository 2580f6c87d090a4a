//! Counter-based random numbers: Philox4x32-10, and streams addressed by element.
//!
//! A word depends only on (seed, target, adapter, element), so tiles may be filled in any order,
//! on any number of threads, and a mask can be made again instead of stored.  Cost: ten rounds
//! per four words, no memory traffic but the output.
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
//!
//! The format of a stream, which must never change:
//!
//! ```text
//! key     = [seed bits 0..32, seed bits 32..64]
//! counter = [block bits 0..32, block bits 32..48 | adapter << 16,
//!            target bits 0..32, target bits 32..64]        0 <= adapter < 2^16
//! word(e) = philox4x32(counter of block e / 4, key)[e % 4]
//!
//! seed              target            adapter  element        word
//! 0                 0                 0        0              6627e8d5
//! 0                 0                 0        5              5cb200db
//! 1                 2                 3        4              21260774
//! 0123456789abcdef  fedcba9876543210  65535    3ffffffffffff  75c8b351
//! ffffffffffffffff  8000000000000000  1        400000002      40653ec8
//! ```
//!
//! A block has 48 bits, so elements repeat with period 2^50, far above any matrix.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use crate::dispatch::{self, Kernel};
use crate::error::{Error, Result};

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
const WORDS: usize = 4;

/// One block of Philox4x32-10: four words from a 128-bit counter and a 64-bit key.
#[inline(always)]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut x0, mut x1, mut x2, mut x3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(x0);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(x2);
        x0 = (p1 >> 32) as u32 ^ x1 ^ k0;
        x2 = (p0 >> 32) as u32 ^ x3 ^ k1;
        x1 = p1 as u32;
        x3 = p0 as u32;
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [x0, x1, x2, x3]
}

/// The random words of one adapter at one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    target: [u32; 2],
    adapter: u32,
}

impl Stream {
    /// The stream of `adapter` at `target`.
    ///
    /// # Errors
    /// [`Error::Param`] for an adapter above 65535.
    pub fn new(seed: u64, target: u64, adapter: u32) -> Result<Self> {
        if adapter > u32::from(u16::MAX) {
            return Err(Error::Param {
                name: "adapter",
                value: adapter.to_string(),
                allowed: "0 to 65535",
            });
        }
        Ok(Self { key: halves(seed), target: halves(target), adapter })
    }

    /// The word of one element.
    pub fn word(&self, element: u64) -> u32 {
        self.block(element / 4)[(element % 4) as usize]
    }

    /// The words of `out.len()` elements from `first_element` on.
    pub fn fill(&self, first_element: u64, out: &mut [u32]) {
        // A first block that is cut at its start goes word by word; the rest is whole blocks.
        let lead = (first_element.wrapping_neg() % 4).min(out.len() as u64);
        let (head, rest) = out.split_at_mut(lead as usize);
        for (i, slot) in head.iter_mut().enumerate() {
            *slot = self.word(first_element.wrapping_add(i as u64));
        }
        dispatch::run(Fill {
            stream: *self,
            first_block: first_element.wrapping_add(lead) / 4,
            out: rest,
        });
    }

    /// A word as a number in `[0, 1)`: its upper 24 bits times 2^-24, exact in f32.
    #[inline(always)]
    pub fn uniform(word: u32) -> f32 {
        (word >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    #[inline(always)]
    fn block(&self, block: u64) -> [u32; 4] {
        let [low, high] = halves(block);
        let second = (high & 0xFFFF) | (self.adapter << 16);
        philox4x32([low, second, self.target[0], self.target[1]], self.key)
    }
}

struct Fill<'a> {
    stream: Stream,
    first_block: u64,
    out: &'a mut [u32],
}

impl Kernel for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (blocks, tail) = self.out.as_chunks_mut::<WORDS>();
        let last = self.first_block.wrapping_add(blocks.len() as u64);
        for (i, words) in blocks.iter_mut().enumerate() {
            *words = self.stream.block(self.first_block.wrapping_add(i as u64));
        }
        let words = self.stream.block(last);
        tail.copy_from_slice(&words[..tail.len()]);
    }
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}
