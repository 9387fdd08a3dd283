//! The gateway from outside: the real binary between real backends, over real sockets.

#![allow(missing_docs, clippy::unwrap_used)]

mod cli;
mod flip;
mod reload;
mod support;

mod start;
mod start_body;
mod input_key;
mod outcome;
mod reuse;
mod jobs;
mod status;
mod unknown_job;
mod rollout;
mod cors;
mod job_socket;
