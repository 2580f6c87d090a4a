//! Elementwise methods: keep, vote, reduce, in one pass over tiles of the deltas.
//!
//! A [`Program`] says which entries of each weighted delta are kept, which sign wins where the
//! kept ones disagree, and how the winners are reduced to one number.  The deltas are produced
//! tile by tile by a [`Source`] and dropped; only the result has `rows x cols` entries.
//!
//! The order of what happens to the entries of a position: keep, take out what is selfish, mix,
//! vote, reduce, add back what was taken out.

mod dots;
mod positions;
mod prepared;
mod program;
mod random;
pub mod ranked;
mod select;
pub mod source;
mod sweep;

pub use prepared::Prepared;
pub use program::{Ballot, Conflicts, Fallback, Keep, Program, Reduce, Selfish, Vote};
pub use source::{Dense, Factored, Source};

/// Entries of a tile: `N` deltas of a few rows stay in cache.
const TILE: usize = 1 << 16;

/// Rows of a tile.
fn rows_of_tile(cols: usize) -> usize {
    (TILE / cols.max(1)).clamp(1, 256)
}
