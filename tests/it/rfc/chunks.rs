//! RFC 9112, section 7: chunks, extensions and trailers.

use super::judge::{CLIENT, Case, Expect, Section, hold, post};

pub(crate) fn sections() -> Vec<Section> {
    vec![
        ("RFC 9112 7.1 chunk sizes", sizes()),
        ("RFC 9112 7.1 line ends in chunks", line_ends()),
        ("RFC 9112 7.1.1 chunk extensions", extensions()),
        ("RFC 9112 7.1.2 trailers", trailers()),
    ]
}

fn chunked(body: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked", body)
}

fn never(bodies: &[&str]) -> Vec<Case> {
    bodies.iter().map(|body| Case::new(chunked(body), Expect::NeverWhole)).collect()
}

fn sizes() -> Vec<Case> {
    let mut cases = never(&[
        "zz\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "0X3\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "\r\n3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "\t3\r\nabc\r\n0\r\n\r\n",
        "3h\r\nabc\r\n0\r\n\r\n",
        "3_\r\nabc\r\n0\r\n\r\n",
        "3.0\r\nabc\r\n0\r\n\r\n",
        "3,\r\nabc\r\n0\r\n\r\n",
        "\"3\"\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "100000000000000000000003\r\nabc\r\n0\r\n\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\t\r\nabc\r\n0\r\n\r\n",
        "3  \t\r\nabc\r\n0\r\n\r\n",
        "0 \r\n\r\n",
        "3\r\nabc\r\n0 \r\n\r\n",
        "3\0\r\nabc\r\n0\r\n\r\n",
        "\u{b}3\r\nabc\r\n0\r\n\r\n",
        "3\u{c}\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "4\r\nabc\r\n0\r\n\r\n",
        "３\r\nabc\r\n0\r\n\r\n",
        "-0\r\n\r\n",
        "+0\r\n\r\n",
    ]);
    for (body, is) in [
        (CHUNKS, "abc"),
        ("003\r\nabc\r\n000\r\n\r\n", "abc"),
        ("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("a\r\n0123456789\r\n00\r\n\r\n", "0123456789"),
        ("0\r\n\r\n", ""),
        ("00000000000000000003\r\nabc\r\n0\r\n\r\n", "abc"),
    ] {
        cases.push(Case::either(chunked(body)).body(is));
    }
    cases
}

const CHUNKS: &str = "3\r\nabc\r\n0\r\n\r\n";

fn line_ends() -> Vec<Case> {
    never(&[
        "3\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\rabc\r\n0\r\n\r\n",
        "3\r\r\nabc\r\n0\r\n\r\n",
        "3\n\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n\r\n0\r\n\r\n",
        "3\r\nabc\n\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\r\n\r\n",
        "3\r\nabc\r\n0\r\rx\r\n",
        "3;a\nabc\r\n0\r\n\r\n",
        "3;\nabc\r\n0\r\n\r\n",
        "3;a\rb\r\nabc\r\n0\r\n\r\n",
        "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n",
        "3;\n\r\nabc\r\n0\r\n\r\n",
    ])
}

fn extensions() -> Vec<Case> {
    let mut cases = never(&[
        "3;a\0\r\nabc\r\n0\r\n\r\n",
        "3;\u{1}\r\nabc\r\n0\r\n\r\n",
        "3;a=\u{7f}\r\nabc\r\n0\r\n\r\n",
        "3;a=\"\u{8}\"\r\nabc\r\n0\r\n\r\n",
        "3;\u{b}\r\nabc\r\n0\r\n\r\n",
        "3;a\u{1b}[m\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0;\0\r\n\r\n",
        "3 a\r\nabc\r\n0\r\n\r\n",
        "3=a\r\nabc\r\n0\r\n\r\n",
    ]);
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000));
    let many: String = (0..200).map(|_| format!("1;{}\r\na\r\n", "x".repeat(100))).collect();
    cases.extend(never(&[long.as_str(), &format!("{many}0\r\n\r\n")]));
    for body in [
        "3;a\r\nabc\r\n0\r\n\r\n",
        "3;a=b\r\nabc\r\n0\r\n\r\n",
        "3;a=b;c=\"d;e\"\r\nabc\r\n0;f\r\n\r\n",
        "3 ;a\r\nabc\r\n0\r\n\r\n",
        "3\t; a = b\r\nabc\r\n0\r\n\r\n",
        "3;\r\nabc\r\n0\r\n\r\n",
        "3;a=\"\u{e9}\"\r\nabc\r\n0\r\n\r\n",
        "3;a=\t\r\nabc\r\n0\r\n\r\n",
        "3;GET /y HTTP/1.1\r\nabc\r\n0\r\n\r\n",
    ] {
        cases.push(Case::either(chunked(body)).body("abc").field("transfer-encoding", &["chunked"]));
    }
    cases
}

fn trailers() -> Vec<Case> {
    let mut cases = never(&[
        "3\r\nabc\r\n0\r\nX: a\nY: b\r\n\r\n",
        "3\r\nabc\r\n0\r\n\nX: a\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: a\r\n b: c\r\n\r\n",
        "3\r\nabc\r\n0\r\nX : a\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: \0\r\n\r\n",
        "3\r\nabc\r\n0\r\nX\0: a\r\n\r\n",
        "3\r\nabc\r\n0\r\nno colon\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: a\rb\r\n\r\n",
        "3\r\nabc\r\n0\r\n: a\r\n\r\n",
        "3\r\nabc\r\n0\r\nX(: a\r\n\r\n",
        "3\r\nabc\r\n0\r\nX: \u{1}\r\n\r\n",
    ]);
    let large = format!("3\r\nabc\r\n0\r\nX: {}\r\n\r\n", "t".repeat(100_000));
    let many: String = (0..500).map(|number| format!("X-{number}: a\r\n")).collect();
    cases.extend(never(&[large.as_str(), &format!("3\r\nabc\r\n0\r\n{many}\r\n")]));
    for trailer in [
        "X: a",
        "Host: evil",
        "Content-Length: 3",
        "Transfer-Encoding: chunked",
        "X-User-Id: mallory",
        "Cookie: a=b",
        "Authorization: Bearer x",
        "X-Forwarded-For: 6.6.6.6",
        "Connection: close",
        "Idempotency-Key: k",
    ] {
        // Not declared: it stays behind, and never gets into the head.
        let name = trailer.split(':').next().unwrap_or_default();
        let case = Case::accept(chunked(&format!("3\r\nabc\r\n0\r\n{trailer}\r\n\r\n"))).body("abc");
        cases.push(match name {
            "Host" => case.field("host", &["h"]),
            "X-Forwarded-For" => case.field("x-forwarded-for", &[CLIENT]),
            "Transfer-Encoding" => case.field("transfer-encoding", &["chunked"]),
            "X-User-Id" => case.field("x-user-id", &[]),
            _ => case.field(name, &[]),
        });
    }
    cases
}

#[test]
fn chunks_that_are_none_never_make_a_whole_request() {
    hold(sections());
}
