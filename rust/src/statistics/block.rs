//! Which rows and columns of the deltas of a group are looked at, and the entries there.
//!
//! Of `len` rows, `count` are drawn, one from each of `count` strata; all, where there are no more:
//!
//! ```text
//! start(i) = floor(i len / count)
//! row(i)   = start(i) + floor(word(i) (start(i + 1) - start(i)) / 2^32)        0 <= i < count
//! ```
//!
//! with word i of the stream of seed 0, the key of the target, and adapter 0; columns likewise with
//! adapter 1.  Row i belongs to cluster i mod 16.  Rows are kept cluster after cluster, so that the
//! entries of a cell, a cluster of rows by one of columns, are neighbours in memory.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::Result;
use crate::group::{Group, Member};
use crate::rng::Stream;
use crate::tile::decode;

/// Clusters of rows, and of columns, that standard errors are estimated from.
pub(super) const CLUSTERS: usize = 16;

/// The seed of all draws: a sample depends on the target alone.
const SEED: u64 = 0;

/// The words of one purpose at one target.
pub(super) fn words(key: u64, purpose: u32, count: usize) -> Result<Vec<u32>> {
    let mut words = vec![0; count];
    Stream::new(SEED, key, purpose)?.fill(0, &mut words);
    Ok(words)
}

/// Rows, or columns, cluster after cluster.
pub(super) struct Lines {
    /// Their indices in the delta.
    indices: Vec<usize>,
    /// Where each cluster begins, and the end.
    starts: Vec<usize>,
}

impl Lines {
    /// `count` of `len` lines, or all.
    pub(super) fn new(len: usize, count: Option<usize>, key: u64, purpose: u32) -> Result<Self> {
        let count = count.unwrap_or(len).min(len);
        let start = |i: usize| i * len / count;
        let words = words(key, purpose, if count < len { count } else { 0 })?;
        let line = |i: usize| match words.get(i) {
            Some(word) => {
                let width = (start(i + 1) - start(i)) as u64;
                start(i) + ((u64::from(*word) * width) >> 32) as usize
            }
            None => i,
        };
        let mut indices = Vec::with_capacity(count);
        let mut starts = vec![0];
        for cluster in 0..CLUSTERS.min(count) {
            indices.extend((cluster..count).step_by(CLUSTERS).map(line));
            starts.push(indices.len());
        }
        Ok(Self { indices, starts })
    }

    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }

    /// Number of clusters: 16, or fewer where there are fewer lines.
    pub(super) fn clusters(&self) -> usize {
        self.starts.len() - 1
    }

    /// Places of the lines of a cluster.
    pub(super) fn cluster(&self, cluster: usize) -> Range<usize> {
        self.starts[cluster]..self.starts[cluster + 1]
    }

    /// Cluster, and place in it, of the i-th line in the order of the delta.
    pub(super) fn place(i: usize) -> (usize, usize) {
        (i % CLUSTERS, i / CLUSTERS)
    }
}

/// The rows of up and the columns of down of one member.
struct Picked {
    rank: usize,
    /// `rows x rank`, row-major, times the factor.
    up: Vec<f32>,
    /// For every cluster of columns `rank x columns`, row-major.
    down: Vec<f32>,
}

impl Picked {
    fn new(member: &Member<'_>, rows: &Lines, cols: &Lines, scale: f64) -> Result<Self> {
        let rank = member.up.cols();
        let (mut up, mut down) = (vec![0f32; rows.len() * rank], vec![0f32; rank * cols.len()]);
        let covered = member.row_start..member.row_start + member.up.rows();
        let factor = member.factor * scale;
        for (row, out) in rows.indices.iter().zip(up.chunks_exact_mut(rank.max(1))) {
            if covered.contains(row) {
                let row = row - covered.start;
                decode(&member.up, row..row + 1, 0..rank, out, rank)?;
                for up in out {
                    *up = (f64::from(*up) * factor) as f32;
                }
            }
        }
        let width = member.down.cols();
        let mut line = vec![0f32; width];
        for r in 0..rank {
            decode(&member.down, r..r + 1, 0..width, &mut line, width)?;
            for cluster in 0..cols.clusters() {
                let places = cols.cluster(cluster);
                let at = rank * places.start + r * places.len();
                let out = down[at..].iter_mut().zip(&cols.indices[places]);
                out.for_each(|(d, column)| *d = line[*column]);
            }
        }
        Ok(Self { rank, up, down })
    }
}

/// Some rows and columns of all deltas of a group.
pub(super) struct Block {
    pub(super) rows: Lines,
    pub(super) cols: Lines,
    members: Vec<Picked>,
}

impl Block {
    /// Of every member, times `scale`.
    pub(super) fn new(group: &Group<'_>, rows: Lines, cols: Lines, scale: f64) -> Result<Self> {
        let picked = |member| Picked::new(member, &rows, &cols, scale);
        let members = group.members().iter().map(picked).collect::<Result<_>>()?;
        Ok(Self { rows, cols, members })
    }

    /// Number of members.
    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    /// Entries of one member, in some rows and one cluster of columns, row-major.
    pub(super) fn fill(&self, member: usize, rows: Range<usize>, panel: usize, out: &mut [f32]) {
        let Picked { rank, up, down } = &self.members[member];
        let cols = self.cols.cluster(panel);
        let up = &up[rows.start * rank..rows.end * rank];
        let down = &down[rank * cols.start..rank * cols.end];
        matmul(
            MatMut::from_row_major_slice_mut(out, rows.len(), cols.len()),
            Accum::Replace,
            MatRef::from_row_major_slice(up, rows.len(), *rank),
            MatRef::from_row_major_slice(down, *rank, cols.len()),
            1.0,
            Par::Seq,
        );
    }
}
