//! Rows of the dense delta of a group, where entries are wanted.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::gram::check_finite;
use crate::group::Group;
use crate::tile::{TILE, down_tile, up_tile};
use crate::{Error, Result};

/// Fills `out` with rows `rows` of the group's delta, `rows.len() x cols` row-major f32.
///
/// Cost: `2 R` flops per entry; one decode of the down stack and of the rows of the up stack.
/// Tiles of 256 rows run in parallel.
///
/// # Errors
/// [`Error::Shape`] if `out` or `rows` do not fit, [`Error::NonFinite`] for bad input.
pub fn expand(group: &Group<'_>, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
    let (cols, rank) = (group.cols(), group.rank());
    if rows.start > rows.end || rows.end > group.rows() || out.len() != rows.len() * cols {
        return Err(Error::Shape {
            what: "rows of the delta",
            expected: format!("a part of 0..{} and {} entries", group.rows(), rows.len() * cols),
            got: format!("{rows:?} and {} entries", out.len()),
        });
    }
    check_finite(group)?;
    if out.is_empty() {
        return Ok(());
    }
    let mut down = vec![0f32; rank * cols];
    down_tile(group, 0..cols, &mut down)?;
    let factors: Vec<f32> = group.factors().iter().map(|f| *f as f32).collect();
    let down = MatRef::from_row_major_slice(&down, rank, cols);
    out.par_chunks_mut(TILE * cols).enumerate().try_for_each(|(index, chunk)| {
        let first = rows.start + index * TILE;
        let n = chunk.len() / cols;
        let mut up = vec![0f32; n * rank];
        up_tile(group, first..first + n, &mut up)?;
        for row in up.chunks_exact_mut(rank.max(1)) {
            row.iter_mut().zip(&factors).for_each(|(x, f)| *x *= f);
        }
        let up = MatRef::from_row_major_slice(&up, n, rank);
        let out = MatMut::from_row_major_slice_mut(chunk, n, cols);
        matmul(out, Accum::Replace, up, down, 1.0, Par::Seq);
        Ok(())
    })
}
