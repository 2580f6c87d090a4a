//! Sums over the entries of two deltas.
//!
//! All sums of all pairs are made while a tile of all members is in cache: f32 in sixteen lanes over
//! runs of 1024 entries, f64 across runs.  Where neither member has a zero, which is nearly
//! everywhere, every position counts and nothing needs to be masked.
//!
//! Cost: about ten vector operations per sixteen entries of a pair, four more where there are zeros,
//! two per member.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use crate::dispatch::{self, Kernel};

/// Lanes of a sum, and entries that are summed in f32.
const LANES: usize = 16;
const RUN: usize = 64 * LANES;

const SIGN: u32 = 1 << 31;
pub(super) const MAGNITUDE: u32 = !SIGN;

/// Sums over positions where both entries are non-zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    /// Number of positions, and of those where signs differ.
    pub(super) positions: u64,
    pub(super) conflicts: u64,
    /// `a b`, `a^2`, `b^2`, `|a b|`.
    pub(super) dot: f64,
    pub(super) first2: f64,
    pub(super) second2: f64,
    pub(super) product: f64,
    /// `min(|a|, |b|)`, and the same with the sign of `a b`.
    pub(super) total: f64,
    pub(super) signed: f64,
    /// The same where both are above the floor.
    pub(super) floor_total: f64,
    pub(super) floor_signed: f64,
}

impl Sums {
    #[inline(always)]
    pub(super) fn add(&mut self, other: &Self) {
        self.positions += other.positions;
        self.conflicts += other.conflicts;
        self.dot += other.dot;
        self.first2 += other.first2;
        self.second2 += other.second2;
        self.product += other.product;
        self.total += other.total;
        self.signed += other.signed;
        self.floor_total += other.floor_total;
        self.floor_signed += other.floor_signed;
    }
}

/// Pairs of `n` members: (0, 1), (0, 2), ..., (1, 2), ...
#[inline(always)]
pub(super) fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

/// Adds the sums of every pair over a tile.
///
/// `members` are the entries of each at the same positions; `floors` and `sums` have one item for
/// each pair.
pub(super) fn add(members: &[&[f32]], floors: &[f32], sums: &mut [Sums]) {
    let mut own = vec![Own::default(); members.len()];
    dispatch::run(Tile { members, floors, own: &mut own, sums });
}

/// Sum of squares.
pub(super) fn square(values: &[f32]) -> f64 {
    dispatch::run(Square { values })
}

struct Square<'v> {
    values: &'v [f32],
}

impl Kernel for Square<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        self.values.chunks(RUN).map(|run| Own::of(run).square).sum()
    }
}

struct Tile<'v> {
    members: &'v [&'v [f32]],
    floors: &'v [f32],
    own: &'v mut [Own],
    sums: &'v mut [Sums],
}

impl Kernel for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let len = self.members.first().map_or(0, |m| m.len());
        let mut start = 0;
        while start < len {
            let end = len.min(start + RUN);
            for (own, member) in self.own.iter_mut().zip(self.members) {
                *own = Own::of(&member[start..end]);
            }
            let each = pairs(self.members.len()).zip(self.floors).zip(self.sums.iter_mut());
            for (((i, j), floor), sums) in each {
                let (a, b) = (&self.members[i][start..end], &self.members[j][start..end]);
                if self.own[i].holes || self.own[j].holes {
                    sums.add(&masked(a, b, *floor));
                } else {
                    let mut found = full(a, b, *floor);
                    found.first2 = self.own[i].square;
                    found.second2 = self.own[j].square;
                    sums.add(&found);
                }
            }
            start = end;
        }
    }
}

/// What is known of one member in a run.
#[derive(Clone, Copy, Default)]
struct Own {
    square: f64,
    /// Whether there is a zero.
    holes: bool,
}

impl Own {
    #[inline(always)]
    fn of(values: &[f32]) -> Self {
        let mut squares = [0f32; LANES];
        let mut holes = [0u32; LANES];
        let mut add = |block: &[f32; LANES]| {
            for k in 0..LANES {
                squares[k] += block[k] * block[k];
                holes[k] |= u32::from(block[k] == 0.0);
            }
        };
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            add(block);
        }
        squares.iter_mut().zip(rest).for_each(|(s, v)| *s += v * v);
        let hole = rest.contains(&0.0) || holes.contains(&1);
        Self { square: fold(squares), holes: hole }
    }
}

/// Sums of a run without zeros, squares left out.
#[inline(always)]
fn full(a: &[f32], b: &[f32], floor: f32) -> Sums {
    let mut lanes = Lanes::default();
    blocks(a, b, |a, b| lanes.add(a, b, floor));
    Sums { positions: a.len() as u64, ..lanes.sums() }
}

/// Sums of any run.
#[inline(always)]
fn masked(a: &[f32], b: &[f32], floor: f32) -> Sums {
    let mut lanes = Lanes::default();
    let (mut positions, mut agree) = ([0u32; LANES], [0u32; LANES]);
    let (mut first2, mut second2) = ([0f32; LANES], [0f32; LANES]);
    blocks(a, b, |a, b| {
        lanes.add(a, b, floor);
        for k in 0..LANES {
            let both = a[k] != 0.0 && b[k] != 0.0;
            positions[k] += u32::from(both);
            agree[k] += u32::from(both && (a[k].to_bits() ^ b[k].to_bits()) & SIGN == 0);
            first2[k] += if both { a[k] * a[k] } else { 0.0 };
            second2[k] += if both { b[k] * b[k] } else { 0.0 };
        }
    });
    let (positions, agree) = (count(positions), count(agree));
    Sums {
        positions,
        conflicts: positions - agree, // a zero has a sign, too
        first2: fold(first2),
        second2: fold(second2),
        ..lanes.sums()
    }
}

/// Calls `each` with blocks of both, the last one filled up with zeros, which add nothing.
#[inline(always)]
fn blocks(a: &[f32], b: &[f32], mut each: impl FnMut(&[f32; LANES], &[f32; LANES])) {
    let ((a, x), (b, y)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        each(a, b);
    }
    if !x.is_empty() {
        let (mut a, mut b) = ([0f32; LANES], [0f32; LANES]);
        a[..x.len()].copy_from_slice(x);
        b[..y.len()].copy_from_slice(y);
        each(&a, &b);
    }
}

#[derive(Default)]
struct Lanes {
    conflicts: [u32; LANES],
    dot: [f32; LANES],
    product: [f32; LANES],
    total: [f32; LANES],
    signed: [f32; LANES],
    floor_total: [f32; LANES],
    floor_signed: [f32; LANES],
}

impl Lanes {
    /// Adds sixteen positions; zeros add nothing but to `conflicts`.
    #[inline(always)]
    fn add(&mut self, a: &[f32; LANES], b: &[f32; LANES], floor: f32) {
        for k in 0..LANES {
            let (x, y) = (a[k].to_bits(), b[k].to_bits());
            let sign = (x ^ y) & SIGN;
            // Bits of magnitudes have the order of the numbers.
            let small = (x & MAGNITUDE).min(y & MAGNITUDE);
            let (size, signed) = (f32::from_bits(small), f32::from_bits(small | sign));
            let product = a[k] * b[k];
            let above = size > floor;
            self.conflicts[k] += sign >> 31;
            self.dot[k] += product;
            self.product[k] += f32::from_bits(product.to_bits() & MAGNITUDE);
            self.total[k] += size;
            self.signed[k] += signed;
            self.floor_total[k] += if above { size } else { 0.0 };
            self.floor_signed[k] += if above { signed } else { 0.0 };
        }
    }

    #[inline(always)]
    fn sums(&self) -> Sums {
        Sums {
            conflicts: count(self.conflicts),
            dot: fold(self.dot),
            product: fold(self.product),
            total: fold(self.total),
            signed: fold(self.signed),
            floor_total: fold(self.floor_total),
            floor_signed: fold(self.floor_signed),
            ..Sums::default()
        }
    }
}

#[inline(always)]
fn fold(lanes: [f32; LANES]) -> f64 {
    lanes.iter().map(|l| f64::from(*l)).sum()
}

#[inline(always)]
fn count(lanes: [u32; LANES]) -> u64 {
    lanes.iter().map(|l| u64::from(*l)).sum()
}

#[cfg(test)]
mod tests {
    use super::{LANES, Own, RUN, Sums, Tile, pairs};
    use crate::dispatch::{Isa, run_on};

    const FLOOR: f32 = 1.5;

    /// Small whole numbers, zeros of both signs among them: all sums are exact.
    fn member(len: usize, seed: usize) -> Vec<f32> {
        let value = |x: usize| ((x * x * 31 + x * seed) % 11) as f32 - 5.0;
        (0..len).map(|x| if value(x) == 0.0 && x % 2 == 0 { -0.0 } else { value(x) }).collect()
    }

    fn expected(a: &[f32], b: &[f32]) -> Sums {
        let mut sums = Sums::default();
        for (a, b) in a.iter().zip(b).filter(|(a, b)| **a != 0.0 && **b != 0.0) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            let small = a.abs().min(b.abs());
            sums.positions += 1;
            sums.conflicts += u64::from(a * b < 0.0);
            sums.dot += a * b;
            sums.first2 += a * a;
            sums.second2 += b * b;
            sums.product += (a * b).abs();
            sums.total += small;
            sums.signed += small * (a * b).signum();
            if small > f64::from(FLOOR) {
                sums.floor_total += small;
                sums.floor_signed += small * (a * b).signum();
            }
        }
        sums
    }

    #[test]
    fn every_instruction_set_sums_all_pairs_of_any_length() {
        for len in [0, 1, LANES - 1, LANES, LANES + 1, RUN - 1, RUN, 3 * RUN + 5] {
            let mut members: Vec<_> = (1..4).map(|seed| member(len, seed)).collect();
            members[1].iter_mut().for_each(|v| *v += 0.5); // no zeros here
            members.push(members[1].iter().map(|v| -v).collect());
            let views: Vec<&[f32]> = members.iter().map(Vec::as_slice).collect();
            let met: Vec<_> = pairs(views.len()).collect();
            let right: Vec<_> = met.iter().map(|(i, j)| expected(views[*i], views[*j])).collect();
            let floors = vec![FLOOR; met.len()];
            for isa in Isa::ALL.into_iter().filter(|isa| isa.supported()) {
                let mut sums = vec![Sums::default(); met.len()];
                let mut own = vec![Own::default(); views.len()];
                let tile =
                    Tile { members: &views, floors: &floors, own: &mut own, sums: &mut sums };
                run_on(isa, tile);
                assert_eq!(sums, right, "{isa:?} {len}");
            }
        }
    }
}
