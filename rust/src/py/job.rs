//! What every function that writes factors is told, and what it says of them.

use pyo3::prelude::*;

use super::{Bytes, Outcome, borrow_mut, split};
use crate::Error;
use crate::account::Account;
use crate::dtype::Dtype;
use crate::recompress::{Recompressed, Rule};

/// Fields of `loramix.backends.base.Job`.
#[derive(FromPyObject)]
pub(super) struct RawJob {
    arena: Bytes,
    offsets: Vec<usize>,
    dtype: String,
    rank: Option<usize>,
    energy: Option<f64>,
    max_error: Option<f64>,
    alpha: Option<f64>,
    steps: usize,
    pub(super) threads: Option<usize>,
}

impl RawJob {
    /// The rule, the element type, and the room of each of `count` results in the arena.
    pub(super) fn open(&mut self, count: usize) -> Outcome<(Rule, Dtype, Vec<&mut [u8]>)> {
        let Self { rank, energy, max_error, alpha, steps, .. } = *self;
        let rule = Rule { rank, energy, max_error, alpha, steps };
        let dtype = Dtype::parse(&self.dtype).map_err(|e| (None, e))?;
        let rooms = split(borrow_mut(&mut self.arena).map_err(|e| (None, e))?, &self.offsets)?;
        same("offsets", "range of the arena", count, rooms.len())?;
        Ok((rule, dtype, rooms))
    }
}

/// Refuses a list that has not one item per group or step.
pub(super) fn same(what: &'static str, item: &str, steps: usize, items: usize) -> Outcome<()> {
    if steps == items {
        return Ok(());
    }
    let expected = format!("one {item} per group or step");
    let got = format!("{steps} groups or steps, {items} items");
    Err((None, Error::Shape { what, expected, got }))
}

/// Rank, norm, rounding, relative error, inner products of the members, and of the result with
/// them, sketch (empty for sums).
pub(super) type Written = (usize, f64, f64, f64, Vec<f64>, Vec<f64>, Vec<f64>);

pub(super) fn written((done, account): (Recompressed, Account), sketch: Vec<f64>) -> Written {
    let Recompressed { rank, norm, rounding, relative_error } = done;
    (rank, norm, rounding, relative_error, account.gram, account.along, sketch)
}
