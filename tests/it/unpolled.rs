//! Jobs that nobody polls: their end is seen all the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::backend::{Backend, read_request};
use crate::support::client;
use crate::support::gateway::{Backends, Gateway, set, unset};
use crate::support::scene::{poll_of, start_of};
use crate::support::stand_in::StandIn;
use crate::support::within;

/// Each ask: when it came, for which job, as which user.
type Asks = Arc<Mutex<Vec<(Instant, String, String)>>>;

const JOBS: usize = 12;

/// Workers whose jobs are over by the time that anybody asks, but for those of the user `runs`.
fn workers() -> (Backend, Asks) {
    let asks = Asks::default();
    let kept = Arc::clone(&asks);
    let backend = Backend::start(move |_, wire| {
        loop {
            let (head, _) = read_request(wire)?;
            let now = Instant::now();
            let target = head.line.split(' ').nth(1).unwrap_or_default();
            let user = head.header("x-user-id").unwrap_or_default().to_owned();
            let body = if head.line.starts_with("POST ") {
                let id = head.header("x-request-id").unwrap_or_default();
                format!(r#"{{"job_id":"{id}","status":"processing"}}"#)
            } else {
                let job = target.rsplit('/').next().unwrap_or_default().to_owned();
                let status = if user == "runs" { "processing" } else { "complete" };
                kept.lock().unwrap().push((now, job.clone(), user));
                format!(r#"{{"job_id":"{job}","status":"{status}","progress":1}}"#)
            };
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
            let _ = wire.send((head + &body).as_bytes());
        }
    });
    (backend, asks)
}

fn start(gateway: &Gateway, user: &str, id: &str) {
    let request = start_of("overlay", r#"{"project_id":12,"key":"clip.mp4"}"#).user(user).header("X-Request-Id", id);
    assert_eq!(client::send(gateway.addr(), &request).field("job_id"), id);
}

/// It waits for the real half minute, so it runs where there is time: `EXPORT_GATEWAY_LONG=1`.
#[test]
fn the_end_of_a_job_that_nobody_polls_is_seen_within_a_minute() {
    if std::env::var_os("EXPORT_GATEWAY_LONG").is_none() {
        println!("left out: EXPORT_GATEWAY_LONG=1 runs it, for 45 s");
        return;
    }
    let (legacy, (workers, asks)) = (StandIn::start("l"), workers());
    let backends = Backends { legacy: legacy.url(), workers: workers.url(), data: "/nonexistent".into() };
    let gateway = Gateway::with(backends, |table| {
        unset(table, "exports.overlay.input_key");
        unset(table, "exports.overlay.params");
        set(table, "exports.overlay.input_key.field", "key");
    });
    let began = Instant::now();
    for n in 0..JOBS {
        start(&gateway, "leaves", &format!("left-{n}"));
    }
    start(&gateway, "runs", "polled");
    start(&gateway, "runs", "runs");
    let open = || gateway.metric("export_gateway_jobs_open", &[("backend", "workers")]);
    let labels = [("backend", "workers"), ("type", "overlay"), ("status", "complete")];
    let complete = || gateway.metric("export_gateway_job_outcomes_total", &labels);
    assert_eq!((open(), complete()), ((JOBS + 2) as f64, 0.0));

    let mut own_polls = 0;
    within(Duration::from_secs(60), "the end of all jobs but those that run", || {
        if began.elapsed() > Duration::from_secs(10) * own_polls {
            own_polls += 1;
            let answer = client::send(gateway.addr(), &poll_of("runs", "polled", None));
            assert_eq!(answer.field("status"), "processing");
        }
        std::thread::sleep(Duration::from_millis(100));
        let asked_of_the_other = asks.lock().unwrap().iter().any(|(_, job, _)| job == "runs");
        (open() == 2.0 && asked_of_the_other).then_some(())
    });
    println!("{JOBS} ends were seen {:?} after the starts", began.elapsed());
    assert_eq!(complete(), JOBS as f64);
    assert_eq!(gateway.metric("export_gateway_job_outcomes_total", &[]), JOBS as f64);

    let asks = asks.lock().unwrap().clone();
    let mut counts = BTreeMap::new();
    for (_, job, user) in &asks {
        assert_eq!(user, if job.starts_with("left-") { "leaves" } else { "runs" }, "asked as the job's user");
        *counts.entry(job.as_str()).or_insert(0_u32) += 1;
    }
    assert_eq!(counts.remove("polled"), Some(own_polls), "whoever polls is not helped");
    assert_eq!((counts.len(), counts.values().all(|count| *count == 1)), (JOBS + 1, true), "{counts:?}");
    let ours: Vec<_> = asks.iter().filter(|(_, job, _)| job != "polled").map(|(at, ..)| *at).collect();
    assert!(ours[0] - began >= Duration::from_secs(30), "{:?}", ours[0] - began);
    for pair in ours.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_millis(200), "more than five a second: {:?}", pair[1] - pair[0]);
    }
    assert_eq!((legacy.starts(), legacy.polls()), (0, 0));
}
