//! Which way a request goes: method and path to a route, user to a backend.
//!
//! Everything here is pure: no tokio, no I/O, no shared state, no clock but for the expiry of tokens. What a request needs comes in as arguments
//! (above all the compiled [`table`]), and what is decided goes out as a value; sending is for others.

pub mod redis_location;
pub mod tls;
pub mod table;
pub mod route;
pub mod identity;
pub mod token;
mod signatures;
pub mod bucket;
pub mod decide;
