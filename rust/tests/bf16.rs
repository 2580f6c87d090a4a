//! Members that are stored in bf16, with the instruction for such numbers and without.
//!
//! One test, because the ceiling of instruction sets is one for the process.
#![allow(missing_docs, clippy::unwrap_used)]

use loramix_core::condense::{Part, condense};
use loramix_core::dispatch::{Isa, set_ceiling};
use loramix_core::dtype::{Dtype, Matrix, encode};
use loramix_core::elementwise::{Factored, Keep, Prepared, Program, Reduce, Vote};
use loramix_core::group::{Group, Member};
use loramix_core::recompress::Rule;
use loramix_core::rng::Stream;

const FACTORS: [f64; 3] = [0.7, -1.3, 0.4];
/// Numbers that bf16 can hold, and their bytes.
fn stored(len: usize, seed: u64) -> (Vec<f32>, Vec<u8>) {
    let mut words = vec![0u32; len];
    Stream::new(seed, 0, 0).unwrap().fill(0, &mut words);
    let values: Vec<f32> = words.iter().map(|w| Stream::uniform(*w) - 0.5).collect();
    let (mut bytes, mut exact) = (vec![0; 2 * len], vec![0.0; len]);
    encode(Dtype::Bf16, &values, &mut bytes).unwrap();
    let matrix = Matrix::new(Dtype::Bf16, 1, len, &bytes).unwrap();
    matrix.decode_f32(0..1, 0..len, &mut exact, len).unwrap();
    (exact, bytes)
}

/// The sides of a member: values of up and down, and their bytes.
type Sides = ((Vec<f32>, Vec<u8>), (Vec<f32>, Vec<u8>));

fn members(rows: usize, rank: usize, cols: usize) -> Vec<Sides> {
    (0..3).map(|i| (stored(rows * rank, 2 * i), stored(rank * cols, 2 * i + 1))).collect()
}

fn group(sides: &[Sides], rows: usize, rank: usize, cols: usize) -> Group<'_> {
    let member = |(sides, factor): (_, f64)| {
        let ((_, up), (_, down)): &Sides = sides;
        Member {
            up: Matrix::new(Dtype::Bf16, rows, rank, up).unwrap(),
            down: Matrix::new(Dtype::Bf16, rank, cols, down).unwrap(),
            factor,
            row_start: 0,
        }
    };
    Group::new(rows, cols, sides.iter().zip(FACTORS).map(member).collect()).unwrap()
}

/// The largest distance of the sum of all members from that in f64, by the largest entry.
fn error_of_sum(rows: usize, rank: usize, cols: usize) -> f64 {
    let sides = members(rows, rank, cols);
    let group = group(&sides, rows, rank, cols);
    let (program, source) = (Program::default(), Factored::new(&group, FACTORS.to_vec()).unwrap());
    let mut got = vec![0.0; rows * cols];
    Prepared::new(&program, &source).unwrap().run(&mut got).unwrap();
    let entry = |i: usize, j: usize| {
        let of = |(((up, _), (down, _)), factor): (&Sides, f64)| {
            let product = |k| f64::from(up[i * rank + k]) * f64::from(down[k * cols + j]);
            factor * (0..rank).map(product).sum::<f64>()
        };
        sides.iter().zip(FACTORS).map(of).sum::<f64>()
    };
    let all: Vec<f64> = (0..rows * cols).map(|at| entry(at / cols, at % cols)).collect();
    let gaps = got.iter().zip(&all).map(|(got, want)| (f64::from(*got) - want).abs());
    gaps.fold(0.0, f64::max) / all.iter().map(|v| v.abs()).fold(0.0, f64::max)
}

/// The errors that `condense` reports for a large result, by rank.
fn errors_of_cuts() -> Vec<f64> {
    let (rows, rank, cols) = (603, 17, 530);
    let sides = members(rows, rank, cols);
    let group = group(&sides, rows, rank, cols);
    let [x, z] = [0, 1].map(|adapter| Stream::new(7, 0, adapter).unwrap());
    let cut = |kept: usize| {
        let keep = Keep::Largest { density: 0.2, skip: 0.0 };
        let program =
            Program { keep, vote: Vote::Mass, reduce: Reduce::Mean, ..Program::default() };
        let part = Part { group: &group, weights: FACTORS.to_vec(), program, row_start: 0 };
        let rule = Rule { rank: Some(kept), ..Rule::default() };
        let mut out = vec![0; (rows + cols) * kept * 2];
        let streams = (&x, &z);
        condense(&[part], rows, &rule, Dtype::Bf16, streams, &mut Vec::new(), &mut out).unwrap()
    };
    [5, 17, 51, 90].map(|kept| cut(kept).done.relative_error).to_vec()
}

#[test]
fn results_are_the_same_with_and_without_the_instruction() {
    let mut cuts = Vec::new();
    for isa in Isa::ALL {
        set_ceiling(isa);
        for (rows, rank, cols) in [(1, 1, 1), (5, 1, 33), (13, 7, 100), (40, 32, 97), (3, 64, 1600)]
        {
            let error = error_of_sum(rows, rank, cols);
            assert!(error < 1e-6, "{isa:?}, {rows} x {rank} x {cols}: {error}");
        }
        cuts.push(errors_of_cuts());
    }
    for (kept, pair) in [5, 17, 51, 90].iter().zip(cuts[0].iter().zip(&cuts[2])) {
        assert!((pair.0 / pair.1 - 1.0).abs() < 5e-4, "{kept}: {pair:?}");
    }
}
