//! What holds for any input: streams under any chunking, requests under any damage, users under any percentage.

use std::cell::{Cell, RefCell};
use std::thread;
use std::time::Duration;

use export_gateway::config::{self, Source};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sha2::{Digest, Sha256};

use crate::support::backend::{Backend, Recorder, read_request};
use crate::support::client::Connection;
use crate::support::gateway::{Gateway, run, set};
use crate::support::root;
use crate::support::wire::{ReadError, latin1};

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

/// Writes a body in chunks of these sizes, over and over, with odd but allowed spellings of a chunk's head.
fn in_chunks(body: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), body);
    for (number, size) in sizes.iter().cycle().enumerate() {
        if rest.is_empty() {
            break;
        }
        let (piece, others) = rest.split_at((*size).clamp(1, rest.len()));
        // Not on all of them: hyper takes 16 KiB of extensions in all, so that nobody can send nothing else.
        let extension = if number < 400 { ["", ";a", ";b=c", ";d=\"e;f\""][number % 4] } else { "" };
        bytes.extend(format!("{:0width$x}{extension}\r\n", piece.len(), width = 1 + number % 3).bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
        rest = others;
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// Sends bytes in writes of these sizes, so that chunk heads and line ends are torn apart.
fn in_writes(send: &mut impl FnMut(&[u8]), mut bytes: &[u8], sizes: &[usize]) {
    for size in sizes.iter().cycle() {
        if bytes.is_empty() {
            return;
        }
        let (piece, rest) = bytes.split_at((*size).clamp(1, bytes.len()));
        send(piece);
        bytes = rest;
    }
}

#[test]
fn a_stream_arrives_byte_equal_under_any_chunking() {
    // The request's body comes back as the answer's, chunked anew by sizes that the target carries.
    let backend = Backend::start(|_, wire| {
        loop {
            let (head, body) = read_request(wire)?;
            let sizes: Vec<usize> =
                head.line.split(['/', ' ']).filter_map(|part| part.parse().ok()).filter(|size| *size > 0).collect();
            let answer =
                [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &in_chunks(&body.bytes, &sizes)]
                    .concat();
            in_writes(&mut |piece| drop(wire.send(piece)), &answer, &sizes);
        }
    });
    let gateway = Gateway::start(&backend);
    let connection = RefCell::new(Connection::open(gateway.addr()));
    let strategy = (
        0_usize..200_000,
        prop::collection::vec(prop_oneof![1_usize..8, 100_usize..5000, 10_000_usize..100_000], 1..6),
        prop::collection::vec(prop_oneof![Just(1_usize), 3_usize..2000, 5000_usize..80_000], 4..8),
    );
    runner(60)
        .run(&strategy, |(length, chunks, writes)| {
            // Small pieces of a big body would be a test of patience.
            let average = |sizes: &[usize]| sizes.iter().sum::<usize>() / sizes.len();
            let length = length.min(average(&chunks).min(average(&writes)) * 500);
            let body: Vec<u8> = (0..length).map(|at| (at * 31 % 251) as u8).collect();
            let target: Vec<_> = chunks.iter().map(ToString::to_string).collect();
            let head = format!("POST /{} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", target.join("/"));
            let bytes = [head.as_bytes(), &in_chunks(&body, &chunks)].concat();
            let mut connection = connection.borrow_mut();
            in_writes(&mut |piece| connection.send(piece), &bytes, &writes);
            let answer = connection.read("POST").unwrap();
            prop_assert_eq!(answer.status, 200);
            prop_assert_eq!(answer.body.bytes.len(), body.len());
            prop_assert!(Sha256::digest(&answer.body.bytes) == Sha256::digest(&body));
            Ok(())
        })
        .unwrap();
}

#[test]
fn each_accepted_request_is_exactly_one_at_the_backend() {
    let recorder = Recorder::start();
    // Damage often means that a rest never comes: it is not waited for long.
    let gateway = Gateway::with(&recorder, |table| {
        set(table, "server.header_timeout", "100ms");
        set(table, "server.idle_timeout", "200ms");
        set(table, "limits.body_idle", "100ms");
    });
    let seeds: Vec<&[u8]> = vec![
        b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"PUT /d HTTP/1.1\r\nHost: h\r\nConnection: close, X\r\nX: 1\r\nContent-Length: 2\r\n\r\nok",
        b"GET /e HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ];
    let hurt = [
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        ",",
        "\0",
        "0",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "chunked",
        "Host: g\r\n",
        "HTTP/1.1",
        "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        "Connection: Content-Length\r\n",
        "\u{b}",
        ";",
    ];
    let strategy = (
        prop::collection::vec(prop::sample::select(seeds), 1..4),
        prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(hurt.to_vec()), 0_usize..4), 1..3),
    );
    let total = Cell::new(0);
    runner(800)
        .run(&strategy, |(requests, damage)| {
            let mut bytes = requests.concat();
            for (at, piece, removed) in &damage {
                let at = at.index(bytes.len());
                let end = (at + removed).min(bytes.len());
                bytes.splice(at..end, piece.bytes());
            }
            recorder.forget();
            let mut connection = Connection::open(gateway.addr()).deadline(Duration::from_secs(5));
            bytes.extend(b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            connection.send(&bytes);
            let mut accepted = 0;
            let end = loop {
                match connection.read("GET") {
                    Ok(answer) => accepted += usize::from(answer.status == 200),
                    Err(error) => break error,
                }
            };
            prop_assert!(matches!(end, ReadError::Closed | ReadError::Reset), "{:?} after {:?}", end, latin1(&bytes));
            let seen = recorder.requests();
            prop_assert_eq!(accepted, seen.len(), "{:?} came as {:?}", latin1(&bytes), &seen);
            total.set(total.get() + accepted);
            for request in &seen {
                let framings = request.all("content-length").len() + request.all("transfer-encoding").len();
                prop_assert!(framings <= 1 && request.all("host").len() == 1, "{:?}: {:?}", latin1(&bytes), request);
                prop_assert!(!latin1(&request.head.raw).replace("\r\n", "").contains(['\r', '\n', '\0']));
            }
            Ok(())
        })
        .unwrap();
    assert!(total.get() > 400, "only {} of all requests were taken: this tests refusals alone", total.get());
}

#[test]
fn a_damaged_file_is_an_answer_never_a_panic() {
    let shipped = std::fs::read(root().join("gateway.toml")).unwrap();
    let pieces = [
        "=", "[", "]", "\"", "\n", "{", "}", "${", "}", "-1", "1e400", "\u{0}", "percent", "[[x]]", "'''", "\u{feff}",
        "é",
    ];
    let strategy =
        prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(pieces.to_vec()), 0_usize..40), 1..8);
    runner(300)
        .run(&strategy, |damage| {
            let mut bytes = shipped.clone();
            for (at, piece, removed) in &damage {
                let at = at.index(bytes.len());
                let end = (at + removed).min(bytes.len());
                bytes.splice(at..end, piece.bytes());
            }
            let source = Source { bytes: &bytes, name: "gateway.toml", base_dir: root() };
            if let Err(problems) = config::load(&source, &|_| None) {
                let lines = String::from_utf8_lossy(&bytes).lines().count();
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|it| it.line <= lines + 1), "{problems:?}");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_growing_percentage_never_moves_a_user_back() {
    // By the real binary, as operations would look: the store of the answer is the file alone.
    let folder = tempfile::tempdir().unwrap();
    let shipped = std::fs::read_to_string(root().join("gateway.toml")).unwrap();
    let on_workers = |percent: f64, user: &str| -> bool {
        let file = folder.path().join(format!("{percent}-{user}.toml"));
        std::fs::write(&file, shipped.replacen("percent = 0 ", &format!("percent = {percent} "), 1)).unwrap();
        let output =
            run(&["--config", file.to_str().unwrap(), "explain", "--user", user, "--type", "overlay", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = answer.to_string();
        assert!(text.contains("workers") || text.contains("legacy"), "{text}");
        answer["backend"] == "workers"
    };
    let percents = [0.0, 0.01, 1.0, 12.5, 50.0, 99.99, 100.0];
    thread::scope(|scope| {
        for part in 0..2 {
            let on_workers = &on_workers;
            scope.spawn(move || {
                for user in (0..8).map(|number| format!("user-{part}-{number}")) {
                    let places: Vec<_> = percents.iter().map(|percent| on_workers(*percent, &user)).collect();
                    assert!(places.is_sorted(), "{user}: {places:?}");
                    assert!(!places[0] && places[6], "{user}: {places:?}");
                }
            });
        }
    });
}
