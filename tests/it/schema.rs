//! The JSON Schema of `gateway.toml`: what it lets pass and what it refuses, beside what the gateway itself says.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use export_gateway::config::{self, Source};
use serde_json::{Value, json};
use toml::Table;

use crate::support::gateway::{run, set};
use crate::support::root;

fn schema() -> Value {
    let said = run(&["schema"]);
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    serde_json::from_slice(&said.stdout).unwrap()
}

/// The validator of PyPI's `jsonschema`; schemas are checked to be some, too.
const VALIDATE: &str = "
import json, sys
from jsonschema import Draft7Validator
asked = json.load(sys.stdin)
Draft7Validator.check_schema(asked['schema'])
validator = Draft7Validator(asked['schema'])
json.dump([[f'{e.json_path}: {e.message}' for e in validator.iter_errors(it)] for it in asked['instances']], sys.stdout)
";

/// Returns what is wrong with each text, by the schema alone.
fn problems<T: AsRef<str>>(texts: &[T]) -> Vec<Vec<String>> {
    let instances: Vec<Value> =
        texts.iter().map(|text| serde_json::to_value(text.as_ref().parse::<Table>().unwrap()).unwrap()).collect();
    let mut child = Command::new(tools().join("bin/python"))
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tools' python runs");
    let asked = json!({"schema": schema(), "instances": instances}).to_string();
    child.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the folder of the tools, which are installed first if need be.
fn tools() -> PathBuf {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let output = Command::new(root().join("tests/tools/setup.sh")).output().expect("setup.sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
    std::env::var_os("EXPORT_GATEWAY_PARTS").map_or_else(|| root().join(".parts"), PathBuf::from).join("tools")
}

/// Says whether the gateway would serve by this file.
fn is_served(text: &str) -> bool {
    let source = Source { bytes: text.as_bytes(), name: "gateway.toml", base_dir: root() };
    config::load(&source, &|name| Some(format!("a-value-for-{name}"))).is_ok()
}

const URLS: &str = "[backends.legacy]\nurl = \"http://l:8000\"\n[backends.workers]\nurl = \"https://w\"\n";

/// Returns a good file with one key set by its path.
fn with(path: &str, value: impl Into<toml::Value>) -> String {
    let mut table: Table = URLS.parse().unwrap();
    if path.starts_with("exports.overlay.input_key") {
        set(&mut table, "exports.overlay.input_key.field", "input_key");
    }
    if path.starts_with("cors.") && path != "cors.origins" {
        set(&mut table, "cors.origins", vec!["https://app.example"]);
    }
    set(&mut table, path, value);
    table.to_string()
}

/// Adds every gateway.toml below a folder.
fn find(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => find(&entry.path(), into),
            false if entry.file_name() == "gateway.toml" => into.push(entry.path()),
            false => {}
        }
    }
}

#[test]
fn every_shipped_file_fits_the_schema() {
    let mut files = vec![root().join("gateway.toml"), everything()];
    for folder in ["deploy", "docs", "examples"] {
        find(&root().join(folder), &mut files);
    }
    assert!(files.len() > 8, "what is shipped lies in folders below: {files:?}");
    let texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for (file, problems) in files.iter().zip(problems(&texts)) {
        assert_eq!(problems, [""; 0], "{}", file.display());
    }
    assert!(is_served(&texts[1]), "what stands for every key is a good file");
}

fn everything() -> PathBuf {
    root().join("tests/it/schema/everything.toml")
}

/// Every key of the schema stands in that file, so that the test above sees every one of them.
#[test]
fn the_file_with_everything_has_every_key() {
    fn keys(schema: &Value, at: &str, into: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, inner) in properties {
                keys(inner, &format!("{at}.{name}"), into);
            }
        } else if schema["additionalProperties"].is_object() {
            keys(&schema["additionalProperties"], &format!("{at}.overlay"), into);
        } else {
            into.push(at.trim_start_matches('.').to_owned());
        }
    }
    let mut all = Vec::new();
    keys(&schema(), "", &mut all);
    assert!(all.len() > 70, "{all:?}");
    let everything: Table = fs::read_to_string(everything()).unwrap().parse().unwrap();
    let everything = serde_json::to_value(everything).unwrap();
    // The three forms of input_key stand in three types, and the secret that is not written in a file in none.
    let others = ["framing", "annotate"];
    let has = |path: &str| {
        let at = |path: &str| everything.pointer(&format!("/{}", path.replace('.', "/"))).is_some();
        at(path) || others.iter().any(|other| at(&path.replace("overlay", other)))
    };
    let missing: Vec<_> = all.iter().filter(|path| !has(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn planted_errors_do_not_fit() {
    let planted: Vec<(&str, toml::Value)> = vec![
        ("unheard_of", 1.into()),
        ("server.unheard_of", 1.into()),
        ("backends.legacy.unheard_of", "x".into()),
        ("backends.workers.credential.unheard_of", "x".into()),
        ("identity.jwt.unheard_of", "x".into()),
        ("exports.overlay.input_key.unheard_of", "x".into()),
        ("exports.Overlay.percent", 1.into()),
        ("exports.overlay", 1.into()),
        ("server.listen", 8080.into()),
        ("server.listen", "8080".into()),
        ("server.threads", 0.into()),
        ("server.tls", Table::new().into()),
        ("server.header_timeout", 10.into()),
        ("server.header_timeout", "10".into()),
        ("server.header_timeout", "10 s".into()),
        ("server.trusted_proxies", "10.0.0.0/8".into()),
        ("server.trusted_proxies", vec!["ten"].into()),
        ("backends.legacy.url", "l:8000".into()),
        ("backends.legacy.url", "http://user:password@l".into()),
        ("backends.workers.websocket", "both".into()),
        ("backends.workers.fallback", 1.into()),
        ("backends.workers.fallback", "yes".into()),
        ("backends.workers.declined", vec![500].into()),
        ("backends.workers.forward_headers", vec!["a b"].into()),
        ("circuit.failure_share", 0.into()),
        ("circuit.failure_share", 1.5.into()),
        ("circuit.minimum", 0.into()),
        ("identity.trusted", "some".into()),
        ("identity.cookie", "a b".into()),
        ("rollout.percent", 101.into()),
        ("rollout.percent", "5 %".into()),
        ("rollout.percent", (-1).into()),
        ("rollout.workers", "on".into()),
        ("rollout.salt", "".into()),
        ("rollout.always_legacy", "ann".into()),
        ("jobs.keep", "7 days".into()),
        ("jobs.wait_replicas", 17.into()),
        ("limits.start_body", "1MB".into()),
        ("limits.start_body", 1_048_576.into()),
        ("limits.header_count", 0.into()),
        ("limits.connections", 1_000_001.into()),
        ("cors.origins", Vec::<toml::Value>::new().into()),
        ("cors.origins", vec!["*"].into()),
    ];
    let missing =
        ["", "[backends.legacy]\nurl = \"http://l\"\n", "[backends.legacy]\n[backends.workers]\nurl = \"http://w\"\n"];
    let texts: Vec<_> =
        planted.into_iter().map(|(path, value)| with(path, value)).chain(missing.map(str::to_owned)).collect();
    for (text, problems) in texts.iter().zip(problems(&texts)) {
        assert!(!problems.is_empty(), "the schema takes {text}");
        assert!(!is_served(text), "the gateway takes {text}");
    }
}

#[test]
fn what_comes_from_the_environment_fits() {
    let paths = [
        "rollout.percent",
        "rollout.workers",
        "server.listen",
        "limits.start_body",
        "identity.trusted",
        "jobs.store",
        "log.access",
    ];
    let unset = paths.map(|path| with(path, "${NAME:-default}"));
    let quoted = [("rollout.percent", "12.5"), ("rollout.workers", "true"), ("circuit.minimum", "20")]
        .map(|(path, value)| with(path, value));
    for (text, problems) in unset.iter().chain(&quoted).zip(problems(&[&unset[..], &quoted].concat())) {
        assert_eq!(problems, [""; 0], "{text}");
    }
    assert!(quoted.iter().all(|text| is_served(text)));
}

#[test]
fn an_odd_text_that_is_served_fits() {
    let odd = [
        ("jobs.store", "data/jobs:1.db"),
        ("jobs.store", "c:/jobs/:/x:"),
        ("circuit.failure_share", "+5e-1"),
        ("rollout.percent", "-0.00"),
    ]
    .map(|(path, value)| with(path, value));
    for (text, problems) in odd.iter().zip(problems(&odd)) {
        assert!(is_served(text), "{text}");
        assert_eq!(problems, [""; 0], "{text}");
    }
}

/// Each bound that the schema names is the gateway's: the number itself is taken by both, the one beyond it by neither.
#[test]
fn the_schemas_bounds_are_the_gateways() {
    fn bounds(schema: &Value, at: &str, into: &mut Vec<(String, i64, i64)>) {
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            bounds(inner, &format!("{at}.{name}"), into);
        }
        let own = |key: &str| schema[key].as_i64().or_else(|| schema["anyOf"][0][key].as_i64());
        let path = at.trim_start_matches('.').to_owned();
        if let Some(least) = own("minimum") {
            into.push((path.clone(), least, -1));
        }
        if let Some(most) = own("maximum").filter(|most| *most < i64::from(u32::MAX)) {
            into.push((path, most, 1));
        }
    }
    let mut all = Vec::new();
    bounds(&schema(), "", &mut all);
    assert!(all.len() >= 10, "{all:?}");
    let at: Vec<_> = all.iter().map(|(path, bound, _)| with(path, *bound)).collect();
    let past: Vec<_> = all.iter().map(|(path, bound, beyond)| with(path, bound + beyond)).collect();
    for (text, problems) in at.iter().zip(problems(&at)) {
        assert_eq!(problems, [""; 0], "{text}");
        // Replicas are a Redis's: in a file without one any number is odd.
        assert!(is_served(text) || text.contains("wait_replicas"), "{text}");
    }
    for (text, problems) in past.iter().zip(problems(&past)) {
        assert!(!problems.is_empty() && !is_served(text), "{text}");
    }
}

#[test]
fn the_schema_says_what_keys_are_for() {
    let schema = schema();
    let described =
        |pointer: &str| schema.pointer(pointer).unwrap()["description"].as_str().unwrap_or_default().to_owned();
    assert_eq!(described("/properties/rollout/properties/percent"), "Percentage of users, at most two decimals.");
    assert!(described("/properties/backends/properties/workers/properties/fallback").contains("goes to legacy"));
    assert_eq!(schema["additionalProperties"], json!(false));
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    let secret = schema.pointer("/properties/admin/properties/token").unwrap();
    assert_eq!(secret["writeOnly"], json!(true));
}
