//! What an export is: its start in both backends' words, and what their answers mean.
//!
//! Everything here is pure: bytes and values in, values out; no tokio, no I/O, no clock. Foreign JSON is read flat and
//! in bounded depth, without recursion. [`outcome`] and [`step`] alone decide what follows from what happened to a start.

mod object;
mod whole_number;
pub mod translate;
pub mod websocket_url;
pub mod answer;
mod edge;
pub mod outcome;
pub mod step;
pub mod protocol;

#[cfg(test)]
mod failure_rules;
