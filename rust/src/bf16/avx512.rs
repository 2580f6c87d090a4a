//! The products themselves: 512-bit vectors of pairs.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
    _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
    _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
};
use std::mem::transmute;
use std::ops::Range;

use faer::Accum;

use super::{LANES, ROWS, Word, blocks, fill};

/// How many rows ahead reading begins: no machine foresees that it goes on in another page.
const AHEAD: usize = 8;

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
    last: (f32, Accum),
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
                1 => some_rows::<1>(n, left, own, last, at, out),
                2 => some_rows::<2>(n, left, own, last, at, out),
                3 => some_rows::<3>(n, left, own, last, at, out),
                4 => some_rows::<4>(n, left, own, last, at, out),
                5 => some_rows::<5>(n, left, own, last, at, out),
                _ => some_rows::<6>(n, left, own, last, at, out),
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
    last: (f32, Accum),
    at: Place,
    out: &mut [f32],
) {
    match n {
        1 => block::<1, C>(left, right, last, at, out),
        2 => block::<2, C>(left, right, last, at, out),
        3 => block::<3, C>(left, right, last, at, out),
        _ => block::<ROWS, C>(left, right, last, at, out),
    }
}

/// `R` rows of `C` vectors: all sums stay in registers.
#[target_feature(enable = "avx512f,avx512bf16")]
fn block<const R: usize, const C: usize>(
    left: &[u32],
    right: &[Word],
    last: (f32, Accum),
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
    let factor = _mm512_set1_ps(last.0);
    for (r, sums) in sums.into_iter().enumerate() {
        let out = &mut out[r * at.cols + at.from..][..at.width];
        for (sum, out) in sums.into_iter().zip(out.chunks_mut(LANES)) {
            let value = match last.1 {
                Accum::Replace => _mm512_mul_ps(sum, factor),
                Accum::Add => _mm512_fmadd_ps(sum, factor, vector(out)),
            };
            store(value, out);
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
        for far in [2 * pair + AHEAD, 2 * pair + AHEAD + 1] {
            if let Some(value) = row(far).get(vector * LANES) {
                _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
            }
        }
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
        let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(vector(high), vector(low)));
        transmute(_mm512_permutexvar_epi16(order, both))
    }
}

/// The first numbers of some, or all and zeros.
#[target_feature(enable = "avx512f")]
#[inline]
fn vector(values: &[f32]) -> __m512 {
    // SAFETY: no more numbers are read than there are.
    unsafe { _mm512_maskz_loadu_ps(first(values.len()), values.as_ptr()) }
}

/// Writes the first numbers of a vector, as many as there is room for.
#[target_feature(enable = "avx512f")]
#[inline]
fn store(numbers: __m512, out: &mut [f32]) {
    // SAFETY: no more numbers are written than there is room for.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), first(out.len()), numbers) }
}

/// A mask of the first numbers of a vector.
fn first(count: usize) -> u16 {
    if count < LANES { (1 << count) - 1 } else { u16::MAX }
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
