//! The command line: what each command prints, where, and with which exit code.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use toml::Table;

use super::support::client;
use super::support::gateway::{Gateway, command, run, series, set, table, text_of};
use super::support::parts::{quick_folder, shared};
use super::support::root;

/// A file in a folder of its own.
struct File {
    folder: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> File {
        let folder = quick_folder("gateway-folder");
        let path = folder.path().join("gateway.toml");
        fs::write(&path, text).unwrap();
        File { folder, path }
    }

    /// Makes a good file after `change`; nothing is ever sent to the addresses in it.
    fn with(change: impl FnOnce(&mut Table)) -> File {
        let folder = quick_folder("gateway-folder");
        let nowhere = "http://127.0.0.1:9".to_owned();
        let backends = super::support::gateway::Backends {
            legacy: nowhere.clone(),
            workers: nowhere,
            data: folder.path().to_owned(),
        };
        let mut table = table(&backends);
        change(&mut table);
        let path = folder.path().join("gateway.toml");
        fs::write(&path, table.to_string()).unwrap();
        File { folder, path }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        self::said(run(&[arguments, &["--config", self.path.to_str().unwrap()]].concat()))
    }

    fn has_store(&self) -> bool {
        self.folder.path().join("jobs.db").exists()
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn said(output: Output) -> Said {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

impl Said {
    /// Returns the output of a command that succeeded and had nothing to complain about.
    fn good(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// Returns the complaint of a command that failed with this code and put nothing out.
    fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{}", self.err);
        self.err
    }

    fn json(self) -> Value {
        let out = self.good();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out:?}"))
    }
}

#[test]
fn check_says_what_a_good_file_means() {
    let file = File::with(|table| {
        set(table, "rollout.percent", 12.5);
        set(table, "exports.framing.percent", 100);
        set(table, "rollout.always_legacy", vec!["bob", "eve"]);
    });
    fs::create_dir(file.folder.path().join("user_data")).unwrap();
    let out = file.run(&["check"]).good();
    assert!(out.starts_with(&format!("{} is good.\n", file.path.display())), "{out}");
    for line in [
        "  framing   workers  all users  (input_key from the user's database)\n",
        "  overlay   workers  12.5 % of users, legacy 87.5 %  (input_key from the user's database)\n",
        "  2 users are always on legacy (always_legacy).\n",
        "  workers     http://127.0.0.1:9\n",
        "\nwarning: identity.default: all requests without a user are the one user `a`",
    ] {
        assert!(out.contains(line), "{line:?} in {out}");
    }
    assert!(!file.has_store(), "looking makes nothing");
}

#[test]
fn the_shipped_file_is_good_and_moves_nobody() {
    let path = root().join("gateway.toml");
    let out = said(run(&["check", "--config", path.to_str().unwrap()])).good();
    assert_eq!(out.matches("  legacy   all users").count(), 3, "{out}");
}

#[test]
fn check_finds_every_problem_with_its_line_place_and_advice() {
    let text = "[backends.legacy]\nurl = \"http://127.0.0.1:8000\"\nconnect_timeout = \"soon\"\n\
        [backends.workers]\nurl = \"ftp://example.com\"\n[rollout]\nworkers = true\npercent = 250\npercnt = 5\n";
    let file = File::new(text);
    let err = file.run(&["check"]).failed(64);
    let name = file.path.display();
    let places = [
        ("3", "backends.legacy.connect_timeout", "connect_timeout = \"soon\"", "soon"),
        ("5", "backends.workers.url", "url = \"ftp://example.com\"", "http"),
        ("8", "rollout.percent: 250 is not between 0 and 100", "percent = 250", "a percentage of users"),
        ("9", "rollout.percnt: is not a known key", "percnt = 5", "did you mean `percent`?"),
    ];
    let problems: Vec<&str> = err.split("\n\n").collect();
    assert_eq!(problems.len(), places.len() + 1, "{err}");
    for ((line, message, excerpt, advice), problem) in places.into_iter().zip(&problems) {
        assert!(problem.starts_with(&format!("{name}:{line}: {message}")), "{problem}");
        assert!(problem.contains(&format!("  {line} | {excerpt}\n")), "{problem}");
        assert!(problem.contains("= help: ") && problem.contains(advice), "{problem}");
    }
    assert!(problems[2].contains("\n  8 | percent = 250\n    |           ^^^\n"), "{}", problems[2]);
    assert!(problems[3].contains("\n  9 | percnt = 5\n    | ^^^^^^\n"), "{}", problems[3]);
    assert_eq!(problems[4], format!("4 problems in {name}; nothing was changed.\n"));
}

#[test]
fn explain_agrees_with_what_a_start_does() {
    let set_ = shared();
    let users: Vec<String> = (0..12).map(|_| set_.user()).collect();
    let gateway = Gateway::with(set_, |table| {
        set(table, "rollout.percent", 50);
        set(table, "rollout.always_workers", vec![users[0].clone()]);
        set(table, "rollout.always_legacy", vec![users[1].clone()]);
    });
    let mut told: Vec<Told> = users.iter().map(|user| told_and_started(&gateway, user)).collect();
    gateway.edit(|table| set(table, "rollout.workers", false));
    told.push(told_and_started(&gateway, &users[0]));
    let reasons: BTreeSet<_> = told.iter().filter_map(|told| told.json["reason"].as_str()).collect();
    assert_eq!(reasons, ["always_legacy", "always_workers", "canary", "switch_off"].into());
    for Told { json, request_id } in told {
        let line = gateway.access_log(|line| line["request_id"] == *request_id);
        for field in ["reason", "bucket", "user"] {
            assert_eq!(line[field], json[field], "{field}: {line} {json}");
        }
    }
    // Whoever says no user is the default one.
    assert_eq!(explain(&gateway, &["--anonymous", "--json"]).json()["user"], "a");
}

/// What `explain` said before a start, and the start's id in the access log.
struct Told {
    json: Value,
    request_id: String,
}

fn explain(gateway: &Gateway, arguments: &[&str]) -> Said {
    let path = gateway.config_path();
    said(run(&[&["explain", "--type", "overlay", "--config", path.to_str().unwrap()], arguments].concat()))
}

/// Compares both forms of `explain` with each other and with where a start goes.
fn told_and_started(gateway: &Gateway, user: &str) -> Told {
    let json = explain(gateway, &["--user", user, "--json"]).json();
    let words = explain(gateway, &["--user", user]).good();
    let field = |name: &str| json[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}"));
    let (backend, reason) = (field("backend"), field("reason"));
    assert!(words.starts_with(&format!("{backend}\n\n")), "the first line is for scripts: {words}");
    let sentence = format!("The next overlay export of user `{user}` starts on {backend} ({reason}):");
    assert!(words.contains(&sentence) && words.contains(field("because")), "{words}");
    let hash = &series(&gateway.metrics(), "export_gateway_config_info")[0].0["hash"];
    assert_eq!(field("config_hash"), hash);

    let answer = client::start_overlay(gateway.addr(), user);
    assert_eq!(answer.header("x-export-backend"), Some(backend), "{json}");
    Told { request_id: answer.header("x-request-id").expect("an id").to_owned(), json }
}

#[test]
fn explain_of_what_is_not_there_says_so() {
    let file = File::with(|_| {});
    let other = file.run(&["explain", "--user", "ann", "--type", "thumbnail"]);
    assert_eq!(other.code, Some(64));
    assert!(other.out.contains("`thumbnail` is not an export type of this file (annotate, framing, overlay)"));
    // clap's code for a command line that makes no sense.
    let err = file.run(&["explain", "--type", "overlay"]).failed(2);
    assert!(err.contains("--user"), "{err}");
}

#[test]
fn jobs_are_shown_and_listed_beside_a_running_gateway() {
    let set_ = shared();
    let (user, other) = (set_.user(), set_.user());
    set_.runpod.rule(json!({"match": {"user": user}, "seconds": 60}));
    let gateway = Gateway::with(set_, |table| set(table, "rollout.always_legacy", vec![other.clone()]));
    let jobs = |arguments: &[&str]| {
        let path = gateway.config_path();
        said(run(&[&["jobs"], arguments, &["--config", path.to_str().unwrap()]].concat()))
    };
    let none = jobs(&["list", "--open"]).good();
    assert!(none.starts_with("0 open jobs (legacy 0, workers 0)\n"), "{none}");

    let on_workers = client::start_overlay(gateway.addr(), &user).field("job_id");
    let on_legacy = client::start_overlay(gateway.addr(), &other).field("job_id");
    let shown = jobs(&["show", &on_workers]).good();
    for line in [
        format!("job      {on_workers}\n"),
        "backend  workers\n".into(),
        "type     overlay\n".into(),
        format!("user     {user}\n"),
        "state    open\n".into(),
    ] {
        assert!(shown.contains(&line), "{line:?} in {shown}");
    }
    assert!(jobs(&["show", &on_legacy]).good().contains("backend  legacy\n"));

    let listed = jobs(&["list", "--open"]).good();
    assert!(listed.starts_with("2 open jobs (legacy 1, workers 1)\n"), "{listed}");
    assert!(listed.contains(&on_workers) && listed.contains(&on_legacy), "{listed}");
    assert!(listed.contains("\n0 starts under way or of unknown outcome\n"), "{listed}");
    let workers = jobs(&["list", "--open", "--backend", "workers", "--json"]).json();
    assert_eq!(workers["open_jobs"], json!({"legacy": 1, "workers": 1}));
    let ids: Vec<_> = workers["jobs"].as_array().unwrap().iter().map(|job| &job["job_id"]).collect();
    assert_eq!(ids, [&json!(on_workers)]);
    assert_eq!(workers["jobs"][0]["user"], *user);

    let err = jobs(&["show", "0192f0c1"]).failed(1);
    assert!(err.starts_with("no job 0192f0c1 in the store ") && err.lines().count() == 1, "{err}");
    let err = jobs(&["show", "../../etc"]).failed(1);
    assert!(err.contains("not a job id"), "{err}");
    assert_eq!(client::status(gateway.addr(), &user, &on_workers).status, 200, "nothing was disturbed");
}

#[test]
fn help_and_version_are_there() {
    let version = said(run(&["--version"])).good();
    assert_eq!(version, format!("export-gateway {}\n", env!("CARGO_PKG_VERSION")));
    let help = said(run(&["--help"])).good();
    for word in ["check", "explain", "jobs", "--config <FILE>", "EXPORT_GATEWAY_CONFIG", "Examples:", "kill -HUP"] {
        assert!(help.contains(word), "{word} in {help}");
    }
    let examples = help.split("Examples:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    for example in examples.lines() {
        assert!(example.trim_start().contains("  "), "an example and its meaning stand apart: {example:?}");
    }
}

#[test]
fn a_file_that_cannot_be_used_starts_nothing() {
    let missing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("there-is-none.toml");
    let err = said(run(&["--config", missing.to_str().unwrap()])).failed(64);
    let name = missing.display();
    assert!(err.starts_with(&format!("{name}: cannot be read: no such file or directory\n")), "{err}");
    assert!(err.contains("= help: name the file with --config FILE, or EXPORT_GATEWAY_CONFIG\n"), "{err}");
    assert!(err.ends_with(&format!("\n1 problem in {name}; the gateway does not start.\n")), "{err}");

    let file = File::with(|table| set(table, "rollout.percent", 250));
    for arguments in [&[][..], &["run"]] {
        let err = file.run(arguments).failed(64);
        assert!(err.contains("rollout.percent: 250 is not between 0 and 100"), "{err}");
        assert!(err.ends_with("; the gateway does not start.\n"), "{err}");
        assert!(!file.has_store());
    }
}

/// Returns the one event that says why a gateway could not start.
fn why_not(said: Said) -> String {
    let err = said.failed(1);
    let events: Vec<Value> = err.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let errors: Vec<_> = events.iter().filter(|event| event["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{err}");
    assert_eq!(text_of(errors[0], "message"), Some("the gateway cannot start"));
    assert!(!err.contains("listening"), "nothing was served: {err}");
    text_of(errors[0], "error").expect("a cause").to_owned()
}

#[test]
fn a_port_that_is_taken_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["server.listen", "admin.listen"] {
        let file = File::with(|table| set(table, key, address.clone()));
        let why = why_not(file.run(&[]));
        assert!(why.starts_with(&format!("cannot listen on {address} ({key}): Address already in use")), "{why}");
        assert!(!file.has_store());
    }
}

#[test]
fn a_second_gateway_on_the_same_store_is_refused() {
    let set_ = shared();
    let user = set_.user();
    let mut first = Gateway::start(set_);
    let second = || said(run(&["--config", first.config_path().to_str().unwrap()]));
    let why = why_not(second());
    let store = first.folder().join("jobs.db");
    assert!(why.starts_with(&format!("another gateway uses the job store {}", store.display())), "{why}");
    let job = client::start_overlay(first.addr(), &user).field("job_id");
    assert_eq!(client::status(first.addr(), &user, &job).status, 200, "the first one serves on");
    // A killed one leaves its lock file, which holds nobody up.
    first.kill9();
    first.restart();
    assert_eq!(client::status(first.addr(), &user, &job).status, 200);
}

#[test]
fn the_file_is_found_by_argument_then_environment_then_folder() {
    let [by_argument, by_environment, by_folder] =
        [1, 2, 3].map(|percent| File::with(|table| set(table, "rollout.percent", percent)));
    let check = |arguments: &[&str], environment: Option<&File>| {
        let mut command = command();
        command.current_dir(by_folder.folder.path()).args(arguments).arg("check").env_remove("EXPORT_GATEWAY_CONFIG");
        command.envs(environment.map(|file| ("EXPORT_GATEWAY_CONFIG", &file.path)));
        said(command.output().unwrap()).good()
    };
    let argument = by_argument.path.to_str().unwrap();
    assert!(check(&["--config", argument], Some(&by_environment)).contains("workers  1 % of users"));
    assert!(check(&[], Some(&by_environment)).contains("workers  2 % of users"));
    let out = check(&[], None);
    assert!(out.starts_with("gateway.toml is good.\n") && out.contains("workers  3 % of users"), "{out}");
}

#[test]
fn the_environment_fills_in_what_the_file_names() {
    let file = File::with(|table| {
        set(table, "rollout.percent", "${MOVED:-7}");
        set(table, "backends.workers.url", "${WHERE_WORKERS_ARE}");
    });
    let check = |environment: &[(&str, &str)]| {
        let mut command = command();
        command.args(["check", "--config", file.path.to_str().unwrap()]).envs(environment.iter().copied());
        said(command.output().unwrap())
    };
    let out = check(&[("WHERE_WORKERS_ARE", "https://workers.example")]).good();
    assert!(out.contains("workers  7 % of users") && out.contains("https://workers.example\n"), "{out}");
    let out = check(&[("WHERE_WORKERS_ARE", "https://workers.example"), ("MOVED", "8")]).good();
    assert!(out.contains("workers  8 % of users"), "{out}");
    let err = check(&[]).failed(64);
    assert!(err.contains("backends.workers.url: ") && err.contains("WHERE_WORKERS_ARE"), "{err}");
}

#[test]
fn a_log_in_a_file_has_no_colours() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let file = File::with(|table| set(table, "server.listen", address));
    let path = file.path.to_str().unwrap();
    let mut command = command();
    command.args(["--log-format", "pretty", "--config", path]).env_remove("NO_COLOR");
    let err = said(command.output().unwrap()).failed(1);
    assert!(err.contains("the gateway cannot start") && !err.contains('\u{1b}'), "{err:?}");
}
