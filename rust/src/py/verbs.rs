//! The binding of small functions: those on dense deltas that only `loramix.kernels` calls, numbers
//! that should be finite, and the memory of the process.
#![allow(unsafe_code)]

use pyo3::prelude::*;

use super::{Bytes, borrow_mut, enter, rows, to_py};
use crate::dtype::Matrix;
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

/// Place of the first of some tensors (dtype, bytes) that holds NaN or infinity.
#[pyfunction]
pub(super) fn first_not_finite(
    py: Python<'_>,
    tensors: Vec<(String, Bytes)>,
) -> PyResult<Option<usize>> {
    let find = || {
        let bad = |row: &Matrix<'_>| row.find_non_finite().is_some();
        Ok(rows(&tensors)?.iter().position(bad))
    };
    py.detach(find).map_err(to_py)
}

/// Gives memory that was freed back to the system, where the allocator keeps it (glibc).
///
/// Batches leave their many small buffers in the arenas of threads that have ended: a third of the
/// peak of a large merge.
#[pyfunction]
pub(super) fn give_back(py: Python<'_>) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    py.detach(|| {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: a function of the C library without preconditions; it locks the arenas itself.
        unsafe { malloc_trim(0) };
    });
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = py;
}
