//! Frames that break the rules: RFC 9113, sections 4 to 6.

use super::*;

/// Frames: sections 4 to 6.
pub(super) const FRAMES: &[Case] = &[
    (
        "4.1",
        "a type that nobody knows is passed over",
        |c| {
            c.send(0xbb, 0xff, 0, b"what is this");
            only(&get("/"), c);
        },
        Hears::Ok,
        1,
    ),
    (
        "4.2",
        "a frame larger than SETTINGS_MAX_FRAME_SIZE",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(DATA, END_STREAM, 1, &vec![0; 16_385]);
        },
        Hears::Error,
        1,
    ),
    (
        "4.3",
        "a field block that cannot be unpacked",
        |c| {
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80, 0xff, 0xff]);
        },
        Hears::Error,
        0,
    ),
    (
        "4.3",
        "an index beyond both tables",
        |c| {
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0x7f]);
        },
        Hears::Error,
        0,
    ),
    (
        "4.3",
        "a frame of another stream amid a field block",
        |c| {
            c.send(HEADERS, END_STREAM, 1, &block(&get("/")));
            c.request(3, &get("/"), END_STREAM);
        },
        Hears::Error,
        0,
    ),
    ("5.1", "DATA on a stream that was never opened", |c| c.send(DATA, END_STREAM, 1, b"x"), Hears::Error, 0),
    (
        "5.1",
        "RST_STREAM on a stream that was never opened",
        |c| {
            c.send(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
        },
        Hears::Error,
        0,
    ),
    (
        "5.1",
        "WINDOW_UPDATE on a stream that was never opened",
        |c| {
            c.send(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes());
        },
        Hears::Error,
        0,
    ),
    (
        "5.1.1",
        "a stream with an even number",
        |c| {
            c.request(2, &get("/"), END_STREAM);
        },
        Hears::Error,
        0,
    ),
    (
        "5.1.1",
        "a stream with a lower number than one before",
        |c| {
            c.request(5, &get("/five"), END_STREAM);
            assert_eq!(c.verdict(5), Verdict::Answer(200));
            c.request(1, &get("/one"), END_STREAM);
        },
        Hears::Error,
        1,
    ),
    (
        "5.3.1",
        "a stream that depends on itself in PRIORITY",
        |c| {
            c.send(PRIORITY, 0, 1, &[0, 0, 0, 1, 16]);
            only(&get("/"), c);
        },
        Hears::Error,
        0,
    ),
    ("6.1", "DATA on stream 0", |c| c.send(DATA, 0, 0, b"x"), Hears::Error, 0),
    (
        "6.1",
        "more padding than there is frame",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(DATA, PADDED | END_STREAM, 1, &[9, b'a']);
        },
        Hears::Error,
        1,
    ),
    (
        "6.2",
        "HEADERS on stream 0",
        |c| c.send(HEADERS, END_HEADERS | END_STREAM, 0, &block(&get("/"))),
        Hears::Error,
        0,
    ),
    (
        "6.2",
        "padded HEADERS",
        |c| {
            let padded = [&[3][..], &block(&get("/")), &[0, 0, 0]].concat();
            c.send(HEADERS, PADDED | END_HEADERS | END_STREAM, 1, &padded);
        },
        Hears::Ok,
        1,
    ),
    (
        "6.3",
        "PRIORITY of the wrong length",
        |c| {
            c.send(PRIORITY, 0, 1, &[0, 0, 0]);
            only(&get("/"), c);
        },
        Hears::Error,
        0,
    ),
    (
        "6.4",
        "RST_STREAM of the wrong length",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(RST_STREAM, 0, 1, &[0, 0, 8]);
        },
        Hears::Error,
        1,
    ),
    ("6.5", "SETTINGS on a stream", |c| c.send(SETTINGS, 0, 1, &[]), Hears::Error, 0),
    ("6.5", "SETTINGS of a length that is no multiple of 6", |c| c.send(SETTINGS, 0, 0, &[0, 1, 2]), Hears::Error, 0),
    ("6.5", "an ACK with content", |c| c.send(SETTINGS, 1, 0, &settings(&[(1, 0)])), Hears::Error, 0),
    ("6.5.2", "SETTINGS_ENABLE_PUSH of 2", |c| c.send(SETTINGS, 0, 0, &settings(&[(2, 2)])), Hears::Error, 0),
    ("6.5.2", "a window above 2^31-1", |c| c.send(SETTINGS, 0, 0, &settings(&[(4, 1 << 31)])), Hears::Error, 0),
    ("6.5.2", "a frame size below 2^14", |c| c.send(SETTINGS, 0, 0, &settings(&[(5, 100)])), Hears::Error, 0),
    (
        "6.5.2",
        "a setting that nobody knows is passed over",
        |c| {
            c.send(SETTINGS, 0, 0, &settings(&[(0xffff, 1)]));
            only(&get("/"), c);
        },
        Hears::Ok,
        1,
    ),
    (
        "6.6",
        "PUSH_PROMISE of a client",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(&get("/"))].concat());
        },
        Hears::Error,
        1,
    ),
    ("6.7", "PING of the wrong length", |c| c.send(PING, 0, 0, b"short"), Hears::Error, 0),
    ("6.7", "PING on a stream", |c| c.send(PING, 0, 1, b"eight by"), Hears::Error, 0),
    ("6.8", "GOAWAY on a stream", |c| c.send(GOAWAY, 0, 1, &away(0, 0)), Hears::Error, 0),
    ("6.9", "WINDOW_UPDATE of 0 on the connection", |c| c.send(WINDOW_UPDATE, 0, 0, &[0; 4]), Hears::Error, 0),
    (
        "6.9",
        "WINDOW_UPDATE of 0 on a stream",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(WINDOW_UPDATE, 0, 1, &[0; 4]);
        },
        Hears::Error,
        1,
    ),
    (
        "6.9.1",
        "a window of the connection above 2^31-1",
        |c| {
            for _ in 0..2 {
                c.send(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
            }
        },
        Hears::Error,
        0,
    ),
    (
        "6.9.1",
        "more DATA than the window",
        |c| {
            c.request(1, &post("/"), 0);
            for _ in 0..80 {
                c.send(DATA, 0, 1, &[0; 16_384]);
            }
        },
        Hears::Error,
        1,
    ),
    (
        "6.10",
        "CONTINUATION after a whole field block",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(CONTINUATION, END_HEADERS, 1, &block(&[("x-late", "1")]));
        },
        Hears::Error,
        1,
    ),
    (
        "6.10",
        "a field block in three frames",
        |c| {
            let block = block(&get("/"));
            c.send(HEADERS, END_STREAM, 1, &block[..3]);
            c.send(CONTINUATION, 0, 1, &block[3..9]);
            c.send(CONTINUATION, END_HEADERS, 1, &block[9..]);
        },
        Hears::Ok,
        1,
    ),
];
