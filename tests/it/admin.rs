//! The second port, and what operators read: health, metrics, the access log.

use serde_json::{Value, json};

use crate::support::backend::Recorder;
use crate::support::client::{Connection, Request, Response, get, send, start_overlay, status};
use crate::support::gateway::{Gateway, series, set, unset};
use crate::support::parts::shared;
use crate::support::websocket::Socket;

#[test]
fn health_and_readiness_say_what_they_should() {
    let mut gateway = Gateway::start(shared());
    let health = get(gateway.admin(), "/healthz");
    assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    assert!(health.header("content-type").is_some_and(|it| it.starts_with("text/plain")));
    let ready = get(gateway.admin(), "/readyz");
    assert_eq!((ready.status, ready.header("cache-control")), (200, Some("no-store")));
    assert_eq!(ready.header("cross-origin-resource-policy"), Some("same-origin"));
    let status = ready.json()["status"].clone();
    assert!(status == "ready" || status == "degraded", "{status}");
    assert!(ready.json()["reasons"].is_array());
    let head = send(gateway.admin(), &Request::new("HEAD", "/readyz"));
    assert_eq!((head.status, head.body.bytes.len()), (200, 0));
    assert_eq!(send(gateway.admin(), &Request::new("POST", "/healthz")).status, 405);
    assert_eq!(get(gateway.admin(), "/nothing").status, 404);
    // Clients have no business here and operators none there.
    assert_eq!(get(gateway.admin(), "/api/projects").status, 404);
    assert_eq!(get(gateway.addr(), "/healthz").status, 404);
    gateway.kill9();
}

#[test]
fn a_bad_file_is_degraded_not_unready() {
    let gateway = Gateway::start(shared());
    let before = gateway.reloads();
    gateway.write_by_rename("[rollout\npercent = 1");
    gateway.wait_reload(&before);
    let ready = get(gateway.admin(), "/readyz");
    assert_eq!((ready.status, &ready.json()["status"]), (200, &"degraded".into()));
    let reasons = ready.json()["reasons"].to_string();
    assert!(reasons.contains("config_refused") && reasons.contains("gateway.toml:"), "{reasons}");
    assert_eq!(gateway.metric("export_gateway_config_last_reload_successful", &[]), 0.0);
}

#[test]
fn every_metric_of_the_contract_is_there() {
    let set = shared();
    let gateway = Gateway::with(set, |table| crate::support::gateway::set(table, "exports.framing.percent", 12.5));
    let user = set.user();
    let job = start_overlay(gateway.addr(), &user).field("job_id");
    assert_eq!(status(gateway.addr(), &user, &job).status, 200);
    let done = crate::support::eventually("the job's end", || {
        let answer = status(gateway.addr(), &user, &job);
        (answer.json()["status"] == "complete").then_some(answer)
    });
    assert_eq!(done.status, 200);
    // A start that workers decline, and one that legacy gets in their place.
    let declined = set.user();
    set.workers.fault(json!({"start": {"mode": "answer", "status": 429, "user": declined, "times": 1}}));
    assert_eq!(start_overlay(gateway.addr(), &declined).header("x-export-backend"), Some("legacy"));
    gateway.edit(|table| crate::support::gateway::set(table, "rollout.salt", "other"));
    let text = gateway.metrics();
    let labels = |name: &str| -> Vec<_> {
        let mut names: Vec<_> =
            series(&text, name).into_iter().map(|(labels, _)| labels.into_keys().collect::<Vec<_>>()).collect();
        names.dedup();
        names
    };
    for (name, expected) in [
        ("requests_total", &["backend", "route", "status"][..]),
        ("request_duration_seconds_count", &["backend", "route"]),
        ("starts_total", &["backend", "outcome", "reason", "type"]),
        ("fallbacks_total", &["cause", "type"]),
        ("jobs_open", &["backend"]),
        ("job_outcomes_total", &["backend", "status", "type"]),
        ("circuit_state", &["backend"]),
        ("config_reloads_total", &["result"]),
        ("config_last_reload_successful", &[]),
        ("config_info", &["hash"]),
        ("rollout_percent", &["type"]),
        ("websockets_open", &[]),
        ("connections_open", &[]),
    ] {
        let name = format!("export_gateway_{name}");
        assert_eq!(labels(&name), [expected], "{name}");
        let family = name.trim_end_matches("_count");
        for kind in ["# HELP", "# TYPE"] {
            assert_eq!(
                text.lines().filter(|line| line.starts_with(&format!("{kind} {family} "))).count(),
                1,
                "{family}"
            );
        }
    }
    let value = |name: &str, labels: &[(&str, &str)]| gateway.metric(&format!("export_gateway_{name}"), labels);
    assert_eq!(value("rollout_percent", &[("type", "framing")]), 12.5);
    assert_eq!(value("rollout_percent", &[("type", "overlay")]), 100.0);
    assert_eq!(value("starts_total", &[("type", "overlay"), ("backend", "workers"), ("outcome", "accepted")]), 1.0);
    assert_eq!(value("fallbacks_total", &[("type", "overlay")]), 1.0);
    assert_eq!(
        value("job_outcomes_total", &[("backend", "workers"), ("type", "overlay"), ("status", "complete")]),
        1.0
    );
    // Labels are bounded: nothing of a user, a job or a path is in there.
    for secret in [user.as_str(), job.as_str(), declined.as_str(), "/api/"] {
        assert!(!text.contains(secret), "{secret} in the metrics");
    }
    let answer = get(gateway.admin(), "/metrics");
    assert!(answer.header("content-type").is_some_and(|it| it.starts_with("text/plain; version=0.0.4")));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn counts_agree_with_what_was_sent() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let mut connection = Connection::open(gateway.addr());
    for _ in 0..30 {
        connection.exchange(&Request::get("/")).unwrap();
    }
    let bad = send(gateway.addr(), &Request::get("/").header("Connection", "Host"));
    assert_eq!(bad.status, 400);
    let counted = |labels: &[(&str, &str)]| gateway.metric("export_gateway_requests_total", labels);
    crate::support::eventually("31 requests", || (counted(&[]) == 31.0).then_some(()));
    assert_eq!(counted(&[("route", "pass"), ("backend", "legacy"), ("status", "200")]), 30.0);
    assert_eq!(counted(&[("status", "400")]), 1.0);
    assert_eq!(gateway.metric("export_gateway_request_duration_seconds_count", &[]), 31.0);
    let open = || gateway.metric("export_gateway_connections_open", &[]);
    crate::support::eventually("the kept connection alone", || (open() == 1.0).then_some(()));
}

#[test]
fn a_page_of_another_site_learns_nothing_on_loopback() {
    let gateway = Gateway::start(shared());
    let port = gateway.admin().port();
    let ask = |fields: &[(&str, &str)], path: &str| -> Response {
        send(gateway.admin(), &fields.iter().fold(Request::get(path), |it, (name, value)| it.header(name, value)))
    };
    let local = format!("localhost:{port}");
    for path in ["/metrics", "/readyz", "/healthz"] {
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""] {
            assert!(matches!(ask(&[("Host", host)], path).status, 400 | 403), "{host:?} {path}");
        }
        for origin in ["https://evil.example", "http://localhost.evil.example", "null", "http://evil@127.0.0.1.x"] {
            assert_eq!(ask(&[("Host", &local), ("Origin", origin)], path).status, 403, "{origin:?} {path}");
        }
        for fields in [
            &[("Host", local.as_str())][..],
            &[("Host", "127.0.0.1"), ("Origin", "http://localhost:9901")],
            &[("Host", "[::1]:9901")],
        ] {
            assert_eq!(ask(fields, path).status, 200, "{fields:?} {path}");
        }
    }
}

#[test]
fn the_api_says_what_serves_where_a_start_goes_and_who_owns_a_job() {
    let set = shared();
    let gateway = Gateway::start(set);
    let ask = |path: &str| get(gateway.admin(), path);
    let user = set.user();
    let started = start_overlay(gateway.addr(), &user);
    let table = ask("/api/table").json();
    assert_eq!(table["exports"]["overlay"]["percent"], 100.0);
    assert_eq!(table["backends"]["workers"], set.workers.addr().to_string());
    let explained = ask(&format!("/api/explain?type=overlay&user={user}")).json();
    assert_eq!((explained["backend"].as_str(), started.header("x-export-backend")), (Some("workers"), Some("workers")));
    assert_eq!(explained["user"], user.as_str());
    assert_eq!(ask("/api/explain?type=nothing&user=a").status, 404);
    let job = ask(&format!("/api/jobs/{}", started.field("job_id"))).json();
    assert_eq!((job["backend"].as_str(), job["user"].as_str()), (Some("workers"), Some(user.as_str())));
    assert_eq!((ask("/api/jobs/unknown").status, ask("/api/jobs/a%2Fb").status), (404, 400));
    gateway.set_percent(50.0);
    let reloads = ask("/api/reloads").json();
    assert_eq!(reloads["history"][0]["result"], "applied");
    assert_eq!(reloads["problems"].as_array().map(Vec::len), Some(0));
}

#[test]
fn the_dashboard_loads_nothing_from_elsewhere() {
    let gateway = Gateway::start(shared());
    let page = get(gateway.admin(), "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
    for part in ["/dashboard.css", "/dashboard.js"] {
        assert!(page.text().contains(part));
        assert_eq!(get(gateway.admin(), part).status, 200);
    }
    assert!(!page.text().contains("http"), "the page names no other place");
}

#[test]
fn another_address_than_loopback_needs_the_token() {
    let gateway = Gateway::with(shared(), |table| {
        set(table, "admin.listen", "0.0.0.0:0");
        set(table, "admin.token", "s3cret-token");
    });
    let admin = format!("127.0.0.1:{}", gateway.admin().port()).parse().unwrap();
    let ask = |path: &str, token: Option<&str>| {
        let request = Request::get(path).header("Host", "gateway.internal");
        send(admin, &token.iter().fold(request, |it, token| it.header("Authorization", token)))
    };
    for wrong in [
        None,
        Some("Bearer s3cret-toke"),
        Some("Bearer s3cret-tokenn"),
        Some("Basic s3cret-token"),
        Some("s3cret-token"),
    ] {
        let answer = ask("/metrics", wrong);
        let schemes = Some("Basic realm=\"export-gateway\", Bearer");
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, schemes), "{wrong:?}");
        assert_eq!(ask("/healthz", wrong).status, 200);
        let ready = ask("/readyz", wrong);
        assert_eq!((ready.status, &ready.json()["reasons"]), (200, &Value::Null), "no detail without the token");
    }
    assert_eq!(ask("/metrics", Some("Bearer s3cret-token")).status, 200);
    assert!(ask("/readyz", Some("Bearer s3cret-token")).json()["reasons"].is_array());
    assert!(!gateway.stderr_text().contains("s3cret"), "the token is in the log");
    assert!(!ask("/metrics", Some("Bearer s3cret-token")).text().contains("s3cret"));
    let mut open = toml::Table::new();
    open.clone_from(&gateway.config_text().parse().unwrap());
    unset(&mut open, "admin.token");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, open.to_string()).unwrap();
    let check = crate::support::gateway::run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(check.status.code(), Some(64), "an open admin port without a token does not start");
}

#[test]
fn each_request_is_one_line_of_the_access_log() {
    let set = shared();
    let mut gateway = Gateway::start(set);
    let user = set.user();
    let job = start_overlay(gateway.addr(), &user).field("job_id");
    status(gateway.addr(), &user, &job);
    let mut kept = Connection::open(gateway.addr());
    for path in ["/files/10", "/api/status/404", "/api/status/204"] {
        kept.exchange(&Request::get(path).header("X-Request-Id", &format!("id-of{}", path.replace('/', "-")))).unwrap();
    }
    send(gateway.addr(), &Request::get("/refused").header("Connection", "Host"));
    let mut socket = Socket::open(&format!("ws://{}/ws/export/1", gateway.addr()));
    socket.send_text("ping");
    socket.read_text();
    socket.close(1000, "");
    socket.closed();
    drop(kept);
    assert_eq!(gateway.term().code(), Some(0));
    let lines = gateway.access_lines();
    let mut seen: Vec<_> =
        lines.iter().map(|line| (line["path"].as_str().unwrap(), line["status"].as_u64().unwrap())).collect();
    seen.sort_unstable();
    let poll = format!("/api/export/status/{job}");
    let mut expected = vec![
        ("/api/export/overlay/start", 200),
        (poll.as_str(), 200),
        ("/files/10", 200),
        ("/api/status/404", 404),
        ("/api/status/204", 204),
        ("/refused", 400),
        ("/ws/export/1", 101),
    ];
    expected.sort_unstable();
    assert_eq!(seen, expected);
    for line in &lines {
        for key in ["time", "request_id", "client", "method", "path", "route", "status", "bytes", "duration_seconds"] {
            assert!(!line[key].is_null(), "{key} in {line}");
        }
    }
    let of = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap();
    let start = of("/api/export/overlay/start");
    for (key, value) in [
        ("route", "start"),
        ("backend", "workers"),
        ("decision", "workers"),
        ("reason", "canary"),
        ("outcome", "accepted"),
        ("export_type", "overlay"),
        ("job_id", job.as_str()),
        ("user", user.as_str()),
    ] {
        assert_eq!(start[key], value, "{start}");
    }
    assert!(start["bucket"].as_u64().is_some_and(|bucket| bucket < 10_000));
    assert_eq!(of("/files/10")["request_id"], "id-of-files-10");
    assert_eq!(of("/files/10")["bytes"], 10);
    assert_eq!(of("/refused")["code"], "bad_request");
}

#[test]
fn a_head_that_never_became_a_request_is_one_line_too() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::with(&recorder, |table| set(table, "server.header_timeout", "200ms"));
    let bad = [
        "GET / HTTP/1.2\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n",
        "GET / HTTP/1.1\nHost: h\n\n",
        "GET /slow",
    ];
    let mut answers = Vec::new();
    for bytes in bad {
        let mut connection = Connection::open(gateway.addr());
        connection.send(bytes.as_bytes());
        let answer = connection.read("GET").unwrap();
        assert_eq!(answer.header("x-request-id"), Some(answer.field("request_id").as_str()), "{bytes:?}");
        answers.push((answer.field("request_id"), answer.status, answer.field("code")));
        connection.expect_closed();
    }
    assert_eq!(gateway.term().code(), Some(0));
    let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    let mut lines: Vec<_> = gateway
        .access_lines()
        .iter()
        .map(|line| (word(line, "request_id"), line["status"].as_u64().unwrap() as u16, word(line, "code")))
        .collect();
    lines.sort_unstable();
    answers.sort_unstable();
    assert_eq!(lines, answers);
}

#[test]
fn hostile_text_is_escaped_and_cut_in_the_access_log() {
    let recorder = Recorder::start();
    let mut gateway = Gateway::start(&recorder);
    let long = "x".repeat(5000);
    let requests = [
        Request::get("/a\"b\\c,{}[]:'"),
        Request::get(&format!("/long/{long}")),
        Request::get("/%22%0a%0d%1b[31m%00"),
        Request::get("/ok").header("X-User-Id", "q\"uo\\te\u{e9}\u{ff}\u{9b}31m"),
        Request::get("/ok").header("X-User-Id", &long),
        Request::get("/ok").header("X-Request-Id", "\"},{\"level\":\"error\\"),
        Request::get("/ok").header("X-Request-Id", &long),
        Request::new("X\"Y".replace('"', "'").as_str(), "/ok"),
        Request::new(&"M".repeat(300), "/ok"),
        Request::get("/bad").header("X-User-Id", "a\tb"),
    ];
    for request in &requests {
        send(gateway.addr(), request);
    }
    assert_eq!(gateway.term().code(), Some(0));
    // The harness parses each line: that they are all here means that each was one whole JSON object.
    let lines = gateway.access_lines();
    assert_eq!(lines.len(), requests.len());
    for line in &lines {
        let text = line.to_string();
        assert!(text.len() < 1500, "{} bytes: {text}", text.len());
        assert!(line.get("level").is_none());
        for (key, value) in line.as_object().unwrap() {
            let Some(value) = value.as_str() else { continue };
            assert!(value.len() <= 256, "{key}: {} bytes", value.len());
            assert!(!value.chars().any(char::is_control), "{key}: {value:?}");
        }
    }
}

#[test]
fn no_secret_is_in_any_log() {
    let set = shared();
    let mut gateway = Gateway::start(set);
    let user = set.user();
    for target in ["/files/10?token=QUERYSECRET", "/api/export/status/none?sig=QUERYSECRET", "/nobody?a=QUERYSECRET"] {
        let request = Request::get(target)
            .user(&user)
            .header("Cookie", "session=COOKIESECRET")
            .header("Authorization", "Bearer TOKENSECRET")
            .header("Proxy-Authorization", "Basic PROXYSECRET")
            .header("Referer", "https://app/?t=REFERERSECRET");
        send(gateway.addr(), &request);
    }
    let start = Request::post_json("/api/export/overlay/start?key=QUERYSECRET", &json!({"project_id": "BODYSECRET"}))
        .user(&user)
        .header("Cookie", "session=COOKIESECRET");
    send(gateway.addr(), &start);
    assert_eq!(gateway.term().code(), Some(0));
    let lines = gateway.access_lines();
    assert_eq!(lines.len(), 4);
    let everything = format!("{}{}", Value::from(lines), gateway.stderr_text());
    assert!(!everything.contains("SECRET"), "{everything}");
}
