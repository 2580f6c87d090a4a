//! The binding of functions on dense deltas that only `loramix.kernels` calls.

use pyo3::prelude::*;

use super::{Bytes, borrow_mut, enter, rows};
use crate::elementwise;

/// Positions of dense deltas (dtype, bytes) where signs differ, and where both are non-zero.
///
/// Two row-major lists of N * N.
#[pyfunction]
#[pyo3(signature = (deltas, *, threads=None))]
pub(super) fn disagreement(
    py: Python<'_>,
    deltas: Vec<(String, Bytes)>,
    threads: Option<usize>,
) -> PyResult<(Vec<u64>, Vec<u64>)> {
    enter(py, threads, || {
        let found = elementwise::disagreement(&rows(&deltas)?).map_err(|e| (None, e))?;
        Ok((found.conflicts, found.overlaps))
    })
}

/// 1 where an entry of a dense delta (dtype, bytes) is selfish, into N rows of `out`; else 0.
#[pyfunction]
#[pyo3(signature = (deltas, weights, lambda_, out, *, threads=None))]
pub(super) fn owners(
    py: Python<'_>,
    deltas: Vec<(String, Bytes)>,
    weights: Vec<f64>,
    lambda_: f64,
    mut out: Bytes,
    threads: Option<usize>,
) -> PyResult<()> {
    enter(py, threads, || {
        let deltas = rows(&deltas)?;
        let mut run = || elementwise::owners(&deltas, &weights, lambda_, borrow_mut(&mut out)?);
        run().map_err(|e| (None, e))
    })
}
