//! Products of bfloat16 matrices, summed in f32, where the machine has an instruction for them.
//!
//! `VDPBF16PS` multiplies two pairs of bf16 numbers and adds both products to an f32, in the time
//! that FMA needs for one product of f32 numbers: half the time (AMD since Zen 4, Intel since
//! Cooper Lake).  The product of two bf16 numbers is exact in f32, and every sum is rounded once, so
//! factors that are stored as bf16 lose nothing beside f32 arithmetic.  Subnormals count as zero.
//!
//! Every entry of a product is one chain of sums in the order of k: bits depend neither on the
//! blocks nor on the threads.
#![allow(unsafe_code)] // intrinsics take pointers; calls to gated functions come after `supported`

#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

use faer::Accum;

use crate::dtype::Dtype;
use crate::group::Member;
use crate::scratch::words;

/// Numbers of one vector.
const LANES: usize = 16;
/// Vectors of sums that a block of the product has in a row, and its rows: 24 registers.
const ACROSS: usize = 6;
const ROWS: usize = 4;

/// Whether [`Right::times`] may be called.
#[cfg(target_arch = "x86_64")]
pub(crate) fn supported() -> bool {
    use crate::dispatch::Isa;
    Isa::best() == Isa::Avx512 && is_x86_feature_detected!("avx512bf16")
}

/// Whether [`Right::times`] may be called.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn supported() -> bool {
    false
}

/// Factors that may come last: without them f32 products neither overflow nor vanish.
const MODERATE: Range<f64> = 1e-18..1e18;

/// Whether the products of a member's numbers, times a factor, can be made here.
pub(crate) fn multiplies(member: &Member<'_>, factor: f64) -> bool {
    let Member { up, down, .. } = member;
    let stored = up.dtype() == Dtype::Bf16 && down.dtype() == Dtype::Bf16;
    let some = down.rows() > 0 && down.cols() > 0;
    stored && some && (factor == 0.0 || MODERATE.contains(&factor.abs())) && supported()
}

/// The left side of a product: two neighbours of a row in each word, the first one low.
pub(crate) fn left(bytes: &[u8], cols: usize, words: &mut [u32]) {
    let pairs = cols.div_ceil(2);
    let rows = bytes.chunks_exact(2 * cols).zip(words.chunks_exact_mut(pairs));
    for (row, words) in rows {
        let (whole, rest) = row.as_chunks::<4>();
        words.iter_mut().zip(whole).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
        if let [low, high] = rest {
            words[pairs - 1] = u32::from(u16::from_le_bytes([*low, *high]));
        }
    }
}

/// The right side of a product, `k x cols`: two rows in each word, in the order in which they are
/// needed; `W` holds the words.
pub(crate) struct Right<W = Vec<Word>> {
    pairs: usize,
    cols: usize,
    /// Block by block of columns, pair by pair of rows.
    words: W,
}

/// A vector of pairs.
pub(crate) type Word = [u32; LANES];

/// How many words the right side of a product has.
fn words_of(k: usize, cols: usize) -> usize {
    k.div_ceil(2) * cols.div_ceil(LANES)
}

/// Calls `work` with room for the right side of a product.
pub(crate) fn room<T>(k: usize, cols: usize, work: impl FnOnce(&mut [Word]) -> T) -> T {
    words(LANES * words_of(k, cols), |words| work(words.as_chunks_mut().0))
}

impl Right {
    /// A row-major matrix of bf16 bytes.
    pub(crate) fn new(bytes: &[u8], k: usize, cols: usize) -> Self {
        let mut words = vec![[0; LANES]; words_of(k, cols)];
        let row = |i: usize| if i < k { &bytes[2 * i * cols..][..2 * cols] } else { &[] };
        fill(k.div_ceil(2), cols, &mut words, |pair, vector, word| {
            join(part(row(2 * pair), vector), part(row(2 * pair + 1), vector), word);
        });
        Self { pairs: k.div_ceil(2), cols, words }
    }
}

impl<'w> Right<&'w [Word]> {
    /// Columns of a row-major matrix of f32 numbers with rows of `stride`, rounded to the nearest,
    /// ties to even.
    ///
    /// # Panics
    /// As [`Self::times`].
    pub(crate) fn rounded(
        values: &[f32],
        stride: usize,
        cols: Range<usize>,
        words: &'w mut [Word],
    ) -> Self {
        assert!(supported());
        let (pairs, width) = ((values.len() / stride).div_ceil(2), cols.len());
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has what the function is compiled for.
        unsafe {
            avx512::right(values, stride, cols, words);
        }
        Self { pairs, cols: width, words }
    }
}

/// Calls `one` with every word, its pair of rows and its vector of a row.  Rows are read from end to
/// end, for they may lie pages apart.
#[inline(always)]
#[allow(clippy::inline_always)] // or what it calls is not compiled with the vectors of the machine
fn fill(
    pairs: usize,
    cols: usize,
    words: &mut [Word],
    mut one: impl FnMut(usize, usize, &mut Word),
) {
    let vectors = cols.div_ceil(LANES);
    for pair in 0..pairs {
        for block in blocks(vectors) {
            let own = &mut words[pairs * block.start + pair * block.len()..][..block.len()];
            for (vector, word) in block.zip(own) {
                one(pair, vector, word);
            }
        }
    }
}

/// Bytes of a vector of a row, as far as there are any.
fn part(row: &[u8], vector: usize) -> &[u8] {
    let from = (2 * LANES * vector).min(row.len());
    &row[from..row.len().min(from + 2 * LANES)]
}

fn join(low: &[u8], high: &[u8], words: &mut Word) {
    let half = |bytes: &[u8; 2]| u32::from(u16::from_le_bytes(*bytes));
    for (word, low) in words.iter_mut().zip(low.as_chunks().0) {
        *word = half(low);
    }
    for (word, high) in words.iter_mut().zip(high.as_chunks().0) {
        *word |= half(high) << 16;
    }
}

/// Vectors of a row in blocks of nearly one size.
fn blocks(vectors: usize) -> impl Iterator<Item = Range<usize>> {
    let count = vectors.div_ceil(ACROSS);
    (0..count).map(move |i| i * vectors / count..(i + 1) * vectors / count)
}

impl<W: AsRef<[Word]>> Right<W> {
    /// Writes `factor * left * self`, row-major, or adds it; `left` as [`left`] or [`rounded`] makes it.
    ///
    /// # Panics
    /// Where [`supported`] says no, and for sides that do not fit.
    pub(crate) fn times(&self, left: &[u32], factor: f32, accum: Accum, out: &mut [f32]) {
        assert!(supported());
        assert_eq!(left.len() * self.cols, out.len() * self.pairs);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has what the function is compiled for.
        unsafe {
            avx512::times(self.words.as_ref(), (self.pairs, self.cols), left, (factor, accum), out);
        }
    }
}

/// The left side of a product, of f32 numbers: rounded to the nearest, ties to even.
///
/// # Panics
/// As [`Right::times`].
pub(crate) fn rounded(values: &[f32], cols: usize, words: &mut [u32]) {
    assert!(supported());
    let rows = values.chunks_exact(cols).zip(words.chunks_exact_mut(cols.div_ceil(2)));
    #[cfg(target_arch = "x86_64")]
    for (row, words) in rows {
        // SAFETY: the machine has what the function is compiled for.
        unsafe { avx512::rounded(row, words) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    drop(rows);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dtype::encode;
    use crate::rng::Stream;

    fn numbers(len: usize, seed: u64) -> Vec<f32> {
        let mut words = vec![0u32; len];
        Stream::new(seed, 0, 0).unwrap().fill(0, &mut words);
        let of =
            |word: &u32| (Stream::uniform(*word) - 0.5) * f32::powi(2.0, (word % 7).cast_signed());
        words.iter().map(of).collect()
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; 2 * values.len()];
        encode(Dtype::Bf16, values, &mut bytes).unwrap();
        bytes
    }

    fn nearest(value: f32) -> f32 {
        half::bf16::from_f32(value).to_f32()
    }

    /// What the instruction is said to do: second of a pair first, one rounding for each product.
    fn plain(
        left: &[f32],
        right: &[f32],
        (n, k, m): (usize, usize, usize),
        factor: f32,
    ) -> Vec<f32> {
        let entry = |at: usize| {
            let (i, j) = (at / m, at % m);
            let one = |x: usize, sum: f32| {
                if x < k {
                    nearest(left[i * k + x]).mul_add(nearest(right[x * m + j]), sum)
                } else {
                    sum
                }
            };
            (0..k).step_by(2).fold(0.0, |sum, x| one(x, one(x + 1, sum))) * factor
        };
        (0..n * m).map(entry).collect()
    }

    #[test]
    fn products_are_chains_of_exact_products() {
        if !supported() {
            return;
        }
        for (n, k, m) in
            [(1, 1, 1), (4, 32, 96), (5, 7, 17), (3, 2, 100), (9, 33, 112), (12, 64, 130)]
        {
            let (a, b) = (numbers(n * k, 1), numbers(k * m, 2));
            let right = Right::new(&bytes(&b), k, m);
            let wanted = plain(&a, &b, (n, k, m), 0.3);
            let mut words = vec![7; n * k.div_ceil(2)];
            let mut out = vec![f32::NAN; n * m];
            left(&bytes(&a), k, &mut words);
            right.times(&words, 0.3, Accum::Replace, &mut out);
            assert_eq!(out, wanted, "{n} x {k} x {m}");
            let product = plain(&a, &b, (n, k, m), 1.0);
            let twice = product.iter().zip(&out).map(|(sum, before)| sum.mul_add(-0.7, *before));
            let twice: Vec<f32> = twice.collect();
            right.times(&words, -0.7, Accum::Add, &mut out);
            assert_eq!(out, twice, "{n} x {k} x {m}");
            let mut again = vec![7; words.len()];
            rounded(&a, k, &mut again);
            assert_eq!(words, again);
            let wide: Vec<f32> =
                b.chunks(m).flat_map(|row| [&[1e3], row, &[-1e3; 2]].concat()).collect();
            let mut room = vec![[7; LANES]; words_of(k, m)];
            let rounded = Right::rounded(&wide, m + 3, 1..1 + m, &mut room);
            assert_eq!(rounded.words, right.words);
        }
    }
}
