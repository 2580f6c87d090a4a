//! Where the entries of deltas come from: factors, multiplied out tile by tile, or dense memory.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::dtype::Matrix;
use crate::group::Group;
use crate::{Error, Result};

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
    /// Writes some columns of some rows, for an estimate: values may round otherwise.
    ///
    /// # Errors
    /// Bytes that do not decode.
    fn pick(
        &self,
        member: usize,
        rows: Range<usize>,
        columns: &[usize],
        out: &mut [f32],
    ) -> Result<()>;
}

/// Deltas given by their factors; the down sides are decoded once.
pub struct Factored<'g, 'a> {
    group: &'g Group<'a>,
    weights: Vec<f64>,
    downs: Vec<Vec<f32>>,
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
            let mut values = vec![0f32; down.rows() * down.cols()];
            crate::tile::decode(down, 0..down.rows(), 0..down.cols(), &mut values, down.cols())?;
            Ok(values)
        };
        let downs = group.members().iter().map(|m| decode(&m.down)).collect::<Result<_>>()?;
        Ok(Self { group, weights, downs })
    }
}

impl Factored<'_, '_> {
    /// `factor * up[rows] @ down`.
    fn product(
        &self,
        member: usize,
        rows: Range<usize>,
        down: &[f32],
        out: &mut [f32],
    ) -> Result<()> {
        let n = rows.len();
        let one = &self.group.members()[member];
        let rank = one.up.cols();
        let mut up = vec![0f32; n * rank]; // small beside the tile
        crate::tile::decode(&one.up, rows, 0..rank, &mut up, rank)?;
        let cols = out.len() / n.max(1);
        matmul(
            MatMut::from_row_major_slice_mut(out, n, cols),
            Accum::Replace,
            MatRef::from_row_major_slice(&up, n, rank),
            MatRef::from_row_major_slice(down, rank, cols),
            one.factor as f32,
            Par::Seq,
        );
        Ok(())
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
        self.product(member, rows, &self.downs[member], out)
    }

    fn pick(
        &self,
        member: usize,
        rows: Range<usize>,
        columns: &[usize],
        out: &mut [f32],
    ) -> Result<()> {
        let cols = self.group.cols();
        let all = &self.downs[member];
        let mut down = vec![0f32; all.len() / cols.max(1) * columns.len()];
        let rows_of_down = down.chunks_exact_mut(columns.len().max(1));
        for (down, row) in rows_of_down.zip(all.chunks_exact(cols.max(1))) {
            down.iter_mut().zip(columns).for_each(|(d, c)| *d = row[*c]);
        }
        self.product(member, rows, &down, out)
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
        columns: &[usize],
        out: &mut [f32],
    ) -> Result<()> {
        let mut row = vec![0f32; self.cols()];
        for (index, out) in rows.zip(out.chunks_exact_mut(columns.len().max(1))) {
            self.fill(member, index..index + 1, &mut row)?;
            out.iter_mut().zip(columns).for_each(|(o, c)| *o = row[*c]);
        }
        Ok(())
    }
}
