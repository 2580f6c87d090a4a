//! DELLA's keep rule against a sort of every row.
//!
//! Proves that ranks are those of a stable sort, whatever the magnitudes, equal ones, zeros and
//! denormals included; that survivors are as many as the density says and their mean is unbiased;
//! and that tiles, instruction sets and signs make no difference.
#![allow(clippy::unwrap_used)]

use loramix_core::Error;
use loramix_core::dispatch::{Isa, set_ceiling};
use loramix_core::elementwise::ranked::Ranking;
use loramix_core::rng::Stream;
use proptest::prelude::*;

const SHARES: [(f64, f64); 6] =
    [(0.5, 1.0), (0.7, 0.3), (0.9, 0.2), (0.1, 0.0625), (1.0, 0.0), (0.3, 0.0)];
const LENGTHS: [usize; 12] = [0, 1, 2, 15, 16, 31, 32, 33, 64, 640, 1280, 5000];

fn words(count: usize, seed: u64) -> Vec<u32> {
    let mut words = vec![0; count];
    Stream::new(seed, 0, 0).unwrap().fill(0, &mut words);
    words
}

/// Numbers in [-1, 1).
fn uniform(count: usize, seed: u64) -> Vec<f32> {
    words(count, seed).into_iter().map(|w| 2.0 * Stream::uniform(w) - 1.0).collect()
}

/// Sums of twelve, nearly normal.
fn normal(count: usize, seed: u64) -> Vec<f32> {
    uniform(12 * count, seed).chunks_exact(12).map(|c| c.iter().sum::<f32>() / 2.0).collect()
}

fn probability(ranking: Ranking, rank: usize, count: usize) -> f32 {
    let centred = 0.5 - (rank as f64 + 0.5) / count as f64;
    (ranking.density + ranking.spread * centred) as f32
}

/// What a stable sort of every row by falling magnitude keeps.
fn sorted(ranking: Ranking, cols: usize, values: &[f32], words: &[u32]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    let rows = out.chunks_exact_mut(cols).zip(values.chunks_exact(cols));
    for ((out, row), words) in rows.zip(words.chunks_exact(cols)) {
        let mut order: Vec<usize> = (0..cols).collect();
        order.sort_by(|i, j| row[*j].abs().total_cmp(&row[*i].abs()));
        for (rank, i) in order.into_iter().enumerate() {
            let keep = probability(ranking, rank, cols);
            if Stream::uniform(words[i]) < keep {
                out[i] = row[i] * (1.0 / f64::from(keep)) as f32;
            }
        }
    }
    out
}

fn applied(ranking: Ranking, cols: usize, values: &[f32], words: &[u32]) -> Vec<f32> {
    let mut out = values.to_vec();
    ranking.apply(cols, &mut out, words).unwrap();
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Compares with the sort, bit for bit.
fn check(cols: usize, values: &[f32], what: &str) {
    let words = words(values.len(), 77);
    for (density, spread) in SHARES {
        let ranking = Ranking { density, spread };
        let got = bits(&applied(ranking, cols, values, &words));
        let expected = bits(&sorted(ranking, cols.max(1), values, &words));
        let first = got.iter().zip(&expected).position(|(g, e)| g != e);
        assert_eq!(first, None, "{what}, {cols} columns, {ranking:?}");
    }
}

#[test]
fn ranks_are_those_of_a_sort_for_every_length() {
    for cols in LENGTHS {
        check(cols, &uniform(3 * cols, 1), "uniform");
        check(cols, &normal(3 * cols, 2), "normal");
    }
}

#[test]
fn equal_magnitudes_are_ranked_by_index() {
    for cols in LENGTHS {
        for levels in [1.0, 2.0, 7.0, 100.0] {
            let round = |v: f32| (v * levels).round() / levels;
            let values: Vec<f32> = normal(2 * cols, 3).into_iter().map(round).collect();
            check(cols, &values, "levels");
        }
        for value in [0.0, -0.0, 1.0, -2.5, f32::MAX, f32::MIN_POSITIVE / 8.0, f32::from_bits(1)] {
            check(cols, &vec![value; cols], "equal");
        }
        let signs = [0.5, -0.5, 0.0, -0.0];
        let values: Vec<f32> = signs.into_iter().cycle().take(cols).collect();
        check(cols, &values, "signs");
    }
}

#[test]
fn any_distribution_of_magnitudes_is_ranked() {
    for cols in LENGTHS {
        let (noise, words) = (normal(cols, 4), words(cols, 5));
        let mut one_bucket: Vec<f32> =
            words.iter().map(|w| f32::from_bits(1.0f32.to_bits() + w % 4096)).collect();
        check(cols, &one_bucket, "one bucket");
        one_bucket.iter_mut().step_by(3).for_each(|v| *v = 0.0);
        check(cols, &one_bucket, "one bucket and zeros");
        let finite = |w: &u32| f32::from_bits((w % f32::INFINITY.to_bits()) | (w & (1 << 31)));
        check(cols, &words.iter().map(finite).collect::<Vec<_>>(), "all exponents");
        let denormal = |w: &u32| f32::from_bits(w & 0x807F_FFFF);
        check(cols, &words.iter().map(denormal).collect::<Vec<_>>(), "denormals");
        let few = |w: &u32| f32::from_bits(w & 0x8000_000F);
        check(cols, &words.iter().map(few).collect::<Vec<_>>(), "smallest denormals");
        for power in [3.0, 20.0, -1.0, -3.0] {
            let tails: Vec<f32> =
                noise.iter().map(|v| v.signum() * (v.abs() + 1e-3).powf(power)).collect();
            check(cols, &tails, "tails");
        }
        for factor in [1e-30, 1e-38, 1e37] {
            let scaled: Vec<f32> = noise.iter().map(|v| v * factor).collect();
            check(cols, &scaled, "scaled");
        }
        let mut rising: Vec<f32> = (0..cols).map(|i| i as f32).collect();
        check(cols, &rising, "rising");
        rising.reverse();
        check(cols, &rising, "falling");
        if let Some(last) = rising.last_mut() {
            *last = -1e30;
        }
        check(cols, &rising, "one outlier");
    }
}

proptest! {
    #[test]
    fn any_finite_rows_are_ranked(
        cols in 1_usize..80, rows in 1_usize..4, seed: u64,
        mask in prop_oneof![Just(u32::MAX), any::<u32>()], base: u32,
    ) {
        let finite = |w: u32| {
            let value = f32::from_bits((w & mask) | (base & !mask));
            if value.is_finite() { value } else { f32::from_bits(value.to_bits() & !(1 << 23)) }
        };
        let values: Vec<f32> = words(rows * cols, seed).into_iter().map(finite).collect();
        check(cols, &values, "masked");
    }
}

#[test]
fn probabilities_between_two_floats_are_rounded_as_documented() {
    // The middle rank has the density as its probability, which lies halfway between two floats:
    // another order of operations would round it to the other one.
    for (cols, steps, spread) in [(3, 1.0, 0.7), (3, 5.0, 0.7), (63, 1.0, 0.6), (63, 5.0, 0.6)] {
        let ranking = Ranking { density: 0.5 + steps * f64::powi(2.0, -25), spread };
        let (values, words) = (normal(40 * cols, 16), words(40 * cols, 17));
        let expected = bits(&sorted(ranking, cols, &values, &words));
        assert_eq!(bits(&applied(ranking, cols, &values, &words)), expected, "{ranking:?}");
    }
}

#[test]
fn instruction_sets_agree() {
    let cols = 1280;
    let (mut values, words) = (normal(4 * cols, 6), words(4 * cols, 7));
    for (value, word) in values[cols..].iter_mut().zip(&words) {
        *value *= f32::from_bits((word & 0x3FFF_FFFF) + (1 << 29));
    }
    for (density, spread) in SHARES {
        let results = Isa::ALL.map(|isa| {
            set_ceiling(isa);
            bits(&applied(Ranking { density, spread }, cols, &values, &words))
        });
        assert!(results[0] == results[1], "AVX2");
        assert!(results[0] == results[2], "AVX-512");
    }
}

#[test]
fn rows_and_signs_are_independent() {
    let (cols, rows) = (333, 5);
    let (values, words) = (normal(rows * cols, 8), words(rows * cols, 9));
    let ranking = Ranking { density: 0.6, spread: 0.5 };
    let whole = applied(ranking, cols, &values, &words);
    let tile = values.chunks_exact(cols).zip(words.chunks_exact(cols));
    let single: Vec<f32> = tile.flat_map(|(v, w)| applied(ranking, cols, v, w)).collect();
    assert_eq!(bits(&whole), bits(&single));
    let negated: Vec<f32> = values.iter().map(|v| -v).collect();
    let opposite: Vec<f32> = whole.iter().map(|v| -v).collect();
    assert_eq!(applied(ranking, cols, &negated, &words), opposite);
}

#[test]
fn survivors_are_as_many_as_the_density() {
    let (cols, rows) = (1280, 400);
    let (values, words) = (normal(rows * cols, 10), words(rows * cols, 11));
    for (density, spread) in SHARES {
        let ranking = Ranking { density, spread };
        let out = applied(ranking, cols, &values, &words);
        let (mut larger, mut smaller) = (0, 0);
        for (out, row) in out.chunks_exact(cols).zip(values.chunks_exact(cols)) {
            let mut magnitudes: Vec<f32> = row.iter().map(|v| v.abs()).collect();
            magnitudes.sort_by(|a, b| b.total_cmp(a));
            let kept = out.iter().zip(row).filter(|(out, _)| **out != 0.0);
            for (_, value) in kept {
                *(if value.abs() >= magnitudes[cols / 2 - 1] {
                    &mut larger
                } else {
                    &mut smaller
                }) += 1;
            }
        }
        let half = (rows * cols / 2) as f64;
        for (count, share) in [(larger, density + spread / 4.0), (smaller, density - spread / 4.0)]
        {
            // The variance of draws of unequal probability is less than that of equal ones.
            let error = (share * (1.0 - share) * half).sqrt();
            let far = (f64::from(count) - share * half).abs();
            assert!(far <= 2.0 * error, "{ranking:?}: {count} for {share} of {half}");
        }
    }
}

#[test]
fn the_mean_of_many_draws_is_the_row() {
    let (cols, draws) = (67, 20_000);
    let row = normal(cols, 12);
    let values = row.repeat(draws);
    let ranking = Ranking { density: 0.4, spread: 0.6 };
    let out = applied(ranking, cols, &values, &words(draws * cols, 13));
    let mut order: Vec<usize> = (0..cols).collect();
    order.sort_by(|i, j| row[*j].abs().total_cmp(&row[*i].abs()));
    let mut total = 0.0;
    for (rank, i) in order.into_iter().enumerate() {
        let mean: f64 = out.iter().skip(i).step_by(cols).map(|v| f64::from(*v)).sum();
        let (mean, value) = (mean / draws as f64, f64::from(row[i]));
        let keep = f64::from(probability(ranking, rank, cols));
        let error = value.abs() * ((1.0 / keep - 1.0) / draws as f64).sqrt();
        assert!((mean - value).abs() < 4.0 * error, "{value} at rank {rank}: {mean}");
        total += ((mean - value) / error).powi(2);
    }
    // Chi square with one degree of freedom per entry.
    assert!((total - cols as f64).abs() < 3.0 * (2.0 * cols as f64).sqrt(), "{total}");
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let ranking = Ranking { density: 0.5, spread: 0.5 };
    let refused = |cols, values: usize, words: usize| {
        let error = ranking.apply(cols, &mut vec![1.0; values], &vec![0; words]).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    };
    refused(4, 8, 7);
    refused(4, 0, 1);
    refused(3, 8, 8);
    refused(0, 8, 8);
    refused(9, 8, 8);
}

#[test]
fn numbers_that_are_none_do_not_panic() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = normal(200, 14);
        values.iter_mut().step_by(7).for_each(|v| *v = bad);
        let out = applied(Ranking { density: 0.5, spread: 1.0 }, 100, &values, &words(200, 15));
        assert!(out.iter().any(|v| !v.is_finite()));
    }
}
