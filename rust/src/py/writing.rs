//! Bytes on their way into a file, and whether they got there, without the GIL.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{Result as Outcome, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::mapped::foresee;
use super::{Bytes, borrow, row, to_py};
use crate::Result;

/// Written in one call: of larger pieces the system makes huge pages, which a virtual machine may
/// have to ask its host for; smaller views are gathered first.
const PIECE: usize = 1 << 18;
const PAGE: usize = 1 << 12;

/// Writes views one after the other into a file that is there.
#[pyfunction]
pub(super) fn write_at(py: Python<'_>, path: PathBuf, at: u64, views: Vec<Bytes>) -> PyResult<()> {
    let found = views.iter().map(borrow).collect::<Result<Vec<_>>>();
    let found = found.map_err(|error| to_py((None, error)))?;
    py.detach(|| write(&path, at, &found)).map_err(|error| match error.raw_os_error() {
        Some(code) => PyOSError::new_err((code, error.to_string())),
        None => error.into(),
    })
}

fn write(path: &Path, at: u64, views: &[&[u8]]) -> Outcome<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut gathered = Vec::with_capacity(PIECE);
    for view in views {
        if gathered.len() + view.len() > PIECE {
            file.write_all(&gathered)?;
            gathered.clear();
        }
        if view.len() < PIECE {
            gathered.extend_from_slice(view);
        } else {
            pieces(&mut file, view)?;
        }
    }
    file.write_all(&gathered)
}

/// The system copies slowly from pages of a mapped file that nobody has touched yet.
fn pieces(file: &mut File, view: &[u8]) -> Outcome<()> {
    for piece in view.chunks(PIECE) {
        piece.iter().step_by(PAGE).for_each(|byte| _ = black_box(*byte));
        file.write_all(piece)?;
    }
    Ok(())
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
            foresee(borrow(found)?);
            if !finite || borrow(meant)? != borrow(found)? {
                return Ok(Some((place, finite)));
            }
        }
        Ok(None)
    };
    py.detach(find).map_err(|error| to_py((None, error)))
}
