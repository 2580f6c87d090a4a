//! Dense results that Python made: as factors, and as they are.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::job::{RawJob, Written, same};
use super::programs::{RawStep, left, right, stored};
use super::{Outcome, all, borrow_values, enter};
use crate::Result;
use crate::condense::{self, Part};
use crate::elementwise::Program;
use crate::whole;

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
            let done = condense::approximate(parts, step.0, &rule, dtype, values, room)?;
            step.accounted(parts, done, &rule, dtype, values, room)
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
