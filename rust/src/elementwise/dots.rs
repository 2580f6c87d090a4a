//! Sums over tiles: inner products, and where signs disagree.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use faer::{Mat, Side};

use crate::Result;
use crate::dispatch::{self, Kernel};
use crate::spectrum::Spectrum;

/// Lanes of a sum, and products that are added in f32 before the sum goes to f64.
const LANES: usize = 16;
const RUN: usize = 256;
/// Relative square below which a direction of the span is rounding noise.
const DEPENDENT: f64 = 1e-12;
/// Share of a square that f32 products leave as rounding noise.
const ROUNDING: f64 = 1e-6;

/// Inner products of the members of a tile, row-major.
pub(super) fn gram(values: &[f32], len: usize) -> Vec<f64> {
    let count = if len == 0 { 0 } else { values.len() / len };
    let mut gram = vec![0.0; count * count];
    for i in 0..count {
        for j in 0..=i {
            let (a, b) = (&values[i * len..][..len], &values[j * len..][..len]);
            let dot = dispatch::run(Dot { a, b });
            gram[i * count + j] = dot;
            gram[j * count + i] = dot;
        }
    }
    gram
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
        let mut total = 0.0;
        for (a, b) in self.a.chunks(RUN).zip(self.b.chunks(RUN)) {
            let mut lanes = [0f32; LANES];
            for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
                lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(l, (a, b))| *l += a * b);
            }
            total += lanes.iter().map(|l| f64::from(*l)).sum::<f64>();
        }
        total
    }
}

/// 1 at positions where some entry is positive and some negative.
pub(super) fn conflicts(values: &[f32], len: usize) -> Vec<u8> {
    let mut flags = vec![0u8; len];
    for values in values.chunks_exact(len.max(1)) {
        dispatch::run(Signs { values, flags: &mut flags });
    }
    flags.iter_mut().for_each(|flag| *flag = u8::from(*flag == 3));
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
