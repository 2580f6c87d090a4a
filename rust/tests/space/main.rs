//! Accounts, mixed stacks, shared bases and programs in them, against dense arithmetic in f64.
//!
//! Proves that accounts are inner products of dense deltas; that mixed stacks are recompressed to
//! what they mean, in any gauge; that bases are orthonormal eigenvectors and rebuild every member,
//! also where members repeat, vanish or are wider than the target; that TIES in both spaces is that
//! of a plain implementation; that bits do not depend on threads; that bad input is refused.
#![allow(clippy::unwrap_used)]

mod accounts;
mod bases;
mod dense;
mod mixing;
mod programs;
mod support;
mod ties;
