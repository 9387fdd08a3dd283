//! The gateway from outside: the real binary between real backends, over real sockets.

#![allow(missing_docs, clippy::unwrap_used)]

mod cli;
mod flip;
mod reload;
mod support;

mod start;
mod start_body;
mod input_key;
mod identity;
mod credential;
