//! The command line.

pub mod jobs;
pub mod run;
