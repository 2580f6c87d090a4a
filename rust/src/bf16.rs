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

use std::ops::Range;

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

/// Calls `one` with every word, its pair of rows and its vector of a row.
#[inline(always)]
#[allow(clippy::inline_always)] // or what it calls is not compiled with the vectors of the machine
fn fill(
    pairs: usize,
    cols: usize,
    words: &mut [Word],
    mut one: impl FnMut(usize, usize, &mut Word),
) {
    let mut rest = words;
    for block in blocks(cols.div_ceil(LANES)) {
        let (own, others) = rest.split_at_mut(pairs * block.len());
        for (pair, own) in own.chunks_exact_mut(block.len()).enumerate() {
            for (vector, word) in block.clone().zip(own) {
                one(pair, vector, word);
            }
        }
        rest = others;
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
    /// `factor * left * self`, row-major; `left` as [`left`] or [`rounded`] makes it.
    ///
    /// # Panics
    /// Where [`supported`] says no, and for sides that do not fit.
    pub(crate) fn times(&self, left: &[u32], factor: f32, out: &mut [f32]) {
        assert!(supported());
        assert_eq!(left.len() * self.cols, out.len() * self.pairs);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has what the function is compiled for.
        unsafe {
            avx512::times(self.words.as_ref(), (self.pairs, self.cols), left, factor, out);
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

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_loadu_ps,
        _mm512_mul_ps, _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    use std::mem::transmute;
    use std::ops::Range;

    use super::{LANES, ROWS, Word, blocks, fill};

    /// Where a block of a product goes.
    #[derive(Clone, Copy)]
    struct Place {
        /// First column.
        from: usize,
        /// Columns, fewer than those of its vectors at the end of a row.
        width: usize,
        /// Of the product.
        cols: usize,
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn times(
        words: &[Word],
        (pairs, cols): (usize, usize),
        left: &[u32],
        factor: f32,
        out: &mut [f32],
    ) {
        let (rows, mut rest) = (left.len() / pairs, words);
        for vectors in blocks(cols.div_ceil(LANES)) {
            let (own, others) = rest.split_at(pairs * vectors.len());
            let from = vectors.start * LANES;
            let at = Place { from, width: cols.min(vectors.end * LANES) - from, cols };
            for first in (0..rows).step_by(ROWS) {
                let n = ROWS.min(rows - first);
                let left = &left[first * pairs..][..n * pairs];
                let out = &mut out[first * cols..][..n * cols];
                match vectors.len() {
                    1 => some_rows::<1>(n, left, own, factor, at, out),
                    2 => some_rows::<2>(n, left, own, factor, at, out),
                    3 => some_rows::<3>(n, left, own, factor, at, out),
                    4 => some_rows::<4>(n, left, own, factor, at, out),
                    5 => some_rows::<5>(n, left, own, factor, at, out),
                    _ => some_rows::<6>(n, left, own, factor, at, out),
                }
            }
            rest = others;
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn some_rows<const C: usize>(
        n: usize,
        left: &[u32],
        right: &[Word],
        factor: f32,
        at: Place,
        out: &mut [f32],
    ) {
        match n {
            1 => block::<1, C>(left, right, factor, at, out),
            2 => block::<2, C>(left, right, factor, at, out),
            3 => block::<3, C>(left, right, factor, at, out),
            _ => block::<ROWS, C>(left, right, factor, at, out),
        }
    }

    /// `R` rows of `C` vectors: all sums stay in registers.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn block<const R: usize, const C: usize>(
        left: &[u32],
        right: &[Word],
        factor: f32,
        at: Place,
        out: &mut [f32],
    ) {
        let (right, _) = right.as_chunks::<C>();
        let mut lefts = [left; R];
        for (r, left) in lefts.iter_mut().enumerate() {
            *left = &left[r * right.len()..][..right.len()];
        }
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        for (pair, right) in right.iter().enumerate() {
            // SAFETY: the types are plain bits of one size.
            let right = unsafe { right.map(|words| transmute::<Word, __m512bh>(words)) };
            for (sums, left) in sums.iter_mut().zip(lefts) {
                let left = _mm512_set1_epi32(left[pair].cast_signed());
                // SAFETY: as above.
                let left = unsafe { transmute::<__m512i, __m512bh>(left) };
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_dpbf16_ps(*sum, left, right);
                }
            }
        }
        let factor = _mm512_set1_ps(factor);
        for (r, sums) in sums.into_iter().enumerate() {
            let out = &mut out[r * at.cols + at.from..][..at.width];
            if at.width == C * LANES {
                for (sum, out) in sums.into_iter().zip(out.as_chunks_mut::<LANES>().0) {
                    // SAFETY: `out` is as long as a vector.
                    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(sum, factor)) }
                }
            } else {
                let mut scaled = [[0f32; LANES]; C];
                for (sum, scaled) in sums.into_iter().zip(&mut scaled) {
                    // SAFETY: as above.
                    unsafe { _mm512_storeu_ps(scaled.as_mut_ptr(), _mm512_mul_ps(sum, factor)) }
                }
                out.copy_from_slice(&scaled.as_flattened()[..at.width]);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn rounded(row: &[f32], words: &mut [u32]) {
        for (row, words) in row.chunks(2 * LANES).zip(words.chunks_mut(LANES)) {
            let high = vector(&row[row.len().min(LANES)..]);
            let both = _mm512_cvtne2ps_pbh(high, vector(row));
            // SAFETY: the types are plain bits of one size.
            let both = unsafe { transmute::<__m512bh, Word>(both) };
            match words.first_chunk_mut() {
                Some(whole) => *whole = both,
                None => words.copy_from_slice(&both[..words.len()]),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn right(values: &[f32], stride: usize, cols: Range<usize>, words: &mut [Word]) {
        let k = values.len() / stride;
        let row = |i: usize| if i < k { &values[i * stride..][cols.clone()] } else { &[] };
        fill(k.div_ceil(2), cols.len(), words, |pair, vector, word| {
            let (low, high) = (row(2 * pair), row(2 * pair + 1));
            let from = |row: &'_ [f32]| (vector * LANES).min(row.len());
            *word = joined(&low[from(low)..], &high[from(high)..]);
        });
    }

    /// Sixteen numbers of two rows, or fewer and zeros: one of each in every word.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    #[inline]
    fn joined(low: &[f32], high: &[f32]) -> Word {
        // SAFETY: the types are plain bits of one size.
        unsafe {
            let order = transmute::<[u16; 2 * LANES], __m512i>(MIXED);
            let both =
                transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(vector(high), vector(low)));
            transmute(_mm512_permutexvar_epi16(order, both))
        }
    }

    /// The first numbers of some, or all and zeros.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn vector(values: &[f32]) -> __m512 {
        if values.len() >= LANES {
            // SAFETY: there are as many numbers as a vector has.
            return unsafe { _mm512_loadu_ps(values.as_ptr()) };
        }
        let mut whole = [0f32; LANES];
        whole[..values.len()].copy_from_slice(values);
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(whole.as_ptr()) }
    }

    /// Numbers of two vectors in turn.
    const MIXED: [u16; 2 * LANES] = {
        let (mut order, mut at) = ([0; 2 * LANES], 0);
        while at < 2 * LANES {
            order[at] = (at / 2 + at % 2 * LANES) as u16;
            at += 1;
        }
        order
    };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dtype::{Dtype, encode};
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
            right.times(&words, 0.3, &mut out);
            assert_eq!(out, wanted, "{n} x {k} x {m}");
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
