//! The same algebra for deltas that are already dense: inner products and linear combinations.
//!
//! One read of every delta for `gram`; one read and one write for `combine`.  Blocks of 16 384
//! entries stay in cache; sums are f64, block by block, in a fixed order.

use rayon::prelude::*;

use crate::dtype::{Dtype, Matrix};
use crate::sink::put;
use crate::tile::pieces;
use crate::{Error, Result};

const BLOCK: usize = 16_384;
const LANES: usize = 16;

/// `N x N` inner products of dense deltas, row-major.  Every delta is one row of a view.
///
/// # Errors
/// [`Error::Shape`] if sizes differ, [`Error::NonFinite`] for a NaN or an infinity.
pub fn gram(deltas: &[Matrix<'_>]) -> Result<Vec<f64>> {
    let len = common_length(deltas)?;
    let n = deltas.len();
    let blocks: Vec<_> = pieces(len, BLOCK).collect();
    let partial: Vec<Vec<f64>> = blocks
        .into_par_iter()
        .map(|block| {
            let decoded = decode(deltas, block)?;
            let at = |x: usize| (x / n, x % n);
            let pair = |x: usize| match at(x) {
                (i, j) if j <= i => dot(&decoded[i], &decoded[j]),
                _ => 0.0,
            };
            Ok((0..n * n).map(pair).collect())
        })
        .collect::<Result<_>>()?;
    let mut k = vec![0.0; n * n];
    for block in &partial {
        k.iter_mut().zip(block).for_each(|(k, b)| *k += b);
    }
    for i in 0..n {
        for j in 0..i {
            k[j * n + i] = k[i * n + j];
        }
    }
    match (0..n).find(|i| !k[i * n + i].is_finite() && deltas[*i].find_non_finite().is_some()) {
        Some(member) => Err(Error::NonFinite { member, side: "dense" }),
        None => Ok(k),
    }
}

/// `sum_i coefficients[i] * deltas[i]` into `out`, summed in f64, encoded as `dtype`.
///
/// # Errors
/// [`Error::Shape`] if sizes differ, [`Error::Overflow`] if `dtype` is too small.
pub fn combine(
    deltas: &[Matrix<'_>],
    coefficients: &[f64],
    dtype: Dtype,
    out: &mut [u8],
) -> Result<()> {
    let len = common_length(deltas)?;
    let fits = coefficients.len() == deltas.len() && out.len() == len * dtype.size();
    if !fits {
        return Err(Error::Shape {
            what: "coefficients and output",
            expected: format!("{} and {} bytes", deltas.len(), len * dtype.size()),
            got: format!("{} and {} bytes", coefficients.len(), out.len()),
        });
    }
    out.par_chunks_mut(BLOCK * dtype.size()).enumerate().try_for_each(|(index, out)| {
        let block = index * BLOCK..index * BLOCK + out.len() / dtype.size();
        let mut sum = vec![0f64; block.len()];
        for (delta, c) in decode(deltas, block)?.iter().zip(coefficients) {
            sum.iter_mut().zip(delta).for_each(|(s, x)| *s += c * x);
        }
        if dtype == Dtype::F64 {
            let bytes = out.chunks_exact_mut(8).zip(&sum);
            bytes.for_each(|(o, s)| o.copy_from_slice(&s.to_le_bytes()));
            return Ok(());
        }
        let values: Vec<f32> = sum.iter().map(|s| *s as f32).collect();
        put(dtype, &values, out)
    })
}

fn common_length(deltas: &[Matrix<'_>]) -> Result<usize> {
    let len = deltas.first().map_or(0, |d| d.rows() * d.cols());
    match deltas.iter().find(|d| d.rows() != 1 || d.cols() != len) {
        Some(odd) => Err(Error::Shape {
            what: "dense delta",
            expected: format!("{len} entries in one row"),
            got: format!("{} x {}", odd.rows(), odd.cols()),
        }),
        None => Ok(len),
    }
}

fn decode(deltas: &[Matrix<'_>], block: std::ops::Range<usize>) -> Result<Vec<Vec<f64>>> {
    let one = |delta: &Matrix<'_>| {
        let mut values = vec![0f64; block.len()];
        delta.decode_f64(0..1, block.clone(), &mut values, block.len())?;
        Ok(values)
    };
    deltas.iter().map(one).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0f64; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail = a_blocks.remainder().iter().zip(b_blocks.remainder());
    let tail: f64 = tail.map(|(x, y)| x * y).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for (lane, (x, y)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += x * y;
        }
    }
    lanes.iter().sum::<f64>() + tail
}
