//! Loops over members in which the compiler knows how many there are.
//!
//! What belongs to a position should stay in registers while its members are gone through.  That
//! takes an inner loop over members that is unrolled, inside of a loop over positions that
//! vectorises.  So members come in fours and a rest: sums are carried from chunk to chunk, and
//! every member costs the same, however many there are.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

/// Calls `function::<C>(from, ...)` for members `from..from + C` until all `count` had their turn.
macro_rules! in_chunks {
    ($count:expr, $function:ident($($argument:expr),*)) => {{
        let (count, mut from) = ($count, 0);
        while from < count {
            let size = usize::min(count - from, 4);
            match size {
                1 => $function::<1>(from, $($argument),*),
                2 => $function::<2>(from, $($argument),*),
                3 => $function::<3>(from, $($argument),*),
                _ => $function::<4>(from, $($argument),*),
            }
            from += size;
        }
    }};
}
pub(super) use in_chunks;

/// Those of members `from..from + C`.
#[inline(always)]
pub(super) fn chunk<T, const C: usize>(all: &[T], from: usize) -> &[T; C] {
    all[from..].first_chunk().expect("as many as there are members")
}

/// The same, to be changed.
#[inline(always)]
pub(super) fn chunk_mut<T, const C: usize>(all: &mut [T], from: usize) -> &mut [T; C] {
    all[from..].first_chunk_mut().expect("as many as there are members")
}
