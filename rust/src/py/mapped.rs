//! Pages of mapped files, brought in before they are read.
#![allow(unsafe_code)]

/// Maps the pages that bytes lie in, all at once where the system can do that (Linux).
///
/// Page by page as they are touched takes several times as long. Bytes that are no part of a mapped
/// file lose nothing by it.
pub(super) fn foresee(bytes: &[u8]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 1 << 12;
        const POPULATE_READ: std::ffi::c_int = 22;
        unsafe extern "C" {
            fn madvise(
                start: *mut std::ffi::c_void,
                length: usize,
                advice: std::ffi::c_int,
            ) -> std::ffi::c_int;
        }
        let start = bytes.as_ptr().addr() & !(PAGE - 1);
        let length = bytes.as_ptr().addr() + bytes.len() - start;
        // SAFETY: it changes nothing in memory; where it cannot be done it does nothing.
        unsafe { madvise(start as *mut _, length, POPULATE_READ) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}
