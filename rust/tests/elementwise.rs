//! Elementwise programs and their low-rank factors against naive arithmetic.
//!
//! Proves that selection keeps exactly what a sort keeps, also where magnitudes are equal; that
//! dense and factored sources agree; that the error `condense` reports is the error of what it
//! wrote; and that parts that do not fit are refused, not panicked over.
#![allow(clippy::unwrap_used)]
#![allow(clippy::float_cmp)] // what is kept is kept bit for bit

use loramix_core::Error;
use loramix_core::condense::{Part, condense};
use loramix_core::dtype::{Dtype, Matrix};
use loramix_core::elementwise::{
    Ballot, Dense, Factored, Keep, Prepared, Program, Reduce, Side, Vote,
};
use loramix_core::group::{Group, Member};
use loramix_core::recompress::{Recompressed, Rule};
use loramix_core::rng::Stream;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const SUM: Program = Program {
    sides: Vec::new(),
    published_sides: false,
    keep: Keep::All,
    conflicts: None,
    selfish: None,
    mix: Vec::new(),
    ballot: Ballot::Weighted,
    vote: Vote::None,
    reduce: Reduce::Sum,
    norm: None,
    clean: false,
    seed: 3,
    target: 7,
};

fn largest(density: f64, skip: f64) -> Keep {
    Keep::Largest { density, skip }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Numbers in [-1, 1).
fn random(count: usize, seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed, 0, 0).unwrap();
    (0..count as u64).map(|e| 2.0 * Stream::uniform(stream.word(e)) - 1.0).collect()
}

fn matrix(data: &[u8], rows: usize, cols: usize) -> Matrix<'_> {
    Matrix::new(Dtype::F32, rows, cols, data).unwrap()
}

/// Runs a program on dense deltas.
fn run(
    program: &Program,
    deltas: &[Vec<f32>],
    weights: &[f64],
    rows: usize,
) -> Result<Vec<f32>, Error> {
    let data: Vec<Vec<u8>> = deltas.iter().map(|d| bytes(d)).collect();
    let cols = deltas[0].len() / rows.max(1);
    let views = data.iter().map(|d| matrix(d, rows, cols)).collect();
    let source = Dense::new(views, weights.to_vec())?;
    let mut out = vec![f32::NAN; deltas[0].len()];
    Prepared::new(program, &source)?.run(&mut out)?;
    Ok(out)
}

fn on_threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

fn floor(share: f64, n: usize) -> usize {
    let exact = share * n as f64;
    let near = exact.round();
    if (exact - near).abs() < 1e-9 * near.max(1.0) { near as usize } else { exact as usize }
}

/// What a stable sort by falling magnitude keeps.
fn sorted(values: &[f32], density: f64, skip: f64) -> Vec<f32> {
    let n = values.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| values[*j].abs().total_cmp(&values[*i].abs()));
    let (skipped, kept) = (floor(skip, n), floor(density, n).max(1));
    let mut out = vec![0.0; n];
    for i in order.into_iter().skip(skipped).take(kept) {
        out[i] = values[i];
    }
    out
}

fn selected(values: &[f32], rows: usize, density: f64, skip: f64) -> Vec<f32> {
    let program = Program { keep: largest(density, skip), ..SUM };
    run(&program, &[values.to_vec()], &[1.0], rows).unwrap()
}

const SHARES: [(f64, f64); 8] = [
    (0.05, 0.0),
    (0.3, 0.0),
    (0.5, 0.5),
    (0.9, 0.01),
    (1.0, 0.0),
    (1e-9, 0.0),
    (1.0 / 3.0, 1.0 / 3.0),
    (0.01, 0.98),
];

fn check_selection(values: &[f32], rows: usize) {
    for (density, skip) in SHARES {
        let (got, expected) =
            (selected(values, rows, density, skip), sorted(values, density, skip));
        let first = got.iter().zip(&expected).position(|(g, e)| g != e);
        assert_eq!(first, None, "{rows} of {}, density {density}, skip {skip}", values.len());
    }
}

#[test]
fn selection_is_that_of_a_sort_for_every_size() {
    for rows in [1, 2, 31, 32, 33, 47, 48, 49, 97, 255, 256, 257] {
        for cols in [1, 3, 64, 257] {
            check_selection(&random(rows * cols, (rows * cols) as u64), rows);
        }
    }
    for (rows, cols) in [(1, 65535), (1, 65537), (65537, 1), (2, 40000)] {
        check_selection(&random(rows * cols, 1), rows);
    }
}

#[test]
fn selection_among_equal_magnitudes_goes_by_index() {
    for levels in [1.0, 2.0, 7.0] {
        let values: Vec<f32> =
            random(123 * 45, 5).iter().map(|v| (v * levels).round() / levels).collect();
        check_selection(&values, 123);
        check_selection(&values, 1);
        check_selection(&values, 123 * 45);
    }
}

#[test]
fn selection_of_equal_or_no_entries() {
    for value in [0.0, -0.0, 1.0, -2.5, f32::MAX, f32::MIN_POSITIVE / 8.0] {
        for count in [1, 2, 10, 1000] {
            check_selection(&vec![value; count], 1);
            check_selection(&vec![value; count], count);
        }
    }
    let nothing = run(&Program { keep: largest(0.5, 0.1), ..SUM }, &[vec![]], &[1.0], 0).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn selection_where_the_sample_says_nothing() {
    // One row in ten is seen, and only those are large, small or equal.
    for size in [1e30, 1e-30, 0.0] {
        let mut values = random(480 * 20, 9);
        for row in values.chunks_exact_mut(20).step_by(10) {
            for v in row {
                *v *= size;
            }
        }
        check_selection(&values, 480);
    }
    let mut sparse = vec![0.0; 500 * 70];
    sparse[77] = -3.0;
    sparse[500 * 70 - 1] = 2.0;
    check_selection(&sparse, 500);
}

/// A pair of factors, as bytes.
struct Pair {
    up: Vec<u8>,
    down: Vec<u8>,
    rank: usize,
}

impl Pair {
    fn new(rows: usize, cols: usize, rank: usize, seed: u64) -> Self {
        let (up, down) = (random(rows * rank, seed), random(rank * cols, seed + 1000));
        Self { up: bytes(&up), down: bytes(&down), rank }
    }

    /// Directions that get weaker by a factor.
    fn decaying(rows: usize, cols: usize, rank: usize, seed: u64, decay: f32) -> Self {
        let mut one = Self::new(rows, cols, rank, seed);
        let mut down = floats(&one.down);
        let mut size = 1.0;
        for row in down.chunks_exact_mut(cols) {
            for v in row {
                *v *= size;
            }
            size *= decay;
        }
        one.down = bytes(&down);
        one
    }

    fn member(&self, rows: usize, cols: usize, factor: f64) -> Member<'_> {
        let up = matrix(&self.up, rows, self.rank);
        Member { up, down: matrix(&self.down, self.rank, cols), factor, row_start: 0 }
    }
}

fn group<'a>(pairs: &'a [Pair], weights: &[f64], rows: usize, cols: usize) -> Group<'a> {
    let members = pairs.iter().zip(weights).map(|(p, w)| p.member(rows, cols, *w)).collect();
    Group::new(rows, cols, members).unwrap()
}

fn product(up: &[f32], down: &[f32], rows: usize, cols: usize) -> Vec<f64> {
    let rank = up.len() / rows;
    let mut out = vec![0.0; rows * cols];
    for i in 0..rows {
        for k in 0..rank {
            for j in 0..cols {
                out[i * cols + j] += f64::from(up[i * rank + k]) * f64::from(down[k * cols + j]);
            }
        }
    }
    out
}

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn programs() -> Vec<Program> {
    let mut found = Vec::new();
    for keep in [
        Keep::All,
        largest(0.3, 0.0),
        largest(0.6, 0.1),
        Keep::Random { density: 0.4, divisor: 0.4 },
        Keep::Random { density: 0.7, divisor: 0.9 },
    ] {
        for vote in [Vote::None, Vote::Mass, Vote::Count] {
            for reduce in [Reduce::Sum, Reduce::Mean] {
                found.push(Program { keep, vote, reduce, ..SUM });
            }
        }
    }
    found
}

/// Entry by entry, in f64, with branches.
fn naive(program: &Program, deltas: &[Vec<f32>], weights: &[f64]) -> Vec<f64> {
    let n = deltas[0].len();
    let kept: Vec<Vec<f64>> = deltas
        .iter()
        .zip(weights)
        .enumerate()
        .map(|(place, (delta, weight))| {
            let x: Vec<f32> = delta.iter().map(|d| d * *weight as f32).collect();
            match program.keep {
                Keep::All => x.iter().map(|v| f64::from(*v)).collect(),
                Keep::Largest { density, skip } => {
                    sorted(&x, density, skip).iter().map(|v| f64::from(*v)).collect()
                }
                Keep::Random { density, divisor } => {
                    let stream = Stream::new(program.seed, program.target, place as u32).unwrap();
                    let keeps = |e| Stream::uniform(stream.word(e)) < density as f32;
                    let of = |(e, v): (usize, &f32)| {
                        if keeps(e as u64) { f64::from(*v) / divisor } else { 0.0 }
                    };
                    x.iter().enumerate().map(of).collect()
                }
                _ => unreachable!("not among programs()"),
            }
        })
        .collect();
    let sign = |x: f64| if x == 0.0 { 0.0 } else { x.signum() };
    let largest = weights.iter().fold(0.0, |a: f64, w| a.max(w.abs()));
    let at = |e: usize| {
        let column: Vec<f64> = kept.iter().map(|k| k[e]).collect();
        let mass = sign(column.iter().sum());
        let heads = sign(column.iter().map(|v| sign(*v)).sum());
        let winner = match program.vote {
            Vote::None => 0.0,
            Vote::Count if heads != 0.0 => heads,
            _ => mass,
        };
        let counts = |v: f64| match program.vote {
            Vote::None => v != 0.0,
            _ => winner != 0.0 && sign(v) == winner,
        };
        let pairs: Vec<(f64, f64)> = column.iter().copied().zip(weights.iter().copied()).collect();
        let total: f64 = pairs.iter().filter(|(v, _)| counts(*v)).map(|(v, _)| v).sum();
        let share: f64 = pairs.iter().filter(|(v, _)| counts(*v)).map(|(_, w)| w.abs()).sum();
        match program.reduce {
            Reduce::Sum => total,
            _ if share > 0.0 => largest * total / share,
            _ => 0.0,
        }
    };
    (0..n).map(at).collect()
}

#[test]
fn programs_are_what_they_say() {
    for (rows, cols) in [(1, 1), (40, 30), (260, 257)] {
        let deltas: Vec<_> = (0..4).map(|seed| random(rows * cols, seed)).collect();
        let weights = [1.0, -0.5, 2.0, 0.7];
        for program in programs() {
            let got = run(&program, &deltas, &weights, rows).unwrap();
            let expected = naive(&program, &deltas, &weights);
            let worst = got
                .iter()
                .zip(&expected)
                .map(|(g, e)| (f64::from(*g) - e).abs())
                .fold(0.0, f64::max);
            assert!(worst < 1e-5, "{program:?} {rows} x {cols}: {worst}");
        }
    }
}

#[test]
fn dense_and_factored_sources_agree() {
    let (rows, cols, weights) = (310, 70, [1.0, -0.5, 2.0]);
    // Small whole numbers: their products are exact in any order.
    let whole = |seed: u64| {
        let mut one = Pair::new(rows, cols, 5, seed);
        for side in [&mut one.up, &mut one.down] {
            *side = bytes(&floats(side).iter().map(|v| (v * 6.0).round()).collect::<Vec<_>>());
        }
        one
    };
    let pairs: Vec<_> = (0..3).map(whole).collect();
    let deltas: Vec<Vec<f32>> = pairs
        .iter()
        .map(|p| product(&floats(&p.up), &floats(&p.down), rows, cols))
        .map(|d| d.iter().map(|v| *v as f32).collect())
        .collect();
    let group = group(&pairs, &weights, rows, cols);
    let source = Factored::new(&group, weights.to_vec()).unwrap();
    for program in programs() {
        let mut got = vec![0.0; rows * cols];
        Prepared::new(&program, &source).unwrap().run(&mut got).unwrap();
        assert_eq!(got, run(&program, &deltas, &weights, rows).unwrap(), "{program:?}");
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let deltas: Vec<_> = (0..3).map(|seed| random(700 * 130, seed)).collect();
    for program in programs() {
        let of = |threads| {
            on_threads(threads, || run(&program, &deltas, &[1.0, 0.3, -2.0], 700).unwrap())
        };
        let (one, two, seven) = (of(1), of(2), of(7));
        assert!(one == two && one == seven, "{program:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, rng_seed: RngSeed::Fixed(4), failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn selection_of_anything(
        values in prop::collection::vec(-4i8..5, 1..400),
        density in 0.001f64..1.0,
        skip in 0.0f64..0.9,
    ) {
        let values: Vec<f32> = values.iter().map(|v| f32::from(*v)).collect();
        let density = density.min(1.0 - skip);
        for rows in [1, values.len()] {
            prop_assert_eq!(selected(&values, rows, density, skip), sorted(&values, density, skip));
        }
    }
}

/// What `condense` said and wrote, and what was meant.
fn condensed(
    program: Program,
    pairs: &[Pair],
    weights: &[f64],
    rows: usize,
    cols: usize,
    rule: &Rule,
) -> Result<(Recompressed, Vec<f64>, Vec<f64>), Error> {
    let group = group(pairs, weights, rows, cols);
    let source = Factored::new(&group, weights.to_vec())?;
    let mut meant = vec![0.0; rows * cols];
    Prepared::new(&program, &source)?.run(&mut meant)?;
    let part = Part { group: &group, weights: weights.to_vec(), program, row_start: 0 };
    let mut out = vec![0; (rows + cols) * rows.min(cols) * 4];
    let done = condense(&[part], rows, rule, Dtype::F32, &mut Vec::new(), &mut out)?;
    let all = floats(&out);
    let (up, down) = all.split_at(rows * done.rank);
    let got = product(up, &down[..done.rank * cols], rows, cols);
    Ok((done, got, meant.iter().map(|v| f64::from(*v)).collect()))
}

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
    let done = condense(&parts, 35, &rule, Dtype::F32, &mut scratch, &mut out).unwrap();
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

#[test]
fn shares_out_of_range_are_refused() {
    let deltas = [vec![1.0; 6], vec![2.0; 6]];
    for bad in [0.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
        let random = |density, divisor| Keep::Random { density, divisor };
        for (keep, word) in [
            (largest(bad, 0.0), "density"),
            (random(bad, 0.5), "density"),
            (random(0.5, bad), "divisor"),
        ] {
            let error = run(&Program { keep, ..SUM }, &deltas, &[1.0, 1.0], 2).unwrap_err();
            assert!(matches!(error, Error::Param { name, .. } if name == word), "{error:?}");
        }
    }
    for bad in [-0.1, 1.0, f64::NAN] {
        let program = Program { keep: largest(0.5, bad), ..SUM };
        let error = run(&program, &deltas, &[1.0, 1.0], 2).unwrap_err();
        assert!(matches!(error, Error::Param { name: "outliers", .. }), "{error:?}");
    }
}

#[test]
fn sides_are_one_for_each_member_or_none() {
    let deltas = [vec![1.0; 6], vec![-2.0; 6]];
    for sides in [vec![Side::Low], vec![Side::Around; 3]] {
        let error = run(&Program { sides, ..SUM }, &deltas, &[1.0, 1.0], 2).unwrap_err();
        assert!(matches!(error, Error::Shape { what: "sides", .. }), "{error:?}");
    }
    for (sides, left) in [
        (vec![Side::All; 2], -1.0),
        (vec![Side::Low, Side::High], 0.0),
        (vec![Side::High, Side::All], -1.0),
        (vec![Side::High, Side::Around], 0.0), // what goes around is not the program's
        (vec![Side::Around; 2], 0.0),
    ] {
        let found = run(&Program { sides, ..SUM }, &deltas, &[1.0, 1.0], 2).unwrap();
        assert_eq!(found, [left; 6]);
    }
}

#[test]
fn deltas_that_do_not_fit_are_refused() {
    let (data, other) = (bytes(&[1.0; 6]), bytes(&[1.0; 4]));
    let fine = || matrix(&data, 2, 3);
    for (deltas, weights) in [
        (vec![], vec![]),
        (vec![fine()], vec![]),
        (vec![fine(), fine()], vec![1.0]),
        (vec![fine(), matrix(&data, 3, 2)], vec![1.0, 1.0]),
        (vec![fine(), matrix(&other, 2, 2)], vec![1.0, 1.0]),
    ] {
        assert!(matches!(Dense::new(deltas, weights), Err(Error::Shape { .. })));
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let data = bytes(&[1.0, 2.0, bad, 4.0, 5.0, 6.0]);
        let found = Dense::new(vec![fine(), matrix(&data, 2, 3)], vec![1.0, 1.0]).err();
        assert!(matches!(found, Some(Error::NonFinite { member: 1, .. })));
    }
    let source = Dense::new(vec![fine()], vec![1.0]).unwrap();
    let sum = SUM;
    let prepared = Prepared::new(&sum, &source).unwrap();
    for size in [0, 5, 7] {
        assert!(matches!(prepared.run(&mut vec![0.0; size]), Err(Error::Shape { .. })));
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let (rows, cols) = (10, 12);
    let pairs = [Pair::new(rows, cols, 2, 1), Pair::new(rows, cols, 3, 2)];
    let weights = vec![1.0, 0.5];
    let group = group(&pairs, &weights, rows, cols);
    let narrow_pair = [Pair::new(rows, 8, 2, 1)];
    let narrow = self::group(&narrow_pair, &[1.0], rows, 8);
    let part =
        |row_start| Part { group: &group, weights: weights.clone(), program: SUM, row_start };
    let with = |parts: &[Part<'_, '_>], rows: usize, size: usize| {
        let rule = Rule { rank: Some(4), ..Rule::default() };
        condense(parts, rows, &rule, Dtype::F32, &mut Vec::new(), &mut vec![0; size]).err()
    };
    let need = (rows + cols) * 4 * 4;
    assert!(with(&[part(0)], rows, need).is_none());
    let other = || Part { group: &narrow, weights: vec![1.0], program: SUM, row_start: 0 };
    for (what, error) in [
        ("no parts", with(&[], rows, need)),
        ("short output", with(&[part(0)], rows, need - 1)),
        ("no output", with(&[part(0)], rows, 0)),
        ("below the end", with(&[part(1)], rows, need)),
        ("far below the end", with(&[part(usize::MAX)], rows, need)),
        ("too few rows", with(&[part(0)], rows - 1, need)),
        ("other columns", with(&[part(0), other()], 2 * rows, 10 * need)),
    ] {
        assert!(matches!(error, Some(Error::Shape { .. })), "{what}: {error:?}");
    }
    for weights in [vec![], vec![1.0], vec![1.0; 3]] {
        let part = Part { group: &group, weights, program: SUM, row_start: 0 };
        assert!(matches!(with(&[part], rows, need), Some(Error::Shape { .. })));
    }
    let program = Program { keep: largest(0.0, 0.0), ..SUM };
    let part = Part { group: &group, weights: weights.clone(), program, row_start: 0 };
    assert!(matches!(with(&[part], rows, need), Some(Error::Param { name: "density", .. })));
}

#[test]
fn rules_out_of_range_are_refused() {
    let pairs = [Pair::new(10, 12, 2, 1), Pair::new(10, 12, 3, 2)];
    for rule in [
        Rule { rank: Some(0), ..Rule::default() },
        Rule { energy: Some(0.0), ..Rule::default() },
        Rule { energy: Some(1.5), ..Rule::default() },
        Rule { max_error: Some(1.0), ..Rule::default() },
        Rule { max_error: Some(f64::NAN), ..Rule::default() },
        Rule { alpha: Some(0.0), ..Rule::default() },
    ] {
        let found = condensed(SUM, &pairs, &[1.0, 1.0], 10, 12, &rule).err();
        assert!(matches!(found, Some(Error::Param { .. })), "{rule:?}: {found:?}");
    }
}

#[test]
fn factors_that_are_no_numbers_are_refused() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut pairs = [Pair::new(10, 12, 2, 1), Pair::new(10, 12, 3, 2)];
        let mut down = floats(&pairs[1].down);
        down[7] = bad;
        pairs[1].down = bytes(&down);
        let found = condensed(SUM, &pairs, &[1.0, 1.0], 10, 12, &Rule::default()).err();
        assert!(matches!(found, Some(Error::NonFinite { member: 1, .. })), "{found:?}");
    }
}

#[test]
fn members_of_a_slice_have_no_whole_delta() {
    let pairs = [Pair::new(4, 12, 2, 1)];
    let group = Group::new(10, 12, vec![pairs[0].member(4, 12, 1.0)]).unwrap();
    assert!(matches!(Factored::new(&group, vec![1.0]), Err(Error::Shape { .. })));
}

#[test]
fn sums_that_overflow_are_refused() {
    let huge = |seed| {
        let mut one = Pair::new(10, 12, 2, seed);
        one.up = bytes(&floats(&one.up).iter().map(|v| v * 1e38).collect::<Vec<_>>());
        one.down = bytes(&floats(&one.down).iter().map(|v| v * 1e3).collect::<Vec<_>>());
        one
    };
    let pairs = [huge(1), huge(2)];
    for program in programs() {
        let found = condensed(program.clone(), &pairs, &[1.0, 1.0], 10, 12, &Rule::default()).err();
        assert!(matches!(found, Some(Error::Overflow { .. })), "{program:?}: {found:?}");
    }
}
