//! Another process takes over from this one, most likely of another version: the two overlap, and nobody is turned away.
//!
//! On `SIGUSR2` the gateway starts its own executable again, with the same arguments and environment; by then the file
//! may hold a new version. The new process gets the listening sockets and the lock beside the store over a Unix socket,
//! which is its standard input. The two speak in single bytes:
//!
//! ```text
//! old                                              new
//!  s + socket (each), a + socket, l + lock, .  ──▶  loads its file, opens the store beside the old one
//!                                              ◀──  r ready · d ready, but its store cannot be used; its process id, 4 bytes
//!  g go                                        ──▶  accepts
//!                                              ◀──  s serving
//!  drains, ends: the socket closes             ──▶  knows itself alone: the background's work is its own now
//! ```
//!
//! (`k` stands for `s` where systemd keeps the socket.)
//! Until `g` nothing has happened: whatever goes wrong before, the old process serves on and the new one ends.

mod predecessor;
mod successor;

pub use predecessor::{Predecessor, TakeOverError};
pub use successor::{Executable, Handed, Successor, UpgradeError, go_between, prepare};

/// Set in the new process's environment: its standard input is the old one.
const MARK: &str = "EXPORT_GATEWAY_TAKES_OVER";
/// Its value for a process that only starts the new one, and for the new one.
const GO_BETWEEN: &str = "go-between";
const SUCCESSOR: &str = "successor";

const SERVER: u8 = b's';
/// As `SERVER`, one that systemd keeps.
const SERVER_KEPT: u8 = b'k';
const ADMIN: u8 = b'a';
const LOCK: u8 = b'l';
const END: u8 = b'.';
const READY: u8 = b'r';
const DEGRADED: u8 = b'd';
const GO: u8 = b'g';
const SERVING: u8 = b's';
