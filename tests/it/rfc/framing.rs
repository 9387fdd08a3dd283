//! RFC 9112, section 6: where a body ends. This is what smuggling lives on.

use super::judge::{Case, Section, get, hold, lines, post};

pub(crate) fn sections() -> Vec<Section> {
    vec![
        ("RFC 9112 6.1 Transfer-Encoding", codings()),
        ("RFC 9112 6.1 Transfer-Encoding in HTTP/1.0", old()),
        ("RFC 9112 6.2 Content-Length", lengths()),
        ("RFC 9112 6.3 both", both()),
        ("RFC 9112 6.3 bodies that look like requests", bodies()),
        ("names that are almost these", almost()),
    ]
}

const CHUNKS: &str = "3\r\nabc\r\n0\r\n\r\n";

fn codings() -> Vec<Case> {
    let bad = [
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        ", chunked",
        "identity",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "\"chunked\"",
        "'chunked'",
        "chunked\nTransfer-Encoding: chunked",
        "chunked\nTransfer-Encoding: identity",
        "identity\nTransfer-Encoding: chunked",
        "cow\nTransfer-Encoding: chunked",
        "chunked\nTransfer-Encoding:",
        "\nTransfer-Encoding: chunked",
        "\u{b}chunked",
        "chunked\u{b}",
        "\u{c}chunked",
        "",
        "chunk",
        "deflate",
        "compress, chunked",
        "identity, chunked",
        "chunked identity",
        "chunked\tchunked",
        "chunked chunked",
        "ch\u{fb}nked",
        "trailers",
        "chunked\u{80}",
        "\u{a0}chunked",
        "chunked, identity",
        "CHUNKED, chunked",
        "[chunked]",
        "chunked()",
        "x, chunked",
    ];
    let mut cases: Vec<_> =
        bad.iter().map(|coding| Case::refuse(post(&format!("Transfer-Encoding: {coding}"), CHUNKS))).collect();
    for good in [
        "Transfer-Encoding: chunked",
        "transfer-encoding:chunked",
        "TRANSFER-ENCODING: CHUNKED",
        "Transfer-Encoding: \tchunked \t",
        "Transfer-Encoding: Chunked",
    ] {
        cases.push(Case::accept(post(good, CHUNKS)).body("abc").field("content-length", &[]));
    }
    cases.push(Case::accept([get("Transfer-Encoding: chunked"), CHUNKS.into()].concat()).body("abc"));
    cases
}

fn old() -> Vec<Case> {
    let heads = ["", "Connection: keep-alive\n", "Content-Length: 3\n", "Connection: close\n"];
    heads
        .iter()
        .map(|more| {
            let head = lines(&format!("POST /x HTTP/1.0\nHost: h\n{more}Transfer-Encoding: chunked\n\n"));
            Case::refuse([head, CHUNKS.into()].concat())
        })
        .collect()
}

fn lengths() -> Vec<Case> {
    let bad = [
        "3\nContent-Length: 4",
        "4\nContent-Length: 3",
        "3, 4",
        "3,3",
        "3, 3",
        "+3",
        "-3",
        "-0",
        "+0",
        "0x3",
        "0X3",
        "3 3",
        "",
        "3a",
        "a",
        "3.0",
        "3,",
        ",3",
        "３",
        "\"3\"",
        "99999999999999999999999",
        "18446744073709551616",
        "3;3",
        "3e0",
        "1_0",
        "0b11",
        "3\u{b}",
        "\u{c}3",
        "3\u{a0}",
        "NaN",
        "3\nContent-Length:",
        "\nContent-Length: 3",
        "3\nContent-Length: a",
        "3 ,3",
        "3\t3",
        "three",
        "٣",
    ];
    let mut cases: Vec<_> =
        bad.iter().map(|length| Case::refuse(post(&format!("Content-Length: {length}"), "abc"))).collect();
    for same in ["3\nContent-Length: 3", "3\nX: a\ncontent-length: 3", "3\nContent-Length: 03"] {
        cases.push(
            Case::either(post(&format!("Content-Length: {same}"), "abc")).body("abc").field("content-length", &["3"]),
        );
    }
    // Zeros in front do not change a decimal number, and other readers must not take them for octal.
    cases.push(Case::either(post("Content-Length: 003", "abc")).body("abc"));
    cases.push(Case::either(post("Content-Length: 010", "0123456789")).body("0123456789"));
    for (length, body) in [("3", "abc"), ("0", ""), ("  3  ", "abc"), ("\t3", "abc")] {
        cases.push(Case::accept(post(&format!("Content-Length: {length}"), body)).body(body));
    }
    cases.push(Case::accept([get("Content-Length: 3"), b"abc".to_vec()].concat()).body("abc"));
    cases.push(Case::accept(lines("POST /x HTTP/1.1\nHost: h\n\n")).body(""));
    cases
}

fn both() -> Vec<Case> {
    let heads = [
        "Content-Length: 3\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length: 3",
        "Transfer-Encoding: Chunked\ncontent-length: 0",
        "Content-Length: 13\nTransfer-encoding:chunked",
        "Content-Length: 999\nTransfer-Encoding: chunked",
        "Content-Length: 3\nX: a\nTransfer-Encoding: chunked",
    ];
    let mut cases: Vec<_> = heads.iter().map(|fields| Case::either(post(fields, CHUNKS)).body("abc")).collect();
    for fields in [
        "Content-Length: 3\nContent-Length: 4\nTransfer-Encoding: chunked",
        "Content-Length: a\nTransfer-Encoding: chunked",
        "Content-Length: -1\nTransfer-Encoding: chunked",
    ] {
        cases.push(Case::either(post(fields, CHUNKS)).body("abc"));
    }
    for fields in [
        "Content-Length: 3\nTransfer-Encoding: chunked, identity",
        "Content-Length: 3\nTransfer-Encoding: identity",
        "Content-Length: 3\nTransfer-Encoding: xchunked",
        "Content-Length: 3\nTransfer-Encoding: gzip, chunked",
        "Content-Length: 3\nTransfer-Encoding:",
        "Content-Length: 3\nTransfer-Encoding: \u{b}chunked",
        "Content-Length: 3\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "Content-Length: 3\nTransfer-Encoding : chunked",
        "Content-Length: 3\n Transfer-Encoding: chunked",
    ] {
        cases.push(Case::refuse(post(fields, CHUNKS)));
    }
    cases
}

fn bodies() -> Vec<Case> {
    let inner = "GET /inner HTTP/1.1\r\nHost: h\r\n\r\n";
    let chunked = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    let length = format!("Content-Length: {}", inner.len());
    let odd = "GET /inner#\nHost: h\n\n\0\r\n";
    vec![
        Case::accept(post(&length, inner)).body(inner),
        Case::accept(post("Transfer-Encoding: chunked", &chunked)).body(inner),
        Case::accept([get(&length), inner.into()].concat()).body(inner),
        Case::accept(post(&format!("Content-Length: {}", odd.len()), odd)).body(odd),
        Case::accept(post("Transfer-Encoding: chunked", &format!("{:x}\r\n{odd}\r\n0\r\n\r\n", odd.len()))).body(odd),
        Case::accept(post("Content-Length: 5", "0\r\n\r\n")).body("0\r\n\r\n"),
        Case::accept(post("Transfer-Encoding: chunked", "5\r\n0\r\n\r\n\r\n0\r\n\r\n")).body("0\r\n\r\n"),
    ]
}

/// Fields that other readers take for a framing: they are plain fields here, or refused.
fn almost() -> Vec<Case> {
    let plain = [
        "Content_Length: 3",
        "Transfer_Encoding: chunked",
        "Content-Lengt: 3",
        "Transfer-Encodin: chunked",
        "X-Content-Length: 3",
        "Content-Encoding: chunked",
        "TE: chunked",
        "Content-Length-: 3",
        "Transfer.Encoding: chunked",
        "Contentlength: 3",
    ];
    plain
        .iter()
        .map(|fields| Case::accept(get(fields)).body("").field("transfer-encoding", &[]).field("content-length", &[]))
        .collect()
}

#[test]
fn a_body_ends_where_it_ends_or_nothing_is_forwarded() {
    hold(sections());
}
