//! Exact selection by magnitude over a whole delta, in one pass.
//!
//! A sample brackets the threshold.  While the tiles go by, entries above and below the bracket
//! are decided and the few inside are collected ([`super::survey`]); the threshold is then found
//! among those.  A bracket that misses (possible, rare) is widened and the pass repeated.  Equal
//! magnitudes at the cut are kept in index order, so exactly the asked number is kept.
#![allow(clippy::needless_bitwise_bool)] // no branches where nothing can be predicted

use rayon::prelude::*;

use super::sample::{BINS, OPEN, Sample};
use super::source::Source;
use super::survey::{Found, Survey, magnitude};
use super::{Keep, rows_of_tile};
use crate::dispatch::{self, Kernel};
use crate::tile::pieces;
use crate::{Result, scratch};

/// What the width of a bracket is multiplied by after a miss: all that is inside is kept in memory.
pub(super) const WIDENING: f64 = 3.0;
/// A place in the order of all entries by falling magnitude, then rising index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Edge {
    /// Magnitude as bits: their order is that of the numbers.
    pub(super) bits: u32,
    /// Entries with these bits are before the edge if their index is below.
    pub(super) index: usize,
}

impl Edge {
    pub(super) const FIRST: Self = Self { bits: u32::MAX, index: 0 };
    pub(super) const LAST: Self = Self { bits: 0, index: usize::MAX };

    #[inline(always)]
    #[allow(clippy::inline_always)] // a dispatched loop calls it
    fn is_after(self, bits: u32, index: usize) -> bool {
        (bits > self.bits) | ((bits == self.bits) & (index < self.index))
    }
}

/// What is kept of one delta: what is before `low` and not before `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) high: Edge,
    pub(super) low: Edge,
}

impl Cut {
    /// True if there is nothing to drop.
    pub(super) fn keeps_all(&self) -> bool {
        self.high == Edge::FIRST && self.low == Edge::LAST
    }

    /// Writes the entries that are kept, and zeros, given where they are.
    pub(super) fn apply(&self, entries: &[f32], places: &[usize], out: &mut [f32]) {
        dispatch::run(Apply { cut: *self, entries, places, out });
    }

    /// The entry if it is kept, or zero; without a branch, which would be taken at random.
    #[inline(always)]
    #[allow(clippy::inline_always)] // a dispatched loop calls it
    pub(super) fn kept(&self, value: f32, index: usize) -> f32 {
        let bits = magnitude(value);
        let keeps = self.low.is_after(bits, index) & !self.high.is_after(bits, index);
        f32::from_bits(value.to_bits() & u32::from(keeps).wrapping_neg())
    }
}

struct Apply<'v> {
    cut: Cut,
    entries: &'v [f32],
    places: &'v [usize],
    out: &'v mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::inline_always)] // or it is not compiled with the vectors of the machine
    fn run(self) {
        let entries = self.entries.iter().zip(self.places);
        for (out, (entry, place)) in self.out.iter_mut().zip(entries) {
            *out = self.cut.kept(*entry, *place);
        }
    }
}

/// Where an edge lies: how many entries, or how much of the square, are before it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Before {
    Count(usize),
    /// Of the entries inside the bracket, as many as hold this much.
    Square(f64),
}

/// An edge that is known up to the entries with magnitude bits in `low..=high`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bracket {
    pub(super) low: u32,
    pub(super) high: u32,
    pub(super) before: Before,
    /// Set where there is nothing to find.
    pub(super) known: Option<Edge>,
}

impl Bracket {
    pub(super) fn known(edge: Edge) -> Self {
        // Nothing is inside: no magnitude has these bits.
        let (low, high) = if edge == Edge::FIRST { (u32::MAX, u32::MAX) } else { (0, 0) };
        let high = if edge == Edge::LAST { 0 } else { high };
        Self { low, high, before: Before::Count(0), known: Some(edge) }
    }

    /// True if entries inside have to be looked at.
    pub(super) fn is_open(&self) -> bool {
        self.known.is_none()
    }

    /// The edge, from the number of entries that are not below and those inside; `None` if it is
    /// outside.
    fn edge(&self, reached: usize, inside: &mut [Found], places: &[usize]) -> Option<Edge> {
        if self.known.is_some() {
            return self.known;
        }
        let last = match self.before {
            Before::Count(before) => {
                let above = reached - inside.len();
                let rank = before.checked_sub(above + 1).filter(|rank| *rank < inside.len())?;
                *inside.select_nth_unstable(rank).1
            }
            Before::Square(wanted) => {
                inside.sort_unstable();
                let mut held = 0.0;
                let enough = |found: &&Found| {
                    held += f64::from(f32::from_bits(found.bits())).powi(2);
                    held >= wanted
                };
                *inside.iter().find(enough).or(inside.last())?
            }
        };
        Some(Edge { bits: last.bits(), index: places[last.at()] + 1 })
    }
}

/// Both edges of what is kept of one delta.
#[derive(Clone, Copy, Debug)]
pub(super) struct Brackets {
    pub(super) high: Bracket,
    pub(super) low: Bracket,
}

impl Brackets {
    /// True if no entry has to be looked at to know what is kept.
    pub(super) fn is_known(&self) -> bool {
        !self.high.is_open() && !self.low.is_open()
    }

    /// True if there is nothing to drop.
    pub(super) fn keeps_all(&self) -> bool {
        self.high.known == Some(Edge::FIRST) && self.low.known == Some(Edge::LAST)
    }
}

/// Brackets for a rule that keeps by magnitude; `widening` is 1, and more after a miss.
pub(super) fn brackets<S: Source>(
    source: &S,
    member: usize,
    keep: Keep,
    widening: f64,
) -> Result<Brackets> {
    let n = source.rows() * source.cols();
    match keep {
        Keep::Largest { density, skip } => {
            // A density such as 0.3 is a little less than it reads; so is its product.
            let floor = |share: f64| (share * n as f64 * (1.0 + 1e-12)).floor() as usize;
            let dropped = floor(skip).min(n.saturating_sub(1));
            let kept = floor(density).max(1).min(n - dropped);
            let sample = Sample::new(source, member)?;
            let bracket = |before| sample.bracket(before, n, widening);
            Ok(Brackets { high: bracket(dropped), low: bracket(dropped + kept) })
        }
        Keep::Truncated { density, least } => {
            let kept = ((density * n as f64) as usize).max(least).min(n);
            let low = Sample::new(source, member)?.bracket(kept, n, widening);
            Ok(Brackets { high: Bracket::known(Edge::FIRST), low })
        }
        Keep::Holding { energy } if energy < 1.0 => {
            let low = holding(source, member, energy)?;
            Ok(Brackets { high: Bracket::known(Edge::FIRST), low })
        }
        _ => {
            let [high, low] = [Edge::FIRST, Edge::LAST].map(Bracket::known);
            Ok(Brackets { high, low })
        }
    }
}

/// The cuts, if no bracket missed.
pub(super) fn cuts(brackets: &[Brackets], survey: &Survey) -> Option<Vec<Cut>> {
    let mut memory = Vec::new();
    let mut edge = |member, bracket: &Bracket, reached| {
        let range = bracket.low..=bracket.high;
        let found = bracket.is_open().then(|| survey.inside(member, range, &mut memory));
        bracket.edge(reached, found.unwrap_or_default(), &survey.places)
    };
    let one = |(member, b): (usize, &Brackets)| {
        let [high, low] = survey.reached[member];
        Some(Cut { high: edge(member, &b.high, high)?, low: edge(member, &b.low, low)? })
    };
    brackets.iter().enumerate().map(one).collect()
}

/// The bin in which the largest entries reach a share of the squared norm: one pass.
fn holding<S: Source>(source: &S, member: usize, energy: f64) -> Result<Bracket> {
    let (rows, cols) = (source.rows(), source.cols());
    let tiles: Vec<_> = pieces(rows, rows_of_tile(cols)).collect();
    let squares = |tile: std::ops::Range<usize>| {
        scratch::floats(tile.len() * cols, |values| {
            source.fill(member, tile, values)?;
            let mut bins = vec![0f64; BINS];
            for value in values.iter() {
                bins[(magnitude(*value) >> OPEN) as usize] += f64::from(*value).powi(2);
            }
            Ok(bins)
        })
    };
    let found: Vec<Vec<f64>> = tiles.into_par_iter().map(squares).collect::<Result<_>>()?;
    let mut bins = vec![0f64; BINS];
    for tile in &found {
        bins.iter_mut().zip(tile).for_each(|(b, t)| *b += t);
    }
    let wanted = energy * bins.iter().sum::<f64>();
    let mut held = 0.0;
    for (bin, square) in bins.iter().enumerate().rev() {
        if held + square >= wanted && *square > 0.0 {
            let low = (bin as u32) << OPEN;
            let high = low + ((1 << OPEN) - 1);
            let before = Before::Square(wanted - held);
            return Ok(Bracket { low, high, before, known: None });
        }
        held += square;
    }
    Ok(Bracket::known(Edge::LAST))
}
