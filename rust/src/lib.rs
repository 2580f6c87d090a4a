//! Kernels of loramix: factor-space algebra of low-rank adapters.
//!
//! A *member* is one adapter's delta `scale * up @ down` of one target, given as borrowed bytes.
//! Everything here works on members and fills buffers of the caller; nothing allocates a dense
//! `rows x cols` delta unless its name is `expand`.  Results do not depend on the number of
//! threads: sums run over fixed blocks in a fixed order.

pub mod dispatch;
pub mod dtype;
pub mod error;
pub mod header;
pub mod rng;

pub use error::{Error, Result};
