//! What becomes of operations when answers are lost, and when Redis is away, full, read-only or somebody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::jobs::record::Closing;
use crate::jobs::redis_server::{Loss, Middleman, SAFE};
use crate::jobs::store::{Cause, StoreError};

#[tokio::test]
async fn a_lost_answer_is_settled_whether_the_write_happened_or_not() {
    let redis = Redis::start();
    let network = Middleman::before(&redis);
    let store = open(&network.url());
    for loss in [Loss::Command, Loss::Answer] {
        let (key, name) = (format!("k-{loss:?}"), format!("j-{loss:?}"));
        network.lose(loss, 1, &format!("intent:{key}"));
        assert_eq!(store.claim(claimed(&key, "one")).await.unwrap(), None, "{loss:?}: not its own rival");
        network.lose(loss, 1, &format!("intent:{key}"));
        let holder = store.claim(claimed(&key, "two")).await.unwrap().expect("somebody else's");
        assert_eq!(&*holder.claim.unwrap().token, "one");
        network.lose(loss, 1, &format!("intent:{key}"));
        store.move_intent(&key, BackendName::Legacy, intent(&key).deadline_ms).await.unwrap();
        network.lose(loss, 1, &format!("job:{name}"));
        store.put_job(job(&name, Some("ann")), Some(Closing::Keep(kept(&key, "one")))).await.unwrap();
        network.lose(loss, 1, &format!("job:{name}"));
        assert_eq!(store.job(&id(&name)).await.unwrap().unwrap().user, UserId::from_text("ann"));
        network.lose(loss, 1, &format!("job:{name}"));
        assert!(store.finish_job(&id(&name), JobState::Complete, "t").await.unwrap(), "{loss:?}: it was this one");
        network.heal();
        assert!(!store.finish_job(&id(&name), JobState::Complete, "u").await.unwrap());
        assert_eq!(store.intent(&key).await.unwrap().unwrap().state, IntentState::Answered);
    }
    assert_eq!(network.lost(), 12);
    until("well again", async || store.health().is_ok()).await;
}

#[tokio::test]
async fn an_answer_that_is_lost_twice_is_no_permission_and_the_start_is_its_callers_to_move_or_to_free() {
    let redis = Redis::start();
    let network = Middleman::before(&redis);
    let store = open(&network.url());
    for key in ["moved", "freed"] {
        network.lose(Loss::Answer, 2, &format!("intent:{key}"));
        let claim = store.claim(claimed(key, "one")).await;
        assert!(matches!(claim, Err(StoreError::MaybeWritten(_))), "{claim:?}");
        until("well again", async || store.health().is_ok()).await;
    }
    store.move_intent("moved", BackendName::Legacy, intent("k").deadline_ms).await.unwrap();
    store.release("freed", "one").await.unwrap();
    // Nothing that the store does by itself comes after: a start under way on legacy keeps its key.
    store.close().await.unwrap();
    let store = open(&redis.url());
    let holder = store.claim(claimed("moved", "two")).await.unwrap().expect("it is taken");
    assert_eq!((holder.backend, holder.state), (BackendName::Legacy, IntentState::Running));
    assert_eq!(store.claim(claimed("freed", "two")).await.unwrap(), None);
}

#[tokio::test]
async fn a_claim_that_arrives_after_it_was_given_up_takes_nothing() {
    let redis = Redis::start();
    let store = open(&redis.url());
    store.release("k", "one").await.unwrap();
    let late = store.claim(claimed("k", "one")).await;
    assert!(matches!(late, Err(StoreError::NotWritten(_))), "{late:?}");
    assert_eq!(store.intent("k").await.unwrap(), None, "the mark is nobody's start");
    assert_eq!(store.claim(claimed("k", "two")).await.unwrap(), None, "and in nobody's way");
    store.close_intent("unkeyed").await.unwrap();
    assert!(store.put_intent(intent("unkeyed")).await.is_err());
    assert_eq!(store.intent("unkeyed").await.unwrap(), None);
}

#[tokio::test]
async fn a_claim_that_arrives_after_the_key_has_changed_hands_takes_nothing_either() {
    let redis = Redis::start();
    let store = open(&redis.url());
    let gone = async |token: &str| {
        let late = store.claim(claimed("k", token)).await;
        assert!(matches!(late, Err(StoreError::NotWritten(_))), "{token}: {late:?}");
    };
    store.claim(claimed("k", "first")).await.unwrap();
    store.release("k", "given-up").await.unwrap();
    gone("given-up").await;
    store.release("k", "first").await.unwrap();
    for token in ["given-up", "first"] {
        gone(token).await;
    }
    assert_eq!(store.claim(claimed("k", "second")).await.unwrap(), None, "and is in nobody's way");
    for token in ["given-up", "first"] {
        gone(token).await;
    }
    store.release("k", "second").await.unwrap();
    for token in ["given-up", "first", "second"] {
        gone(token).await;
    }
    // A start that is over with its job leaves a mark, too.
    store.put_intent(intent("unkeyed")).await.unwrap();
    store.put_job(job("j1", Some("ann")), Some(Closing::Forget("unkeyed".into()))).await.unwrap();
    until("closed", async || store.intent("unkeyed").await.unwrap().is_none()).await;
    assert!(store.put_intent(intent("unkeyed")).await.is_err());
    // What is remembered of starts that gave up has a bound.
    for round in 0..50 {
        store.claim(claimed("k", &format!("token-of-round-{round}"))).await.unwrap();
        store.release("k", &format!("token-of-round-{round}")).await.unwrap();
    }
    assert!(redis.ask(&["HGET", "export-gateway:intent:k", "dead"]).len() <= 400);
}

#[tokio::test]
async fn a_redis_that_is_away_fails_at_once_says_why_and_is_found_again_with_all_it_had() {
    let mut redis = Redis::start();
    let store = open(&redis.url());
    store.put_job(job("j1", Some("ann")), None).await.unwrap();
    store.health().unwrap();
    redis.kill();
    until("noticed", async || store.health().is_err()).await;
    until("known to be away", async || {
        let begun = Instant::now();
        let refused = matches!(store.put_intent(intent("k")).await, Err(StoreError::NotWritten(_)));
        refused && begun.elapsed() < Duration::from_millis(50)
    })
    .await;
    let read = store.job(&id("j1")).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    until("it says why", async || {
        store.health().is_err_and(|why| why.contains("redis://127.0.0.1") && why.contains("refused"))
    })
    .await;
    redis.restart();
    until("found again", async || store.health().is_ok()).await;
    assert_eq!(store.job(&id("j1")).await.unwrap().unwrap().user, UserId::from_text("ann"));
    store.put_intent(intent("k")).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_cut_costs_nobody_anything_where_another_is_made_at_once() {
    let redis = Redis::start();
    let store = Arc::new(open(&redis.url()));
    store.put_job(job("j1", Some("ann")), None).await.unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..8)
        .map(|number| {
            let (store, ended) = (store.clone(), ended.clone());
            tokio::spawn(async move {
                let mut asked = 0;
                while !ended.load(Ordering::SeqCst) {
                    let key = format!("k-{number}-{asked}");
                    store.put_intent(intent(&key)).await.unwrap();
                    assert!(store.job(&id("j1")).await.unwrap().is_some());
                    asked += 1;
                }
                asked
            })
        })
        .collect();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
    ended.store(true, Ordering::SeqCst);
    for asker in askers {
        assert!(asker.await.expect("no operation failed") > 0);
    }
}

#[tokio::test]
async fn a_redis_that_hangs_makes_nobody_wait_longer_than_promised() {
    let redis = Redis::start();
    let store = open(&redis.url());
    redis.freeze();
    let begun = Instant::now();
    let written = store.put_intent(intent("k")).await;
    assert!(matches!(written, Err(StoreError::MaybeWritten(_))), "{written:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert!(matches!(store.put_intent(intent("k2")).await, Err(StoreError::NotWritten(_))));
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    redis.thaw();
    until("found again", async || store.health().is_ok()).await;
    store.close_intent("k").await.unwrap();
    assert_eq!(store.intent("k").await.unwrap(), None, "the first one came late, or never");
    store.put_intent(intent("k3")).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_refuses_writes_is_no_place_for_a_start_until_it_takes_them_again() {
    let redis = Redis::start();
    let store = open(&redis.url());
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let full = store.put_intent(intent("k")).await;
    assert!(matches!(full, Err(StoreError::NotWritten(_))), "{full:?}");
    assert!(store.health().unwrap_err().contains("OOM"), "{:?}", store.health());
    assert_eq!(store.job(&id("none")).await.unwrap(), None, "reads go on");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    until("takes writes", async || store.health().is_ok()).await;
    store.put_intent(intent("k")).await.unwrap();

    redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let read_only = store.put_intent(intent("k2")).await;
    assert!(matches!(read_only, Err(StoreError::NotWritten(_))), "{read_only:?}");
    assert!(store.health().unwrap_err().contains("read only"), "{:?}", store.health());
    redis.ask(&["REPLICAOF", "NO", "ONE"]);
    until("a master again", async || store.health().is_ok()).await;
    store.put_intent(intent("k2")).await.unwrap();
}

#[tokio::test]
async fn a_write_waits_for_as_many_replicas_as_the_file_says() {
    let redis = Redis::start();
    let store = open_waiting(&redis.url(), 1);
    let alone = store.put_intent(intent("k")).await;
    assert!(alone.is_err(), "nobody else has it");
    assert!(store.health().unwrap_err().contains("0 of 1 replicas"), "{:?}", store.health());
    let port = redis.port().to_string();
    let replica =
        Redis::with(&[&SAFE[..], &["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]].concat());
    until("two have it", async || store.health().is_ok()).await;
    store.put_job(job("j1", Some("ann")), None).await.unwrap();
    let there = replica.ask(&["HGET", "export-gateway:job:j1", "user"]);
    assert_eq!(there, "ann", "when it is answered, the replica has it");
}

#[tokio::test]
async fn what_redis_may_lose_is_said_and_what_it_does_not_say_is_not_needed() {
    let redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "allkeys-lru"]);
    let warnings = open(&redis.url()).warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("appendfsync everysec") && warnings[1].contains("allkeys-lru"), "{warnings:?}");
    assert_eq!(open(&Redis::start().url()).warnings(), [""; 0]);

    // As where somebody else runs it: no CONFIG, a user with a password, and its own keys alone.
    let redis = Redis::with(&["--appendonly", "no", "--save", ""]);
    // The rules are those of docs/jobs.md, but for CONFIG.
    let docs = include_str!("../../../../docs/jobs.md");
    let rules = docs.split("`ACL SETUSER gateway on >… ").nth(1).unwrap().split('`').next().unwrap();
    let rules: Vec<_> = rules.split_whitespace().filter(|rule| *rule != "+config|get").collect();
    assert_eq!(redis.ask(&[&["ACL", "SETUSER", "ann", "on", ">hunter2"], &rules[..]].concat()), "OK");
    let store = open(&format!("redis://ann:hunter2@127.0.0.1:{}", redis.port()));
    store.health().unwrap();
    assert!(store.warnings()[0].contains("appendonly no"), "{:?}", store.warnings());
    store.put_job(job("j1", Some("ann")), None).await.unwrap();
    assert!(store.claim(claimed("k", "t")).await.unwrap().is_none() && store.lead().await.unwrap());
    until("listed", async || store.open_jobs(None, 10).await.unwrap().len() == 1).await;
    assert_eq!(store.all().await.unwrap().0, [id("j1")]);
    let wrong = open(&format!("redis://ann:hunter3@127.0.0.1:{}", redis.port()));
    let said = format!("{:?} {wrong:?}", wrong.health().unwrap_err());
    assert!(!said.contains("hunter"), "{said}");
    assert!(matches!(wrong.put_job(job("j2", None), None).await, Err(StoreError::NotWritten(_))));
}

#[tokio::test]
async fn what_others_have_written_under_our_keys_is_passed_over() {
    let redis = Redis::start();
    let store = open(&redis.url());
    redis.ask(&["SET", "export-gateway:job:text", "x"]);
    redis.ask(&["HSET", "export-gateway:job:future", "v", "2", "backend", "workers", "state", "open"]);
    redis.ask(&["HSET", "export-gateway:intent:odd", "v", "1", "state", "running"]);
    assert_eq!(store.job(&id("future")).await.unwrap(), None);
    assert!(store.job(&id("text")).await.is_err());
    assert_eq!(store.intent("odd").await.unwrap(), None);
    let claim = store.claim(claimed("odd", "one")).await;
    assert!(
        matches!(claim, Err(StoreError::NotWritten(Cause::KeyBusy))),
        "never a start over what is there: {claim:?}"
    );

    // Indexes: what is no id, has no record, is over, or belongs elsewhere is taken out; a young one may wait.
    store.put_job(job("over", Some("ann")), None).await.unwrap();
    store.finish_job(&id("over"), JobState::Complete, "t").await.unwrap();
    store.put_job(job("open", Some("ann")), None).await.unwrap();
    let now = Clock::system().wall_ms().to_string();
    let index = "export-gateway:open-jobs:workers";
    for (score, member) in [("1", "../x"), ("1", "gone"), (&*now, "young"), (&*now, "over"), ("1", "future")] {
        redis.ask(&["ZADD", index, score, member]);
    }
    redis.ask(&["ZADD", "export-gateway:open-jobs:legacy", &now, "open"]);
    until("mended", async || {
        let open = store.open_jobs(None, 10).await.unwrap();
        assert_eq!(open.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(), ["open"]);
        let mut left: Vec<_> = redis.ask(&["ZRANGE", index, "0", "-1"]).lines().map(str::to_owned).collect();
        left.sort();
        left == ["open", "young"] && redis.ask(&["ZCARD", "export-gateway:open-jobs:legacy"]) == "0"
    })
    .await;
}

#[tokio::test]
async fn records_are_kept_for_as_long_as_the_file_says() {
    let redis = Redis::start();
    let store = open(&redis.url());
    let now = Clock::system().wall_ms();
    let ttl =
        |key: &str| Duration::from_millis(redis.ask(&["PTTL", &format!("export-gateway:{key}")]).parse().unwrap());
    let about = |got: Duration, wanted: Duration| {
        assert!(got <= wanted && got + 30 * Duration::from_secs(1) > wanted, "{got:?} {wanted:?}")
    };
    store.put_job(job("new", Some("ann")), None).await.unwrap();
    about(ttl("job:new"), 7 * DAY);
    let old = Job { started_ms: now - 2 * 86_400_000, ..job("old", Some("ann")) };
    store.put_job(old, None).await.unwrap();
    about(ttl("job:old"), 5 * DAY);
    store.put_intent(intent("unkeyed")).await.unwrap();
    about(ttl("intent:unkeyed"), 7 * DAY);
    store.claim(claimed("keyed", "t")).await.unwrap();
    about(ttl("intent:keyed"), DAY);
    store.keep_answer(kept("keyed", "t")).await.unwrap();
    about(ttl("intent:keyed"), DAY);
    store.set_keep(DAY, Duration::from_secs(60));
    store.claim(Intent { deadline_ms: now + 600_000, ..claimed("short", "t") }).await.unwrap();
    about(ttl("intent:short"), Duration::from_secs(660));
    store.move_intent("short", BackendName::Legacy, now + 1_200_000).await.unwrap();
    about(ttl("intent:short"), Duration::from_secs(1_260));
}
