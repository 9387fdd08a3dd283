//! Connections to backends: dialling, pooling, sending.

pub mod resolve;
pub mod dial;
pub mod client;
mod window;
pub mod credential;
pub mod circuit;
