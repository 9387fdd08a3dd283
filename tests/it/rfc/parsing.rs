//! RFC 9112, section 2: line ends, blanks and bytes that have no place in a message.

use super::judge::{Case, Expect, Section, hold};

pub(crate) fn sections() -> Vec<Section> {
    vec![
        ("RFC 9112 2.2 line ends", line_ends()),
        ("RFC 9112 2.2 blanks before the first field", blanks()),
        ("RFC 9112 2.2 bytes with no place in a head", bytes()),
        ("RFC 9112 2.2 other protocols", protocols()),
    ]
}

fn line_ends() -> Vec<Case> {
    let bad: [&[u8]; 24] = [
        b"GET /x HTTP/1.1\nHost: h\n\n",
        b"GET /x HTTP/1.1\nHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\nX: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\n\n",
        b"GET /x HTTP/1.1\r\nHost: h\n\n",
        b"\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\r\n\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\n\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\n\r\nabc",
        b"POST /x HTTP/1.1\r\nHost: h\r\nX: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\n\r\n0\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\nGET /y HTTP/1.1\nHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\rHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\r\rHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\r\r\nHost: h\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\r\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: a\rContent-Length: 3\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX: \r\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\nX\r: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: h\r\n\rX: a\r\n\r\n",
        b"GET /x\r HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET\r/x HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    let mut cases: Vec<_> = bad.iter().map(|bytes| Case::refuse(*bytes)).collect();
    for before in ["\r\n", "\r\n\r\n", "\r\n\r\n\r\n"] {
        cases.push(Case::accept(format!("{before}GET /x HTTP/1.1\r\nHost: h\r\n\r\n")).line("GET /x HTTP/1.1"));
    }
    cases
}

fn blanks() -> Vec<Case> {
    let bad = [
        "GET /x HTTP/1.1\r\n Host: h\r\n\r\n",
        "GET /x HTTP/1.1\r\n\tHost: h\r\n\r\n",
        "GET /x HTTP/1.1\r\n Host: h\r\nHost: h\r\n\r\n",
        "GET /x HTTP/1.1\r\n \r\nHost: h\r\n\r\n",
        "GET /x HTTP/1.1\r\n\t\r\nHost: h\r\n\r\n",
        "GET /x HTTP/1.1\r\n X: a\r\nHost: h\r\n\r\n",
        " GET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "\tGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        " \r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    bad.map(Case::refuse).into()
}

fn bytes() -> Vec<Case> {
    let mut cases = Vec::new();
    for byte in [0, 1, 7, 8, 0xb, 0xc, 0xe, 0x1b, 0x1f, 0x7f] {
        let b = [byte];
        let places: [[&[u8]; 3]; 6] = [
            [b"G", &b, b"T /x HTTP/1.1\r\nHost: h\r\n\r\n"],
            [b"GET /x", &b, b" HTTP/1.1\r\nHost: h\r\n\r\n"],
            [b"GET /x HTTP/1.1", &b, b"\r\nHost: h\r\n\r\n"],
            [b"GET /x HTTP/1.1\r\nHost: h\r\nX", &b, b": a\r\n\r\n"],
            [b"GET /x HTTP/1.1\r\nHost: h\r\nX: a", &b, b"b\r\n\r\n"],
            [b"GET /x HTTP/1.1\r\nHost: h", &b, b"\r\n\r\n"],
        ];
        cases.extend(places.map(|parts| Case::refuse(parts.concat())));
    }
    // Not ASCII, and not in a value.
    for bytes in [&b"\x80"[..], b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf"] {
        let places: [[&[u8]; 3]; 4] = [
            [b"", bytes, b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"],
            [b"GET /", bytes, b" HTTP/1.1\r\nHost: h\r\n\r\n"],
            [b"GET /x HTTP/1.1\r\nHost: h\r\nX", bytes, b": a\r\n\r\n"],
            [b"GET /x HTTP/1.1\r\nHost: h", bytes, b"\r\n\r\n"],
        ];
        cases.extend(places.map(|parts| Case::refuse(parts.concat())));
    }
    cases
}

fn protocols() -> Vec<Case> {
    let bad = [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        "\u{16}\u{3}\u{1}\0\u{5}hello\r\n\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "EHLO h\r\n\r\n",
    ];
    bad.map(|text| Case::new(text, Expect::Closed)).into()
}

#[test]
fn messages_are_parsed_to_the_letter() {
    hold(sections());
}
