//! `export-gateway`: a reverse proxy that knows what an export job is.

pub mod limits;
pub mod names;
pub mod routing;
pub mod exports;
pub mod config;
pub mod telemetry;
pub mod http;
pub mod backends;
pub mod jobs;
pub mod gateway;
pub mod reload;
pub mod server;
pub mod admin;
pub mod cli;
