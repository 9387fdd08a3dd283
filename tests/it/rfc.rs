//! HTTP/1.1 by the letter: raw bytes, section by section, judged at the client and at the backend.
//!
//! Each file holds the cases of some sections of RFC 9112 and RFC 9110 as data; `judge` plays them. Every case that is to
//! be refused is played three times: first on its connection, behind a GET, and behind a chunked POST in the same write.
//! `make suites` plays all of them against nginx and haproxy, too, where some must fail: it shows that they can.

mod answers;
mod chunks;
mod connection;
mod fields;
mod framing;
mod judge;
mod parsing;
mod peers;
mod request_line;
mod semantics;
mod spellings;
