//! Elementwise programs in a space that the members share: their result has low rank.
//!
//! TIES, DARE and their kin decide entry by entry, which gives dense deltas full rank.  `KnOTS`
//! (Stoica et al., arXiv 2410.19735) runs them on `U^T Delta_i` (p x cols) instead, U being a joint
//! left basis, and multiplies U to the result; Core Space (Panariello et al., arXiv 2509.17786) on
//! `U^T Delta_i V` (p x q).  The bases, and how they differ from the published ones, are in
//! [`crate::space`]; here the weights are part of the members' factors.  The result is a pair of
//! rank p, written through [`crate::recompress`].
//!
//! Members that go around a program have no say in the bases: their factors stand beside those of the
//! result, as they are.
//!
//! Draws of a program are addressed by the entry of the small matrix, so they are others than in
//! the space of the weights.  The entries are f32: basis and coefficients are made in f64 and
//! rounded once.
//!
//! Cost: f64 Gram matrices, an eigenproblem of size R (two for cores), the program on `n p cols` or
//! `n p q` entries, and a recompression of size p.

mod knots;

use faer::{Mat, MatRef};

use self::knots::pair;
use crate::account::{self, Account, bytes};
use crate::condense::{Part, placed, whole};
use crate::dtype::{Dtype, Matrix};
use crate::elementwise::{Factored, Prepared, Source};
use crate::gram::{Grams, check_finite, factor_grams, is_safe};
use crate::group::{Group, Member};
use crate::recompress::{self, Mixing, Recompressed, Rule};
use crate::rng::Stream;
use crate::space::Bases;
use crate::split::Split;
use crate::{Error, Result, probe, shrink};

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// `U^T Delta_i`, `p x cols`.
    Knots,
    /// `U^T Delta_i V`, `p x q`.
    Core,
}

/// What [`project`] wrote.
#[derive(Clone, Debug)]
pub struct Projected {
    /// Rank and errors; `norm` is that of the result in its space, before the cut.
    pub done: Recompressed,
    /// For the members of all parts, in order, as they are stored.
    pub account: Account,
    /// `Z^T M X` of what was meant before the cut; see [`probe::sketch`].
    pub sketch: Vec<f64>,
}

/// Writes the factors of an elementwise result in a space, up (`rows x k`) and then down
/// (`k x cols`).  `streams` are X and Z of the sketch.
///
/// A part with a single member and a program that keeps all is its delta as it is.  Members may
/// cover some of their part's rows.
///
/// # Errors
/// [`Error::NonFinite`] for bad input, [`Error::Overflow`] if f32 or the output type is too small,
/// [`Error::Param`] for a program or a rule outside its ranges, [`Error::Shape`] for parts that do
/// not fit or overlap, and for a short `out`.
pub fn project(
    parts: &[Part<'_, '_>],
    rows: usize,
    space: Space,
    rule: &Rule,
    dtype: Dtype,
    streams: (&Stream, &Stream),
    out: &mut [u8],
) -> Result<Projected> {
    let cols = parts.first().map_or(0, |part| part.group.cols());
    check(parts, rows, cols)?;
    let whole = whole(parts, rows)?;
    check_finite(&whole)?;
    match space {
        Space::Knots => in_knots(parts, &whole, rule, dtype, streams, out),
        Space::Core => in_cores(parts, &whole, rule, dtype, streams, out),
    }
}

/// A result in cores is mixed from the stacks of the factors.
fn in_cores(
    parts: &[Part<'_, '_>],
    whole: &Group<'_>,
    rule: &Rule,
    dtype: Dtype,
    streams: (&Stream, &Stream),
    out: &mut [u8],
) -> Result<Projected> {
    let mut grams = None;
    let mut blocks = Vec::with_capacity(parts.len());
    for part in parts {
        let own = factor_grams::<f64>(part.group)?;
        blocks.push(mixing(part, &own)?);
        grams = Some(own);
    }
    // Those of a single part are those of the whole.
    let grams = match grams {
        Some(own) if parts.len() == 1 && parts[0].group.rows() == whole.rows() => own,
        _ => factor_grams::<f64>(whole)?,
    };
    let mixing = Mixing::diagonal(&blocks);
    let work = recompress::work_exact(whole, Some(&mixing), grams, rule, dtype, out)?;
    let account = account::of_meant(whole, &work.grams, &work.meant);
    let sketch = probe::sketch_mixed(whole, &mixing, streams.0, streams.1)?;
    Ok(Projected { done: work.done, account, sketch })
}

/// What a part mixes from its stacks.
fn mixing(part: &Part<'_, '_>, grams: &Grams) -> Result<Mixing> {
    let Some(split) = Split::of(part)? else { return mixing_of_seen(part, grams) };
    let own = mixing_of_seen(&split.part(part), &split.grams(grams))?;
    Ok(split.beside(&own, part.group.rank()))
}

/// [`mixing`] of a part of which nothing goes around.
fn mixing_of_seen(part: &Part<'_, '_>, grams: &Grams) -> Result<Mixing> {
    let group = part.group;
    if is_plain(part) {
        return Ok(Mixing::none(group.rank()));
    }
    let bases = Bases::new(group, grams, &vec![1.0; group.members().len()], true)?;
    if bases.left.size() == 0 {
        return Ok(Mixing { up: Mat::zeros(group.rank(), 0), down: Mat::zeros(0, group.rank()) });
    }
    let (p, q) = (bases.left.size(), bases.right.size());
    let result = result(part, &bases, Space::Core)?;
    let core = MatRef::from_row_major_slice(&result, p, q);
    let core = Mat::from_fn(p, q, |i, j| f64::from(core[(i, j)]));
    let (left, right) = bases.stored();
    Ok(Mixing { up: left, down: core * right.transpose() })
}

/// A result in knots has rows of its own.
fn in_knots(
    parts: &[Part<'_, '_>],
    whole: &Group<'_>,
    rule: &Rule,
    dtype: Dtype,
    streams: (&Stream, &Stream),
    out: &mut [u8],
) -> Result<Projected> {
    let made = parts.iter().map(pair).collect::<Result<Vec<_>>>()?;
    let mut members = Vec::with_capacity(parts.len());
    for (part, made) in parts.iter().zip(&made) {
        let place = |i: &usize| placed(part).nth(*i);
        match &made.pair {
            Some(pair) => members.push(pair.member(part)?),
            None => members.extend(made.seen.iter().filter_map(place)),
        }
        members.extend(made.around.iter().filter_map(place));
    }
    let pairs = Group::new(whole.rows(), whole.cols(), members)?;
    let work = recompress::work(&pairs, None, rule, dtype, out)?;
    let safe = is_safe(&pairs, &work.grams);
    let (mut account, mut start) = (Account::default(), 0);
    for (part, made) in parts.iter().zip(&made) {
        let size = made.ups.ncols();
        let left = &made.ups * work.meant.left.subrows(start, size);
        let turned = (&pairs, &work.meant.right);
        let own = account::of_turned(part.group, &made.grams, &left, turned, safe)?;
        (account, start) = (account.beside(own), start + size);
    }
    let sketch = probe::sketch(&pairs, streams.0, streams.1)?;
    Ok(Projected { done: work.done, account, sketch })
}

/// True if there is nothing to decide.
fn is_plain(part: &Part<'_, '_>) -> bool {
    match part.group.members().len() {
        0 => true,
        1 => part.program == part.program.sum(),
        _ => false,
    }
}

fn check(parts: &[Part<'_, '_>], rows: usize, cols: usize) -> Result<()> {
    let range = |part: &Part<'_, '_>| {
        let end = part.row_start.checked_add(part.group.rows())?;
        (part.group.cols() == cols && end <= rows).then_some((part.row_start, end))
    };
    let mut ranges = parts.iter().filter_map(range).collect::<Vec<_>>();
    ranges.sort_unstable();
    let apart = ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0);
    if ranges.is_empty() || ranges.len() < parts.len() || !apart {
        return Err(Error::Shape {
            what: "parts",
            expected: format!("parts within {rows} x {cols} that do not overlap"),
            got: format!("{} parts", parts.len()),
        });
    }
    match parts.iter().find(|p| p.weights.len() != p.group.members().len()) {
        Some(part) => Err(Error::Shape {
            what: "weights",
            expected: format!("{}, one for each member", part.group.members().len()),
            got: part.weights.len().to_string(),
        }),
        None => Ok(()),
    }
}

/// Entries of the result of a part in a space, row-major.
fn result(part: &Part<'_, '_>, bases: &Bases<'_, '_>, space: Space) -> Result<Vec<f32>> {
    on_entries(part, bases, space, |source| {
        let mut result = vec![0f32; source.rows() * source.cols()];
        let prepared = Prepared::new(&part.program, source)?;
        prepared.run(&mut result)?;
        if part.program.clean {
            let noise = prepared.noise(&result)?;
            shrink::clean(&mut result, source.rows(), noise)?;
        }
        Ok(result)
    })
}

/// Inner products of what the program of a part keeps of its weighted members in a space, but for
/// those that go around.
///
/// # Errors
/// Those of [`project`].
pub fn kept(part: &Part<'_, '_>, space: Space) -> Result<Vec<f64>> {
    check_finite(part.group)?;
    if let Some(split) = Split::of(part)? {
        return kept(&split.part(part), space);
    }
    if part.group.members().is_empty() {
        return Ok(vec![]);
    }
    let grams = factor_grams::<f64>(part.group)?;
    let weights = vec![1.0; part.group.members().len()];
    let bases = Bases::new(part.group, &grams, &weights, space == Space::Core)?;
    on_entries(part, &bases, space, |source| Prepared::new(&part.program, source)?.gram())
}

/// Calls `work` with the small matrices, `p x cols` or `p x q`.
fn on_entries<T>(
    part: &Part<'_, '_>,
    bases: &Bases<'_, '_>,
    space: Space,
    work: impl FnOnce(&Factored<'_, '_>) -> Result<T>,
) -> Result<T> {
    let members = part.group.members();
    let (p, q) = (bases.left.size(), bases.right.size());
    let (left, right) = bases.decided();
    let (_, down_scale) = bases.stack.scales();
    let cols = if space == Space::Core { q } else { part.group.cols() };
    let mut coefficients = Vec::with_capacity(members.len());
    for index in 0..members.len() {
        let columns = part.group.columns(index);
        // Cores are products of coefficients; otherwise the stored down side takes its balance.
        let scale = |a: usize| if space == Space::Core { 1.0 } else { down_scale[a] };
        let up = (0..p).flat_map(|j| columns.clone().map(move |a| (a, j)));
        let up: Vec<f32> = up.map(|(a, j)| (left[(a, j)] * scale(a)) as f32).collect();
        let down = columns.flat_map(|a| (0..q).map(move |j| (a, j)));
        let down: Vec<f32> = down.map(|(a, j)| right[(a, j)] as f32).collect();
        coefficients.push((bytes(&up)?, bytes(&down)?));
    }
    let mut small = Vec::with_capacity(members.len());
    for (member, (up, down)) in members.iter().zip(&coefficients) {
        let rank = member.up.cols();
        let stored = member.down;
        let up = Matrix::new(Dtype::F32, p, rank, up)?;
        let down = match space {
            Space::Core => Matrix::new(Dtype::F32, rank, q, down)?,
            Space::Knots => stored,
        };
        small.push(Member { up, down, factor: 1.0, row_start: 0 });
    }
    let small = Group::new(p, cols, small)?;
    work(&Factored::new(&small, part.weights.clone())?)
}
