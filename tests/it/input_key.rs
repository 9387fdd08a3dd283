//! Where `input_key` comes from, and what happens when it cannot be had: legacy decides, and workers hear nothing.

use std::fs;

use rusqlite::Connection as Database;
use serde_json::json;
use toml::Table;

use crate::support::client::{self, Request};
use crate::support::gateway::{Gateway, set as set_key, unset};
use crate::support::parts::{self, Set, header_of};
use crate::support::rude::refused_addr;
use crate::support::scene::{self, assert_own, header, line_of, only, start_as, start_of, until_seen};
use crate::support::unique_user;

fn by_url(table: &mut Table) {
    unset(table, "exports.overlay.input_key");
    set_key(table, "exports.overlay.input_key.url", "/api/projects/{project_id}/working-video");
    set_key(table, "exports.overlay.input_key.pointer", "/filename");
    set_key(table, "exports.overlay.input_key.key", "by_url/{filename}");
}

fn by_field(table: &mut Table) {
    unset(table, "exports.overlay.input_key");
    unset(table, "exports.overlay.params"); // Every field then, but this one.
    set_key(table, "exports.overlay.input_key.field", "source");
}

#[test]
fn the_newest_version_of_the_users_own_video_is_exported() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let (user, other) = (set.user(), set.user());
    set.legacy.add_video(&user, 12, "second.mp4");
    set.legacy.add_video(&user, 13, "project-13.mp4");
    set.legacy.add_video(&other, 12, "somebody-elses.mp4");
    for (export, project, filename) in
        [("overlay", 12, "second.mp4"), ("framing", 13, "project-13.mp4"), ("annotate", 12, "second.mp4")]
    {
        let request = start_of(export, &json!({"project_id": project}).to_string()).user(&user);
        assert_eq!(client::send(gateway.addr(), &request).status, 200);
        let jobs = set.workers.jobs_of(&user);
        let newest = jobs.last().expect("a job");
        assert_eq!(
            (&newest["type"], &newest["input_key"]),
            (&json!(export), &json!(format!("working_videos/{filename}")))
        );
    }
}

#[test]
fn legacy_can_be_asked_for_the_key() {
    let set = parts::shared();
    let gateway = Gateway::with(set, by_url);
    let user = set.user();
    let request = start_as(&user, "by-url").header("Cookie", "session=1").header("Authorization", "Bearer t");
    let answer = client::send(gateway.addr(), &request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(set.workers.jobs_of(&user)[0]["input_key"], "by_url/clip.mp4");
    let asked = only(&set.legacy, "other", &user);
    assert_eq!((&asked["method"], &asked["path"]), (&json!("GET"), &json!("/api/projects/12/working-video")));
    assert_eq!((header(&asked, "cookie"), header(&asked, "authorization")), ("session=1".into(), "Bearer t".into()));
    assert!(header_of(&asked, "content-length").is_empty() && header_of(&asked, "content-type").is_empty());
    let missing = client::send(gateway.addr(), &start_of("overlay", r#"{"project_id":13}"#).user(&user));
    assert_eq!((missing.status, missing.text().as_str()), (400, r#"{"detail":"No working video found"}"#));
    assert_eq!(set.jobs_of(&user), (0, 1));
    // What legacy cannot say, legacy shall decide: here it cannot be asked at all.
    let alone = Gateway::with(scene::legacy_at(set, format!("http://{}", refused_addr())), by_url);
    assert_own(&client::send(alone.addr(), &start_as(&user, "alone")), 503, "no_backend");
    assert_eq!(line_of(&alone, "alone")["fallback"], "lookup_failed");
}

#[test]
fn the_client_can_send_the_key() {
    let set = parts::shared();
    let gateway = Gateway::with(set, by_field);
    let user = set.user();
    let body = r#"{"project_id":12,"source":"raw/\u0061 b.mp4","effect_type":"x"}"#;
    assert_eq!(client::send(gateway.addr(), &start_of("overlay", body).user(&user)).status, 200);
    let seen = only(&set.workers, "start", &user);
    assert_eq!(seen["body"], r#"{"project_id":12,"input_key":"raw/a b.mp4","params":{"effect_type":"x"}}"#);
    for (n, source) in ["null", "\"\"", "7", "\"a/../b\"", "\"a\\u0000\""].iter().enumerate() {
        let user = set.user();
        let body = format!(r#"{{"project_id":12,"highlight_regions":[],"source":{source}}}"#);
        let request = start_of("overlay", &body).user(&user).header("X-Request-Id", &format!("field-{n}"));
        assert_eq!(client::send(gateway.addr(), &request).status, 200, "{source}: legacy needs no such field");
        assert_eq!(set.jobs_of(&user), (1, 0), "{source}");
    }
    assert_eq!(line_of(&gateway, "field-4")["reason"], "untranslatable");
}

/// Breaks a user's look-up.
type Break = fn(&Set, &str);

fn faults() -> [(&'static str, Break); 7] {
    [
        ("no folder", |set, user| fs::remove_dir_all(set.legacy.database(user).parent().unwrap()).unwrap()),
        ("no table", |set, user| fs::write(set.legacy.database(user), "").unwrap()),
        ("garbage", |set, user| fs::write(set.legacy.database(user), "no database at all".repeat(500)).unwrap()),
        ("a folder", |set, user| {
            fs::remove_file(set.legacy.database(user)).unwrap();
            fs::create_dir(set.legacy.database(user)).unwrap();
        }),
        ("null", |set, user| run(set, user, "UPDATE working_videos SET filename = NULL")),
        ("parent", |set, user| run(set, user, "UPDATE working_videos SET filename = '../../secret'")),
        ("control", |set, user| run(set, user, "UPDATE working_videos SET filename = 'a' || char(10) || 'b'")),
    ]
}

fn run(set: &Set, user: &str, sql: &str) {
    Database::open(set.legacy.database(user)).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn a_look_up_that_fails_goes_to_legacy_once() {
    // Its own set: with broken databases nobody can count legacy's jobs.
    let set = &Set::start();
    let gateway = Gateway::start(set);
    let alone = Gateway::with(set, |table| set_key(table, "backends.workers.fallback", false));
    for (n, (name, break_it)) in faults().into_iter().enumerate() {
        let user = set.user();
        break_it(set, &user);
        let refused = client::send(alone.addr(), &start_as(&user, &format!("lookup-{n}")));
        assert_own(&refused, 503, "no_backend");
        assert!(refused.header("retry-after").is_some());
        assert!(set.legacy.seen_from("start", &user).is_empty(), "{name}");
        let answer = client::send(gateway.addr(), &start_as(&user, &format!("lookup-{n}")));
        assert_eq!(answer.header("x-export-backend"), Some("legacy"), "{name}");
        only(&set.legacy, "start", &user);
        assert!(set.workers.seen_from("start", &user).is_empty(), "{name}");
    }
    for n in 0..faults().len() {
        let line = line_of(&gateway, &format!("lookup-{n}"));
        assert_eq!((&line["reason"], &line["fallback"]), (&json!("canary"), &json!("lookup_failed")), "{line}");
        assert_eq!((&line["decision"], &line["backend"]), (&json!("workers"), &json!("legacy")), "{line}");
    }
    let labels = [("type", "overlay"), ("cause", "lookup_failed")];
    assert_eq!(gateway.metric("export_gateway_fallbacks_total", &labels), faults().len() as f64);
}

#[test]
fn a_database_locked_by_its_writer_goes_to_legacy_once() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = set.user();
    let writer = Database::open(set.legacy.database(&user)).unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let answer = std::thread::scope(|scope| {
        let start = scope.spawn(|| client::send(gateway.addr(), &start_as(&user, "locked")));
        // Legacy waits for the same lock, as long as it needs.
        until_seen(&set.legacy, "start", &user, 1);
        writer.execute_batch("COMMIT").unwrap();
        start.join().unwrap()
    });
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("legacy")), "{}", answer.text());
    assert_eq!(set.jobs_of(&user), (1, 0));
    only(&set.legacy, "start", &user);
    assert!(set.workers.seen_from("start", &user).is_empty());
    let line = line_of(&gateway, "locked");
    assert_eq!((&line["reason"], &line["fallback"]), (&json!("canary"), &json!("lookup_failed")), "{line}");
}

#[test]
fn a_writer_that_is_not_done_yet_holds_up_no_look_up() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = set.user();
    let writer = Database::open(set.legacy.database(&user)).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE; UPDATE working_videos SET filename = 'not-yet.mp4'").unwrap();
    let answer = client::send(gateway.addr(), &start_as(&user, "reserved"));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")), "{}", answer.text());
    assert_eq!(set.workers.jobs_of(&user)[0]["input_key"], "working_videos/clip.mp4");
    // No statement of the gateway's is left to stand in the writer's way.
    writer.execute_batch("COMMIT").unwrap();
    assert_eq!(client::send(gateway.addr(), &start_as(&user, "committed")).status, 200);
    assert_eq!(set.workers.jobs_of(&user)[1]["input_key"], "working_videos/not-yet.mp4");
}

#[test]
fn a_database_replaced_by_rename_is_read_anew() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = set.user();
    assert_eq!(client::send(gateway.addr(), &start_as(&user, "before")).status, 200);
    let (file, new) = (set.legacy.database(&user), set.legacy.database(&user).with_extension("new"));
    fs::copy(&file, &new).unwrap();
    let copy = Database::open(&new).unwrap();
    copy.execute_batch("UPDATE working_videos SET filename = 'restored.mp4'").unwrap();
    copy.close().unwrap();
    fs::rename(&new, &file).unwrap();
    assert_eq!(client::send(gateway.addr(), &start_as(&user, "after")).status, 200);
    assert_eq!(set.workers.jobs_of(&user)[1]["input_key"], "working_videos/restored.mp4");
}

#[test]
fn a_user_without_a_database_is_legacys_to_judge() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = unique_user();
    let answer = client::send(gateway.addr(), &start_as(&user, "new-user"));
    assert_eq!((answer.status, answer.text().as_str()), (400, r#"{"detail":"No working video found"}"#));
    assert_eq!(answer.header("x-export-backend"), Some("legacy"));
    only(&set.legacy, "start", &user);
    let again = client::send(gateway.addr(), &Request::get("/api/projects").user(&user));
    assert_eq!(again.text(), "[]");
}
