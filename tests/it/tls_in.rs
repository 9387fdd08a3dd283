//! TLS towards clients: certificates by name, replaced while they serve; what is agreed on; what is refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use toml::Table;

use crate::support::backend::Recorder;
use crate::support::client::Request;
use crate::support::gateway::{Backends, Gateway, run, set, table, text_of};
use crate::support::parts::{quick_folder, shared};
use crate::support::scene::start_as;
use crate::support::tls::Authority;
use crate::support::tls_client::{Tls, Trust};
use crate::support::{End, client, eventually};

mod outbound;

/// A gateway behind TLS with the files of its certificate, and somebody to have signed it.
pub(crate) struct Secure {
    pub(crate) gateway: Gateway,
    pub(crate) authority: Authority,
    pub(crate) folder: TempDir,
}

impl Secure {
    /// Starts one for `localhost` before `backends`, after `change` has edited its file.
    pub(crate) fn start(backends: impl Into<Backends>, change: impl FnOnce(&mut Table, &Path)) -> Secure {
        let (authority, folder) = (Authority::new(), quick_folder("gateway-folder"));
        let (certificate, key) = authority.files_for("localhost", folder.path());
        let gateway = Gateway::with(backends, |table| {
            set(table, "server.tls.certificate", certificate);
            set(table, "server.tls.key", key);
            change(table, folder.path());
        });
        Secure { gateway, authority, folder }
    }

    pub(crate) fn trust(&self, alpn: &[&str]) -> Trust {
        Trust::in_authority(&self.authority, alpn)
    }

    pub(crate) fn connect(&self, alpn: &[&str]) -> Tls {
        self.trust(alpn).connect(self.gateway.addr(), "localhost").unwrap()
    }

    /// Replaces the certificate and its key, each in one step.
    fn replace(&self, names: &[&str]) {
        self.authority.write_for(names, self.folder.path(), "next");
        for kind in ["pem", "key"] {
            let path = |stem: &str| self.folder.path().join(format!("{stem}.{kind}"));
            std::fs::rename(path("next"), path("server")).unwrap();
        }
    }

    /// Waits until new connections are shown another certificate than `before`; returns it.
    fn wait_other(&self, before: &CertificateDer<'_>) -> CertificateDer<'static> {
        eventually("another certificate", || Some(self.connect(&[]).certificate()).filter(|now| now != before))
    }
}

#[test]
fn a_request_comes_through_tls_and_its_backend_knows() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    for versions in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let trust = Trust::with_versions(&secure.authority, &["http/1.1"], &[versions]);
        let mut tls = trust.connect(secure.gateway.addr(), "localhost").unwrap();
        for _ in 0..2 {
            let answer = tls.exchange(&Request::get("/a?b")).unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        }
    }
    let requests = recorder.requests();
    assert_eq!(requests.len(), 4);
    for request in &requests {
        assert_eq!(request.head.line, "GET /a?b HTTP/1.1");
        assert_eq!(request.all("x-forwarded-proto"), ["https"]);
        assert_eq!(request.all("host"), ["localhost"]);
    }
    assert_eq!(secure.gateway.metric("export_gateway_tls_handshakes_total", &[("result", "http1")]), 2.0);
}

#[test]
fn the_protocol_is_agreed_on_by_alpn() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    for (offer, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let mut tls = secure.connect(offer);
        assert_eq!(tls.protocol().as_deref(), agreed, "{offer:?}");
        if agreed != Some("h2") {
            assert_eq!(tls.exchange(&Request::get("/")).unwrap().status, 200);
        }
    }
    let stranger = secure.trust(&["spdy/3"]).connect(secure.gateway.addr(), "localhost");
    assert!(stranger.unwrap_err().to_string().contains("NoApplicationProtocol"));
    secure.gateway.edit(|table| set(table, "server.tls.http2", false));
    assert_eq!(secure.connect(&["h2", "http/1.1"]).protocol().as_deref(), Some("http/1.1"));
}

#[test]
fn each_name_gets_its_own_certificate() {
    let recorder = Recorder::start();
    let other = Authority::new();
    let secure = Secure::start(&recorder, |table, folder| {
        let more: Vec<toml::Value> = [("b", &["b.example", "B2.example"][..]), ("wild", &["*.wild.example"])]
            .map(|(stem, names)| {
                let (certificate, key) = other.write_for(names, folder, stem);
                let mut entry = Table::new();
                entry.insert("certificate".into(), certificate.into());
                entry.insert("key".into(), key.into());
                entry.into()
            })
            .into();
        set(table, "server.tls.more", more);
    });
    let addr = secure.gateway.addr();
    let theirs = Trust::in_authority(&other, &[]);
    for name in ["b.example", "B.EXAMPLE", "b2.example", "any.wild.example"] {
        assert_eq!(theirs.connect(addr, name).unwrap().exchange(&Request::get("/")).unwrap().status, 200, "{name}");
    }
    // A name that nobody has gets the first certificate, which is not for it: the client says so.
    for name in ["c.example", "wild.example", "a.b.wild.example"] {
        let refused = secure.trust(&[]).connect(addr, name).unwrap_err().to_string();
        assert!(refused.contains("not valid for name"), "{name}: {refused}");
    }
    assert!(secure.trust(&[]).connect(addr, "localhost").is_ok());
    assert_eq!(recorder.requests().len(), 4);
}

#[test]
fn a_certificate_is_replaced_under_load_and_nothing_fails() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let first = secure.connect(&[]).certificate();
    let (ended, sent, fresh) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let failed: Mutex<Vec<String>> = Mutex::default();
    let began = Instant::now();
    let took = thread::scope(|scope| {
        for number in 0..8 {
            let (secure, ended, sent, fresh, failed) = (&secure, &ended, &sent, &fresh, &failed);
            scope.spawn(move || {
                let (trust, addr) = (secure.trust(&["http/1.1"]), secure.gateway.addr());
                let mut kept = trust.connect(addr, "localhost").unwrap();
                while !ended.load(Ordering::SeqCst) {
                    // One thread shakes hands for every request, the others keep their connections.
                    let answer = if number == 0 {
                        fresh.fetch_add(1, Ordering::SeqCst);
                        trust.connect(addr, "localhost").and_then(|mut tls| tls.exchange(&Request::get("/")))
                    } else {
                        kept.exchange(&Request::get("/"))
                    };
                    sent.fetch_add(1, Ordering::SeqCst);
                    match answer {
                        Ok(answer) if answer.status == 200 => {}
                        other => failed.lock().unwrap().push(format!("{other:?}")),
                    }
                    // 1,000 a second in all, as far as the machine allows.
                    thread::sleep(Duration::from_millis(8));
                }
            });
        }
        // Whatever fails here, the threads above end.
        let _end = End(&ended);
        let mut certificate = first.clone();
        for _ in 0..4 {
            let before = sent.load(Ordering::SeqCst);
            secure.replace(&["localhost"]);
            certificate = secure.wait_other(&certificate);
            eventually("requests with the new certificate", || {
                (sent.load(Ordering::SeqCst) >= before + 250).then_some(())
            });
        }
        began.elapsed()
    });
    let (sent, fresh) = (sent.into_inner(), fresh.into_inner());
    println!("{sent} requests in {took:?}, {fresh} of them on new connections, 4 certificates");
    assert_eq!(*failed.lock().unwrap(), Vec::<String>::new());
    assert!(sent >= 1_000 && fresh >= 10, "{sent} {fresh}");
}

#[test]
fn a_bad_certificate_changes_nothing_and_is_named() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let first = secure.connect(&[]).certificate();
    let path = |kind: &str| secure.folder.path().join(format!("server.{kind}"));
    let good = ["pem", "key"].map(|kind| std::fs::read_to_string(path(kind)).unwrap());
    let (foreign_certificate, _) = secure.authority.pair_for(&["localhost"]);
    let encrypted = good[1].replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let cases = [
        ("pem", foreign_certificate.as_str(), "server.key is not the key of"),
        ("pem", "", "server.pem holds no certificate"),
        ("pem", "-----BEGIN CERTIFICATE-----\nMIIB", "server.pem is not whole"),
        ("pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "server.pem"),
        ("key", "hello", "server.key holds no private key"),
        ("key", encrypted.as_str(), "server.key is encrypted"),
    ];
    for (kind, text, what) in cases {
        std::fs::write(path(kind), text).unwrap();
        let readyz = eventually(what, || {
            let readyz = client::get(secure.gateway.admin(), "/readyz");
            readyz.text().contains(what).then_some(readyz)
        });
        assert_eq!((readyz.status, readyz.json()["status"].as_str()), (200, Some("degraded")));
        assert!(readyz.text().contains("key_file_refused"), "{}", readyz.text());
        eventually("the reason in the log", || {
            let logged = secure.gateway.events("a key or certificate file is no good, what it held before serves on");
            let fits = logged.iter().any(|event| text_of(event, "problem").is_some_and(|it| it.contains(what)));
            fits.then_some(())
        });
        let mut tls = secure.connect(&[]);
        assert_eq!(tls.certificate(), first, "{what}");
        assert_eq!(tls.exchange(&Request::get("/")).unwrap().status, 200);
        for (kind, text) in ["pem", "key"].iter().zip(&good) {
            std::fs::write(path(kind), text).unwrap();
        }
        eventually("the good files", || {
            (!client::get(secure.gateway.admin(), "/readyz").text().contains("key_file_refused")).then_some(())
        });
    }
    assert!(!secure.gateway.stderr_text().contains("BEGIN"), "no key in a log");
}

#[test]
fn a_start_with_bad_files_is_a_message_and_exit_64() {
    let folder = quick_folder("gateway-folder");
    let (certificate, key) = Authority::new().files_for("localhost", folder.path());
    let config = folder.path().join("gateway.toml");
    let backends = Backends {
        legacy: "http://127.0.0.1:1".into(),
        workers: "http://127.0.0.1:2".into(),
        data: folder.path().into(),
    };
    let try_with = |certificate: &str, key: &str, more: &str| {
        let mut table = table(&backends);
        set(&mut table, "server.tls.certificate", certificate);
        set(&mut table, "server.tls.key", key);
        std::fs::write(&config, format!("{table}{more}")).unwrap();
        let output = run(&["check", "--config", config.to_str().unwrap()]);
        let served = run(&["--config", config.to_str().unwrap()]);
        assert_eq!(served.status.code(), Some(64), "{certificate} {key}");
        assert_eq!(output.status.code(), Some(64));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let missing = try_with(&certificate, "/nonexistent/key.pem", "");
    assert!(missing.contains("server.tls.key: /nonexistent/key.pem cannot be read: no such file"), "{missing}");
    assert!(missing.contains("let the gateway's user read it"), "{missing}");
    let swapped = try_with(&key, &certificate, "");
    assert!(swapped.contains("server.tls.certificate: ") && swapped.contains("holds no certificate"), "{swapped}");
    // Somebody looks for the switch that turns verification off.
    let unverified = try_with(&certificate, &key, "[backends.legacy.tls]\ninsecure_skip_verify = true\n");
    assert!(unverified.contains("certificates are always verified"), "{unverified}");
}

#[test]
fn a_start_as_early_data_is_not_taken() {
    let parts = shared();
    let secure = Secure::start(parts, |_, _| {});
    let user = parts.user();
    let mut tls = secure.connect(&[]);
    let early = tls.exchange(&start_as(&user, "early").header("Early-Data", "1")).unwrap();
    assert_eq!(early.status, 425, "{early:?}");
    assert!(early.body.contains("\"code\":\"too_early\""), "{early:?}");
    assert_eq!(parts.jobs_of(&user), (0, 0));
    // When the handshake is over it is sent again.
    assert_eq!(tls.exchange(&start_as(&user, "late")).unwrap().status, 200);
    assert_eq!(parts.jobs_of(&user), (0, 1));
}

#[test]
fn sessions_are_resumed_but_never_with_early_data() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let (trust, addr) = (secure.trust(&[]), secure.gateway.addr());
    let connect = || {
        let mut tls = trust.connect(addr, "localhost").unwrap();
        assert!(tls.stream.conn.early_data().is_none(), "no ticket allows it");
        // The tickets come with the first answer.
        assert_eq!(tls.exchange(&Request::get("/")).unwrap().status, 200);
        tls.is_resumed()
    };
    assert!(!connect());
    assert!(connect(), "the second handshake is a short one");
    // An edit of the file drops no session, a new certificate does.
    secure.gateway.edit(|table| set(table, "limits.body_idle", "31s"));
    assert!(connect());
    let before = secure.connect(&[]).certificate();
    secure.replace(&["localhost"]);
    secure.wait_other(&before);
    assert!(!connect());
}

#[test]
fn who_does_not_shake_hands_is_sent_away() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |table, _| set(table, "server.tls.handshake_timeout", "300ms"));
    let addr = secure.gateway.addr();
    let began = Instant::now();
    let mut silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(addr).unwrap()).collect();
    // Half a record, and then nothing more.
    for half in &mut silent[10..] {
        half.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    }
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0, "closed without a word");
    }
    assert!(began.elapsed() >= Duration::from_millis(300));
    // A socket closes a moment before its handshake is counted.
    eventually("twenty handshakes to be counted", || {
        (secure.gateway.metric("export_gateway_tls_handshakes_total", &[("result", "timed_out")]) == 20.0).then_some(())
    });
    // Plain HTTP on this port gets an alert, no answer and no backend.
    let mut plain = TcpStream::connect(addr).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(said.first().is_none_or(|kind| *kind == 21), "{said:?}");
    eventually("the places to be given back", || {
        (secure.gateway.metric("export_gateway_connections_open", &[]) == 0.0).then_some(())
    });
    assert_eq!(recorder.requests().len(), 0);
    assert_eq!(secure.connect(&[]).exchange(&Request::get("/")).unwrap().status, 200);
}

#[test]
fn a_websocket_runs_through_tls() {
    let secure = Secure::start(shared(), |_, _| {});
    let tls = secure.connect(&["http/1.1"]);
    let (mut socket, answer) = tungstenite::client("ws://localhost/ws/export/tls", tls.stream).unwrap();
    assert_eq!(answer.status().as_u16(), 101);
    socket.send(tungstenite::Message::text("ping")).unwrap();
    assert_eq!(socket.read().unwrap().into_text().unwrap().as_str(), "pong");
    secure.gateway.signal("TERM");
    let closed = loop {
        match socket.read().unwrap() {
            tungstenite::Message::Close(frame) => break frame.expect("a code"),
            _ => continue,
        }
    };
    assert_eq!(u16::from(closed.code), 1001);
}

#[test]
fn handshakes_under_way_do_not_hold_up_the_end() {
    let recorder = Recorder::start();
    let mut secure = Secure::start(&recorder, |_, _| {});
    let silent = TcpStream::connect(secure.gateway.addr()).unwrap();
    let mut kept = secure.connect(&[]);
    assert_eq!(kept.exchange(&Request::get("/")).unwrap().status, 200);
    let began = Instant::now();
    assert!(secure.gateway.term().success());
    assert!(began.elapsed() < Duration::from_secs(8), "below the handshake's 10 s: {:?}", began.elapsed());
    drop(silent);
}
