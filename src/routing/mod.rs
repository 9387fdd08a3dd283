//! Which way a request goes: pure, without tokio and without I/O.

pub mod bucket;
pub mod decide;
pub mod table;
