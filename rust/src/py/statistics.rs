//! The binding of what pass 1 learns.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::job::same;
use super::{RawGroup, all, borrow_doubles_mut, enter, split, views};
use crate::group::Group;
use crate::statistics::{self as calculate, Entries, Magnitudes, Shape, Shared, Statistics};
use crate::{Error, Result};

/// Statistics of every group, into its range of `out` (float64).
///
/// In it one after the other: the inner products (`n * n`); of every member stable rank, effective
/// rank, participation, density and 64 magnitudes; of every pair (0, 1), (0, 2), ..., (1, 2), ...
/// the numbers of positions looked at, of those where both are non-zero, and of conflicts, the sums
/// dot, first2, second2, product, total, conflicting, `floor_total`, `floor_conflicting`, the shared
/// directions overlap, left, right, `left_chance`, `right_chance`, and three triangles of
/// covariances (21 each).
#[pyfunction]
#[pyo3(signature = (groups, keys, out, offsets, *, samples=None, threads=None))]
pub(super) fn statistics(
    py: Python<'_>,
    groups: Vec<RawGroup>,
    keys: Vec<u64>,
    mut out: PyBuffer<f64>,
    offsets: Vec<usize>,
    samples: Option<usize>,
    threads: Option<usize>,
) -> PyResult<()> {
    enter(py, threads, || {
        let outs = split(borrow_doubles_mut(&mut out).map_err(|e| (None, e))?, &offsets)?;
        let groups = views(&groups)?;
        same("offsets", "range of `out`", groups.len(), outs.len())?;
        same("keys", "key", groups.len(), keys.len())?;
        let one = |((group, key), out): ((&Group<'_>, &u64), &mut [f64])| {
            store(&calculate::statistics(group, *key, samples)?, out)
        };
        all(groups.par_iter().zip(&keys).zip(outs).map(one).collect())?;
        Ok(())
    })
}

fn store(found: &Statistics, out: &mut [f64]) -> Result<()> {
    let mut all = found.gram.clone();
    for (Shape { stable_rank, effective_rank, participation }, magnitudes) in &found.deltas {
        let Magnitudes { density, orders } = magnitudes;
        all.extend([stable_rank, effective_rank, participation, density]);
        all.extend(orders);
    }
    for (entries, shared) in &found.pairs {
        let Entries { looked, positions, conflicts, .. } = *entries;
        all.extend([looked, positions, conflicts].map(|count| count as f64));
        let Entries { dot, first2, second2, product, .. } = *entries;
        let Entries { total, conflicting, floor_total, floor_conflicting, .. } = *entries;
        all.extend([dot, first2, second2, product]);
        all.extend([total, conflicting, floor_total, floor_conflicting]);
        let Shared { overlap, left, right, left_chance, right_chance } = *shared;
        all.extend([overlap, left, right, left_chance, right_chance]);
        all.extend(entries.spread.as_flattened());
    }
    if out.len() != all.len() {
        return Err(Error::Shape {
            what: "range of the output buffer",
            expected: format!("{} numbers", all.len()),
            got: format!("{} numbers", out.len()),
        });
    }
    out.copy_from_slice(&all);
    Ok(())
}
