//! Mixed stacks, shared bases and the programs that run in them.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::job::{RawJob, Written, same, written};
use super::programs::{RawProgram, RawStep, left, right};
use super::{RawGroup, all, borrow_doubles, borrow_doubles_mut, enter, split, views};
use crate::group::Group;
use crate::project::{self as calculate, Space};
use crate::recompress::{self, Mixing};
use crate::space::{self, Cores};
use crate::{Error, Result, probe};

/// A (`R x p`) and B (`p x R`), contiguous.
type RawMixing = (PyBuffer<f64>, PyBuffer<f64>);

fn mixing(raw: &RawMixing) -> Result<Mixing> {
    let (up, down) = raw;
    let (&[rank, p], &[rows, cols]) = (up.shape(), down.shape()) else {
        return Err(Error::Shape {
            what: "mixers",
            expected: "two matrices".into(),
            got: format!("{} and {} dimensions", up.dimensions(), down.dimensions()),
        });
    };
    if (rows, cols) != (p, rank) {
        return Err(Error::Shape {
            what: "mixers",
            expected: format!("{rank} x {p} and {p} x {rank}"),
            got: format!("{rank} x {p} and {rows} x {cols}"),
        });
    }
    Mixing::new(rank, p, borrow_doubles(up)?, borrow_doubles(down)?)
}

/// New factors of `(stack_up A) (B stack_down)` of every group into its range of the job's arena.
///
/// `mixers` holds (A, B) of each: float64, C-contiguous, `R x p` and `p x R`; the members' factors
/// are in `stack_up`; `keys` are those of the sketches.
#[pyfunction]
pub(super) fn recompress_mixed(
    py: Python<'_>,
    groups: Vec<RawGroup>,
    mixers: Vec<RawMixing>,
    keys: Vec<u64>,
    mut job: RawJob,
) -> PyResult<Vec<Written>> {
    enter(py, job.threads, || {
        let (rule, dtype, rooms) = job.open(groups.len())?;
        let groups = views(&groups)?;
        same("mixers", "pair of mixers", groups.len(), mixers.len())?;
        same("keys", "key", groups.len(), keys.len())?;
        let one = |(((group, raw), key), room): (((&Group<'_>, _), &u64), &mut [u8])| {
            let mixing = mixing(raw)?;
            let done = recompress::recompress_mixed(group, &mixing, &rule, dtype, room)?;
            let sketch = probe::sketch_mixed(group, &mixing, &right(*key)?, &left(*key)?)?;
            Ok(written(done, sketch))
        };
        all(groups.par_iter().zip(&mixers).zip(&keys).zip(rooms).map(one).collect())
    })
}

/// Bases that the members of every group share, and the members in them.
///
/// Returns (p, q) of each.  Its range of `out` (float64) begins with left (`R x p`), right
/// (`R x q`) and the cores (`n x p x q`), row-major: with bases `U = stack_up left` and
/// `V = stack_down^T right`, member i is `U core_i V^T`.
#[pyfunction]
#[pyo3(signature = (groups, weights, out, offsets, *, threads=None))]
pub(super) fn cores(
    py: Python<'_>,
    groups: Vec<RawGroup>,
    weights: Vec<Vec<f64>>,
    mut out: PyBuffer<f64>,
    offsets: Vec<usize>,
    threads: Option<usize>,
) -> PyResult<Vec<(usize, usize)>> {
    enter(py, threads, || {
        let outs = split(borrow_doubles_mut(&mut out).map_err(|e| (None, e))?, &offsets)?;
        let groups = views(&groups)?;
        same("offsets", "range of `out`", groups.len(), outs.len())?;
        same("weights", "list of weights", groups.len(), weights.len())?;
        let one = |((group, weights), out): ((&Group<'_>, &Vec<f64>), &mut [f64])| {
            store(&space::cores(group, weights)?, out)
        };
        all(groups.par_iter().zip(&weights).zip(outs).map(one).collect())
    })
}

fn store(found: &Cores, mut out: &mut [f64]) -> Result<(usize, usize)> {
    let parts = [&found.left, &found.right, &found.cores];
    let need: usize = parts.iter().map(|part| part.len()).sum();
    if out.len() < need {
        return Err(Error::Shape {
            what: "output buffer",
            expected: format!("{need} numbers"),
            got: format!("{} numbers", out.len()),
        });
    }
    for part in parts {
        let (target, rest) = out.split_at_mut(part.len());
        target.copy_from_slice(part);
        out = rest;
    }
    Ok((found.p, found.q))
}

/// Factors of an elementwise result in a shared space ("knots" or "core") of every step, into its
/// range of the job's arena.
#[pyfunction]
pub(super) fn project(
    py: Python<'_>,
    steps: Vec<RawStep>,
    program: RawProgram,
    space: String,
    mut job: RawJob,
) -> PyResult<Vec<Written>> {
    enter(py, job.threads, || {
        let space = space_of(&space).map_err(|e| (None, e))?;
        let (rule, dtype, rooms) = job.open(steps.len())?;
        let one = |(step, room): (&RawStep, &mut [u8])| {
            let groups = step.groups()?;
            let parts = step.parts(&program, &groups)?;
            let (right, left) = (right(step.2)?, left(step.2)?);
            let streams = (&right, &left);
            let done = calculate::project(&parts, step.0, space, &rule, dtype, streams, room)?;
            Ok(written((done.done, done.account), done.sketch))
        };
        all(steps.par_iter().zip(rooms).map(one).collect())
    })
}

pub(super) fn space_of(name: &str) -> Result<Space> {
    match name {
        "knots" => Ok(Space::Knots),
        "core" => Ok(Space::Core),
        other => {
            Err(Error::Param { name: "space", value: other.to_owned(), allowed: "knots, core" })
        }
    }
}
