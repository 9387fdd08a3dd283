//! The rules for when something breaks, row by row, on real sockets: what both backends saw, what the client got, which
//! jobs there are, and who is asked for them afterwards. Run with `--nocapture`, each test prints its rows.
#![allow(clippy::print_stdout, reason = "the rows are for people to read")]

mod answers;
mod broken;
mod on_legacy;
mod store;
mod unreachable;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;
use toml::Table;

use crate::support::client::{self, Response};
use crate::support::gateway::{self, Gateway};
use crate::support::parts::Set;
use crate::support::rude::{Rude, Step};
use crate::support::scene::{self, assert_own, calm, line_of, poll_of, start_as};

const USER: &str = "outcome";

/// What must have come of a start that was decided for workers.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Workers have it.
    Accepted,
    /// Legacy took it, once, for this cause.
    Legacy(&'static str),
    /// The client got workers' own refusal.
    Passed(u16),
    /// The client got workers' own 500 that names a job.
    PassedWithJob,
    /// Nobody knows: the client is told so, and nobody else is asked.
    Unknown(u16),
    /// No backend was left, and nothing was started.
    NoBackend,
}

/// A gateway between backends that break, and what has been played so far.
struct Stage {
    set: MutexGuard<'static, Set>,
    gateway: Gateway,
    rude: Option<Rude>,
    script: Script,
    rows: Vec<Row>,
}

/// What the rude server does on its next connections; the last one stays.
type Script = Arc<Mutex<VecDeque<Vec<Step>>>>;

struct Row {
    what: String,
    then: Then,
    saw: (usize, usize),
    jobs: (usize, usize),
    status: u16,
    code: String,
    retry_after: String,
}

/// The set of parts that these tests break, one test at a time.
fn parts() -> MutexGuard<'static, Set> {
    static SET: OnceLock<Mutex<Set>> = OnceLock::new();
    let set = SET.get_or_init(|| {
        let set = Set::start();
        set.legacy.add_video(USER, 12, "clip.mp4");
        Mutex::new(set)
    });
    let set = set.lock().unwrap_or_else(PoisonError::into_inner);
    set.legacy.reset();
    set.workers.reset();
    set
}

impl Stage {
    /// Between the real backends.
    fn real(change: impl FnOnce(&mut Table)) -> Stage {
        let set = parts();
        let url = set.workers.url();
        Stage::open(set, &url, &[], change)
    }

    /// With a rude server in workers' place; [`Stage::script`] says what it does next.
    fn rude(change: impl FnOnce(&mut Table)) -> Stage {
        let script = Script::default();
        let steps = Arc::clone(&script);
        let rude = Rude::start(move |_| {
            let mut steps = steps.lock().unwrap();
            let next = steps.pop_front().expect("a script");
            if steps.is_empty() {
                steps.push_back(next.clone());
            }
            next
        });
        let stage = Stage::open(parts(), &rude.url(), &[], change);
        Stage { rude: Some(rude), script, ..stage }
    }

    fn open(
        set: MutexGuard<'static, Set>,
        workers: &str,
        environment: &[(&str, &str)],
        change: impl FnOnce(&mut Table),
    ) -> Stage {
        let mut table = gateway::table(&scene::workers_at(&set, workers));
        calm(&mut table);
        change(&mut table);
        let gateway = Gateway::in_environment(&table.to_string(), environment);
        Stage { set, gateway, rude: None, script: Script::default(), rows: Vec::new() }
    }

    /// Sets what the rude server does on its next connection, and on those after it.
    fn script(&self, scripts: impl IntoIterator<Item = Vec<Step>>) {
        *self.script.lock().unwrap() = scripts.into_iter().collect();
    }

    fn jobs(&self) -> (usize, usize) {
        self.set.jobs_of(USER)
    }

    /// Counts the starts that legacy and workers have read.
    fn saw(&self) -> (usize, usize) {
        let workers = match &self.rude {
            Some(rude) => rude.requests("POST"),
            None => self.set.workers.seen_of("start").len(),
        };
        (self.set.legacy.seen_of("start").len(), workers)
    }

    /// Starts an export and checks all that came of it; `made` is how many jobs workers have made of it.
    fn play(&mut self, what: &str, made: usize, then: Then) -> Response {
        let (saw, jobs) = (self.saw(), self.jobs());
        let id = format!("row-{}", self.rows.len());
        let answer = client::send(self.gateway.addr(), &start_as(USER, &id));
        let minus = |now: (usize, usize), then: (usize, usize)| (now.0 - then.0, now.1 - then.1);
        let (saw, jobs) = (minus(self.saw(), saw), minus(self.jobs(), jobs));
        let to_legacy = usize::from(matches!(then, Then::Legacy(_)));
        assert_eq!(saw.0, to_legacy, "{what}: starts at legacy; {}", answer.text());
        assert_eq!(jobs, (to_legacy, made), "{what}: jobs at legacy and workers; {}", answer.text());
        assert!(saw.1 <= 1 && jobs.0 + jobs.1 <= 1, "{what}: started more than once");
        if self.rude.is_none() {
            let asked = match then {
                Then::Legacy(cause) => cause.starts_with("declined"),
                Then::NoBackend => false,
                _ => true,
            };
            assert_eq!(saw.1, usize::from(asked), "{what}: starts at workers");
        }
        self.check(what, then, &answer, &id);
        let json = serde_json::from_slice::<Value>(&answer.body.bytes).unwrap_or_default();
        let code = json["code"].as_str().unwrap_or("-").to_owned();
        let retry_after = answer.header("retry-after").unwrap_or("-").to_owned();
        self.rows.push(Row { what: what.into(), then, saw, jobs, status: answer.status, code, retry_after });
        self.set.legacy.reset();
        self.set.workers.reset();
        answer
    }

    fn check(&self, what: &str, then: Then, answer: &Response, id: &str) {
        assert_eq!(answer.header("x-request-id"), Some(id), "{what}");
        let backend = if matches!(then, Then::Legacy(_)) { "legacy" } else { "workers" };
        if !matches!(then, Then::NoBackend) {
            assert_eq!(answer.header("x-export-backend"), Some(backend), "{what}");
        }
        match then {
            Then::Accepted => {
                let job = answer.field("job_id");
                assert!(answer.field("websocket_url").ends_with(&format!("/api/jobs/{job}/ws")), "{what}");
                self.check_owner(what, &job, backend);
            }
            Then::Legacy(_) => {
                assert_eq!(answer.status, 200, "{what}: {}", answer.text());
                assert_eq!(answer.json().as_object().map(serde_json::Map::len), Some(2), "{what}: legacy's own answer");
                self.check_owner(what, &answer.field("job_id"), backend);
            }
            Then::Passed(status) => assert_eq!(answer.status, status, "{what}: {}", answer.text()),
            Then::PassedWithJob => {
                assert_eq!((answer.status, answer.field("status").as_str()), (500, "error"), "{what}");
                self.check_owner(what, &answer.field("job_id"), backend);
            }
            Then::Unknown(status) => {
                assert_own(answer, status, "start_outcome_unknown");
                assert_eq!(answer.header("retry-after"), None, "{what}: nobody is to start it again");
            }
            Then::NoBackend => {
                assert_own(answer, 503, "no_backend");
                assert!(answer.header("retry-after").is_some(), "{what}");
            }
        }
    }

    /// The job's owner is stored: one poll asks just that backend.
    fn check_owner(&self, what: &str, job: &str, backend: &str) {
        let answer = client::send(self.gateway.addr(), &poll_of(USER, job, None));
        assert_eq!(answer.header("x-export-backend"), Some(backend), "{what}: {}", answer.text());
        let asked = (self.set.legacy.count("status"), self.set.workers.count("status"));
        match (backend, &self.rude) {
            ("legacy", _) => assert_eq!(asked, (1, 0), "{what}: {}", answer.text()),
            (_, Some(_)) => assert_eq!(asked, (0, 0), "{what}: {}", answer.text()),
            (_, None) => assert_eq!(asked, (0, 1), "{what}: {}", answer.text()),
        }
    }

    /// Checks the log and the metrics of all rows, and prints them.
    fn finish(self) {
        let mut fallbacks = 0.0;
        println!("\n  {:<44} {:>4} {:>4} {:>6}  answer", "what workers did", "w", "l", "jobs");
        for (n, row) in self.rows.iter().enumerate() {
            let line = line_of(&self.gateway, &format!("row-{n}"));
            let said = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            let (outcome, fallback) = match row.then {
                Then::Accepted => ("accepted", "-"),
                Then::Legacy(cause) => ("accepted", cause),
                Then::Passed(_) | Then::PassedWithJob => ("rejected", "-"),
                Then::Unknown(_) => ("unknown", "-"),
                Then::NoBackend => (line["outcome"].as_str().unwrap_or("-"), line["fallback"].as_str().unwrap_or("-")),
            };
            assert_eq!((said("outcome").as_str(), said("fallback").as_str()), (outcome, fallback), "{line}");
            assert_eq!((said("reason").as_str(), said("decision").as_str()), ("canary", "workers"), "{line}");
            assert_eq!(line["status"], row.status, "{line}");
            fallbacks += if fallback == "-" { 0.0 } else { 1.0 };
            let Row { what, saw, jobs, status, code, retry_after, .. } = row;
            println!(
                "  {what:<44} {:>4} {:>4} {:>4}+{}  {status} {code}, retry-after {retry_after}; {outcome}, fallback {fallback}",
                saw.1, saw.0, jobs.1, jobs.0
            );
        }
        assert_eq!(self.gateway.metric("export_gateway_starts_total", &[]), self.rows.len() as f64);
        assert_eq!(self.gateway.metric("export_gateway_fallbacks_total", &[]), fallbacks);
    }
}
