//! Several gateways on one Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::jobs::record::Closing;
use crate::jobs::store::{Cause, StoreError};

#[tokio::test]
async fn what_one_stores_the_others_know_and_memory_does_not_hide_an_owner() {
    let redis = Redis::start();
    let (one, two) = (jobs(&redis), jobs(&redis));
    two.remember_found(job("j1", None)).await.unwrap();
    assert_eq!(two.find(&id("j1")).await.unwrap().unwrap().user, None);
    one.accept(job("j1", Some("ann")), None).await.unwrap();
    assert_eq!(two.find(&id("j1")).await.unwrap().unwrap().user, UserId::from_text("ann"), "found, then owned");
    two.remember_found(job("j1", None)).await.unwrap();
    assert_eq!(one.find(&id("j1")).await.unwrap().unwrap().user, UserId::from_text("ann"));
}

#[tokio::test]
async fn the_end_of_a_job_is_counted_by_one_gateway_alone() {
    let redis = Redis::start();
    let (one, two) = (jobs(&redis), jobs(&redis));
    let count = Arc::new(AtomicU32::new(0));
    for number in 0..50 {
        let job = job(&format!("j-{number}"), Some("ann"));
        one.accept(job.clone(), None).await.unwrap();
        let seen = two.find(&job.id).await.unwrap().unwrap();
        for (gateway, job) in [(&one, &job), (&two, &seen), (&one, &job)] {
            let count = Arc::clone(&count);
            gateway.observe(job, JobState::Complete, move || _ = count.fetch_add(1, Ordering::SeqCst));
        }
    }
    until("all over", async || one.store().open_counts().await.unwrap() == [0, 0]).await;
    until("counted", async || count.load(Ordering::SeqCst) == 50).await;
    // Whoever came second has been told so by now.
    one.close().await.unwrap();
    two.close().await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 50);
}

#[tokio::test]
async fn an_owner_and_its_end_that_came_while_redis_was_away_are_stored_and_counted_once() {
    let mut redis = Redis::start();
    let (one, two) = (jobs(&redis), jobs(&redis));
    redis.kill();
    until("noticed", async || one.health().is_err()).await;
    assert!(one.accept(job("j1", Some("ann")), None).await.is_err());
    let known = one.find(&id("j1")).await.unwrap().expect("polls go on from memory");
    let count = Arc::new(AtomicU32::new(0));
    let tell = Arc::clone(&count);
    one.observe(&known, JobState::Error, move || _ = tell.fetch_add(1, Ordering::SeqCst));
    redis.restart();
    until("stored", async || matches!(two.store().job(&id("j1")).await, Ok(Some(job)) if job.state == JobState::Error))
        .await;
    until("counted", async || count.load(Ordering::SeqCst) == 1).await;
    assert_eq!(one.owed(), 0);
}

#[tokio::test]
async fn one_of_them_leads_until_it_closes() {
    let redis = Redis::start();
    let (one, two) = (jobs(&redis), jobs(&redis));
    assert!(one.store().leads().await && one.store().leads().await);
    assert!(!two.store().leads().await);
    one.close().await.unwrap();
    assert!(two.store().leads().await, "it need not wait for the lease to end");
}

#[tokio::test]
async fn an_open_start_is_taken_over_past_its_deadline_by_one_and_can_move_no_more() {
    let redis = Redis::start();
    let (one, two, three) = (open(&redis.url()), open(&redis.url()), open(&redis.url()));
    let now = Clock::system().wall_ms();
    let late = |key: &str| Intent { deadline_ms: now - 1, ..claimed(key, "t") };
    for intent in [late("late"), claimed("in-time", "t"), late("moved"), late("answered"), late("unknown")] {
        one.claim(intent).await.unwrap();
    }
    one.put_intent(Intent { resend: None, claim: None, ..late("without-body") }).await.unwrap();
    one.move_intent("moved", BackendName::Legacy, now - 1).await.unwrap();
    one.keep_answer(kept("answered", "t")).await.unwrap();
    one.mark_unknown("unknown").await.unwrap();
    until("listed", async || redis.ask(&["ZCARD", "export-gateway:open-intents"]) == "5").await;
    let keys = async |store: &RedisStore| -> Vec<String> {
        store.left_open(10).await.unwrap().iter().map(|intent| intent.key.to_string()).collect()
    };
    assert_eq!(keys(&two).await, ["late"]);
    assert_eq!(keys(&two).await, ["late"], "it may go on trying");
    assert_eq!(keys(&three).await, [""; 0], "the others leave it to that one");
    let moved = one.move_intent("late", BackendName::Legacy, now + 60_000).await;
    assert!(matches!(moved, Err(StoreError::NotWritten(Cause::NoIntent))), "workers may have it by now: {moved:?}");
    assert_eq!(one.intent("late").await.unwrap().unwrap().state, IntentState::Unknown);
    // What the one that began it has seen is not all: it neither frees it nor says what came of it.
    for refused in [one.release("late", "t").await, one.keep_answer(kept("late", "t")).await] {
        assert!(matches!(refused, Err(StoreError::NotWritten(Cause::NoIntent))), "{refused:?}");
    }
    two.put_job(job("found", Some("ann")), Some(Closing::Keep(kept("late", "t")))).await.unwrap();
    one.mark_unknown("late").await.unwrap();
    assert_eq!(one.intent("late").await.unwrap().unwrap().state, IntentState::Answered, "what is known stays known");
    assert_eq!(keys(&two).await, [""; 0]);
}

#[tokio::test]
async fn an_open_start_that_was_taken_over_and_has_ended_is_nobody_elses_to_free() {
    let redis = Redis::start();
    let (one, two) = (open(&redis.url()), open(&redis.url()));
    let now = Clock::system().wall_ms();
    one.put_intent(Intent { deadline_ms: now - 1, ..claimed("own", "own") }).await.unwrap();
    until("listed", async || redis.ask(&["ZCARD", "export-gateway:open-intents"]) == "1").await;
    assert_eq!(two.left_open(10).await.unwrap().len(), 1);
    two.put_job(job("found", Some("ann")), Some(Closing::Forget("own".into()))).await.unwrap();
    until("closed", async || one.intent("own").await.unwrap().is_none()).await;
    let freed = one.close_intent("own").await;
    assert!(matches!(freed, Err(StoreError::NotWritten(Cause::NoIntent))), "there is a job: {freed:?}");
}
