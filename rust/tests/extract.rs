//! Factors of matrices of which nothing is known.
#![allow(clippy::unwrap_used)]

use loramix_core::Error;
use loramix_core::dtype::{Dtype, Matrix};
use loramix_core::extract::extract;
use loramix_core::recompress::{Recompressed, Rule};
use loramix_core::rng::Stream;

/// Numbers in [-1, 1).
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut words = vec![0u32; count];
    Stream::new(seed, 0, 0).unwrap().fill(0, &mut words);
    words.into_iter().map(|word| f64::from(word.cast_signed()) / 2f64.powi(31)).collect()
}

/// A sum of `rank` random products, the j-th of size `sizes(j)`.
fn matrix(rows: usize, cols: usize, rank: usize, sizes: impl Fn(usize) -> f64) -> Vec<f32> {
    let (up, down) = (numbers(1, rows * rank), numbers(2, rank * cols));
    let entry = |i: usize, j: usize| {
        (0..rank).map(|a| up[i * rank + a] * down[a * cols + j] * sizes(a)).sum::<f64>()
    };
    (0..rows * cols).map(|x| entry(x / cols, x % cols) as f32).collect()
}

fn rule(rank: Option<usize>, energy: Option<f64>, max_error: Option<f64>) -> Rule {
    Rule { rank, energy, max_error, alpha: None, steps: 0 }
}

/// What was made, and its relative distance from the matrix, entry by entry.
fn run(values: &[f32], rows: usize, cols: usize, rule: &Rule) -> (Recompressed, f64) {
    let most = rule.rank.unwrap_or(usize::MAX).min(rows).min(cols);
    let mut out = vec![0; 4 * (rows + cols) * most];
    let done = extract(values, rows, cols, rule, Dtype::F32, &mut out).unwrap();
    let (rank, size) = (done.rank, rows * done.rank);
    let mut factors = vec![0f64; (rows + cols) * rank];
    let bytes = &out[..4 * factors.len()];
    let view = Matrix::new(Dtype::F32, 1, factors.len(), bytes).unwrap();
    let count = factors.len();
    view.decode_f64(0..1, 0..count, &mut factors, count).unwrap();
    let (up, down) = factors.split_at(size);
    let (mut gap, mut norm) = (0.0, 0.0);
    for (x, value) in values.iter().enumerate() {
        let (i, j) = (x / cols, x % cols);
        let got: f64 = (0..rank).map(|a| up[i * rank + a] * down[a * cols + j]).sum();
        gap += (f64::from(*value) - got).powi(2);
        norm += f64::from(*value).powi(2);
    }
    assert!((done.norm - norm.sqrt()).abs() <= 1e-6 * norm.sqrt());
    (done, (gap / norm).sqrt())
}

#[test]
fn what_has_a_low_rank_is_found() {
    for (rows, cols, rank) in [(1, 1, 1), (30, 7, 3), (300, 200, 9), (600, 700, 5)] {
        let values = matrix(rows, cols, rank, |_| 1.0);
        let (done, error) = run(&values, rows, cols, &rule(Some(rank), None, None));
        assert!(done.rank <= rank && error < 1e-5, "{rows}x{cols}: {error}");
    }
}

#[test]
fn the_error_is_the_one_that_is_told() {
    for (rows, cols) in [(90, 70), (600, 700), (700, 600)] {
        let values = matrix(rows, cols, 60, |j| 1.0 / (j + 1) as f64);
        for rank in [1, 8, 40] {
            let (done, error) = run(&values, rows, cols, &rule(Some(rank), None, None));
            assert_eq!(done.rank, rank);
            assert!((done.relative_error - error).abs() <= 1e-3 * error + 1e-5);
        }
    }
}

#[test]
fn limits_are_met_with_few_directions_more_than_needed() {
    let values = matrix(300, 400, 100, |j| 1.0 / (j + 1) as f64);
    for error in [0.5, 0.2, 0.1] {
        let (done, got) = run(&values, 300, 400, &rule(None, None, Some(error)));
        assert!(got <= error * 1.001);
        let (less, more) = run(&values, 300, 400, &rule(Some(done.rank - 1), None, None));
        assert!(more > error * 0.99, "rank {} would do", less.rank);
        let share = 1.0 - error * error;
        let (same, _) = run(&values, 300, 400, &rule(None, Some(share), None));
        assert_eq!(same.rank, done.rank);
    }
}

#[test]
fn nothing_has_rank_one_and_no_norm() {
    let mut out = vec![1; 4 * 9 * 4];
    let done = extract(&[0.0; 20], 5, 4, &rule(None, None, None), Dtype::F32, &mut out).unwrap();
    assert_eq!((done.rank, done.norm), (1, 0.0));
    assert!(out[..36].iter().all(|byte| *byte == 0));
}

#[test]
fn what_does_not_fit_is_refused() {
    let plain = rule(Some(2), None, None);
    let mut out = vec![0; 4 * 2 * 9];
    let mut call = |values: &[f32], rule: &Rule| extract(values, 5, 4, rule, Dtype::F32, &mut out);
    assert!(matches!(call(&[1.0; 19], &plain), Err(Error::Shape { .. })));
    assert!(matches!(call(&[1.0; 20], &rule(Some(3), None, None)), Err(Error::Shape { .. })));
    assert!(matches!(call(&[1.0; 20], &rule(Some(0), None, None)), Err(Error::Param { .. })));
    assert!(matches!(call(&[f32::NAN; 20], &plain), Err(Error::Overflow { .. })));
    let mut none = vec![];
    assert!(matches!(extract(&[], 0, 4, &plain, Dtype::F32, &mut none), Err(Error::Shape { .. })));
}
