//! One look at a tile: what is surely kept is reduced to the result, what is not yet known is
//! collected.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use super::positions::{LANES, Positions};
use super::select::Brackets;
use super::staged::Staged;
use super::survey::{PIECE, Survey};
use super::together::{MOST, Place, Seen, together};
use crate::dispatch::{self, Kernel};

/// One position of this many is expected to be left open.
const OPEN: usize = 32;

/// Fills `out` from the entries of a tile, `out.len()` of each member in turn, the first at position
/// `start`.  What lies inside of a bracket counts as kept or not, and is in the survey.
pub(super) fn decide(
    rule: &Positions,
    brackets: &[Brackets],
    start: usize,
    values: &[f32],
    out: &mut [f32],
) -> Survey {
    let together = rule.is_plain() && rule.count() <= MOST;
    dispatch::run(Tile { rule, together, brackets, start, values, out })
}

struct Tile<'t> {
    rule: &'t Positions,
    /// Whether all of a position is done in one loop.
    together: bool,
    /// None where everything is kept, too.
    brackets: &'t [Brackets],
    start: usize,
    values: &'t [f32],
    out: &'t mut [f32],
}

impl Kernel for Tile<'_> {
    type Output = Survey;

    #[inline(always)]
    fn run(self) -> Survey {
        let Self { rule, together: at_once, brackets, start, values, out } = self;
        let (count, len) = (rule.count(), out.len());
        let mut survey = Survey::new(count);
        let edges = if brackets.iter().all(Brackets::keeps_all) {
            0
        } else {
            1 + usize::from(brackets.iter().any(|b| b.high.is_open()))
        };
        if edges > 0 {
            survey.reserve(len / OPEN);
        }
        let mut staged = Staged::new(if edges == 0 { &[] } else { brackets }, edges);
        let (mut inside, mut lanes) = ([0u8; PIECE], [0u32; PIECE]);
        for (index, out) in out.chunks_mut(PIECE).enumerate() {
            let place = Place { values, len, at: index * PIECE };
            let inside = &mut inside[..out.len()];
            let seen = Seen { out: &mut *out, inside, reached: &mut survey.reached };
            match edges {
                0 if at_once => together::<0>(rule, brackets, place, seen),
                1 if at_once => together::<1>(rule, brackets, place, seen),
                _ if at_once => together::<2>(rule, brackets, place, seen),
                _ => staged.fill(rule, place, seen),
            }
            if edges > 0 {
                let open = survey.collect(start, place, inside, &mut lanes);
                for lane in open {
                    out[*lane as usize] = 0.0;
                }
            }
        }
        staged.add_to(&mut survey.reached, len);
        survey
    }
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
            let own = at..len.min(at + LANES);
            for (entries, values) in entries.iter_mut().zip(values.chunks_exact(len)) {
                entries[..own.len()].copy_from_slice(&values[own.clone()]);
            }
            rule.take_out(&mut entries, &mut [0.0; LANES]);
            for (entries, values) in entries.iter().zip(values.chunks_exact_mut(len)) {
                values[own.clone()].copy_from_slice(&entries[..own.len()]);
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

    /// Bits of a result, positions left open, counts, entries at these positions.
    type Looked = (Vec<u32>, Vec<usize>, Vec<[usize; 2]>, Vec<Vec<f32>>);

    fn run(
        isa: Isa,
        rule: &Positions,
        together: bool,
        brackets: &[Brackets],
        values: &[f32],
    ) -> Option<Looked> {
        let mut out = vec![0f32; SIDE * SIDE];
        let tile = Tile { rule, together, brackets, start: 5, values, out: &mut out };
        let survey = run_on(isa, tile)?;
        Some((
            out.iter().map(|v| v.to_bits()).collect(),
            survey.places,
            survey.reached,
            survey.values,
        ))
    }

    fn small(x: usize) -> f32 {
        ((x * x * 37) % 101) as f32 - 50.0
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count * SIDE * SIDE).flat_map(|x| small(x).to_le_bytes()).collect()
    }

    fn source(bytes: &[u8], weights: Vec<f64>) -> Dense<'_> {
        let views = bytes.chunks_exact(4 * SIDE * SIDE);
        let views = views.map(|b| Matrix::new(Dtype::F32, SIDE, SIDE, b).unwrap()).collect();
        Dense::new(views, weights).unwrap()
    }

    #[test]
    fn together_and_stage_by_stage_give_the_same_bits() {
        let cases = [
            (Vote::None, Ballot::Weighted, Reduce::Average),
            (Vote::Mass, Ballot::Weighted, Reduce::Mean),
            (Vote::Mass, Ballot::Plain, Reduce::SignedShare),
            (Vote::MassOrPositive, Ballot::Signed, Reduce::Count),
        ];
        let [none, low, both] = [
            Keep::All,
            Keep::Largest { density: 0.4, skip: 0.0 },
            Keep::Largest { density: 0.4, skip: 0.1 },
        ];
        for count in 1..=MOST {
            let bytes = bytes(count);
            let weights = (0..count).map(|i| if i == 1 { -0.5 } else { 1.0 + i as f64 }).collect();
            let source = source(&bytes, weights);
            let values: Vec<f32> = (0..count * SIDE * SIDE).map(small).collect();
            for ((vote, ballot, reduce), keep) in
                cases.iter().flat_map(|case| [none, low, both].map(|keep| (*case, keep)))
            {
                let program = Program { keep, ballot, vote, reduce, ..Program::default() };
                let rule = Positions::new(&program, &source);
                assert!(rule.is_plain());
                let looks: Vec<_> =
                    (0..count).map(|i| brackets(&source, i, keep, 1.0).unwrap()).collect();
                let expected = run(Isa::Baseline, &rule, false, &looks, &values).unwrap();
                for isa in Isa::ALL {
                    if let Some(found) = run(isa, &rule, true, &looks, &values) {
                        assert_eq!(found, expected, "{isa:?} {vote:?} {keep:?} {count}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        const N: usize = 5;
        let bytes = bytes(N);
        let values: Vec<f32> = (0..N * SIDE * SIDE).map(small).collect();
        let source = source(&bytes, vec![1.0, -0.5, 2.0, 0.25, 1.0]);
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
                let expected = run(Isa::Baseline, &rule, false, &looks, &values).unwrap();
                for isa in Isa::ALL {
                    if let Some(found) = run(isa, &rule, false, &looks, &values) {
                        assert_eq!(found, expected, "{isa:?} {vote:?} {keep:?}");
                    }
                }
            }
        }
    }
}
