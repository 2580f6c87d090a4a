//! Where the signs of dense deltas differ, counted for all pairs in one read.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use rayon::prelude::*;

use super::flat_length;
use crate::dispatch::{self, Kernel};
use crate::dtype::Matrix;
use crate::tile::pieces;
use crate::{Error, Result};

/// Entries decoded at a time.
const BLOCK: usize = 1 << 14;
/// Counters of one byte side by side, and how often they are counted up before they are widened.
const LANES: usize = 64;
const RUN: usize = 255;

/// Codes of signs: those of two entries that differ have all bits together, equal ones share one.
const POSITIVE: u8 = 1;
const NEGATIVE: u8 = 2;

/// Of every pair of deltas the number of positions, `N x N` row-major.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disagreement {
    /// Both entries are non-zero and their signs differ.
    pub conflicts: Vec<u64>,
    /// Both entries are non-zero.
    pub overlaps: Vec<u64>,
}

/// Counts positions by the signs there.  Every delta is one row of a view, of any element type.
///
/// Cost: one read of every delta, and about two byte operations per entry and pair.
///
/// # Errors
/// [`Error::Shape`] if sizes differ, [`Error::NonFinite`] for a NaN or an infinity.
pub fn disagreement(deltas: &[Matrix<'_>]) -> Result<Disagreement> {
    let len = flat_length(deltas)?;
    let n = deltas.len();
    let blocks: Vec<_> = pieces(len, BLOCK).collect();
    let one = |block: std::ops::Range<usize>| {
        let width = block.len();
        let (mut values, mut codes) = (vec![0f64; width], vec![0u8; n * width]);
        let mut counts = vec![[0u64; 2]; n * n];
        let mut bad = None;
        for (index, (delta, codes)) in deltas.iter().zip(codes.chunks_exact_mut(width)).enumerate()
        {
            delta.decode_f64(0..1, block.clone(), &mut values, width)?;
            if !dispatch::run(Encode { values: &values, codes }) {
                bad = bad.or(Some(index));
            }
        }
        for i in 0..n {
            for j in 0..=i {
                let (a, b) = (&codes[i * width..][..width], &codes[j * width..][..width]);
                counts[i * n + j] = dispatch::run(Count { a, b });
            }
        }
        Ok((bad, counts))
    };
    let found: Vec<(Option<usize>, Vec<[u64; 2]>)> =
        blocks.into_par_iter().map(one).collect::<Result<_>>()?;
    if let Some(member) = found.iter().filter_map(|(bad, _)| *bad).min() {
        return Err(Error::NonFinite { member, side: "dense" });
    }
    let mut all = Disagreement { conflicts: vec![0; n * n], overlaps: vec![0; n * n] };
    for i in 0..n {
        for j in 0..=i {
            let at = i * n + j;
            let total = |k: usize| found.iter().map(|(_, counts)| counts[at][k]).sum::<u64>();
            let (conflicts, agreements) = (total(0), total(1));
            for at in [at, j * n + i] {
                all.conflicts[at] = conflicts;
                all.overlaps[at] = conflicts + agreements;
            }
        }
    }
    Ok(all)
}

/// Codes of the signs; false if a value is not finite.
struct Encode<'v> {
    values: &'v [f64],
    codes: &'v mut [u8],
}

impl Kernel for Encode<'_> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let mut largest = 0u64; // as bits: their order is that of the numbers, NaN above all
        for (value, code) in self.values.iter().zip(self.codes) {
            *code = POSITIVE * u8::from(*value > 0.0) + NEGATIVE * u8::from(*value < 0.0);
            largest = largest.max(value.to_bits() & (u64::MAX >> 1));
        }
        largest < f64::INFINITY.to_bits()
    }
}

/// Positions of two deltas where signs differ, and where they are equal.
struct Count<'v> {
    a: &'v [u8],
    b: &'v [u8],
}

impl Kernel for Count<'_> {
    type Output = [u64; 2];

    #[inline(always)]
    fn run(self) -> [u64; 2] {
        let mut counts = [0u64; 2];
        for (a, b) in self.a.chunks(LANES * RUN).zip(self.b.chunks(LANES * RUN)) {
            let (mut differ, mut agree) = ([0u8; LANES], [0u8; LANES]);
            let (a_rows, b_rows) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            for (a, b) in a_rows.0.iter().zip(b_rows.0) {
                for k in 0..LANES {
                    differ[k] += u8::from(a[k] | b[k] == POSITIVE | NEGATIVE);
                    agree[k] += u8::from(a[k] & b[k] != 0);
                }
            }
            for (a, b) in a_rows.1.iter().zip(b_rows.1) {
                counts[0] += u64::from(a | b == POSITIVE | NEGATIVE);
                counts[1] += u64::from(a & b != 0);
            }
            counts[0] += differ.iter().map(|c| u64::from(*c)).sum::<u64>();
            counts[1] += agree.iter().map(|c| u64::from(*c)).sum::<u64>();
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Count, Encode, LANES, RUN};
    use crate::dispatch::{Isa, run_on};

    /// The bytes that count must not wrap where all entries of a block disagree.
    #[test]
    fn every_instruction_set_counts_full_blocks() {
        for len in [0, 1, LANES - 1, LANES * RUN, LANES * RUN + 1, BLOCK] {
            let a: Vec<f64> = (0..len).map(|x| if x % 5 == 0 { 0.0 } else { 1e-300 }).collect();
            let b: Vec<f64> = a.iter().map(|x| -2.0 * x).collect();
            let nonzero = (len - len.div_ceil(5)) as u64;
            for isa in Isa::ALL.into_iter().filter(|isa| isa.supported()) {
                let (mut x, mut y) = (vec![9; len], vec![9; len]);
                assert_eq!(run_on(isa, Encode { values: &a, codes: &mut x }), Some(true));
                assert_eq!(run_on(isa, Encode { values: &b, codes: &mut y }), Some(true));
                assert_eq!(run_on(isa, Count { a: &x, b: &y }), Some([nonzero, 0]), "{isa:?}");
                assert_eq!(run_on(isa, Count { a: &x, b: &x }), Some([0, nonzero]), "{isa:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_seen() {
        for bad in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut values = [1.0; 40];
            values[37] = bad;
            for isa in Isa::ALL.into_iter().filter(|isa| isa.supported()) {
                let found = run_on(isa, Encode { values: &values, codes: &mut [0; 40] });
                assert_eq!(found, Some(false), "{bad} {isa:?}");
            }
        }
    }
}
