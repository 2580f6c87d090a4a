//! All that happens at a position in one loop, for a few members and the programs that need no
//! more than a vote: values stay in registers from the first comparison to the result.
//!
//! The bits are those of [`super::positions`], which can do the rest.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise
#![allow(clippy::needless_range_loop)] // one index for all members

use super::positions::{Positions, SIGN};
use super::select::Brackets;
use super::survey::magnitude;

/// Members that the compiler is told of: with more, their numbers leave the registers.
pub(super) const MOST: usize = 8;

/// Some positions of members that are `len` entries long, from `at` on.
#[derive(Clone, Copy)]
pub(super) struct Place<'v> {
    pub(super) values: &'v [f32],
    pub(super) len: usize,
    pub(super) at: usize,
}

/// What a look at some positions gives.
pub(super) struct Seen<'v> {
    /// The result.
    pub(super) out: &'v mut [f32],
    /// 1 where some entry is inside of a bracket.
    pub(super) inside: &'v mut [u8],
    /// For every member, entries that are not below the high and the low bracket.
    pub(super) reached: &'v mut [[usize; 2]],
}

/// Fills `seen`; `EDGES` of every bracket count: none, the low one, both.
///
/// The rule must be one that [`Positions::is_plain`], of at most [`MOST`] members.
#[inline(always)]
pub(super) fn together<const EDGES: usize>(
    rule: &Positions,
    brackets: &[Brackets],
    place: Place<'_>,
    seen: Seen<'_>,
) {
    match rule.count() {
        1 => of::<1, EDGES>(rule, brackets, place, seen),
        2 => of::<2, EDGES>(rule, brackets, place, seen),
        3 => of::<3, EDGES>(rule, brackets, place, seen),
        4 => of::<4, EDGES>(rule, brackets, place, seen),
        5 => of::<5, EDGES>(rule, brackets, place, seen),
        6 => of::<6, EDGES>(rule, brackets, place, seen),
        7 => of::<7, EDGES>(rule, brackets, place, seen),
        _ => of::<MOST, EDGES>(rule, brackets, place, seen),
    }
}

#[inline(always)]
fn of<const C: usize, const EDGES: usize>(
    rule: &Positions,
    brackets: &[Brackets],
    place: Place<'_>,
    seen: Seen<'_>,
) {
    let Seen { out, inside, reached } = seen;
    let len = out.len();
    let inside = &mut inside[..len];
    let of_member = |i: usize| &place.values[i * place.len + place.at..][..len];
    let values: [&[f32]; C] = std::array::from_fn(of_member);
    let high: [_; C] = edges::<C, EDGES>(2, brackets, |b| (b.high.low, b.high.high));
    let low: [_; C] = edges::<C, EDGES>(1, brackets, |b| (b.low.low, b.low.high));
    let (ballots, shares) = (numbers::<_, C>(&rule.ballots), numbers::<_, C>(&rule.shares));
    let flips = numbers::<_, C>(&rule.flips);
    let (seen, draw, plain, top) = (rule.seen(), rule.draw(), rule.plain, rule.top);
    let mut counts = [[0u32; 2]; C];
    for at in 0..len {
        let (mut mass, mut any, mut kept) = (0f32, false, [0f32; C]);
        for i in 0..C {
            let value = values[i][at];
            let bits = magnitude(value);
            let mut keeps = true;
            if EDGES > 0 {
                keeps = bits >= low[i].0;
                any |= keeps & (bits <= low[i].1);
                counts[i][1] += u32::from(keeps);
            }
            if EDGES > 1 {
                let above = bits >= high[i].0;
                any |= above & (bits <= high[i].1);
                counts[i][0] += u32::from(above);
                keeps &= bits <= high[i].1;
            }
            kept[i] = if keeps { value } else { 0.0 };
            mass += kept[i] * ballots[i];
        }
        if EDGES > 0 {
            inside[at] = u8::from(any);
        }
        let winner = if mass == 0.0 { draw } else { mass };
        let turn = winner.to_bits() & SIGN;
        let (mut total, mut share) = (0f32, 0f32);
        for i in 0..C {
            let counts = ((kept[i].to_bits() ^ flips[i] ^ turn) & seen).cast_signed() > 0;
            total = if counts { total + kept[i] } else { total };
            share = if counts { share + shares[i] } else { share };
        }
        let gain = if share == 0.0 { plain } else { top / share };
        out[at] = if winner == 0.0 { 0.0 } else { total * gain };
    }
    for (reached, counts) in reached.iter_mut().zip(counts) {
        *reached = [reached[0] + counts[0] as usize, reached[1] + counts[1] as usize];
    }
}

/// Bits of all lower and upper ends of brackets, if so many edges count.
#[inline(always)]
fn edges<const C: usize, const EDGES: usize>(
    least: usize,
    brackets: &[Brackets],
    ends: impl Fn(&Brackets) -> (u32, u32),
) -> [(u32, u32); C] {
    std::array::from_fn(|i| if EDGES < least { (0, 0) } else { ends(&brackets[i]) })
}

#[inline(always)]
fn numbers<T: Copy, const C: usize>(all: &[T]) -> [T; C] {
    *all.first_chunk().expect("one for each member")
}
