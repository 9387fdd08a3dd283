//! Look-ups beside a real writer, on real files.

use std::fs;
use std::process::Command;

use super::*;
use crate::names::UserId;

const QUERY: &str = "SELECT filename FROM working_videos WHERE project_id = :project_id ORDER BY version DESC LIMIT 1";

struct Home {
    dir: tempfile::TempDir,
    lookups: Lookups,
}

impl Home {
    fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap(), lookups: Lookups::start() }
    }

    fn file(&self, user: &str) -> PathBuf {
        self.dir.path().join(user).join("database.sqlite")
    }

    /// Makes a user's database as legacy does: journal mode delete.
    fn database(&self, user: &str) -> Connection {
        fs::create_dir_all(self.dir.path().join(user)).unwrap();
        let conn = Connection::open(self.file(user)).unwrap();
        conn.execute_batch(
            "CREATE TABLE working_videos (id INTEGER PRIMARY KEY, project_id INTEGER, filename TEXT, version INTEGER);
             INSERT INTO working_videos (project_id, filename, version) VALUES (12, 'old.mp4', 1), (12, 'new.mp4', 2),
                (13, NULL, 1), (14, '../../etc/passwd', 1), (15, 'a' || char(10) || 'b', 1), (16, '', 1);",
        )
        .unwrap();
        conn
    }

    fn lookup(&self, query: &str, key: &str) -> DatabaseLookup {
        DatabaseLookup {
            database: format!("{}/{{user_id}}/database.sqlite", self.dir.path().display()),
            base: self.dir.path().to_owned(),
            query: query.into(),
            key: key.into(),
            missing: "No working video found".into(),
        }
    }

    async fn find(&self, user: &str, project_id: i64) -> Result<String, LookupError> {
        let lookup = self.lookup(QUERY, "working_videos/{filename}");
        self.lookups.look_up(&lookup, &UserId::from_text(user).unwrap(), project_id).await
    }

    async fn with(&self, query: &str, key: &str) -> Result<String, LookupError> {
        self.lookups.look_up(&self.lookup(query, key), &UserId::from_text("ann").unwrap(), 12).await
    }
}

fn failed(result: &Result<String, LookupError>) -> bool {
    matches!(result, Err(LookupError::Failed(_)))
}

#[tokio::test]
async fn a_key_is_found_or_missing_or_fails() {
    let home = Home::new();
    home.database("ann");
    home.database("caf\u{e9}");
    assert_eq!(home.find("ann", 12).await.unwrap(), "working_videos/new.mp4");
    assert_eq!(home.find("caf\u{e9}", 12).await.unwrap(), "working_videos/new.mp4");
    assert!(matches!(home.find("ann", 99).await, Err(LookupError::Missing)));
    for odd in [13, 14, 15, 16] {
        assert!(failed(&home.find("ann", odd).await), "{odd}");
    }
    assert!(failed(&home.find("nobody", 12).await));
    assert!(!home.file("nobody").exists());
    fs::create_dir_all(home.file("folder")).unwrap();
    assert!(failed(&home.find("folder", 12).await));
    for (user, content) in [("garbage", "x".repeat(5000)), ("empty", String::new())] {
        fs::create_dir_all(home.dir.path().join(user)).unwrap();
        fs::write(home.file(user), content).unwrap();
        assert!(failed(&home.find(user, 12).await), "{user}");
    }
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_file_blocks_nobody() {
    let home = Home::new();
    fs::create_dir_all(home.dir.path().join("pipe")).unwrap();
    assert!(Command::new("mkfifo").arg(home.file("pipe")).status().unwrap().success());
    assert!(failed(&home.find("pipe", 12).await));
}

#[tokio::test]
async fn queries_are_bound_filled_and_limited() {
    let home = Home::new();
    home.database("ann");
    assert_eq!(home.with("SELECT 7 AS n, :user_id AS u", "v/{u}/{n}.mp4").await.unwrap(), "v/ann/7.mp4");
    assert_eq!(home.with("SELECT :project_id AS p", "{p}").await.unwrap(), "12");
    assert!(failed(&home.with("SELECT 1 AS a", "{b}").await));
    assert!(failed(&home.with("SELECT 1.5 AS a", "{a}").await));
    assert!(failed(&home.with("SELECT x'00' AS a", "{a}").await));
    assert!(failed(&home.with("SELECT nonsense", "{a}").await));
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS a FROM n";
    let start = Instant::now();
    assert!(failed(&home.with(endless, "{a}").await));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(failed(&home.with("DELETE FROM working_videos RETURNING filename AS a", "{a}").await));
    assert_eq!(home.find("ann", 12).await.unwrap(), "working_videos/new.mp4", "nothing was deleted");
}

#[tokio::test]
async fn reads_pass_a_reserved_lock_and_wait_for_an_exclusive_one() {
    let home = Home::new();
    let writer = home.database("ann");
    home.database("bob");
    home.find("ann", 12).await.unwrap();
    writer
        .execute_batch("BEGIN IMMEDIATE; UPDATE working_videos SET filename = 'newer.mp4' WHERE version = 2")
        .unwrap();
    assert_eq!(home.find("ann", 12).await.unwrap(), "working_videos/new.mp4");
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(home.find("ann", 12).await.unwrap(), "working_videos/newer.mp4", "the kept handle sees the change");

    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let start = Instant::now();
    let locked = home.find("ann", 12);
    let other = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let begun = Instant::now();
        home.find("bob", 12).await.unwrap();
        begun.elapsed()
    };
    let (locked, other) = tokio::join!(locked, other);
    assert!(failed(&locked));
    assert!((200..600).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    assert!(other < Duration::from_millis(100), "another user waits for nobody: {other:?}");
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        writer.execute_batch("COMMIT").unwrap();
    };
    let (found, ()) = tokio::join!(home.find("ann", 12), release);
    assert_eq!(found.unwrap(), "working_videos/newer.mp4", "released within the wait");
}

#[tokio::test]
async fn the_backends_writer_is_never_blocked() {
    let home = Home::new();
    drop(home.database("ann"));
    let script = "
import sqlite3, sys, time
conn = sqlite3.connect(sys.argv[1], timeout=0.2, isolation_level=None)
for n in range(200):
    conn.execute('BEGIN IMMEDIATE')
    conn.execute('INSERT INTO working_videos (project_id, filename, version) VALUES (12, ?, ?)', ('w%d' % n, n + 3))
    conn.execute('COMMIT')
print(conn.execute('PRAGMA journal_mode').fetchone()[0])
";
    let path = home.file("ann");
    let writer = std::thread::spawn(move || Command::new("python3").args(["-c", script]).arg(path).output().unwrap());
    let mut reads = 0;
    while !writer.is_finished() {
        // A reader that comes too late within a busy moment fails; it never holds the writer up.
        let _ = home.find("ann", 12).await;
        reads += 1;
    }
    let output = writer.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(reads > 10);
    assert_eq!(home.find("ann", 12).await.unwrap(), "working_videos/w199");
    // An idle handle holds nothing.
    Connection::open(home.file("ann")).unwrap().execute_batch("BEGIN EXCLUSIVE; COMMIT").unwrap();
}

#[tokio::test]
async fn a_hot_journal_is_left_to_the_backend() {
    let home = Home::new();
    drop(home.database("ann"));
    // Killed between writing pages and commit: a small cache spills, so the journal is hot.
    let script = "
import os, sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute('PRAGMA cache_size = 1'); conn.execute('PRAGMA cache_spill = 1'); conn.execute('BEGIN')
for n in range(5000):
    conn.execute('INSERT INTO working_videos (project_id, filename, version) VALUES (12, ?, ?)', ('x' * 200, n + 3))
os.kill(os.getpid(), 9)
";
    Command::new("python3").args(["-c", script]).arg(home.file("ann")).output().unwrap();
    let journal = home.dir.path().join("ann/database.sqlite-journal");
    assert!(fs::metadata(&journal).unwrap().len() > 0, "the journal is hot");
    let before = fs::read(home.file("ann")).unwrap();
    assert!(failed(&home.find("ann", 12).await));
    assert!(journal.exists() && fs::read(home.file("ann")).unwrap() == before, "nothing was touched");
    let backend = Connection::open(home.file("ann")).unwrap();
    let count: i64 = backend.query_row("SELECT count(*) FROM working_videos", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 6, "the backend repairs it");
    assert_eq!(home.find("ann", 12).await.unwrap(), "working_videos/new.mp4");
}

#[tokio::test]
async fn a_replaced_file_is_opened_anew() {
    let home = Home::new();
    home.database("ann");
    let other = home.database("bob");
    other.execute_batch("UPDATE working_videos SET filename = 'replaced.mp4'").unwrap();
    drop(other);
    assert_eq!(home.find("ann", 12).await.unwrap(), "working_videos/new.mp4");
    fs::rename(home.file("bob"), home.file("ann")).unwrap();
    assert_eq!(home.find("ann", 12).await.unwrap(), "working_videos/replaced.mp4");
    fs::remove_file(home.file("ann")).unwrap();
    assert!(failed(&home.find("ann", 12).await));
}

#[tokio::test]
async fn handles_are_bounded_over_all_users() {
    let home = Home::new();
    drop(home.database("template"));
    let users = limits::LOOKUP_HANDLES + 100;
    for user in 0..users {
        fs::create_dir_all(home.dir.path().join(format!("u{user}"))).unwrap();
        fs::copy(home.file("template"), home.file(&format!("u{user}"))).unwrap();
        home.find(&format!("u{user}"), 12).await.unwrap();
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let open = open.filter(|path| path.starts_with(home.dir.path())).count();
    assert!((limits::LOOKUP_HANDLES / 2..=limits::LOOKUP_HANDLES).contains(&open), "{open} open");
    assert_eq!(home.find("u0", 12).await.unwrap(), "working_videos/new.mp4");
}

#[test]
fn a_query_is_planned_once_for_all_projects() {
    let home = Home::new();
    home.database("ann");
    let handle = Handle::open(&home.file("ann"), Duration::ZERO).unwrap();
    for project_id in [12, 13, 99] {
        let ask = Ask {
            path: home.file("ann"),
            lookup: home.lookup(QUERY, "{filename}"),
            user: UserId::from_text("ann").unwrap(),
            project_id,
            since: Instant::now(),
            reply: oneshot::channel().0,
        };
        let _ = handle.look_up(&ask);
    }
    let statement = handle.conn.prepare_cached(QUERY).unwrap();
    assert_eq!(statement.get_status(rusqlite::StatementStatus::Run), 3);
    assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0);
}
