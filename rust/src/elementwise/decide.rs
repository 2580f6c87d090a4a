//! One look at a tile: what is surely kept is reduced to the result, what is not yet known is
//! collected.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise

use super::positions::{LANES, Lanes, Positions};
use super::select::Brackets;
use super::survey::{Survey, magnitude};
use crate::dispatch::{self, Kernel};

/// One position of this many is expected to be left open.
const OPEN: usize = 32;

/// Entries that are not below the high and the low bracket.
type Reached = [u32; 2];

/// Fills `out` from the entries of a tile, `out.len()` of each member in turn, the first at position
/// `start`.  What lies inside of a bracket counts as kept or not, and is in the survey.
pub(super) fn decide(
    rule: &Positions,
    brackets: &[Brackets],
    start: usize,
    values: &[f32],
    out: &mut [f32],
) -> Survey {
    let looks = if brackets.iter().all(Brackets::keeps_all) { &[] } else { brackets };
    let both = brackets.iter().any(|b| b.high.is_open());
    // With a number of members that the compiler knows it unrolls and vectorises; without one this
    // is four times slower per entry.
    macro_rules! run {
        ($($n:literal)+) => {
            match rule.count() {
                $($n => run!([[0.0; LANES]; $n], [[0; 2]; $n]),)+
                n => run!(vec![[0.0; LANES]; n], vec![[0; 2]; n]),
            }
        };
        ($entries:expr, $reached:expr) => {
            dispatch::run(Tile { rule, looks, both, start, values, out, room: ($entries, $reached) })
        };
    }
    run!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
}

struct Tile<'t, V, R> {
    rule: &'t Positions,
    /// Empty where everything is kept.
    looks: &'t [Brackets],
    /// Whether some bracket has a high edge.
    both: bool,
    start: usize,
    values: &'t [f32],
    out: &'t mut [f32],
    room: (V, R),
}

impl<V: AsMut<[Lanes]>, R: AsMut<[Reached]>> Kernel for Tile<'_, V, R> {
    type Output = Survey;

    #[inline(always)]
    fn run(self) -> Survey {
        let Self { rule, looks, both, start, values, out, mut room } = self;
        let (entries, reached) = (room.0.as_mut(), room.1.as_mut());
        let mut survey = Survey::new(entries.len());
        let len = out.len();
        if !looks.is_empty() {
            survey.reserve(len / OPEN);
        }
        for (index, out) in out.chunks_mut(LANES).enumerate() {
            let at = index * LANES;
            load(values, len, at, entries);
            if !looks.is_empty() {
                drop_surely(looks, both, entries, reached);
                let inside = inside(looks, both, entries);
                for lane in set(&inside).take_while(|lane| *lane < out.len()) {
                    survey.places.push(start + at + lane);
                    let member = |i| values[i * len + at + lane];
                    survey.values.extend((0..entries.len()).map(member));
                }
            }
            let result = rule.result(entries);
            if let Some(whole) = out.first_chunk_mut() {
                *whole = result;
            } else {
                out.copy_from_slice(&result[..out.len()]);
            }
        }
        for (sum, reached) in survey.reached.iter_mut().zip(reached) {
            // A bracket that reaches down to 0 has counted the zeros behind the last entry.
            *sum = reached.map(|n| (n as usize).min(len));
        }
        survey
    }
}

/// The entries from `at` on of members that are `len` long; zeros behind them.
#[inline(always)]
fn load(values: &[f32], len: usize, at: usize, entries: &mut [Lanes]) {
    for (i, entries) in entries.iter_mut().enumerate() {
        let values = &values[i * len + at..(i + 1) * len];
        if let Some(whole) = values.first_chunk() {
            *entries = *whole;
        } else {
            *entries = [0.0; LANES];
            entries[..values.len()].copy_from_slice(values);
        }
    }
}

/// Zeroes what is below the low bracket or above the high one; counts what is not below.
#[inline(always)]
fn drop_surely(brackets: &[Brackets], both: bool, entries: &mut [Lanes], reached: &mut [Reached]) {
    for ((bracket, entries), reached) in brackets.iter().zip(entries).zip(reached) {
        let (high, low, mut found) = (bracket.high, bracket.low.low, [0; 2]);
        for entry in entries {
            let bits = magnitude(*entry);
            let kept = (bits >= low) & !(both & (bits > high.high));
            found[0] += u32::from(both & (bits >= high.low));
            found[1] += u32::from(bits >= low);
            *entry = if kept { *entry } else { 0.0 };
        }
        *reached = [reached[0] + found[0], reached[1] + found[1]];
    }
}

/// 1 where some entry that was not dropped is inside of a bracket.
#[inline(always)]
fn inside(brackets: &[Brackets], both: bool, entries: &[Lanes]) -> [u8; LANES] {
    let brackets = &brackets[..entries.len()]; // as many as the compiler knows
    let mut inside = [0u8; LANES];
    for lane in 0..LANES {
        let mut any = false;
        for (bracket, entries) in brackets.iter().zip(entries) {
            let bits = magnitude(entries[lane]);
            any |= (bits >= bracket.low.low) & (bits <= bracket.low.high);
            any |= both & (bits >= bracket.high.low) & (bits <= bracket.high.high);
        }
        inside[lane] = u8::from(any);
    }
    inside
}

/// The lanes that are 1.
#[inline(always)]
fn set(flags: &[u8; LANES]) -> impl Iterator<Item = usize> {
    let eights = flags.as_chunks::<8>().0.iter().enumerate();
    eights.flat_map(|(index, eight)| {
        let mut rest = u64::from_le_bytes(*eight);
        std::iter::from_fn(move || {
            let at = (rest != 0).then(|| rest.trailing_zeros() as usize / 8)?;
            rest &= rest - 1; // flags are 0 or 1: one bit each
            Some(index * 8 + at)
        })
    })
}

/// Zeroes selfish entries of members that are `len` long.
pub(super) fn drop_selfish(rule: &Positions, values: &mut [f32], len: usize) {
    dispatch::run(TakeOut { rule, values, len });
}

struct TakeOut<'t> {
    rule: &'t Positions,
    values: &'t mut [f32],
    len: usize,
}

impl Kernel for TakeOut<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { rule, values, len } = self;
        let mut entries = vec![[0.0; LANES]; rule.count()];
        for at in (0..len).step_by(LANES) {
            load(values, len, at, &mut entries);
            rule.take_out(&mut entries, &mut [0.0; LANES]);
            for (i, entries) in entries.iter().enumerate() {
                let values = &mut values[i * len + at..(i + 1) * len];
                values.iter_mut().zip(entries).for_each(|(value, entry)| *value = *entry);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dispatch::{Isa, run_on};
    use crate::dtype::{Dtype, Matrix};
    use crate::elementwise::select::brackets;
    use crate::elementwise::{Ballot, Dense, Keep, Program, Reduce, Selfish, Vote};

    const SIDE: usize = 37;

    /// Bits of a result, positions left open, counts.
    type Seen = (Vec<u32>, Vec<usize>, Vec<[usize; 2]>);

    fn run<V: AsMut<[Lanes]>, R: AsMut<[Reached]>>(
        isa: Isa,
        rule: &Positions,
        looks: &[Brackets],
        values: &[f32],
        room: (V, R),
    ) -> Option<Seen> {
        let mut out = vec![0f32; SIDE * SIDE];
        let both = looks.iter().any(|b| b.high.is_open());
        let tile = Tile { rule, looks, both, start: 5, values, out: &mut out, room };
        let survey = run_on(isa, tile)?;
        Some((out.iter().map(|v| v.to_bits()).collect(), survey.places, survey.reached))
    }

    #[test]
    fn every_room_and_instruction_set_gives_the_same_bits() {
        const N: usize = 5;
        let small = |x: usize| ((x * x * 37) % 101) as f32 - 50.0;
        let values: Vec<f32> = (0..N * SIDE * SIDE).map(small).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let views = bytes.chunks_exact(4 * SIDE * SIDE);
        let views = views.map(|b| Matrix::new(Dtype::F32, SIDE, SIDE, b).unwrap()).collect();
        let source = Dense::new(views, vec![1.0, -0.5, 2.0, 0.25, 1.0]).unwrap();
        let selfish = Selfish { lambda: 2.0, published: false, level: true };
        for (vote, ballot, reduce, selfish) in [
            (Vote::None, Ballot::Weighted, Reduce::Average, None),
            (Vote::Mass, Ballot::Weighted, Reduce::Mean, Some(selfish)),
            (Vote::Count, Ballot::Plain, Reduce::SignedShare, None),
            (Vote::CountOrPositive, Ballot::Signed, Reduce::Importance, None),
        ] {
            for keep in [Keep::All, Keep::Largest { density: 0.4, skip: 0.1 }] {
                let mix = (0..N * N).map(|x| small(x + 3) as f64).collect();
                let program =
                    Program { keep, selfish, mix, ballot, vote, reduce, ..Program::default() };
                let rule = Positions::new(&program, &source);
                let looks: Vec<_> =
                    (0..N).map(|i| brackets(&source, i, keep, 1.0).unwrap()).collect();
                let room = (vec![[0.0; LANES]; N], vec![[0; 2]; N]);
                let expected = run(Isa::Baseline, &rule, &looks, &values, room).unwrap();
                for isa in Isa::ALL {
                    let room = ([[0.0; LANES]; N], [[0; 2]; N]);
                    if let Some(found) = run(isa, &rule, &looks, &values, room) {
                        assert_eq!(found, expected, "{isa:?} {vote:?} {keep:?}");
                    }
                }
            }
        }
    }
}
