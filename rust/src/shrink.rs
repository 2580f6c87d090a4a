//! Singular values without white noise.
//!
//! Source: Gavish and Donoho, "Optimal shrinkage of singular values", 2017, eq. 7: the shrinker
//! that is optimal for the Frobenius norm.

use std::slice;

use faer::linalg::matmul::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::condense::{Part, SMALL, SPARE};
use crate::panels::{Panels, orthonormal, well_conditioned};
use crate::passes::Dense;
use crate::spectrum::Spectrum;
use crate::start::start;
use crate::tile::TILE;
use crate::{Error, Result};

/// Steps towards the leading directions of a large result that is cleaned: before it is judged
/// whether they are enough; after that at most, and the share of energy that is worth another one.
const FIRST: usize = 1;
const STEPS: usize = 8;
const SETTLED: f64 = 1e-5;

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

/// Shrinks the singular values of a part by white noise; large parts by as many leading directions
/// as stand out of it, twice as many at a time.
pub(crate) fn clean_part(part: &Part<'_, '_>, noise: f64, scratch: &mut [f32]) -> Result<()> {
    let (rows, cols) = (part.group.rows(), part.group.cols());
    if noise <= 0.0 || rows * cols <= SMALL {
        return clean(scratch, rows, noise);
    }
    let dense = Dense { values: scratch, rows, cols };
    let mut width = part.group.rank() + SPARE;
    let (mut left, mut right, square) = loop {
        let Some((left, right, square)) = leading(part, &dense, width)? else {
            return Ok(()); // the caller sees it, too
        };
        // The last directions are found too short: that they look like noise says nothing.
        let beyond = Shrunk::of(&right, noise, rows)?.less.iter().filter(|s| **s == 0.0).count();
        if left.width >= rows.min(cols) || beyond * 4 >= left.width {
            break (left, right, square);
        }
        width *= 2;
    };
    let mut without = Shrunk::of(&right, noise, rows)?;
    for _ in 0..STEPS {
        left = orthonormal(&dense.times(&well_conditioned(&right)?).0, false)?;
        right = dense.projected(&left, false);
        let before = without.found();
        without = Shrunk::of(&right, noise, rows)?;
        if without.found() - before <= SETTLED * without.found() {
            break;
        }
    }
    let Shrunk { turn, full, less } = &without;
    if without.size() == 0.0 {
        return Ok(()); // nothing but noise: no part of it is better than another
    }
    let scale = square.sqrt() / without.size();
    let gain = |(s, f): (&f64, &f64)| if *f > 0.0 { s / f * scale } else { 0.0 };
    let gains: Vec<f64> = less.iter().zip(full).map(gain).collect();
    let scaled = Mat::from_fn(left.width, left.width, |i, j| turn[(i, j)] * gains[j]);
    let left = left.times(&(scaled * turn.transpose()));
    scratch.par_chunks_mut(TILE * cols).zip(left.ranges().collect::<Vec<_>>()).for_each(
        |(out, rows)| {
            let mut out = MatMut::from_row_major_slice_mut(out, rows.len(), cols);
            for cols in right.ranges() {
                let out = out.rb_mut().subcols_mut(cols.start, cols.len());
                let right = right.tile(&cols).transpose();
                matmul(out, Accum::Replace, left.tile(&rows), right, 1.0, Par::Seq);
            }
        },
    );
    Ok(())
}

/// Singular values, with and without noise, of a result of which the coefficients `right` in an
/// orthonormal basis are known.
struct Shrunk {
    turn: Mat<f64>,
    full: Vec<f64>,
    less: Vec<f64>,
}

impl Shrunk {
    fn of(right: &Panels, noise: f64, rows: usize) -> Result<Self> {
        let spectrum = Spectrum::of(right.gram::<f64>().as_ref(), 0.0)?;
        let (turn, roots) = spectrum.leading(right.width);
        let full: Vec<f64> = roots.iter().map(|root| root * root).collect();
        let less = full.iter().map(|s| shrunk(*s, noise, rows, right.len)).collect();
        Ok(Self { turn: turn.to_owned(), full, less })
    }

    /// Squared norm of the directions that are there, noise included.
    fn found(&self) -> f64 {
        self.full.iter().map(|s| s * s).sum()
    }

    /// Norm of what is left.
    fn size(&self) -> f64 {
        self.less.iter().map(|s| s * s).sum::<f64>().sqrt()
    }
}

/// An orthonormal basis of the leading left directions of a dense result, its coefficients in it,
/// and its squared norm; `None` if that is zero or not finite.
fn leading(
    part: &Part<'_, '_>,
    dense: &Dense<'_>,
    width: usize,
) -> Result<Option<(Panels, Panels, f64)>> {
    let width = width.min(dense.rows).min(dense.cols);
    let basis = start(slice::from_ref(part), dense.cols, width, usize::MAX)?;
    let (found, square) = dense.times(&basis);
    if !(square.is_finite() && square > 0.0) {
        return Ok(None);
    }
    let mut left = orthonormal(&found, false)?;
    let mut right = dense.projected(&left, false);
    for _ in 0..FIRST {
        left = orthonormal(&dense.times(&well_conditioned(&right)?).0, false)?;
        right = dense.projected(&left, false);
    }
    Ok(Some((left, right, square)))
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
