//! Connections to backends: dialling, pooling, sending.

pub mod resolve;
pub mod dial;
mod h2;
pub mod send_error;
mod pool;
mod spare;
pub mod client;
mod window;
pub mod credential;
pub mod circuit;
