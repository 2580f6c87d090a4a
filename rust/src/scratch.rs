//! Memory that a thread uses again: a fresh buffer per tile would cost more in page faults than the
//! arithmetic on it.

use std::cell::Cell;
use std::thread::LocalKey;

thread_local! {
    static FLOATS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static WORDS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with `len` floats of unspecified value.  Nested calls get buffers of their own.
pub(crate) fn floats<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    lend(&FLOATS, len, work)
}

/// Calls `work` with `len` words of unspecified value.  Nested calls get buffers of their own.
pub(crate) fn words<T>(len: usize, work: impl FnOnce(&mut [u32]) -> T) -> T {
    lend(&WORDS, len, work)
}

fn lend<N: Copy + Default, T>(
    memory: &'static LocalKey<Cell<Vec<N>>>,
    len: usize,
    work: impl FnOnce(&mut [N]) -> T,
) -> T {
    let mut buffer = memory.take();
    if buffer.len() < len {
        buffer.resize(len, N::default());
    }
    let result = work(&mut buffer[..len]);
    memory.set(buffer);
    result
}
