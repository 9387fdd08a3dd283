//! A load that must not notice anything: about 300 requests a second, and 20 WebSockets that talk all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::support::client::{self, Connection, Request, overlay};
use super::super::support::gateway::Gateway;
use super::super::support::parts::Set;
use super::super::support::websocket::Socket;

const CLIENTS: usize = 6;
/// Of each client; together they make 300 requests a second.
const PERIOD: Duration = Duration::from_millis(20);
/// Of each kind.
const SOCKETS: usize = 10;

/// What a load has come to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Requests sent.
    pub(super) requests: u64,
    /// Requests without a right and whole answer, each with what came instead.
    pub(super) failures: Vec<String>,
    /// Messages that came back over the WebSockets.
    pub(super) echoes: u64,
    /// How long it ran.
    pub(super) took: Duration,
}

/// A running load; it stops when dropped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    began: Instant,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts the load, and returns when it runs.
    pub(super) fn start(gateway: &Gateway, set: &Set) -> Load {
        let user = set.user();
        set.runpod.rule(json!({"match": {"user": user}, "seconds": 20}));
        let (stop, sent, addr) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), gateway.addr());
        let base = format!("ws://{addr}");
        let legacys = (0..SOCKETS).map(|at| Socket::open(&format!("{base}/ws/export/load-{at}"))).collect();
        let workers = (0..SOCKETS)
            .map(|_| {
                let job = client::start_overlay(addr, &user);
                assert_eq!(job.header("x-export-backend"), Some("workers"));
                Socket::open(&format!("{base}/api/jobs/{}/ws", job.field("job_id")))
            })
            .collect();
        let flags = || (stop.clone(), sent.clone());
        let mut threads = vec![talk(flags(), legacys, echo_legacy), talk(flags(), workers, echo_workers)];
        threads.extend((0..CLIENTS).map(|at| ask(flags(), Connection::open(addr), user.clone(), at)));
        let load = Load { stop, began: Instant::now(), sent, threads };
        load.go_on();
        load
    }

    /// Returns after the next 120 requests.
    pub(super) fn go_on(&self) {
        let wanted = self.sent.load(Ordering::Relaxed) + 120;
        super::within(super::DEADLINE, "the load runs", || (self.sent.load(Ordering::Relaxed) >= wanted).then_some(()));
    }

    /// Stops, and adds up.
    pub(super) fn finish(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.began.elapsed();
        let parts = self.threads.drain(..).map(|thread| thread.join().expect("a client or socket of the load broke"));
        parts.fold(Tally { took, ..Tally::default() }, |mut sum, part| {
            sum.requests += part.requests;
            sum.echoes += part.echoes;
            sum.failures.extend(part.failures);
            sum
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

type Flags = (Arc<AtomicBool>, Arc<AtomicU64>);

/// What a client of the load asks for.
enum Turn {
    Pass,
    Status,
    Start,
}

/// Sends a request every 20 ms: of 25 some 16 are passed through, 8 ask for a job, 1 starts one.
fn ask((stop, sent): Flags, mut connection: Connection, user: String, at: usize) -> JoinHandle<Tally> {
    thread::spawn(move || {
        let (mut tally, mut due) = (Tally::default(), Instant::now());
        let mut job = String::new();
        while !stop.load(Ordering::Relaxed) {
            // Each client begins elsewhere, so that they do not all start at once.
            let turn = match (tally.requests + 4 * at as u64) % 25 {
                _ if job.is_empty() => Turn::Start,
                0 => Turn::Start,
                number if number.is_multiple_of(3) => Turn::Status,
                _ => Turn::Pass,
            };
            let request = match turn {
                Turn::Pass => Request::get("/files/2000"),
                Turn::Status => Request::get(&format!("/api/export/status/{job}")).user(&user),
                Turn::Start => Request::post_json("/api/export/overlay/start", &overlay(12)).user(&user),
            };
            match connection.exchange(&request) {
                Ok(answer) if answer.status == 200 => match turn {
                    Turn::Start => job = answer.field("job_id"),
                    Turn::Status => assert_eq!(answer.field("job_id"), job),
                    Turn::Pass => assert_eq!(answer.body.bytes.len(), 2000),
                },
                Ok(answer) => tally.failures.push(format!("{request:?}: {} {}", answer.status, answer.text())),
                Err(error) => tally.failures.push(format!("{request:?}: {error:?}")),
            }
            tally.requests += 1;
            sent.fetch_add(1, Ordering::Relaxed);
            due = (due + PERIOD).max(Instant::now());
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        tally
    })
}

/// Sends a text over each socket and waits for it to come back, again and again; a socket that ends panics.
fn talk((stop, _): Flags, mut sockets: Vec<Socket>, echo: fn(&mut Socket, &str)) -> JoinHandle<Tally> {
    thread::spawn(move || {
        let mut tally = Tally::default();
        while !stop.load(Ordering::Relaxed) {
            for socket in &mut sockets {
                echo(socket, &format!("echo-{}", tally.echoes));
                tally.echoes += 1;
            }
            thread::sleep(PERIOD);
        }
        for socket in &mut sockets {
            socket.close(1000, "done");
            assert_eq!(socket.closed().map(|(code, _)| code), Some(1000), "closed by us, and in order");
        }
        tally
    })
}

fn echo_legacy(socket: &mut Socket, text: &str) {
    socket.send_text(&format!("echo {text}"));
    assert_eq!(socket.read_text(), text);
}

fn echo_workers(socket: &mut Socket, text: &str) {
    socket.send_text(&json!({"type": "echo", "text": text}).to_string());
    socket.read_until(|message: &Value| message["type"] == "echo" && message["text"] == text);
}
