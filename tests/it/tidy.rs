//! The house rules as tests: they read the source, so that the map in `src/lib.rs` stays true.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::gateway::run;
use crate::support::root;

/// A source file: its path under `src`, and its text without the tests at its end.
struct Source {
    path: String,
    whole: String,
    code: String,
}

impl Source {
    /// The floor that it belongs to: its folder, or its own name.
    fn floor(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Its lines of code, numbered, comments left out.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line))
            .filter(|(_, line)| !line.trim().starts_with("//"))
    }

    fn is_test(&self) -> bool {
        // `exports/failure_rules.rs` is the table of answers as a test of `outcome.rs`; `fuzzing` is compiled for tests.
        self.path.split(['/', '.']).any(|part| part == "tests")
            || self.path == "exports/failure_rules.rs"
            || self.floor() == "fuzzing"
    }
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => walk(&entry.path(), into),
            false => into.push(entry.path()),
        }
    }
}

fn sources() -> Vec<Source> {
    let (folder, mut paths) = (root().join("src"), Vec::new());
    walk(&folder, &mut paths);
    let mut sources: Vec<_> = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|it| it == "rs"))
        .map(|path| {
            let whole = fs::read_to_string(&path).unwrap();
            let code = whole.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
            Source { path: path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned(), whole, code }
        })
        .collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 60, "{} files: is this the right folder?", sources.len());
    sources
}

/// The floors in the order of `src/lib.rs`.
fn floors() -> Vec<String> {
    let map = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let floors: Vec<_> =
        map.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).map(str::to_owned).collect();
    assert!(floors.len() >= 14, "{floors:?}");
    floors
}

/// Fails with every place found; an exception is named with its reason where the rule is written.
fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

fn uses<'a>(sources: &'a [Source], word: &'a str) -> impl Iterator<Item = (&'a Source, usize, &'a str)> {
    sources
        .iter()
        .filter(|source| !source.is_test())
        .flat_map(|source| source.lines().map(move |(number, line)| (source, number, line)))
        .filter(move |(_, _, line)| line.contains(word))
}

#[test]
fn every_file_says_what_it_is_for() {
    none(
        "a file begins with `//!`",
        sources().iter().filter(|it| !it.whole.starts_with("//! ")).map(|it| it.path.clone()).collect(),
    );
}

#[test]
fn a_floor_uses_only_those_below_it() {
    let floors = floors();
    let height = |name: &str| floors.iter().position(|floor| floor == name);
    let mut found = Vec::new();
    for source in sources().iter().filter(|it| !["lib.rs", "main.rs"].contains(&it.path.as_str())) {
        let own = height(source.floor()).unwrap_or_else(|| panic!("{} is on no floor of src/lib.rs", source.path));
        for (number, line) in source.lines() {
            for used in line.split("crate::").skip(1) {
                // `use crate::{a, b}` would hide from this test: there is none.
                assert!(!used.starts_with('{'), "{}:{number}: {line}", source.path);
                let name = used.split(|it: char| !it.is_alphanumeric() && it != '_').next().unwrap_or_default();
                if height(name).is_some_and(|used| used > own) {
                    found.push(format!("{}:{number}: {}", source.path, line.trim()));
                }
            }
        }
    }
    none("a floor imports only what stands above it in src/lib.rs", found);
}

#[test]
fn pure_floors_have_no_runtime_and_no_io() {
    // `std::net` for its address types is data; sockets are not.
    let io = [
        "tokio",
        "std::fs",
        "std::io",
        "std::thread",
        "std::time::Instant",
        "SystemTime",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "ToSocketAddrs",
        "std::env",
        "std::process",
        "async fn",
        "rusqlite",
        "hyper",
    ];
    let mut found = Vec::new();
    let is_pure = |floor| ["routing", "exports", "names", "limits"].contains(&floor);
    for source in sources().iter().filter(|it| is_pure(it.floor()) && !it.path.ends_with("tests.rs")) {
        for (number, line) in source.lines() {
            if let Some(word) = io.iter().find(|word| line.contains(*word)) {
                found.push(format!("{}:{number}: {word}: {}", source.path, line.trim()));
            }
        }
    }
    none("routing, exports, names and limits are pure", found);
}

#[test]
fn a_request_sees_one_table() {
    let allowed = [
        ("gateway/mod.rs", 1),        // the one of a request
        ("server/connection.rs", 1),  // a connection's limits, before it has a request
        ("server/entry.rs", 1),       // whose a new connection is
        ("server/h2.rs", 1),          // the same for one of HTTP/2
        ("server/mod.rs", 3),         // accepting; the thread's keeper; the starts that a restart left open
        ("gateway/unpolled.rs", 1),   // one ask in the background
        ("admin/mod.rs", 1),          // the one of an operator's request
        ("cli/run.rs", 1),            // how long to drain
        ("cli/run/supervisor.rs", 1), // how the gateway is, for systemd
    ];
    let sources = sources();
    let mut counts = std::collections::BTreeMap::new();
    for (source, ..) in uses(&sources, "table.load").filter(|(source, ..)| source.floor() != "reload") {
        *counts.entry(source.path.as_str()).or_insert(0) += 1;
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), {
        let mut allowed = allowed.to_vec();
        allowed.sort_unstable();
        allowed
    });
}

#[test]
fn pass_through_never_holds_a_body() {
    let sources = sources();
    let found = ["read_whole", "collect()", "to_bytes", "BytesMut"].into_iter().flat_map(|word| {
        uses(&sources, word)
            .filter(|(source, ..)| {
                ["gateway/pass.rs", "gateway/reply.rs", "gateway/socket.rs"].contains(&source.path.as_str())
            })
            .map(|(source, number, line)| format!("{}:{number}: {}", source.path, line.trim()))
            .collect::<Vec<_>>()
    });
    none("gateway/pass.rs and what it hands on stream", found.collect());
    let readers: Vec<_> = uses(&sources, "read_whole(").map(|(source, ..)| source.path.as_str()).collect();
    assert_eq!(readers, ["gateway/attempt.rs", "gateway/start/mod.rs", "http/body.rs"], "who reads bodies whole");
}

#[test]
fn foreign_text_enters_in_few_places() {
    let allowed = [
        "config/advice.rs",       // the same file again, to say what its words are like
        "config/file.rs",         // gateway.toml as written
        "config/file/outlets.rs", // its log
        "config/file/proofs.rs",  // its tokens and credentials
        "config/file/tls.rs",     // its certificates
        "config/tree.rs",         // a table of it at a time
        "config/values.rs",       // its durations, sizes and networks
        "exports/object.rs",      // a JSON object of a client or a backend, read flat
    ];
    let sources = sources();
    let mut files: Vec<_> = uses(&sources, "Deserialize").map(|(source, ..)| source.path.as_str()).collect();
    files.dedup();
    assert_eq!(files, allowed);
}

#[test]
fn only_one_file_picks_a_status_for_an_answer_of_our_own() {
    let allowed = [
        "gateway/mod.rs", // 204, a preflight
    ];
    let sources = sources();
    let found = uses(&sources, "Reply::own(")
        .filter(|(source, _, line)| line.contains("StatusCode::") && !allowed.contains(&source.path.as_str()))
        .map(|(source, number, line)| format!("{}:{number}: {}", source.path, line.trim()));
    none("http/refusal.rs picks the statuses", found.collect());
}

#[test]
fn files_and_functions_stay_readable() {
    let mut found = Vec::new();
    for source in sources() {
        let length = source.whole.lines().count();
        if length > 450 {
            found.push(format!("{}: {length} lines", source.path));
        }
        let lines: Vec<_> = source.whole.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function = [
                "fn ",
                "pub fn ",
                "pub async fn ",
                "async fn ",
                "pub(crate) fn ",
                "pub(super) fn ",
                "const fn ",
                "pub const fn ",
            ]
            .iter()
            .any(|start| line.trim_start().starts_with(start));
            if !is_function || line.trim_end().ends_with(';') {
                continue;
            }
            // rustfmt closes a function in the column where it began.
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|line| *line == close).map_or(1, |end| end + 1);
            if length > 80 {
                found.push(format!("{}:{}: {length} lines: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    none("a file has at most 450 lines, a function at most 80", found);
}

#[test]
fn nothing_panics_on_purpose() {
    let sources = sources();
    let mut found = Vec::new();
    for word in [".unwrap()", "unsafe ", "todo!", "unimplemented!", "dbg!", "panic!(", "println!", "eprintln!"] {
        for (source, number, line) in uses(&sources, word) {
            found.push(format!("{}:{number}: {}", source.path, line.trim()));
        }
    }
    none("no unwrap, unsafe, panic or print outside of tests", found);
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"forbid\"") && manifest.contains("unwrap_used = \"deny\""));
}

#[test]
fn every_shipped_toml_is_accepted() {
    let mut files = Vec::new();
    for folder in ["", "deploy", "docs", "examples"] {
        let folder = root().join(folder);
        if folder == root().join("") {
            files.extend(fs::read_dir(&folder).unwrap().flatten().map(|it| it.path()));
        } else if folder.is_dir() {
            walk(&folder, &mut files);
        }
    }
    let tools = ["Cargo.toml", "clippy.toml", "rustfmt.toml", "deny.toml", "fly.toml", "wrangler.toml"];
    files.retain(|file| {
        file.extension().is_some_and(|it| it == "toml")
            && !tools.iter().any(|tool| file.file_name().is_some_and(|it| it == *tool))
    });
    assert!(files.contains(&root().join("gateway.toml")), "{files:?}");
    for file in files {
        let environment = |name: &str| {
            Some(if name == "REDIS_URL" {
                "redis://redis.example:6379".to_owned()
            } else if name.contains("URL") {
                "https://backend.example".to_owned()
            } else {
                format!("a-value-for-{name}")
            })
        };
        let loaded = export_gateway::config::load_file(&file, &environment);
        assert!(loaded.is_ok(), "{}: {:?}", file.display(), loaded.err());
    }
    let shipped = root().join("gateway.toml");
    let check = run(&["check", "--config", shipped.to_str().unwrap()]);
    assert_eq!(check.status.code(), Some(0), "{}", String::from_utf8_lossy(&check.stderr));
    assert!(fs::read_to_string(shipped).unwrap().trim_end().ends_with("\n# END"));
}
