//! A backend in the place of legacy or workers that answers starts as it is told, and counts what it is asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::backend::{Backend, read_request};
use super::wire::{Head, Wire};

/// What it says to a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// 200 with a new job.
    Job,
    /// A JSON answer with this status and these further lines of a head, each with its line end.
    Status(u16, &'static str),
    /// Nothing: the connection ends.
    Cut,
    /// Nothing until it is told something else.
    Hold,
}

#[derive(Debug)]
struct Told {
    say: Mutex<Say>,
    changed: Condvar,
    starts: AtomicUsize,
    polls: AtomicUsize,
}

/// The stand-in; it ends when this is dropped.
#[derive(Debug)]
pub struct StandIn {
    backend: Backend,
    told: Arc<Told>,
}

impl StandIn {
    /// Starts one whose jobs are called `name-0`, `name-1` …
    pub fn start(name: &'static str) -> StandIn {
        StandIn::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), name)
    }

    /// The same at a given address.
    pub fn start_at(addr: SocketAddr, name: &'static str) -> StandIn {
        let told = Arc::new(Told {
            say: Mutex::new(Say::Job),
            changed: Condvar::new(),
            starts: AtomicUsize::new(0),
            polls: AtomicUsize::new(0),
        });
        let heard = Arc::clone(&told);
        let backend = Backend::start_at(addr, move |_, wire| {
            loop {
                let (head, _) = read_request(wire)?;
                if !answer(name, &heard, &head, wire) {
                    return Ok(());
                }
            }
        });
        StandIn { backend, told }
    }

    /// Tells it what to say to starts from now on, those that it holds included.
    pub fn say(&self, say: Say) {
        *self.told.say.lock().unwrap() = say;
        self.told.changed.notify_all();
    }

    /// Counts the starts that it has read.
    pub fn starts(&self) -> usize {
        self.told.starts.load(Ordering::SeqCst)
    }

    /// Counts all else that it was asked.
    pub fn polls(&self) -> usize {
        self.told.polls.load(Ordering::SeqCst)
    }

    /// Returns the server beneath.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Returns the base URL.
    pub fn url(&self) -> String {
        self.backend.url()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.say(Say::Cut);
    }
}

fn answer(name: &str, told: &Told, head: &Head, wire: &mut Wire) -> bool {
    let target = head.line.split(' ').nth(1).unwrap_or_default();
    if !head.line.starts_with("POST ") {
        told.polls.fetch_add(1, Ordering::SeqCst);
        let job = target.rsplit('/').next().unwrap_or_default();
        return json(wire, 200, "", &format!(r#"{{"job_id":"{job}","status":"processing","progress":0}}"#));
    }
    let number = told.starts.fetch_add(1, Ordering::SeqCst);
    let held = told.say.lock().unwrap();
    let say = *told.changed.wait_while(held, |say| *say == Say::Hold).unwrap();
    match say {
        Say::Job => json(wire, 200, "", &format!(r#"{{"job_id":"{name}-{number}","status":"processing"}}"#)),
        Say::Status(status, lines) => json(wire, status, lines, r#"{"error":"as told"}"#),
        Say::Cut | Say::Hold => false,
    }
}

fn json(wire: &mut Wire, status: u16, lines: &str, body: &str) -> bool {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{lines}Content-Length: {length}\r\n\r\n");
    wire.send((head + body).as_bytes()).is_ok()
}
