//! Accounts, mixed stacks, shared bases and programs in them, against dense arithmetic in f64.
//!
//! Proves that accounts are inner products of dense deltas; that mixed stacks are recompressed to
//! what they mean, in any gauge; that bases are orthonormal eigenvectors and rebuild every member,
//! also where members repeat, vanish or are wider than the target; that TIES in both spaces is that
//! of a plain implementation; that bits do not depend on threads; that bad input is refused.
#![allow(clippy::unwrap_used)]

use loramix_core::Error;
use loramix_core::account::Account;
use loramix_core::condense::Part;
use loramix_core::dtype::{Dtype, Matrix};
use loramix_core::elementwise::{Ballot, Keep, Program, Reduce, Side, Vote};
use loramix_core::group::{Group, Member};
use loramix_core::probe;
use loramix_core::project::{Projected, Space, kept, project};
use loramix_core::recompress::{
    Mixing, Recompressed, Rule, accounted, capacity, recompress, recompress_mixed,
};
use loramix_core::rng::Stream;
use loramix_core::space::{Cores, cores};

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
const TIES: Program = Program {
    sides: Vec::new(),
    published_sides: false,
    keep: Keep::Largest { density: 0.4, skip: 0.0 },
    conflicts: None,
    selfish: None,
    mix: Vec::new(),
    ballot: Ballot::Weighted,
    vote: Vote::Mass,
    reduce: Reduce::Mean,
    norm: None,
    clean: false,
    seed: 3,
    target: 7,
};
const SPACES: [Space; 2] = [Space::Knots, Space::Core];

/// Row-major.
#[derive(Clone, Debug)]
struct Dense {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

impl Dense {
    fn new(rows: usize, cols: usize, data: Vec<f64>) -> Self {
        assert_eq!(data.len(), rows * cols);
        Self { rows, cols, data }
    }

    fn zeros(rows: usize, cols: usize) -> Self {
        Self::new(rows, cols, vec![0.0; rows * cols])
    }

    fn random(rows: usize, cols: usize, seed: u64) -> Self {
        Self::new(rows, cols, random(rows * cols, seed).into_iter().map(f64::from).collect())
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.cols + j]
    }

    fn times(&self, other: &Self) -> Self {
        assert_eq!(self.cols, other.rows);
        let entry = |x: usize| {
            let (i, j) = (x / other.cols, x % other.cols);
            (0..self.cols).map(|k| self.at(i, k) * other.at(k, j)).sum()
        };
        Self::new(self.rows, other.cols, (0..self.rows * other.cols).map(entry).collect())
    }

    fn transpose(&self) -> Self {
        let entry = |x: usize| self.at(x % self.rows, x / self.rows);
        Self::new(self.cols, self.rows, (0..self.data.len()).map(entry).collect())
    }

    fn scaled(&self, by: f64) -> Self {
        Self::new(self.rows, self.cols, self.data.iter().map(|x| x * by).collect())
    }

    fn plus(&self, other: &Self) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols));
        let data = self.data.iter().zip(&other.data).map(|(x, y)| x + y).collect();
        Self::new(self.rows, self.cols, data)
    }

    fn minus(&self, other: &Self) -> Self {
        self.plus(&other.scaled(-1.0))
    }

    fn dot(&self, other: &Self) -> f64 {
        self.data.iter().zip(&other.data).map(|(x, y)| x * y).sum()
    }

    fn norm(&self) -> f64 {
        self.dot(self).sqrt()
    }

    fn first_columns(&self, count: usize) -> Self {
        let entry = |x: usize| self.at(x / count, x % count);
        Self::new(self.rows, count, (0..self.rows * count).map(entry).collect())
    }

    /// Eigenvalues, largest first, and eigenvectors in columns, of a symmetric matrix: Jacobi.
    fn eigen(&self) -> (Vec<f64>, Self) {
        let n = self.rows;
        let (mut a, mut v) = (self.clone(), Self::zeros(n, n));
        (0..n).for_each(|i| v.data[i * n + i] = 1.0);
        for _ in 0..60 {
            for p in 0..n {
                for q in p + 1..n {
                    let apq = a.at(p, q);
                    if apq.abs() < 1e-300 {
                        continue;
                    }
                    let theta = (a.at(q, q) - a.at(p, p)) / (2.0 * apq);
                    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                    let c = 1.0 / (t * t + 1.0).sqrt();
                    let turn = |m: &mut Self, x: usize, y: usize| {
                        let (mx, my) = (m.data[x], m.data[y]);
                        m.data[x] = c * (mx - t * my);
                        m.data[y] = c * (my + t * mx);
                    };
                    for k in 0..n {
                        turn(&mut a, k * n + p, k * n + q);
                        turn(&mut v, k * n + p, k * n + q);
                    }
                    for k in 0..n {
                        turn(&mut a, p * n + k, q * n + k);
                    }
                }
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|i, j| a.at(*j, *j).total_cmp(&a.at(*i, *i)));
        let values = order.iter().map(|i| a.at(*i, *i)).collect();
        let entry = |x: usize| v.at(x / n, order[x % n]);
        (values, Self::new(n, n, (0..n * n).map(entry).collect()))
    }
}

/// Numbers in [-1, 1).
fn random(count: usize, seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed, 11, 0).unwrap();
    (0..count as u64).map(|e| 2.0 * Stream::uniform(stream.word(e)) - 1.0).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Owned factors of one member.
#[derive(Clone, Debug)]
struct Pair {
    up: Vec<u8>,
    down: Vec<u8>,
    rank: usize,
    rows: usize,
    cols: usize,
    factor: f64,
    row_start: usize,
}

impl Pair {
    fn of(up: &[f32], down: &[f32], rank: usize) -> Self {
        let (rows, cols) = (up.len() / rank, down.len() / rank);
        let (up, down) = (bytes(up), bytes(down));
        Self { up, down, rank, rows, cols, factor: 1.0, row_start: 0 }
    }

    fn new(rows: usize, cols: usize, rank: usize, seed: u64) -> Self {
        let (up, down) = (random(rows * rank, 2 * seed), random(rank * cols, 2 * seed + 1));
        Self::of(&up, &down, rank)
    }

    fn times(&self, factor: f64) -> Self {
        Self { factor, ..self.clone() }
    }

    fn at_row(&self, row_start: usize) -> Self {
        Self { row_start, ..self.clone() }
    }

    fn member(&self) -> Member<'_> {
        Member {
            up: Matrix::new(Dtype::F32, self.rows, self.rank, &self.up).unwrap(),
            down: Matrix::new(Dtype::F32, self.rank, self.cols, &self.down).unwrap(),
            factor: self.factor,
            row_start: self.row_start,
        }
    }

    /// `up @ down`, without the factor, in `rows` rows.
    fn stored(&self, rows: usize) -> Dense {
        let mut up = vec![0.0; self.row_start * self.rank];
        up.extend(wide(&floats(&self.up)));
        up.resize(rows * self.rank, 0.0);
        let up = Dense::new(rows, self.rank, up);
        up.times(&Dense::new(self.rank, self.cols, wide(&floats(&self.down))))
    }

    fn dense(&self, rows: usize) -> Dense {
        self.stored(rows).scaled(self.factor)
    }

    /// The same delta in other factors: `up G`, `G^-1 down`, G = [[s, t], [0, 1/s]] in the first
    /// two columns, powers of two.
    fn other_gauge(&self, s: f32, t: f32) -> Self {
        let (mut up, mut down) = (floats(&self.up), floats(&self.down));
        for row in up.chunks_exact_mut(self.rank) {
            (row[0], row[1]) = (row[0] * s, row[0] * t + row[1] / s);
        }
        let (first, second) = down.split_at_mut(self.cols);
        for (x, y) in first.iter_mut().zip(second) {
            (*x, *y) = (*x / s - t * *y, *y * s);
        }
        Self { up: bytes(&up), down: bytes(&down), ..self.clone() }
    }
}

fn group(rows: usize, pairs: &[Pair]) -> Group<'_> {
    Group::new(rows, pairs[0].cols, pairs.iter().map(Pair::member).collect()).unwrap()
}

fn sum(rows: usize, pairs: &[Pair]) -> Dense {
    let zero = Dense::zeros(rows, pairs[0].cols);
    pairs.iter().fold(zero, |total, pair| total.plus(&pair.dense(rows)))
}

/// `[f_1 U_1 | ...]` and `[D_1; ...]`.
fn stacks(rows: usize, pairs: &[Pair]) -> (Dense, Dense) {
    let rank: usize = pairs.iter().map(|p| p.rank).sum();
    let cols = pairs[0].cols;
    let (mut up, mut down) = (Dense::zeros(rows, rank), vec![]);
    let mut at = 0;
    for pair in pairs {
        let values = floats(&pair.up);
        for i in 0..pair.rows {
            for k in 0..pair.rank {
                let value = pair.factor * f64::from(values[i * pair.rank + k]);
                up.data[(i + pair.row_start) * rank + at + k] = value;
            }
        }
        down.extend(wide(&floats(&pair.down)));
        at += pair.rank;
    }
    (up, Dense::new(rank, cols, down))
}

/// f32 factors as they were written, multiplied out.
fn product(out: &[u8], rows: usize, cols: usize, rank: usize) -> Dense {
    let values = wide(&floats(&out[..(rows + cols) * rank * 4]));
    let (up, down) = values.split_at(rows * rank);
    Dense::new(rows, rank, up.to_vec()).times(&Dense::new(rank, cols, down.to_vec()))
}

fn assert_close(got: &Dense, expected: &Dense, tolerance: f64, what: &str) {
    let gap = got.minus(expected).norm();
    assert!(gap <= tolerance, "{what}: off by {gap:e}, allowed {tolerance:e}");
}

/// The account is that of `written`, up to a share of the norms.
fn assert_account(account: &Account, rows: usize, pairs: &[Pair], written: &Dense, what: &str) {
    let deltas: Vec<Dense> = pairs.iter().map(|p| p.stored(rows)).collect();
    let n = deltas.len();
    assert_eq!((account.gram.len(), account.along.len()), (n * n, n), "{what}");
    for (i, a) in deltas.iter().enumerate() {
        let gap = (account.along[i] - a.dot(written)).abs();
        let size = a.norm() * pairs.iter().map(|p| p.dense(rows).norm()).sum::<f64>();
        assert!(gap <= 3e-6 * size, "{what}: along {i} is off by {gap:e} of {size:e}");
        for (j, b) in deltas.iter().enumerate() {
            let gap = (account.gram[i * n + j] - a.dot(b)).abs();
            assert!(gap <= 1e-6 * a.norm() * b.norm(), "{what}: gram {i} {j} is off by {gap:e}");
            assert_eq!(account.gram[i * n + j].to_bits(), account.gram[j * n + i].to_bits());
        }
    }
}

fn with_rank(rank: usize) -> Rule {
    Rule { rank: Some(rank), ..Rule::default() }
}

fn rules() -> [Rule; 5] {
    let energy = Rule { energy: Some(0.8), ..Rule::default() };
    let scaled = Rule { alpha: Some(4.0), ..with_rank(5) };
    [Rule::default(), with_rank(1), with_rank(6), energy, scaled]
}

/// What alpha makes of the written factors.
fn seen(written: &Dense, rule: &Rule, rank: usize) -> Dense {
    written.scaled(rule.alpha.map_or(1.0, |alpha| alpha / rank as f64))
}

/// Stacks of many kinds, with a name; all of 14 rows but the last three.
fn kinds() -> Vec<(&'static str, usize, Vec<Pair>)> {
    let one = Pair::new(14, 11, 3, 1);
    let two = Pair::new(14, 11, 4, 2).times(0.7);
    let three = Pair::new(14, 11, 2, 3).times(-2.0);
    let up_zero = Pair::of(&[0.0; 28], &random(22, 9), 2);
    let slice = Pair::new(5, 11, 2, 8).at_row(6);
    let small = Pair::new(14, 11, 3, 12).times(1e-3);
    vec![
        ("plain", 14, vec![one.clone(), two.clone(), three.clone()]),
        ("one", 14, vec![two.clone()]),
        ("repeated", 14, vec![one.clone(), one.times(0.5), three.clone()]),
        ("zero factor", 14, vec![one.clone(), two.times(0.0), three.clone()]),
        ("zero adapter", 14, vec![one.clone(), up_zero, two.clone()]),
        ("slice", 14, vec![one.clone(), slice, two.clone()]),
        ("small", 14, vec![one.clone(), small]),
        ("gauge", 14, vec![one.other_gauge(1024.0, 1e-3), two.other_gauge(0.125, -2.0)]),
        ("wide", 5, vec![Pair::new(5, 30, 4, 4), Pair::new(5, 30, 8, 5)]),
        ("row", 1, vec![Pair::new(1, 9, 2, 6), Pair::new(1, 9, 1, 7).times(3.0)]),
        ("column", 9, vec![Pair::new(9, 1, 2, 6), Pair::new(9, 1, 3, 7)]),
    ]
}

#[test]
fn accounts_are_inner_products() {
    for (name, rows, pairs) in kinds() {
        for rule in rules() {
            let group = group(rows, &pairs);
            let mut out = vec![0; capacity(&group, &rule, Dtype::F32)];
            let (done, account) = accounted(&group, &rule, Dtype::F32, &mut out).unwrap();
            let written = seen(&product(&out, rows, group.cols(), done.rank), &rule, done.rank);
            assert_account(&account, rows, &pairs, &written, &format!("{name} {rule:?}"));
            let mut again = vec![0; out.len()];
            recompress(&group, &rule, Dtype::F32, &mut again).unwrap();
            assert!(out == again, "{name}: an account changes nothing");
        }
    }
}

#[test]
fn accounts_of_what_cancels_are_zero() {
    let one = Pair::new(20, 13, 4, 5);
    let pairs = [one.times(0.7), one.times(-0.7)];
    let mut out = vec![0; 4000];
    let (_, account) =
        accounted(&group(20, &pairs), &Rule::default(), Dtype::F32, &mut out).unwrap();
    assert!(account.along.iter().all(|x| *x == 0.0), "{:?}", account.along);
    assert_account(&account, 20, &pairs, &Dense::zeros(20, 13), "cancels");
}

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

/// Norm of what the best rank-`rank` approximation leaves.
fn tail(delta: &Dense, rank: usize) -> f64 {
    let (values, _) = delta.transpose().times(delta).eigen();
    values.iter().skip(rank).map(|x| x.max(0.0)).sum::<f64>().sqrt()
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

/// Both bases, multiplied out, and the cores.
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

fn weights_of(count: usize) -> Vec<f64> {
    [1.0, -0.7, 0.4].into_iter().take(count).collect()
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

/// Runs parts, each (pairs, weights, program, rows, first row); the pairs' factors get the weights.
struct Job {
    pairs: Vec<Pair>,
    weights: Vec<f64>,
    program: Program,
    rows: usize,
    row_start: usize,
}

impl Job {
    fn new(rows: usize, pairs: &[Pair], program: Program) -> Self {
        Self::at(0, rows, pairs, program)
    }

    fn at(row_start: usize, rows: usize, pairs: &[Pair], program: Program) -> Self {
        let weights = weights_of(pairs.len());
        Self::weighted(row_start, rows, pairs, &weights, program)
    }

    fn weighted(
        row_start: usize,
        rows: usize,
        pairs: &[Pair],
        weights: &[f64],
        program: Program,
    ) -> Self {
        let pairs = pairs.iter().zip(weights).map(|(p, w)| p.times(p.factor * w)).collect();
        Self { pairs, weights: weights.to_vec(), program, rows, row_start }
    }
}

fn keys() -> (Stream, Stream) {
    (Stream::new(0, 99, 0).unwrap(), Stream::new(0, 99, 1).unwrap())
}

fn projected(
    jobs: &[Job],
    rows: usize,
    space: Space,
    rule: &Rule,
) -> Result<(Projected, Dense, Vec<u8>), Error> {
    let groups: Vec<Group<'_>> = jobs.iter().map(|job| group(job.rows, &job.pairs)).collect();
    let part = |(job, group): (&Job, _)| Part {
        group,
        weights: job.weights.clone(),
        program: job.program.clone(),
        row_start: job.row_start,
    };
    let parts: Vec<_> = jobs.iter().zip(&groups).map(part).collect();
    let cols = groups[0].cols();
    let mut out = vec![0xFF; (rows + cols) * rows.min(cols) * 4];
    let (right, left) = keys();
    let done = project(&parts, rows, space, rule, Dtype::F32, (&right, &left), &mut out)?;
    let written = seen(&product(&out, rows, cols, done.done.rank), rule, done.done.rank);
    out.truncate((rows + cols) * done.done.rank * 4);
    Ok((done, written, out))
}

#[test]
fn a_program_that_keeps_all_gives_the_weighted_sum() {
    for (name, rows, pairs) in kinds() {
        for space in SPACES {
            let job = Job::new(rows, &pairs, SUM);
            let meant = sum(rows, &job.pairs);
            let size: f64 = job.pairs.iter().map(|p| p.dense(rows).norm()).sum();
            let (found, written, _) =
                projected(std::slice::from_ref(&job), rows, space, &Rule::default()).unwrap();
            assert_close(&written, &meant, 4e-6 * size, name);
            assert!((found.done.norm - meant.norm()).abs() < 4e-6 * size, "{name}");
            assert_account(&found.account, rows, &job.pairs, &written, name);
            let (right, left) = keys();
            let sketch = probe::sketch(&group(rows, &job.pairs), &right, &left).unwrap();
            for (x, y) in found.sketch.iter().zip(&sketch) {
                assert!((x - y).abs() < 2e-4 * size, "{name}: {x} {y}");
            }
        }
    }
}

#[test]
fn one_adapter_alone_is_its_delta_to_the_bit() {
    let one = Pair::new(14, 11, 3, 1).times(0.7);
    let mut plain = vec![0; 25 * 3 * 4];
    recompress(&group(14, std::slice::from_ref(&one)), &Rule::default(), Dtype::F32, &mut plain)
        .unwrap();
    for space in SPACES {
        let job = Job::new(14, std::slice::from_ref(&one), SUM);
        let (_, _, out) = projected(&[job], 14, space, &Rule::default()).unwrap();
        assert!(out == plain);
    }
}

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

/// Members of singular values that are far apart, so that bases are unique.
fn separated(rows: usize, cols: usize) -> Vec<Pair> {
    let one = |seed: u64| {
        let (mut up, down) = (random(rows * 3, 2 * seed), random(3 * cols, 2 * seed + 1));
        for row in up.chunks_exact_mut(3) {
            (row[0], row[2]) = (row[0] * 3.0, row[2] * 0.4);
        }
        Pair::of(&up, &down, 3)
    };
    vec![one(21), one(22).times(0.8), one(23).times(1.3)]
}

/// TIES in a space, from dense deltas and Jacobi eigenvectors.
fn ties_in(space: Space, rows: usize, pairs: &[Pair], weights: &[f64], p: usize) -> Dense {
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

#[test]
fn a_program_in_a_space_is_homogeneous_and_odd() {
    let pairs = separated(20, 16);
    let of = |space, weights: [f64; 3], program| {
        let job = Job::weighted(0, 20, &pairs, &weights, program);
        projected(&[job], 20, space, &Rule::default()).unwrap().1
    };
    let random = Program { keep: Keep::Random { density: 0.5, divisor: 0.5 }, ..TIES };
    for space in SPACES {
        for program in [TIES, random.clone()] {
            let one = of(space, [1.0, -0.7, 0.4], program.clone());
            for by in [-1.0, 3.0, -0.01] {
                let other = of(space, [by, -0.7 * by, 0.4 * by], program.clone());
                let expected = one.scaled(by);
                assert_close(&other, &expected, 1e-5 * expected.norm(), "scaled");
            }
        }
        let equal = vec![pairs[0].clone(); 3];
        let keep_all = Program { keep: Keep::All, ..TIES };
        let job = Job::weighted(0, 20, &equal, &[0.5; 3], keep_all);
        let (_, written, _) = projected(&[job], 20, space, &Rule::default()).unwrap();
        let expected = pairs[0].dense(20).scaled(0.5);
        assert_close(&written, &expected, 1e-5 * expected.norm(), "equal adapters");
    }
}

#[test]
fn parts_stand_where_they_belong() {
    let pairs = separated(20, 16);
    let alone = [Pair::new(7, 16, 2, 40)];
    for space in SPACES {
        let jobs = [
            Job::at(25, 20, &pairs, TIES),
            Job::at(2, 7, &alone, SUM),
            Job::at(9, 14, &[Pair::new(14, 16, 2, 41), Pair::new(3, 16, 1, 42).at_row(4)], SUM),
        ];
        let (found, written, _) = projected(&jobs, 47, space, &Rule::default()).unwrap();
        let members = jobs
            .iter()
            .flat_map(|job| job.pairs.iter().map(|p| p.at_row(p.row_start + job.row_start)));
        let members: Vec<Pair> = members.collect();
        let mut meant = sum(47, &members[3..]);
        let top = ties_in(space, 20, &jobs[0].pairs, &jobs[0].weights, 9);
        meant.data[25 * 16..45 * 16].copy_from_slice(&top.data);
        assert_close(&written, &meant, 1e-4 * meant.norm(), "parts");
        assert_account(&found.account, 47, &members, &written, "parts");
    }
}

#[test]
fn nothing_in_a_space_is_rank_one_of_zeros() {
    let zero = Pair::of(&[0.0; 20], &[1.0; 14], 2);
    for space in SPACES {
        for pairs in [vec![zero.clone(), zero.clone()], vec![zero.clone()]] {
            for program in [TIES, SUM] {
                let job = Job::new(10, &pairs, program);
                let (found, written, _) = projected(&[job], 10, space, &Rule::default()).unwrap();
                assert_eq!((found.done.rank, found.done.norm.to_bits()), (1, 0));
                assert!(written.data.iter().all(|x| *x == 0.0));
                assert!(found.account.along.iter().all(|x| *x == 0.0));
            }
        }
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let pairs = [Pair::new(10, 12, 2, 1), Pair::new(10, 12, 3, 2)];
    let narrow = [Pair::new(10, 8, 2, 1)];
    let job = |row_start| Job::at(row_start, 10, &pairs, TIES);
    let refused = |jobs: &[Job], rows: usize| {
        let found = projected(jobs, rows, Space::Core, &Rule::default()).err();
        assert!(matches!(found, Some(Error::Shape { .. })), "{found:?}");
    };
    assert!(projected(&[job(0), job(10)], 20, Space::Core, &Rule::default()).is_ok());
    refused(&[job(0), job(9)], 20);
    refused(&[job(0), job(0)], 20);
    refused(&[job(1)], 10);
    refused(&[job(usize::MAX)], 10);
    refused(&[job(0), Job::at(10, 10, &narrow, SUM)], 20);
    for weights in [vec![], vec![1.0], vec![1.0; 3]] {
        refused(&[Job { weights, ..job(0) }], 10);
    }
    for sides in [vec![Side::Around], vec![Side::Low; 3]] {
        refused(&[Job::at(0, 10, &pairs, Program { sides, ..TIES })], 10);
    }
    let (right, left) = keys();
    let none =
        project(&[], 5, Space::Core, &Rule::default(), Dtype::F32, (&right, &left), &mut [0; 99]);
    assert!(matches!(none, Err(Error::Shape { .. })));
    let group = group(10, &pairs);
    let part = Part { group: &group, weights: vec![1.0; 2], program: SUM, row_start: 0 };
    let program = Program { sides: vec![Side::All, Side::Around], ..TIES };
    for space in SPACES {
        let few =
            Part { group: &group, weights: vec![1.0], program: program.clone(), row_start: 0 };
        assert!(matches!(kept(&few, space), Err(Error::Shape { what: "weights", .. })));
    }
    let rule = with_rank(1);
    let short =
        project(&[part], 10, Space::Knots, &rule, Dtype::F32, (&right, &left), &mut [0; 87]);
    assert!(matches!(short, Err(Error::Shape { .. })));
    let program = Program { keep: Keep::Largest { density: 0.0, skip: 0.0 }, ..TIES };
    let found = projected(&[Job { program, ..job(0) }], 10, Space::Core, &Rule::default()).err();
    assert!(matches!(found, Some(Error::Param { name: "density", .. })));
    let found = projected(&[job(0)], 10, Space::Core, &with_rank(0)).err();
    assert!(matches!(found, Some(Error::Param { name: "rank", .. })));
}

#[test]
fn factors_that_are_no_numbers_are_named_across_parts() {
    let bad = Pair::of(&[1.0; 10], &[f32::INFINITY; 12], 1);
    let fine = [Pair::new(10, 12, 2, 1), Pair::new(10, 12, 3, 2)];
    let jobs = [Job::at(0, 10, &fine, TIES), Job::at(10, 10, &[fine[0].clone(), bad], TIES)];
    for space in SPACES {
        let found = projected(&jobs, 20, space, &Rule::default()).err();
        assert_eq!(found, Some(Error::NonFinite { member: 3, side: "down" }));
    }
}

#[test]
fn results_beyond_f32_are_refused() {
    let pairs = [Pair::new(10, 12, 2, 1).times(1e100), Pair::new(10, 12, 3, 2)];
    for space in SPACES {
        let found = projected(&[Job::new(10, &pairs, TIES)], 10, space, &Rule::default()).err();
        assert!(matches!(found, Some(Error::Overflow { .. })), "{found:?}");
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (rows, cols) = (4500, 4300);
    let pairs: Vec<Pair> = (0..3).map(|seed| Pair::new(rows, cols, 4, 70 + seed)).collect();
    let everything = || {
        let mut all = vec![];
        for space in SPACES {
            for rule in [Rule::default(), with_rank(5)] {
                let job = Job::new(rows, &pairs, TIES);
                let (groups, weights) = (group(rows, &job.pairs), job.weights.clone());
                let part = Part { group: &groups, weights, program: TIES, row_start: 0 };
                let mut out = vec![0; (rows + cols) * 12 * 4];
                let (right, left) = keys();
                let streams = (&right, &left);
                let found = project(&[part], rows, space, &rule, Dtype::F32, streams, &mut out);
                let Projected { account, sketch, .. } = found.unwrap();
                let numbers = account.gram.into_iter().chain(account.along).chain(sketch);
                all.extend(numbers.map(f64::to_bits));
                all.extend(out.iter().map(|x| u64::from(*x)));
            }
        }
        let found = cores(&group(rows, &pairs), &[1.0, 2.0, 3.0]).unwrap();
        all.extend(found.left.iter().chain(&found.right).chain(&found.cores).map(|x| x.to_bits()));
        all
    };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(everything)
    };
    let one = run(1);
    assert!(one == run(2));
    assert!(one == run(5));
}
