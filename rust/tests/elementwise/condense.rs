//! Low-rank factors of results, and their errors.

use crate::support::*;
use loramix_core::condense::{Part, condense};
use loramix_core::dtype::{Dtype, Matrix, encode};
use loramix_core::elementwise::{Factored, Prepared, Program, Reduce, Vote};
use loramix_core::recompress::Rule;
use loramix_core::rng::Stream;

fn certify(program: &Program, pairs: &[Pair], rows: usize, cols: usize, rule: &Rule, floor: f64) {
    let weights: Vec<f64> = [1.0, -0.7, 0.5].into_iter().take(pairs.len()).collect();
    let (done, got, meant) = condensed(program.clone(), pairs, &weights, rows, cols, rule).unwrap();
    let size = norm(meant.iter().copied());
    let error = norm(got.iter().zip(&meant).map(|(g, m)| g - m)) / size;
    assert!((done.norm / size - 1.0).abs() < 1e-6, "{program:?} {rule:?}: norm");
    let gap = (done.relative_error - error).abs();
    assert!(
        gap <= 0.02 * error + floor,
        "{program:?} {rule:?}: said {}, is {error}",
        done.relative_error
    );
}

#[test]
fn the_error_of_condense_is_the_true_one() {
    for (rows, cols) in [(60, 44), (44, 60), (120, 90)] {
        let pairs: Vec<_> = (0..3).map(|seed| Pair::new(rows, cols, 4, seed)).collect();
        for program in programs() {
            for rank in [1, 5, 12, 20] {
                let rule = Rule { rank: Some(rank), ..Rule::default() };
                certify(&program, &pairs, rows, cols, &rule, 4e-4);
            }
        }
    }
}

#[test]
fn the_error_of_condense_is_true_where_nothing_is_cut() {
    for rank in [8, 12, 30, 44] {
        let pairs: Vec<_> = (0..2).map(|seed| Pair::new(60, 44, 4, seed)).collect();
        let rule = Rule { rank: Some(rank), ..Rule::default() };
        certify(&SUM, &pairs, 60, 44, &rule, 1e-5);
    }
}

#[test]
fn the_error_of_condense_is_true_for_decaying_factors() {
    for decay in [0.5, 0.1, 0.01] {
        let pairs: Vec<_> = (0..2).map(|seed| Pair::decaying(60, 44, 6, seed, decay)).collect();
        for rank in [6, 12, 30, 44] {
            let rule = Rule { rank: Some(rank), ..Rule::default() };
            certify(&SUM, &pairs, 60, 44, &rule, 1e-5);
        }
    }
}

#[test]
fn condense_holds_on_degenerate_shapes() {
    for (rows, cols) in [(1, 1), (1, 2), (2, 1), (1, 300), (300, 1), (3, 257), (257, 3), (9, 9)] {
        let pairs: Vec<_> = (0..3).map(|seed| Pair::new(rows, cols, 4, seed)).collect();
        for program in programs() {
            for rank in [None, Some(1), Some(2), Some(40)] {
                let rule = Rule { rank, ..Rule::default() };
                certify(&program, &pairs, rows, cols, &rule, 4e-4);
            }
        }
    }
}

/// Deltas larger than those that get more steps, whose stack is wider than what is kept.
const LARGE: (usize, usize) = (600, 520);

/// Entries of a product, beside what was meant: the norm of the difference by that of the latter.
fn apart(all: &[f32], rank: usize, meant: &[f32], (rows, cols): (usize, usize)) -> f64 {
    let (up, down) = all.split_at(rows * rank);
    let got = product(up, down, rows, cols);
    let gaps = got.iter().zip(meant).map(|(g, m)| g - f64::from(*m));
    norm(gaps) / norm(meant.iter().map(|m| f64::from(*m)))
}

#[test]
fn outputs_of_few_digits_lose_no_more_than_their_own_rounding() {
    let ((rows, cols), weights) = (LARGE, [1.0, -0.7, 0.5]);
    let pairs = related(3, 24, false);
    let group = group(&pairs, &weights, rows, cols);
    let source = Factored::new(&group, weights.to_vec()).unwrap();
    let mut meant = vec![0.0; rows * cols];
    Prepared::new(&ties(), &source).unwrap().run(&mut meant).unwrap();
    for rank in [8, 24, 72, 100] {
        let rule = Rule { rank: Some(rank), ..Rule::default() };
        let to = |dtype| condensed_to(dtype, &group, (ties(), &weights), &meant, &rule).unwrap();
        let (fine, numbers) = to(Dtype::F32);
        let (short, rounded) = to(Dtype::Bf16);
        assert_eq!((fine.rank, short.rank), (rank, rank));
        let mut bytes = vec![0; 2 * numbers.len()];
        let mut later = vec![0.0; numbers.len()];
        encode(Dtype::Bf16, &numbers, &mut bytes).unwrap();
        let bytes = Matrix::new(Dtype::Bf16, 1, later.len(), &bytes).unwrap();
        bytes.decode_f32(0..1, 0..numbers.len(), &mut later, numbers.len()).unwrap();
        let [whole, now, then] =
            [&numbers, &rounded, &later].map(|all| apart(all, rank, &meant, LARGE));
        assert!(now <= then * 1.0005, "{rank}: {whole} {then} {now}");
        assert!((short.relative_error / fine.relative_error - 1.0).abs() < 2e-4, "{rank}");
    }
}

#[test]
fn outputs_of_few_digits_are_found_exactly_where_little_is_cut() {
    let ((rows, cols), weights) = (LARGE, [1.0, -0.7]);
    let pairs = related(2, 24, false);
    let group = group(&pairs, &weights, rows, cols);
    let source = Factored::new(&group, weights.to_vec()).unwrap();
    let mut meant = vec![0.0; rows * cols];
    Prepared::new(&SUM, &source).unwrap().run(&mut meant).unwrap();
    let whole = Rule { rank: Some(48), ..Rule::default() };
    let (done, _) = condensed_to(Dtype::Bf16, &group, (SUM, &weights), &meant, &whole).unwrap();
    assert!(done.relative_error < 1e-5, "{}", done.relative_error);
}

/// Up factors of their own, down factors of which `shared` are the same.
fn related(count: u64, rank: usize, shared: bool) -> Vec<Pair> {
    let (rows, cols) = LARGE;
    let one = |seed| {
        let mut pair = Pair::decaying(rows, cols, rank, seed, 0.9);
        if shared {
            pair.down = Pair::decaying(rows, cols, rank, 77, 0.9).down;
        }
        pair
    };
    (0..count).map(one).collect()
}

fn ties() -> Program {
    Program { keep: largest(0.2, 0.0), vote: Vote::Mass, reduce: Reduce::Mean, ..SUM }
}

#[test]
fn condense_is_near_the_optimum_where_the_start_is_cut_or_filled() {
    let ((rows, cols), weights) = (LARGE, [1.0, -0.7, 0.5]);
    for shared in [false, true] {
        let pairs = related(3, 24, shared);
        let group = group(&pairs, &weights, rows, cols);
        let source = Factored::new(&group, weights.to_vec()).unwrap();
        let mut meant = vec![0.0; rows * cols];
        Prepared::new(&ties(), &source).unwrap().run(&mut meant).unwrap();
        let dense = faer::Mat::from_fn(rows, cols, |i, j| f64::from(meant[i * cols + j]));
        let values = dense.singular_values().unwrap();
        // Random columns stand in for the rows that a shared space lacks.
        let slacks = if shared { [1.01, 1.02, 1.14, 1.2] } else { [1.01, 1.02, 1.08, 1.12] };
        for (rank, slack) in [8, 24, 72, 100].into_iter().zip(slacks) {
            let rule = Rule { rank: Some(rank), ..Rule::default() };
            certify(&ties(), &pairs, rows, cols, &rule, 1e-5);
            let (done, ..) = condensed(ties(), &pairs, &weights, rows, cols, &rule).unwrap();
            let optimum = norm(values[rank..].iter().copied()) / norm(values.iter().copied());
            assert_eq!(done.rank, rank);
            assert!(done.relative_error >= optimum * (1.0 - 1e-5), "{rank}");
            assert!(
                done.relative_error <= optimum * slack,
                "{shared} {rank}: {} of {optimum}",
                done.relative_error
            );
        }
    }
}

#[test]
fn condense_is_exact_for_large_targets_of_low_rank() {
    let (rows, cols) = LARGE;
    let full = Rule::default();
    let roomy = Rule { rank: Some(60), ..full };
    for (count, shared) in [(1, false), (2, false), (3, true)] {
        let pairs = related(count, 24, shared);
        for rule in [full, roomy] {
            let weights = &[1.0, -0.7, 0.5][..count as usize];
            let (done, got, meant) = condensed(SUM, &pairs, weights, rows, cols, &rule).unwrap();
            let error = norm(got.iter().zip(&meant).map(|(g, m)| g - m)) / norm(meant);
            assert!(error < 1e-5 && done.relative_error < 1e-5, "{count} {rule:?}: {error}");
            assert!(done.rank <= if shared { 24 } else { 24 * count as usize });
        }
    }
}

#[test]
fn condense_holds_for_extreme_sizes() {
    let ((rows, cols), rule) = (LARGE, Rule { rank: Some(8), ..Rule::default() });
    for size in [1e-15, 1e-9, 1e9, 1e15] {
        let mut pairs = related(3, 24, false);
        for pair in &mut pairs {
            for side in [&mut pair.up, &mut pair.down] {
                *side = bytes(&floats(side).iter().map(|v| v * size).collect::<Vec<_>>());
            }
        }
        certify(&ties(), &pairs, rows, cols, &rule, 1e-5);
    }
}

#[test]
fn bits_of_large_condense_do_not_depend_on_threads() {
    let ((rows, cols), pairs) = (LARGE, related(3, 24, false));
    for rank in [8, 72] {
        let rule = Rule { rank: Some(rank), ..Rule::default() };
        let work = || condensed(ties(), &pairs, &[1.0; 3], rows, cols, &rule).unwrap().1;
        let (one, two, seven) = (on_threads(1, work), on_threads(2, work), on_threads(7, work));
        assert!(one == two && one == seven);
    }
}

#[test]
fn bits_of_condense_do_not_depend_on_threads() {
    let (rows, cols, weights) = (400, 300, [1.0, 0.5]);
    let pairs: Vec<_> = (0..2).map(|seed| Pair::new(rows, cols, 60, seed)).collect();
    let program =
        Program { keep: largest(0.3, 0.0), vote: Vote::Mass, reduce: Reduce::Mean, ..SUM };
    let rule = Rule { rank: Some(150), ..Rule::default() };
    let of = |threads| {
        let work = || condensed(program.clone(), &pairs, &weights, rows, cols, &rule).unwrap().1;
        on_threads(threads, work)
    };
    let (one, two, seven) = (of(1), of(2), of(7));
    assert!(one == two && one == seven);
}

#[test]
fn parts_stand_where_they_belong_and_gaps_are_zero() {
    let (rows, cols) = (10, 12);
    let pairs = [Pair::new(rows, cols, 2, 1), Pair::new(rows, cols, 3, 2)];
    let weights = vec![1.0, 0.5];
    let group = group(&pairs, &weights, rows, cols);
    let part =
        |row_start| Part { group: &group, weights: weights.clone(), program: SUM, row_start };
    let parts = [part(3), part(20)];
    let rule = Rule { rank: Some(12), ..Rule::default() };
    let mut out = vec![0; (35 + cols) * 12 * 4];
    let mut scratch = vec![f32::NAN; 5000];
    let streams = [0, 1].map(|adapter| Stream::new(0, 0, adapter).unwrap());
    let both = (&streams[0], &streams[1]);
    let made = condense(&parts, 35, &rule, Dtype::F32, both, &mut scratch, &mut out).unwrap();
    let done = made.done;
    let all = floats(&out);
    let got = product(&all[..35 * done.rank], &all[35 * done.rank..][..done.rank * cols], 35, cols);
    let mut one = vec![0.0; rows * cols];
    let source = Factored::new(&group, weights.clone()).unwrap();
    Prepared::new(&SUM, &source).unwrap().run(&mut one).unwrap();
    for (index, value) in got.iter().enumerate() {
        let row = index / cols;
        let inside = [3, 20].into_iter().find(|start| (*start..start + rows).contains(&row));
        let expected = inside.map_or(0.0, |start| one[index - start * cols]);
        assert!((value - f64::from(expected)).abs() < 1e-4, "{index}");
    }
}

#[test]
fn nothing_is_rank_one_of_zeros() {
    let zero = Pair { up: bytes(&[0.0; 20]), down: bytes(&[1.0; 14]), rank: 2 };
    let pairs = [zero, Pair { up: bytes(&[1.0; 10]), down: bytes(&[0.0; 7]), rank: 1 }];
    let (done, got, _) = condensed(SUM, &pairs, &[1.0, 1.0], 10, 7, &Rule::default()).unwrap();
    assert_eq!((done.rank, done.norm, done.relative_error), (1, 0.0, 0.0));
    assert!(got.iter().all(|v| *v == 0.0));
    let flat = Pair { up: bytes(&[1.0; 20]), down: bytes(&[0.0; 14]), rank: 2 };
    let rule = Rule { rank: Some(1), ..Rule::default() };
    for pairs in [vec![flat], pairs.into()] {
        let weights = vec![1.0; pairs.len()];
        let (done, got, _) = condensed(SUM, &pairs, &weights, 10, 7, &rule).unwrap();
        assert_eq!((done.rank, done.norm), (1, 0.0));
        assert!(got.iter().all(|v| *v == 0.0));
    }
}
