//! Big and slow bodies: equal at the other end, at once, and never in the gateway's memory.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::support::backend::{Backend, read_request, say};
use crate::support::client::{Connection, Request, get, send};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::parts::shared;
use crate::support::wire::{Framing, ReadError};

const MIB: usize = 1024 * 1024;

/// Byte i of what legacy's `/files/{bytes}` sends.
fn generated(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|i| ((i ^ (i >> 8) ^ (i >> 16)) & 0xff) as u8).collect()
}

/// Notes the largest resident memory of a gateway while something runs.
fn largest_rss_while(gateway: &Gateway, work: impl FnOnce()) -> u64 {
    let (done, largest) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                largest.fetch_max(gateway.rss_kib(), Ordering::SeqCst);
                thread::sleep(Duration::from_millis(10));
            }
        });
        work();
        done.store(true, Ordering::SeqCst);
    });
    largest.load(Ordering::SeqCst)
}

#[test]
#[allow(clippy::print_stderr, reason = "the figures are the point")]
fn a_big_upload_and_a_big_download_at_once_stay_out_of_memory() {
    const SIZE: usize = 100 * MIB;
    let gateway = Gateway::start(shared());
    get(gateway.addr(), "/files/1000");
    let before = gateway.rss_kib();
    let began = Instant::now();
    let after = largest_rss_while(&gateway, || {
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut connection = Connection::open(gateway.addr()).deadline(Duration::from_secs(120));
                connection.send(&Request::get(&format!("/files/{SIZE}")).bytes("h"));
                let (status, head) = connection.read_head().unwrap();
                assert_eq!((status, head.framing(Framing::Empty)), (200, Framing::Length(SIZE)));
                let (mut came, mut expected) = (0, Sha256::new());
                let mut seen = Sha256::new();
                while came < SIZE {
                    let piece = connection.wire.read_some().unwrap();
                    assert!(!piece.is_empty(), "cut after {came} bytes");
                    seen.update(&piece);
                    expected.update(generated(came, came + piece.len()));
                    came += piece.len();
                }
                assert_eq!((came, seen.finalize()), (SIZE, expected.finalize()));
            });
            scope.spawn(|| {
                let mut connection = Connection::open(gateway.addr()).deadline(Duration::from_secs(120));
                let mut hash = Sha256::new();
                connection
                    .send(format!("POST /api/sink HTTP/1.1\r\nHost: h\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
                for number in 0..SIZE / MIB {
                    let piece = generated(number * MIB + number, number * MIB + number + MIB);
                    hash.update(&piece);
                    connection.wire.send(&piece).unwrap();
                }
                let answer = connection.read("POST").unwrap();
                assert_eq!(answer.json()["size"], SIZE);
                let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(answer.field("sha256"), hash);
            });
        });
    });
    let growth = after.saturating_sub(before);
    eprintln!("100 MiB up and 100 MiB down in {:?}: {before} KiB resident before, at most {after}", began.elapsed());
    assert!(growth < 16 * 1024, "{growth} KiB more than the {before} KiB before");
}

/// Sends as long as the peer takes it; counts.
fn pour(stream: &mut TcpStream, poured: &AtomicU64, total: u64) {
    let piece = vec![b'x'; 64 * 1024];
    while poured.load(Ordering::SeqCst) < total && stream.write_all(&piece).is_ok() {
        poured.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
}

/// Waits until a count has not moved for half a second.
fn settled(count: &AtomicU64) -> u64 {
    let mut last = (count.load(Ordering::SeqCst), Instant::now());
    eventually("a sender that has to wait", || {
        let now = count.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(now)
    })
}

#[test]
fn a_client_that_stops_reading_does_not_fill_the_gateway() {
    const SIZE: u64 = 512 * MIB as u64;
    let poured = Arc::new(AtomicU64::new(0));
    let backend = Backend::start({
        let poured = Arc::clone(&poured);
        move |_, wire| {
            read_request(wire)?;
            say(wire, &format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
            wire.stream.set_write_timeout(None).unwrap();
            pour(&mut wire.stream, &poured, SIZE);
            Ok(())
        }
    });
    let gateway = Gateway::start(&backend);
    let before = gateway.rss_kib();
    let mut connection = Connection::open(gateway.addr());
    connection.send(&Request::get("/").bytes("h"));
    connection.read_head().unwrap();
    let sent = settled(&poured);
    let growth = gateway.rss_kib().saturating_sub(before);
    assert!(sent < 64 * MIB as u64, "the backend was relieved of {sent} bytes that nobody reads");
    assert!(growth < 8 * 1024, "{growth} KiB more");
    // It goes on as soon as the client does.
    let mut read = 0;
    while read < 8 * MIB + usize::try_from(sent).unwrap() {
        read += connection.wire.read_some().unwrap().len();
    }
}

#[test]
fn a_backend_that_stops_reading_does_not_fill_the_gateway() {
    let (go_on, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let backend = Backend::start(move |_, wire| {
        let head = wire.read_head()?;
        wait.lock().unwrap().recv().map_err(|_| ReadError::Closed)?;
        let Framing::Length(mut left) = head.framing(Framing::Empty) else { panic!("a length, as the client sent it") };
        while left > 0 {
            left -= wire.read_some()?.len();
        }
        say(wire, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let before = gateway.rss_kib();
    const SIZE: u64 = 96 * MIB as u64;
    let mut connection = Connection::open(gateway.addr()).deadline(Duration::from_secs(60));
    connection.send(format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
    let poured = Arc::new(AtomicU64::new(0));
    let sender = thread::spawn({
        let (poured, mut stream) = (Arc::clone(&poured), connection.wire.stream.try_clone().unwrap());
        stream.set_write_timeout(None).unwrap();
        move || pour(&mut stream, &poured, SIZE)
    });
    let sent = settled(&poured);
    let growth = gateway.rss_kib().saturating_sub(before);
    assert!(sent < 64 * MIB as u64, "the client was relieved of {sent} bytes that nobody reads");
    assert!(growth < 8 * 1024, "{growth} KiB more");
    go_on.send(()).unwrap();
    assert_eq!(connection.read("PUT").unwrap().text(), "ok");
    sender.join().unwrap();
}

#[test]
fn an_event_arrives_before_the_next_one_is_sent() {
    for chunked in [true, false] {
        let (received, wait) = channel::<usize>();
        let wait = Mutex::new(wait);
        let backend = Backend::start(move |_, wire| {
            read_request(wire)?;
            let framing = if chunked { "Transfer-Encoding: chunked" } else { "Connection: close" };
            say(wire, &format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n"));
            for number in 0..5 {
                let event = format!("data: {number}\n\n");
                if chunked {
                    say(wire, &format!("{:x}\r\n{event}\r\n", event.len()));
                } else {
                    say(wire, &event);
                }
                // The client's receipt of this event is what lets the next one go.
                let seen = wait.lock().unwrap().recv_timeout(Duration::from_secs(20));
                assert_eq!(seen, Ok(number));
            }
            if chunked {
                say(wire, "0\r\n\r\n");
            }
            Ok(())
        });
        let gateway = Gateway::start(&backend);
        let mut connection = Connection::open(gateway.addr());
        connection.send(&Request::get("/api/events").bytes("h"));
        let (_, head) = connection.read_head().unwrap();
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        let mut text = String::new();
        for number in 0..5 {
            let event = format!("data: {number}\n\n");
            while !text.contains(&event) {
                let piece = connection.wire.read_some().unwrap();
                assert!(!piece.is_empty(), "cut after {text:?}");
                text.push_str(&String::from_utf8(piece).unwrap());
            }
            received.send(number).unwrap();
        }
    }
}

#[test]
fn real_server_sent_events_come_one_by_one() {
    let gateway = Gateway::start(shared());
    let mut connection = Connection::open(gateway.addr());
    // It never ends by itself: whatever comes has not waited for the end.
    connection.send(&Request::get("/api/events?n=0&interval_ms=20").bytes("h"));
    let (status, _) = connection.read_head().unwrap();
    assert_eq!(status, 200);
    let mut text = String::new();
    while !text.contains("id: 4\n") {
        text.push_str(&String::from_utf8(connection.wire.read_some().unwrap()).unwrap());
    }
    drop(connection);
    let line = gateway.access_log(|line| line["path"] == "/api/events");
    assert_eq!((&line["status"], &line["cut"]), (&200.into(), &true.into()), "{line}");
}

#[test]
fn parts_of_a_file_arrive_as_asked_for() {
    let gateway = Gateway::start(shared());
    for (range, from, to) in
        [("bytes=0-0", 0, 1), ("bytes=70000-200000", 70000, 200_001), ("bytes=-5", 999_995, 1_000_000)]
    {
        let answer = send(gateway.addr(), &Request::get("/files/1000000").header("Range", range));
        assert_eq!(answer.status, 206);
        assert_eq!(answer.header("content-range"), Some(format!("bytes {from}-{}/1000000", to - 1).as_str()));
        assert!(answer.body.bytes == generated(from, to), "{range}");
    }
    let unfit = send(gateway.addr(), &Request::get("/files/1000").header("Range", "bytes=1000-"));
    assert_eq!((unfit.status, unfit.header("content-range")), (416, Some("bytes */1000")));
    let fresh = send(gateway.addr(), &Request::get("/files/1000").header("If-None-Match", "\"generated-1000\""));
    assert_eq!((fresh.status, fresh.body.bytes.len(), fresh.header("etag")), (304, 0, Some("\"generated-1000\"")));
}

#[test]
fn a_multipart_upload_arrives_whole() {
    let gateway = Gateway::start(shared());
    let file = generated(0, 3 * MIB + 17);
    let mut body = b"--B\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n--B\r\nContent-Disposition: \
        form-data; name=\"file\"; filename=\"a.mp4\"\r\nContent-Type: video/mp4\r\n\r\n"
        .to_vec();
    body.extend(&file);
    body.extend(b"\r\n--B--\r\n");
    let answer = send(
        gateway.addr(),
        &Request::new("POST", "/api/upload").header("Content-Type", "multipart/form-data; boundary=B").body(body),
    );
    let hash: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    let json = answer.json();
    assert_eq!(
        (&json["note"], &json["filename"], &json["size"]),
        (&"hello".into(), &"a.mp4".into(), &file.len().into())
    );
    assert_eq!(answer.field("sha256"), hash);
}

#[test]
fn bytes_that_nobody_asked_for_are_not_given_to_the_next_request() {
    let backend = Backend::start(|_, wire| {
        loop {
            let (head, _) = read_request(wire)?;
            let path = head.line.split(' ').nth(1).unwrap().to_owned();
            // A second answer right behind the first: a client that trusted it would shift every answer by one.
            let length = path.len();
            say(
                wire,
                &format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
                ),
            );
        }
    });
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    for number in 0..20 {
        let path = format!("/{number}");
        assert_eq!(connection.exchange(&Request::get(&path)).unwrap().text(), path);
    }
}
