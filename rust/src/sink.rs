//! Where new factors go: encoded bytes, up (`rows x k`) before down (`k x cols`), row-major.

use std::ops::Range;

use crate::dtype::{Dtype, encode};
use crate::{Error, Result};

pub(crate) struct Sink<'o> {
    rank: usize,
    cols: usize,
    dtype: Dtype,
    up: &'o mut [u8],
    down: &'o mut [u8],
}

impl<'o> Sink<'o> {
    /// `out` holds at least `(rows + cols) * rank` elements.
    pub(crate) fn new(
        rows: usize,
        cols: usize,
        rank: usize,
        dtype: Dtype,
        out: &'o mut [u8],
    ) -> Self {
        let (up, down) = out.split_at_mut(rows * rank * dtype.size());
        Self { rank, cols, dtype, up, down }
    }

    /// Whole rows of up, from row `first`.
    pub(crate) fn up(&mut self, first: usize, values: &[f32]) -> Result<()> {
        let size = self.dtype.size();
        let at = first * self.rank * size;
        put(self.dtype, values, &mut self.up[at..at + values.len() * size])
    }

    /// Columns `cols` of down: `rank x cols.len()` values.
    pub(crate) fn down(&mut self, cols: Range<usize>, values: &[f32]) -> Result<()> {
        let size = self.dtype.size();
        for (row, values) in values.chunks_exact(cols.len()).enumerate() {
            let at = (row * self.cols + cols.start) * size;
            put(self.dtype, values, &mut self.down[at..at + values.len() * size])?;
        }
        Ok(())
    }
}

/// Inputs are finite here, so what is not has left the range of f32 on the way.
pub(crate) fn put(dtype: Dtype, values: &[f32], out: &mut [u8]) -> Result<()> {
    encode(dtype, values, out).map_err(|error| match error {
        Error::Param { .. } => Error::Overflow { value: f32::INFINITY, dtype: dtype.name() },
        other => other,
    })
}
