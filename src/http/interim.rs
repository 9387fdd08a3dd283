//! Interim answers (1xx, RFC 9110 section 15.2) on their way from a backend to a client of HTTP/1.1.
//!
//! Hyper's server cannot send them, so they are written to the socket beside it: only while it has nothing to write
//! itself, which is between two messages; and a final answer waits until those before it have been written.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::{Request, StatusCode};
use hyper::ext::on_informational;

use crate::http::body::Gate;
use crate::http::headers;
use crate::http::inbound::Progress;
use crate::limits;

/// A connection's interim answers that are not written yet.
#[derive(Debug, Default)]
pub struct Interim {
    /// The request whose interim answers are taken; 0 is none.
    open: AtomicU32,
    last: AtomicU32,
    is_waiting: AtomicBool,
    queue: Mutex<Queue>,
    /// Wakes the connection's task, which writes.
    connection: OnceLock<Waker>,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: BytesMut,
    /// The request that the two below are of.
    number: u32,
    /// Answers and bytes so far.
    answers: usize,
    size: usize,
}

impl Interim {
    /// Says which task writes what is queued: the same for the whole life of a connection.
    pub fn written_by(&self, waker: &Waker) {
        let _ = self.connection.set(waker.clone());
    }

    /// Wakes that task.
    pub fn wake(&self) {
        if let Some(connection) = self.connection.get() {
            connection.wake_by_ref();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes interim answers to the request at hand from now on; returns its number.
    fn open(&self) -> u32 {
        let number = self.last.load(Ordering::Relaxed).wrapping_add(1).max(1);
        self.last.store(number, Ordering::Relaxed);
        self.open.store(number, Ordering::Relaxed);
        number
    }

    /// Takes no more, and waits until what was taken is written; then the final answer may follow.
    pub async fn written(&self) {
        self.open.store(0, Ordering::Relaxed);
        // The task that writes is this one: it is polled again when it has.
        poll_fn(|_| if self.is_waiting() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    /// Throws away what is not written yet: a final answer is on its way that did not wait for it.
    pub fn give_up(&self) {
        if self.open.load(Ordering::Relaxed) != 0 || self.is_waiting() {
            self.open.store(0, Ordering::Relaxed);
            self.is_waiting.store(false, Ordering::Relaxed);
            self.queue().bytes.clear();
        }
    }

    /// Says whether there is something to write.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Relaxed)
    }

    /// Takes what there is to write; after `None` everything is written.
    pub fn next(&self) -> Option<Bytes> {
        let mut queue = self.queue();
        if queue.bytes.is_empty() {
            self.is_waiting.store(false, Ordering::Relaxed);
            return None;
        }
        Some(queue.bytes.split().freeze())
    }

    /// Queues an answer to the request `number`; beyond its bounds it is left out, which no client can tell.
    fn add(&self, number: u32, status: StatusCode, fields: &HeaderMap) {
        if self.open.load(Ordering::Relaxed) != number {
            return;
        }
        let mut queue = self.queue();
        if queue.number != number {
            (queue.number, queue.answers, queue.size) = (number, 0, 0);
        }
        let answer = written(status, fields);
        if queue.answers >= limits::INTERIM_ANSWERS || queue.size + answer.len() > limits::INTERIM_BYTES {
            return;
        }
        queue.answers += 1;
        queue.size += answer.len();
        queue.bytes.extend_from_slice(&answer);
        self.is_waiting.store(true, Ordering::Relaxed);
        drop(queue);
        self.wake();
    }
}

/// Writes an interim answer as this hop says it.
fn written(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let mut fields = fields.clone();
    headers::strip_answer(&mut fields, false);
    // It has no body, so nothing may speak of one (RFC 9110, 8.6).
    fields.remove(header::CONTENT_LENGTH);
    fields.remove(header::TRAILER);
    let reason = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in &fields {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Has a backend's interim answers to a request handed on to a client that takes them; its `100 Continue` opens the gate
/// instead, and the client is told by hyper when its body is read.
pub fn hand_on<B>(request: &mut Request<B>, to: Option<&Arc<Progress>>, gate: Option<Arc<Gate>>) {
    if to.is_none() && gate.is_none() {
        return;
    }
    let to = to.map(|progress| (progress.interim.open(), progress.clone()));
    on_informational(request, move |answer| match (&to, &gate) {
        (_, Some(gate)) if answer.status() == StatusCode::CONTINUE => gate.open(),
        (Some((number, progress)), _) if answer.status() != StatusCode::CONTINUE => {
            progress.interim.add(*number, answer.status(), answer.headers());
        }
        _ => {}
    });
}
