//! The command line.

pub mod jobs;
