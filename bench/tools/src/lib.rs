//! What the benchmark's load and upstream share: bytes that both know, so that a body can be checked.

use std::sync::LazyLock;

/// Length of [`PATTERN`], bytes.
pub const PERIOD: usize = 1 << 20;

/// Every large body is this, over and over.
pub static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_u32;
    (0..PERIOD)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
});

/// Says whether `bytes` are what stands in the pattern from `offset` on.
pub fn is_pattern(mut bytes: &[u8], mut offset: u64) -> bool {
    while !bytes.is_empty() {
        let from = (offset % PERIOD as u64) as usize;
        let piece = bytes.len().min(PERIOD - from);
        if bytes[..piece] != PATTERN[from..from + piece] {
            return false;
        }
        bytes = &bytes[piece..];
        offset += piece as u64;
    }
    true
}

/// Finds the end of an HTTP/1 head; returns the offset of what comes after it.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    // A head ends in few places only, so that looking for the last of four bytes first is quick.
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == b'\r') {
        let at = from + at;
        if bytes[at..].starts_with(b"\r\n\r\n") {
            return Some(at + 4);
        }
        from = at + 1;
    }
    None
}
