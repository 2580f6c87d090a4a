//! The binding of deltas added to base weights.

use pyo3::prelude::*;
use rayon::prelude::*;

use super::job::same;
use super::mapped::foresee;
use super::{Bytes, RawGroup, all, borrow, borrow_mut, enter, split};
use crate::Result;
use crate::bake::checksum::checksum;
use crate::bake::{self as calculate, Delta, Survival, Whole};
use crate::dtype::{Dtype, Matrix};

/// dtype, bytes, factor, first row, rows.
#[derive(FromPyObject)]
struct RawWhole(String, Bytes, f64, usize, usize);

/// Rows of a base (dtype, bytes, rows), the delta (low-rank members, the others), its first row.
#[derive(FromPyObject)]
pub(super) struct RawStrip(String, Bytes, usize, RawGroup, Vec<RawWhole>, usize);

/// `|delta|^2`, `|moved|^2`, `<moved, delta>`, checksum of the bytes.
type Baked = (f64, f64, f64, u64);

/// Base plus delta of every strip, into its range of the arena, in the type of the base.
#[pyfunction]
#[pyo3(signature = (strips, arena, offsets, *, threads=None))]
pub(super) fn bake(
    py: Python<'_>,
    strips: Vec<RawStrip>,
    mut arena: Bytes,
    offsets: Vec<usize>,
    threads: Option<usize>,
) -> PyResult<Vec<Baked>> {
    enter(py, threads, || {
        let rooms = split(borrow_mut(&mut arena).map_err(|e| (None, e))?, &offsets)?;
        same("offsets", "range of the arena", strips.len(), rooms.len())?;
        all(strips.par_iter().zip(rooms).map(|(strip, room)| strip.bake(room)).collect())
    })
}

impl RawStrip {
    fn bake(&self, room: &mut [u8]) -> Result<Baked> {
        let Self(dtype, bytes, rows, group, whole, first) = self;
        let group = group.view()?;
        let base = Matrix::new(Dtype::parse(dtype)?, *rows, group.cols(), borrow(bytes)?)?;
        foresee(base.bytes());
        let whole = whole.iter().map(|raw| raw.view(group.cols())).collect::<Result<_>>()?;
        let done = calculate::add(&base, &Delta { group: &group, whole }, *first, room)?;
        let Survival { delta, moved, along } = done;
        Ok((delta, moved, along, checksum(room)))
    }
}

impl RawWhole {
    fn view(&self, cols: usize) -> Result<Whole<'_>> {
        let Self(dtype, bytes, factor, row_start, rows) = self;
        let matrix = Matrix::new(Dtype::parse(dtype)?, *rows, cols, borrow(bytes)?)?;
        Ok(Whole { matrix, factor: *factor, row_start: *row_start })
    }
}

/// A checksum of every run of bytes, as `bake` gives it.
#[pyfunction]
#[pyo3(signature = (runs, *, threads=None))]
pub(super) fn checksums(
    py: Python<'_>,
    runs: Vec<Bytes>,
    threads: Option<usize>,
) -> PyResult<Vec<u64>> {
    enter(py, threads, || {
        let one = |run: &Bytes| {
            let bytes = borrow(run)?;
            foresee(bytes);
            Ok(checksum(bytes))
        };
        all(runs.par_iter().map(one).collect())
    })
}
