//! Which delta an entry belongs to: the rule of [`Selfish`], over blocks that stay in registers or L1.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it
#![allow(clippy::needless_bitwise_bool)] // selects, not branches: the loops vectorise

use super::program::Selfish;

/// In place of a member where no entry is selfish.
const NOBODY: u32 = u32::MAX;

/// The member whose entry is selfish, for each of up to `N` positions.
pub(super) struct Owners<const N: usize>([u32; N]);

impl<const N: usize> Owners<N> {
    /// Decides; `member` gives each member's entries of the same positions.
    #[inline(always)]
    pub(super) fn new<'v>(
        rule: Selfish,
        count: usize,
        member: impl Fn(usize) -> &'v [f32],
    ) -> Self {
        let members = (0..count).map(|i| (i as u32, member(i)));
        if rule.published {
            Self::far_from_the_rest(rule.lambda as f32, members)
        } else {
            Self::far_from_the_second(rule.lambda as f32, members)
        }
    }

    /// The largest, where it is at least `lambda` times, and more than, the second.
    #[inline(always)]
    fn far_from_the_second<'v>(
        lambda: f32,
        members: impl Iterator<Item = (u32, &'v [f32])>,
    ) -> Self {
        let (mut owner, mut first, mut second) = ([NOBODY; N], [0f32; N], [0f32; N]);
        for (i, values) in members {
            let places = owner.iter_mut().zip(&mut first).zip(&mut second).zip(values);
            for (((owner, first), second), value) in places {
                let size = value.abs();
                *owner = if size > *first { i } else { *owner };
                *second = second.max(first.min(size));
                *first = first.max(size);
            }
        }
        for ((owner, first), second) in owner.iter_mut().zip(&first).zip(&second) {
            let apart = (first > second) & (*first >= lambda * second);
            *owner = if apart { *owner } else { NOBODY };
        }
        Self(owner)
    }

    /// The only one that is at least `lambda` times as large as the sum of the others.
    #[inline(always)]
    fn far_from_the_rest<'v>(
        lambda: f32,
        members: impl Iterator<Item = (u32, &'v [f32])> + Clone,
    ) -> Self {
        let (mut owner, mut heads, mut total) = ([NOBODY; N], [0u32; N], [0f32; N]);
        for (_, values) in members.clone() {
            total.iter_mut().zip(values).for_each(|(total, value)| *total += value);
        }
        for (i, values) in members {
            let places = owner.iter_mut().zip(&mut heads).zip(&total).zip(values);
            for (((owner, heads), total), value) in places {
                let large = value.abs() >= lambda * (total - value).abs();
                *owner = if large { i } else { *owner };
                *heads += u32::from(large);
            }
        }
        for (owner, heads) in owner.iter_mut().zip(&heads) {
            *owner = if *heads == 1 { *owner } else { NOBODY };
        }
        Self(owner)
    }

    /// Whether the entry of a member is selfish, position by position.
    #[inline(always)]
    pub(super) fn owned(&self, member: usize) -> impl Iterator<Item = bool> {
        self.0.iter().map(move |owner| *owner == member as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::Owners;
    use crate::dispatch::{Isa, Kernel, run_on};
    use crate::elementwise::Selfish;

    const WIDTH: usize = 64;

    struct Decide<'v>(Selfish, &'v [f32]);

    impl Kernel for Decide<'_> {
        type Output = Vec<bool>;

        #[inline(always)]
        fn run(self) -> Vec<bool> {
            let count = self.1.len() / WIDTH;
            let owners = Owners::<WIDTH>::new(self.0, count, |i| &self.1[i * WIDTH..][..WIDTH]);
            (0..count).flat_map(|i| owners.owned(i)).collect()
        }
    }

    #[test]
    fn every_instruction_set_decides_as_the_definitions_say() {
        let small = |x: usize| ((x * x * 37) % 23) as f32 - 11.0;
        for (count, lambda) in [(1, 1.0), (2, 1.0), (3, 2.0), (5, 1.5)] {
            let values: Vec<f32> = (0..count * WIDTH).map(small).collect();
            let at = |i: usize, place: usize| values[i * WIDTH + place];
            let others = |i: usize| (0..count).filter(move |j| *j != i);
            let second = |i: usize, place: usize| {
                let size = at(i, place).abs();
                let beats = |other: f32| size > other && size >= lambda * other;
                size > 0.0 && others(i).all(|j| beats(at(j, place).abs()))
            };
            let large = |i: usize, place: usize| {
                let rest: f32 = others(i).map(|j| at(j, place)).sum();
                at(i, place).abs() >= lambda * rest.abs()
            };
            let rest =
                |i: usize, place: usize| large(i, place) && !others(i).any(|j| large(j, place));
            for published in [false, true] {
                let rule = Selfish { lambda: f64::from(lambda), published, level: false };
                let owned = |i, place| if published { rest(i, place) } else { second(i, place) };
                let expected: Vec<bool> = (0..count)
                    .flat_map(|i| (0..WIDTH).map(move |place| (i, place)))
                    .map(|(i, place)| owned(i, place))
                    .collect();
                assert!(expected.contains(&true) && (count == 1 || expected.contains(&false)));
                for isa in Isa::ALL {
                    if let Some(found) = run_on(isa, Decide(rule, &values)) {
                        assert_eq!(found, expected, "{isa:?}, {rule:?}");
                    }
                }
            }
        }
    }
}
