//! Several gateways in front of the same backends, with one Redis between them: to clients they are one.

mod faults;
mod topologies;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;
use toml::Table;

use crate::support::client;
use crate::support::eventually;
use crate::support::gateway::{Gateway, run, set};
use crate::support::parts::{self, Set};
use crate::support::redis::Redis;
use crate::support::scene::{poll_of, start_as};

/// Starts a gateway that keeps its jobs at this address, after `change` has edited its file.
fn gateway(set: &Set, store: &str, change: impl FnOnce(&mut Table)) -> Gateway {
    Gateway::with(set, |table| {
        self::set(table, "jobs.store", store);
        change(table);
    })
}

fn two(set: &Set, redis: &Redis) -> [Gateway; 2] {
    [gateway(set, &redis.url(), |_| {}), gateway(set, &redis.url(), |_| {})]
}

/// Asks for a job's status, in both forms, and says which backend it was asked of.
fn asked_of(gateway: &Gateway, user: &str, job: &str) -> String {
    let backends = [None, Some("overlay")].map(|form| {
        let answer = client::send(gateway.addr(), &poll_of(user, job, form));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("x-export-backend").expect("a backend").to_owned()
    });
    assert_eq!(backends[0], backends[1]);
    backends[0].clone()
}

#[test]
fn a_user_starts_on_the_same_backend_and_either_answers_for_any_job() {
    let (set, redis) = (parts::shared(), Redis::start());
    let gateways = two(set, &redis).map(|gateway| {
        gateway.set_percent(50.0);
        gateway
    });
    let mut seen = [0; 2];
    for _ in 0..16 {
        let user = set.user();
        let starts = gateways.each_ref().map(|gateway| client::send(gateway.addr(), &start_as(&user, "r")));
        let backends = starts.each_ref().map(|start| start.header("x-export-backend").expect("a backend"));
        assert_eq!(backends[0], backends[1], "one home for {user}");
        seen[usize::from(backends[0] == "workers")] += 1;
        for start in &starts {
            for gateway in &gateways {
                assert_eq!(asked_of(gateway, &user, &start.field("job_id")), backends[0]);
            }
        }
        // Its own user's alone, whichever is asked.
        if backends[0] == "workers" {
            let other = client::status(gateways[1].addr(), "somebody-else", &starts[0].field("job_id"));
            assert_eq!((other.status, other.text().as_str()), (404, r#"{"detail":"Job not found"}"#));
        }
        // Nobody had to look for a job.
        let wrong: &parts::Part = if backends[0] == "workers" { &set.legacy } else { &set.workers };
        assert!(wrong.seen_from("status", &user).is_empty());
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both halves: {seen:?}");
}

#[test]
fn of_many_starts_with_one_key_over_two_gateways_one_makes_a_job() {
    let (set, redis) = (parts::shared(), Redis::start());
    let gateways = two(set, &redis);
    for round in 0..3 {
        let user = set.user();
        let started = AtomicUsize::new(0);
        let answers: Vec<_> = thread::scope(|scope| {
            let start = |number: usize| {
                let (addr, request) =
                    (gateways[number % 2].addr(), start_as(&user, "r").header("Idempotency-Key", "k"));
                let started = &started;
                scope.spawn(move || {
                    // All at once, as far as threads can.
                    started.fetch_add(1, Ordering::SeqCst);
                    while started.load(Ordering::SeqCst) < 50 {
                        thread::yield_now();
                    }
                    client::send(addr, &request)
                })
            };
            let threads: Vec<_> = (0..50).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (good, held): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
        assert!(
            held.iter().all(|it| it.json()["code"] == "start_in_progress"),
            "{:?}",
            held.first().map(|it| it.text())
        );
        let made: Vec<_> = good.iter().filter(|it| it.header("idempotent-replayed").is_none()).collect();
        assert_eq!((made.len(), set.jobs_of(&user)), (1, (0, 1)), "round {round}");
        assert!(good.iter().all(|it| it.text() == made[0].text()));
        for gateway in &gateways {
            let again = client::send(gateway.addr(), &start_as(&user, "r").header("Idempotency-Key", "k"));
            assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")));
            assert_eq!(again.text(), made[0].text());
        }
    }
}

#[test]
fn a_job_that_one_has_acknowledged_is_known_to_the_other_after_kill_9() {
    let (set, mut redis) = (parts::shared(), Redis::start());
    let mut gateways = two(set, &redis);
    let mut jobs = Vec::new();
    for round in 0..10 {
        let user = set.user();
        let mut connection = client::Connection::open(gateways[0].addr());
        let answer = connection.exchange(&start_as(&user, "kill").header("Idempotency-Key", "k")).unwrap();
        gateways[0].kill9();
        if round % 3 == 2 {
            // And Redis with it: what it has answered is on its disk.
            redis.kill();
            redis.restart();
            eventually("redis is back", || {
                client::get(gateways[1].admin(), "/readyz").json()["reasons"].as_array()?.is_empty().then_some(())
            });
        }
        let job = answer.field("job_id");
        assert_eq!(asked_of(&gateways[1], &user, &job), "workers");
        let again = client::send(gateways[1].addr(), &start_as(&user, "kill").header("Idempotency-Key", "k"));
        assert_eq!((again.header("idempotent-replayed"), again.field("job_id")), (Some("true"), job.clone()));
        assert!(set.legacy.seen_from("status", &user).is_empty(), "known, not found");
        jobs.push((user, job));
        gateways[0].restart();
    }
    for (user, job) in &jobs {
        assert_eq!(asked_of(&gateways[0], user, job), "workers");
        assert_eq!(set.jobs_of(user), (0, 1));
    }
}

#[test]
fn the_end_of_a_job_is_counted_once_and_open_jobs_by_all() {
    let (set, redis) = (Set::start(), Redis::start());
    let gateways = two(&set, &redis);
    let users: Vec<String> = (0..6).map(|_| set.user()).collect();
    let jobs: Vec<_> = users
        .iter()
        .enumerate()
        .map(|(number, user)| client::start_overlay(gateways[number % 2].addr(), user).field("job_id"))
        .collect();
    for gateway in &gateways {
        eventually("six open jobs", || {
            (gateway.metric("export_gateway_jobs_open", &[("backend", "workers")]) == 6.0).then_some(())
        });
    }
    for (user, job) in users.iter().zip(&jobs) {
        for gateway in &gateways {
            eventually("the end", || {
                (client::status(gateway.addr(), user, job).json()["status"] == "complete").then_some(())
            });
        }
    }
    for gateway in &gateways {
        eventually("no open job", || {
            (gateway.metric("export_gateway_jobs_open", &[("backend", "workers")]) == 0.0).then_some(())
        });
    }
    let ended = |gateway: &Gateway| gateway.metric("export_gateway_job_outcomes_total", &[("status", "complete")]);
    eventually("all counted", || (ended(&gateways[0]) + ended(&gateways[1]) >= 6.0).then_some(()));
    assert_eq!(ended(&gateways[0]) + ended(&gateways[1]), 6.0);
}

#[test]
fn the_command_line_reads_the_shared_store_and_takes_a_file_along() {
    let (set, redis) = (parts::shared(), Redis::start());
    let user = set.user();
    set.runpod.rule(json!({"match": {"user": user}, "seconds": 3600}));
    let mut alone = Gateway::start(set);
    let keyed = || start_as(&user, "r").header("Idempotency-Key", "k");
    let before = client::send(alone.addr(), &keyed());
    let old = alone.folder().join("jobs.db").display().to_string();
    let many = gateway(set, &redis.url(), |_| {});
    let config = many.config_path().display().to_string();
    let copied = |from: &str, to: &str| {
        let output = run(&["jobs", "copy", "--from", from, "--to", to, "--config", &config]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // While the old gateway still serves, and again when it is gone.
    let text = copied(&old, &redis.url());
    assert!(text.contains("jobs: 1 copied, 0 there already") && text.contains("starts: 1 copied, 0 there"), "{text}");
    let late = client::start_overlay(alone.addr(), &user).field("job_id");
    assert!(alone.term().success());
    let text = copied(&old, &redis.url());
    assert!(text.contains("jobs: 1 copied, 1 there already") && text.contains("starts: 0 copied, 1 there"), "{text}");
    for job in [&before.field("job_id"), &late] {
        assert_eq!(asked_of(&many, &user, job), "workers");
    }
    let again = client::send(many.addr(), &keyed());
    assert_eq!((again.header("idempotent-replayed"), again.text()), (Some("true"), before.text()));
    assert_eq!(set.jobs_of(&user), (0, 2));

    let shown = run(&["jobs", "show", &late, "--config", &config]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success() && text.contains(&format!("user     {user}")), "{text}");
    let listed = run(&["jobs", "list", "--open", "--json", "--config", &config]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        (&listed["jobs"].as_array().unwrap().len(), &listed["open_jobs"]["workers"]),
        (&2, &json!(2)),
        "{listed}"
    );
    assert!(!run(&["jobs", "show", "none", "--config", &config]).status.success());

    // And back into a file.
    let back = many.folder().join("back.db").display().to_string();
    let text = copied(&redis.url(), &back);
    assert!(text.contains("jobs: 2 copied, 0 there already") && text.contains("starts: 1 copied"), "{text}");
    let text = copied(&redis.url(), &back);
    assert!(text.contains("jobs: 0 copied, 2 there already"), "{text}");
    let alone = gateway(set, &back, |_| {});
    assert_eq!(asked_of(&alone, &user, &late), "workers");
    let again = client::send(alone.addr(), &keyed());
    assert_eq!((again.header("idempotent-replayed"), again.text()), (Some("true"), before.text()));
    assert!(set.legacy.seen_from("status", &user).is_empty());
}
