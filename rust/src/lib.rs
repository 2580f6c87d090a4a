//! Kernels of loramix: factor-space algebra of low-rank adapters.
//!
//! A *member* is one adapter's delta `factor * up @ down` of one target, given as borrowed bytes;
//! a *group* is the members of one target.  Everything here works on groups and fills buffers of
//! the caller; nothing forms a dense `rows x cols` delta unless it is called `expand`.  Results do
//! not depend on the number of threads: sums run over fixed blocks in a fixed order.

pub mod account;
pub mod bake;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_variables))]
mod bf16;
mod cholesky;
pub mod condense;
pub mod dense;
pub mod dispatch;
pub mod dtype;
pub mod elementwise;
pub mod error;
pub mod expand;
pub mod extract;
pub mod gram;
pub mod group;
pub mod header;
mod panels;
mod passes;
pub mod probe;
pub mod project;
#[cfg(feature = "python")]
mod py;
pub mod recompress;
pub mod rng;
mod scratch;
mod shrink;
mod sink;
pub mod space;
mod spectrum;
mod split;
mod stack;
mod start;
pub mod statistics;
mod tile;
pub mod whole;

pub use error::{Error, Result};
