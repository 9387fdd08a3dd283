//! The gateway from outside: the real binary between real backends, over real sockets.

#![allow(missing_docs, clippy::unwrap_used)]

mod admin;
mod broken;
mod drain;
mod exchange;
mod headers;
mod limits;
mod properties;
mod refuse;
mod stream;
mod support;
mod target;
mod tidy;
mod websocket;
