//! `kill -9` and a disk that fails, in processes of their own.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};

use super::*;
use crate::jobs::store::StoreError;

/// Not a test by itself: the process that `kill_9_loses_no_acknowledged_owner` starts and kills.
#[test]
fn child_that_writes_until_killed() {
    let Ok(path) = std::env::var("STORE_TEST_CHILD") else { return };
    let store = open(Path::new(&path));
    let run = std::process::id();
    let write = async |writer: usize| {
        for number in 0.. {
            let (name, key) = (format!("j-{run}-{writer}-{number}"), format!("k-{run}-{writer}-{number}"));
            store.put_intent(intent(&key)).await.unwrap();
            store.put_job(job(&name, Some("ann")), Some(forget(&key))).await.unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "stored {name}").unwrap();
            out.flush().unwrap();
        }
    };
    on_four_runtimes(async |thread| all((0..4).map(|task| write(thread * 4 + task))).await);
}

#[tokio::test]
async fn kill_9_loses_no_acknowledged_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let mut acknowledged = Vec::new();
    for round in 0..10u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "jobs::sqlite::tests::crash::child_that_writes_until_killed", "--nocapture"])
            .env("STORE_TEST_CHILD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while seen < 20 + round * 37 {
            let line = lines.next().unwrap().unwrap();
            seen += u64::from(line.contains("stored "));
            acknowledged.push(line);
        }
        child.kill().unwrap();
        acknowledged.extend(lines.map_while(Result::ok));
        child.wait().unwrap();
    }
    let names: Vec<_> =
        acknowledged.iter().filter_map(|line| line.split_once("stored ")).map(|(_, name)| name).collect();
    assert!(names.len() > 1000);
    let store = open(&path);
    for name in names {
        assert!(store.job(&id(name)).await.unwrap().is_some(), "{name} is lost");
    }
}

/// Not a test by itself: runs with a limit on file sizes, so that writes fail as on a broken disk.
#[test]
fn child_whose_disk_fails() {
    let Ok(path) = std::env::var("STORE_TEST_DISK") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&path));
        let mut kept = Vec::new();
        let error = loop {
            let name = format!("j-{}", kept.len());
            match store.put_job(job(&name, Some("ann")), None).await {
                Ok(()) => kept.push(name),
                Err(error) => break error,
            }
            assert!(kept.len() < 100_000, "the limit never bites");
        };
        assert!(matches!(error, StoreError::MaybeWritten(_) | StoreError::NotWritten(_)));
        assert!(store.health().is_err(), "{error:?}");
        for name in &kept {
            assert!(store.job(&id(name)).await.unwrap().is_some(), "reads go on");
        }
        // The way of saying "give me room" that needs no privilege: the soft limit goes up to the hard one.
        let raise = Command::new("prlimit")
            .args(["--pid", &std::process::id().to_string(), "--fsize=unlimited:unlimited"])
            .status();
        assert!(raise.unwrap().success());
        until("healthy", async || store.health().is_ok()).await;
        store.put_job(job("after", None), None).await.unwrap();
        for name in &kept {
            assert!(store.job(&id(name)).await.unwrap().is_some(), "nothing acknowledged is lost");
        }
        println!("the disk failed with {error:?}");
    });
}

#[test]
fn a_disk_that_fails_writes_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    // 512-byte units: the log may grow to 256 KiB.
    let script = "trap '' XFSZ; ulimit -S -f 512; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "jobs::sqlite::tests::crash::child_whose_disk_fails", "--nocapture"])
        .env("STORE_TEST_DISK", dir.path().join("jobs.db"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("the disk failed with"), "{text}");
}
