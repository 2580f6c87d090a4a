//! Rows of the dense delta of a group, where entries are wanted.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::gram::check_finite;
use crate::group::{Group, Member};
use crate::scratch::words;
use crate::tile::{Real, TILE, down_tile, up_tile};
use crate::{Error, Result, bf16};

/// Fills `out` with rows `rows` of the group's delta, `rows.len() x cols` row-major f32.
///
/// Cost: `2 R` flops per entry; one decode of the down stack and of the rows of the up stack.
/// Tiles of 256 rows run in parallel.
///
/// # Errors
/// [`Error::Shape`] if `out` or `rows` do not fit, [`Error::NonFinite`] for bad input.
pub fn expand(group: &Group<'_>, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
    let cols = group.cols();
    if rows.start > rows.end || rows.end > group.rows() || out.len() != rows.len() * cols {
        return Err(Error::Shape {
            what: "rows of the delta",
            expected: format!("a part of 0..{} and {} entries", group.rows(), rows.len() * cols),
            got: format!("{rows:?} and {} entries", out.len()),
        });
    }
    check_finite(group)?;
    if out.is_empty() {
        return Ok(());
    }
    let product = Product::new(group)?;
    out.par_chunks_mut(TILE * cols).enumerate().try_for_each(|(index, chunk)| {
        let first = rows.start + index * TILE;
        product.fill(first..first + chunk.len() / cols, chunk)
    })
}

/// The delta of a group, its down sides read once.
pub(crate) struct Product<'g, 'a, T> {
    group: &'g Group<'a>,
    downs: Downs<T>,
}

enum Downs<T> {
    /// The stack, and the factors of its columns.
    Stack(Vec<T>, Vec<f64>),
    /// Those of every member by itself, where T is f32.
    Halves(Vec<Half>),
}

impl<'g, 'a, T: Real> Product<'g, 'a, T> {
    /// # Errors
    /// Bytes that do not decode.
    pub(crate) fn new(group: &'g Group<'a>) -> Result<Self> {
        let halves = || group.members().iter().map(Half::of).collect();
        let floats = T::floats(&mut []);
        if let Some(halves) = floats.and_then(|_| halves()) {
            return Ok(Self { group, downs: Downs::Halves(halves) });
        }
        let mut stack = vec![T::default(); group.rank() * group.cols()];
        down_tile(group, 0..group.cols(), &mut stack)?;
        Ok(Self { group, downs: Downs::Stack(stack, group.factors()) })
    }

    /// Writes some rows of the delta, row-major.
    ///
    /// # Errors
    /// Bytes that do not decode.
    pub(crate) fn fill(&self, rows: Range<usize>, out: &mut [T]) -> Result<()> {
        match &self.downs {
            Downs::Stack(stack, factors) => self.fill_from(stack, factors, rows, out),
            Downs::Halves(halves) => {
                if let Some(out) = T::floats(out) {
                    self.add_up(halves, &rows, out);
                }
                Ok(())
            }
        }
    }

    fn fill_from(
        &self,
        stack: &[T],
        factors: &[f64],
        rows: Range<usize>,
        out: &mut [T],
    ) -> Result<()> {
        let (n, cols, rank) = (rows.len(), self.group.cols(), self.group.rank());
        let mut up = vec![T::default(); n * rank];
        up_tile(self.group, rows, &mut up)?;
        for row in up.chunks_exact_mut(rank.max(1)) {
            row.iter_mut().zip(factors).for_each(|(x, f)| *x = T::from_f64(x.to_f64() * f));
        }
        let up = MatRef::from_row_major_slice(&up, n, rank);
        let down = MatRef::from_row_major_slice(stack, rank, cols);
        let out = MatMut::from_row_major_slice_mut(out, n, cols);
        matmul(out, Accum::Replace, up, down, T::from_f64(1.0), Par::Seq);
        Ok(())
    }

    /// The sum of the members, each in the rows that it covers.
    fn add_up(&self, halves: &[Half], rows: &Range<usize>, out: &mut [f32]) {
        let cols = self.group.cols();
        let mut accum = Accum::Replace;
        for (member, half) in self.group.members().iter().zip(halves) {
            let start = rows.start.max(member.row_start);
            let end = rows.end.min(member.row_start + member.up.rows());
            if start >= end {
                continue;
            }
            if end - start < rows.len() && matches!(accum, Accum::Replace) {
                out.fill(0.0);
                accum = Accum::Add;
            }
            let own = start - member.row_start..end - member.row_start;
            let out = &mut out[(start - rows.start) * cols..(end - rows.start) * cols];
            half.times(member, own, accum, out);
            accum = Accum::Add;
        }
        if matches!(accum, Accum::Replace) {
            out.fill(0.0); // there is no member here
        }
    }
}

/// The down side of a member whose products can be made in bf16.
pub(crate) struct Half(bf16::Right);

impl Half {
    /// `None` where they cannot.
    pub(crate) fn of(member: &Member<'_>) -> Option<Self> {
        let down = &member.down;
        bf16::multiplies(member, member.factor)
            .then(|| Self(bf16::Right::new(down.bytes(), down.rows(), down.cols())))
    }

    /// Writes some rows of the member's delta, or adds them.
    pub(crate) fn times(
        &self,
        member: &Member<'_>,
        rows: Range<usize>,
        accum: Accum,
        out: &mut [f32],
    ) {
        let (n, rank) = (rows.len(), member.up.cols());
        let bytes = &member.up.bytes()[2 * rank * rows.start..2 * rank * rows.end];
        words(n * rank.div_ceil(2), |left| {
            bf16::left(bytes, rank, left);
            self.0.times(left, member.factor as f32, accum, out);
        });
    }
}
