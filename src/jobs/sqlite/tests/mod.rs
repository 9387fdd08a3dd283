//! The embedded store on real files.

mod company;
mod crash;
mod damage;
mod expiry;
mod faults;
mod keys;
mod operations;

use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::jobs::clock::Clock;
use crate::jobs::record::{Closing, Intent, IntentState, Job, JobState};
use crate::names::{BackendName, ExportType, JobId, UserId};

fn settings() -> Settings {
    Settings { keep: Duration::from_secs(7 * 86_400), key_keep: Duration::from_secs(86_400), clock: Clock::system() }
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, settings()).unwrap()
}

fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

fn job(text: &str, user: Option<&str>) -> Job {
    Job {
        id: id(text),
        backend: BackendName::Workers,
        export: ExportType::parse("overlay"),
        user: user.and_then(UserId::from_text),
        started_ms: Clock::system().wall_ms(),
        state: JobState::Open,
    }
}

fn intent(key: &str) -> Intent {
    let now = Clock::system().wall_ms();
    Intent {
        key: key.into(),
        request_id: "r-1".into(),
        user: UserId::from_text("ann"),
        export: ExportType::parse("overlay").unwrap(),
        backend: BackendName::Workers,
        started_ms: now,
        deadline_ms: now + 60_000,
        state: IntentState::Running,
        claim: None,
        resend: None,
        answer: None,
    }
}

fn forget(key: &str) -> Closing {
    Closing::Forget(key.into())
}

/// Waits for something that another thread brings about.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs tasks on four threads, each with a runtime of its own, as the gateway does.
fn on_four_runtimes(tasks: impl AsyncFn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let tasks = &tasks;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(tasks(thread));
            });
        }
    });
}

async fn all(tasks: impl Iterator<Item = impl Future<Output = ()>>) {
    futures_util::future::join_all(tasks).await;
}
