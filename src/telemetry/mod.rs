//! What operators see: the record of each request, metrics, and events.

pub mod outlet;
pub mod access_log;
pub mod metrics;
pub mod traces;
pub mod record;
pub mod tracing;
