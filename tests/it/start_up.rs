//! What keeps the gateway from starting is said in one sentence; what does not, is said in `/readyz`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use toml::Table;

use crate::support::backend::Recorder;
use crate::support::client::{get, start_overlay};
use crate::support::gateway::{Backends, Gateway, command, set, table};
use crate::support::parts::shared;

fn folder(change: impl FnOnce(&mut Table)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut table = table(&Backends::from(&Recorder::start()));
    change(&mut table);
    fs::write(folder.path().join("gateway.toml"), table.to_string()).unwrap();
    folder
}

fn run_in(folder: &TempDir) -> Output {
    command().arg("--config").arg(folder.path().join("gateway.toml")).stdin(Stdio::null()).output().unwrap()
}

/// Asserts that the process ended so, and that its last word is one event with this in it.
fn ends_with(output: &Output, code: i32, words: &str) {
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{log}");
    assert!(!log.contains("panicked") && !log.contains("backtrace"), "{log}");
    let last = log.lines().last().expect("a line");
    assert!(last.contains(words), "{last}");
    if code == 1 {
        let event: Value = serde_json::from_str(last).expect("one event");
        assert_eq!(event["message"], "the gateway cannot start", "{event}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["server.listen", "admin.listen"] {
        let folder = folder(|table| set(table, key, address.as_str()));
        let words = format!("cannot listen on {address} ({key}): Address already in use");
        ends_with(&run_in(&folder), 1, &words);
    }
}

#[test]
fn an_address_of_another_machine_is_named() {
    let folder = folder(|table| set(table, "server.listen", "192.0.2.1:8080"));
    ends_with(&run_in(&folder), 1, "cannot listen on 192.0.2.1:8080 (server.listen): Cannot assign requested address");
}

#[test]
fn a_file_that_is_not_there_or_may_not_be_read_is_named() {
    let folder = folder(|_| {});
    let file = folder.path().join("gateway.toml");
    fs::remove_file(&file).unwrap();
    let output = run_in(&folder);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no such file or directory"), "{output:?}");
    ends_with(&output, 64, "the gateway does not start");
    fs::create_dir(&file).unwrap();
    let output = run_in(&folder);
    assert!(String::from_utf8_lossy(&output.stderr).contains("gateway.toml"), "{output:?}");
    ends_with(&output, 64, "the gateway does not start");
}

#[test]
fn a_mark_without_a_gateway_to_take_over_from_is_refused() {
    let folder = folder(|_| {});
    let output = command()
        .env("EXPORT_GATEWAY_TAKES_OVER", "1")
        .arg("--config")
        .arg(folder.path().join("gateway.toml"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    ends_with(&output, 1, "standard input is not a gateway to take over from");
}

#[test]
fn a_state_directory_that_cannot_be_used_degrades_and_stops_nothing() {
    let parts = shared();
    // A file where the folder should be: no rights make up for it, not even root's.
    let gateway = Gateway::with(parts, |table| set(table, "jobs.store", "gateway.toml/jobs.db"));
    let ready = get(gateway.admin(), "/readyz");
    assert_eq!((ready.status, &ready.json()["status"]), (200, &Value::from("degraded")));
    assert!(ready.text().contains("store_unavailable"), "{}", ready.text());
    assert_eq!(get(gateway.addr(), "/api/echo/x").status, 200);
    let user = parts.user();
    let started = start_overlay(gateway.addr(), &user);
    assert_eq!((started.status, started.header("x-export-backend")), (200, Some("legacy")));
}

#[test]
fn a_state_directory_on_a_read_only_file_system_degrades() {
    let folder = folder(|table| set(table, "jobs.store", "state/jobs.db"));
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let script = r#"mount -t tmpfs -o ro none "$1" && exec "$0" --config "$2""#;
    let mut shell = Command::new("unshare");
    shell.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(command().get_program());
    shell.arg(&state).arg(folder.path().join("gateway.toml")).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = shell.spawn().unwrap();
    let mut log = String::new();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap());
    while !log.contains("admin listening") {
        assert!(std::io::BufRead::read_line(&mut lines, &mut log).unwrap() > 0, "{log}");
    }
    let admin = log.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()).expect("an event");
    let admin = admin["address"].as_str().and_then(|it| it.parse().ok()).expect("an address");
    let ready = get(admin, "/readyz");
    let (status, text) = (ready.status, ready.text());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(status == 200 && text.contains("store_unavailable") && text.contains("Read-only file system"), "{text}");
}

#[test]
fn a_file_that_is_mounted_alone_is_warned_of_at_the_start_and_by_check() {
    let folder = folder(|_| {});
    let file = folder.path().join("gateway.toml");
    let copy = folder.path().join("copy.toml");
    fs::copy(&file, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    for arguments in ["check --config", "--config"] {
        let script = r#"mount --bind "$1" "$2" && exec timeout -s TERM 2 "$0" $3 "$2""#;
        let mut shell = Command::new("unshare");
        shell.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(command().get_program());
        let output = shell.arg(&copy).arg(&file).arg(arguments).stdin(Stdio::null()).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("is mounted as a single file"), "{arguments}: {said}");
    }
}
