//! Connections to backends: dialling, pooling, sending.

pub mod dial;
pub mod client;
mod window;
pub mod circuit;
