//! RFC 9112, section 5, and RFC 9110, section 5: field lines.

use super::judge::{Case, Section, get, hold, lines};

pub(crate) fn sections() -> Vec<Section> {
    vec![
        ("RFC 9112 5.1 names", names()),
        ("RFC 9112 5.2 obs-fold", folds()),
        ("RFC 9110 5.5 values", values()),
        ("RFC 9110 5.3 order and repetition", repetition()),
        ("failures.md limits", limits()),
    ]
}

fn names() -> Vec<Case> {
    let mut cases = Vec::new();
    for byte in "(),/:;<=>?@[\\]{}\" \t".chars() {
        // `X:Y: a` is the field X with the value `Y: a`.
        if byte != ':' {
            cases.push(Case::refuse(get(&format!("X{byte}Y: a"))));
        }
        cases.push(Case::refuse(get(&format!("{byte}: a"))));
    }
    for bad in [
        "X : a",
        "X\t: a",
        "X  : a",
        ": a",
        ":",
        "no colon",
        "X",
        "X\u{80}: a",
        "\u{e9}: a",
        "Content-Length : 0",
        "Content-Length\t: 3",
        "Transfer-Encoding : chunked",
        "Host : g",
        " X: a\n",
        "X-User-Id : mallory",
        "=: a",
        "X\u{a0}: a",
    ] {
        cases.push(Case::refuse(get(bad)));
    }
    for (good, value) in
        [("!#$%&'*+-.^_`|~09az: a", "a"), ("x:a", "a"), ("X:a:b", "a:b"), ("X-Y_Z: a", "a"), ("0: a", "a")]
    {
        let name = good.split(':').next().unwrap_or_default();
        cases.push(Case::accept(get(good)).field(name, &[value]));
    }
    cases
}

fn folds() -> Vec<Case> {
    let bad = [
        "X: a\n b",
        "X: a\n\tb",
        "X:\n a",
        "X: a\n  b\n\tc",
        "X: a\n ",
        "X: a\n\t",
        "X:\n Transfer-Encoding: chunked",
        "Content-Length: 0\n 3",
        "Content-Length:\n 3",
        "Transfer-Encoding:\n chunked",
        "Transfer-Encoding: chun\n ked",
        "X: a\n Host: g",
        "Connection: close\n , X",
        "X-User-Id: a\n mallory",
        "Cookie: a\n b",
    ];
    let mut cases: Vec<_> = bad.iter().map(|fields| Case::refuse(get(fields))).collect();
    cases.push(Case::refuse(lines("GET /x HTTP/1.1\nHost:\n h\n\n")));
    cases.push(Case::refuse(lines("GET /x HTTP/1.1\nHost: h\n :80\n\n")));
    cases
}

fn values() -> Vec<Case> {
    let mut cases = Vec::new();
    for (field, value) in [
        ("X: a", "a"),
        ("X:a", "a"),
        ("X:  a  ", "a"),
        ("X:\ta\t", "a"),
        ("X: a\tb", "a\tb"),
        ("X: a  b", "a  b"),
        ("X:", ""),
        ("X:   ", ""),
        ("X: \"q\\\"q\"", "\"q\\\"q\""),
        ("X: a,b;c=d", "a,b;c=d"),
        ("X: :", ":"),
        ("X: #", "#"),
        ("X: (a)", "(a)"),
    ] {
        cases.push(Case::accept(get(field)).field("x", &[value]));
    }
    let latin: &[u8] = b"GET /x HTTP/1.1\r\nHost: h\r\nX: \xe9\x80\xff\xc3\xa9\r\n\r\n";
    cases.push(Case::accept(latin).field("x", &["\u{e9}\u{80}\u{ff}\u{c3}\u{a9}"]));
    let long = "v".repeat(16 * 1024);
    cases.push(Case::accept(get(&format!("X: {long}"))).field("x", &[long.as_str()]));
    cases
}

fn repetition() -> Vec<Case> {
    vec![
        Case::accept(get("X: a\nX: b\nx: c")).field("x", &["a", "b", "c"]),
        Case::accept(get("Cookie: a=1\nCookie: b=2")).field("cookie", &["a=1", "b=2"]),
        Case::accept(get("X: a\nY: b\nX: c")).field("x", &["a", "c"]).field("y", &["b"]),
        Case::accept(get("Accept: a\nAccept: a")).field("accept", &["a", "a"]),
    ]
}

fn limits() -> Vec<Case> {
    let many = |count: usize| (0..count).map(|number| format!("X-{number}: 1")).collect::<Vec<_>>().join("\n");
    let one = |size: usize| format!("X: {}", "v".repeat(size));
    let target = |size: usize| lines(&format!("GET /{} HTTP/1.1\nHost: h\n\n", "t".repeat(size)));
    let status = |status, bytes: Vec<u8>| Case::new(bytes, super::judge::Expect::Status(status));
    vec![
        status(431, get(&many(100))),
        status(431, get(&many(101))),
        status(431, get(&many(2000))),
        Case::accept(get(&many(99))),
        status(431, get(&one(32 * 1024))),
        status(431, get(&one(41 * 1024))),
        status(431, get(&one(300 * 1024))),
        Case::accept(get(&one(32 * 1024 - 100))),
        status(414, target(8 * 1024)),
        status(414, target(12 * 1024)),
        status(414, target(100 * 1024)),
        Case::accept(target(8 * 1024 - 1)),
    ]
}

#[test]
fn field_lines_are_read_to_the_letter() {
    hold(sections());
}
