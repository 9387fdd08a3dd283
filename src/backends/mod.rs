//! Connections to backends: dialling, pooling, sending.

pub mod dial;
pub mod client;
pub mod credential;
mod window;
pub mod circuit;
