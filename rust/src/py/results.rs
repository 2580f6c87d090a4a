//! Dense results that Python made: as factors, and as they are.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::job::{RawJob, Written, same, written};
use super::programs::{RawStep, left, right, stored};
use super::{Outcome, all, borrow_values, enter};
use crate::account::Account;
use crate::condense::{self, Part};
use crate::elementwise::Program;
use crate::extract as calculate;
use crate::{Result, probe, whole};

/// Factors of the dense result (float32, row-major, `rows x cols`) of every step, into its range of
/// the job's arena.  How the result was made is not asked.
#[pyfunction]
pub(super) fn approximate(
    py: Python<'_>,
    steps: Vec<RawStep>,
    results: Vec<PyBuffer<f32>>,
    mut job: RawJob,
) -> PyResult<Vec<Written>> {
    enter(py, job.threads, || {
        let (rule, dtype, rooms) = job.open(steps.len())?;
        each(&steps, &results, rooms, |step, parts, values, room| {
            let streams = (&right(step.2)?, &left(step.2)?);
            let done = condense::approximate(parts, step.0, &rule, dtype, streams, values, room)?;
            step.accounted(parts, done, &rule, dtype, room)
        })
    })
}

/// The dense result (float32, row-major, `rows x cols`) of every step itself, into its range.
#[pyfunction]
pub(super) fn store(
    py: Python<'_>,
    steps: Vec<RawStep>,
    results: Vec<PyBuffer<f32>>,
    mut job: RawJob,
) -> PyResult<Vec<Written>> {
    enter(py, job.threads, || {
        let (_, dtype, rooms) = job.open(steps.len())?;
        each(&steps, &results, rooms, |step, parts, values, room| {
            let streams = (&right(step.2)?, &left(step.2)?);
            Ok(stored(whole::store(parts, step.0, streams, dtype, values, room)?, step))
        })
    })
}

/// Factors of dense matrices (float32, row-major) of which nothing is known, into their ranges.
///
/// `shapes` are rows and columns, `keys` those of the sketches.
#[pyfunction]
pub(super) fn extract(
    py: Python<'_>,
    results: Vec<PyBuffer<f32>>,
    shapes: Vec<(usize, usize)>,
    keys: Vec<u64>,
    mut job: RawJob,
) -> PyResult<Vec<Written>> {
    enter(py, job.threads, || {
        let (rule, dtype, rooms) = job.open(results.len())?;
        same("shapes", "shape", results.len(), shapes.len())?;
        same("keys", "key", results.len(), keys.len())?;
        let one = |(((result, (rows, cols)), key), room): (((_, &(usize, usize)), &u64), _)| {
            let values = borrow_values(result)?;
            let done = calculate::extract(values, *rows, *cols, &rule, dtype, room)?;
            let sketch = probe::sketch_dense(values, *cols, &right(*key)?, &left(*key)?);
            Ok(written((done, Account::default()), sketch))
        };
        all(results.par_iter().zip(&shapes).zip(&keys).zip(rooms).map(one).collect())
    })
}

/// Calls `work` with every step, its parts, its result and its room.
fn each(
    steps: &[RawStep],
    results: &[PyBuffer<f32>],
    rooms: Vec<&mut [u8]>,
    work: impl Fn(&RawStep, &[Part<'_, '_>], &[f32], &mut [u8]) -> Result<Written> + Sync,
) -> Outcome<Vec<Written>> {
    same("results", "dense result", steps.len(), results.len())?;
    let one = |((step, result), room): ((&RawStep, _), &mut [u8])| {
        let (groups, values) = (step.groups()?, borrow_values(result)?);
        let parts = step.each(&groups, |_| Ok(Program::default()))?;
        work(step, &parts, values, room)
    };
    all(steps.par_iter().zip(results).zip(rooms).map(one).collect())
}
