//! Singular values without white noise.
//!
//! Source: Gavish and Donoho, "Optimal shrinkage of singular values", 2017, eq. 7: the shrinker
//! that is optimal for the Frobenius norm.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::spectrum::Spectrum;
use crate::{Error, Result};

/// Shrinks the singular values of a row-major matrix of `rows` rows by noise of mean square
/// `noise` per entry, and brings it back to the norm it had.
///
/// Cost: O(rows cols min(rows, cols)), in f64.
///
/// # Errors
/// [`Error::Overflow`] for entries that are not finite.
pub(crate) fn clean(values: &mut [f32], rows: usize, noise: f64) -> Result<()> {
    if noise <= 0.0 || values.is_empty() {
        return Ok(());
    }
    let cols = values.len() / rows;
    if !values.iter().all(|v| v.is_finite()) {
        return Err(Error::Overflow { value: f32::INFINITY, dtype: "F32" });
    }
    let view = MatRef::from_row_major_slice(values, rows, cols);
    let wide = Mat::from_fn(rows, cols, |i, j| f64::from(view[(i, j)]));
    let svd = wide.thin_svd().map_err(|_| Spectrum::failure())?;
    let full: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let left: Vec<f64> = full.iter().map(|s| shrunk(*s, noise, rows, cols)).collect();
    let scale = norm(&full) / norm(&left);
    if !scale.is_finite() {
        return Ok(()); // nothing but noise: no part of it is better than another
    }
    let up = Mat::from_fn(rows, left.len(), |i, j| (svd.U()[(i, j)] * left[j] * scale) as f32);
    let down = Mat::from_fn(left.len(), cols, |j, i| svd.V()[(i, j)] as f32);
    let out = MatMut::from_row_major_slice_mut(values, rows, cols);
    matmul(out, Accum::Replace, up.as_ref(), down.as_ref(), 1.0, Par::Seq);
    Ok(())
}

/// `sqrt((y^2 - b - 1)^2 - 4 b) / y` for `y >= 1 + sqrt(b)` and 0 below, in units of the noise, b
/// the ratio of the sides.
pub(crate) fn shrunk(value: f64, noise: f64, rows: usize, cols: usize) -> f64 {
    let (long, short) = (rows.max(cols) as f64, rows.min(cols) as f64);
    let (unit, ratio) = ((noise * long).sqrt(), short / long);
    let y = value / unit;
    if y < 1.0 + ratio.sqrt() {
        return 0.0;
    }
    unit * ((y * y - ratio - 1.0).powi(2) - 4.0 * ratio).max(0.0).sqrt() / y
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}
