//! The shared store on real servers: lost answers, servers that go away, and several gateways at once.

mod faults;
mod several;

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::RedisStore;
use crate::jobs::clock::Clock;
use crate::jobs::record::{Claim, Intent, IntentState, Job, JobState, Kept, KeptAnswer};
use crate::jobs::redis_server::Redis;
use crate::jobs::{Jobs, Settings};
use crate::names::{BackendName, ExportType, JobId, UserId};
use crate::routing::table::StoreLocation;

const DAY: Duration = Duration::from_secs(86_400);

fn settings() -> Settings {
    Settings { keep: 7 * DAY, key_keep: DAY, clock: Clock::system() }
}

fn location(url: &str) -> StoreLocation {
    crate::config::parse_store(url).unwrap()
}

fn open(url: &str) -> RedisStore {
    open_waiting(url, 0)
}

fn open_waiting(url: &str, replicas: u32) -> RedisStore {
    let StoreLocation::Redis { location, .. } = location(url) else { panic!("{url} is a file") };
    RedisStore::open(&location, replicas, settings())
}

fn jobs(redis: &Redis) -> Jobs {
    Jobs::open(&location(&redis.url()), settings()).unwrap()
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

fn claimed(key: &str, token: &str) -> Intent {
    let claim = Claim { token: token.into(), body: [7; 32] };
    Intent { claim: Some(claim), resend: Some(Bytes::from_static(b"{\"a\":1}")), ..intent(key) }
}

fn kept(key: &str, token: &str) -> Kept {
    let answer = KeptAnswer { status: 200, content_type: None, body: Bytes::from_static(b"{}") };
    Kept { key: key.into(), token: token.into(), answer }
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
