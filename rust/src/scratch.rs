//! Memory that a thread uses again: a fresh buffer per tile would cost more in page faults than the
//! arithmetic on it.

use std::cell::Cell;

thread_local! {
    static FLOATS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls `work` with `len` floats of unspecified value.  Nested calls get buffers of their own.
pub(crate) fn floats<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut buffer = FLOATS.take();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = work(&mut buffer[..len]);
    FLOATS.set(buffer);
    result
}
