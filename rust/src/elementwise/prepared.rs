//! Programs on deltas: the passes over tiles.

use std::ops::Range;

use rayon::prelude::*;

use super::decide::{decide, drop_selfish};
use super::dots;
use super::positions::Positions;
use super::program::{Conflicts, Fallback, Keep, Program};
use super::random::drop_alike;
use super::ranked::Ranking;
use super::rows_of_tile;
use super::select::{Brackets, Cut, WIDENING, brackets, cuts};
use super::sides::Sided;
use super::source::Source;
use super::survey::Survey;
use crate::rng::Stream;
use crate::tile::pieces;
use crate::{Error, Result, scratch};

/// Open positions that are settled at a time.
const SETTLED: usize = 1 << 10;

/// A program with everything decided that needs a look at all entries first.
pub struct Prepared<'s, S> {
    program: &'s Program,
    source: Sided<'s, S>,
    positions: Positions,
    streams: Vec<Stream>,
    /// Whether the random rule acts everywhere, at conflicts, or nowhere.
    scope: Scope,
}

#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Everywhere,
    Conflicts,
    Nowhere,
}

impl<'s, S: Source> Prepared<'s, S> {
    /// Looks at the deltas where the program needs it: one pass for a rule limited to conflicts.
    ///
    /// # Errors
    /// [`Error::Param`] outside the ranges of [`Keep`]; what the source refuses.
    pub fn new(program: &'s Program, source: &'s S) -> Result<Self> {
        program.check_sides(source.count())?;
        let source = Sided::new(program, source);
        program.check(source.count())?;
        let stream = |i: usize| Stream::new(program.seed, program.target, i as u32);
        let streams = (0..source.count()).map(stream).collect::<Result<_>>()?;
        let positions = Positions::new(program, &source);
        let limits = program.limits();
        let scope = Scope::Everywhere;
        let mut prepared = Self { program, source, positions, streams, scope };
        if let Some(limits) = limits {
            prepared.scope = prepared.scope_of(limits)?;
        }
        Ok(prepared)
    }

    /// Fills `out` with the result, `rows x cols` row-major, tiles in parallel.
    ///
    /// # Errors
    /// [`Error::Shape`] for an `out` of another size; what the source refuses.
    pub fn run(&self, out: &mut [f32]) -> Result<()> {
        self.fill(out, false).map(|_| ())
    }

    /// [`Self::run`], and the inner products of the result with the weighted deltas, in f64, taken
    /// while a tile is in cache.  `None` where the program does not see whole deltas, or something
    /// else happens to its result.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_along(&self, out: &mut [f32]) -> Result<Option<Vec<f64>>> {
        let whole = !self.drops_at_random() && self.source.is_whole() && !self.program.clean;
        Ok(Some(self.fill(out, whole)?).filter(|_| whole))
    }

    /// Fills `out`; if they are `wanted`, gives the inner products.
    fn fill(&self, out: &mut [f32], wanted: bool) -> Result<Vec<f64>> {
        self.check(out)?;
        if out.is_empty() {
            return Ok(vec![0.0; self.source.count()]);
        }
        if self.source.count() == 0 {
            out.fill(0.0); // all go around
            return Ok(Vec::new());
        }
        let mut widening = 1.0;
        let mut along = loop {
            let brackets = self.brackets(widening)?;
            let mut survey = self.pass(&brackets, out, wanted)?;
            if let Some(cuts) = cuts(&brackets, &survey) {
                self.settle(&cuts, &mut survey, out);
                break survey.along;
            }
            widening *= WIDENING;
        };
        if let Some(norm) = self.program.norm {
            let gain = f64::from(bring_to(norm, out));
            for along in &mut along {
                *along *= gain;
            }
        }
        Ok(along)
    }

    /// Adds the weighted deltas of the members that go around the program: the last thing that
    /// happens to a result, after its cleaning.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn add_around(&self, out: &mut [f32]) -> Result<()> {
        self.check(out)?;
        self.source.add_around(out)
    }

    /// Inner products of the weighted deltas as far as they are kept, `N x N` row-major, N members
    /// not going around.
    ///
    /// # Errors
    /// What the source refuses.
    pub fn gram(&self) -> Result<Vec<f64>> {
        let cuts = self.cuts()?;
        let count = self.source.count();
        let found = tiles(&self.source, count, |tile, values, len| {
            let start = tile.start * self.source.cols();
            self.keep(tile, values, len)?;
            let each = cuts.iter().zip(values.chunks_exact_mut(len.max(1)));
            for (cut, values) in each.filter(|(cut, _)| !cut.keeps_all()) {
                for (at, value) in values.iter_mut().enumerate() {
                    *value = cut.kept(*value, start + at);
                }
            }
            drop_selfish(&self.positions, values, len);
            Ok(dots::gram(values, len))
        })?;
        Ok(dots::sum(found, count * count))
    }

    /// Mean square per entry of the part of a result that is outside the span of the deltas: of
    /// those that do not go around, with all of their entries.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn noise(&self, result: &[f32]) -> Result<f64> {
        self.check(result)?;
        let (count, cols) = (self.source.count(), self.source.cols());
        let found = tiles(&self.source.whole(), count + 1, |tile, values, len| {
            values[count * len..].copy_from_slice(&result[tile.start * cols..][..len]);
            Ok(dots::gram(values, len))
        })?;
        let gram = dots::sum(found, (count + 1) * (count + 1));
        Ok(dots::outside_span(&gram, count + 1)? / result.len().max(1) as f64)
    }

    fn check(&self, out: &[f32]) -> Result<()> {
        let (rows, cols) = (self.source.rows(), self.source.cols());
        if out.len() == rows * cols {
            return Ok(());
        }
        Err(Error::Shape {
            what: "result",
            expected: format!("{rows} x {cols}"),
            got: format!("{} entries", out.len()),
        })
    }

    fn brackets(&self, widening: f64) -> Result<Vec<Brackets>> {
        let one = |i| brackets(&self.source, i, self.program.keep, widening);
        (0..self.source.count()).map(one).collect()
    }

    /// One pass: everything decided but the positions of the survey.
    fn pass(&self, brackets: &[Brackets], out: &mut [f32], along: bool) -> Result<Survey> {
        let cols = self.source.cols();
        let step = rows_of_tile(cols);
        let tiles = out.par_chunks_mut(step * cols).enumerate();
        let one = |(index, out): (usize, &mut [f32])| {
            let first = index * step;
            let tile = first..first + out.len() / cols;
            scratch::floats(brackets.len() * out.len(), |values| {
                self.source.fill_all(&tile, out.len(), values)?;
                self.keep(tile, values, out.len())?;
                let mut survey = decide(&self.positions, brackets, first * cols, values, out);
                if along {
                    let members = values.chunks_exact(out.len().max(1));
                    survey.along = members.map(|delta| dots::dot(delta, out)).collect();
                }
                Ok(survey)
            })
        };
        Ok(Survey::join(tiles.map(one).collect::<Result<_>>()?, brackets.len()))
    }

    /// Decides the positions of the survey, and brings its inner products up to date.
    fn settle(&self, cuts: &[Cut], survey: &mut Survey, out: &mut [f32]) {
        let Survey { places, values, along, .. } = survey;
        let (mut kept, mut decided) = (vec![0f32; cuts.len() * SETTLED], [0f32; SETTLED]);
        for (index, places) in places.chunks(SETTLED).enumerate() {
            let (n, from) = (places.len(), index * SETTLED);
            let entries = |member: usize| &values[member][from..from + n];
            for (member, (kept, cut)) in kept.chunks_exact_mut(n).zip(cuts).enumerate() {
                cut.apply(entries(member), places, kept);
            }
            let decided = &mut decided[..n];
            decide(&self.positions, &[], 0, &kept[..cuts.len() * n], decided);
            for (member, along) in along.iter_mut().enumerate() {
                *along += dots::dot(entries(member), decided);
            }
            for (place, value) in places.iter().zip(decided) {
                out[*place] = *value;
            }
        }
    }

    /// The exact cuts, without a result.
    fn cuts(&self) -> Result<Vec<Cut>> {
        let mut widening = 1.0;
        loop {
            let brackets = self.brackets(widening)?;
            let survey = if brackets.iter().all(Brackets::is_known) {
                Survey::new(brackets.len())
            } else {
                self.survey(&brackets)?
            };
            if let Some(cuts) = cuts(&brackets, &survey) {
                return Ok(cuts);
            }
            widening *= WIDENING;
        }
    }

    /// The positions that brackets leave open, in a pass of its own.
    fn survey(&self, brackets: &[Brackets]) -> Result<Survey> {
        let (count, cols) = (brackets.len(), self.source.cols());
        let surveys = tiles(&self.source, count + 1, |tile, values, len| {
            let (values, out) = values.split_at_mut(count * len);
            Ok(decide(&self.positions, brackets, tile.start * cols, values, out))
        })?;
        Ok(Survey::join(surveys, count))
    }

    fn drops_at_random(&self) -> bool {
        let random = matches!(self.program.keep, Keep::Random { .. } | Keep::Ranked { .. });
        random && self.scope != Scope::Nowhere
    }

    /// Drops entries at random, where the program does.
    fn keep(&self, tile: Range<usize>, values: &mut [f32], len: usize) -> Result<()> {
        if !self.drops_at_random() {
            return Ok(());
        }
        let flags = (self.scope == Scope::Conflicts).then(|| dots::conflicts(values, len));
        let start = tile.start * self.source.cols();
        for (member, values) in values.chunks_exact_mut(len.max(1)).enumerate() {
            let before = flags.as_ref().map(|_| values.to_vec());
            self.drop_at_random(member, start, values)?;
            for ((value, before), flag) in
                values.iter_mut().zip(before.iter().flatten()).zip(flags.iter().flatten())
            {
                *value = if *flag == 0 { *before } else { *value };
            }
        }
        Ok(())
    }

    fn drop_at_random(&self, member: usize, start: usize, values: &mut [f32]) -> Result<()> {
        scratch::words(values.len(), |words| {
            self.streams[member].fill(start as u64, words);
            match self.program.keep {
                Keep::Random { density, divisor } => {
                    drop_alike(density as f32, (1.0 / divisor) as f32, values, words);
                    Ok(())
                }
                Keep::Ranked { density, spread } => {
                    Ranking { density, spread }.apply(self.source.cols(), values, words)
                }
                _ => Ok(()),
            }
        })
    }

    /// How far the random rule reaches, from the share of positions in conflict.
    fn scope_of(&self, limits: Conflicts) -> Result<Scope> {
        let count = |_, values: &mut [f32], len| {
            Ok(dots::conflicts(values, len).iter().map(|f| usize::from(*f)).sum::<usize>())
        };
        let found: usize = tiles(&self.source, self.source.count(), count)?.into_iter().sum();
        let n = self.source.rows() * self.source.cols();
        if found as f64 <= limits.most * n as f64 {
            return Ok(Scope::Conflicts);
        }
        Ok(match limits.fallback {
            Fallback::Everywhere => Scope::Everywhere,
            Fallback::Nowhere => Scope::Nowhere,
        })
    }
}

/// Calls `work` with the weighted deltas of every tile, in room for `count` of them.
fn tiles<S: Source, T: Send>(
    source: &Sided<'_, S>,
    count: usize,
    work: impl Fn(Range<usize>, &mut [f32], usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let (rows, cols) = (source.rows(), source.cols());
    let tiles: Vec<_> = pieces(rows, rows_of_tile(cols)).collect();
    let one = |tile: Range<usize>| {
        let len = tile.len() * cols;
        scratch::floats(count * len, |values| {
            source.fill_all(&tile, len, &mut values[..source.count() * len])?;
            work(tile, values, len)
        })
    };
    tiles.into_par_iter().map(one).collect()
}

/// Scales to a norm, at most to twice what it was: what nearly cancels stays small.  Returns the
/// factor.
fn bring_to(norm: f64, out: &mut [f32]) -> f32 {
    let of = |chunk: &[f32]| chunk.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
    let sums: Vec<f64> = out.par_chunks(1 << 14).map(of).collect();
    let now = sums.iter().sum::<f64>().sqrt();
    let gain = if now > 0.0 { (norm / now).min(2.0) as f32 } else { 1.0 };
    out.par_iter_mut().for_each(|value| *value *= gain);
    gain
}
