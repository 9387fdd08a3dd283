//! HTTP itself: sockets, header fields, bodies, WebSocket tunnels, and the answers of our own.

pub mod socket;
pub mod chunks;
pub mod screen;
pub mod early;
pub mod interim;
pub mod linger;
pub mod inbound;
pub mod target;
pub mod headers;
pub mod framing;
pub mod forwarding;
pub mod downgrade;
pub mod body;
pub mod frames;
pub mod tunnel;
pub mod cors;
pub mod refusal;
