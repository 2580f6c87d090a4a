//! Dense results of programs: the bytes are those of the program, and what is said of them is true.
//!
//! The truth of the account is a triple loop in f64.
#![allow(clippy::unwrap_used)]
#![allow(clippy::float_cmp)] // bytes are equal or not

use loramix_core::Error;
use loramix_core::condense::Part;
use loramix_core::dtype::{Dtype, Matrix, encode};
use loramix_core::elementwise::{Factored, Keep, Prepared, Program, Reduce, Side, Vote};
use loramix_core::group::{Group, Member};
use loramix_core::probe;
use loramix_core::rng::Stream;
use loramix_core::whole::{Whole, write};

const RANK: usize = 3;
const WEIGHTS: [f64; 3] = [0.8, -0.5, 1.2];

/// Members of one shape: up and then down of each, as numbers and as bytes.
struct Members {
    rows: usize,
    cols: usize,
    sides: Vec<(Vec<f32>, Vec<f32>)>,
    bytes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Members {
    fn new(rows: usize, cols: usize, seed: u64, size: f32) -> Self {
        let side = |count: usize, key: u64| -> Vec<f32> {
            let stream = Stream::new(seed, key, 0).unwrap();
            (0..count as u64)
                .map(|e| size * (2.0 * Stream::uniform(stream.word(e)) - 1.0))
                .collect()
        };
        let pair = |i: u64| (side(rows * RANK, 2 * i), side(RANK * cols, 2 * i + 1));
        let sides: Vec<_> = (0..WEIGHTS.len() as u64).map(pair).collect();
        let bytes = sides.iter().map(|(up, down)| (bytes(up), bytes(down))).collect();
        Self { rows, cols, sides, bytes }
    }

    fn group(&self) -> Group<'_> {
        let (rows, cols) = (self.rows, self.cols);
        let each = self.bytes.iter().zip(&WEIGHTS);
        let members = each.map(|((up, down), factor)| Member {
            up: Matrix::new(Dtype::F32, rows, RANK, up).unwrap(),
            down: Matrix::new(Dtype::F32, RANK, cols, down).unwrap(),
            factor: *factor,
            row_start: 0,
        });
        Group::new(rows, cols, members.collect()).unwrap()
    }

    /// `up @ down` of every member.
    fn deltas(&self) -> Vec<Vec<f64>> {
        let entry = |(up, down): &(Vec<f32>, Vec<f32>), at: usize| {
            let (i, j) = (at / self.cols, at % self.cols);
            let term = |k: usize| f64::from(up[i * RANK + k]) * f64::from(down[k * self.cols + j]);
            (0..RANK).map(term).sum::<f64>()
        };
        let all = |pair| (0..self.rows * self.cols).map(|at| entry(pair, at)).collect();
        self.sides.iter().map(all).collect()
    }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn ties() -> Program {
    let keep = Keep::Largest { density: 0.4, skip: 0.0 };
    Program { keep, vote: Vote::Mass, reduce: Reduce::Mean, ..Program::default() }
}

/// Programs whose inner products are taken in passing, and those that change deltas before.
fn programs() -> [Program; 5] {
    let random = Keep::Random { density: 0.5, divisor: 0.5 };
    let sides = vec![Side::Low, Side::All, Side::High];
    [
        Program::default(),
        ties(),
        Program { norm: Some(0.7), ..ties() },
        Program { keep: random, ..ties() },
        Program { sides, ..ties() },
    ]
}

fn result(program: &Program, group: &Group<'_>) -> Vec<f32> {
    let source = Factored::new(group, WEIGHTS.to_vec()).unwrap();
    let mut out = vec![f32::NAN; group.rows() * group.cols()];
    Prepared::new(program, &source).unwrap().run(&mut out).unwrap();
    out
}

fn written(
    parts: &[(&Group<'_>, usize)],
    program: &Program,
    rows: usize,
    dtype: Dtype,
) -> Result<(Whole, Vec<u8>), Error> {
    let weights = WEIGHTS.to_vec();
    let each = parts.iter().map(|(group, row_start)| Part {
        group,
        weights: weights.clone(),
        program: program.clone(),
        row_start: *row_start,
    });
    let parts: Vec<Part<'_, '_>> = each.collect();
    let mut out = vec![255; rows * parts[0].group.cols() * dtype.size()];
    let (right, left) = (Stream::new(0, 9, 0)?, Stream::new(0, 9, 1)?);
    let mut scratch = vec![f32::NAN; 100];
    let done = write(&parts, rows, (&right, &left), dtype, &mut scratch, &mut out)?;
    Ok((done, out))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Checks an account against dense members, which stand where the result has them.
fn check(done: &Whole, meant: &[f64], deltas: &[Vec<f64>]) {
    let (size, n) = (dot(meant, meant).sqrt(), deltas.len());
    assert!((done.norm - size).abs() <= 1e-6 * size, "{} {size}", done.norm);
    for (i, one) in deltas.iter().enumerate() {
        let own = dot(one, one).sqrt();
        let gap = (done.account.along[i] - dot(meant, one)).abs();
        assert!(gap <= 2e-6 * size * own, "along {i}: {gap} of {}", size * own);
        for (j, two) in deltas.iter().enumerate() {
            let gap = (done.account.gram[i * n + j] - dot(one, two)).abs();
            assert!(gap <= 1e-6 * own * dot(two, two).sqrt(), "gram {i} {j}");
        }
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn bytes_are_those_of_the_program_and_the_account_is_true() {
    for (rows, cols) in [(1, 1), (1, 9), (9, 1), (40, 33), (300, 70), (257, 1030)] {
        let members = Members::new(rows, cols, 1, 1.0);
        let (group, deltas) = (members.group(), members.deltas());
        for program in programs() {
            let meant = result(&program, &group);
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                let (done, out) = written(&[(&group, 0)], &program, rows, dtype).unwrap();
                let mut expected = vec![0; out.len()];
                encode(dtype, &meant, &mut expected).unwrap();
                assert!(out == expected, "{rows} x {cols} {dtype:?}");
                check(&done, &wide(&meant), &deltas);
            }
        }
    }
}

#[test]
fn the_sketch_is_that_of_the_factors() {
    let members = Members::new(300, 70, 2, 1.0);
    let group = members.group();
    let (done, _) = written(&[(&group, 0)], &Program::default(), 300, Dtype::Bf16).unwrap();
    let streams = (Stream::new(0, 9, 0).unwrap(), Stream::new(0, 9, 1).unwrap());
    let expected = probe::sketch(&group, &streams.0, &streams.1).unwrap();
    assert_eq!(done.sketch.len(), expected.len());
    for (got, expected) in done.sketch.iter().zip(expected) {
        assert!((got - expected).abs() <= 1e-5 * done.norm, "{got} {expected}");
    }
}

#[test]
fn parts_stand_where_they_belong_in_any_order_and_gaps_are_zero() {
    let (rows, cols) = (40, 33);
    let all = [Members::new(12, cols, 3, 1.0), Members::new(9, cols, 4, 1.0)];
    let groups = [all[0].group(), all[1].group()];
    let starts = [25, 4];
    let mut meant = vec![0f32; rows * cols];
    let mut deltas = Vec::new();
    for ((members, group), start) in all.iter().zip(&groups).zip(starts) {
        let at = start * cols..(start + members.rows) * cols;
        meant[at.clone()].copy_from_slice(&result(&ties(), group));
        for delta in members.deltas() {
            let mut placed = vec![0.0; rows * cols];
            placed[at.clone()].copy_from_slice(&delta);
            deltas.push(placed);
        }
    }
    let parts = [(&groups[0], starts[0]), (&groups[1], starts[1])];
    let (done, out) = written(&parts, &ties(), rows, Dtype::F32).unwrap();
    assert!(out == bytes(&meant));
    check(&done, &wide(&meant), &deltas);
}

#[test]
fn the_account_holds_for_extreme_sizes() {
    for size in [1e-15, 1e-9, 1e9, 1e15] {
        let members = Members::new(60, 300, 5, size);
        let group = members.group();
        let (done, _) = written(&[(&group, 0)], &ties(), 60, Dtype::F32).unwrap();
        check(&done, &wide(&result(&ties(), &group)), &members.deltas());
    }
}

#[test]
fn members_of_zero_have_no_part_in_anything() {
    let members = Members::new(20, 30, 6, 0.0);
    let (done, out) = written(&[(&members.group(), 0)], &ties(), 20, Dtype::F16).unwrap();
    assert!(done.norm == 0.0 && out.iter().all(|byte| *byte == 0));
    assert!(done.account.along.iter().chain(&done.account.gram).all(|x| *x == 0.0));
}

#[test]
fn nothing_is_written_for_targets_without_entries() {
    for (rows, cols) in [(0, 5), (5, 0), (0, 0)] {
        let members = Members::new(rows, cols, 7, 1.0);
        let (done, out) = written(&[(&members.group(), 0)], &ties(), rows, Dtype::F32).unwrap();
        assert_eq!((done.norm, out.len(), done.account.along), (0.0, 0, vec![0.0; 3]));
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let members = Members::new(700, 310, 8, 1.0);
    let of = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| written(&[(&members.group(), 0)], &ties(), 700, Dtype::Bf16).unwrap())
    };
    let (one, two, seven) = (of(1), of(2), of(7));
    assert!(one == two && one == seven);
}

#[test]
fn what_does_not_fit_is_refused() {
    let members = Members::new(20, 30, 9, 1000.0);
    let group = members.group();
    let refused = |parts: &[(&Group<'_>, usize)], dtype| {
        written(parts, &Program::default(), 20, dtype).unwrap_err()
    };
    assert!(matches!(refused(&[(&group, 0)], Dtype::F16), Error::Overflow { dtype: "F16", .. }));
    assert!(matches!(refused(&[(&group, 1)], Dtype::F32), Error::Shape { .. }));
    let mut bad = Members::new(20, 30, 9, 1.0);
    bad.bytes[1].1[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = refused(&[(&bad.group(), 0)], Dtype::F32);
    assert_eq!(error, Error::NonFinite { member: 1, side: "down" });
}
