//! Joint bases, and what members are in them.

use crate::support::*;
use loramix_core::Error;
use loramix_core::space::{Cores, cores};

fn bases(rows: usize, pairs: &[Pair], weights: &[f64]) -> (Dense, Dense, Vec<Dense>) {
    let (up, down) = stacks(rows, pairs);
    let Cores { p, q, left, right, cores } = cores(&group(rows, pairs), weights).unwrap();
    let left = up.times(&Dense::new(up.cols, p, left));
    let right = down.transpose().times(&Dense::new(down.rows, q, right));
    let one = |i: usize| Dense::new(p, q, cores[i * p * q..(i + 1) * p * q].to_vec());
    (left, right, (0..pairs.len()).map(one).collect())
}

fn assert_orthonormal(basis: &Dense, name: &str) {
    let mut gram = basis.transpose().times(basis);
    (0..gram.rows).for_each(|i| gram.data[i * gram.rows + i] -= 1.0);
    let worst = gram.data.iter().fold(0.0, |a: f64, x| a.max(x.abs()));
    assert!(worst < 1e-6, "{name}: {worst:e}");
}

#[test]
fn bases_are_orthonormal_and_cores_rebuild_the_members() {
    for (name, rows, pairs) in kinds() {
        let weights = weights_of(pairs.len());
        let (left, right, cores) = bases(rows, &pairs, &weights);
        assert_orthonormal(&left, name);
        assert_orthonormal(&right, name);
        assert!(left.cols <= rows && right.cols <= right.rows, "{name}");
        for (pair, core) in pairs.iter().zip(&cores) {
            let delta = pair.dense(rows);
            let rebuilt = left.times(core).times(&right.transpose());
            assert_close(&rebuilt, &delta, 1e-6 * delta.norm(), name);
        }
        // Eigenvectors of the sum of squares, largest first.
        let weighted = pairs.iter().zip(&weights).map(|(p, w)| p.dense(rows).scaled(*w));
        let square =
            weighted.fold(Dense::zeros(rows, rows), |s, d| s.plus(&d.times(&d.transpose())));
        let turned = left.transpose().times(&square).times(&left);
        let (values, _) = square.eigen();
        for i in 0..turned.rows {
            for j in 0..turned.rows {
                let expected = if i == j { values[i] } else { 0.0 };
                assert!((turned.at(i, j) - expected).abs() < 1e-6 * values[0], "{name}");
            }
        }
    }
}

#[test]
fn ranks_of_bases_are_numerical() {
    let ranks = |name: &str| {
        let (_, rows, pairs) = kinds().into_iter().find(|kind| kind.0 == name).unwrap();
        let (left, right, _) = bases(rows, &pairs, &weights_of(pairs.len()));
        (left.cols, right.cols)
    };
    assert_eq!(ranks("plain"), (9, 9));
    assert_eq!(ranks("repeated"), (5, 5));
    assert_eq!(ranks("zero factor"), (5, 5));
    assert_eq!(ranks("zero adapter"), (7, 7));
    assert_eq!(ranks("wide"), (5, 9)); // four and five
    assert_eq!(ranks("row"), (1, 2));
    assert_eq!(ranks("column"), (2, 1));
    assert_eq!(ranks("gauge"), (7, 7));
    let pairs = [Pair::new(8, 7, 2, 1), Pair::new(8, 7, 3, 2)];
    for (weights, p) in [([1.0, 0.0], 2), ([0.0, 1.0], 3), ([0.0, 0.0], 0), ([1e200, -1e199], 5)] {
        let (left, right, _) = bases(8, &pairs, &weights);
        assert_eq!((left.cols, right.cols), (p, p), "{weights:?}");
    }
}

/// Entries without their signs, which are those of the eigenvectors.
fn unsigned(cores: &[Dense]) -> Vec<Dense> {
    let one = |core: &Dense| {
        Dense::new(core.rows, core.cols, core.data.iter().map(|x| x.abs()).collect())
    };
    cores.iter().map(one).collect()
}

fn assert_same_cores(found: &[Dense], expected: &[Dense], name: &str) {
    for (x, y) in found.iter().zip(expected) {
        assert_close(x, y, 1e-5 * y.norm(), name);
    }
}

#[test]
fn cores_depend_on_the_deltas_alone() {
    let pairs = [
        Pair::new(14, 11, 3, 1),
        Pair::new(14, 11, 4, 2).times(0.7),
        Pair::new(14, 11, 2, 3).times(-2.0),
    ];
    let weights = [1.0, -0.7, 0.4];
    let (_, _, expected) = bases(14, &pairs, &weights);
    let gauge: Vec<Pair> = pairs.iter().map(|p| p.other_gauge(64.0, 3.0)).collect();
    let found = bases(14, &gauge, &weights).2;
    assert_same_cores(&unsigned(&found), &unsigned(&expected), "gauge");
    let turned: Vec<Pair> = pairs.iter().rev().cloned().collect();
    let mut found = bases(14, &turned, &[0.4, -0.7, 1.0]).2;
    found.reverse();
    // Signs are fixed: these are equal with them.
    assert_same_cores(&found, &expected, "order");
    let found = bases(14, &pairs, &[-3.0, 2.1, -1.2]).2;
    assert_same_cores(&found, &expected, "only ratios of weights count");
    let found = bases(14, &pairs, &[1.0, 0.7, 0.4]).2;
    assert_same_cores(&found, &expected, "signs of weights do not count");
}

#[test]
fn cores_refuse_bad_input() {
    let pairs = [Pair::new(6, 5, 2, 1), Pair::new(6, 5, 1, 2)];
    for weights in [vec![], vec![1.0], vec![1.0; 3]] {
        let refused = cores(&group(6, &pairs), &weights);
        assert!(matches!(refused, Err(Error::Shape { what: "weights", .. })));
    }
    for bad in [f64::NAN, f64::INFINITY] {
        let refused = cores(&group(6, &pairs), &[1.0, bad]);
        assert!(matches!(refused, Err(Error::Param { name: "weight", .. })));
    }
    let pairs = [pairs[0].clone(), Pair::of(&[1.0, f32::NAN, 2.0], &[1.0; 5], 1).at_row(1)];
    let refused = cores(&group(6, &pairs), &[1.0, 1.0]);
    assert_eq!(refused, Err(Error::NonFinite { member: 1, side: "up" }));
    let pairs = [Pair::new(6, 5, 2, 1).times(1e200)];
    let refused = cores(&group(6, &pairs), &[1.0]);
    assert!(matches!(refused, Err(Error::Overflow { .. })), "{refused:?}");
}
