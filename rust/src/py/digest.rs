//! The digest of large files: a tree of hashes, several times as fast as a chain of them.

use pyo3::prelude::*;

use super::mapped::foresee;
use super::{Bytes, borrow, to_py};

/// BLAKE3 of 256 bits, with the methods of `hashlib`.
#[pyclass]
pub(super) struct Blake3(blake3::Hasher);

#[pymethods]
impl Blake3 {
    #[new]
    fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    /// More of the bytes.
    fn update(&mut self, py: Python<'_>, data: Bytes) -> PyResult<()> {
        let bytes = borrow(&data).map_err(|error| to_py((None, error)))?;
        py.detach(|| {
            foresee(bytes);
            self.0.update(bytes);
        });
        Ok(())
    }

    /// Of all bytes so far, 64 letters.
    fn hexdigest(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
