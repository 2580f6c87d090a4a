//! Where the entries of deltas come from: factors, multiplied out tile by tile, or dense memory.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::sample::RUN;
use crate::dispatch::{self, Kernel};
use crate::dtype::Matrix;
use crate::expand::Half;
use crate::group::Group;
use crate::{Error, Result};

/// Rows of a product that a few vectors hold.
const AT_ONCE: usize = 4;

/// N weighted deltas of one shape.
pub trait Source: Sync {
    /// N.
    fn count(&self) -> usize;
    /// Rows of a delta.
    fn rows(&self) -> usize;
    /// Columns of a delta.
    fn cols(&self) -> usize;
    /// The user's weight of a delta.
    fn weight(&self, member: usize) -> f64;
    /// Writes rows of `weight * delta`, row-major.
    ///
    /// # Errors
    /// Bytes that do not decode.
    fn fill(&self, member: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()>;
    /// Writes entries of some rows, sixteen (or all) from each of some columns on, for an estimate:
    /// values may round otherwise.
    ///
    /// # Errors
    /// Bytes that do not decode.
    fn pick(
        &self,
        member: usize,
        rows: Range<usize>,
        runs: &[usize],
        out: &mut [f32],
    ) -> Result<()>;
}

/// Deltas given by their factors; the down sides are decoded once.
pub struct Factored<'g, 'a> {
    group: &'g Group<'a>,
    weights: Vec<f64>,
    /// The down sides, and room for a run behind them.
    downs: Vec<Vec<f32>>,
    /// The same of members that are stored in bf16, where the machine multiplies such numbers.
    halves: Vec<Option<Half>>,
}

impl<'g, 'a> Factored<'g, 'a> {
    /// The members of a group; their factors include the weights, which must cover all rows.
    ///
    /// # Errors
    /// [`Error::Shape`] for a number of weights that is not that of the members.
    pub fn new(group: &'g Group<'a>, weights: Vec<f64>) -> Result<Self> {
        let whole = group.members().iter().all(|m| m.up.rows() == group.rows());
        if weights.len() != group.members().len() || !whole {
            return Err(Error::Shape {
                what: "weights",
                expected: format!("{}, of members that cover all rows", group.members().len()),
                got: weights.len().to_string(),
            });
        }
        let decode = |down: &Matrix<'_>| {
            let mut values = vec![0f32; down.rows() * down.cols() + RUN];
            crate::tile::decode(down, 0..down.rows(), 0..down.cols(), &mut values, down.cols())?;
            Ok(values)
        };
        let downs = group.members().iter().map(|m| decode(&m.down)).collect::<Result<_>>()?;
        let halves = group.members().iter().map(Half::of).collect();
        Ok(Self { group, weights, downs, halves })
    }
}

impl Factored<'_, '_> {
    /// Rows of the up side of a member, its factor not applied: small beside a tile.
    fn ups(&self, member: usize, rows: &Range<usize>) -> Result<Vec<f32>> {
        let up = &self.group.members()[member].up;
        let mut values = vec![0f32; rows.len() * up.cols()];
        crate::tile::decode(up, rows.clone(), 0..up.cols(), &mut values, up.cols())?;
        Ok(values)
    }
}

impl Source for Factored<'_, '_> {
    fn count(&self) -> usize {
        self.group.members().len()
    }

    fn rows(&self) -> usize {
        self.group.rows()
    }

    fn cols(&self) -> usize {
        self.group.cols()
    }

    fn weight(&self, member: usize) -> f64 {
        self.weights[member]
    }

    fn fill(&self, member: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (one, cols) = (&self.group.members()[member], self.cols());
        let (n, rank) = (rows.len(), one.up.cols());
        if let Some(half) = &self.halves[member] {
            half.times(one, rows, Accum::Replace, out);
            return Ok(());
        }
        let ups = self.ups(member, &rows)?;
        matmul(
            MatMut::from_row_major_slice_mut(out, n, cols),
            Accum::Replace,
            MatRef::from_row_major_slice(&ups, n, rank),
            MatRef::from_row_major_slice(&self.downs[member][..rank * cols], rank, cols),
            one.factor as f32,
            Par::Seq,
        );
        Ok(())
    }

    fn pick(
        &self,
        member: usize,
        rows: Range<usize>,
        runs: &[usize],
        out: &mut [f32],
    ) -> Result<()> {
        let (width, rank) = (RUN.min(self.cols()), self.group.members()[member].up.cols());
        let ups = self.ups(member, &rows)?;
        let factor = self.group.members()[member].factor as f32;
        let down = &self.downs[member];
        dispatch::run(Pick { ups: &ups, rank, factor, down, cols: self.cols(), runs, width, out });
        Ok(())
    }
}

/// Products of some rows with runs of columns.
struct Pick<'v> {
    ups: &'v [f32],
    rank: usize,
    factor: f32,
    down: &'v [f32],
    cols: usize,
    runs: &'v [usize],
    width: usize,
    out: &'v mut [f32],
}

impl Kernel for Pick<'_> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::inline_always)] // or it is not compiled with the vectors of the machine
    fn run(self) {
        let Self { ups, rank, factor, down, cols, runs, width, out } = self;
        let stride = runs.len() * width;
        let groups = ups.chunks(AT_ONCE * rank).zip(out.chunks_mut(AT_ONCE * stride));
        for (ups, out) in groups {
            for (index, run) in runs.iter().enumerate() {
                let mut sums = [[0f32; RUN]; AT_ONCE];
                for k in 0..rank {
                    let down: &[f32; RUN] =
                        down[k * cols + run..].first_chunk().expect("padded by a run");
                    for (sums, ups) in sums.iter_mut().zip(ups.chunks_exact(rank)) {
                        let up = ups[k];
                        sums.iter_mut().zip(down).for_each(|(sum, down)| *sum += up * down);
                    }
                }
                for (out, sums) in out.chunks_exact_mut(stride).zip(&sums) {
                    let out = &mut out[index * width..][..width];
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = factor * sum);
                }
            }
        }
    }
}

/// Deltas that are dense already.
pub struct Dense<'a> {
    deltas: Vec<Matrix<'a>>,
    weights: Vec<f64>,
}

impl<'a> Dense<'a> {
    /// Matrices of one shape, with their weights.
    ///
    /// # Errors
    /// [`Error::Shape`] if they differ, [`Error::NonFinite`] for a NaN or an infinity.
    pub fn new(deltas: Vec<Matrix<'a>>, weights: Vec<f64>) -> Result<Self> {
        let shape = |d: &Matrix<'_>| (d.rows(), d.cols());
        let odd = deltas.iter().find(|d| shape(d) != shape(&deltas[0]));
        if odd.is_some() || weights.len() != deltas.len() || deltas.is_empty() {
            return Err(Error::Shape {
                what: "deltas and weights",
                expected: "at least one delta, all of one shape, one weight each".into(),
                got: format!("{} deltas, {} weights", deltas.len(), weights.len()),
            });
        }
        let bad = deltas.iter().position(|d| d.find_non_finite().is_some());
        match bad {
            Some(member) => Err(Error::NonFinite { member, side: "dense" }),
            None => Ok(Self { deltas, weights }),
        }
    }
}

impl Source for Dense<'_> {
    fn count(&self) -> usize {
        self.deltas.len()
    }

    fn rows(&self) -> usize {
        self.deltas[0].rows()
    }

    fn cols(&self) -> usize {
        self.deltas[0].cols()
    }

    fn weight(&self, member: usize) -> f64 {
        self.weights[member]
    }

    fn fill(&self, member: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let delta = &self.deltas[member];
        crate::tile::decode(delta, rows, 0..delta.cols(), out, delta.cols())?;
        let weight = self.weights[member] as f32;
        for value in out {
            *value *= weight;
        }
        Ok(())
    }

    fn pick(
        &self,
        member: usize,
        rows: Range<usize>,
        runs: &[usize],
        out: &mut [f32],
    ) -> Result<()> {
        let (delta, weight) = (&self.deltas[member], self.weights[member] as f32);
        let width = RUN.min(delta.cols());
        let stride = runs.len() * width;
        for (index, run) in runs.iter().enumerate() {
            let out = &mut out[index * width..];
            crate::tile::decode(delta, rows.clone(), *run..run + width, out, stride)?;
        }
        for value in out {
            *value *= weight;
        }
        Ok(())
    }
}
