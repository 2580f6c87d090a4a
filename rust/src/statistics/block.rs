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

use crate::group::{Group, Member};
use crate::rng::Stream;
use crate::tile::decode;
use crate::{Result, bf16};

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
enum Picked {
    Floats {
        rank: usize,
        /// `rows x rank`, row-major, times the factor.
        up: Vec<f32>,
        /// For every cluster of columns `rank x columns`, row-major.
        down: Vec<f32>,
    },
    /// As they are stored, where products of bf16 numbers can be made.
    Halves {
        pairs: usize,
        /// `rows x pairs`.
        up: Vec<u32>,
        /// One for every cluster of columns.
        downs: Vec<bf16::Right>,
        factor: f32,
    },
}

impl Picked {
    fn new(member: &Member<'_>, rows: &Lines, cols: &Lines, scale: f64) -> Result<Self> {
        let factor = member.factor * scale;
        if bf16::multiplies(member, factor) {
            return Ok(Self::halves(member, rows, cols, factor as f32));
        }
        Self::floats(member, rows, cols, factor)
    }

    fn floats(member: &Member<'_>, rows: &Lines, cols: &Lines, factor: f64) -> Result<Self> {
        let rank = member.up.cols();
        let (mut up, mut down) = (vec![0f32; rows.len() * rank], vec![0f32; rank * cols.len()]);
        let covered = member.row_start..member.row_start + member.up.rows();
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
        Ok(Self::Floats { rank, up, down })
    }

    fn halves(member: &Member<'_>, rows: &Lines, cols: &Lines, factor: f32) -> Self {
        let (rank, width) = (member.up.cols(), member.down.cols());
        let mut picked = vec![0; 2 * rank * rows.len()];
        for (row, out) in rows.indices.iter().zip(picked.chunks_exact_mut(2 * rank)) {
            let own = row.checked_sub(member.row_start).filter(|row| *row < member.up.rows());
            if let Some(row) = own {
                out.copy_from_slice(&member.up.bytes()[2 * rank * row..][..2 * rank]);
            }
        }
        let pairs = rank.div_ceil(2);
        let mut up = vec![0; pairs * rows.len()];
        bf16::left(&picked, rank, &mut up);
        let columns = |cluster| {
            let columns = &cols.indices[cols.cluster(cluster)];
            let mut bytes = Vec::with_capacity(2 * rank * columns.len());
            for line in member.down.bytes().as_chunks::<2>().0.chunks_exact(width) {
                for column in columns {
                    bytes.extend_from_slice(&line[*column]);
                }
            }
            bf16::Right::new(&bytes, rank, columns.len())
        };
        let downs = (0..cols.clusters()).map(columns).collect();
        Self::Halves { pairs, up, downs, factor }
    }

    /// Entries in some rows and one cluster of columns, row-major.
    fn fill(&self, rows: Range<usize>, cluster: usize, cols: Range<usize>, out: &mut [f32]) {
        match self {
            Self::Floats { rank, up, down } => {
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
            Self::Halves { pairs, up, downs, factor } => {
                let up = &up[rows.start * pairs..rows.end * pairs];
                downs[cluster].times(up, *factor, Accum::Replace, out);
            }
        }
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
        self.members[member].fill(rows, panel, self.cols.cluster(panel), out);
    }
}
