//! Damaged files: what is readable is kept, the rest set aside.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::*;

/// Fills a store with 2,000 jobs and closes it.
async fn filled(path: &Path) {
    let store = Arc::new(open(path));
    let writes: Vec<_> = (0..2000)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.put_job(job(&format!("job-{number:04}"), Some("ann")), None).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    store.close().await.unwrap();
}

/// Overwrites every page that holds a text: one of the table, one of its index.
fn damage(path: &Path, text: &[u8]) {
    let bytes = fs::read(path).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    for (page, content) in bytes.chunks(4096).enumerate() {
        if content.windows(text.len()).any(|bytes| bytes == text) {
            file.write_all_at(&[0xff; 4096], page as u64 * 4096).unwrap();
        }
    }
}

fn set_aside(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("jobs.db.damaged-") && !name.ends_with("-wal")).count()
}

#[tokio::test]
async fn a_damaged_page_costs_its_own_rows_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    filled(&path).await;
    damage(&path, b"job-0700");
    let store = open(&path);
    store.health().unwrap();
    let kept = store.open_jobs(None, 10_000).await.unwrap().len();
    assert!((1900..2000).contains(&kept), "{kept} of 2000 kept");
    assert_eq!(store.open_count(BackendName::Workers), kept as i64);
    assert!(store.job(&id("job-1999")).await.unwrap().is_some(), "beyond the damage");
    assert_eq!(set_aside(dir.path()), 1);
    store.put_job(job("new", None), None).await.unwrap();
}

#[tokio::test]
async fn a_truncated_store_keeps_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    filled(&path).await;
    let file = fs::File::options().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length / 2 + 123).unwrap();
    let store = open(&path);
    store.health().unwrap();
    let kept = store.open_jobs(None, 10_000).await.unwrap().len();
    assert!(kept > 500, "{kept} of 2000 kept");
    assert_eq!(set_aside(dir.path()), 1);
    store.put_job(job("new", None), None).await.unwrap();
}

#[tokio::test]
async fn garbage_is_set_aside_and_the_store_begins_anew() {
    for garbage in [vec![b'x'; 100_000], b"SQLite format 3\0".repeat(1000)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.db");
        fs::write(&path, &garbage).unwrap();
        let store = open(&path);
        store.health().unwrap();
        store.put_job(job("new", None), None).await.unwrap();
        assert_eq!(set_aside(dir.path()), 1);
    }
}

#[tokio::test]
async fn damage_while_running_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    filled(&path).await;
    let store = open(&path);
    damage(&path, b"job-0700");
    until("set aside", async || {
        let _ = store.job(&id("job-0700")).await;
        set_aside(dir.path()) == 1
    })
    .await;
    until("healthy", async || store.health().is_ok()).await;
    assert!(store.job(&id("job-1999")).await.unwrap().is_some());
    store.put_job(job("new", None), None).await.unwrap();
}

#[test]
fn a_rescue_that_was_cut_off_is_finished_or_thrown_away() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    runtime.block_on(filled(&path));
    // The copy is whole and the damaged file has moved already.
    fs::rename(&path, dir.path().join("jobs.db.rescue")).unwrap();
    fs::write(dir.path().join("jobs.db-wal"), "left over").unwrap();
    let store = open(&path);
    assert_eq!(store.open_count(BackendName::Workers), 2000);
    runtime.block_on(store.close()).unwrap();
    fs::write(dir.path().join("jobs.db.rescue"), "half-made").unwrap();
    let store = open(&path);
    assert_eq!(store.open_count(BackendName::Workers), 2000);
    assert!(!dir.path().join("jobs.db.rescue").exists());
    drop(store);
}

#[tokio::test]
async fn a_disk_that_damages_everything_is_not_filled_with_copies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    for number in 0..crate::limits::DAMAGED_KEPT {
        fs::write(dir.path().join(format!("jobs.db.damaged-{number}")), "").unwrap();
    }
    fs::write(&path, "garbage").unwrap();
    let store = open(&path);
    assert!(store.health().unwrap_err().contains("damaged again"), "{:?}", store.health());
    assert_eq!(fs::read(&path).unwrap(), b"garbage");
    fs::remove_file(dir.path().join("jobs.db.damaged-0")).unwrap();
    until("healthy", async || store.health().is_ok()).await;
}

#[tokio::test]
async fn answers_of_keys_are_kept_from_a_damaged_store() {
    use crate::jobs::record::{Claim, Kept, KeptAnswer};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    filled(&path).await;
    let store = open(&path);
    let claim = Claim { token: "t".into(), body: [7; 32] };
    store.claim(Intent { claim: Some(claim.clone()), ..intent("key-1") }).await.unwrap();
    let answer = KeptAnswer { status: 200, content_type: None, body: "an answer".into() };
    let kept = Kept { key: "key-1".into(), token: "t".into(), answer: answer.clone() };
    store.keep_answer(kept).await.unwrap();
    store.close().await.unwrap();
    damage(&path, b"job-0700");
    let store = open(&path);
    store.health().unwrap();
    assert_eq!(set_aside(dir.path()), 1);
    let read = store.intent("key-1").await.unwrap().unwrap();
    assert_eq!((read.claim, read.answer), (Some(claim), Some(answer)));
}

/// A text that is none, as a flipped bit leaves it; the table itself is sound.
async fn with_row(sql: &str, read: impl AsyncFn(&SqliteStore)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.db");
    let store = open(&path);
    store.put_job(job("whole", None), None).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let store = open(&path);
    read(&store).await;
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_job_whose_user_cannot_be_read_is_not_everybodys() {
    let sql = "INSERT INTO jobs (id, backend, export, user, started_ms, state)
        VALUES ('odd', 'workers', 'overlay', '!?', 1, 'open')";
    with_row(sql, async |store| {
        assert_eq!(store.job(&id("odd")).await.unwrap(), None);
        assert_eq!(store.job(&id("whole")).await.unwrap().unwrap().user, None);
    })
    .await;
}

#[tokio::test]
async fn a_row_that_is_no_text_keeps_no_other_from_being_counted() {
    let sql = "INSERT INTO jobs (id, backend, export, user, started_ms, state)
        VALUES ('odd', CAST(x'ff77' AS TEXT), 'overlay', 'ann', 1, 'open')";
    with_row(sql, async |store| {
        assert_eq!(store.open_count(BackendName::Workers), 1);
        assert_eq!(store.job(&id("odd")).await.unwrap(), None);
    })
    .await;
}
