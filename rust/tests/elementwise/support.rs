//! Dense deltas, pairs of factors, and how programs are run on them.

use loramix_core::Error;
use loramix_core::condense::{Condensed, Part, condense};
use loramix_core::dtype::{Dtype, Matrix};
use loramix_core::elementwise::{Ballot, Dense, Factored, Keep, Prepared, Program, Reduce, Vote};
use loramix_core::group::{Group, Member};
use loramix_core::probe::sketch_dense;
use loramix_core::recompress::{Recompressed, Rule};
use loramix_core::rng::Stream;

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

pub(crate) fn largest(density: f64, skip: f64) -> Keep {
    Keep::Largest { density, skip }
}

pub(crate) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Numbers in [-1, 1).
pub(crate) fn random(count: usize, seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed, 0, 0).unwrap();
    (0..count as u64).map(|e| 2.0 * Stream::uniform(stream.word(e)) - 1.0).collect()
}

pub(crate) fn matrix(data: &[u8], rows: usize, cols: usize) -> Matrix<'_> {
    Matrix::new(Dtype::F32, rows, cols, data).unwrap()
}

/// Runs a program on dense deltas.
pub(crate) fn run(
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

pub(crate) fn on_threads<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(work)
}

pub(crate) fn floor(share: f64, n: usize) -> usize {
    let exact = share * n as f64;
    let near = exact.round();
    if (exact - near).abs() < 1e-9 * near.max(1.0) { near as usize } else { exact as usize }
}

/// What a stable sort by falling magnitude keeps.
pub(crate) fn sorted(values: &[f32], density: f64, skip: f64) -> Vec<f32> {
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

pub(crate) fn selected(values: &[f32], rows: usize, density: f64, skip: f64) -> Vec<f32> {
    let program = Program { keep: largest(density, skip), ..SUM };
    run(&program, &[values.to_vec()], &[1.0], rows).unwrap()
}

/// A pair of factors, as bytes.
pub(crate) struct Pair {
    pub up: Vec<u8>,
    pub down: Vec<u8>,
    pub rank: usize,
}

impl Pair {
    pub(crate) fn new(rows: usize, cols: usize, rank: usize, seed: u64) -> Self {
        let (up, down) = (random(rows * rank, seed), random(rank * cols, seed + 1000));
        Self { up: bytes(&up), down: bytes(&down), rank }
    }

    /// Directions that get weaker by a factor.
    pub(crate) fn decaying(rows: usize, cols: usize, rank: usize, seed: u64, decay: f32) -> Self {
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

    pub(crate) fn member(&self, rows: usize, cols: usize, factor: f64) -> Member<'_> {
        let up = matrix(&self.up, rows, self.rank);
        Member { up, down: matrix(&self.down, self.rank, cols), factor, row_start: 0 }
    }
}

pub(crate) fn group<'a>(pairs: &'a [Pair], weights: &[f64], rows: usize, cols: usize) -> Group<'a> {
    let members = pairs.iter().zip(weights).map(|(p, w)| p.member(rows, cols, *w)).collect();
    Group::new(rows, cols, members).unwrap()
}

pub(crate) fn product(up: &[f32], down: &[f32], rows: usize, cols: usize) -> Vec<f64> {
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

pub(crate) fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

pub(crate) fn programs() -> Vec<Program> {
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

/// What `condense` said and wrote, and what was meant.
pub(crate) fn condensed(
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
    let (done, all) = condensed_to(Dtype::F32, &group, (program, weights), &meant, rule)?;
    let (up, down) = all.split_at(rows * done.rank);
    let got = product(up, down, rows, cols);
    Ok((done, got, meant.iter().map(|v| f64::from(*v)).collect()))
}

/// What `condense` said of a program with its weights, and the factors that it wrote.
pub(crate) fn condensed_to(
    dtype: Dtype,
    group: &Group<'_>,
    (program, weights): (Program, &[f64]),
    meant: &[f32],
    rule: &Rule,
) -> Result<(Recompressed, Vec<f32>), Error> {
    let (rows, cols) = (group.rows(), group.cols());
    let part = Part { group, weights: weights.to_vec(), program, row_start: 0 };
    let mut out = vec![0; (rows + cols) * rows.min(cols) * dtype.size()];
    let [x, z] = [0, 1].map(|adapter| Stream::new(7, 0, adapter).unwrap());
    let made = condense(&[part], rows, rule, dtype, (&x, &z), &mut Vec::new(), &mut out)?;
    let Condensed { done, sketch } = made;
    let norm = meant.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    // A machine that multiplies bf16 numbers looks at large results with those.
    let rounded = meant.len() > 1 << 18 && done.relative_error >= 0.1;
    let close = if rounded { 1e-2 } else { 1e-5 };
    for (got, want) in sketch.iter().zip(sketch_dense(meant, cols, &x, &z)) {
        assert!((got - want).abs() <= close * norm, "{got} {want}");
    }
    let used = (rows + cols) * done.rank;
    let mut all = vec![0.0; used];
    Matrix::new(dtype, 1, used, &out[..used * dtype.size()])?.decode_f32(
        0..1,
        0..used,
        &mut all,
        used,
    )?;
    Ok((done, all))
}
