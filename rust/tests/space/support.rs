//! Pairs of factors, what is compared, and how programs are run on them.

use loramix_core::Error;
use loramix_core::account::Account;
use loramix_core::condense::Part;
use loramix_core::dtype::{Dtype, Matrix};
use loramix_core::elementwise::{Ballot, Keep, Program, Reduce, Vote};
use loramix_core::group::{Group, Member};
use loramix_core::project::{Projected, Space, project};
use loramix_core::recompress::Rule;
use loramix_core::rng::Stream;

pub(crate) use crate::dense::Dense;

pub(crate) const SUM: Program = Program {
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
pub(crate) const TIES: Program = Program {
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
pub(crate) const SPACES: [Space; 2] = [Space::Knots, Space::Core];

/// Numbers in [-1, 1).
pub(crate) fn random(count: usize, seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed, 11, 0).unwrap();
    (0..count as u64).map(|e| 2.0 * Stream::uniform(stream.word(e)) - 1.0).collect()
}

pub(crate) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// Owned factors of one member.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub up: Vec<u8>,
    pub down: Vec<u8>,
    pub rank: usize,
    pub rows: usize,
    pub cols: usize,
    pub factor: f64,
    pub row_start: usize,
}

impl Pair {
    pub(crate) fn of(up: &[f32], down: &[f32], rank: usize) -> Self {
        let (rows, cols) = (up.len() / rank, down.len() / rank);
        let (up, down) = (bytes(up), bytes(down));
        Self { up, down, rank, rows, cols, factor: 1.0, row_start: 0 }
    }

    pub(crate) fn new(rows: usize, cols: usize, rank: usize, seed: u64) -> Self {
        let (up, down) = (random(rows * rank, 2 * seed), random(rank * cols, 2 * seed + 1));
        Self::of(&up, &down, rank)
    }

    pub(crate) fn times(&self, factor: f64) -> Self {
        Self { factor, ..self.clone() }
    }

    pub(crate) fn at_row(&self, row_start: usize) -> Self {
        Self { row_start, ..self.clone() }
    }

    pub(crate) fn member(&self) -> Member<'_> {
        Member {
            up: Matrix::new(Dtype::F32, self.rows, self.rank, &self.up).unwrap(),
            down: Matrix::new(Dtype::F32, self.rank, self.cols, &self.down).unwrap(),
            factor: self.factor,
            row_start: self.row_start,
        }
    }

    /// `up @ down`, without the factor, in `rows` rows.
    pub(crate) fn stored(&self, rows: usize) -> Dense {
        let mut up = vec![0.0; self.row_start * self.rank];
        up.extend(wide(&floats(&self.up)));
        up.resize(rows * self.rank, 0.0);
        let up = Dense::new(rows, self.rank, up);
        up.times(&Dense::new(self.rank, self.cols, wide(&floats(&self.down))))
    }

    pub(crate) fn dense(&self, rows: usize) -> Dense {
        self.stored(rows).scaled(self.factor)
    }

    /// The same delta in other factors: `up G`, `G^-1 down`, G = [[s, t], [0, 1/s]] in the first
    /// two columns, powers of two.
    pub(crate) fn other_gauge(&self, s: f32, t: f32) -> Self {
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

pub(crate) fn group(rows: usize, pairs: &[Pair]) -> Group<'_> {
    Group::new(rows, pairs[0].cols, pairs.iter().map(Pair::member).collect()).unwrap()
}

pub(crate) fn sum(rows: usize, pairs: &[Pair]) -> Dense {
    let zero = Dense::zeros(rows, pairs[0].cols);
    pairs.iter().fold(zero, |total, pair| total.plus(&pair.dense(rows)))
}

/// `[f_1 U_1 | ...]` and `[D_1; ...]`.
pub(crate) fn stacks(rows: usize, pairs: &[Pair]) -> (Dense, Dense) {
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
pub(crate) fn product(out: &[u8], rows: usize, cols: usize, rank: usize) -> Dense {
    let values = wide(&floats(&out[..(rows + cols) * rank * 4]));
    let (up, down) = values.split_at(rows * rank);
    Dense::new(rows, rank, up.to_vec()).times(&Dense::new(rank, cols, down.to_vec()))
}

pub(crate) fn assert_close(got: &Dense, expected: &Dense, tolerance: f64, what: &str) {
    let gap = got.minus(expected).norm();
    assert!(gap <= tolerance, "{what}: off by {gap:e}, allowed {tolerance:e}");
}

/// The account is that of `written`, up to a share of the norms.
pub(crate) fn assert_account(
    account: &Account,
    rows: usize,
    pairs: &[Pair],
    written: &Dense,
    what: &str,
) {
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

pub(crate) fn with_rank(rank: usize) -> Rule {
    Rule { rank: Some(rank), ..Rule::default() }
}

pub(crate) fn rules() -> [Rule; 5] {
    let energy = Rule { energy: Some(0.8), ..Rule::default() };
    let scaled = Rule { alpha: Some(4.0), ..with_rank(5) };
    [Rule::default(), with_rank(1), with_rank(6), energy, scaled]
}

/// What alpha makes of the written factors.
pub(crate) fn seen(written: &Dense, rule: &Rule, rank: usize) -> Dense {
    written.scaled(rule.alpha.map_or(1.0, |alpha| alpha / rank as f64))
}

/// Stacks of many kinds, with a name; all of 14 rows but the last three.
pub(crate) fn kinds() -> Vec<(&'static str, usize, Vec<Pair>)> {
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

/// Runs parts, each (pairs, weights, program, rows, first row); the pairs' factors get the weights.
pub(crate) struct Job {
    pub pairs: Vec<Pair>,
    pub weights: Vec<f64>,
    pub program: Program,
    pub rows: usize,
    pub row_start: usize,
}

impl Job {
    pub(crate) fn new(rows: usize, pairs: &[Pair], program: Program) -> Self {
        Self::at(0, rows, pairs, program)
    }

    pub(crate) fn at(row_start: usize, rows: usize, pairs: &[Pair], program: Program) -> Self {
        let weights = weights_of(pairs.len());
        Self::weighted(row_start, rows, pairs, &weights, program)
    }

    pub(crate) fn weighted(
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

pub(crate) fn keys() -> (Stream, Stream) {
    (Stream::new(0, 99, 0).unwrap(), Stream::new(0, 99, 1).unwrap())
}

pub(crate) fn projected(
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

/// Members of singular values that are far apart, so that bases are unique.
pub(crate) fn separated(rows: usize, cols: usize) -> Vec<Pair> {
    let one = |seed: u64| {
        let (mut up, down) = (random(rows * 3, 2 * seed), random(3 * cols, 2 * seed + 1));
        for row in up.chunks_exact_mut(3) {
            (row[0], row[2]) = (row[0] * 3.0, row[2] * 0.4);
        }
        Pair::of(&up, &down, 3)
    };
    vec![one(21), one(22).times(0.8), one(23).times(1.3)]
}

pub(crate) fn weights_of(count: usize) -> Vec<f64> {
    [1.0, -0.7, 0.4].into_iter().take(count).collect()
}

/// Norm of what the best rank-`rank` approximation leaves.
pub(crate) fn tail(delta: &Dense, rank: usize) -> f64 {
    let (values, _) = delta.transpose().times(delta).eigen();
    values.iter().skip(rank).map(|x| x.max(0.0)).sum::<f64>().sqrt()
}
