//! From the sums of cells, clusters of rows by clusters of columns, to those of a pair and to what
//! their standard errors follow from.
//!
//! Entries of one row share a row of up, those of one column a column of down, so neither are
//! independent.  With z the sums of a cell, the covariance of their total is estimated by clusters of
//! rows and of columns (Cameron, Gelbach, Miller, "Robust inference with multiway clustering",
//! JBES 29, 2011): `V_rows + V_cols - V_cells`, each `G / (G - 1) sum (z - mean)(z - mean)^T` over
//! its G clusters.  The three are handed out apart, because only what is made of the sums tells
//! whether their difference is meaningful.

use super::pairs::Sums;

/// Sums that statistics with standard errors are made of.
pub const PARTS: usize = 6;
/// Numbers in the lower triangle of a covariance of them.
pub const TRIANGLE: usize = PARTS * (PARTS + 1) / 2;

/// Sums over the positions of a pair; see `loramix.analysis.statistics.PairStatistics`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entries {
    /// Positions looked at.
    pub looked: u64,
    /// Those where both entries are non-zero, and of those the ones where signs differ.
    pub positions: u64,
    /// See `positions`.
    pub conflicts: u64,
    /// `a b`.
    pub dot: f64,
    /// `a^2`.
    pub first2: f64,
    /// `b^2`.
    pub second2: f64,
    /// `|a b|`.
    pub product: f64,
    /// `min(|a|, |b|)`.
    pub total: f64,
    /// The same where signs differ.
    pub conflicting: f64,
    /// `total` above the noise floor; all of it if nothing is.
    pub floor_total: f64,
    /// `conflicting` likewise.
    pub floor_conflicting: f64,
    /// Covariances of (conflicting, total, dot, first2, second2, product) by clusters of rows, of
    /// columns, and of cells: lower triangles, row after row.
    pub spread: [[f64; TRIANGLE]; 3],
}

/// The cells of one pair: `cells[panel][row cluster]`; entries are too large by `scale`.
pub(super) fn entries(cells: &[Vec<Sums>], looked: usize, scale: f64) -> Entries {
    let mut all = Sums::default();
    cells.iter().flatten().for_each(|cell| all.add(cell));
    let half = |total: f64, signed: f64| (total - signed) / 2.0;
    let floor = if all.floor_total > 0.0 {
        (all.floor_total, half(all.floor_total, all.floor_signed))
    } else {
        (all.total, half(all.total, all.signed))
    };
    let square = scale * scale;
    Entries {
        looked: looked as u64,
        positions: all.positions,
        conflicts: all.conflicts,
        dot: all.dot / square,
        first2: all.first2 / square,
        second2: all.second2 / square,
        product: all.product / square,
        total: all.total / scale,
        conflicting: half(all.total, all.signed) / scale,
        floor_total: floor.0 / scale,
        floor_conflicting: floor.1 / scale,
        spread: spread(cells, scale),
    }
}

type Parts = [f64; PARTS];

fn spread(cells: &[Vec<Sums>], scale: f64) -> [[f64; TRIANGLE]; 3] {
    let square = scale * scale;
    let parts = |sums: &Sums| -> Parts {
        let conflicting = (sums.total - sums.signed) / (2.0 * scale);
        let squares = [sums.dot, sums.first2, sums.second2, sums.product].map(|x| x / square);
        [conflicting, sums.total / scale, squares[0], squares[1], squares[2], squares[3]]
    };
    let height = cells.first().map_or(0, Vec::len);
    let mut rows = vec![Parts::default(); height];
    let mut cols = vec![Parts::default(); cells.len()];
    let mut every = Vec::with_capacity(height * cells.len());
    for (panel, col) in cells.iter().zip(&mut cols) {
        for (cell, row) in panel.iter().zip(&mut rows) {
            let own = parts(cell);
            for (k, value) in own.iter().enumerate() {
                row[k] += value;
                col[k] += value;
            }
            every.push(own);
        }
    }
    [covariance(&rows), covariance(&cols), covariance(&every)]
}

/// `G / (G - 1) sum (z - mean)(z - mean)^T`; of a single cluster nothing is known: 0.
fn covariance(clusters: &[Parts]) -> [f64; TRIANGLE] {
    let count = clusters.len();
    let mut found = [0.0; TRIANGLE];
    if count < 2 {
        return found;
    }
    let mut mean = Parts::default();
    for (k, mean) in mean.iter_mut().enumerate() {
        *mean = clusters.iter().map(|z| z[k]).sum::<f64>() / count as f64;
    }
    let factor = count as f64 / (count - 1) as f64;
    for z in clusters {
        let away: Parts = std::array::from_fn(|k| z[k] - mean[k]);
        let mut slots = found.iter_mut();
        for (i, x) in away.iter().enumerate() {
            for (y, slot) in away[..=i].iter().zip(&mut slots) {
                *slot += factor * x * y;
            }
        }
    }
    found
}
