//! Low-rank factors of an elementwise result.
//!
//! The result M of a program has full rank.  Its best rank-k approximation is sought with what is
//! known: the deltas' own row space.  With E a basis of it (see `start`),
//! `Q = orth(M E)` and `B = Q^T M`: one step of subspace iteration, which starts so close that a
//! random start needs twice the passes.  The singular values of B give the rank;
//! `|M - Q B|^2 = |M|^2 - |B|^2` gives the error exactly.
//!
//! E has `k + 8` columns at least, and at most `k + 24` where the row space has more dimensions; Q
//! is cut to the `k + 8` leading left singular vectors of `M E`.  That cost at most 0.4 % of the
//! error on TIES results and saves a third to a half of the work where k is a third of the stack.
//! Further steps come nearer to the best: they are made where they are asked for, where most of E is
//! random, and before a rank is taken to be too small for what is asked of it.  Where a share or an
//! error is asked for, the rank is doubled until it is held.
//!
//! Where the machine multiplies bf16 numbers twice as fast, M E is made of M and E rounded to bf16, and
//! for outputs with no more digits than bf16 `Q^T M` of Q and M, too.  Directions are sought, so what
//! that loses is of second order: where a tenth of M or more is cut off, less than a ten-thousandth
//! of the error.  Where less is cut off, all is done again with f32 numbers.
//!
//! The random signs of the sketch stand beside E: eight columns for which the vectors of the
//! product have room.
//!
//! Cost of a step: two passes over M, `2 rows cols (p + q)` flops for p columns of E and q of Q;
//! beside them `(rows + cols) p^2` for one triangle of the Gram matrices, `2 (cols R + rows q) p` for the
//! bases, `2 (rows + cols) q k` for the factors, O(p^3) for the eigenproblems of size p and q.
//! Directions that f32 Gram matrices cannot tell apart take a careful turn more.  M is the only
//! dense matrix.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, Par};

use crate::dtype::Dtype;
use crate::elementwise::{Factored, Prepared, Program};
use crate::gram::check_finite;
use crate::group::{Group, Member};
use crate::panels::{DIM, Panels, leading_turn, orthonormal, well_conditioned};
use crate::passes::{self, Dense, Found};
use crate::recompress::{Recompressed, Rule, check_rule};
use crate::rng::Stream;
use crate::scratch::floats;
use crate::sink::Sink;
use crate::spectrum::Spectrum;
use crate::split::Split;
use crate::start::start;
use crate::tile::TILE;
use crate::{Error, Result, bf16, shrink};

/// Columns beyond the asked rank, of Q and of the start.
pub(crate) const SPARE: usize = 8;
const WIDE: usize = 24;
/// Entries up to which more steps cost nothing that anyone would notice, and how many are made.
pub(crate) const SMALL: usize = 1 << 18;
const MORE: usize = 4;
/// Steps beyond the first where random directions are wanted, of which one step finds little.
const RANDOM: usize = 1;
/// Steps after which a rank that leaves too much is taken to be too small.
const PATIENT: usize = 2;
/// Share of the squared norm below which `|M|^2 - |B|^2` has too few digits to be trusted.
const CANCELLED: f64 = 1e-3;
/// Share below which Q must be orthonormal to more than three digits.
const NEAR: f64 = 1e-2;
/// Squared norms whose f32 products neither overflow nor vanish.
const SAFE: std::ops::Range<f64> = 1e-20..1e30;

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

/// What became of an elementwise result.
#[derive(Clone, Debug)]
pub struct Condensed {
    /// Rank and errors.
    pub done: Recompressed,
    /// `Z^T M X` of the result before the cut; see [`crate::probe::sketch`].
    pub sketch: Vec<f64>,
}

/// Writes the factors of an elementwise result, up (`rows x k`) and then down (`k x cols`).
///
/// `streams` are X and Z of the sketch.  `scratch` is grown to `rows * cols` entries, which then are the result, and may be used again.
///
/// # Errors
/// [`Error::NonFinite`] for bad input, [`Error::Overflow`] if the output type is too small,
/// [`Error::Param`] for a program outside its ranges, [`Error::Shape`] for parts that do not fit.
pub fn condense(
    parts: &[Part<'_, '_>],
    rows: usize,
    rule: &Rule,
    dtype: Dtype,
    streams: (&Stream, &Stream),
    scratch: &mut Vec<f32>,
    out: &mut [u8],
) -> Result<Condensed> {
    check_rule(rule)?;
    let (cols, _, most) = wanted(parts, rows, rule);
    check(parts, rows, cols, (rows + cols) * most * dtype.size(), out.len())?;
    #[allow(clippy::redundant_closure_for_method_calls)] // the method is of one lifetime only
    let (values, _) = fill(parts, rows, cols, scratch, |one, out| one.run(out))?;
    approximate(parts, rows, rule, dtype, streams, values, out)
}

/// The members of all parts, where they stand in the output.
///
/// # Errors
/// [`Error::Shape`] for parts that do not fit.
pub fn whole<'a>(parts: &[Part<'_, 'a>], rows: usize) -> Result<Group<'a>> {
    let cols = parts.first().map_or(0, |part| part.group.cols());
    Group::new(rows, cols, parts.iter().flat_map(placed).collect())
}

/// The members of a part, where they stand in the output.
pub(crate) fn placed<'a>(part: &Part<'_, 'a>) -> impl Iterator<Item = Member<'a>> {
    let start = part.row_start;
    part.group.members().iter().map(move |m| Member { row_start: start + m.row_start, ..*m })
}

/// Calls `run` with every part's program and its rows of the first `rows * cols` entries of
/// `scratch`.  Gives these entries, and what the calls gave.
pub(crate) fn fill<'s, T>(
    parts: &[Part<'_, '_>],
    rows: usize,
    cols: usize,
    scratch: &'s mut Vec<f32>,
    run: impl Fn(&Prepared<'_, Factored<'_, '_>>, &mut [f32]) -> Result<T>,
) -> Result<(&'s [f32], Vec<T>)> {
    if scratch.len() < rows * cols {
        scratch.resize(rows * cols, 0.0);
    }
    let all = &mut scratch[..rows * cols];
    let follows = |at: Option<usize>, part: &Part<'_, '_>| {
        at.filter(|at| *at == part.row_start).map(|at| at + part.group.rows())
    };
    if parts.iter().try_fold(0, |at, part| follows(Some(at), part)) != Some(rows) {
        all.fill(0.0); // there are gaps
    }
    let mut found = Vec::with_capacity(parts.len());
    for part in parts {
        let source = Factored::new(part.group, part.weights.clone())?;
        let range = part.row_start * cols..(part.row_start + part.group.rows()) * cols;
        let prepared = Prepared::new(&part.program, &source)?;
        let values = &mut all[range];
        found.push(run(&prepared, values)?);
        if part.program.clean {
            let noise = prepared.noise(values)?;
            match Split::of(part)? {
                Some(split) => shrink::clean_part(&split.part(part), noise, values)?,
                None => shrink::clean_part(part, noise, values)?,
            }
        }
        prepared.add_around(values)?;
    }
    Ok((all, found))
}

/// The second half of [`condense`]: the factors of the result of its programs, `rows x cols` in
/// `values`.
///
/// # Errors
/// Those of [`condense`].
pub fn approximate(
    parts: &[Part<'_, '_>],
    rows: usize,
    rule: &Rule,
    dtype: Dtype,
    streams: (&Stream, &Stream),
    values: &[f32],
    out: &mut [u8],
) -> Result<Condensed> {
    let (cols, mut rank, most) = wanted(parts, rows, rule);
    check_rule(rule)?;
    check(parts, rows, cols, (rows + cols) * most * dtype.size(), out.len())?;
    check_result(values, rows, cols)?;
    let known: usize = parts.iter().map(|part| part.group.rank()).sum();
    let small = rows * cols <= SMALL;
    let dense = Dense { values, rows, cols };
    let mut coarse = !small && bf16::supported();
    loop {
        let widest = if small { usize::MAX } else { rank + WIDE };
        let basis = start(parts, cols, (rank + SPARE).min(cols), widest)?;
        let least = if small { MORE } else { usize::from(rank > known) * RANDOM };
        let steps = rule.steps.max(least);
        let (found, sketch) = dense.look(&basis, streams, coarse)?;
        let mut done = decompose(&dense, &found, (rank, steps), rule, dtype, out)?;
        if coarse && !bears_rounding(&done) {
            coarse = false;
            continue;
        }
        if !rule.is_met(&done) && steps < PATIENT {
            done = decompose(&dense, &found, (rank, PATIENT), rule, dtype, out)?;
        }
        if rank == most || rule.is_met(&done) {
            return Ok(Condensed { done, sketch });
        }
        rank = (2 * rank).min(most);
    }
}

/// Whether a value is stored with no more digits than bf16 has.
fn is_short(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::Bf16 | Dtype::F8E4m3 | Dtype::F8E5m2)
}

/// Whether so much is cut that it did not matter to look at numbers rounded to bf16.
fn bears_rounding(done: &Recompressed) -> bool {
    done.relative_error.powi(2) >= NEAR && SAFE.contains(&done.norm.powi(2))
}

/// Writes the factors of a matrix, by subspace iteration from what was found.
///
/// `rank` is the largest that may be kept, `steps` how many are made beside the first.
pub(crate) fn decompose(
    dense: &Dense<'_>,
    found: &Found,
    (rank, steps): (usize, usize),
    rule: &Rule,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<Recompressed> {
    let Found { ref columns, square, .. } = *found;
    let coarse = found.coarse && is_short(dtype);
    if !square.is_finite() {
        return Err(Error::Overflow { value: f32::INFINITY, dtype: "F32" });
    }
    if square == 0.0 {
        out[..(dense.rows + dense.cols) * dtype.size()].fill(0);
        return Ok(Recompressed { rank: 1, norm: 0.0, rounding: 0.0, relative_error: 0.0 });
    }
    let quick = dense.rows * dense.cols > SMALL && SAFE.contains(&square);
    let mut left = range_of(columns, rank + SPARE, quick)?;
    let mut right = dense.projected(&left, coarse);
    for _ in 0..steps {
        left = orthonormal(&dense.times(&well_conditioned(&right)?).0, false)?;
        right = dense.projected(&left, coarse);
    }
    let quick = quick && steps == 0;
    let mut core = if quick { right.gram::<f32>() } else { right.gram::<f64>() };
    let mut rest = outside(&right, square);
    if quick && rest < NEAR * square {
        left = orthonormal(columns, false)?; // f32 Gram matrices leave angles of up to 0.1 degrees
        right = dense.projected(&left, coarse);
        core = right.gram::<f64>();
        rest = outside(&right, square);
    }
    if rest < CANCELLED * square {
        rest = dense.residual(&left, &right);
    }
    let spectrum = Spectrum::of(core.as_ref(), rest)?;
    let kept = spectrum.choose(rule, rank, 0.0).max(1);
    write(&left, &right, &spectrum, rule.gain(kept), kept, dtype, out)?;
    let norm = square.sqrt();
    Ok(Recompressed { rank: kept, norm, rounding: norm, relative_error: spectrum.tail(kept) })
}

pub(crate) fn check_result(values: &[f32], rows: usize, cols: usize) -> Result<()> {
    if values.len() == rows * cols {
        return Ok(());
    }
    Err(Error::Shape {
        what: "result",
        expected: format!("{rows} x {cols}"),
        got: format!("{} entries", values.len()),
    })
}

/// Columns, the rank that is tried first, and the largest that the rule allows.
fn wanted(parts: &[Part<'_, '_>], rows: usize, rule: &Rule) -> (usize, usize, usize) {
    let cols = parts.first().map_or(0, |part| part.group.cols());
    let known = parts.iter().map(|part| part.group.rank()).sum();
    let (first, most) = rule.ranks(known, rows.min(cols));
    (cols, first, most)
}

/// What `square` has more than that of the projection.
fn outside(right: &Panels, square: f64) -> f64 {
    (square - passes::square(&right.values)).max(0.0)
}

/// An orthonormal basis of the columns; if it may be `quick`, of their `most` leading directions.
fn range_of(columns: &Panels, most: usize, quick: bool) -> Result<Panels> {
    if quick && most < columns.width {
        let turn = leading_turn(&columns.gram::<f32>(), most, DIM)?;
        if turn.ncols() == most {
            return Ok(columns.times(&turn));
        }
    }
    orthonormal(columns, quick)
}

/// Refuses parts that do not fit, an output of less than `need` bytes, and bad input.
pub(crate) fn check(
    parts: &[Part<'_, '_>],
    rows: usize,
    cols: usize,
    need: usize,
    has: usize,
) -> Result<()> {
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

/// Up `= gain * left W S^(1/2)`, down `= S^(-1/2) W^T right^T`.
fn write(
    left: &Panels,
    right: &Panels,
    spectrum: &Spectrum,
    gain: f64,
    kept: usize,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<()> {
    let q = left.width;
    let (turn, roots) = spectrum.leading(kept);
    let up = Mat::from_fn(q, kept, |i, j| (turn[(i, j)] * roots[j] * gain) as f32);
    let down = Mat::from_fn(kept, q, |j, i| (turn[(i, j)] / roots[j]) as f32);
    let mut sink = Sink::new(left.len, right.len, kept, dtype, out);
    floats(TILE * kept, |product| {
        for rows in left.ranges() {
            let product = &mut product[..rows.len() * kept];
            let target = MatMut::from_row_major_slice_mut(product, rows.len(), kept);
            matmul(target, Accum::Replace, left.tile(&rows), up.as_ref(), 1.0, Par::Seq);
            sink.up(rows.start, product)?;
        }
        for cols in right.ranges() {
            let product = &mut product[..cols.len() * kept];
            let target = MatMut::from_row_major_slice_mut(product, kept, cols.len());
            let source = right.tile(&cols).transpose();
            matmul(target, Accum::Replace, down.as_ref(), source, 1.0, Par::Seq);
            sink.down(cols, product)?;
        }
        Ok(())
    })
}
