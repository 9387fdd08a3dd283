//! The shared store: records in a Redis that any number of gateways use.
//!
//! Every operation is one command or one script about one key, so that a Cluster serves as well as a single Redis. A
//! script may be sent again: it knows by a token, or by what it finds, that it has been carried out. That is how a lost
//! answer is settled. The lists of what is open are keys of their own, written beside the records; where the two
//! disagree the record is right, and whoever reads a list mends it.
//!
//! One thread with a runtime of its own holds the connection, since the threads that serve come and go.

mod check;
mod connect;
mod context;
mod handle;
mod index;
mod ops;
pub(crate) mod records;
mod scan;
mod scripts;
mod thread;

pub use handle::RedisStore;

#[cfg(test)]
mod tests;
