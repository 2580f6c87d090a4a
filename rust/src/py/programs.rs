//! The elementwise half of the binding.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::{Bytes, RawGroup, all, borrow, borrow_floats, borrow_mut, enter, split, views};
use crate::condense::{self as calculate, Part};
use crate::dtype::{Dtype, Matrix};
use crate::elementwise::{Dense, Keep, Prepared, Program, Reduce, Vote};
use crate::group::Group;
use crate::recompress::Rule;
use crate::rng::Stream;
use crate::{Error, probe};

/// keep, density, second number (outliers or divisor), vote, reduce, seed.
#[derive(FromPyObject)]
pub(super) struct RawProgram(String, f64, f64, String, String, u64);

/// group, weights, stable hash of its target, first row, whether one adapter has it for itself.
#[derive(FromPyObject)]
pub(super) struct RawPart(RawGroup, Vec<f64>, u64, usize, bool);

/// rows, cols, stable hash, parts.
#[derive(FromPyObject)]
pub(super) struct RawStep(usize, usize, u64, Vec<RawPart>);

impl RawProgram {
    fn view(&self, target: u64) -> Result<Program, Error> {
        let Self(keep, density, second, vote, reduce, seed) = self;
        let unknown = |name, value: &str, allowed| {
            Err(Error::Param { name, value: value.to_owned(), allowed })
        };
        let keep = match keep.as_str() {
            "all" => Keep::All,
            "largest" => Keep::Largest { density: *density, skip: *second },
            "random" => Keep::Random { density: *density, divisor: *second },
            other => return unknown("keep", other, "all, largest, random"),
        };
        let vote = match vote.as_str() {
            "none" => Vote::None,
            "mass" => Vote::Mass,
            "count" => Vote::Count,
            other => return unknown("vote", other, "none, mass, count"),
        };
        let reduce = match reduce.as_str() {
            "sum" => Reduce::Sum,
            "mean" => Reduce::Mean,
            other => return unknown("reduce", other, "sum, mean"),
        };
        Ok(Program { keep, vote, reduce, seed: *seed, target })
    }
}

/// Runs a program on dense deltas (dtype, bytes) of `rows x cols` into `out` (f32).
#[pyfunction]
#[pyo3(signature = (deltas, rows, cols, weights, program, out, *, target=0, threads=None))]
#[allow(clippy::too_many_arguments)] // the signature Python sees
pub(super) fn run_program(
    py: Python<'_>,
    deltas: Vec<(String, Bytes)>,
    rows: usize,
    cols: usize,
    weights: Vec<f64>,
    program: RawProgram,
    mut out: PyBuffer<f32>,
    target: u64,
    threads: Option<usize>,
) -> PyResult<()> {
    enter(py, threads, || {
        let run = || {
            let out = borrow_floats(&mut out)?;
            let mut views = Vec::with_capacity(deltas.len());
            for (dtype, bytes) in &deltas {
                views.push(Matrix::new(Dtype::parse(dtype)?, rows, cols, borrow(bytes)?)?);
            }
            let source = Dense::new(views, weights)?;
            Prepared::new(program.view(target)?, &source)?.run(out)
        };
        run().map_err(|e| (None, e))
    })
}

type Condensed = (usize, f64, f64, f64, Vec<f64>);

/// Factors of an elementwise result of every step, into its range of `out`.
///
/// Returns (rank, norm, rounding, relative error, sketch) of each.  There is one dense result per
/// thread at a time.
#[pyfunction]
#[pyo3(signature = (steps, program, out, offsets, *, dtype, rank=None, energy=None,
                    max_error=None, alpha=None, threads=None))]
#[allow(clippy::too_many_arguments)] // the signature Python sees
pub(super) fn condense(
    py: Python<'_>,
    steps: Vec<RawStep>,
    program: RawProgram,
    mut out: Bytes,
    offsets: Vec<usize>,
    dtype: String,
    rank: Option<usize>,
    energy: Option<f64>,
    max_error: Option<f64>,
    alpha: Option<f64>,
    threads: Option<usize>,
) -> PyResult<Vec<Condensed>> {
    enter(py, threads, || {
        let dtype = Dtype::parse(&dtype).map_err(|e| (None, e))?;
        let rule = Rule { rank, energy, max_error, alpha };
        let outs = split(borrow_mut(&mut out).map_err(|e| (None, e))?, &offsets)?;
        // One lane per thread, each with one dense result: memory is bounded by the lanes, and a
        // thread that waits inside a step helps with tiles of the others.
        let count = rayon::current_num_threads().max(1);
        let mut lanes: Vec<Vec<(usize, &RawStep, &mut [u8])>> =
            (0..count).map(|_| vec![]).collect();
        for (index, (step, out)) in steps.iter().zip(outs).enumerate() {
            lanes[index % count].push((index, step, out));
        }
        let lane = |items: Vec<(usize, &RawStep, &mut [u8])>| {
            let mut scratch = Vec::new();
            let one = |(index, step, out): (usize, &RawStep, &mut [u8])| {
                (index, step.condense(&program, &rule, dtype, &mut scratch, out))
            };
            items.into_iter().map(one).collect::<Vec<_>>()
        };
        let mut done: Vec<_> = lanes.into_par_iter().flat_map_iter(lane).collect();
        done.sort_by_key(|(index, _)| *index);
        all(done.into_iter().map(|(_, result)| result).collect())
    })
}

impl RawStep {
    fn condense(
        &self,
        program: &RawProgram,
        rule: &Rule,
        dtype: Dtype,
        scratch: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<Condensed, Error> {
        let Self(rows, cols, key, parts) = self;
        let groups: Vec<Group<'_>> =
            parts.iter().map(|part| part.0.view()).collect::<Result<_, _>>()?;
        let part = |(raw, group): (&RawPart, _)| {
            let decided = program.view(raw.2)?;
            let alone =
                Program { keep: Keep::All, vote: Vote::None, reduce: Reduce::Sum, ..decided };
            let program = if raw.4 { alone } else { decided };
            Ok(Part { group, weights: raw.1.clone(), program, row_start: raw.3 })
        };
        let parts: Vec<_> = parts.iter().zip(&groups).map(part).collect::<Result<_, Error>>()?;
        let done = calculate::condense(&parts, *rows, rule, dtype, scratch, out)?;
        let sketch = calculate::sketch(scratch, *cols, &right(*key)?, &left(*key)?);
        Ok((done.rank, done.norm, done.rounding, done.relative_error, sketch))
    }
}

/// Sixty-four numbers for each group's delta, to compare with those of `condense`.
#[pyfunction]
#[pyo3(signature = (groups, keys, *, threads=None))]
pub(super) fn sketch(
    py: Python<'_>,
    groups: Vec<RawGroup>,
    keys: Vec<u64>,
    threads: Option<usize>,
) -> PyResult<Vec<Vec<f64>>> {
    enter(py, threads, || {
        let groups = views(&groups)?;
        let one =
            |(group, key): (&Group<'_>, &u64)| probe::sketch(group, &right(*key)?, &left(*key)?);
        all(groups.par_iter().zip(&keys).map(one).collect())
    })
}

fn right(key: u64) -> Result<Stream, Error> {
    Stream::new(0, key, 0)
}

fn left(key: u64) -> Result<Stream, Error> {
    Stream::new(0, key, 1)
}
