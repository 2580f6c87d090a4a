//! Memory for dense results that outlives a call.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

/// One buffer per thread, used by one call after the other: fresh ones for each would cost a
/// seventh of the time of dense results in page faults.
#[pyclass(frozen)]
#[derive(Default)]
pub(super) struct Scratch(Mutex<Vec<Vec<f32>>>);

#[pymethods]
impl Scratch {
    #[new]
    fn new() -> Self {
        Self::default()
    }
}

impl Scratch {
    /// Calls `work` with a buffer that nobody else has, of any length; it is kept as it is left.
    pub(super) fn lend<T>(&self, work: impl FnOnce(&mut Vec<f32>) -> T) -> T {
        let mut buffer = self.buffers().pop().unwrap_or_default();
        let result = work(&mut buffer);
        self.buffers().push(buffer);
        result
    }

    fn buffers(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
