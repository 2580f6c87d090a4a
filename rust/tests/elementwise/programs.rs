//! Programs against naive arithmetic.

use crate::support::*;
use loramix_core::elementwise::{Factored, Keep, Prepared, Program, Reduce, Vote};
use loramix_core::rng::Stream;

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
