//! Workers that cannot be reached: nothing was sent, so legacy takes the start, once.

use std::time::{Duration, Instant};

use super::{Stage, Then, USER, parts};
use crate::support::client;
use crate::support::gateway::set;
use crate::support::rude::{BlackHole, Rude, Step, refused_addr};
use crate::support::scene::{assert_own, start_as};
use crate::support::tls::{Authority, Certificate, Front};

impl Stage {
    /// With this address in workers' place.
    fn at(url: &str) -> Stage {
        Stage::open(parts(), url, &[], |_| {})
    }
}

#[test]
fn a_start_that_cannot_be_sent_goes_to_legacy() {
    let refused = format!("http://{}", refused_addr());
    let black_hole = BlackHole::open();
    let cases = [
        ("refused", refused.as_str(), "unreachable"),
        ("no such name", "http://does-not-exist.invalid:8787", "dns"),
        ("black hole", &black_hole.url(), "connect_timeout"),
    ];
    for (what, url, cause) in cases {
        let mut stage = Stage::at(url);
        for _ in 0..2 {
            let began = Instant::now();
            stage.play(what, 0, Then::Legacy(cause));
            let took = began.elapsed();
            if cause == "connect_timeout" {
                assert!(took >= Duration::from_secs(1), "the default is 1 s: {took:?}");
            }
            assert!(took < Duration::from_secs(5), "{what} took {took:?}");
        }
        stage.finish();
    }
}

#[test]
fn without_legacy_or_a_fallback_nothing_is_left() {
    let refused = format!("http://{}", refused_addr());
    let mut stage = Stage::open(parts(), &refused, &[], |table| set(table, "backends.workers.fallback", false));
    stage.play("refused, fallback = false", 0, Then::NoBackend);
    stage.finish();
    let mut stage = Stage::open(parts(), &refused, &[], |table| set(table, "backends.legacy.url", refused.as_str()));
    stage.play("refused, legacy refused, too", 0, Then::NoBackend);
    stage.finish();
    // Workers decline, and legacy breaks off: then it is legacy of which nobody knows.
    let legacy = Rude::always(vec![Step::ReadRequest, Step::Reset]);
    let stage = Stage::open(parts(), &refused, &[], |table| set(table, "backends.legacy.url", legacy.url()));
    let answer = client::send(stage.gateway.addr(), &start_as(USER, "both"));
    assert_own(&answer, 502, "start_outcome_unknown");
    assert_eq!(answer.header("x-export-backend"), Some("legacy"));
    assert_eq!(legacy.requests("POST"), 1);
}

#[test]
fn a_certificate_that_does_not_hold_gets_no_byte() {
    let authority = Authority::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let roots = file.path().to_str().expect("a path in UTF-8").to_owned();
    for (what, kind, trusted) in [
        ("certificate expired", Certificate::Expired, true),
        ("certificate for another name", Certificate::WrongName, true),
        ("certificate self-signed", Certificate::SelfSigned, true),
        ("certificate of an unknown authority", Certificate::Good, false),
    ] {
        let set = parts();
        let front = Front::start(&authority, kind, set.workers.addr());
        let environment: &[(&str, &str)] = if trusted { &[("SSL_CERT_FILE", &roots)] } else { &[] };
        let mut stage = Stage::open(set, &front.url(), environment, |_| {});
        stage.play(what, 0, Then::Legacy("tls"));
        assert_eq!((front.bytes(), front.connections()), (0, 1), "{what}");
        let event = stage.gateway.event("start falls back to legacy");
        assert_eq!(crate::support::gateway::text_of(&event, "cause"), Some("tls"));
        let line = crate::support::scene::line_of(&stage.gateway, "row-0");
        assert!(line["error"].as_str().is_some_and(|error| error.contains("certificate")), "{line}");
        stage.finish();
    }
    let plain = parts().workers.url().replace("http://", "https://");
    let mut stage = Stage::at(&plain);
    stage.play("no TLS where https is expected", 0, Then::Legacy("tls"));
    stage.finish();
}

#[test]
fn a_certificate_that_holds_is_believed() {
    let authority = Authority::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let roots = file.path().to_str().expect("a path in UTF-8").to_owned();
    let set = parts();
    let front = Front::start(&authority, Certificate::Good, set.workers.addr());
    let mut stage = Stage::open(set, &front.url(), &[("SSL_CERT_FILE", &roots)], |_| {});
    let answer = stage.play("https, accepted", 1, Then::Accepted);
    let expected = front.url().replace("https://", "wss://");
    assert!(answer.field("websocket_url").starts_with(&expected), "{}", answer.text());
    assert!(front.bytes() > 0);
    stage.finish();
}
