//! Records as the tests of every store have them, and the waiting for what another thread brings about.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::jobs::Settings;
use crate::jobs::clock::Clock;
use crate::jobs::record::{Claim, Intent, IntentState, Job, JobState, Kept, KeptAnswer};
use crate::names::{BackendName, ExportType, JobId, UserId};

pub(in crate::jobs) const DAY: Duration = Duration::from_secs(86_400);

pub(in crate::jobs) fn settings() -> Settings {
    Settings { keep: 7 * DAY, key_keep: DAY, clock: Clock::system() }
}

pub(in crate::jobs) fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

/// An open overlay job of workers' that began just now.
pub(in crate::jobs) fn job(text: &str, user: Option<&str>) -> Job {
    Job {
        id: id(text),
        backend: BackendName::Workers,
        export: ExportType::parse("overlay"),
        user: user.and_then(UserId::from_text),
        started_ms: Clock::system().wall_ms(),
        state: JobState::Open,
    }
}

/// A start of ann's that is being sent to workers for another minute.
pub(in crate::jobs) fn intent(key: &str) -> Intent {
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

/// The same under a client's key, with a body to be sent again.
pub(in crate::jobs) fn claimed(key: &str, token: &str) -> Intent {
    let claim = Claim { token: token.into(), body: [7; 32] };
    Intent { claim: Some(claim), resend: Some(Bytes::from_static(b"{\"a\":1}")), ..intent(key) }
}

pub(in crate::jobs) fn kept(key: &str, token: &str) -> Kept {
    let body = Bytes::from_static(b"{\"job_id\":\"j\"}");
    let answer = KeptAnswer { status: 200, content_type: Some("application/json".into()), body };
    Kept { key: key.into(), token: token.into(), answer }
}

/// Waits for something that another thread brings about.
pub(in crate::jobs) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs tasks on four threads, each with a runtime of its own, as the gateway does.
pub(in crate::jobs) fn on_four_runtimes(tasks: impl AsyncFn(usize) + Sync) {
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
