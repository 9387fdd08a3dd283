//! HTTP/2 towards workers: many requests on one connection, and what a refused stream means for a start.

use std::io;
use std::time::Duration;

use toml::Table;

use crate::support::client::{self, Connection};
use crate::support::gateway::{Gateway, set};
use crate::support::h2_backend::{H2Backend, H2Front, Stage};
use crate::support::h2_frames::{
    DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, REFUSED_STREAM, RST_STREAM, away, block,
};
use crate::support::parts::{Set, quick_folder, shared};
use crate::support::scene::{calm, line_of, poll_of, start_as, workers_at};
use crate::support::tls::Authority;
use crate::support::unique_user;
use crate::support::websocket::Socket;

/// A gateway whose workers are at a URL that this authority vouches for.
fn gateway_before(parts: &Set, authority: &Authority, url: &str, change: impl FnOnce(&mut Table)) -> Gateway {
    let folder = quick_folder("gateway-folder");
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let gateway = Gateway::with(workers_at(parts, url), |table| {
        calm(table);
        set(table, "server.threads", 1);
        set(table, "backends.workers.tls.roots", roots.to_str().unwrap());
        change(table);
    });
    // The file is read again and again for as long as the gateway lives.
    std::mem::forget(folder);
    gateway
}

#[test]
fn starts_and_polls_share_one_connection() {
    let (parts, authority) = (shared(), Authority::new());
    let front = H2Front::start(&authority, parts.workers.addr());
    let gateway = gateway_before(parts, &authority, &front.url(), |_| {});
    let user = parts.user();
    let mut jobs = Vec::new();
    for number in 0..3 {
        let answer = client::send(gateway.addr(), &start_as(&user, &format!("h2-out-{number}")));
        assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")), "{}", answer.text());
        jobs.push(answer.field("job_id"));
    }
    std::thread::scope(|scope| {
        for job in &jobs {
            let (gateway, user) = (&gateway, &user);
            scope.spawn(move || {
                for _ in 0..20 {
                    let answer = client::send(gateway.addr(), &poll_of(user, job, None));
                    assert_eq!((answer.status, answer.field("job_id").as_str()), (200, job.as_str()));
                }
            });
        }
    });
    let seen = front.seen();
    assert_eq!((seen.len(), parts.jobs_of(&user)), (63, (0, 3)));
    assert_eq!(front.plain(), 0);
    let connections: std::collections::BTreeSet<_> = seen.iter().map(|request| request.connection).collect();
    println!("{} requests on {} connections", seen.len(), connections.len());
    assert!(connections.len() <= 3, "{connections:?}");
    let start = &seen[0];
    assert_eq!(
        (start.method.as_str(), start.uri.as_str()),
        ("POST", &*format!("{}/api/export/overlay/start", front.url()))
    );
    for name in ["host", "connection", "transfer-encoding", "keep-alive"] {
        assert!(start.headers.get(name).is_none(), "{name}");
    }
    assert_eq!(start.headers["x-user-id"], user.as_str());
    assert!(start.headers.contains_key("idempotency-key") && start.headers.contains_key("content-length"));
}

#[test]
fn a_websocket_goes_to_workers_by_http1() {
    let (parts, authority) = (shared(), Authority::new());
    let front = H2Front::start(&authority, parts.workers.addr());
    let gateway = gateway_before(parts, &authority, &front.url(), |_| {});
    let user = parts.user();
    let job = client::send(gateway.addr(), &start_as(&user, "h2-socket")).field("job_id");
    let mut socket = Socket::open(&format!("ws://{}/api/jobs/{job}/ws", gateway.addr()));
    socket.send_text(r#"{"type":"ping"}"#);
    socket.read_until(|message| message["type"] == "pong");
    assert_eq!((front.plain(), front.seen().len()), (1, 1));
}

#[test]
fn http2_can_be_left_out() {
    let (parts, authority) = (shared(), Authority::new());
    let front = H2Front::start(&authority, parts.workers.addr());
    let gateway =
        gateway_before(parts, &authority, &front.url(), |table| set(table, "backends.workers.tls.http2", false));
    let answer = client::send(gateway.addr(), &start_as(&parts.user(), "h1-out"));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")));
    assert_eq!((front.plain(), front.seen().len()), (1, 0));
}

/// What a start comes to.
#[derive(Debug, Clone, Copy)]
enum Then {
    /// Legacy, once.
    Legacy,
    /// Workers have it.
    Accepted,
    /// Nobody knows: no second backend.
    Unknown,
}

type Play = fn(&mut Stage, u32);
const JOB: &str = r#"{"job_id":"h2-job","status":"processing"}"#;

const CASES: &[(&str, Play, Then)] = &[
    ("REFUSED_STREAM", |s, id| s.frames.send(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes()), Then::Legacy),
    ("GOAWAY below our stream", |s, _| s.frames.send(GOAWAY, 0, 0, &away(0, 0)), Then::Legacy),
    (
        "GOAWAY below our stream, as an error",
        |s, _| {
            s.frames.send(GOAWAY, 0, 0, &away(0, ENHANCE_YOUR_CALM));
        },
        Then::Legacy,
    ),
    ("GOAWAY with our stream, then the end", |s, id| s.frames.send(GOAWAY, 0, 0, &away(id, 0)), Then::Unknown),
    (
        "GOAWAY with our stream as an error, then the end",
        |s, id| {
            s.frames.send(GOAWAY, 0, 0, &away(id, 2));
        },
        Then::Unknown,
    ),
    (
        "GOAWAY above our stream, then the end",
        |s, _| {
            s.frames.send(GOAWAY, 0, 0, &away(0x7fff_ffff, 0));
        },
        Then::Unknown,
    ),
    (
        "GOAWAY with our stream, then the answer",
        |s, id| {
            s.frames.send(GOAWAY, 0, 0, &away(id, 0));
            s.answer(id, JOB);
            s.drain();
        },
        Then::Accepted,
    ),
    ("INTERNAL_ERROR", |s, id| s.frames.send(RST_STREAM, 0, id, &2_u32.to_be_bytes()), Then::Unknown),
    ("CANCEL", |s, id| s.frames.send(RST_STREAM, 0, id, &8_u32.to_be_bytes()), Then::Unknown),
    ("NO_ERROR", |s, id| s.frames.send(RST_STREAM, 0, id, &0_u32.to_be_bytes()), Then::Unknown),
    ("the end without a word", |_, _| {}, Then::Unknown),
    (
        "REFUSED_STREAM behind the answer's head",
        |s, id| {
            s.frames.send(HEADERS, END_HEADERS, id, &[0x88]);
            s.frames.send(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes());
        },
        Then::Unknown,
    ),
    (
        "GOAWAY below our stream behind the answer's head",
        |s, id| {
            s.frames.send(HEADERS, END_HEADERS, id, &[0x88]);
            s.frames.send(DATA, 0, id, JOB.as_bytes());
            s.frames.send(GOAWAY, 0, 0, &away(0, 0));
        },
        Then::Unknown,
    ),
    (
        "an answer without :status",
        |s, id| {
            s.frames.send(HEADERS, END_HEADERS | END_STREAM, id, &block(&[("x-a", "1")]));
        },
        Then::Unknown,
    ),
    (
        "an answer with fields of a connection",
        |s, id| {
            let head = [&[0x88], &block(&[("connection", "close")])[..]].concat();
            s.frames.send(HEADERS, END_HEADERS, id, &head);
            s.frames.send(DATA, END_STREAM, id, JOB.as_bytes());
        },
        Then::Unknown,
    ),
    (
        "less body than Content-Length",
        |s, id| {
            let head = [&[0x88], &block(&[("content-length", "100")])[..]].concat();
            s.frames.send(HEADERS, END_HEADERS, id, &head);
            s.frames.send(DATA, END_STREAM, id, JOB.as_bytes());
        },
        Then::Unknown,
    ),
    ("a frame that is too large", |s, id| s.frames.send(DATA, 0, id, &vec![0; 20_000]), Then::Unknown),
    (
        "a field block without end",
        |s, id| {
            s.frames.send(HEADERS, 0, id, &[0x88]);
            for _ in 0..1_000 {
                s.frames.send(crate::support::h2_frames::CONTINUATION, 0, id, &block(&[("x-a", "b")]));
            }
        },
        Then::Unknown,
    ),
    (
        "1xx, then the answer",
        |s, id| {
            s.frames.send(HEADERS, END_HEADERS, id, &block(&[(":status", "103")]));
            s.answer(id, JOB);
            s.drain();
        },
        Then::Accepted,
    ),
];

#[test]
fn a_start_that_was_refused_unread_goes_to_legacy_and_no_other_does() {
    let (parts, authority) = (shared(), Authority::new());
    let mut wrong = Vec::new();
    for (what, play, then) in CASES {
        let backend = H2Backend::start(&authority, &[], |_, stage| {
            let id = stage.request()?;
            play(stage, id);
            Ok(())
        });
        let gateway = gateway_before(parts, &authority, &backend.url(), |_| {});
        let user = parts.user();
        let answer = client::send(gateway.addr(), &start_as(&user, "h2-case"));
        let line = line_of(&gateway, "h2-case");
        let legacy = parts.legacy.jobs_of(&user).len();
        let fits = match then {
            Then::Legacy => {
                answer.header("x-export-backend") == Some("legacy")
                    && (answer.status, legacy) == (200, 1)
                    && line["fallback"] == "stream_refused"
            }
            Then::Accepted => (answer.status, legacy) == (200, 0) && answer.field("job_id") == "h2-job",
            Then::Unknown => {
                (answer.status >= 500, legacy) == (true, 0) && answer.json()["code"] == "start_outcome_unknown"
            }
        };
        println!("{what:<52} {} {then:?} {}", answer.status, line["error"]);
        if !fits || backend.requests() != 1 {
            wrong.push(format!(
                "{what}: {} {}, legacy {legacy}, {} requests: {line}",
                answer.status,
                answer.text(),
                backend.requests()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_poll_that_was_refused_is_asked_once_more() {
    let (parts, authority) = (shared(), Authority::new());
    let backend = H2Backend::start(&authority, &[], |number, stage| {
        let start = stage.request()?;
        match number {
            0 => {
                stage.answer(start, JOB);
                let poll = stage.request()?;
                stage.frames.send(RST_STREAM, 0, poll, &REFUSED_STREAM.to_be_bytes());
            }
            _ => stage.answer(start, r#"{"job_id":"h2-job","status":"processing","progress":1}"#),
        }
        stage.drain();
        Ok(())
    });
    let gateway = gateway_before(parts, &authority, &backend.url(), |_| {});
    let user = parts.user();
    assert_eq!(client::send(gateway.addr(), &start_as(&user, "h2-start")).field("job_id"), "h2-job");
    let answer = client::send(gateway.addr(), &poll_of(&user, "h2-job", None));
    assert_eq!((answer.status, answer.json()["progress"].as_u64()), (200, Some(1)), "{}", answer.text());
    assert_eq!((backend.requests(), backend.connections()), (3, 2));
}

/// Answers one start, says goodbye in its own way, and serves further connections well.
fn leaving(authority: &Authority, goodbye: fn(&mut Stage, u32)) -> H2Backend {
    H2Backend::start(authority, &[], move |number, stage| -> io::Result<()> {
        loop {
            let id = stage.request()?;
            stage.answer(id, &format!(r#"{{"job_id":"h2-{number}-{id}","status":"processing"}}"#));
            if number == 0 {
                goodbye(stage, id);
                return Ok(());
            }
        }
    })
}

#[test]
fn a_connection_that_was_closed_carries_no_further_start() {
    let (parts, authority) = (shared(), Authority::new());
    let cases: [(&str, fn(&mut Stage, u32)); 3] = [
        ("GOAWAY and the end", |stage, id| stage.frames.send(GOAWAY, 0, 0, &away(id, 0))),
        ("GOAWAY, and open", |stage, id| {
            stage.frames.send(GOAWAY, 0, 0, &away(id, 0));
            std::thread::sleep(Duration::from_secs(5));
        }),
        ("the end", |_, _| {}),
    ];
    for (what, goodbye) in cases {
        let backend = leaving(&authority, goodbye);
        let gateway = gateway_before(parts, &authority, &backend.url(), |_| {});
        let user = unique_user();
        parts.legacy.add_video(&user, 12, "clip.mp4");
        // One connection of the client's, so that the next start comes as soon as there is an answer.
        let mut connection = Connection::open(gateway.addr());
        for round in 0..20 {
            let answer = connection.exchange(&start_as(&user, &format!("{round}"))).unwrap();
            assert_eq!(
                (answer.status, answer.header("x-export-backend")),
                (200, Some("workers")),
                "{what} {round}: {}",
                answer.text()
            );
        }
        assert_eq!((backend.requests(), backend.connections()), (20, 2), "{what}");
    }
}

#[test]
fn many_starts_share_what_workers_allow() {
    let (parts, authority) = (shared(), Authority::new());
    // SETTINGS_MAX_CONCURRENT_STREAMS of 2.
    let backend = H2Backend::start(&authority, &[(3, 2)], |number, stage| {
        loop {
            let id = stage.request()?;
            stage.answer(id, &format!(r#"{{"job_id":"many-{number}-{id}","status":"processing"}}"#));
        }
    });
    let gateway = gateway_before(parts, &authority, &backend.url(), |_| {});
    let user = parts.user();
    assert_eq!(client::send(gateway.addr(), &start_as(&user, "first")).status, 200);
    std::thread::scope(|scope| {
        for number in 0..40 {
            let (gateway, user) = (&gateway, &user);
            scope.spawn(move || {
                let answer = client::send(gateway.addr(), &start_as(user, &format!("many-{number}")));
                assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")));
            });
        }
    });
    println!("41 starts on {} connections", backend.connections());
    assert_eq!(backend.requests(), 41);
}
