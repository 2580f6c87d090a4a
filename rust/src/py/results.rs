//! Factors of dense results that Python made.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::programs::{Condensed, RawStep};
use super::{Bytes, all, borrow_mut, borrow_values, enter, same, split};
use crate::condense;
use crate::dtype::Dtype;
use crate::elementwise::Program;
use crate::recompress::Rule;

/// Factors of the dense result (float32, row-major, `rows x cols`) of every step, into its range of
/// `out`.  How the result was made is not asked.
///
/// Returns (rank, norm, rounding, relative error, sketch, gram, along) of each.
#[pyfunction]
#[pyo3(signature = (steps, results, out, offsets, *, dtype, rank=None, energy=None,
                    max_error=None, alpha=None, threads=None))]
#[allow(clippy::too_many_arguments)] // the signature Python sees
pub(super) fn approximate(
    py: Python<'_>,
    steps: Vec<RawStep>,
    results: Vec<PyBuffer<f32>>,
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
        same("offsets", "range of `out`", steps.len(), outs.len())?;
        same("results", "dense result", steps.len(), results.len())?;
        let one = |((step, result), out): ((&RawStep, _), &mut [u8])| {
            let (groups, values) = (step.groups()?, borrow_values(result)?);
            let parts = step.each(&groups, |_| Ok(Program::default()))?;
            let done = condense::approximate(&parts, step.0, &rule, dtype, values, out)?;
            step.accounted(&parts, done, &rule, dtype, values, out)
        };
        all(steps.par_iter().zip(&results).zip(outs).map(one).collect())
    })
}
