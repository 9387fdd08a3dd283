//! The flip storm: users start exports while the file flips between 0, 50 and 100 % twenty times a second.
//!
//! `EXPORT_GATEWAY_LONG=1` makes it 2,000 starts by 500 users instead of 400 by 100.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::client::{Connection, Request, overlay};
use super::support::gateway::{Gateway, set};
use super::support::parts::{Part, Set, header_of};

const CLIENTS: usize = 4;
const STARTS_PER_USER: usize = 4;
const FLIP: Duration = Duration::from_millis(50);

/// An acknowledged job: who was told of it, and where it is.
#[derive(Debug)]
struct Job {
    id: String,
    user: String,
    owner: String,
}

#[test]
fn a_storm_of_flips_loses_no_job_and_starts_none_twice() {
    let users = if std::env::var_os("EXPORT_GATEWAY_LONG").is_some() { 500 } else { 100 };
    let set = Set::start();
    let users = make_users(&set, users);
    let mut gateway = Gateway::start(&set);
    let before = gateway.reloads();
    let began = Instant::now();
    let jobs = storm(&gateway, &users);
    let (took, flips) = (began.elapsed(), gateway.reloads()["applied"] - before.get("applied").unwrap_or(&0));

    assert_eq!(jobs.len(), users.len() * STARTS_PER_USER, "every start was answered with a job");
    let at = where_they_are(&set);
    for job in &jobs {
        assert_eq!(at.get(&job.id).map(Vec::as_slice), Some(&[job.owner.clone()][..]), "{job:?}");
    }
    assert_eq!(at.len(), jobs.len(), "no backend has a job that nobody was told of");
    assert_eq!(set.runpod.jobs().len(), jobs.len(), "each was paid for once");
    for user in &users {
        assert_eq!(jobs.iter().filter(|job| &job.user == user).count(), STARTS_PER_USER);
    }
    let of = |owner: &str| jobs.iter().filter(|job| job.owner == owner).count();
    let (legacy, workers) = (of("legacy"), of("workers"));
    assert!(legacy.min(workers) > jobs.len() / 10, "both had their share: legacy {legacy}, workers {workers}");
    assert!(flips > 10, "{flips} flips");

    let polls = poll_all(&gateway, &jobs);
    gateway.kill9();
    gateway.restart();
    let after = poll_all(&gateway, &jobs);
    // Nobody had to look for a job: each backend was asked of its own alone, after the crash as well.
    let polls_of_each = (jobs.len() + polls + after) / jobs.len();
    for (part, own) in [(&*set.legacy as &Part, legacy), (&*set.workers, workers)] {
        // A job that nobody polls for half a minute is asked about in the background: those asks are the gateway's own.
        let is_background = |agent: &&str| agent.starts_with("export-gateway/");
        let seen = part.seen_of("status");
        let background = seen.iter().filter(|it| header_of(it, "user-agent").iter().any(is_background)).count();
        assert_eq!(part.count("status"), (own * polls_of_each + background) as u64);
    }
    show(&jobs, took, flips, (legacy, workers), (polls, after));
}

#[allow(clippy::print_stderr, reason = "the numbers are what the long form is run for")]
fn show(jobs: &[Job], took: Duration, flips: u64, (legacy, workers): (usize, usize), (before, after): (usize, usize)) {
    let starts = jobs.len();
    eprintln!("{starts} starts in {:.1} s under {flips} flips: 0 failed, 0 twice", took.as_secs_f64());
    eprintln!("each at exactly one backend: legacy {legacy}, workers {workers}; RunPod paid {starts} times");
    eprintln!("answered by their owner: {starts} polls in the storm, {before} after it, {after} after kill -9");
}

/// Makes users with a video each.
fn make_users(set: &Set, count: usize) -> Vec<String> {
    thread::scope(|scope| {
        let makers: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(move || (0..count / CLIENTS).map(|_| set.user()).collect::<Vec<_>>()))
            .collect();
        makers.into_iter().flat_map(|maker| maker.join().unwrap()).collect()
    })
}

/// Starts all exports while the file flips.
fn storm(gateway: &Gateway, users: &[String]) -> Vec<Job> {
    let over = AtomicBool::new(false);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        // Also when a client panics: else the flips would never end.
        let _end = Raise(&over);
        scope.spawn(|| flip(gateway, &over));
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| start_all(gateway, users, &next))).collect();
        let jobs = clients.into_iter().map(|client| client.join());
        jobs.flat_map(|jobs| jobs.expect("a client of the storm broke")).collect()
    })
}

struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn flip(gateway: &Gateway, over: &AtomicBool) {
    let texts = [0, 50, 100].map(|percent| {
        let mut table = gateway.config_text().parse().unwrap();
        set(&mut table, "rollout.percent", percent);
        table.to_string()
    });
    for text in texts.iter().cycle().take_while(|_| !over.load(Ordering::Relaxed)) {
        gateway.write_by_rename(text);
        // The pace of the storm, not a wait for anything.
        thread::sleep(FLIP);
    }
}

/// Takes the next user's turn until all are done; each start is followed by a poll, in the midst of the flips.
fn start_all(gateway: &Gateway, users: &[String], next: &AtomicUsize) -> Vec<Job> {
    let mut connection = Connection::open(gateway.addr());
    let mut jobs = Vec::new();
    loop {
        let turn = next.fetch_add(1, Ordering::Relaxed);
        if turn >= users.len() * STARTS_PER_USER {
            return jobs;
        }
        let user = &users[turn % users.len()];
        let request = Request::post_json("/api/export/overlay/start", &overlay(12)).user(user);
        let answer = connection.exchange(&request).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let owner = answer.header("x-export-backend").expect("the backend is named").to_owned();
        let job = Job { id: answer.field("job_id"), user: user.clone(), owner };
        poll(&mut connection, &job, turn.is_multiple_of(2));
        jobs.push(job);
    }
}

/// Asks for a job's status by one of the two forms: it must be answered by the job's owner.
fn poll(connection: &mut Connection, job: &Job, typed: bool) {
    let kind = if typed { "overlay/" } else { "" };
    let request = Request::get(&format!("/api/export/{kind}status/{}", job.id)).user(&job.user);
    let answer = connection.exchange(&request).unwrap();
    assert_eq!(answer.status, 200, "{job:?}: {}", answer.text());
    assert_eq!(answer.header("x-export-backend"), Some(&*job.owner), "{job:?}");
    assert_eq!(answer.field("job_id"), job.id);
}

/// Asks for every job by both forms, and returns how many polls that were.
fn poll_all(gateway: &Gateway, jobs: &[Job]) -> usize {
    thread::scope(|scope| {
        for part in jobs.chunks(jobs.len().div_ceil(CLIENTS)) {
            scope.spawn(move || {
                let mut connection = Connection::open(gateway.addr());
                for job in part {
                    poll(&mut connection, job, true);
                    poll(&mut connection, job, false);
                }
            });
        }
    });
    jobs.len() * 2
}

/// Returns at which backends each job is.
fn where_they_are(set: &Set) -> HashMap<String, Vec<String>> {
    let mut at: HashMap<String, Vec<String>> = HashMap::new();
    let parts: BTreeMap<&str, &Part> = [("legacy", &*set.legacy), ("workers", &*set.workers)].into();
    for (name, part) in parts {
        for job in part.jobs() {
            at.entry(id_of(&job)).or_default().push(name.to_owned());
        }
    }
    at
}

fn id_of(job: &Value) -> String {
    job["job_id"].as_str().unwrap_or_else(|| panic!("no id in {job}")).to_owned()
}
