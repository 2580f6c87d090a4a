//! Mixed stacks are recompressed to what they mean.

use crate::support::*;
use loramix_core::Error;
use loramix_core::account::Account;
use loramix_core::dtype::Dtype;
use loramix_core::recompress::{Mixing, Recompressed, Rule, accounted, capacity, recompress_mixed};

fn mixed(
    rows: usize,
    pairs: &[Pair],
    a: &Dense,
    b: &Dense,
    rule: &Rule,
) -> (Recompressed, Account, Dense) {
    let group = group(rows, pairs);
    let mixing = Mixing::new(a.rows, a.cols, &a.data, &b.data).unwrap();
    let mut out = vec![0xFF; (rows + group.cols()) * a.cols.max(1) * 4];
    let (done, account) = recompress_mixed(&group, &mixing, rule, Dtype::F32, &mut out).unwrap();
    let written = seen(&product(&out, rows, group.cols(), done.rank), rule, done.rank);
    (done, account, written)
}

#[test]
fn mixed_stacks_are_recompressed_to_what_they_mean() {
    for (name, rows, pairs) in kinds() {
        let (up, down) = stacks(rows, &pairs);
        for (p, rule) in [(1, 0), (2, 0), (5, 0), (up.cols + 2, 0), (5, 1), (7, 2), (6, 3), (6, 4)]
        {
            let rule = rules()[rule];
            let (a, b) = (Dense::random(up.cols, p, 50), Dense::random(p, up.cols, 51));
            let meant = up.times(&a).times(&b.times(&down));
            let (done, account, written) = mixed(rows, &pairs, &a, &b, &rule);
            let what = format!("{name} {p} {rule:?}");
            let rounding = 2e-6 * done.rounding;
            let limit = tail(&meant, done.rank) + rounding;
            assert!((done.norm - meant.norm()).abs() <= rounding, "{what}: norm");
            assert!(written.minus(&meant).norm() <= limit, "{what}: not the best");
            let said = done.relative_error * done.norm;
            assert!((said - tail(&meant, done.rank)).abs() <= rounding, "{what}: {said}");
            assert!(done.rank <= p.min(rule.rank.unwrap_or(p)), "{what}");
            // Sums of the members bound along; a mixing is larger.
            let spread: f64 = pairs.iter().map(|p| p.dense(rows).norm()).sum();
            let size = 1.0 + done.rounding / spread;
            for (along, pair) in account.along.iter().zip(&pairs) {
                let delta = pair.stored(rows);
                let gap = (along - delta.dot(&written)).abs();
                assert!(gap <= 4e-6 * size * spread * delta.norm(), "{what}: {gap:e}");
            }
        }
    }
}

#[test]
fn mixed_by_nothing_is_the_stack() {
    for (name, rows, pairs) in kinds() {
        let rank: usize = pairs.iter().map(|p| p.rank).sum();
        let mut one = Dense::zeros(rank, rank);
        (0..rank).for_each(|i| one.data[i * rank + i] = 1.0);
        for rule in rules() {
            let group = group(rows, &pairs);
            let mut out = vec![0; capacity(&group, &rule, Dtype::F32)];
            let (plain, account) = accounted(&group, &rule, Dtype::F32, &mut out).unwrap();
            let written = seen(&product(&out, rows, group.cols(), plain.rank), &rule, plain.rank);
            let (done, same, got) = mixed(rows, &pairs, &one, &one, &rule);
            assert_eq!(done.rank, plain.rank, "{name}");
            assert!((done.rounding - plain.rounding).abs() <= 1e-6 * plain.rounding, "{name}");
            assert_close(&got, &written, 2e-6 * plain.rounding, name);
            for (x, y) in same.along.iter().zip(&account.along) {
                assert!((x - y).abs() <= 1e-5 * (1.0 + y.abs()), "{name}: {x} {y}");
            }
        }
    }
}

#[test]
fn a_mixing_may_have_any_gauge() {
    let pairs = [Pair::new(40, 30, 5, 1), Pair::new(40, 30, 4, 2).times(0.6)];
    let (up, down) = stacks(40, &pairs);
    let (a, b) = (Dense::random(9, 4, 60), Dense::random(4, 9, 61));
    let meant = up.times(&a).times(&b.times(&down));
    // Sizes that differ; and columns that are nearly the same, which cancels to a ten-thousandth.
    let mut sizes = (Dense::zeros(4, 4), Dense::zeros(4, 4));
    for (i, size) in [1e-12, 1.0, 1e9, 3.0].into_iter().enumerate() {
        (sizes.0.data[5 * i], sizes.1.data[5 * i]) = (size, 1.0 / size);
    }
    let mut nearly = (Dense::zeros(4, 4), Dense::zeros(4, 4));
    for i in 0..4 {
        (nearly.0.data[5 * i], nearly.1.data[5 * i]) = (if i == 0 { 1.0 } else { 1e-4 }, 1.0);
        if i > 0 {
            nearly.0.data[i] = 1.0;
        }
    }
    // The inverse of [[1, 1 1 1], [0, e]] is [[1, -1/e ...], [0, 1/e]].
    for i in 1..4 {
        nearly.1.data[i] = -1e4;
        nearly.1.data[5 * i] = 1e4;
    }
    for (name, (g, inverse)) in [("sizes", sizes), ("nearly", nearly)] {
        for rule in [Rule::default(), with_rank(2)] {
            let (plain, _, best) = mixed(40, &pairs, &a, &b, &rule);
            let (done, account, got) = mixed(40, &pairs, &a.times(&g), &inverse.times(&b), &rule);
            assert_eq!(done.rank, plain.rank, "{name}");
            assert_close(&got, &best, 1e-5 * meant.norm(), name);
            assert!((done.rounding - plain.rounding).abs() <= 1e-5 * plain.rounding, "{name}");
            for (along, pair) in account.along.iter().zip(&pairs) {
                let delta = pair.stored(40);
                let gap = (along - delta.dot(&got)).abs();
                assert!(gap <= 1e-5 * delta.norm() * meant.norm(), "{name}: {gap:e}");
            }
        }
    }
}

#[test]
fn a_mixing_that_cancels_is_zero() {
    let one = Pair::new(30, 20, 2, 4);
    let pairs = [one.clone(), one];
    // U_1 - U_1.
    let a = Dense::new(4, 2, vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0, -1.0]);
    let b = Dense::random(2, 4, 3);
    let (done, account, written) = mixed(30, &pairs, &a, &b, &Rule::default());
    assert_eq!(done.rank, 1);
    assert!(written.norm() <= 1e-7 * done.rounding && done.rounding > 1.0);
    assert!(account.along.iter().all(|x| x.abs() <= 1e-6 * done.rounding));
}

#[test]
fn mixers_that_do_not_fit_are_refused() {
    let shape = |found: Result<Mixing, Error>| matches!(found, Err(Error::Shape { .. }));
    assert!(shape(Mixing::new(3, 2, &[0.0; 6], &[0.0; 5])));
    assert!(shape(Mixing::new(3, 2, &[0.0; 5], &[0.0; 5])));
    assert!(shape(Mixing::new(usize::MAX, 2, &[0.0; 6], &[0.0; 6])));
    for bad in [f64::NAN, f64::INFINITY] {
        let found = Mixing::new(1, 1, &[1.0], &[bad]);
        assert!(matches!(found, Err(Error::Param { name: "mixers", .. })));
    }
    let pairs = [Pair::new(6, 5, 2, 1)];
    let group = group(6, &pairs);
    let run = |mixing: &Mixing, rule: &Rule, out: &mut [u8]| {
        recompress_mixed(&group, mixing, rule, Dtype::F32, out).map(|_| ())
    };
    let other = Mixing::new(3, 1, &[1.0; 3], &[1.0; 3]).unwrap();
    let refused = run(&other, &Rule::default(), &mut [0; 1000]);
    assert!(matches!(refused, Err(Error::Shape { what: "mixers", .. })));
    let fits = Mixing::new(2, 1, &[1.0; 2], &[1.0; 2]).unwrap();
    assert_eq!(run(&fits, &Rule::default(), &mut [0; 44]), Ok(()));
    let refused = run(&fits, &Rule::default(), &mut [0; 43]);
    assert!(matches!(refused, Err(Error::Shape { what: "output buffer", .. })));
    let refused = run(&fits, &with_rank(0), &mut [0; 1000]);
    assert!(matches!(refused, Err(Error::Param { name: "rank", .. })));
    let none = Mixing::new(2, 0, &[], &[]).unwrap();
    assert_eq!(run(&none, &Rule::default(), &mut [1; 44]), Ok(()));
    let huge = Mixing::new(2, 1, &[1e300; 2], &[1e300; 2]).unwrap();
    let refused = run(&huge, &Rule::default(), &mut [0; 1000]);
    assert!(matches!(refused, Err(Error::Overflow { .. })), "{refused:?}");
}
