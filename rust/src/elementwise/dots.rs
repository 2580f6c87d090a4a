//! Sums over tiles: inner products, and where signs disagree.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use faer::{Mat, Side};

use crate::Result;
use crate::dispatch::{self, Kernel};
use crate::spectrum::Spectrum;

/// Lanes of a sum.
const LANES: usize = 16;
/// Relative square below which a direction of the span is rounding noise.
const DEPENDENT: f64 = 1e-12;
/// Share of a square that is rounding noise of an f32 result.
const ROUNDING: f64 = 1e-12;

/// Inner products of the members of a tile, row-major.
pub(super) fn gram(values: &[f32], len: usize) -> Vec<f64> {
    let count = values.len().checked_div(len).unwrap_or(0);
    let mut gram = vec![0.0; count * count];
    for i in 0..count {
        for j in 0..=i {
            let (a, b) = (&values[i * len..][..len], &values[j * len..][..len]);
            let dot = dot(a, b);
            gram[i * count + j] = dot;
            gram[j * count + i] = dot;
        }
    }
    gram
}

/// The inner product of as many numbers.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    dispatch::run(Dot { a, b })
}

/// Sums in order, of squares of `size` numbers.
pub(super) fn sum(parts: Vec<Vec<f64>>, size: usize) -> Vec<f64> {
    let mut all = vec![0.0; size];
    for part in parts {
        all.iter_mut().zip(part).for_each(|(a, p)| *a += p);
    }
    all
}

struct Dot<'v> {
    a: &'v [f32],
    b: &'v [f32],
}

impl Kernel for Dot<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut lanes = [0f64; LANES];
        let ((a, x), (b, y)) = (self.a.as_chunks::<LANES>(), self.b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            let pairs = lanes.iter_mut().zip(a.iter().zip(b));
            pairs.for_each(|(l, (a, b))| *l += f64::from(*a) * f64::from(*b));
        }
        let pairs = lanes.iter_mut().zip(x.iter().zip(y));
        pairs.for_each(|(l, (a, b))| *l += f64::from(*a) * f64::from(*b));
        lanes.iter().sum()
    }
}

/// 1 at positions where some entry is positive and some negative.
pub(super) fn conflicts(values: &[f32], len: usize) -> Vec<u8> {
    let mut flags = vec![0u8; len];
    for values in values.chunks_exact(len.max(1)) {
        dispatch::run(Signs { values, flags: &mut flags });
    }
    for flag in &mut flags {
        *flag = u8::from(*flag == 3);
    }
    flags
}

struct Signs<'v> {
    values: &'v [f32],
    flags: &'v mut [u8],
}

impl Kernel for Signs<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (flag, value) in self.flags.iter_mut().zip(self.values) {
            *flag |= u8::from(*value > 0.0) | (u8::from(*value < 0.0) << 1);
        }
    }
}

/// Squared norm of the last of `n` vectors outside the span of the others, from inner products.
pub(super) fn outside_span(gram: &[f64], n: usize) -> Result<f64> {
    let at = |i: usize, j: usize| gram[i * n + j];
    let others = n - 1;
    let square = at(others, others);
    let size = |i: usize| at(i, i).sqrt();
    // Cosines, so that a small delta counts as much as a large one.
    let used: Vec<usize> = (0..others).filter(|i| size(*i) > 0.0).collect();
    let cosine = |i: usize, j: usize| at(used[i], used[j]) / (size(used[i]) * size(used[j]));
    let cosines = Mat::from_fn(used.len(), used.len(), cosine);
    let eigen = cosines.self_adjoint_eigen(Side::Lower).map_err(|_| Spectrum::failure())?;
    let mut inside = 0.0;
    for (j, value) in eigen.S().column_vector().iter().enumerate() {
        let part = |(k, i): (usize, &usize)| eigen.U()[(k, j)] * at(*i, others) / size(*i);
        let along: f64 = used.iter().enumerate().map(part).sum();
        if *value > DEPENDENT {
            inside += along * along / value;
        }
    }
    Ok((square * (1.0 - ROUNDING) - inside).max(0.0))
}
