//! Elementwise programs and their low-rank factors against naive arithmetic.
//!
//! Proves that selection keeps exactly what a sort keeps, also where magnitudes are equal; that
//! dense and factored sources agree; that the error `condense` reports is the error of what it
//! wrote; and that parts that do not fit are refused, not panicked over.
#![allow(clippy::unwrap_used)]
#![allow(clippy::float_cmp)] // what is kept is kept bit for bit

mod condense;
mod programs;
mod refusals;
mod selection;
mod support;
