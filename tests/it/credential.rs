//! How the gateway proves itself to the Worker: real signatures on a real workerd, and what becomes of the secrets.

use std::fs;
use std::net::SocketAddr;

use ring::{digest, hmac};
use serde_json::json;
use toml::Table;

use crate::support::client::{self, Connection, Request};
use crate::support::eventually;
use crate::support::gateway::{Backends, Gateway, set as set_key, table};
use crate::support::parts::{Set, header_of, quick_folder};
use crate::support::rude::{Rude, Step};
use crate::support::scene::{self, calm, fields, line_of, poll_of, start_as, workers_at};
use crate::support::tokens;
use crate::support::websocket::Socket;

const OLD: &str = "the-old-secret-0123456789abcdefghij";
const NEW: &str = "the-new-secret-0123456789abcdefghij";

fn signing(table: &mut Table, key_id: &str, variable: &str) {
    set_key(table, "backends.workers.credential.hmac", format!("${{{variable}}}"));
    set_key(table, "backends.workers.credential.key_id", key_id);
}

/// Starts a gateway after `change`, with both secrets in its environment.
fn gateway(backends: impl Into<Backends>, change: impl FnOnce(&mut Table)) -> Gateway {
    let mut table = table(&backends.into());
    calm(&mut table);
    change(&mut table);
    let environment = [("OLD", OLD), ("NEW", NEW), ("WRONG", "another-secret-0123456789abcdefghijk")];
    Gateway::in_environment(&table.to_string(), &environment)
}

/// A set whose Worker takes the gateway's signature only.
fn guarded() -> Set {
    let set = Set::start();
    set.workers.settings(json!({"gateway_keys": {"2026-05": OLD, "2026-11": NEW}}));
    set
}

#[test]
fn a_worker_takes_the_gateways_signature_on_every_way_to_it() {
    let set = guarded();
    let through = gateway(&set, |table| {
        signing(table, "2026-11", "NEW");
        set_key(table, "backends.workers.websocket", "gateway");
        set_key(table, "server.public_url", "https://api.example.com");
    });
    // A user's bytes beyond ASCII are signed as the Worker reads them.
    let user = format!("{}\u{e9}\u{b5}", set.user());
    set.legacy.add_video(&user, 12, "clip.mp4");
    let forged = start_as(&user, "signed")
        .header("Export-Gateway-Signature", "00")
        .header("Export-Gateway-Time", "1")
        .header("Export-Gateway-Key-Id", "evil")
        .header("CF-Access-Client-Id", "evil")
        .header("CF-Access-Client-Secret", "evil")
        .header("Cloudflare-Workers-Version-Key", "evil")
        .header("Cloudflare-Workers-Version-Overrides", "evil");
    let answer = client::send(through.addr(), &forged);
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")), "{}", answer.text());
    let job = answer.field("job_id");
    for export in [None, Some("overlay")] {
        assert_eq!(client::send(through.addr(), &poll_of(&user, &job, export)).status, 200);
    }
    let mut socket = Socket::open(&format!("ws://{}/api/jobs/{job}/ws", through.addr()));
    socket.send_text(r#"{"type":"ping"}"#);
    socket.read_until(|message| message["type"] == "pong");
    // A job that the store does not know is looked for at workers, too.
    let stranger = gateway(&set, |table| signing(table, "2026-05", "OLD"));
    assert_eq!(client::send(stranger.addr(), &poll_of(&user, &job, None)).status, 200, "the other secret is as good");
    assert_eq!(set.jobs_of(&user), (0, 1));

    let seen = set.workers.seen();
    assert!(seen.len() >= 5, "{seen:?}");
    let mut versions = Vec::new();
    for request in &seen {
        let value = |name| header_of(request, name).join("|");
        assert_eq!(value("export-gateway-signature").len(), 64, "{request}");
        assert!(["2026-05", "2026-11"].contains(&value("export-gateway-key-id").as_str()), "{request}");
        assert_eq!(value("cf-access-client-id") + &value("cf-access-client-secret"), "", "{request}");
        assert_eq!(value("cloudflare-workers-version-overrides"), "", "{request}");
        versions.push(value("cloudflare-workers-version-key"));
    }
    versions.dedup();
    assert_eq!(versions.len(), 1, "a user stays on one version: {versions:?}");
    assert!(versions[0].len() == 32 && !versions[0].contains(&user), "{versions:?}");
}

/// A start as the gateway has signed it, as a Worker at `set` would have got it.
fn captured(set: &Set) -> (String, String, Vec<u8>) {
    let rude = Rude::always(vec![Step::ReadRequest, Step::json(200, r#"{"job_id":"captured"}"#)]);
    let through = gateway(workers_at(set, rude.url()), |table| signing(table, "2026-11", "NEW"));
    let user = set.user();
    assert_eq!(client::send(through.addr(), &start_as(&user, "captured")).status, 200);
    (user, rude.addr().to_string(), rude.received().remove(0))
}

fn replay(addr: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut connection = Connection::open(addr);
    connection.send(request);
    let answer = connection.read("POST").expect("an answer");
    (answer.status, answer.text())
}

#[test]
fn nothing_of_a_signed_request_can_be_changed() {
    let set = guarded();
    let (user, host, request) = captured(&set);
    let text = String::from_utf8(request.clone()).unwrap();
    let of = |name: &str| {
        let found = fields(&request).into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.unwrap_or_else(|| panic!("{name} in {text}")).1
    };
    let (key, time, signature) = (of("idempotency-key"), of("export-gateway-time"), of("export-gateway-signature"));
    let other = set.user();
    let later = (time.parse::<u64>().unwrap() + 1).to_string();
    let flipped = if signature.starts_with('0') { "1" } else { "0" }.to_owned() + &signature[1..];
    let changes: [(&str, &str, &str); 10] = [
        ("path", "/api/export/overlay/start", "/api/export/framing/start"),
        ("query", "/api/export/overlay/start", "/api/export/overlay/start?a=1"),
        ("method", "POST ", "PUT "),
        ("user", &user, &other),
        ("body", "\"project_id\":12", "\"project_id\":13"),
        ("time", &time, &later),
        ("host", &host, "elsewhere.example"),
        ("key", &key, "another-key"),
        ("signature", &signature, &flipped),
        ("key id", "2026-11", "2026-05"),
    ];
    for (what, from, to) in changes {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{what}");
        // A body keeps its length here; a PUT is no start at all.
        let (status, answer) = replay(set.workers.addr(), changed.as_bytes());
        let expected = if what == "method" { 404 } else { 401 };
        assert_eq!(status, expected, "{what}: {answer}");
    }
    for name in ["export-gateway-time", "export-gateway-signature"] {
        let kept: Vec<&str> = text.split("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with(name)).collect();
        assert_eq!(replay(set.workers.addr(), kept.join("\r\n").as_bytes()).0, 401, "without {name}");
    }
    assert!(set.workers.jobs().is_empty(), "no change made a job");
    let (status, answer) = replay(set.workers.addr(), &request);
    assert_eq!(status, 200, "as it was it is good: {answer}");
    assert_eq!(set.workers.jobs_of(&user).len(), 1);
    set.workers.settings(json!({"gateway_keys": {"2026-05": OLD}}));
    assert_eq!(replay(set.workers.addr(), &request).0, 401, "a secret that was taken away");
}

/// Signs as the documentation says, with nothing of the gateway's own code.
fn signed_poll(addr: SocketAddr, secret: &str, time: i64) -> Request {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let body = hex(digest::digest(&digest::SHA256, b"").as_ref());
    let text = format!("export-gateway-1\nGET\n{addr}\n/api/export/status/none\n\nann\n\n{time}\n{body}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes());
    Request::get("/api/export/status/none")
        .user("ann")
        .header("Export-Gateway-Time", &time.to_string())
        .header("Export-Gateway-Signature", &hex(signature.as_ref()))
}

#[test]
fn a_signature_is_good_for_a_minute_and_by_each_of_two_secrets() {
    let set = guarded();
    let addr = set.workers.addr();
    let status =
        |secret: &str, seconds: i64| client::send(addr, &signed_poll(addr, secret, tokens::now() + seconds)).status;
    for secret in [OLD, NEW] {
        for (seconds, expected) in [(0, 404), (-50, 404), (50, 404), (-70, 401), (70, 401), (-86_400, 401)] {
            assert_eq!(status(secret, seconds), expected, "{seconds} s");
        }
    }
    assert_eq!(status("another-secret-0123456789abcdefghijk", 0), 401);
    assert_eq!(client::send(addr, &Request::get("/api/export/status/none").user("ann")).status, 401);
    assert_eq!(client::send(addr, &Request::get("/health")).status, 200, "what is not guarded stays open");
}

#[test]
fn workers_that_refuse_the_credential_have_declined_and_it_is_an_error_in_the_log() {
    let set = guarded();
    let through = gateway(&set, |table| signing(table, "2026-11", "WRONG"));
    let user = set.user();
    let answer = client::send(through.addr(), &start_as(&user, "refused"));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("legacy")), "{}", answer.text());
    assert_eq!(set.jobs_of(&user), (1, 0));
    assert_eq!(line_of(&through, "refused")["fallback"], "declined_401");
    let event = through.event("workers refuse the gateway's credential");
    assert_eq!(event["level"], "ERROR", "{event}");
    // Without a credential 401 is the request's own fault, and the answer.
    let plain = gateway(&set, |_| {});
    let answer = client::send(plain.addr(), &start_as(&set.user(), "own fault"));
    assert_eq!((answer.status, answer.header("x-export-backend")), (401, Some("workers")));
    // The handshake's 401 is about the gateway, not the browser.
    let url = |gateway: &Gateway| format!("ws://{}/api/jobs/some-job/ws", gateway.addr());
    assert_eq!(Socket::try_open(&url(&through), &[]).expect_err("it is refused").status, 502);
}

#[test]
fn a_bearer_token_and_a_service_token_go_along() {
    let set = Set::start();
    set.workers.settings(json!({"require_header": {"name": "Authorization", "value": format!("Bearer {OLD}")}}));
    let through = gateway(&set, |table| {
        for (key, variable) in
            [("bearer", "${OLD}"), ("access_client_id", "${NEW}"), ("access_client_secret", "${WRONG}")]
        {
            set_key(table, &format!("backends.workers.credential.{key}"), variable);
        }
    });
    let user = set.user();
    let answer = client::send(through.addr(), &start_as(&user, "bearer").header("Authorization", "Bearer the-users"));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")), "{}", answer.text());
    let seen = scene::only(&set.workers, "start", &user);
    assert_eq!(header_of(&seen, "authorization"), [format!("Bearer {OLD}")]);
    assert_eq!(header_of(&seen, "cf-access-client-id"), [NEW]);
    assert_eq!(header_of(&seen, "cf-access-client-secret").len(), 1);
    // Legacy gets none of it.
    client::send(through.addr(), &Request::get("/api/projects").user(&user));
    let seen = scene::only(&set.legacy, "other", &user);
    assert!(header_of(&seen, "authorization").is_empty() && header_of(&seen, "cf-access-client-id").is_empty());
}

#[test]
fn a_secret_in_a_file_is_changed_without_a_restart() {
    let set = guarded();
    let folder = quick_folder("gateway-folder");
    let file = folder.path().join("hmac");
    fs::write(&file, "another-secret-0123456789abcdefghijk\n").unwrap();
    let through = gateway(&set, |table| {
        set_key(table, "backends.workers.credential.hmac.file", file.display().to_string());
    });
    let start = || {
        let answer = client::send(through.addr(), &start_as(&set.user(), "file"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.header("x-export-backend") == Some("workers")
    };
    assert!(!start());
    fs::write(&file, format!("{NEW}\n")).unwrap();
    eventually("the new secret", || start().then_some(()));
    fs::write(&file, "two\nlines\n").unwrap();
    let readiness = || client::get(through.admin(), "/readyz").text();
    eventually("the broken file is shown", || readiness().contains("key_file_refused").then_some(()));
    assert!(start(), "the last good secret signs on");
}

#[test]
fn no_secret_is_ever_shown() {
    let set = guarded();
    let folder = quick_folder("gateway-folder");
    let file = folder.path().join("jwt");
    let planted = [
        "planted-hmac-0123456789abcdefghijkl",
        "planted-bearer",
        "planted-id",
        "planted-access",
        "planted-jwt-0123456789abcdefghijklm",
    ];
    fs::write(&file, planted[4]).unwrap();
    let mut text = table(&Backends::from(&set));
    for (key, variable) in [
        ("hmac", "${HMAC}"),
        ("bearer", "${BEARER}"),
        ("access_client_id", "${ID}"),
        ("access_client_secret", "${ACCESS}"),
    ] {
        set_key(&mut text, &format!("backends.workers.credential.{key}"), variable);
    }
    set_key(&mut text, "identity.jwt.keys", file.display().to_string());
    let environment = [
        ("HMAC", planted[0]),
        ("BEARER", planted[1]),
        ("ID", planted[2]),
        ("ACCESS", planted[3]),
        ("RUST_LOG", "trace"),
    ];
    let mut through = Gateway::in_environment(&text.to_string(), &environment);
    let mut claims = tokens::claims("ann");
    claims.as_object_mut().unwrap().remove("aud");
    let token = tokens::hs256(planted[4].as_bytes(), &claims);
    set.legacy.add_video("ann", 12, "clip.mp4");
    let mut shown = String::new();
    // Refused, broken and good answers; broken files, with the secret in them.
    for (id, authorization) in [("planted-1", format!("Bearer {token}")), ("planted-2", format!("Bearer {token}x"))] {
        let answer = client::send(through.addr(), &start_as("x", id).header("Authorization", &authorization));
        shown += &format!("{answer:?}");
    }
    shown += &format!("{:?}", client::send(through.addr(), &poll_of("x", "nothing", None)));
    fs::write(&file, format!("{}\n{}", planted[4], planted[4])).unwrap();
    eventually("the broken file is shown", || {
        client::get(through.admin(), "/readyz").text().contains("key_file").then_some(())
    });
    for broken in [
        format!("[backends.workers.credential]\nhmac = {}\n", planted[0]),
        format!("[backends.workers.credential]\nhmca = \"{}\"\n", planted[0]),
        format!("[backends.workers]\ncredential = \"{}\"\n", planted[0]),
        format!("[rollout]\nhmac = \"{}\"\n", planted[0]),
    ] {
        let before = through.reloads();
        through.write_by_rename(&broken);
        assert_eq!(through.wait_reload(&before), "rejected");
        shown += &client::get(through.admin(), "/readyz").text();
    }
    shown += &through.metrics();
    line_of(&through, "planted-2");
    through.term();
    shown += &format!("{}{:?}", through.stderr_text(), through.access_lines());
    assert!(shown.contains("configuration rejected"), "{shown}");
    for secret in planted.iter().chain([&token.as_str()]) {
        let at = shown.find(secret);
        assert_eq!(at, None, "{:?}", at.map(|at| &shown[at.saturating_sub(200)..at + secret.len()]));
    }
}
