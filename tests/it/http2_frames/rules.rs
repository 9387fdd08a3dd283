//! What the gateway's own rules say of a request, whichever HTTP it came in.

use super::*;

/// What the gateway's own rules say of a request, whichever HTTP it came in.
pub(super) const RULES: &[Case] = &[
    (
        "own",
        "an identity twice",
        |c| only(&with(get("/"), &[("x-user-id", "a"), ("x-user-id", "b")]), c),
        Hears::Status(400),
        0,
    ),
    ("own", "an escaped slash on an export route", |c| only(&get("/api/export/a%2Fb/start"), c), Hears::Status(400), 0),
    (
        "own",
        "an expectation that is not 100-continue",
        |c| only(&with(get("/"), &[("expect", "x")]), c),
        Hears::Status(417),
        0,
    ),
    (
        "own",
        "Trailer names the identity",
        |c| {
            c.request(1, &with(post("/"), &[("trailer", "x-user-id")]), 0);
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-user-id", "mallory")]));
        },
        Hears::Status(400),
        0,
    ),
    (
        "own",
        "a target over its limit",
        |c| {
            let path = format!("/{}", "a".repeat(9_000));
            c.request(1, &[&without(":path")[..], &[(":path", &path)]].concat(), END_STREAM);
        },
        Hears::Status(414),
        0,
    ),
    (
        "own",
        "101 fields",
        |c| {
            let names: Vec<String> = (0..101).map(|number| format!("x-{number}")).collect();
            let more: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
            c.request(1, &[&get("/")[..], &more].concat(), END_STREAM);
        },
        Hears::Status(431),
        0,
    ),
    (
        "own",
        "fields over their limit",
        |c| {
            let value = "a".repeat(3_000);
            let more = [("x-a", value.as_str()); 12];
            let block = block(&[&get("/")[..], &more].concat());
            let (first, rest) = block.split_at(16_000);
            c.send(HEADERS, END_STREAM, 1, first);
            for (at, piece) in rest.chunks(16_000).enumerate() {
                let is_last = (at + 1) * 16_000 >= rest.len();
                c.send(CONTINUATION, if is_last { END_HEADERS } else { 0 }, 1, piece);
            }
        },
        Hears::Status(431),
        0,
    ),
];
