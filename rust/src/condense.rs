//! Low-rank factors of an elementwise result.
//!
//! The result M of a program has full rank.  Its best rank-k approximation is sought with what is
//! known: the deltas' own row space.  With E an orthonormal basis of the rows of all down factors
//! (filled up with random signs where more columns are wanted), `Q = orth(M E^T)` and `B = Q^T M`:
//! one step of subspace iteration, which starts so close that a random start needs twice the
//! passes.  The singular values of B give the rank; `|M - Q B|^2 = |M|^2 - |B|^2` gives the error
//! exactly.
//!
//! Cost: two passes over M, `4 rows cols p` flops with p columns of Q; M is the only dense matrix.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use rayon::prelude::*;

use crate::dtype::Dtype;
use crate::elementwise::{Factored, Prepared, Program};
use crate::gram::check_finite;
use crate::group::Group;
use crate::recompress::{Recompressed, Rule, check_rule};
use crate::rng::Stream;
use crate::sink::Sink;
use crate::spectrum::Spectrum;
use crate::tile::{TILE, down_tile, pieces};
use crate::{Error, Result};

/// Columns beyond the asked rank.
const SPARE: usize = 8;
/// Entries up to which more steps cost nothing that anyone would notice, and how many are made.
const SMALL: usize = 1 << 18;
const MORE: usize = 4;
/// Share of the squared norm below which `|M|^2 - |B|^2` has too few digits to be trusted.
const CANCELLED: f64 = 1e-3;
/// Relative square below which a direction of a basis is rounding noise.
const DEPENDENT: f64 = 1e-9;

/// Rows of the output that one group makes.
pub struct Part<'g, 'a> {
    /// The members; their factors include the weights.
    pub group: &'g Group<'a>,
    /// The users' weights.
    pub weights: Vec<f64>,
    /// What is done to the entries.
    pub program: Program,
    /// First row.
    pub row_start: usize,
}

/// Writes the factors of an elementwise result, up (`rows x k`) and then down (`k x cols`).
///
/// `scratch` is grown to `rows * cols` and may be used again.
///
/// # Errors
/// [`Error::NonFinite`] for bad input, [`Error::Overflow`] if the output type is too small,
/// [`Error::Param`] for a program outside its ranges, [`Error::Shape`] for parts that do not fit.
pub fn condense(
    parts: &[Part<'_, '_>],
    rows: usize,
    rule: &Rule,
    dtype: Dtype,
    scratch: &mut Vec<f32>,
    out: &mut [u8],
) -> Result<Recompressed> {
    check_rule(rule)?;
    let cols = parts.first().map_or(0, |part| part.group.cols());
    let rank = rule.rank.unwrap_or(parts.iter().map(|p| p.group.rank()).sum());
    let rank = rank.min(rows).min(cols).max(1);
    check(parts, rows, cols, (rows + cols) * rank * dtype.size(), out.len())?;
    scratch.clear();
    scratch.resize(rows * cols, 0.0);
    for part in parts {
        let source = Factored::new(part.group, part.weights.clone())?;
        let range = part.row_start * cols..(part.row_start + part.group.rows()) * cols;
        Prepared::new(part.program, &source)?.run(&mut scratch[range])?;
    }
    let dense = Dense { values: scratch, rows, cols };
    let square = dense.square();
    if !square.is_finite() {
        return Err(Error::Overflow { value: f32::INFINITY, dtype: "F32" });
    }
    if square == 0.0 {
        out[..(rows + cols) * dtype.size()].fill(0);
        return Ok(Recompressed { rank: 1, norm: 0.0, rounding: 0.0, relative_error: 0.0 });
    }
    let start = row_basis(parts, cols, rank)?;
    // Twice: the first turn leaves what f32 makes of directions far smaller than the others.
    let mut left = orthonormal(&orthonormal(&dense.times(&start), rows)?, rows)?;
    let mut right = dense.projected(&left);
    for _ in 0..if rows * cols <= SMALL { MORE } else { 0 } {
        let basis = orthonormal_rows(&right, cols)?;
        left = orthonormal(&orthonormal(&dense.times(&basis), rows)?, rows)?;
        right = dense.projected(&left);
    }
    let core = gram_of(&right.values, right.rows, cols);
    let held: f64 = (0..right.rows).map(|j| core[(j, j)]).sum();
    let mut outside = (square - held).max(0.0);
    if outside < CANCELLED * square {
        outside = dense.residual(&left, &right);
    }
    let spectrum = Spectrum::of(core.as_ref(), outside)?;
    let kept = spectrum.choose(rule, rank, 0.0).max(1);
    write(&left, &right, &spectrum, rule.gain(kept), kept, dtype, out)?;
    let norm = square.sqrt();
    Ok(Recompressed { rank: kept, norm, rounding: norm, relative_error: spectrum.tail(kept) })
}

/// `Z^T M X` of the matrix that [`condense`] left in `scratch`; see [`crate::probe::sketch`].
pub fn sketch(scratch: &[f32], cols: usize, right: &Stream, left: &Stream) -> Vec<f64> {
    crate::probe::sketch_dense(scratch, cols, right, left)
}

fn check(parts: &[Part<'_, '_>], rows: usize, cols: usize, need: usize, has: usize) -> Result<()> {
    let fits = |p: &Part<'_, '_>| {
        p.group.cols() == cols && p.row_start.checked_add(p.group.rows()).is_some_and(|e| e <= rows)
    };
    if has < need || parts.is_empty() || !parts.iter().all(fits) {
        return Err(Error::Shape {
            what: "parts and output",
            expected: format!("parts within {rows} x {cols} and {need} bytes"),
            got: format!("{} parts, {has} bytes", parts.len()),
        });
    }
    let mut before = 0;
    for part in parts {
        check_finite(part.group).map_err(|error| match error {
            Error::NonFinite { member, side } => Error::NonFinite { member: before + member, side },
            other => other,
        })?;
        before += part.group.members().len();
    }
    Ok(())
}

/// A row-major matrix.
struct Dense<'v> {
    values: &'v [f32],
    rows: usize,
    cols: usize,
}

/// The same, owned.
struct Wide {
    values: Vec<f32>,
    rows: usize,
}

impl Dense<'_> {
    /// Squared Frobenius norm, tiles summed in order.
    fn square(&self) -> f64 {
        let of = |chunk: &[f32]| chunk.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        let sums: Vec<f64> = self.values.par_chunks(1 << 14).map(of).collect();
        sums.iter().sum()
    }

    /// `self * basis^T`, `rows x p`.
    fn times(&self, basis: &Wide) -> Wide {
        let p = basis.rows;
        let mut values = vec![0f32; self.rows * p];
        let basis = MatRef::from_row_major_slice(&basis.values, p, self.cols).transpose();
        let tiles = values.par_chunks_mut(TILE * p).zip(self.values.par_chunks(TILE * self.cols));
        tiles.for_each(|(out, tile)| {
            let n = out.len() / p;
            let tile = MatRef::from_row_major_slice(tile, n, self.cols);
            let out = MatMut::from_row_major_slice_mut(out, n, p);
            matmul(out, Accum::Replace, tile, basis, 1.0, Par::Seq);
        });
        Wide { values, rows: p }
    }

    /// `|self - left * right|^2`, entry by entry: a third pass, where little is left.
    fn residual(&self, left: &Wide, right: &Wide) -> f64 {
        let q = left.rows;
        let right = MatRef::from_row_major_slice(&right.values, q, self.cols);
        let tiles = left.values.par_chunks(TILE * q).zip(self.values.par_chunks(TILE * self.cols));
        let sums: Vec<f64> = tiles
            .map(|(left, tile)| {
                let n = tile.len() / self.cols;
                let mut rest = tile.to_vec();
                let out = MatMut::from_row_major_slice_mut(&mut rest, n, self.cols);
                let left = MatRef::from_row_major_slice(left, n, q);
                matmul(out, Accum::Add, left, right, -1.0, Par::Seq);
                rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
            })
            .collect();
        sums.iter().sum()
    }

    /// `left^T * self` for an orthonormal `rows x q`, as `q x cols`.
    fn projected(&self, left: &Wide) -> Wide {
        let q = left.rows;
        let all = MatRef::from_row_major_slice(self.values, self.rows, self.cols);
        let left = MatRef::from_row_major_slice(&left.values, self.rows, q).transpose();
        let blocks: Vec<_> = pieces(self.cols, TILE).collect();
        let done: Vec<Vec<f32>> = blocks
            .par_iter()
            .map(|block| {
                let mut out = vec![0f32; q * block.len()];
                let target = MatMut::from_row_major_slice_mut(&mut out, q, block.len());
                let part = all.subcols(block.start, block.len());
                matmul(target, Accum::Replace, left, part, 1.0, Par::Seq);
                out
            })
            .collect();
        let mut values = vec![0f32; q * self.cols];
        for (block, part) in blocks.iter().zip(&done) {
            for (row, part) in part.chunks_exact(block.len()).enumerate() {
                values[row * self.cols..][block.clone()].copy_from_slice(part);
            }
        }
        Wide { values, rows: q }
    }
}

/// Orthonormal rows that span those of all down factors, and random ones up to the wanted rank.
fn row_basis(parts: &[Part<'_, '_>], cols: usize, rank: usize) -> Result<Wide> {
    let known: usize = parts.iter().map(|part| part.group.rank()).sum();
    let extra = (rank + SPARE).saturating_sub(known).min(cols);
    let mut values = vec![0f32; (known + extra) * cols];
    let mut at = 0;
    for part in parts {
        let end = at + part.group.rank() * cols;
        down_tile(part.group, 0..cols, &mut values[at..end])?;
        for row in values[at..end].chunks_exact_mut(cols) {
            let size = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let scale = if size > 0.0 { (1.0 / size) as f32 } else { 0.0 };
            for value in row {
                *value *= scale;
            }
        }
        at = end;
    }
    let mut words = vec![0u32; extra * cols];
    Stream::new(0, 0, 0)?.fill(0, &mut words);
    let unit = (1.0 / (cols as f64).sqrt()) as f32;
    for (value, word) in values[at..].iter_mut().zip(&words) {
        *value = if word >> 31 == 0 { unit } else { -unit };
    }
    orthonormal_rows(&Wide { values, rows: known + extra }, cols)
}

/// An orthonormal basis of the rows of `n x cols`.
fn orthonormal_rows(flat: &Wide, cols: usize) -> Result<Wide> {
    let turn = whitening(gram_of(&flat.values, flat.rows, cols).as_ref())?;
    let mut basis = vec![0f32; turn.ncols() * cols];
    matmul(
        MatMut::from_row_major_slice_mut(&mut basis, turn.ncols(), cols),
        Accum::Replace,
        turn.transpose(),
        MatRef::from_row_major_slice(&flat.values, flat.rows, cols),
        1.0,
        Par::Seq,
    );
    Ok(Wide { values: basis, rows: turn.ncols() })
}

/// An orthonormal basis of the columns of `rows x p`, as `rows x q`.
fn orthonormal(tall: &Wide, rows: usize) -> Result<Wide> {
    let p = tall.rows;
    let tall = MatRef::from_row_major_slice(&tall.values, rows, p);
    let mut gram = Mat::<f64>::zeros(p, p);
    for tile in pieces(rows, TILE) {
        let tile = tall.subrows(tile.start, tile.len());
        let wide = Mat::from_fn(tile.nrows(), p, |i, j| f64::from(tile[(i, j)]));
        matmul(&mut gram, Accum::Add, wide.transpose(), &wide, 1.0, Par::Seq);
    }
    let turn = whitening(gram.as_ref())?;
    let q = turn.ncols();
    let mut values = vec![0f32; rows * q];
    values.par_chunks_mut(TILE * q).enumerate().for_each(|(index, out)| {
        let n = out.len() / q;
        let out = MatMut::from_row_major_slice_mut(out, n, q);
        let tile = tall.subrows(index * TILE, n);
        matmul(out, Accum::Replace, tile, turn.as_ref(), 1.0, Par::Seq);
    });
    Ok(Wide { values, rows: q })
}

/// T with `T^T G T = 1`, on the space where G is not noise; `p x q`.
fn whitening(gram: MatRef<'_, f64>) -> Result<Mat<f32>> {
    let n = gram.nrows();
    let eigen = gram.self_adjoint_eigen(Side::Lower).map_err(|_| Spectrum::failure())?;
    let values = eigen.S().column_vector();
    let largest = values[n - 1];
    let first = (0..n).find(|j| values[*j] > DEPENDENT * largest).unwrap_or(n);
    let turn = |i, j: usize| (eigen.U()[(i, first + j)] / values[first + j].sqrt()) as f32;
    Ok(Mat::from_fn(n, n - first, turn))
}

/// `X X^T` of a row-major `n x cols`, in f64.
fn gram_of(values: &[f32], n: usize, cols: usize) -> Mat<f64> {
    let rows = MatRef::from_row_major_slice(values, n, cols);
    let mut gram = Mat::<f64>::zeros(n, n);
    for tile in pieces(cols, TILE) {
        let part = rows.subcols(tile.start, tile.len());
        let wide = Mat::from_fn(n, tile.len(), |i, j| f64::from(part[(i, j)]));
        matmul(&mut gram, Accum::Add, &wide, wide.transpose(), 1.0, Par::Seq);
    }
    gram
}

/// Up `= gain * left W S^(1/2)`, down `= S^(-1/2) W^T right`.
fn write(
    left: &Wide,
    right: &Wide,
    spectrum: &Spectrum,
    gain: f64,
    kept: usize,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<()> {
    let (q, rows, cols) =
        (left.rows, left.values.len() / left.rows, right.values.len() / right.rows);
    let (turn, roots) = spectrum.leading(kept);
    let up = Mat::from_fn(q, kept, |i, j| (turn[(i, j)] * roots[j] * gain) as f32);
    let down = Mat::from_fn(kept, q, |j, i| (turn[(i, j)] / roots[j]) as f32);
    let mut sink = Sink::new(rows, cols, kept, dtype, out);
    let mut product = vec![0f32; TILE * kept];
    for tile in pieces(rows, TILE) {
        let product = &mut product[..tile.len() * kept];
        let target = MatMut::from_row_major_slice_mut(product, tile.len(), kept);
        let source = MatRef::from_row_major_slice(&left.values, rows, q);
        let source = source.subrows(tile.start, tile.len());
        matmul(target, Accum::Replace, source, up.as_ref(), 1.0, Par::Seq);
        sink.up(tile.start, product)?;
    }
    for tile in pieces(cols, TILE) {
        let product = &mut product[..tile.len() * kept];
        let target = MatMut::from_row_major_slice_mut(product, kept, tile.len());
        let source = MatRef::from_row_major_slice(&right.values, q, cols);
        let source = source.subcols(tile.start, tile.len());
        matmul(target, Accum::Replace, down.as_ref(), source, 1.0, Par::Seq);
        sink.down(tile, product)?;
    }
    Ok(())
}
