//! The access log in a file: renamed as logrotate does it, full, and where it cannot be.

use std::fs;

use serde_json::Value;

use super::support::backend::Recorder;
use super::support::client;
use super::support::eventually;
use super::support::gateway::{Gateway, run, set, table};

fn paths(text: &str) -> Vec<String> {
    let read = |line: &str| serde_json::from_str::<Value>(line).unwrap()["path"].as_str().unwrap().to_owned();
    text.lines().map(read).collect()
}

#[test]
fn a_renamed_access_log_is_opened_anew_and_no_line_is_lost() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::with(&recorder, |table| set(table, "log.access", "access.log"));
    let (path, old) = (gateway.folder().join("access.log"), gateway.folder().join("access.log.1"));
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    client::get(gateway.addr(), "/before");
    eventually("the first line", || (paths(&read(&path)) == ["/before"]).then_some(()));
    fs::rename(&path, &old).unwrap();
    client::get(gateway.addr(), "/after");
    // The last lines are written at the end of the process.
    assert!(gateway.term().success());
    assert_eq!(paths(&read(&old)), ["/before"]);
    assert_eq!(paths(&read(&path)), ["/after"]);
    assert!(gateway.access_lines().is_empty(), "they do not go to standard output, too");
    assert_eq!(gateway.events("access log opened anew").len(), 1);
}

#[test]
fn lines_that_a_full_disk_does_not_take_are_counted_and_requests_go_on() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| set(table, "log.access", "/dev/full"));
    for _ in 0..3 {
        assert_eq!(client::get(gateway.addr(), "/x").status, 200);
    }
    eventually("three lost lines", || (gateway.metric("export_gateway_log_lines_lost", &[]) >= 3.0).then_some(()));
    let event = gateway.event("the access log cannot be written: its lines are lost");
    assert!(event.to_string().contains("/dev/full"), "{event}");
}

#[test]
fn an_access_log_that_cannot_be_opened_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = super::support::gateway::Backends {
        legacy: "http://127.0.0.1:9".to_owned(),
        workers: "http://127.0.0.1:9".to_owned(),
        data: folder.path().to_owned(),
    };
    let mut table = table(&nowhere);
    set(&mut table, "log.access", "no/such/folder/access.log");
    let path = folder.path().join("gateway.toml");
    fs::write(&path, table.to_string()).unwrap();
    let output = run(&["--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no/such/folder/access.log") && said.contains("log.access"), "{said}");
}
