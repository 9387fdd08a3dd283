//! The gateway from outside: the real binary between real backends, over real sockets.

// What tests print is read with `--nocapture`: tables of what was seen.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, clippy::type_complexity)]

mod access_log;
mod admin;
mod broken;
mod circuit;
mod cli;
mod cors;
mod credential;
mod drain;
mod exchange;
mod flip;
mod headers;
mod http2;
mod http2_frames;
mod http2_out;
mod idempotency;
mod idempotency_crash;
mod identity;
mod input_key;
mod interim;
mod job_socket;
mod jobs;
mod limits;
mod names;
mod outcome;
mod passed_socket;
mod per_address;
mod properties;
mod proxy_protocol;
mod reload;
mod replicas;
mod reuse;
mod rfc;
mod rollout;
mod schema;
mod secrets;
mod service_manager;
mod slow_clients;
mod start;
mod start_body;
mod start_up;
mod status;
mod stream;
mod support;
mod tidy;
mod tls_in;
mod traces;
mod unknown_job;
mod unpolled;
mod upgrade;
mod websocket;
