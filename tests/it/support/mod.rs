//! What the integration tests stand on: the real gateway, the real parts, and clients and backends that may misbehave.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "one test binary; a failed unwrap here is a failed test"
)]

pub mod backend;
pub mod client;
pub mod gateway;
pub mod h2_backend;
pub mod h2_frames;
pub mod http2;
pub mod parts;
pub mod raw_websocket;
pub mod redis;
pub mod rude;
pub mod scene;
pub mod stand_in;
pub mod tls;
pub mod tls_client;
pub mod tokens;
pub mod websocket;
pub mod wire;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything in a test may take before it counts as failed.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Tells threads to end when it is dropped, whatever else fails.
#[derive(Debug)]
pub struct End<'a>(pub &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Returns the top of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Makes a user id that no other test uses.
pub fn unique_user() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("user-{}-{number}", std::process::id())
}

/// Asks `probe` again and again until it has an answer; panics with `what` after [`DEADLINE`].
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(DEADLINE, what, probe)
}

/// Asks `probe` again and again until it has an answer; panics with `what` after `limit`.
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal (`TERM`, `HUP`, `STOP`, `CONT`, `KILL`) to one process.
pub fn signal(pid: u32, name: &str) {
    let status =
        std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().expect("`kill` runs");
    assert!(status.success(), "kill -{name} {pid}: {status}");
}
