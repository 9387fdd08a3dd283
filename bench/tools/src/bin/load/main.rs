//! The load, on one thread: it reads a line of JSON that says what to do (see `spec.rs`), connects and asks once on every connection, says
//! `ready`, waits for a line, loads, prints what it saw as one JSON object, and holds its connections until its input ends:
//! so the CPU time of the counted requests, and nothing else, can be read around it.

mod exchange;
mod pace;
mod spec;
mod tally;

use std::io::{self, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;

use exchange::Conversation;
use pace::Pace;
use spec::Plan;
use tally::Tally;

/// Either kind of connection.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

type Talk = Conversation<Box<dyn Stream>>;

/// Where the run is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stage {
    Connecting,
    Loading,
    Over,
}

fn main() -> io::Result<()> {
    let mut text = String::new();
    io::stdin().read_line(&mut text)?;
    let plan = Plan::read(&text)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(Rc::new(plan)))
}

async fn run(plan: Rc<Plan>) -> io::Result<()> {
    let (stage, stages) = watch::channel(Stage::Connecting);
    let tally = Rc::new(Tally::default());
    let at_once = Arc::new(Semaphore::new(plan.at_once));
    let (pace, start_pace) = Pace::new(plan.rate);
    let (told, mut connected) = tokio::sync::mpsc::unbounded_channel();
    let mut connections = JoinSet::new();
    for number in 0..plan.connections {
        let one = One { plan: plan.clone(), tally: tally.clone(), pace: pace.clone(), number };
        let (at_once, told, stages) = (at_once.clone(), told.clone(), stages.clone());
        connections.spawn_local(async move {
            let turn = at_once.acquire_owned().await;
            let conversation = one.prepare().await;
            drop(turn);
            let _ = told.send(());
            drop(told);
            one.load(conversation, stages).await
        });
    }
    drop(told);
    for _ in 0..plan.connections {
        connected.recv().await;
    }
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    say("ready")?;
    input.next_line().await?;
    let began = Instant::now();
    tally.begin(began, plan.requests);
    start_pace.start(Duration::from_secs_f64(plan.seconds));
    stage.send_replace(Stage::Loading);
    if plan.websocket {
        tokio::time::sleep(Duration::from_secs_f64(plan.seconds)).await;
    } else {
        // Whoever has not ended well after the time counts as failed.
        let limit = Duration::from_secs_f64(plan.seconds) + Duration::from_secs(20);
        let ended = async {
            while tally.ended() < plan.connections {
                tally.wait().await;
            }
        };
        if tokio::time::timeout(limit, ended).await.is_err() {
            tally.fail("no answer", plan.connections - tally.ended());
        }
    }
    say(&tally.report(began.elapsed()).to_string())?;
    while input.next_line().await?.is_some() {}
    stage.send_replace(Stage::Over);
    connections.abort_all();
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}

/// One connection and what it needs.
struct One {
    plan: Rc<Plan>,
    tally: Rc<Tally>,
    pace: Pace,
    number: usize,
}

impl One {
    async fn connect(&self) -> io::Result<Talk> {
        let stream = TcpStream::connect(self.plan.address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.plan.tls {
            None => Box::new(stream),
            Some((config, name)) => Box::new(TlsConnector::from(config.clone()).connect(name.clone(), stream).await?),
        };
        Ok(Conversation::new(stream))
    }

    /// Connects and asks once, so that what is measured begins on a warm connection.
    async fn prepare(&self) -> Option<Talk> {
        let ready = async {
            let mut conversation = self.connect().await?;
            if !self.plan.cold {
                conversation.ask(&self.plan, self.number).await?;
            }
            io::Result::Ok(conversation)
        };
        match tokio::time::timeout(Duration::from_secs(20), ready).await {
            Ok(Ok(conversation)) => Some(conversation),
            Ok(Err(error)) => self.tally.give_up(&error.to_string()),
            Err(_) => self.tally.give_up("not ready in 20 s"),
        }
    }

    async fn ask(&self, held: Option<Talk>, number: usize) -> io::Result<(Talk, exchange::Seen)> {
        let mut conversation = match held {
            Some(conversation) => conversation,
            None => self.connect().await?,
        };
        let seen = conversation.ask(&self.plan, number).await?;
        Ok((conversation, seen))
    }

    async fn load(&self, conversation: Option<Talk>, mut stages: watch::Receiver<Stage>) {
        let _ = stages.wait_for(|stage| *stage >= Stage::Loading).await;
        if self.plan.websocket {
            let Some(mut conversation) = conversation else { return };
            tokio::select! {
                said = conversation.said() => self.tally.fail(said, 1),
                _ = stages.wait_for(|stage| *stage == Stage::Over) => {}
            }
            return;
        }
        let mut held = conversation;
        let end = self.tally.began() + Duration::from_secs_f64(self.plan.seconds);
        let mut number = self.number;
        while let Some(due) = self.pace.next(end).await {
            if !self.tally.may_ask() {
                break;
            }
            number += self.plan.connections;
            if self.plan.close {
                held = None;
            }
            let is_kept = held.is_some();
            let mut asked = self.ask(held.take(), number).await;
            if is_kept && !self.plan.close && self.plan.is_get && asked.as_ref().is_err_and(exchange::is_closed) {
                // A proxy may close a connection that idles; browsers and libraries ask once more then (RFC 9110, 9.2.2).
                self.tally.reconnect();
                asked = self.ask(None, number).await;
            }
            match asked {
                Ok((conversation, seen)) => {
                    self.tally.note(due, seen);
                    held = Some(conversation);
                }
                Err(error) => self.tally.fail(&error.to_string(), 1),
            }
        }
        self.tally.end();
        // Held open, so that its closing is not measured.
        let _ = stages.wait_for(|stage| *stage == Stage::Over).await;
    }
}
