//! `export-gateway`: a reverse proxy that knows what an export job is.

pub mod limits;
pub mod names;
pub mod routing;
pub mod exports;
pub mod config;
pub mod jobs;
pub mod reload;
pub mod cli;
