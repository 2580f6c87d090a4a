//! Elementwise methods: keep, vote, reduce, in one pass over tiles of the deltas.
//!
//! A [`Program`] says which entries of each weighted delta are kept, which sign wins where the
//! kept ones disagree, and how the winners are reduced to one number.  The deltas are produced
//! tile by tile by a [`Source`] and dropped; only the result has `rows x cols` entries.
//!
//! The order of what happens to the entries of a position: take what the members give, keep, take
//! out what is selfish, mix, vote, reduce, add back what was taken out; at the very end, after norm
//! and cleaning, the members that go around the program.

mod chunks;
mod decide;
mod dots;
mod owners;
mod positions;
mod prepared;
mod program;
mod ramp;
mod random;
pub mod ranked;
mod sample;
mod select;
mod selfish;
mod sides;
mod signs;
pub mod source;
mod staged;
mod survey;
mod together;

use crate::dtype::Matrix;
use crate::{Error, Result};
pub use owners::owners;
pub use prepared::Prepared;
pub use program::{Ballot, Conflicts, Fallback, Keep, Program, Reduce, Selfish, Side, Vote};
pub use signs::{Disagreement, disagreement};
pub use source::{Dense, Factored, Source};

/// Entries of a tile: `N` deltas of a few rows stay in cache.
const TILE: usize = 1 << 14;
/// Rows that a matrix product takes at once.
const STEP: usize = 4;

/// Rows of a tile.
fn rows_of_tile(cols: usize) -> usize {
    (TILE / cols.max(1)).next_multiple_of(STEP).clamp(STEP, 256)
}

/// Entries of deltas that are one row each.
fn flat_length(deltas: &[Matrix<'_>]) -> Result<usize> {
    let len = deltas.first().map_or(0, Matrix::cols);
    match deltas.iter().find(|d| d.rows() != 1 || d.cols() != len) {
        Some(odd) => Err(Error::Shape {
            what: "dense delta",
            expected: format!("{len} entries in one row"),
            got: format!("{} x {}", odd.rows(), odd.cols()),
        }),
        None => Ok(len),
    }
}
