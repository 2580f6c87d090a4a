//! A checksum that tells whether bytes are still those that were written.
//!
//! It guards against mistakes and faults, not against anybody: a changed word always changes its
//! lane, and two changes meet with the chance of a random 64-bit number.  Four lanes of 64 bits
//! per block of 1 MiB, blocks folded in order; memory speed.

use rayon::prelude::*;

const BLOCK: usize = 1 << 20;
const LANES: usize = 4;
/// Odd, so that products keep every bit of what they are made of; the golden ratio.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// Sixty-four bits that stand for the bytes and their number.
pub fn checksum(bytes: &[u8]) -> u64 {
    let blocks: Vec<u64> = bytes.par_chunks(BLOCK).map(of_block).collect();
    blocks.into_iter().fold(bytes.len() as u64, fold)
}

fn of_block(bytes: &[u8]) -> u64 {
    let (rounds, rest) = bytes.as_chunks::<{ 8 * LANES }>();
    let mut lanes = [1u64, 2, 3, 4];
    for round in rounds {
        let words = round.as_chunks::<8>().0;
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = fold(*lane, u64::from_le_bytes(*word));
        }
    }
    let lanes = lanes.into_iter().fold(0, fold);
    rest.iter().fold(lanes, |sum, byte| fold(sum, u64::from(*byte)))
}

#[inline]
fn fold(sum: u64, word: u64) -> u64 {
    (sum ^ word).wrapping_mul(FACTOR).rotate_left(31)
}
