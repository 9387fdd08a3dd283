//! CORS: from the file for every answer that legacy did not make; legacy's own are left alone.

use serde_json::json;
use toml::{Table, Value};

use crate::support::client::{self, Request, Response};
use crate::support::gateway::{Gateway, set as set_key};
use crate::support::parts;
use crate::support::scene::{poll_of, start_as, start_of};
use crate::support::unique_user;

const APP: &str = "https://app.reelballers.com";
/// In the gateway's list, but not in legacy's.
const NEW: &str = "https://new.reelballers.com";
const EVIL: &str = "https://evil.example.com";

fn cors(table: &mut Table) {
    set_key(table, "cors.origins", vec![Value::from(APP), Value::from(NEW)]);
    set_key(table, "cors.credentials", true);
}

fn preflight(target: &str, origin: &str) -> Request {
    Request::new("OPTIONS", target)
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "content-type,x-user-id")
}

fn allowed(answer: &Response) -> (Vec<&str>, Vec<&str>) {
    (answer.all("access-control-allow-origin"), answer.all("access-control-allow-credentials"))
}

fn varies(answer: &Response) -> bool {
    answer.all("vary").iter().flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("origin"))
}

const TARGETS: [&str; 4] = [
    "/api/export/overlay/start",
    "/api/export/framing/status/some-job",
    "/api/export/status/some-job",
    "/api/jobs/some-job/ws",
];

#[test]
fn preflights_of_the_taken_over_routes_are_answered_from_the_file() {
    let set = parts::shared();
    let gateway = Gateway::with(set, cors);
    let user = unique_user();
    for target in TARGETS {
        for origin in [APP, NEW] {
            let answer = client::send(gateway.addr(), &preflight(target, origin).user(&user));
            assert_eq!((answer.status, answer.text().as_str()), (204, ""), "{target}");
            assert_eq!(allowed(&answer), (vec![origin], vec!["true"]), "{target}");
            assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST, OPTIONS"));
            assert_eq!(answer.header("access-control-allow-headers"), Some("content-type,x-user-id"));
            assert!(answer.header("access-control-max-age").is_some() && varies(&answer), "{target}");
        }
        let answer = client::send(gateway.addr(), &preflight(target, EVIL).user(&user));
        assert_eq!(allowed(&answer), (vec![], vec![]), "{target}");
        assert!(varies(&answer));
    }
    assert!(set.legacy.seen_from("other", &user).is_empty() && set.workers.seen_from("other", &user).is_empty());
}

#[test]
fn other_preflights_are_legacys_to_answer() {
    let set = parts::shared();
    let (with, without) = (Gateway::with(set, cors), Gateway::start(set));
    let user = unique_user();
    let mut asked = 0;
    let elsewhere =
        TARGETS.iter().map(|target| (&without, *target)).chain([(&with, "/api/projects"), (&with, "/api/upload")]);
    for (gateway, target) in elsewhere {
        for origin in [APP, NEW] {
            let request = preflight(target, origin).user(&user);
            let (ours, direct) = (client::send(gateway.addr(), &request), client::send(set.legacy.addr(), &request));
            assert_eq!((ours.status, ours.text()), (direct.status, direct.text()), "{target}");
            assert_eq!(allowed(&ours), allowed(&direct), "{target} {origin}");
            asked += 2;
        }
    }
    assert_eq!(set.legacy.seen_from("other", &user).len(), asked);
    // An OPTIONS that is no preflight is legacy's, too.
    let plain = client::send(with.addr(), &Request::new("OPTIONS", TARGETS[0]).user(&user).header("Origin", APP));
    assert_eq!((plain.status, set.legacy.seen_from("other", &user).len()), (405, asked + 1));
}

#[test]
fn listed_headers_are_all_that_a_preflight_allows() {
    let gateway = Gateway::with(parts::shared(), |table| {
        cors(table);
        set_key(table, "cors.headers", vec![Value::from("Content-Type"), Value::from("X-User-Id")]);
        set_key(table, "cors.credentials", false);
    });
    let answer = client::send(gateway.addr(), &preflight(TARGETS[0], APP));
    assert_eq!(answer.header("access-control-allow-headers"), Some("content-type, x-user-id"));
    assert_eq!(allowed(&answer), (vec![APP], vec![]));
}

#[test]
fn answers_of_workers_and_of_the_gateway_carry_it() {
    let set = parts::shared();
    let gateway = Gateway::with(set, cors);
    let user = set.user();
    let star = json!([["access-control-allow-origin", "*"], ["access-control-allow-credentials", "false"]]);
    set.workers.fault(json!({"start": {"mode": "pass", "user": user, "headers": star}}));
    let send = |request: Request, origin: Option<&str>| match origin {
        Some(origin) => client::send(gateway.addr(), &request.header("Origin", origin)),
        None => client::send(gateway.addr(), &request),
    };
    let started = send(start_as(&user, "cors"), Some(NEW));
    assert_eq!((started.status, started.header("x-export-backend")), (200, Some("workers")));
    let job = started.field("job_id");
    let odd = Request::get("/api/export/overlay/status/a%2Fb").user(&user);
    let twice = start_as(&user, "cors").user("b");
    let requests = [
        ("start", start_as(&user, "cors"), 200),
        ("no video", start_of("overlay", r#"{"project_id":13}"#).user(&user), 400),
        ("poll", poll_of(&user, &job, None), 200),
        ("somebody else's", poll_of("other", &job, None), 404),
        ("odd path", odd, 400),
        ("odd identity", twice, 400),
        ("too large", start_of("overlay", "").user(&user).header("Content-Length", "99999999"), 413),
    ];
    for (what, request, status) in requests {
        for origin in [APP, NEW] {
            let answer = send(request.clone(), Some(origin));
            assert_eq!((answer.status, allowed(&answer)), (status, (vec![origin], vec!["true"])), "{what}");
            let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
            assert!(exposed.contains("X-Export-Backend") && exposed.contains("X-Request-Id"), "{what}: {exposed}");
            assert!(varies(&answer), "{what}");
        }
        for origin in [Some(EVIL), Some("null"), None] {
            let answer = send(request.clone(), origin);
            assert_eq!((answer.status, allowed(&answer)), (status, (vec![], vec![])), "{what}");
            assert!(varies(&answer), "{what}: a cache must not give it to another origin");
        }
    }
}

#[test]
fn without_the_table_nothing_is_said() {
    let set = parts::shared();
    let gateway = Gateway::start(set);
    let user = set.user();
    let answer = client::send(gateway.addr(), &start_as(&user, "plain").header("Origin", APP));
    assert_eq!((answer.status, allowed(&answer), answer.header("vary")), (200, (vec![], vec![]), None));
}

#[test]
fn legacys_answers_are_left_alone() {
    let set = parts::shared();
    let gateway = Gateway::with(set, |table| {
        cors(table);
        set_key(table, "rollout.percent", 0);
    });
    let user = set.user();
    let started = client::send(gateway.addr(), &start_as(&user, "old").header("Origin", APP));
    let job = started.field("job_id");
    let requests = [
        start_of("overlay", r#"{"project_id":13,"highlight_regions":[]}"#).user(&user),
        poll_of(&user, &job, Some("overlay")),
        poll_of(&user, "nowhere-at-all", Some("overlay")),
        Request::get("/api/projects").user(&user),
    ];
    for request in requests {
        for origin in [APP, NEW, EVIL] {
            let request = request.clone().header("Origin", origin);
            let (ours, direct) = (client::send(gateway.addr(), &request), client::send(set.legacy.addr(), &request));
            assert_eq!((ours.status, allowed(&ours)), (direct.status, allowed(&direct)), "{origin}");
            for name in ["access-control-expose-headers", "vary"] {
                assert_eq!(ours.all(name), direct.all(name), "{origin} {name}");
            }
        }
    }
}
