//! Old records and clocks that jump.

use std::sync::Arc;

use super::*;
use crate::jobs::clock::ManualClock;

const DAY_MS: u64 = 86_400_000;
const NOW_MS: u64 = 1_795_526_645_000;

#[test]
fn expiry_never_trusts_a_clock_that_jumped() {
    use crate::jobs::sqlite::expiry::{Expiry, Keep};
    let dir = tempfile::tempdir().unwrap();
    let conn = schema::open_for_writing(&dir.path().join("jobs.db")).unwrap();
    let hands = ManualClock::at(NOW_MS);
    let clock = Clock::Manual(Arc::clone(&hands));
    let keep = Keep { records: Duration::from_secs(7 * 86_400), keys: Duration::from_secs(86_400) };
    for (name, started_ms) in [("old", NOW_MS - 8 * DAY_MS), ("new", NOW_MS)] {
        rows::put_job(&conn, &Job { started_ms, ..job(name, None) }).unwrap();
    }
    intents::put(&conn, &Intent { started_ms: 5, ..intent("old") }, 1).unwrap();
    let count = || -> i64 { conn.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap() };
    let minute = Duration::from_secs(61);

    let mut expiry = Expiry::new(&clock);
    assert_eq!(expiry.step(&conn, &clock, keep).unwrap(), rows::Effect::default(), "not at once");
    hands.set_wall_ms(NOW_MS - 30 * DAY_MS);
    hands.pass(minute);
    expiry.step(&conn, &clock, keep).unwrap();
    assert_eq!(count(), 2, "back by a month");
    hands.set_wall_ms(NOW_MS + 30 * DAY_MS);
    for _ in 0..100 {
        hands.pass(minute);
        expiry.step(&conn, &clock, keep).unwrap();
    }
    assert_eq!(count(), 2, "ahead by a month");
    hands.set_wall_ms(NOW_MS + 101 * 61_000);
    hands.pass(minute);
    assert_eq!(expiry.step(&conn, &clock, keep).unwrap().open, [0, -1]);
    assert_eq!(count(), 1, "right again: the old one goes");
    assert!(intents::intent(&conn, "old", 0).unwrap().is_none());

    // A clock that begins before the newest record.
    let hands = ManualClock::at(NOW_MS - DAY_MS);
    let clock = Clock::Manual(Arc::clone(&hands));
    let mut expiry = Expiry::new(&clock);
    hands.pass(minute);
    expiry.step(&conn, &clock, Keep { records: Duration::ZERO, keys: Duration::ZERO }).unwrap();
    assert_eq!(count(), 1);

    // A step (a machine that slept) is believed after a day.
    let hands = ManualClock::at(NOW_MS);
    let clock = Clock::Manual(Arc::clone(&hands));
    let mut expiry = Expiry::new(&clock);
    hands.set_wall_ms(NOW_MS + 8 * DAY_MS);
    hands.pass(minute);
    expiry.step(&conn, &clock, keep).unwrap();
    hands.pass(Duration::from_secs(23 * 3600));
    expiry.step(&conn, &clock, keep).unwrap();
    assert_eq!(count(), 1);
    hands.pass(Duration::from_secs(2 * 3600));
    expiry.step(&conn, &clock, keep).unwrap();
    assert_eq!(count(), 0);
}

#[tokio::test]
async fn expiry_runs_by_itself_in_batches_and_keeps_the_counts() {
    let dir = tempfile::tempdir().unwrap();
    let hands = ManualClock::at(NOW_MS);
    let settings = Settings {
        keep: Duration::from_secs(60),
        key_keep: Duration::from_secs(60),
        clock: Clock::Manual(Arc::clone(&hands)),
    };
    let store = Arc::new(SqliteStore::open(&dir.path().join("jobs.db"), settings).unwrap());
    for chunk in 0..5 {
        let writes: Vec<_> = (0..500)
            .map(|number| {
                let store = Arc::clone(&store);
                let old = Job { started_ms: NOW_MS, ..job(&format!("old-{chunk}-{number}"), None) };
                tokio::spawn(async move { store.put_job(old, None).await })
            })
            .collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
    }
    assert_eq!(store.open_count(BackendName::Workers), 2500);
    until("all expired", async || {
        hands.pass(Duration::from_secs(61));
        store.open_count(BackendName::Workers) == 0
    })
    .await;
    assert_eq!(store.open_counts().await.unwrap(), [0, 0]);
}
