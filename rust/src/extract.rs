//! Low-rank factors of a dense matrix of which nothing is known, such as what training did to a
//! weight.
//!
//! Subspace iteration from random directions (Halko, Martinsson, Tropp, "Finding structure with
//! randomness", SIAM Review 2011): with `k + 16` of them and three steps the error is within a
//! percent of the best there is, also where singular values decay slowly.  It is not estimated but
//! known, from `|M|^2 - |B|^2` or entry by entry.  Where not the rank is given but what may be
//! left out, ranks are tried from 32 on, twice as large each time, until enough is kept.
//!
//! Cost for p directions: eight passes over the matrix with `2 rows cols p` flops each, and
//! O((rows + cols) p^2).

use crate::condense::{check_result, decompose};
use crate::dtype::Dtype;
use crate::passes::{Dense, Found};
use crate::recompress::{Recompressed, Rule, check_rule};
use crate::start::random;
use crate::{Error, Result};

const SPARE: usize = 16;
const STEPS: usize = 3;
const FIRST: usize = 32;

/// Writes the factors of `values`, up (`rows x k`) and then down (`k x cols`).
///
/// # Errors
/// [`Error::Shape`] for what does not fit, [`Error::Overflow`] for values that are not finite or
/// that the output type cannot hold, [`Error::Param`] for a rule outside its ranges.
pub fn extract(
    values: &[f32],
    rows: usize,
    cols: usize,
    rule: &Rule,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<Recompressed> {
    check_rule(rule)?;
    check_result(values, rows, cols)?;
    let open = rule.energy.is_some() || rule.max_error.is_some();
    let bound = rows.min(cols);
    let (mut rank, most) = rule.ranks(if open { FIRST } else { bound }, bound);
    let need = (rows + cols) * most * dtype.size();
    if out.len() < need || values.is_empty() {
        return Err(Error::Shape {
            what: "output",
            expected: format!("{need} bytes for entries of {rows} x {cols}"),
            got: format!("{} bytes", out.len()),
        });
    }
    let dense = Dense { values, rows, cols };
    loop {
        let basis = random(cols, rank + SPARE)?;
        let (columns, square) = dense.times(&basis);
        let found = Found { columns, square, coarse: false };
        let done = decompose(&dense, &found, (rank, STEPS), rule, dtype, out)?;
        if rank == most || rule.is_met(&done) {
            return Ok(done);
        }
        rank = (2 * rank).min(most);
    }
}
