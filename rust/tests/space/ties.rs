//! TIES in joint bases is that of a plain implementation.

use crate::support::*;
use loramix_core::project::Space;
use loramix_core::recompress::Rule;

/// TIES on dense matrices, as the program of this file says it.
fn ties(deltas: &[Dense], weights: &[f64], density: f64) -> Dense {
    let n = deltas[0].data.len();
    let count = ((density * n as f64).floor() as usize).max(1);
    let trimmed: Vec<Vec<f64>> = deltas
        .iter()
        .map(|delta| {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|i, j| delta.data[*j].abs().total_cmp(&delta.data[*i].abs()));
            let mut kept = vec![0.0; n];
            order[..count].iter().for_each(|i| kept[*i] = delta.data[*i]);
            kept
        })
        .collect();
    let largest = weights.iter().fold(0.0, |a: f64, w| a.max(w.abs()));
    let entry = |x: usize| {
        let elected = trimmed.iter().map(|t| t[x]).sum::<f64>();
        let agree = |value: f64| value * elected > 0.0;
        let winners = || trimmed.iter().zip(weights).filter(|(t, _)| agree(t[x]));
        let share: f64 = winners().map(|(_, w)| w.abs()).sum();
        let total: f64 = winners().map(|(t, _)| t[x]).sum();
        if share > 0.0 { total / share * largest } else { 0.0 }
    };
    Dense::new(deltas[0].rows, deltas[0].cols, (0..n).map(entry).collect())
}

/// TIES in a space, from dense deltas and Jacobi eigenvectors.
pub(crate) fn ties_in(
    space: Space,
    rows: usize,
    pairs: &[Pair],
    weights: &[f64],
    p: usize,
) -> Dense {
    let deltas: Vec<Dense> = pairs.iter().map(|pair| pair.dense(rows)).collect();
    let cols = deltas[0].cols;
    let of = |n: usize, side: &dyn Fn(&Dense) -> Dense| {
        let square = deltas.iter().fold(Dense::zeros(n, n), |s, d| s.plus(&side(d)));
        square.eigen().1.first_columns(p)
    };
    let left = of(rows, &|d| d.times(&d.transpose()));
    let right = of(cols, &|d| d.transpose().times(d));
    match space {
        Space::Knots => {
            let small: Vec<Dense> = deltas.iter().map(|d| left.transpose().times(d)).collect();
            left.times(&ties(&small, weights, 0.4))
        }
        Space::Core => {
            let small = |d: &Dense| left.transpose().times(d).times(&right);
            let small: Vec<Dense> = deltas.iter().map(small).collect();
            left.times(&ties(&small, weights, 0.4)).times(&right.transpose())
        }
    }
}

#[test]
fn ties_in_a_space_is_that_of_dense_matrices() {
    let (rows, cols) = (20, 16);
    for space in SPACES {
        let pairs = separated(rows, cols);
        let job = Job::new(rows, &pairs, TIES);
        let meant = ties_in(space, rows, &job.pairs, &job.weights, 9);
        for rule in [Rule::default(), with_rank(4), Rule { alpha: Some(2.0), ..with_rank(5) }] {
            let job = Job::new(rows, &pairs, TIES);
            let account_of = job.pairs.clone();
            let (found, written, _) = projected(&[job], rows, space, &rule).unwrap();
            let done = found.done;
            let left = tail(&meant, done.rank);
            assert!(done.rank <= 9 && (done.norm - meant.norm()).abs() < 1e-4 * meant.norm());
            let gap = written.minus(&meant).norm();
            assert!((gap - left).abs() < 1e-4 * meant.norm(), "{space:?}: {gap} {left}");
            assert!((done.relative_error * done.norm - left).abs() < 1e-4 * meant.norm());
            assert_account(&found.account, rows, &account_of, &written, "ties");
        }
        // The order of the members and the gauge of their factors do not count.
        let gauge: Vec<Pair> = pairs.iter().map(|p| p.other_gauge(32.0, -1.0)).collect();
        let job = Job::new(rows, &gauge, TIES);
        let (_, written, _) = projected(&[job], rows, space, &Rule::default()).unwrap();
        assert_close(&written, &meant, 1e-4 * meant.norm(), "gauge");
        let turned: Vec<Pair> = pairs.iter().rev().cloned().collect();
        let job = Job::weighted(0, rows, &turned, &[0.4, -0.7, 1.0], TIES);
        let (_, written, _) = projected(&[job], rows, space, &Rule::default()).unwrap();
        assert_close(&written, &meant, 1e-4 * meant.norm(), "order");
    }
}
