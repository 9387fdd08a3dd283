//! The embedded store: one thread writes with group commit, a few read, callers never block.
//!
//! It can always be started. A file that cannot be used fails every operation with the cause and is tried again each
//! second; a damaged one is set aside and what is readable of it is kept.

mod expiry;
mod handle;
pub(crate) mod intents;
mod lock;
mod ops;
mod reader;
mod rescue;
pub(crate) mod rows;
pub(crate) mod schema;
mod writer;

pub use handle::{Settings, SqliteStore, StoreHeld};

#[cfg(test)]
mod tests;
