//! Redis goes away, loses answers, or is not what it should be: what clients get, and that all is well afterwards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{asked_of, gateway, two};
use crate::support::client::{self, try_send};
use crate::support::gateway::{Gateway, set as set_key};
use crate::support::parts::{self, Set};
use crate::support::redis::{Loss, Middleman, Redis};
use crate::support::scene::{assert_own, poll_of, start_as};
use crate::support::{DEADLINE, eventually, within};

/// Returns the codes of what `/readyz` says is wrong.
fn reasons(gateway: &Gateway) -> Vec<String> {
    let answer = client::get(gateway.admin(), "/readyz");
    assert_eq!(answer.status, 200, "a store that is away takes no gateway out");
    let codes = |reasons: &Vec<Value>| reasons.iter().map(|it| it["code"].as_str().unwrap().to_owned()).collect();
    answer.json()["reasons"].as_array().map(codes).unwrap_or_default()
}

#[test]
fn while_redis_is_away_nothing_is_started_that_could_be_lost_and_what_is_known_is_served() {
    let (set, mut redis) = (parts::shared(), Redis::start());
    let gateways = two(set, &redis);
    let user = set.user();
    set.runpod.rule(json!({"match": {"user": user}, "seconds": 3600}));
    let job = client::start_overlay(gateways[0].addr(), &user).field("job_id");
    redis.kill();
    eventually("it is noticed", || {
        gateways.iter().all(|it| reasons(it).contains(&"store_unavailable".into())).then_some(())
    });
    // Unkeyed: legacy has it, unrecorded. Keyed: nobody.
    let unkeyed = client::start_overlay(gateways[0].addr(), &user);
    assert_eq!((unkeyed.status, unkeyed.header("x-export-backend")), (200, Some("legacy")));
    let keyed = start_as(&user, "keyed").header("Idempotency-Key", "k");
    let refused = client::send(gateways[1].addr(), &keyed);
    assert_own(&refused, 503, "store_unavailable");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(set.jobs_of(&user), (1, 1));
    // Known in memory: served. Not known: nobody guesses.
    assert_eq!(asked_of(&gateways[0], &user, &job), "workers");
    let begun = Instant::now();
    let unknown = client::send(gateways[1].addr(), &poll_of(&user, &job, None));
    assert_own(&unknown, 503, "owner_unavailable");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    redis.restart();
    for gateway in &gateways {
        eventually("it is well again", || reasons(gateway).is_empty().then_some(()));
        assert_eq!(asked_of(gateway, &user, &job), "workers");
    }
    let made = client::send(gateways[1].addr(), &keyed);
    assert_eq!((made.status, made.header("x-export-backend")), (200, Some("workers")));
    // The late owner of the unrecorded start is written, too.
    eventually("the late owner", || {
        (redis.ask(&["EXISTS", &format!("export-gateway:job:{}", unkeyed.field("job_id"))]) == "1").then_some(())
    });
    assert_eq!(asked_of(&gateways[1], &user, &unkeyed.field("job_id")), "legacy");
}

#[test]
fn a_job_whose_owner_is_late_is_not_acknowledged_and_known_to_all_in_the_end() {
    let (set, mut redis) = (Set::start(), Redis::start());
    let gateways = two(&set, &redis);
    let user = set.user();
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_after_ms": 1000, "times": 1}}));
    let keyed = start_as(&user, "late").header("Idempotency-Key", "k");
    let lost = std::thread::scope(|scope| {
        let lost = scope.spawn(|| client::send(gateways[0].addr(), &keyed));
        eventually("the job", || (set.jobs_of(&user).1 == 1).then_some(()));
        redis.kill();
        lost.join().unwrap()
    });
    assert_own(&lost, 500, "start_outcome_unknown");
    redis.restart();
    let found = within(2 * DEADLINE, "the answer", || {
        try_send(gateways[1].addr(), &keyed).ok().filter(|answer| answer.status == 200)
    });
    assert_eq!(found.header("idempotent-replayed"), Some("true"));
    assert_eq!(found.field("job_id"), set.workers.jobs_of(&user)[0]["job_id"]);
    assert_eq!(asked_of(&gateways[1], &user, &found.field("job_id")), "workers");
    assert_eq!(set.jobs_of(&user), (0, 1));
}

#[test]
fn lost_answers_of_redis_start_nothing_twice_and_lose_nothing() {
    let (set, redis) = (parts::shared(), Redis::start());
    let network = Middleman::before(&redis);
    let (one, two) = (gateway(set, &network.url(), |_| {}), gateway(set, &redis.url(), |_| {}));
    for (round, marker) in ["export-gateway:intent:", "export-gateway:job:", "export-gateway:open-"].iter().enumerate()
    {
        for loss in [Loss::Answer, Loss::Command] {
            let user = set.user();
            eventually("no trouble", || reasons(&one).is_empty().then_some(()));
            network.lose(loss, 1, marker);
            let keyed = start_as(&user, "lost").header("Idempotency-Key", "k");
            let answer = client::send(one.addr(), &keyed);
            assert_eq!(answer.status, 200, "{marker} {loss:?}: {}", answer.text());
            let again = client::send(two.addr(), &keyed);
            assert_eq!((again.header("idempotent-replayed"), again.text()), (Some("true"), answer.text()));
            let (legacy, workers) = set.jobs_of(&user);
            assert_eq!(legacy + workers, 1, "round {round}");
            assert!(!asked_of(&two, &user, &answer.field("job_id")).is_empty());
        }
    }
    assert_eq!(network.lost(), 6);
}

#[test]
fn a_key_whose_claim_got_no_answer_at_all_is_not_lost_and_starts_once() {
    let (set, redis) = (parts::shared(), Redis::start());
    let network = Middleman::before(&redis);
    let (one, two) = (gateway(set, &network.url(), |_| {}), gateway(set, &redis.url(), |_| {}));
    for percent in [100.0, 0.0] {
        one.set_percent(percent);
        let user = set.user();
        eventually("no trouble", || reasons(&one).is_empty().then_some(()));
        network.lose(Loss::Answer, 2, "HSET', KEYS[1], unpack");
        let keyed = start_as(&user, "lost").header("Idempotency-Key", "k");
        let answer = client::send(one.addr(), &keyed);
        let text = answer.text();
        match answer.status {
            // It went on to legacy, and the key with it.
            200 => assert_eq!(answer.header("x-export-backend"), Some("legacy"), "{text}"),
            _ => drop(assert_own(&answer, 503, "store_unavailable")),
        }
        let settled =
            eventually("the key is settled", || Some(client::send(two.addr(), &keyed)).filter(|it| it.status == 200));
        let (legacy, workers) = set.jobs_of(&user);
        assert_eq!(legacy + workers, 1, "percent {percent}: {text}");
        let replayed = settled.header("idempotent-replayed").is_some();
        assert_eq!(replayed, answer.status == 200, "{text}");
    }
    assert_eq!(network.lost(), 4);
}

#[test]
fn a_start_that_a_dead_gateway_left_open_is_asked_of_workers_by_another_where_they_honour_keys() {
    let (set, redis) = (Set::start(), Redis::start());
    set.workers.settings(json!({"idempotent": true}));
    let quick = |table: &mut toml::Table| {
        set_key(table, "backends.workers.idempotent", true);
        for backend in ["legacy", "workers"] {
            set_key(table, &format!("backends.{backend}.start_timeout"), "2s");
        }
    };
    let (mut one, two) = (gateway(&set, &redis.url(), quick), gateway(&set, &redis.url(), quick));
    let user = set.user();
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_after_ms": 60_000, "times": 1}}));
    let keyed = start_as(&user, "open").header("Idempotency-Key", "k");
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| try_send(one.addr(), &keyed));
        eventually("the job", || (set.jobs_of(&user).1 == 1).then_some(()));
        crate::support::signal(one.pid(), "KILL");
        cut.join().unwrap().expect_err("no answer");
    });
    one.kill9();
    let held = client::send(two.addr(), &keyed);
    assert_own(&held, 409, "start_in_progress");
    let found =
        within(4 * DEADLINE, "the answer", || Some(client::send(two.addr(), &keyed)).filter(|it| it.status == 200));
    assert_eq!(found.header("idempotent-replayed"), Some("true"));
    assert_eq!(found.field("job_id"), set.workers.jobs_of(&user)[0]["job_id"]);
    assert_eq!(set.jobs_of(&user), (0, 1));
    assert_eq!(two.metric("export_gateway_starts_total", &[("reason", "restart"), ("outcome", "accepted")]), 1.0);
}

#[test]
fn a_redis_that_may_lose_jobs_is_named_and_its_password_is_not() {
    let set = parts::shared();
    let redis = Redis::with(&["--appendonly", "no", "--save", ""]);
    redis.ask(&["CONFIG", "SET", "requirepass", "hunter2"]);
    let (ask, password) = (Gateway::in_environment, "hunter2");
    let text = |store: &str| {
        let mut table = crate::support::gateway::table(&set.into());
        set_key(&mut table, "jobs.store", store);
        table.to_string()
    };
    let store = format!("redis://:${{REDIS_PASSWORD}}@127.0.0.1:{}", redis.port());
    let mut gateway = ask(&text(&store), &[("REDIS_PASSWORD", password)]);
    let said = client::get(gateway.admin(), "/readyz").text();
    assert!(said.contains("store_not_durable") && said.contains("appendonly"), "{said}");
    let user = set.user();
    let job = client::start_overlay(gateway.addr(), &user).field("job_id");
    assert_eq!(asked_of(&gateway, &user, &job), "workers");
    let wrong = ask(&text(&store.replace("${REDIS_PASSWORD}", "hunter2wrong")), &[]);
    eventually("refused", || reasons(&wrong).contains(&"store_unavailable".into()).then_some(()));
    let all = [said, client::get(wrong.admin(), "/readyz").text(), wrong.stderr_text(), gateway.stderr_text()].concat();
    assert!(all.contains("the job store may lose what it is given") && !all.contains("hunter2"), "{all}");
    assert!(gateway.term().success());
}
