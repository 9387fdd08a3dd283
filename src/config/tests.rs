//! The file as people write it, and as they get it wrong.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::names::{BackendName, UserId};
use crate::routing::table::{InputKey, Trusted};

mod proofs;

const SHIPPED: &str = include_str!("../../gateway.toml");
const URLS: &str = "[backends.legacy]\nurl = \"http://l:8000\"\n[backends.workers]\nurl = \"https://w\"\n";

fn env(name: &str) -> Option<String> {
    match name {
        "PERCENT" => Some("12.5".to_owned()),
        "SWITCH" => Some("true".to_owned()),
        "DIGITS" => Some("12345678901234567890".to_owned()),
        "BAD_URL" => Some("http://user:hunter2@host".to_owned()),
        _ => None,
    }
}

fn load_text(text: &str) -> Result<(RoutingTable, Vec<Warning>), Vec<Problem>> {
    load(&Source { bytes: text.as_bytes(), name: "gateway.toml", base_dir: Path::new("/srv/gw") }, &env)
}

/// Loads a text after the two addresses that every file needs.
fn with_urls(text: &str) -> Result<(RoutingTable, Vec<Warning>), Vec<Problem>> {
    load_text(&format!("{URLS}{text}"))
}

fn table(text: &str) -> RoutingTable {
    match with_urls(text) {
        Ok((table, _)) => table,
        Err(problems) => panic!("{text}: {problems:#?}"),
    }
}

/// Returns the problems as lines, with their advice.
fn problems(text: &str) -> Vec<String> {
    match with_urls(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(Problem::line).collect(),
    }
}

fn only_problem(text: &str) -> String {
    let mut all = problems(text);
    assert_eq!(all.len(), 1, "{text}: {all:#?}");
    all.remove(0)
}

#[test]
fn the_shipped_file_moves_nobody() {
    let (table, warnings) = load_text(SHIPPED).expect("it is good");
    assert_eq!(table.rollout.share.hundredths(), 0);
    assert!(table.rollout.workers && table.rollout.pinned.is_empty());
    assert_eq!(table.exports.keys().map(|kind| kind.as_str()).collect::<Vec<_>>(), ["annotate", "framing", "overlay"]);
    assert!(table.end_marker);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(table.hash.len(), 12);
}

#[test]
fn what_is_left_out_is_as_shipped() {
    let text = format!(
        "{URLS}[identity]\ndefault = \"a\"\n[rollout]\nworkers = true\n[exports.overlay]\n\
        params = [\"highlight_regions\", \"effect_type\"]\n[exports.framing]\n[exports.annotate]\n"
    );
    let (mut left_out, _) = load_text(&text).expect("it is good");
    let (shipped, _) = load_text(SHIPPED).expect("it is good");
    left_out.hash.clone_from(&shipped.hash);
    left_out.end_marker = true;
    left_out.legacy.url = shipped.legacy.url.clone();
    left_out.workers.backend.url = shipped.workers.backend.url.clone();
    left_out.workers.websocket_base = shipped.workers.websocket_base.clone();
    assert_eq!(format!("{left_out:#?}"), format!("{shipped:#?}"));
}

#[test]
fn two_addresses_are_enough() {
    let (table, warnings) = load_text(URLS).expect("nothing else is required");
    assert!(!table.rollout.workers);
    assert!(table.exports.is_empty() && table.identity.default.is_none() && table.cors.is_none());
    assert_eq!(table.identity.trusted, Trusted::Any);
    assert_eq!(warnings.iter().map(|w| w.key.as_str()).collect::<Vec<_>>(), ["exports"]);
    let missing = load_text("[rollout]\n").expect_err("they are required");
    assert_eq!(
        missing.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(),
        ["backends.legacy.url", "backends.workers.url"]
    );
}

#[test]
fn every_hundredth_of_a_percent_is_exact() {
    for hundredths in 0..=10_000u16 {
        let text = format!("[rollout]\npercent = {}.{:02}\n", hundredths / 100, hundredths % 100);
        assert_eq!(table(&text).rollout.share.hundredths(), hundredths, "{text}");
    }
    let good = [("5", 500), ("\"${PERCENT}\"", 1250), ("\"0.29\"", 29), ("1e1", 1000), ("100.0", 10_000), ("-0.0", 0)];
    for (written, hundredths) in good {
        assert_eq!(table(&format!("[rollout]\npercent = {written}\n")).rollout.share.hundredths(), hundredths);
    }
    let bad = [
        ("250", "250 is not between 0 and 100"),
        ("-1", "-1 is not between 0 and 100"),
        ("100.01", "100.01 is not between 0 and 100"),
        ("0.125", "0.125 has more than two decimals"),
        ("nan", "NaN is not a percentage"),
        ("inf", "inf is not a percentage"),
        ("\"25%\"", "\"25%\" is not a percentage"),
        ("99999999999999999999", "99999999999999999999 is not between 0 and 100"),
        ("true", "true is not a percentage"),
    ];
    for (written, message) in bad {
        let problem = only_problem(&format!("[exports.overlay]\npercent = {written}\n"));
        assert!(problem.starts_with(&format!("gateway.toml:6: exports.overlay.percent: {message}")), "{problem}");
    }
}

#[test]
fn the_environment_fills_in_any_kind_of_value() {
    let table = table(
        "[rollout]\nworkers = \"${SWITCH}\"\nsalt = \"${DIGITS}\"\nalways_workers = [\"${USER_A:-ann}\"]\n\
         [circuit]\nprobes = \"${PROBES:-2}\"\n",
    );
    assert!(table.rollout.workers);
    assert_eq!((table.rollout.salt.as_str(), table.circuit.probes), ("12345678901234567890", 2));
    assert_eq!(table.rollout.pinned[&UserId::from_text("ann").expect("it is one")], BackendName::Workers);
    let problem = only_problem("[admin]\ntoken = \"${NO_SUCH}\"\nlisten = \"0.0.0.0:9901\"\n");
    assert!(problem.contains("admin.token: the environment variable NO_SUCH is not set"), "{problem}");
}

#[test]
fn no_secret_is_shown() {
    let text = "[server]\npublic_url = \"${BAD_URL}\"\n[admin]\ntoken = \"hunter2 hunter2\"\n";
    let problems = with_urls(text).expect_err("both are wrong");
    assert_eq!(problems.len(), 2);
    for problem in &problems {
        assert!(!format!("{}{}{problem:?}", problem.long(), problem.line()).contains("hunter2"));
    }
    assert!(!format!("{:?}", table("[admin]\ntoken = \"hunter2hunter2hunter2\"\n")).contains("hunter2"));
}

/// What stands after the two addresses, and what is said of it.
const MISTAKES: &[(&str, &str)] = &[
    ("[server]\ntls = { certificate = \"c\" }\n", "6: server.tls.key: is missing (add key = "),
    ("[server.tls]\ncertificate = \"c\"\nkey = \"k\"\nmore = [{ key = \"k\" }]\n", "more.certificate: is missing"),
    ("[server.tls]\nkey = \"k\"\ncertificate = \"c\"\nhandshake_timeout = \"0s\"\n", "handshake_timeout: is too small"),
    ("[backends.workers.tls]\ncertificate = \"c\"\n", "backends.workers.tls.key: is missing"),
    ("[backends.legacy.tls]\nhttp2 = true\n", "backends.legacy.tls.http2: is for workers only"),
    ("[backends.workers.tls]\nverify = false\n", "tls.verify: is not a known key (certificates are always verified"),
    ("[backends.workers.tls]\nca = \"c\"\n", "tls.ca: is not a known key (the keys here are roots, certificate, key"),
    ("[identity.jwt]\nheader = \"Authorization\"\n", "5: identity.jwt.keys: is missing (add keys = \"jwks.json\""),
    ("[identity.jwt]\nkeys = \"k\"\nheader = \"Cookie\"\n", "7: identity.jwt.header: cookie cannot carry a token"),
    (
        "[identity.jwt]\nkeys = \"k\"\nheader = \"X-User-Id\"\n",
        "7: identity.jwt.header: x-user-id is identity.header too",
    ),
    ("[identity]\ncookie = \"u id\"\n", "6: identity.cookie: \"u id\" is not the name of a cookie"),
    ("[identity]\ncookie = \"uid\"\ntrusted = \"any\"\n", "7: identity.trusted: is \"any\" beside a cookie or a jwt"),
    ("[backends.workers.credential]\n", "5: backends.workers.credential: says no way to prove anything"),
    ("credential = \"x\"\n", "5: backends.workers.credential: is not a section of keys"),
    ("credential = { access_client_id = \"${DIGITS}\" }\n", "credential.access_client_id: needs access_client_secret"),
    ("credential = { bearer = \"${DIGITS}\", key_id = \"1\" }\n", "credential.key_id: belongs to hmac"),
    ("credential = { bearer = \"${NO_SECRET:-}\" }\n", "5: backends.workers.credential.bearer: is empty"),
    ("credential = { hmac = { path = \"x\" } }\n", "credential.hmac: is not a text such as"),
    (
        "forward_headers = [\"authorization\"]\ncredential = { bearer = \"${DIGITS}\" }\n",
        "5: backends.workers.forward_headers: has Authorization, which bearer sets",
    ),
    (
        "forward_headers = [\"CF-Access-Client-Secret\"]\n",
        "cf-access-client-secret is a header the gateway writes itself",
    ),
    ("[jobs]\nstore = \"mysql://h:6379\"\n", "6: jobs.store: has a scheme that is no store's (write a file such as"),
    ("[jobs]\nwait_replicas = 1\n", "6: jobs.wait_replicas: is for a store on Redis, and this one is a file"),
    ("[jobs]\nstore = \"redis://h\"\nwait_replicas = 17\n", "7: jobs.wait_replicas: is more than any Redis has"),
    ("[rolout]\npercent = 1\n", "5: rolout: is not a known key (did you mean `rollout`?)"),
    ("[rollout]\nprecent = 1\n", "6: rollout.precent: is not a known key (did you mean `percent`?)"),
    (
        "[jobs]\npercent = 1\n",
        "6: jobs.percent: is not a known key (`percent` belongs to [rollout] or [exports.overlay])",
    ),
    ("[circuit]\nopen = 5\n", "6: circuit.open: 5 has no unit (write"),
    ("[circuit]\nopen = \"5 s\"\n", "6: circuit.open: \"5 s\" is not a duration"),
    ("[circuit]\nopen = \"999999999d\"\n", "6: circuit.open: \"999999999d\" is too long"),
    ("[circuit]\nopen = \"1m\"\n", "circuit.open_max: is shorter than circuit.open"),
    ("[circuit]\nfailure_share = 0\n", "6: circuit.failure_share: 0 is not above 0 and up to 1"),
    ("[circuit]\nminimum = 0\n", "6: circuit.minimum: is too small (write 1 or more)"),
    ("[circuit]\nminimum = -1\n", "6: circuit.minimum: -1 is not a whole number"),
    ("[limits]\nstart_body = \"1MB\"\n", "6: limits.start_body: \"1MB\" is not a size"),
    ("[limits]\nstart_body = \"63MiB\"\nanswer_body = \"2MiB\"\n", "limits.buffered: is smaller than"),
    ("[limits]\ntarget = \"64KiB\"\n", "limits.headers: is smaller than limits.target"),
    (
        "[server]\nlisten = \":8080\"\n",
        "6: server.listen: \":8080\" is not an IP address with a port (write \"0.0.0.0:8080\"",
    ),
    ("[server]\nlisten = \"127.0.0.1:9901\"\n", "admin.listen: is the address of server.listen too"),
    ("[server]\nthreads = 0\n", "6: server.threads: is not between 1 and 1024"),
    ("[server]\nlisten = 8080\n", "6: server.listen: 8080 is not an address and port"),
    ("[server]\nlisten = [1]\n", "6: server.listen: a list is not an address and port"),
    ("server = 5\n[jobs]\n", "backends.workers.server: is not a known key"),
    (
        "[server]\ntrusted_proxies = [\"10.0.0.1/8\"]\n",
        "6: server.trusted_proxies: 10.0.0.1/8 has bits set beyond its prefix",
    ),
    ("[server]\ntrusted_proxies = \"10.0.0.0/8\"\n", "6: server.trusted_proxies: \"10.0.0.0/8\" is not a list"),
    (
        "[admin]\nlisten = \"0.0.0.0:9901\"\n",
        "6: admin.listen: 0.0.0.0:9901 is not loopback, and there is no admin.token",
    ),
    ("websocket = \"gateway\"\n", "5: backends.workers.websocket: \"gateway\" needs server.public_url"),
    ("websocket = \"both\"\n", "5: backends.workers.websocket: \"both\" is not \"direct\" or \"gateway\""),
    ("declined = [404, 500]\n", "5: backends.workers.declined: 500 does not prove that no job was made"),
    (
        "forward_headers = [\"X-Request-Id\"]\n",
        "5: backends.workers.forward_headers: x-request-id is a header the gateway writes",
    ),
    ("public_url = \"http://w/?q\"\n", "5: backends.workers.public_url: has a query or a fragment"),
    ("fallback = \"yes\"\n", "5: backends.workers.fallback: \"yes\" is not true or false"),
    ("[identity]\nheader = \"X User\"\n", "6: identity.header: \"X User\" is not the name of a header"),
    ("[identity]\nheader = \"Cookie\"\n", "6: identity.header: cookie cannot carry the user"),
    ("[identity]\nheader = \"X_User\"\n", "6: identity.header: has a _ in its name"),
    ("[identity]\ntrusted = \"10.0.0.0/8\"\n", "6: identity.trusted: \"10.0.0.0/8\" is not \"any\" or a list"),
    ("[identity]\ntrusted = [\"any\"]\n", "6: identity.trusted: \"any\" is not a network"),
    ("[identity]\ndefault = \"\"\n", "6: identity.default: \"\" has nothing left of a user id"),
    (
        "[rollout]\nalways_workers = [\"u\"]\nalways_legacy = [\"v\", \"u!\"]\n",
        "7: rollout.always_legacy: user `u` is in always_workers and in always_legacy",
    ),
    ("[exports.Overlay]\n", "exports.Overlay: is not the name of an export type"),
    ("[exports.status]\n[exports.overlay]\n", "5: exports.status: cannot be an export type"),
    ("[exports.framing]\n", "5: exports.framing.input_key: is missing (add [exports.framing.input_key], or"),
    ("[cors]\n", "5: cors.origins: is missing"),
    ("[cors]\norigins = [\"*\"]\n", "6: cors.origins: \"*\" is not an origin"),
    (
        "[cors]\norigins = [\"https://a/\"]\n",
        "6: cors.origins: \"https://a/\" is not written as browsers send it (write \"https://a\")",
    ),
    ("[jobs]\nkeep = \"1s\"\n", "6: jobs.keep: is too small (write \"1m\" or more)"),
    ("[jobs]\nkeep = \"1h\"\nkeep = \"2h\"\n", "7: stands in this section a second time"),
    ("[jobs]\nkeep = 1h\n", "gateway.toml:6: text must stand in quotes (write \"1h\")"),
    ("[rollout]\nworkers = yes\n", "gateway.toml:6: yes is not a value (write true)"),
    ("[rollout]\npercent =\n", "gateway.toml:6: has no value (write one behind the ="),
    ("[rollout]\nalways_legacy = [\"a\"\n", "is not valid TOML"),
];

#[test]
fn each_mistake_is_named_with_its_advice() {
    for (text, expected) in MISTAKES {
        let all = problems(text);
        assert!(
            all.iter().any(|problem| problem.contains(expected)),
            "{text}\n  expected {expected}\n  found {all:#?}"
        );
        let most = if text.contains("[exports.Overlay]") { 2 } else { 1 };
        assert!(all.len() <= most, "{text}: {all:#?}");
    }
}

#[test]
fn look_ups_of_input_keys_have_three_forms() {
    let overlay = |text: &str| format!("[exports.overlay.input_key]\n{text}\n");
    let table = table(&overlay(
        "database = \"d/{user_id}/db\"\nquery = \"SELECT f FROM t WHERE p = :project_id\"\nkey = \"v/{f}\"",
    ));
    let InputKey::Database(lookup) = &table.exports["overlay"].input_key else { panic!("it is a database") };
    assert_eq!((lookup.database.as_str(), lookup.base.as_path()), ("/srv/gw/d/{user_id}/db", Path::new("/srv/gw/d")));
    assert_eq!(lookup.missing, "No working video found");
    let url = overlay("url = \"/p/{project_id}\"\npointer = \"/f\"\nkey = \"v/{filename}\"");
    assert!(problems(&url).is_empty());
    assert!(
        problems(&format!("{}[exports.framing.input_key]\nfield = \"k\"\n", overlay("field = \"input_key\"")))
            .is_empty()
    );
    let sql = "query = \"SELECT f FROM t WHERE p = :project_id\"\nkey = \"v/{f}\"";
    let cases = [
        ("missing = \"m\"".to_owned(), "input_key: does not say where the key comes from"),
        ("field = \"f\"\nurl = \"/u\"".to_owned(), "input_key: has field and url"),
        ("field = \"f\"\nquery = \"q\"".to_owned(), "query: does not belong to field"),
        ("field = \"project_id\"".to_owned(), "field: cannot be project_id"),
        ("database = \"d/{user_id}\"".to_owned(), "query: is missing"),
        (format!("database = \"../{{user_id}}\"\n{sql}"), "database: has a .. segment"),
        (format!("database = \"d/{{user}}\"\n{sql}"), "database: has a placeholder that is not known: {user}"),
        (format!("database = \"d/{{user_id\"\n{sql}"), "database: has a brace without its pair"),
        (format!("database = \"d/{{user_id}}\"\n{}", sql.replace("SELECT", "DELETE")), "query: is not a SELECT"),
        (
            format!("database = \"d/{{user_id}}\"\n{}", sql.replace(":project_id", "':project_id'")),
            "query: has no :project_id",
        ),
        (
            format!("database = \"d/{{user_id}}\"\n{}", sql.replace(":project_id", ":project_id AND a = :b")),
            "not known: :b",
        ),
        (
            format!("database = \"d/{{user_id}}\"\n{}", sql.replace(":project_id", ":project_id; DROP x")),
            "more than one statement",
        ),
        (
            format!("database = \"d/{{user_id}}\"\n{}", sql.replace("{f}", "{g}")),
            "key: has a placeholder that is not known: {g}",
        ),
        (format!("database = \"d/{{user_id}}\"\n{}", sql.replace("{f}", "x")), "key: is the same for every project"),
        (
            "url = \"http://evil/{project_id}\"\npointer = \"/f\"\nkey = \"{filename}\"".to_owned(),
            "url: is not a path on legacy",
        ),
        (
            "url = \"//evil/{project_id}\"\npointer = \"/f\"\nkey = \"{filename}\"".to_owned(),
            "url: is not a path on legacy",
        ),
        ("url = \"/p\"\npointer = \"/f\"\nkey = \"{filename}\"".to_owned(), "url: has no {project_id}"),
        (
            "url = \"/{project_id}\"\npointer = \"f~2\"\nkey = \"{filename}\"".to_owned(),
            "pointer: is not a JSON pointer",
        ),
        ("url = \"/{project_id}\"\npointer = \"/f\"\nkey = \"x\"".to_owned(), "key: has no {filename}"),
    ];
    for (text, expected) in cases {
        let all = problems(&overlay(&text));
        assert!(
            all.iter().any(|problem| problem.contains(expected)),
            "{text}\n  expected {expected}\n  found {all:#?}"
        );
    }
}

#[test]
fn ten_mistakes_are_found_at_once() {
    let text = include_str!("tests/ten_mistakes.toml");
    let found = load_text(text).expect_err("it has ten");
    let lines: Vec<String> = found.iter().map(Problem::to_string).collect();
    assert_eq!(lines.len(), 10, "{lines:#?}");
}

#[test]
fn broken_syntax_does_not_hide_other_mistakes() {
    let found =
        problems("[rollout]\npercent = \nworkers = maybe\n[circuit]\nopen = 5\nprobs = 1\n[jobs\nkeep = \"1d\"\n");
    for expected in ["gateway.toml:6:", "gateway.toml:7:", "circuit.open", "circuit.probs", "gateway.toml:11:"] {
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:#?}");
    }
}

#[test]
fn hostile_files_are_refused_quickly() {
    let huge = "a".repeat(usize::try_from(limits::CONFIG_FILE).expect("it is small") + 1);
    assert!(load_text(&huge).expect_err("it is huge")[0].message.contains("is larger than"));
    let latin = load(&Source { bytes: b"a = 1\n# \xff", name: "f", base_dir: Path::new("/") }, &env);
    assert_eq!(latin.expect_err("it is not UTF-8")[0].to_string(), "f:2: is not UTF-8 text");
    assert_eq!(load_text(" \n\t\n").expect_err("it is empty")[0].to_string(), "gateway.toml: is empty");
    let dots = vec!["a"; 31].join(".");
    let nested = [
        format!("a = {}", "[".repeat(500_000)),
        format!("a = {}", "{ a = ".repeat(100_000)),
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("[{}]", vec!["a"; 100_000].join(".")),
        format!("{}1{}", format!("{dots} = {{ ").repeat(31), "}".repeat(31)),
        format!("[{dots}]\n{dots} = [[[[[[[[{}", "[".repeat(20)),
        (0..100_000).map(|n| format!("k{n}=1\n")).collect(),
        (0..20_000).map(|n| format!("[exports.{n}]\nx=\"${{A{n}}}\"\n")).collect(),
        "\"".repeat(1_000_000),
        "[[a]]\n".repeat(100_000),
    ];
    for text in nested {
        let began = Instant::now();
        let found = load_text(&text).expect_err("it is hostile");
        assert!(!found.is_empty() && found.len() <= limits::CONFIG_PROBLEMS);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(60), "{:?} for {:.40}", took, text);
    }
}

#[test]
fn the_end_marker_is_the_last_line() {
    for (text, expected) in [
        ("a\n# END", true),
        ("a\n# END\n\n", true),
        ("a\r\n# END \r\n", true),
        ("# END\na", false),
        ("a # END", false),
        ("a\n# EN", false),
        ("", false),
    ] {
        assert_eq!(has_end_marker(text), expected, "{text:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}") {
        let _ = load_text(&text);
    }

    #[test]
    fn any_toml_like_text_is_survived(text in "([a-z\\[\\]{}=\".,#'$:\\\\ \n0-9-]|server|\\$\\{A\\}|\"\"\"|rollout){0,80}") {
        let _ = load_text(&text);
    }

    #[test]
    fn any_edit_of_a_good_file_is_survived(at in 0..SHIPPED.len(), cut in 0usize..40, put in "[\\[\\]{}=\".,#'$:\n a-c0-9é]{0,6}") {
        let mut text: Vec<char> = SHIPPED.chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, put.chars());
        if let Err(found) = load_text(&text.iter().collect::<String>()) {
            prop_assert!(!found.is_empty() && found.iter().all(|problem| !problem.long().is_empty()));
        }
    }
}
