//! No secret is ever shown: every one that a gateway can hold or be sent is planted, everything is exercised with all
//! logging on, and then whatever the gateway wrote or answers is searched for them.

use std::fs;

use serde_json::json;
use toml::Table;

use crate::support::backend::{Recorder, say};
use crate::support::client::{Connection, Request, Response, send};
use crate::support::gateway::{Gateway, run, set, table};
use crate::support::tokens::{base64url, claims, hs256};

const ADMIN: &str = "PLANTED-admin-token-0123456789";
const BEARER: &str = "PLANTED-bearer-0123456789abcdef";
const HMAC: &str = "PLANTED-hmac-secret-0123456789abcdef";
const ACCESS_ID: &str = "PLANTED-access-id.access";
const ACCESS: &str = "PLANTED-access-secret-0123456789";
const JWT: &str = "PLANTED-jwt-secret-0123456789abcdef0123456789";
const REDIS: &str = "PLANTED-redis-password";
/// Of clients: what they send to prove themselves somewhere.
const CLIENT: [&str; 6] = [
    "PLANTED-cookie",
    "PLANTED-authorization",
    "PLANTED-proxy",
    "PLANTED-query",
    "PLANTED-body",
    "PLANTED-idempotency",
];

/// Everything that the gateway let out, by name.
struct Outlets(Vec<(String, String)>);

impl Outlets {
    fn add(&mut self, name: &str, text: impl Into<String>) {
        self.0.push((name.into(), text.into()));
    }

    /// Fails with each place where something planted stands, whole or encoded.
    fn search(&self, tokens: &[String]) {
        let mut planted: Vec<String> = vec!["PLANTED".into(), base64url(b"PLANTED").trim_end_matches('=')[..8].into()];
        planted.extend(tokens.iter().flat_map(|token| token.split('.').skip(1).map(str::to_owned)));
        let mut found = Vec::new();
        for (name, text) in &self.0 {
            for secret in &planted {
                if let Some(at) = text.find(secret.as_str()) {
                    let around = &text.as_bytes()[at.saturating_sub(80)..(at + 80).min(text.len())];
                    found.push(format!("{name}: …{}…", String::from_utf8_lossy(around)));
                }
            }
        }
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

fn credentials(table: &mut Table) {
    let credential = "backends.workers.credential";
    set(table, &format!("{credential}.hmac"), "${HMAC}");
    set(table, &format!("{credential}.key_id"), "one");
    set(table, &format!("{credential}.bearer"), "${BEARER}");
    set(table, "admin.token", "${ADMIN}");
    set(table, "identity.jwt.header", "X-Token");
    set(table, "identity.jwt.claim", "sub");
    set(table, "identity.jwt.keys", "jwt.key");
    set(table, "identity.cookie", "uid");
    set(table, "identity.trusted", Vec::<toml::Value>::new());
}

fn ask_admin(gateway: &Gateway, path: &str, token: &str) -> Response {
    send(gateway.admin(), &Request::get(path).header("Authorization", &format!("Bearer {token}")))
}

/// Requests of every kind, good and bad, each with all that a client may carry.
fn exercise(gateway: &Gateway, tokens: &[String]) {
    let laden = |request: Request, token: &str| {
        request
            .header("X-Token", token)
            .header("Authorization", "Bearer PLANTED-authorization")
            .header("Cookie", "session=PLANTED-cookie; uid=maya")
            .header("Proxy-Authorization", "Basic PLANTED-proxy")
    };
    let body = json!({"project_id": 12, "effect_type": "PLANTED-body"});
    for token in tokens {
        for target in ["/api/export/overlay/start?key=PLANTED-query", "/files/1?key=PLANTED-query"] {
            let start = Request::post_json(target, &body).header("Idempotency-Key", "PLANTED-idempotency");
            send(gateway.addr(), &laden(start, token));
        }
        for target in ["/api/export/status/abc?key=PLANTED-query", "/?PLANTED-query", "/api/export/%2f?PLANTED-query"] {
            send(gateway.addr(), &laden(Request::get(target), token));
        }
    }
    for bytes in [
        "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: PLANTED-authorization\r\nbad line PLANTED-cookie\r\n\r\n",
        "GET /?PLANTED-query HTTP/1.1\r\nAuthorization: PLANTED-authorization\r\n\r\n",
        "GET /?PLANTED-query#x HTTP/1.1\r\nHost: h\r\nCookie: PLANTED-cookie\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nPLANTED-body\r\n",
    ] {
        let mut connection = Connection::open(gateway.addr());
        connection.send(bytes.as_bytes());
        let _ = connection.read("GET");
    }
    for (path, token) in [("/metrics", "PLANTED-wrong"), ("/api/table", &ADMIN[..20]), ("/api/jobs/x", "PLANTED")] {
        assert_eq!(ask_admin(gateway, path, token).status, 401, "{path}");
    }
}

fn admin_answers(gateway: &Gateway, outlets: &mut Outlets) {
    for path in [
        "/",
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/table",
        "/api/reloads",
        "/api/explain?user=maya&type=overlay",
        "/api/jobs/abc",
        "/nothing",
    ] {
        let answer = ask_admin(gateway, path, ADMIN);
        outlets.add(&format!("admin {path}"), format!("{:?} {}", answer.head.headers, answer.text()));
        let closed = ask_admin(gateway, path, "PLANTED-wrong");
        outlets.add(&format!("admin {path} without the token"), format!("{:?} {}", closed.head.headers, closed.text()));
    }
}

#[test]
fn nothing_that_is_planted_comes_out() {
    let legacy = Recorder::start();
    // The worst a Worker can do: it says back what it was sent.
    let workers = crate::support::backend::Backend::start(|_, wire| {
        loop {
            let (head, _) = crate::support::backend::read_request(wire)?;
            let body = json!({"error": head.line}).to_string();
            say(
                wire,
                &format!(
                    "HTTP/1.1 500 X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ),
            );
        }
    });
    let mut table = table(&crate::support::gateway::Backends { workers: workers.url(), ..(&legacy).into() });
    credentials(&mut table);
    let keys = crate::support::parts::quick_folder("gateway-folder");
    let file = keys.path().join("jwt.key");
    fs::write(&file, JWT).unwrap();
    set(&mut table, "identity.jwt.keys", file.display().to_string());
    let environment = [("HMAC", HMAC), ("BEARER", BEARER), ("ADMIN", ADMIN), ("RUST_LOG", "trace")];
    let gateway = Gateway::in_environment(&table.to_string(), &environment);
    let mut expired = claims("maya");
    expired["exp"] = 1.into();
    let tokens = [
        hs256(JWT.as_bytes(), &claims("maya")),
        hs256(JWT.as_bytes(), &expired),
        hs256(b"PLANTED-other", &claims("maya")),
    ];
    exercise(&gateway, &tokens);

    let mut outlets = Outlets(Vec::new());
    // A file that is refused is shown with its lines, and one that is applied is logged.
    for (line, what) in [
        ("[admin]\ntoken = [\"PLANTED-literal\"]\n", "a list"),
        ("[admin]\ntoken = \"PLANTED-literal\" x\n", "no TOML"),
        ("[backends.workers.credential]\nbearer = 5\nhmac = \"PLANTED short\"\n", "no text"),
        ("[backends.legacy]\nurl = \"http://user:PLANTED-url@h\"\n", "a password in a URL"),
        ("[jobs]\nstore = \"redis://:PLANTED-redis@\"\n", "half an address"),
    ] {
        let path = gateway.folder().join("refused.toml");
        fs::write(&path, line).unwrap();
        let check = run(&["check", "--config", path.to_str().unwrap()]);
        assert_eq!(check.status.code(), Some(64), "{what}");
        let text = [check.stdout, check.stderr].concat();
        outlets.add(&format!("check of {what}"), String::from_utf8_lossy(&text));
    }
    let before = reloads(&gateway);
    gateway.write_by_rename(&table.to_string().replace("percent = 100", "percent = 250"));
    crate::support::eventually("a refused file", || (reloads(&gateway) != before).then_some(()));
    admin_answers(&gateway, &mut outlets);
    let last = tokens.len() * 5;
    crate::support::eventually("the access log", || (gateway.access_lines().len() >= last).then_some(()));
    outlets.add("events", gateway.stderr_text());
    outlets.add("access log", gateway.access_lines().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    assert!(gateway.stderr_text().len() > 1000, "tracing was on");
    outlets.search(&tokens);
    // The search can fail: what was planted did go where it belongs.
    let seen = legacy.requests();
    assert!(seen.iter().any(|request| request.all("authorization") == ["Bearer PLANTED-authorization"]));
    assert!(CLIENT.iter().all(|secret| secret.starts_with("PLANTED")));
}

fn reloads(gateway: &Gateway) -> String {
    ask_admin(gateway, "/api/reloads", ADMIN).text()
}

#[test]
fn the_password_of_a_store_and_the_token_of_access_stay_inside() {
    let legacy = Recorder::start();
    let mut table = table(&(&legacy).into());
    set(&mut table, "jobs.store", "redis://user:${REDIS}@127.0.0.1:9/3");
    set(&mut table, "backends.workers.websocket", "gateway");
    set(&mut table, "server.public_url", "https://api.example.com");
    set(&mut table, "backends.workers.credential.access_client_id", "${ACCESS_ID}");
    set(&mut table, "backends.workers.credential.access_client_secret", "${ACCESS}");
    set(&mut table, "admin.token", "${ADMIN}");
    let environment =
        [("REDIS", REDIS), ("ACCESS_ID", ACCESS_ID), ("ACCESS", ACCESS), ("ADMIN", ADMIN), ("RUST_LOG", "trace")];
    let gateway = Gateway::in_environment(&table.to_string(), &environment);
    let body = json!({"project_id": 12});
    let answers = [
        send(gateway.addr(), &Request::post_json("/api/export/overlay/start", &body).user("maya")),
        send(
            gateway.addr(),
            &Request::post_json("/api/export/overlay/start", &body).user("maya").header("Idempotency-Key", "k"),
        ),
        send(gateway.addr(), &Request::get("/api/export/status/abc")),
    ];
    let mut outlets = Outlets(Vec::new());
    for answer in answers {
        outlets.add("answer", format!("{:?} {}", answer.head.headers, answer.text()));
    }
    admin_answers(&gateway, &mut outlets);
    outlets.add("events", gateway.stderr_text());
    outlets.search(&[]);
}
