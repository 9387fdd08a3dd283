//! Clients that waste what HTTP/2 gives them: their connection ends, memory stays, others notice nothing.

use super::*;

/// Sends a flood until the connection ends, and has another client's requests answered meanwhile.
fn flood(what: &str, prepare: impl FnOnce(&mut Client), mut next: impl FnMut(u32) -> Vec<u8>, most: u32) {
    use std::io::Write;
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |_, _| {});
    let mut healthy = secure.frames();
    let before = secure.gateway.rss_kib();
    let mut client = secure.frames();
    prepare(&mut client);
    let mut sent = 0;
    let mut stream = 1;
    let (mut slowest, mut worst) = (Duration::ZERO, 0);
    let ended = loop {
        if sent >= most {
            break false;
        }
        let burst: Vec<u8> = (sent..sent + 100).flat_map(&mut next).collect();
        sent += 100;
        if client.io.write_all(&burst).and_then(|()| client.io.flush()).is_err() {
            break true;
        }
        if sent % 2_000 == 0 {
            let began = Instant::now();
            healthy.request(stream, &get("/healthy"), END_STREAM);
            assert_eq!(healthy.verdict(stream), Verdict::Answer(200), "{what}");
            (stream, slowest) = (stream + 2, slowest.max(began.elapsed()));
            worst = worst.max(secure.gateway.rss_kib());
        }
    };
    // What was written last may still be on its way when the end comes.
    let verdict = client.verdict(u32::MAX >> 1);
    let grown = worst.max(secure.gateway.rss_kib()).saturating_sub(before);
    println!("{what}: {sent} frames, then {verdict:?}; {grown} KiB more; slowest healthy answer {slowest:?}");
    assert!(ended || verdict != Verdict::Answer(200), "{what}");
    assert!(grown < 16 * 1024, "{what}: {grown} KiB");
    healthy.request(stream, &get("/healthy"), END_STREAM);
    assert_eq!(healthy.verdict(stream), Verdict::Answer(200), "{what}");
    eventually("the flood's connection to be gone", || {
        (secure.gateway.metric("export_gateway_connections_open", &[]) <= 1.0).then_some(())
    });
}

#[test]
fn a_field_block_without_end() {
    let begin = |client: &mut Client| client.send(HEADERS, 0, 1, &block(&get("/")));
    flood("CONTINUATION", begin, |_| frame(CONTINUATION, 0, 1, &block(&[("x-a", "b")])), 200_000);
    let begin = |client: &mut Client| client.send(HEADERS, 0, 1, &block(&get("/")));
    flood("empty CONTINUATION", begin, |_| frame(CONTINUATION, 0, 1, &[]), 200_000);
}

#[test]
fn bodies_of_nothing() {
    let begin = |client: &mut Client| client.request(1, &post("/"), 0);
    flood("empty DATA", begin, |_| frame(DATA, 0, 1, &[]), 200_000);
    let begin = |client: &mut Client| client.request(1, &post("/"), 0);
    flood("DATA that is all padding", begin, |_| frame(DATA, PADDED, 1, &[1, 0]), 2_000_000);
}

#[test]
fn streams_that_are_opened_to_be_cancelled() {
    let next = |number: u32| {
        let stream = number * 2 + 1;
        let cancel = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("/wasted"))), cancel].concat()
    };
    flood("rapid reset", |_| {}, next, 200_000);
}

#[test]
fn streams_that_are_cancelled_when_their_request_is_under_way() {
    // Slowly enough that each of them comes as far as a backend.
    let backend = crate::support::backend::Backend::start(|_, wire| {
        let _ = crate::support::backend::read_request(wire)?;
        let _ = wire.read_some();
        Ok(())
    });
    let secure = Secure::start(&backend, |_, _| {});
    let mut client = secure.frames();
    let mut sent = 0;
    let ended = within(Duration::from_secs(60), "the end of the connection", || {
        let stream = sent * 2 + 1;
        client.request(stream, &get("/wasted"), END_STREAM);
        std::thread::sleep(Duration::from_millis(2));
        sent += 1;
        client.try_send(RST_STREAM, 0, stream, &8_u32.to_be_bytes()).err()
    });
    println!("{sent} streams, then {ended}; the backend was asked on {} connections", backend.connections());
    assert!((200..2_000).contains(&sent), "{sent}");
    assert!(backend.connections() < 2_000);
}

#[test]
fn streams_that_break_the_rules_one_after_the_other() {
    let next = |number: u32| {
        let fields = [&get("/")[..], &[("connection", "close")]].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, &block(&fields))
    };
    flood("malformed requests", |_| {}, next, 200_000);
}

#[test]
fn a_client_that_talks_and_never_listens() {
    for (what, kind, payload) in [("PING", PING, &[0; 8][..]), ("SETTINGS", SETTINGS, &[])] {
        let recorder = Recorder::start();
        let secure = Secure::start(&recorder, |_, _| {});
        let before = secure.gateway.rss_kib();
        let mut client = secure.frames();
        client.io.sock.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut sent = 0_u32;
        // Each asks for an answer; when nobody takes the answers, nobody takes the questions either.
        while sent < 3_000_000 && client.try_send(kind, 0, 0, payload).is_ok() {
            sent += 1;
        }
        let grown = secure.gateway.rss_kib().saturating_sub(before);
        println!("{what}: {sent} taken, {grown} KiB more");
        assert!(grown < 16 * 1024, "{what}: {grown} KiB");
        let mut healthy = secure.frames();
        healthy.request(1, &get("/"), END_STREAM);
        assert_eq!(healthy.verdict(1), Verdict::Answer(200));
    }
}

#[test]
fn more_streams_than_there_may_be_are_refused() {
    let backend = crate::support::backend::Backend::start(|_, wire| {
        let _ = crate::support::backend::read_request(wire)?;
        let _ = wire.read_some();
        Ok(())
    });
    let secure = Secure::start(&backend, |_, _| {});
    let mut client = secure.frames();
    for number in 0..129 {
        client.request(number * 2 + 1, &get("/held"), END_STREAM);
    }
    assert_eq!(client.verdict(257), Verdict::Reset(crate::support::h2_frames::REFUSED_STREAM));
    eventually("128 requests at the backend", || (backend.connections() == 128).then_some(()));
}

#[test]
fn a_client_that_reads_nothing_of_its_answer_is_given_up() {
    let body = "x".repeat(1 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let recorder = Recorder::answering(answer.leak());
    let secure = Secure::start(&recorder, |table, _| set(table, "limits.write_idle", "700ms"));
    let mut client = secure.frames();
    let began = Instant::now();
    // The window of a stream is 65,535 bytes, and nobody opens it further.
    client.request(1, &get("/"), END_STREAM);
    assert_eq!(client.verdict(1), Verdict::Answer(200));
    let verdict = client.verdict(1);
    assert!(matches!(verdict, Verdict::Reset(_)), "{verdict:?}");
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
    // The connection itself is as good as before.
    client.send(WINDOW_UPDATE, 0, 0, &(1_u32 << 20).to_be_bytes());
    client.request(3, &get("/"), END_STREAM);
    assert_eq!(client.verdict(3), Verdict::Answer(200));
}

#[test]
fn a_client_that_says_nothing_is_sent_away() {
    let recorder = Recorder::start();
    let secure = Secure::start(&recorder, |table, _| set(table, "server.header_timeout", "400ms"));
    let trust = secure.trust(&["h2"]);
    // No preface at all; a preface and no request; half of a request's fields.
    let silent = trust.connect(secure.gateway.addr(), "localhost").unwrap().stream;
    let mut half = secure.frames();
    half.send(HEADERS, END_STREAM, 1, &block(&get("/")));
    for mut stream in [silent, secure.frames().io, half.io] {
        let began = Instant::now();
        // The end, with or without TLS's own word for it.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    }
    assert_eq!(recorder.requests().len(), 0);
    assert_eq!(get_plain(secure.gateway.admin(), "/healthz").status, 200);
}

#[test]
fn streams_take_places_of_connections() {
    let backend = crate::support::backend::Backend::start(|_, wire| {
        let _ = crate::support::backend::read_request(wire)?;
        let _ = wire.read_some();
        Ok(())
    });
    let secure = Secure::start(&backend, |table, _| set(table, "limits.connections", 10));
    let mut client = secure.frames();
    for number in 0..10 {
        client.request(number * 2 + 1, &get("/held"), END_STREAM);
    }
    eventually("ten requests at the backend", || (backend.connections() == 10).then_some(()));
    client.request(21, &get("/one-more"), END_STREAM);
    assert_eq!(client.verdict(21), Verdict::Answer(503));
    assert!(
        secure.trust(&["h2"]).connect(secure.gateway.addr(), "localhost").is_err(),
        "nor is there a connection left"
    );
    client.send(RST_STREAM, 0, 3, &8_u32.to_be_bytes());
    eventually("a place", || secure.trust(&["h2"]).connect(secure.gateway.addr(), "localhost").ok());
}
