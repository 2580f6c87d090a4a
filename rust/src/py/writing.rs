//! Bytes on their way into a file, and whether they got there, without the GIL.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::{Bytes, borrow, row, to_py};
use crate::Result;

/// Gathered before they are written: they stay in the cache of a core, and the system takes small
/// pages for them; pieces of megabytes get huge ones, which a virtual machine may have to ask for.
const ROOM: usize = 1 << 18;

/// Writes pieces one after the other into a file that is there.
///
/// The system copies slowly from pages that are not mapped yet, or not in a cache: with a buffer
/// between it takes two thirds of the time.
#[pyfunction]
pub(super) fn write_at(py: Python<'_>, path: PathBuf, at: u64, pieces: Vec<Bytes>) -> PyResult<()> {
    let views = pieces.iter().map(borrow).collect::<Result<Vec<_>>>();
    let views = views.map_err(|error| to_py((None, error)))?;
    py.detach(|| gathered(&path, at, &views)).map_err(|error| match error.raw_os_error() {
        Some(code) => PyOSError::new_err((code, error.to_string())),
        None => error.into(),
    })
}

fn gathered(path: &Path, at: u64, views: &[&[u8]]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut room = Vec::with_capacity(ROOM);
    for view in views {
        let mut left = *view;
        while !left.is_empty() {
            let (part, rest) = left.split_at(left.len().min(ROOM - room.len()));
            room.extend_from_slice(part);
            left = rest;
            if room.len() == ROOM {
                file.write_all(&room)?;
                room.clear();
            }
        }
    }
    file.write_all(&room)
}

/// The first of some tensors (dtype, bytes meant, bytes found) that is not what was meant, or holds
/// NaN or infinity: its place, and whether its numbers are finite.
#[pyfunction]
pub(super) fn first_wrong(
    py: Python<'_>,
    tensors: Vec<(String, Bytes, Bytes)>,
) -> PyResult<Option<(usize, bool)>> {
    let find = || {
        for (place, (dtype, meant, found)) in tensors.iter().enumerate() {
            // One after the other while they are in the cache of a core.
            let finite = row(dtype, meant)?.find_non_finite().is_none();
            if !finite || borrow(meant)? != borrow(found)? {
                return Ok(Some((place, finite)));
            }
        }
        Ok(None)
    };
    py.detach(find).map_err(|error| to_py((None, error)))
}
