//! The elementwise half of the binding.

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use rayon::prelude::*;

use super::job::{RawJob, Written, written};
use super::scratch::Scratch;
use super::spaces::space_of;
use super::{Bytes, Outcome, RawGroup, all, borrow, borrow_floats, enter, views};
use crate::condense::{self as calculate, Condensed, Part};
use crate::dtype::{Dtype, Matrix};
use crate::elementwise::{
    Ballot, Conflicts, Dense, Factored, Fallback, Keep, Prepared, Program, Reduce, Selfish, Side,
    Vote,
};
use crate::gram::check_finite;
use crate::group::Group;
use crate::project::{self, Space};
use crate::recompress::{Recompressed, Rule};
use crate::rng::Stream;
use crate::whole::{self, Whole};
use crate::{Error, account, probe, shrink};

/// Fields of `loramix.methods.base.Program`.
#[derive(FromPyObject)]
pub(super) struct RawProgram {
    keep: RawKeep,
    selfish: Option<RawSelfish>,
    ballot: String,
    vote: String,
    reduce: String,
    clean: bool,
}

/// Fields of `loramix.methods.base.Keep`.
#[derive(FromPyObject)]
struct RawKeep {
    rule: String,
    density: f64,
    outliers: f64,
    least: usize,
    divisor: f64,
    spread: f64,
    conflicts: bool,
    fallback: String,
}

/// Fields of `loramix.methods.base.Selfish`.
#[derive(FromPyObject)]
struct RawSelfish {
    lambda_: f64,
    published: bool,
    level: bool,
}

/// What a program needs to know of one group; fields of `loramix.types.Site`.
#[derive(FromPyObject)]
pub(super) struct RawSite {
    /// Stable hash of its target.
    key: u64,
    seed: u64,
    mix: Vec<f64>,
    /// Largest share of positions in conflict for rules limited to those.
    most: f64,
    norm: Option<f64>,
    sides: Vec<String>,
    published_sides: bool,
}

/// group, weights, site, first row, whether one adapter has it for itself.
#[derive(FromPyObject)]
pub(super) struct RawPart(RawGroup, Vec<f64>, RawSite, usize, bool);

/// rows, cols, stable hash, parts.
#[derive(FromPyObject)]
pub(super) struct RawStep(pub(super) usize, pub(super) usize, pub(super) u64, Vec<RawPart>);

macro_rules! choice {
    ($name:literal, $text:expr, $($key:literal => $value:expr),+) => {
        match $text {
            $($key => Ok($value),)+
            other => Err(Error::Param {
                name: $name,
                value: other.to_owned(),
                allowed: concat!($($key, " "),+),
            }),
        }
    };
}

impl RawSite {
    fn sides(&self) -> Result<Vec<Side>, Error> {
        let side = |name: &String| {
            choice!("side", name.as_str(),
                "all" => Side::All,
                "low" => Side::Low,
                "high" => Side::High,
                "around" => Side::Around)
        };
        self.sides.iter().map(side).collect()
    }
}

impl RawProgram {
    pub(super) fn view(&self, site: &RawSite) -> Result<Program, Error> {
        let RawKeep { rule, density, outliers, least, divisor, spread, conflicts, fallback } =
            &self.keep;
        let keep = choice!("keep", rule.as_str(),
            "all" => Keep::All,
            "largest" => Keep::Largest { density: *density, skip: *outliers },
            "truncated" => Keep::Truncated { density: *density, least: *least },
            "energy" => Keep::Holding { energy: *density },
            "random" => Keep::Random { density: *density, divisor: *divisor },
            "ranked" => Keep::Ranked { density: *density, spread: *spread })?;
        let fallback = choice!("fallback", fallback.as_str(),
            "everywhere" => Fallback::Everywhere,
            "nowhere" => Fallback::Nowhere)?;
        let selfish = self.selfish.as_ref().map(|s| Selfish {
            lambda: s.lambda_,
            published: s.published,
            level: s.level,
        });
        Ok(Program {
            sides: site.sides()?,
            published_sides: site.published_sides,
            keep,
            conflicts: conflicts.then_some(Conflicts { most: site.most, fallback }),
            selfish,
            mix: site.mix.clone(),
            ballot: choice!("ballot", self.ballot.as_str(),
                "weighted" => Ballot::Weighted,
                "signed" => Ballot::Signed,
                "plain" => Ballot::Plain)?,
            vote: choice!("vote", self.vote.as_str(),
                "none" => Vote::None,
                "mass" => Vote::Mass,
                "count" => Vote::Count,
                "mass-or-positive" => Vote::MassOrPositive,
                "count-or-positive" => Vote::CountOrPositive)?,
            reduce: choice!("reduce", self.reduce.as_str(),
                "sum" => Reduce::Sum,
                "average" => Reduce::Average,
                "mean" => Reduce::Mean,
                "count" => Reduce::Count,
                "signed-share" => Reduce::SignedShare,
                "importance" => Reduce::Importance)?,
            norm: site.norm,
            clean: self.clean,
            seed: site.seed,
            target: site.key,
        })
    }
}

/// Runs a program on dense deltas (dtype, bytes) of `rows x cols` into `out` (f32).
#[pyfunction]
#[pyo3(signature = (deltas, rows, cols, weights, program, site, out, *, threads=None))]
#[allow(clippy::too_many_arguments)] // the signature Python sees
pub(super) fn run_program(
    py: Python<'_>,
    deltas: Vec<(String, Bytes)>,
    rows: usize,
    cols: usize,
    weights: Vec<f64>,
    program: RawProgram,
    site: RawSite,
    mut out: PyBuffer<f32>,
    threads: Option<usize>,
) -> PyResult<()> {
    enter(py, threads, || {
        let run = || {
            let out = borrow_floats(&mut out)?;
            let source = Dense::new(matrices(&deltas, rows, cols)?, weights)?;
            let decided = program.view(&site)?;
            let prepared = Prepared::new(&decided, &source)?;
            prepared.run(out)?;
            if program.clean {
                let noise = prepared.noise(out)?;
                shrink::clean(out, rows, noise)?;
            }
            prepared.add_around(out)
        };
        run().map_err(|e| (None, e))
    })
}

/// Inner products of what a program keeps of dense weighted deltas, row-major N * N.
#[pyfunction]
#[pyo3(signature = (deltas, rows, cols, weights, program, site, *, threads=None))]
#[allow(clippy::too_many_arguments)] // the signature Python sees
pub(super) fn program_gram(
    py: Python<'_>,
    deltas: Vec<(String, Bytes)>,
    rows: usize,
    cols: usize,
    weights: Vec<f64>,
    program: RawProgram,
    site: RawSite,
    threads: Option<usize>,
) -> PyResult<Vec<f64>> {
    enter(py, threads, || {
        let run = || {
            let source = Dense::new(matrices(&deltas, rows, cols)?, weights)?;
            Prepared::new(&program.view(&site)?, &source)?.gram()
        };
        run().map_err(|e| (None, e))
    })
}

fn matrices(
    deltas: &[(String, Bytes)],
    rows: usize,
    cols: usize,
) -> Result<Vec<Matrix<'_>>, Error> {
    let mut views = Vec::with_capacity(deltas.len());
    for (dtype, bytes) in deltas {
        views.push(Matrix::new(Dtype::parse(dtype)?, rows, cols, borrow(bytes)?)?);
    }
    Ok(views)
}

/// Factors of an elementwise result of every step, into its range of the job's arena.
///
/// There is one dense result per thread at a time.
#[pyfunction]
pub(super) fn condense(
    py: Python<'_>,
    steps: Vec<RawStep>,
    program: RawProgram,
    mut job: RawJob,
    scratch: &Scratch,
) -> PyResult<Vec<Written>> {
    enter(py, job.threads, || {
        let (rule, dtype, rooms) = job.open(steps.len())?;
        in_lanes(&steps, rooms, scratch, |step, scratch, room| {
            step.condense(&program, &rule, dtype, scratch, room)
        })
    })
}

/// The elementwise result of every step, dense and row-major, into its range of the job's arena.
///
/// There is one f32 result per thread at a time.
#[pyfunction]
#[pyo3(name = "whole")]
pub(super) fn py_whole(
    py: Python<'_>,
    steps: Vec<RawStep>,
    program: RawProgram,
    mut job: RawJob,
    scratch: &Scratch,
) -> PyResult<Vec<Written>> {
    enter(py, job.threads, || {
        let (_, dtype, rooms) = job.open(steps.len())?;
        in_lanes(&steps, rooms, scratch, |step, scratch, room| {
            step.whole(&program, dtype, scratch, room)
        })
    })
}

/// Calls `work` with every step, a scratch and its room.
///
/// One lane per thread, each with one dense result: memory is bounded by the lanes, and a thread
/// that waits inside a step helps with tiles of the others.
fn in_lanes<T: Send>(
    steps: &[RawStep],
    rooms: Vec<&mut [u8]>,
    scratch: &Scratch,
    work: impl Fn(&RawStep, &mut Vec<f32>, &mut [u8]) -> Result<T, Error> + Sync,
) -> Outcome<Vec<T>> {
    let count = rayon::current_num_threads().max(1);
    let mut lanes: Vec<Vec<(usize, &RawStep, &mut [u8])>> = (0..count).map(|_| vec![]).collect();
    for (index, (step, out)) in steps.iter().zip(rooms).enumerate() {
        lanes[index % count].push((index, step, out));
    }
    let lane = |items: Vec<(usize, &RawStep, &mut [u8])>| {
        scratch.lend(|scratch| {
            let one = |(index, step, out): (usize, &RawStep, &mut [u8])| {
                (index, work(step, scratch, out))
            };
            items.into_iter().map(one).collect::<Vec<_>>()
        })
    };
    let mut done: Vec<_> = lanes.into_par_iter().flat_map_iter(lane).collect();
    done.sort_by_key(|(index, _)| *index);
    all(done.into_iter().map(|(_, result)| result).collect())
}

impl RawStep {
    pub(super) fn groups(&self) -> Result<Vec<Group<'_>>, Error> {
        self.3.iter().map(|part| part.0.view()).collect()
    }

    pub(super) fn parts<'g, 'a>(
        &self,
        program: &RawProgram,
        groups: &'g [Group<'a>],
    ) -> Result<Vec<Part<'g, 'a>>, Error> {
        let decide = |raw: &RawPart| {
            let decided = program.view(&raw.2)?;
            Ok(if raw.4 { decided.sum() } else { decided })
        };
        self.each(groups, decide)
    }

    /// The parts, with a program each.
    pub(super) fn each<'g, 'a>(
        &self,
        groups: &'g [Group<'a>],
        program: impl Fn(&RawPart) -> Result<Program, Error>,
    ) -> Result<Vec<Part<'g, 'a>>, Error> {
        let part = |(raw, group): (&RawPart, &'g Group<'a>)| {
            let (weights, row_start) = (raw.1.clone(), raw.3);
            Ok(Part { group, weights, program: program(raw)?, row_start })
        };
        self.3.iter().zip(groups).map(part).collect()
    }

    fn condense(
        &self,
        program: &RawProgram,
        rule: &Rule,
        dtype: Dtype,
        scratch: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<Written, Error> {
        let groups = self.groups()?;
        let parts = self.parts(program, &groups)?;
        let streams = (&right(self.2)?, &left(self.2)?);
        let done = calculate::condense(&parts, self.0, rule, dtype, streams, scratch, out)?;
        self.accounted(&parts, done, rule, dtype, out)
    }

    /// What Python gets to know of a dense result whose factors are in `out`.
    pub(super) fn accounted(
        &self,
        parts: &[Part<'_, '_>],
        Condensed { done, sketch }: Condensed,
        rule: &Rule,
        dtype: Dtype,
        out: &[u8],
    ) -> Result<Written, Error> {
        let whole = calculate::whole(parts, self.0)?;
        let account = account::of_written(&whole, (done.rank, rule.gain(done.rank)), dtype, out)?;
        Ok(written((done, account), sketch))
    }

    fn whole(
        &self,
        program: &RawProgram,
        dtype: Dtype,
        scratch: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<Written, Error> {
        let Self(rows, _, key, _) = self;
        let groups = self.groups()?;
        let parts = self.parts(program, &groups)?;
        let streams = (&right(*key)?, &left(*key)?);
        Ok(stored(whole::write(&parts, *rows, streams, dtype, scratch, out)?, self))
    }

    fn kept(&self, program: &RawProgram, space: Option<Space>) -> Result<Vec<Vec<f64>>, Error> {
        let groups = self.groups()?;
        let one = |part: &Part<'_, '_>| {
            if let Some(space) = space {
                return project::kept(part, space);
            }
            check_finite(part.group)?;
            let source = Factored::new(part.group, part.weights.clone())?;
            Prepared::new(&part.program, &source)?.gram()
        };
        self.parts(program, &groups)?.iter().map(one).collect()
    }
}

pub(super) fn stored(Whole { norm, account, sketch }: Whole, step: &RawStep) -> Written {
    let rank = step.0.min(step.1);
    let done = Recompressed { rank, norm, rounding: norm, relative_error: 0.0 };
    written((done, account), sketch)
}

/// Inner products of what a program keeps of the weighted members, for every part of every step.
#[pyfunction]
#[pyo3(signature = (steps, program, space, *, threads=None))]
pub(super) fn kept(
    py: Python<'_>,
    steps: Vec<RawStep>,
    program: RawProgram,
    space: String,
    threads: Option<usize>,
) -> PyResult<Vec<Vec<Vec<f64>>>> {
    enter(py, threads, || {
        let space = match space.as_str() {
            "weight" => None,
            other => Some(space_of(other).map_err(|e| (None, e))?),
        };
        all(steps.par_iter().map(|step| step.kept(&program, space)).collect())
    })
}

/// Sixty-four numbers for each group's delta, to compare with those of `condense`.
#[pyfunction]
#[pyo3(signature = (groups, keys, *, threads=None))]
pub(super) fn sketch(
    py: Python<'_>,
    groups: Vec<RawGroup>,
    keys: Vec<u64>,
    threads: Option<usize>,
) -> PyResult<Vec<Vec<f64>>> {
    enter(py, threads, || {
        let groups = views(&groups)?;
        let one =
            |(group, key): (&Group<'_>, &u64)| probe::sketch(group, &right(*key)?, &left(*key)?);
        all(groups.par_iter().zip(&keys).map(one).collect())
    })
}

pub(super) fn right(key: u64) -> Result<Stream, Error> {
    Stream::new(0, key, 0)
}

pub(super) fn left(key: u64) -> Result<Stream, Error> {
    Stream::new(0, key, 1)
}
