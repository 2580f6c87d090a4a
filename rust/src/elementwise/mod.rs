//! Elementwise methods: keep, vote, reduce, in one pass over tiles of the deltas.
//!
//! A [`Program`] says which entries of each weighted delta are kept, which sign wins where the
//! kept ones disagree, and how the winners are reduced to one number.  The deltas are produced
//! tile by tile by a [`Source`] and dropped; only the result has `rows x cols` entries.

mod reduce;
pub mod select;
pub mod source;

use std::ops::Range;

use rayon::prelude::*;

use crate::dispatch;
use crate::rng::Stream;
use crate::scratch;
use crate::{Error, Result};
use reduce::ReduceTile;
pub use select::Cut;
pub use source::{Dense, Factored, Source};

/// Entries of a tile: `N` deltas of a few rows stay in cache.
const TILE: usize = 1 << 16;

/// Which entries of a delta take part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// All of them.
    All,
    /// The share `density` of largest magnitude, after the share `skip` of the very largest.
    Largest {
        /// Share that is kept, (0, 1].
        density: f64,
        /// Share of outliers that is dropped first, [0, 1).
        skip: f64,
    },
    /// Each with probability `density`, divided by `divisor`; see `rng` for the draws.
    Random {
        /// Probability, (0, 1].
        density: f64,
        /// What survivors are divided by; `density` makes it unbiased.
        divisor: f64,
    },
}

/// Whose sign wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Vote {
    /// Nobody votes, everybody counts.
    None,
    /// The sign of the sum.
    Mass,
    /// The sign of the majority; the sign of the sum where there is none.
    Count,
}

/// What becomes of the entries that agree with the vote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reduce {
    /// Their sum.
    Sum,
    /// Their mean by weight, times the largest weight of all.
    Mean,
}

/// An elementwise method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Program {
    /// Which entries of a delta take part.
    pub keep: Keep,
    /// Whose sign wins.
    pub vote: Vote,
    /// What becomes of those that agree.
    pub reduce: Reduce,
    /// Key of the random draws.
    pub seed: u64,
    /// Stable hash of the target, for the random draws.
    pub target: u64,
}

impl Program {
    fn check(&self) -> Result<()> {
        let share = |name, value: f64, good: bool, allowed| {
            if good {
                Ok(())
            } else {
                Err(Error::Param { name, value: value.to_string(), allowed })
            }
        };
        let positive = |x: f64| x > 0.0 && x <= 1.0;
        match self.keep {
            Keep::All => Ok(()),
            Keep::Largest { density, skip } => {
                share("density", density, positive(density), "in (0, 1]")?;
                share("outliers", skip, (0.0..1.0).contains(&skip), "in [0, 1)")
            }
            Keep::Random { density, divisor } => {
                share("density", density, positive(density), "in (0, 1]")?;
                share("divisor", divisor, positive(divisor), "in (0, 1]")
            }
        }
    }
}

/// A program with everything decided that needs a look at all entries first.
pub struct Prepared<'s, S> {
    program: Program,
    source: &'s S,
    cuts: Vec<Cut>,
    streams: Vec<Stream>,
    weights: Vec<f32>,
    largest: f32,
}

impl<'s, S: Source> Prepared<'s, S> {
    /// Looks at the deltas where the program needs it: one pass for `Keep::Largest`.
    ///
    /// # Errors
    /// [`Error::Param`] outside the ranges of [`Keep`]; what the source refuses.
    pub fn new(program: Program, source: &'s S) -> Result<Self> {
        program.check()?;
        let count = source.count();
        let cuts = match program.keep {
            Keep::Largest { density, skip } => {
                (0..count).map(|i| select::cut(source, i, density, skip)).collect::<Result<_>>()?
            }
            _ => Vec::new(),
        };
        let stream = |i: usize| Stream::new(program.seed, program.target, i as u32);
        let streams = (0..count).map(stream).collect::<Result<_>>()?;
        let weights: Vec<f32> = (0..count).map(|i| source.weight(i).abs() as f32).collect();
        let largest = weights.iter().fold(0.0, |a: f32, b| a.max(*b));
        Ok(Self { program, source, cuts, streams, weights, largest })
    }

    /// Fills `out` with the result, `rows x cols` row-major, tiles in parallel.
    ///
    /// # Errors
    /// [`Error::Shape`] for an `out` of another size; what the source refuses.
    pub fn run(&self, out: &mut [f32]) -> Result<()> {
        let (rows, cols) = (self.source.rows(), self.source.cols());
        if out.len() != rows * cols {
            return Err(Error::Shape {
                what: "result",
                expected: format!("{rows} x {cols}"),
                got: format!("{} entries", out.len()),
            });
        }
        if out.is_empty() {
            return Ok(());
        }
        let step = (TILE / cols).clamp(1, 256);
        let tiles = out.par_chunks_mut(step * cols).enumerate();
        tiles.try_for_each(|(index, out)| self.tile(index * step, out))
    }

    fn tile(&self, first: usize, out: &mut [f32]) -> Result<()> {
        let (count, len) = (self.source.count(), out.len());
        let rows = first..first + len / self.source.cols();
        scratch::floats(count * len, |values| self.tile_in(rows, values, out))
    }

    fn tile_in(&self, rows: Range<usize>, values: &mut [f32], out: &mut [f32]) -> Result<()> {
        let (len, cols, first) = (out.len(), self.source.cols(), rows.start);
        for (member, values) in values.chunks_exact_mut(len).enumerate() {
            self.source.fill(member, rows.clone(), values)?;
            self.keep(member, first * cols, values);
        }
        let (program, largest) = (&self.program, self.largest);
        dispatch::run(ReduceTile { program, values, weights: &self.weights, largest, out });
        Ok(())
    }

    /// Zeroes what is not kept.
    fn keep(&self, member: usize, start: usize, values: &mut [f32]) {
        match self.program.keep {
            Keep::All => {}
            Keep::Largest { .. } => self.cuts[member].apply(start, values),
            Keep::Random { density, divisor } => {
                let (density, scale) = (density as f32, (1.0 / divisor) as f32);
                let mut words = vec![0u32; values.len()];
                self.streams[member].fill(start as u64, &mut words);
                for (value, word) in values.iter_mut().zip(&words) {
                    *value *= if Stream::uniform(*word) < density { scale } else { 0.0 };
                }
            }
        }
    }
}
