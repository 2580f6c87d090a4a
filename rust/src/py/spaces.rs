//! Mixed stacks, shared bases and the programs that run in them.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::programs::{RawProgram, RawStep, left, right};
use super::{
    Bytes, RawGroup, all, borrow_doubles, borrow_doubles_mut, borrow_mut, enter, same, split,
    views, written,
};
use crate::dtype::Dtype;
use crate::group::Group;
use crate::project::{self as calculate, Space};
use crate::recompress::{self, Mixing, Rule};
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

/// New factors of `(stack_up A) (B stack_down)` of every group into its range of `out`.
///
/// `mixers` holds (A, B) of each: float64, C-contiguous, `R x p` and `p x R`; the members' factors
/// are in `stack_up`.  Returns (rank, norm, rounding, relative error, sketch, gram, along) of
/// each; `keys` are those of the sketches.
#[pyfunction]
#[pyo3(signature = (groups, mixers, keys, out, offsets, *, dtype, rank=None, energy=None,
                    max_error=None, alpha=None, threads=None))]
#[allow(clippy::too_many_arguments)] // the signature Python sees
pub(super) fn recompress_mixed(
    py: Python<'_>,
    groups: Vec<RawGroup>,
    mixers: Vec<RawMixing>,
    keys: Vec<u64>,
    mut out: Bytes,
    offsets: Vec<usize>,
    dtype: String,
    rank: Option<usize>,
    energy: Option<f64>,
    max_error: Option<f64>,
    alpha: Option<f64>,
    threads: Option<usize>,
) -> PyResult<Vec<Projected>> {
    enter(py, threads, || {
        let dtype = Dtype::parse(&dtype).map_err(|e| (None, e))?;
        let rule = Rule { rank, energy, max_error, alpha };
        let outs = split(borrow_mut(&mut out).map_err(|e| (None, e))?, &offsets)?;
        let groups = views(&groups)?;
        same("offsets", "range of `out`", groups.len(), outs.len())?;
        same("mixers", "pair of mixers", groups.len(), mixers.len())?;
        same("keys", "key", groups.len(), keys.len())?;
        let one = |(((group, raw), key), out): (((&Group<'_>, _), &u64), &mut [u8])| {
            let mixing = mixing(raw)?;
            let done = recompress::recompress_mixed(group, &mixing, &rule, dtype, out)?;
            let sketch = probe::sketch_mixed(group, &mixing, &right(*key)?, &left(*key)?)?;
            let (rank, norm, rounding, error, gram, along) = written(done);
            Ok((rank, norm, rounding, error, sketch, gram, along))
        };
        all(groups.par_iter().zip(&mixers).zip(&keys).zip(outs).map(one).collect())
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

type Projected = (usize, f64, f64, f64, Vec<f64>, Vec<f64>, Vec<f64>);

/// Factors of an elementwise result in a shared space ("knots" or "core") of every step, into its
/// range of `out`.
///
/// Returns (rank, norm, rounding, relative error, sketch, gram, along) of each.
#[pyfunction]
#[pyo3(signature = (steps, program, space, out, offsets, *, dtype, rank=None, energy=None,
                    max_error=None, alpha=None, threads=None))]
#[allow(clippy::too_many_arguments)] // the signature Python sees
pub(super) fn project(
    py: Python<'_>,
    steps: Vec<RawStep>,
    program: RawProgram,
    space: String,
    mut out: Bytes,
    offsets: Vec<usize>,
    dtype: String,
    rank: Option<usize>,
    energy: Option<f64>,
    max_error: Option<f64>,
    alpha: Option<f64>,
    threads: Option<usize>,
) -> PyResult<Vec<Projected>> {
    enter(py, threads, || {
        let dtype = Dtype::parse(&dtype).map_err(|e| (None, e))?;
        let space = space_of(&space).map_err(|e| (None, e))?;
        let rule = Rule { rank, energy, max_error, alpha };
        let outs = split(borrow_mut(&mut out).map_err(|e| (None, e))?, &offsets)?;
        same("offsets", "range of `out`", steps.len(), outs.len())?;
        let one = |(step, out): (&RawStep, &mut [u8])| {
            let groups = step.groups()?;
            let parts = step.parts(&program, &groups)?;
            let (right, left) = (right(step.2)?, left(step.2)?);
            let streams = (&right, &left);
            let done = calculate::project(&parts, step.0, space, &rule, dtype, streams, out)?;
            let sketch = done.sketch;
            let (rank, norm, rounding, error, gram, along) = written((done.done, done.account));
            Ok((rank, norm, rounding, error, sketch, gram, along))
        };
        all(steps.par_iter().zip(outs).map(one).collect())
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
