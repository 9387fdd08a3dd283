//! WebSockets that pass through to legacy: every byte after the 101 belongs to the two ends alone.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tungstenite::Message;

use crate::support::backend::{Backend, Recorder, read_request, say};
use crate::support::client::{Connection, Request};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::parts::shared;
use crate::support::raw_websocket::{ACCEPT, RawSocket, frame, handshake};
use crate::support::websocket::Socket;
use crate::support::wire::{ReadError, Wire, latin1};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

fn legacy_socket(gateway: &Gateway) -> String {
    format!("ws://{}/ws/export/one", gateway.addr())
}

/// A backend that agrees to a WebSocket and then does as it is told.
fn agreeing(play: impl Fn(&mut Wire) -> Result<(), ReadError> + Send + Sync + 'static) -> Backend {
    Backend::start(move |_, wire| {
        read_request(wire)?;
        say(wire, &format!("{SWITCH}\r\n"));
        play(wire)
    })
}

fn report<T: Send>() -> (Mutex<Sender<T>>, Receiver<T>) {
    let (sender, receiver) = channel();
    (Mutex::new(sender), receiver)
}

#[test]
fn text_binary_and_a_mebibyte_go_both_ways() {
    let gateway = Gateway::start(shared());
    let mut socket = Socket::open(&legacy_socket(&gateway));
    socket.send_text("ping");
    assert_eq!(socket.read_text(), "pong");
    for length in [0, 1, 125, 126, 65_535, 65_536, 1024 * 1024] {
        let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        socket.send_bytes(&bytes);
        assert!(socket.read() == Message::binary(bytes), "{length}");
    }
    assert_eq!(gateway.metric("export_gateway_websockets_open", &[]), 1.0);
    drop(socket);
    eventually("no open WebSocket", || (gateway.metric("export_gateway_websockets_open", &[]) == 0.0).then_some(()));
    let line = gateway.access_log(|line| line["path"] == "/ws/export/one");
    assert_eq!((&line["status"], &line["route"]), (&101.into(), &"pass".into()));
}

#[test]
fn frames_arrive_as_they_were_cut() {
    let (frames, seen) = report();
    let backend = agreeing(move |wire| {
        let mut all = Vec::new();
        while all.len() < 6 * 3 + 3 + 2 + 1 + 4 {
            all.extend(wire.read_some()?);
        }
        frames.lock().unwrap().send(all).unwrap();
        wire.send(&[frame(false, 1, b"he", None), frame(true, 9, b"p", None), frame(true, 0, b"llo", None)].concat())
            .unwrap();
        wire.read_some()?;
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let mut socket = RawSocket::open(gateway.addr(), &handshake("/ws"));
    socket.send(false, 2, b"abc");
    socket.send(true, 10, b"z");
    socket.send(true, 0, b"defghi");
    let sent = [
        frame(false, 2, b"abc", Some([0x12, 0x34, 0x56, 0x78])),
        frame(true, 10, b"z", Some([0x12, 0x34, 0x56, 0x78])),
        frame(true, 0, b"defghi", Some([0x12, 0x34, 0x56, 0x78])),
    ]
    .concat();
    assert_eq!(seen.recv_timeout(Duration::from_secs(10)).unwrap(), sent);
    let came: Vec<_> =
        (0..3).map(|_| socket.read().unwrap()).map(|it| (it.fin, it.opcode, latin1(&it.payload))).collect();
    assert_eq!(came, [(false, 1, "he".into()), (true, 9, "p".into()), (true, 0, "llo".into())]);
}

#[test]
fn close_codes_pass_both_ways() {
    let gateway = Gateway::start(shared());
    let mut socket = Socket::open(&legacy_socket(&gateway));
    socket.send_text("close 4001 over and out");
    assert_eq!(socket.closed(), Some((4001, "over and out".into())));
    let (codes, seen) = report();
    let backend = agreeing(move |wire| {
        codes.lock().unwrap().send(wire.read_exact(2 + 4 + 2 + 3)?).unwrap();
        wire.send(&frame(true, 8, &[&4002_u16.to_be_bytes()[..], b"bye"].concat(), None)).unwrap();
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let mut socket = RawSocket::open(gateway.addr(), &handshake("/ws"));
    socket.send_close(4002, "bye");
    let expected = frame(true, 8, &[&4002_u16.to_be_bytes()[..], b"bye"].concat(), Some([0x12, 0x34, 0x56, 0x78]));
    assert_eq!(seen.recv_timeout(Duration::from_secs(10)).unwrap(), expected);
    assert_eq!(socket.close_code(), Some((4002, "bye".into())));
    socket.connection.expect_closed();
}

#[test]
fn the_handshake_reaches_the_backend_and_its_answer_the_client() {
    let (heads, seen) = report();
    let backend = Backend::start(move |_, wire| {
        let (head, _) = read_request(wire)?;
        heads.lock().unwrap().send(head).unwrap();
        say(
            wire,
            &format!(
                "{SWITCH}Sec-WebSocket-Protocol: chat.v2\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSet-Cookie: a=1\r\n\r\n"
            ),
        );
        wire.read_some()?;
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let request = handshake("/ws?x=1")
        .header("Sec-WebSocket-Protocol", "chat.v1, chat.v2")
        .header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
        .header("Origin", "https://app.example")
        .header("Cookie", "s=1");
    let socket = RawSocket::open(gateway.addr(), &request);
    assert_eq!(socket.head.header("sec-websocket-protocol"), Some("chat.v2"));
    assert_eq!(socket.head.header("sec-websocket-extensions"), Some("permessage-deflate"));
    assert_eq!(socket.head.header("set-cookie"), Some("a=1"));
    assert!(socket.head.header("upgrade").is_some_and(|it| it.eq_ignore_ascii_case("websocket")));
    let head = seen.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(head.line, "GET /ws?x=1 HTTP/1.1");
    for (name, value) in [
        ("sec-websocket-protocol", "chat.v1, chat.v2"),
        ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits"),
        ("origin", "https://app.example"),
        ("cookie", "s=1"),
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(head.header(name), Some(value), "{name}");
    }
}

#[test]
fn a_refused_handshake_is_an_answer_like_any_other() {
    let backend = Backend::start(|_, wire| {
        loop {
            let (head, _) = read_request(wire)?;
            if head.header("upgrade").is_some() {
                say(wire, "HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 2\r\n\r\nno");
            } else {
                say(wire, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    });
    let gateway = Gateway::start(&backend);
    let mut connection = Connection::open(gateway.addr());
    for _ in 0..2 {
        let answer = connection.exchange(&handshake("/ws")).unwrap();
        assert_eq!((answer.status, answer.text().as_str(), answer.header("x-why")), (403, "no", Some("no")));
    }
    // It is still an HTTP connection.
    assert_eq!(connection.exchange(&Request::get("/")).unwrap().text(), "ok");
}

#[test]
fn bytes_right_behind_the_101_reach_the_client() {
    let early = frame(true, 1, b"first", None);
    let backend = Backend::start(move |_, wire| {
        read_request(wire)?;
        wire.send(&[format!("{SWITCH}\r\n").as_bytes(), &early].concat()).unwrap();
        wire.read_some()?;
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    for _ in 0..10 {
        let mut socket = RawSocket::open(gateway.addr(), &handshake("/ws"));
        assert_eq!(socket.read().unwrap().payload, b"first");
    }
}

#[test]
fn no_byte_is_tunnelled_before_the_backend_agrees() {
    let (early, seen) = report();
    let backend = Backend::start(move |_, wire| {
        read_request(wire)?;
        wire.set_deadline(Duration::from_millis(300));
        early.lock().unwrap().send(wire.read_some()).unwrap();
        wire.set_deadline(Duration::from_secs(20));
        say(wire, &format!("{SWITCH}\r\n"));
        early.lock().unwrap().send(wire.read_exact(11)).unwrap();
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let impatient = frame(true, 1, b"early", Some([1, 2, 3, 4]));
    let mut connection = Connection::open(gateway.addr());
    connection.send(&[handshake("/ws").bytes("h"), impatient.clone()].concat());
    assert_eq!(seen.recv_timeout(Duration::from_secs(10)).unwrap(), Err(ReadError::TimedOut));
    assert_eq!(connection.read_head().unwrap().0, 101);
    assert_eq!(seen.recv_timeout(Duration::from_secs(10)).unwrap(), Ok(impatient));
}

#[test]
fn a_request_behind_a_refused_handshake_is_a_request() {
    // Had the gateway switched by itself, this would be a tunnel for smuggled requests.
    let recorder = Recorder::answering("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno");
    let gateway = Gateway::start(&recorder);
    let mut connection = Connection::open(gateway.addr());
    connection.send(
        &[handshake("/ws").bytes("h"), b"GET /admin HTTP/1.1\r\nHost: h\r\nConnection: Cookie\r\n\r\n".to_vec()]
            .concat(),
    );
    assert_eq!(connection.read("GET").unwrap().status, 426);
    assert_eq!(connection.read("GET").unwrap().status, 400, "it is checked like any other");
    assert_eq!(recorder.requests().len(), 1);
}

#[test]
fn other_upgrades_become_plain_requests() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let upgrades: [&[(&str, &str)]; 9] = [
        &[
            ("Connection", "Upgrade, HTTP2-Settings"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
        ],
        &[("Connection", "upgrade"), ("Upgrade", "H2C")],
        &[("Connection", "Upgrade"), ("Upgrade", "TLS/1.0")],
        &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "k")],
        &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "k")],
        &[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "8"),
            ("Sec-WebSocket-Key", "k"),
        ],
        &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        &[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocketx"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "k"),
        ],
        &[
            ("Connection", "Upgrade"),
            ("Upgrade", "h2c, foo"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "k"),
        ],
    ];
    let mut connection = Connection::open(gateway.addr());
    for fields in upgrades {
        recorder.forget();
        let request = fields.iter().fold(Request::get("/ws"), |it, (name, value)| it.header(name, value));
        assert_eq!(connection.exchange(&request).unwrap().status, 200, "{fields:?}");
        let request = recorder.only();
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert!(request.all(gone).is_empty(), "{gone}: {fields:?}");
        }
    }
    recorder.forget();
    let post = handshake("/ws").bytes("h");
    connection.send(&[b"POST", &post[3..]].concat());
    assert_eq!(connection.read("POST").unwrap().status, 200);
    assert!(recorder.only().all("upgrade").is_empty());
}

#[test]
fn a_handshake_with_a_body_is_refused() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let requests = [
        handshake("/ws").body("abc"),
        handshake("/ws").header("Transfer-Encoding", "chunked").body("3\r\nabc\r\n0\r\n\r\n"),
    ];
    for request in requests {
        let mut connection = Connection::open(gateway.addr());
        assert_eq!(connection.exchange(&request).unwrap().status, 400);
        connection.expect_closed();
    }
    assert_eq!(recorder.backend.connections(), 0);
}

#[test]
fn a_101_that_nobody_asked_for_is_a_broken_backend() {
    for protocol in ["websocket", "h2c", "foo"] {
        let backend = Backend::start(move |_, wire| {
            read_request(wire)?;
            say(
                wire,
                &format!("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\nfree bytes"),
            );
            wire.read_some()?;
            Ok(())
        });
        let gateway = Gateway::start(&backend);
        let mut connection = Connection::open(gateway.addr());
        let answer = connection.exchange(&Request::get("/")).unwrap();
        assert_eq!(answer.status, 502, "{protocol}");
        if protocol != "websocket" {
            let answer = connection.exchange(&handshake("/ws")).unwrap();
            assert_eq!(answer.status, 502, "{protocol} instead of what was asked for");
        }
    }
}

#[test]
fn one_end_that_dies_takes_the_other_along() {
    let (ended, seen) = report();
    let backend = agreeing(move |wire| {
        let end = loop {
            match wire.read_some() {
                Ok(bytes) if bytes.is_empty() => break "closed",
                Ok(_) => {}
                Err(_) => break "reset",
            }
        };
        ended.lock().unwrap().send(end).unwrap();
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    for reset in [false, true] {
        let socket = RawSocket::open(gateway.addr(), &handshake("/ws"));
        if reset {
            crate::support::rude::reset(socket.connection.wire.stream.try_clone().unwrap());
        }
        drop(socket);
        seen.recv_timeout(Duration::from_secs(10)).expect("the backend sees the end");
    }
    let backend = agreeing(|_| Ok(()));
    let gateway = Gateway::start(&backend);
    let mut socket = RawSocket::open(gateway.addr(), &handshake("/ws"));
    assert_eq!(socket.close_code(), None);
    eventually("no open WebSocket", || (gateway.metric("export_gateway_websockets_open", &[]) == 0.0).then_some(()));
}

#[test]
fn a_half_closed_end_may_still_be_answered() {
    let backend = agreeing(|wire| {
        while !wire.read_some()?.is_empty() {}
        wire.send(&frame(true, 1, b"last words", None)).unwrap();
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let mut socket = RawSocket::open(gateway.addr(), &handshake("/ws"));
    socket.connection.wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(socket.read().unwrap().payload, b"last words");
    socket.connection.expect_closed();
}

#[test]
fn a_slow_reader_gets_every_byte_in_order() {
    let backend = agreeing(|wire| {
        wire.stream.set_write_timeout(None).unwrap();
        for number in 0..400_u32 {
            wire.send(&frame(true, 2, &[&number.to_be_bytes()[..], &vec![7; 20_000]].concat(), None)).unwrap();
        }
        wire.read_some()?;
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let before = gateway.rss_kib();
    let mut socket = RawSocket::open(gateway.addr(), &handshake("/ws"));
    // Long enough for every buffer on the way to be full.
    std::thread::sleep(Duration::from_millis(300));
    for number in 0..400_u32 {
        assert_eq!(socket.read().unwrap().payload[..4], number.to_be_bytes());
    }
    let growth = gateway.rss_kib().saturating_sub(before);
    assert!(growth < 4 * 1024, "{growth} KiB for 8 MB through one tunnel");
    assert_eq!(socket.head.header("sec-websocket-accept"), Some(ACCEPT));
}
