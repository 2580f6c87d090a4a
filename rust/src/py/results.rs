//! Dense results that Python made: as factors, and as they are.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::job::{RawJob, Written, same};
use super::programs::{RawStep, left, right, stored};
use super::{all, borrow_values, enter};
use crate::condense;
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
        same("results", "dense result", steps.len(), results.len())?;
        let one = |((step, result), room): ((&RawStep, _), &mut [u8])| {
            let (groups, values) = (step.groups()?, borrow_values(result)?);
            let parts = step.each(&groups, |_| Ok(Program::default()))?;
            let done = condense::approximate(&parts, step.0, &rule, dtype, values, room)?;
            step.accounted(&parts, done, &rule, dtype, values, room)
        };
        all(steps.par_iter().zip(&results).zip(rooms).map(one).collect())
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
        same("results", "dense result", steps.len(), results.len())?;
        let one = |((step, result), room): ((&RawStep, _), &mut [u8])| {
            let (groups, values) = (step.groups()?, borrow_values(result)?);
            let parts = step.each(&groups, |_| Ok(Program::default()))?;
            let streams = (&right(step.2)?, &left(step.2)?);
            Ok(stored(whole::store(&parts, step.0, streams, dtype, values, room)?, step))
        };
        all(steps.par_iter().zip(&results).zip(rooms).map(one).collect())
    })
}
