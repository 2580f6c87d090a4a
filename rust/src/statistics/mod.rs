//! What pass 1 learns of a group: a few numbers of every delta and of every pair.
//!
//! Inner products, spectra and shared directions are exact, from the Gram matrices of the factors.
//! Sums over entries are those of a block of random rows and columns ([`block`]), or of all entries,
//! tile by tile; no delta is ever formed.
//!
//! Cost for N members: the Gram matrices of the stacks ([`crate::gram`]), and for every entry looked
//! at `2 R` flops and what [`pairs`] says.

mod block;
mod cells;
mod magnitudes;
mod pairs;
mod subspaces;

use rayon::prelude::*;

pub use self::cells::{Entries, PARTS, TRIANGLE};
pub use self::magnitudes::{Magnitudes, ORDERS};
pub use self::subspaces::{Shape, Shared};

use self::block::{Block, Lines};
use self::pairs::{Sums, pairs, square};
use crate::gram::{check_finite, contract, factor_grams, is_safe};
use crate::group::Group;
use crate::scratch::floats;
use crate::tile::pieces;
use crate::{Error, Result};

/// Rows, and columns, of the block that magnitudes are looked up in when all entries are summed.
const SAMPLES: usize = 384;
/// Entries of a tile of one member.
const TILE: usize = 1 << 14;
/// The noise floor, as a share of the larger root mean square.
const FLOOR: f64 = 0.05;
/// Relative error of a noise floor that needs no second look: rounding, or a few entries that
/// happen to be zero.
const NEAR: f32 = 1e-5;

/// Statistics of one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// `N x N` inner products, row-major.
    pub gram: Vec<f64>,
    /// Of every member.
    pub deltas: Vec<(Shape, Magnitudes)>,
    /// Of every pair (0, 1), (0, 2), ..., (1, 2), ...
    pub pairs: Vec<(Entries, Shared)>,
}

/// Statistics of a group.
///
/// `key` is the stable hash of the target: the block that is looked at depends on nothing else.
/// `samples` are the rows, and the columns, of the block; all entries are summed if `None`.
///
/// # Errors
/// [`Error::NonFinite`] for bad input, [`Error::Param`] for factors whose product leaves the range
/// of f32, or for `samples` of 0.
pub fn statistics(group: &Group<'_>, key: u64, samples: Option<usize>) -> Result<Statistics> {
    if samples == Some(0) {
        let allowed = "at least 1 row and column, or none to sum all entries";
        return Err(Error::Param { name: "samples", value: "0".into(), allowed });
    }
    let mut grams = factor_grams::<f32>(group)?;
    if !is_safe(group, &grams) {
        check_finite(group)?;
        grams = factor_grams::<f64>(group)?;
    }
    let gram = contract(group, &grams);
    let (shapes, shared) = subspaces::subspaces(group, &grams)?;
    let n = group.members().len();
    let size = (group.rows() * group.cols()).max(1) as f64;
    let sizes: Vec<f64> = (0..n).map(|i| (gram[i * n + i].max(0.0) / size).sqrt()).collect();
    let scale = scale(&sizes);

    let drawn = block(group, Some(samples.unwrap_or(SAMPLES)), key, scale)?;
    let draws = magnitudes::draws(&drawn, key)?;
    let (magnitudes, entries) = with_values(&drawn, |values| {
        let magnitudes = values.iter().map(|v| magnitudes::magnitudes(v, &draws, scale));
        let magnitudes: Vec<Magnitudes> = magnitudes.collect();
        if samples.is_none() && n > 1 {
            return Ok((magnitudes, None));
        }
        let count = (drawn.rows.len() * drawn.cols.len()).max(1) as f64;
        let sizes: Vec<f64> = values.iter().map(|v| (square(v) / count).sqrt()).collect();
        let found = look_twice(&drawn, &sizes, scale, |floors| sampled(&drawn, values, floors))?;
        Ok((magnitudes, Some(found)))
    })?;
    let entries = if let Some(found) = entries {
        found
    } else {
        let all = block(group, None, key, scale)?;
        let sizes: Vec<f64> = sizes.iter().map(|size| size * scale).collect();
        look_twice(&all, &sizes, scale, |floors| exact(&all, floors))?
    };
    let deltas = shapes.into_iter().zip(magnitudes).collect();
    Ok(Statistics { gram, deltas, pairs: entries.into_iter().zip(shared).collect() })
}

/// A power of two that brings the largest root mean square to about 1: squares of f32 must survive.
fn scale(sizes: &[f64]) -> f64 {
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    if largest > 0.0 { (-largest.log2().round()).exp2() } else { 1.0 }
}

fn block(group: &Group<'_>, samples: Option<usize>, key: u64, scale: f64) -> Result<Block> {
    let rows = Lines::new(group.rows(), samples, key, 0)?;
    let cols = Lines::new(group.cols(), samples, key, 1)?;
    Block::new(group, rows, cols, scale)
}

/// Sums of every pair for every cell: `[pair][panel][row cluster]`.
type Cells = Vec<Vec<Vec<Sums>>>;

/// Sums of every pair with the noise floor that belongs to the positions where both are non-zero.
///
/// `sizes` are root mean squares over all positions: right at once where hardly anything is zero;
/// otherwise a second look knows better.
fn look_twice(
    block: &Block,
    sizes: &[f64],
    scale: f64,
    look: impl Fn(&[f32]) -> Cells,
) -> Result<Vec<Entries>> {
    if block.count() < 2 {
        return Ok(vec![]);
    }
    let looked = block.rows.len() * block.cols.len();
    let of = |cells: &Cells| -> Vec<Entries> {
        cells.iter().map(|pair| cells::entries(pair, looked, scale)).collect()
    };
    let floor = |a: f64, b: f64| (FLOOR * a.max(b)) as f32;
    let guessed: Vec<f32> = pairs(block.count()).map(|(i, j)| floor(sizes[i], sizes[j])).collect();
    let mut found = of(&look(&guessed));
    let right = |pair: &Entries| {
        let size = |square: f64| (square / pair.positions.max(1) as f64).sqrt() * scale;
        floor(size(pair.first2), size(pair.second2))
    };
    let floors: Vec<f32> = found.iter().map(right).collect();
    let near = |(right, guess): (&f32, &f32)| (right - guess).abs() <= NEAR * guess;
    if !floors.iter().zip(&guessed).all(near) {
        found = of(&look(&floors));
    }
    let sums = |pair: &Entries| pair.first2 + pair.second2 + pair.product + pair.total;
    if found.iter().all(|pair| sums(pair).is_finite()) {
        return Ok(found);
    }
    Err(Error::Param {
        name: "factors",
        value: "products beyond the range of f32".into(),
        allowed: "factors of comparable size",
    })
}

/// Calls `work` with all entries of a small block: of every member `[panel][row][column]`.
fn with_values<T>(block: &Block, work: impl FnOnce(&[&[f32]]) -> T) -> T {
    let rows = block.rows.len();
    let size = rows * block.cols.len();
    floats(block.count() * size, |values| {
        let mut rest = values;
        let mut members = Vec::with_capacity(block.count());
        for member in 0..block.count() {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(size);
            for panel in 0..block.cols.clusters() {
                let cols = block.cols.cluster(panel);
                block.fill(member, 0..rows, panel, &mut own[cols.start * rows..cols.end * rows]);
            }
            members.push(&*own);
            rest = others;
        }
        work(&members)
    })
}

/// Sums over all cells of a small block, whose entries are there.
fn sampled(block: &Block, members: &[&[f32]], floors: &[f32]) -> Cells {
    let cell = |panel: usize, cluster: usize| {
        let (cols, rows) = (block.cols.cluster(panel), block.rows.cluster(cluster));
        let start = cols.start * block.rows.len() + rows.start * cols.len();
        let end = start + rows.len() * cols.len();
        let tile: Vec<&[f32]> = members.iter().map(|m| &m[start..end]).collect();
        let mut sums = vec![Sums::default(); floors.len()];
        pairs::add(&tile, floors, &mut sums);
        sums
    };
    let panel = |panel| (0..block.rows.clusters()).map(|cluster| cell(panel, cluster)).collect();
    let cells: Vec<_> = (0..block.cols.clusters()).map(panel).collect();
    by_pair(&cells, floors.len())
}

/// Sums over all cells of a large block, whose entries are made tile by tile.
fn exact(block: &Block, floors: &[f32]) -> Cells {
    let panel = |panel: usize| {
        let width = block.cols.cluster(panel).len();
        let height = (TILE / width.max(1)).max(1);
        let cell = |cluster: usize| {
            let rows = block.rows.cluster(cluster);
            let mut sums = vec![Sums::default(); floors.len()];
            for part in pieces(rows.len(), height) {
                let part = rows.start + part.start..rows.start + part.end;
                let size = part.len() * width;
                floats(block.count() * size, |values| {
                    for (member, values) in values.chunks_exact_mut(size).enumerate() {
                        block.fill(member, part.clone(), panel, values);
                    }
                    let tile: Vec<&[f32]> = values.chunks_exact(size).collect();
                    pairs::add(&tile, floors, &mut sums);
                });
            }
            sums
        };
        (0..block.rows.clusters()).map(cell).collect::<Vec<_>>()
    };
    let cells: Vec<_> = (0..block.cols.clusters()).into_par_iter().map(panel).collect();
    by_pair(&cells, floors.len())
}

/// `[panel][row cluster][pair]` as `[pair][panel][row cluster]`.
fn by_pair(cells: &[Vec<Vec<Sums>>], count: usize) -> Cells {
    let column = |panel: &Vec<Vec<Sums>>, pair: usize| panel.iter().map(|c| c[pair]).collect();
    let one = |pair: usize| cells.iter().map(|panel| column(panel, pair)).collect();
    (0..count).map(one).collect()
}
