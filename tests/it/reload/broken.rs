//! Files that must change nothing and what is said about them; and what else a reload promises.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::support::client::{self, Request, overlay};
use super::super::support::gateway::{Gateway, text_of};
use super::super::support::parts::{Set, Workers, shared};
use super::super::support::{eventually, within};
use super::{DEADLINE, Eye, LIVE, look, text, text_at};

/// Bytes of a broken file, and what `/readyz` must say of it; `None` deletes the file.
type Broken = (&'static str, Option<Vec<u8>>, &'static [&'static str], &'static str);

/// Returns the files, each made from the good one.
fn broken_files(good: &str) -> Vec<Broken> {
    let line = 1 + good.lines().position(|line| line.starts_with("percent")).expect("a line percent");
    assert_eq!(line, line_of_percent(good));
    let bytes = |text: String| Some(text.into_bytes());
    let mut latin1 = good.as_bytes().to_vec();
    let at = good.find("percent").expect("a line percent");
    latin1.insert(at, 0xe9);
    vec![
        ("syntax", bytes(good.replace("percent = 30", "percent = = 30")), &["not valid TOML"], "rejected"),
        (
            "unknown key",
            bytes(good.replace("percent = 30", "percnt = 30")),
            &["rollout.percnt: is not a known key", "did you mean `percent`?"],
            "rejected",
        ),
        (
            "value",
            bytes(good.replace("percent = 30", "percent = 250")),
            &["rollout.percent: 250 is not between 0 and 100", "write a percentage of users"],
            "rejected",
        ),
        ("empty", bytes(String::new()), &["is empty", "is something still writing it?"], "incomplete"),
        (
            "half-written",
            bytes(good[..good.len() / 2].to_owned()),
            &["does not end with # END", "add the line # END"],
            "incomplete",
        ),
        ("deleted", None, &["cannot be read: no such file", "name the file with --config"], "rejected"),
        ("not text", Some(latin1), &["is not UTF-8 text", "save the file as UTF-8"], "rejected"),
        (
            "2 MiB",
            bytes(format!("{}{good}", "# padding\n".repeat(210_000))),
            &["is larger than", "the right file?"],
            "rejected",
        ),
    ]
}

/// Counts lines as an editor does, to compare with.
fn line_of_percent(good: &str) -> usize {
    good[..good.find("\npercent").expect("a line percent") + 1].matches('\n').count() + 1
}

fn last_successful(gateway: &Gateway) -> f64 {
    gateway.metric("export_gateway_config_last_reload_successful", &[])
}

fn hash(gateway: &Gateway) -> String {
    let metrics = gateway.metrics();
    let series = super::series(&metrics, "export_gateway_config_info");
    assert_eq!(series.len(), 1, "one table serves: {series:?}");
    series[0].0["hash"].clone()
}

/// Asks `/readyz`, which must say 200, for its status and the sentences of one kind.
fn ready(gateway: &Gateway, code: &str) -> (String, Vec<String>) {
    let answer = client::get(gateway.admin(), "/readyz");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    let reasons = json["reasons"].as_array().expect("a list").iter().filter(|reason| reason["code"] == code);
    let sentences = reasons.map(|reason| reason["detail"].as_str().expect("a sentence").to_owned()).collect();
    (json["status"].as_str().expect("a status").to_owned(), sentences)
}

#[test]
fn a_broken_file_changes_nothing_and_a_good_one_heals_it() {
    let set = shared();
    let user = set.user();
    let good = text(set, |table| {
        super::set(table, "rollout.percent", 30);
        super::set(table, "rollout.always_workers", vec![user.clone()]);
    });
    let gateway = Gateway::from_text(&good);
    let serving = hash(&gateway);
    let line = format!("gateway.toml:{}", line_of_percent(&good));
    for (name, bytes, said, result) in broken_files(&good) {
        let before = gateway.reloads();
        match bytes {
            Some(bytes) => fs::write(gateway.config_path(), bytes).unwrap(),
            None => fs::remove_file(gateway.config_path()).unwrap(),
        }
        assert_eq!(gateway.wait_reload(&before), result, "{name}");
        let (status, problems) = ready(&gateway, "config_refused");
        assert_eq!((status.as_str(), problems.len()), ("degraded", 1), "{name}: {problems:?}");
        assert!(said.iter().all(|part| problems[0].contains(part)), "{name}: {problems:?}");
        let has_line = matches!(name, "syntax" | "unknown key" | "value" | "not text");
        assert_eq!(problems[0].contains(&line), has_line, "{name}: {problems:?}");
        assert_eq!(last_successful(&gateway), 0.0, "{name}");
        assert_eq!(hash(&gateway), serving, "{name}");
        assert_eq!(client::start_overlay(gateway.addr(), &user).header("x-export-backend"), Some("workers"), "{name}");

        // The file that serves is good again; nothing was applied for that.
        gateway.write_by_rename(&good);
        eventually("the good file heals it", || (last_successful(&gateway) == 1.0).then_some(()));
        assert_eq!(ready(&gateway, "config_refused"), ("ready".into(), vec![]), "{name}");
        let mut expected = before.clone();
        *expected.entry(result.into()).or_default() += 1;
        assert_eq!(gateway.reloads(), expected, "{name}: counted once, and nothing else was");
    }
    // Another good file heals as well, and applies.
    let before = gateway.reloads();
    fs::write(gateway.config_path(), "broken").unwrap();
    gateway.wait_reload(&before);
    let mut eye = Eye::open(&gateway);
    gateway.write_by_rename(&text_at(set, 31));
    eye.live(31, Instant::now());
    eventually("it is healed", || (last_successful(&gateway) == 1.0).then_some(()));
    assert_ne!(hash(&gateway), serving);
}

#[test]
fn a_refused_file_is_logged_with_every_problem_once() {
    let set = shared();
    let gateway = Gateway::from_text(&text_at(set, 30));
    let before = gateway.reloads();
    gateway.write_by_rename(&text_at(set, 30).replace("percent = 30", "percent = 250\nsalty = true"));
    assert_eq!(gateway.wait_reload(&before), "rejected");
    let event = gateway.event("configuration rejected, the old one serves on");
    assert_eq!((&event["level"], &event["problems"]), (&json!("ERROR"), &json!(2)), "{event}");
    let problems = eventually("both problems", || {
        Some(gateway.events("configuration problem")).filter(|problems| problems.len() == 2)
    });
    let lines: Vec<_> = problems.iter().filter_map(|event| text_of(event, "problem")).collect();
    assert!(lines.iter().any(|line| line.contains("rollout.percent: 250")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("rollout.salty: is not a known key")), "{lines:?}");
    // A second look at the same file says nothing new.
    look(&gateway);
    assert_eq!(gateway.events("configuration problem").len(), 2);
    assert_eq!(gateway.reloads()["rejected"], before.get("rejected").unwrap_or(&0) + 1);
}

#[test]
fn sighup_looks_at_once_and_ends_nothing() {
    let set = shared();
    let gateway = Gateway::from_text(&text_at(set, 30));
    let mut connection = client::Connection::open(gateway.addr());
    for _ in 0..3 {
        look(&gateway);
        assert_eq!(connection.exchange(&Request::get("/files/10")).unwrap().status, 200, "on the same connection");
    }
    let mut eye = Eye::open(&gateway);
    fs::write(gateway.config_path(), text_at(set, 31)).unwrap();
    gateway.signal("HUP");
    assert!(eye.live(31, Instant::now()) < LIVE);
}

#[test]
fn a_key_that_needs_a_restart_is_named_while_the_rest_applies() {
    let set = shared();
    let gateway = Gateway::from_text(&text_at(set, 30));
    let mut eye = Eye::open(&gateway);
    gateway.write_by_rename(&text(set, |table| {
        super::set(table, "rollout.percent", 31);
        super::set(table, "server.listen", "127.0.0.1:1");
        super::set(table, "jobs.store", "elsewhere.db");
    }));
    eye.live(31, Instant::now());
    let (status, sentences) = eventually("the keys are named", || {
        Some(ready(&gateway, "config_needs_restart")).filter(|(_, sentences)| !sentences.is_empty())
    });
    assert_eq!(status, "degraded");
    assert_eq!(sentences.len(), 2, "{sentences:?}");
    for (sentence, key) in sentences.iter().zip(["server.listen", "jobs.store"]) {
        assert!(sentence.starts_with(key) && sentence.contains("after a restart"), "{sentence}");
    }
    let events = eventually("both are logged", || {
        Some(gateway.events("configuration key needs a restart, its old value stays"))
            .filter(|events| events.len() == 2)
    });
    let keys: Vec<_> = events.iter().filter_map(|event| text_of(event, "key")).collect();
    assert_eq!(keys, ["server.listen", "jobs.store"]);
    assert_eq!(last_successful(&gateway), 1.0, "such a file is a good one");
    assert_eq!(client::get(gateway.addr(), "/files/10").status, 200, "the old address serves on");
    assert!(!gateway.folder().join("elsewhere.db").exists());
    gateway.write_by_rename(&text_at(set, 32));
    eye.live(32, Instant::now());
    eventually("nothing waits any more", || (ready(&gateway, "config_needs_restart").1.is_empty()).then_some(()));
}

/// Two tables that differ in everything a start meets on its way to workers.
struct Side<'a> {
    workers: &'a Workers,
    public: &'static str,
    folder: &'static str,
    param: &'static str,
}

impl Side<'_> {
    fn text(&self, set: &Set) -> String {
        text(set, |table| {
            super::set(table, "backends.workers.url", self.workers.url());
            super::set(table, "backends.workers.public_url", format!("https://{}", self.public));
            super::set(table, "exports.overlay.params", vec![self.param]);
            super::set(table, "exports.overlay.input_key.key", format!("{}/{{filename}}", self.folder));
        })
    }

    fn made(&self, answer: &client::Response) -> bool {
        answer.field("websocket_url").starts_with(&format!("wss://{}/", self.public))
    }
}

#[test]
fn every_request_sees_one_table_from_start_to_end() {
    // A set of its own: it sees more requests than the shared one remembers.
    let set = &Set::start();
    let (other, user) = (Workers::start(&set.runpod), set.user());
    let one = Side { workers: &set.workers, public: "one.example", folder: "one", param: "effect_type" };
    let two = Side { workers: &other, public: "two.example", folder: "two", param: "highlight_regions" };
    let gateway = Gateway::from_text(&one.text(set));
    let before = gateway.reloads();
    let end = Instant::now() + Duration::from_secs(2);
    let answers: Vec<client::Response> = thread::scope(|scope| {
        let start = || {
            let mut connection = client::Connection::open(gateway.addr());
            let request = Request::post_json("/api/export/overlay/start", &overlay(12)).user(&user);
            let mut answers = Vec::new();
            while Instant::now() < end {
                answers.push(connection.exchange(&request).unwrap());
            }
            answers
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(start)).collect();
        let texts = [two.text(set), one.text(set)];
        for text in texts.iter().cycle().take_while(|_| Instant::now() < end) {
            gateway.write_by_rename(text);
            // The pace of the flips, not a wait for anything.
            thread::sleep(Duration::from_millis(15));
        }
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert!(gateway.reloads()["applied"] - before.get("applied").unwrap_or(&0) > 20, "the file flipped");
    for side in [&one, &two] {
        let own: Vec<_> =
            answers.iter().filter(|answer| side.made(answer)).map(|answer| answer.field("job_id")).collect();
        assert!(own.len() > 10, "both tables served: {}", own.len());
        let jobs: Vec<_> =
            side.workers.jobs_of(&user).iter().map(|job| job["job_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(sorted(jobs), sorted(own), "the address of the answer is the address that was asked");
        for seen in side.workers.seen_from("start", &user) {
            let body: Value = serde_json::from_str(seen["body"].as_str().expect("a text")).unwrap();
            let params: Vec<_> = body["params"].as_object().expect("an object").keys().map(String::as_str).collect();
            assert_eq!(
                (body["input_key"].as_str(), params),
                (Some(&*format!("{}/clip.mp4", side.folder)), vec![side.param])
            );
        }
    }
}

#[test]
fn a_start_under_way_ends_by_the_table_it_began_with() {
    let set = shared();
    let (other, user) = (Workers::start(&set.runpod), set.user());
    let one = Side { workers: &set.workers, public: "one.example", folder: "one", param: "effect_type" };
    let two = Side { workers: &other, public: "two.example", folder: "two", param: "highlight_regions" };
    let gateway = Gateway::from_text(&one.text(set));
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "delay_after_ms": 1500, "times": 1}}));
    thread::scope(|scope| {
        let slow = scope.spawn(|| client::start_overlay(gateway.addr(), &user));
        within(DEADLINE, "the start is at the first workers", || {
            (!set.workers.jobs_of(&user).is_empty()).then_some(())
        });
        let before = gateway.reloads();
        gateway.write_by_rename(&two.text(set));
        assert_eq!(gateway.wait_reload(&before), "applied");
        assert!(two.made(&client::start_overlay(gateway.addr(), &user)), "the next start goes by the new table");
        assert!(!slow.is_finished());
        let answer = slow.join().unwrap();
        assert!(one.made(&answer), "{}", answer.text());
    });
    assert_eq!((set.workers.jobs_of(&user).len(), other.jobs_of(&user).len()), (1, 1));
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}
