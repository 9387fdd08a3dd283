//! The gateway from outside: the real binary between real backends, over real sockets.

#![allow(missing_docs, clippy::unwrap_used)]

mod support;

mod idempotency;
mod idempotency_crash;
