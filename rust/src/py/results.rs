//! Factors of dense results that Python made.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::job::{RawJob, Written, same};
use super::programs::RawStep;
use super::{all, borrow_values, enter};
use crate::condense;
use crate::elementwise::Program;

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
