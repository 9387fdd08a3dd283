//! Messages that break the rules: RFC 9113, section 8, and what is made of them for HTTP/1.1.

use super::*;

/// Messages: section 8, and what is made of them for HTTP/1.1.
pub(super) const MESSAGES: &[Case] = &[
    (
        "8.1",
        "a second block of fields that does not end the stream",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(HEADERS, END_HEADERS, 1, &block(&[("x-trailer", "1")]));
        },
        Hears::Error,
        1,
    ),
    (
        "8.1",
        "pseudo-header fields behind the body stay behind",
        |c| {
            c.request(1, &post("/"), 0);
            c.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(":path", "/other")]));
        },
        Hears::Ok,
        1,
    ),
    (
        "8.1.1",
        "less body than Content-Length",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "9")]), 0);
            c.send(DATA, END_STREAM, 1, b"short");
        },
        Hears::Refused,
        1,
    ),
    (
        "8.1.1",
        "more body than Content-Length",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "1")]), 0);
            c.send(DATA, END_STREAM, 1, b"POST /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        },
        Hears::Refused,
        1,
    ),
    (
        "8.1.1",
        "Content-Length without a body",
        |c| only(&with(post("/"), &[("content-length", "5")]), c),
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "Content-Length twice, the same",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "1"), ("content-length", "1")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "Content-Length twice, different",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "1"), ("content-length", "2")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "Content-Length: +1",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "+1")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "Content-Length: 1, 1",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "1, 1")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    (
        "8.1.1",
        "an empty Content-Length",
        |c| {
            c.request(1, &with(post("/"), &[("content-length", "")]), 0);
            c.send(DATA, END_STREAM, 1, b"a");
        },
        Hears::Refused,
        0,
    ),
    ("8.2", "a name in capitals", |c| only(&with(get("/"), &[("X-Upper", "1")]), c), Hears::Error, 0),
    ("8.2.1", "a name with a space", |c| only(&with(get("/"), &[("x y", "1")]), c), Hears::Refused, 0),
    ("8.2.1", "a name with a colon", |c| only(&with(get("/"), &[("x:y", "1")]), c), Hears::Refused, 0),
    ("8.2.1", "a name with a line break", |c| only(&with(get("/"), &[("x\r\ny", "1")]), c), Hears::Refused, 0),
    ("8.2.1", "an empty name", |c| only(&with(get("/"), &[("", "1")]), c), Hears::Refused, 0),
    (
        "8.2.1",
        "CR LF in a value",
        |c| {
            only(&with(get("/"), &[("x-a", "1\r\nx-user-id: mallory")]), c);
        },
        Hears::Refused,
        0,
    ),
    ("8.2.1", "LF in a value", |c| only(&with(get("/"), &[("x-a", "1\nx-b: 2")]), c), Hears::Refused, 0),
    ("8.2.1", "CR in a value", |c| only(&with(get("/"), &[("x-a", "1\rx-b: 2")]), c), Hears::Refused, 0),
    ("8.2.1", "NUL in a value", |c| only(&with(get("/"), &[("x-a", "1\0")]), c), Hears::Refused, 0),
    (
        "8.2.1",
        "a value that begins with a space",
        |c| only(&with(get("/"), &[("x-a", " 1")]), c),
        Hears::Status(400),
        0,
    ),
    ("8.2.1", "a value that ends with a tab", |c| only(&with(get("/"), &[("x-a", "1\t")]), c), Hears::Status(400), 0),
    ("8.2.2", "Connection", |c| only(&with(get("/"), &[("connection", "x-user-id")]), c), Hears::Refused, 0),
    ("8.2.2", "Keep-Alive", |c| only(&with(get("/"), &[("keep-alive", "5")]), c), Hears::Refused, 0),
    ("8.2.2", "Proxy-Connection", |c| only(&with(get("/"), &[("proxy-connection", "close")]), c), Hears::Refused, 0),
    (
        "8.2.2",
        "Transfer-Encoding: chunked",
        |c| {
            c.request(1, &with(post("/"), &[("transfer-encoding", "chunked")]), 0);
            c.send(DATA, END_STREAM, 1, b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
        },
        Hears::Refused,
        0,
    ),
    ("8.2.2", "Upgrade: h2c", |c| only(&with(get("/"), &[("upgrade", "h2c")]), c), Hears::Refused, 0),
    ("8.2.2", "Upgrade: websocket", |c| only(&with(get("/"), &[("upgrade", "websocket")]), c), Hears::Refused, 0),
    ("8.2.2", "TE: gzip", |c| only(&with(get("/"), &[("te", "gzip")]), c), Hears::Refused, 0),
    ("8.2.2", "TE: trailers, gzip", |c| only(&with(get("/"), &[("te", "trailers, gzip")]), c), Hears::Refused, 0),
    ("8.2.2", "TE: trailers", |c| only(&with(get("/"), &[("te", "trailers")]), c), Hears::Ok, 1),
    ("8.3", "a pseudo-header field that nobody knows", |c| only(&with(get("/"), &[(":x", "1")]), c), Hears::Refused, 0),
    (
        "8.3",
        "a pseudo-header field of answers",
        |c| {
            c.request(1, &[&[(":status", "200")], &get("/")[..]].concat(), END_STREAM);
        },
        Hears::Refused,
        0,
    ),
    (
        "8.3",
        "a pseudo-header field behind a plain one",
        |c| {
            c.request(1, &[&[("x-a", "1")], &get("/")[..]].concat(), END_STREAM);
        },
        Hears::Refused,
        0,
    ),
    ("8.3.1", "no :method", |c| only(&without(":method"), c), Hears::Refused, 0),
    ("8.3.1", "no :scheme", |c| only(&without(":scheme"), c), Hears::Refused, 0),
    ("8.3.1", "no :path", |c| only(&without(":path"), c), Hears::Refused, 0),
    ("8.3.1", "an empty :path", |c| only(&instead(":path", ""), c), Hears::Refused, 0),
    ("8.3.1", ":path twice", |c| only(&[&get("/")[..], &[(":path", "/b")]].concat(), c), Hears::Refused, 0),
    ("8.3.1", ":method twice", |c| only(&[&get("/")[..], &[(":method", "PUT")]].concat(), c), Hears::Refused, 0),
    ("8.3.1", ":authority twice", |c| only(&[&get("/")[..], &[(":authority", "b")]].concat(), c), Hears::Refused, 0),
    ("8.3.1", "a :method with a space", |c| only(&instead(":method", "GET /x HTTP/1.1\r\nA: b"), c), Hears::Refused, 0),
    ("8.3.1", "a :path with a space", |c| only(&instead(":path", "/a HTTP/1.1\r\nX: y"), c), Hears::Refused, 0),
    ("8.3.1", "a :path that is no path", |c| only(&instead(":path", "a"), c), Hears::Refused, 0),
    ("8.3.1", "a :path that is a URL", |c| only(&instead(":path", "http://other/"), c), Hears::Refused, 0),
    ("8.3.1", ":path * for GET", |c| only(&instead(":path", "*"), c), Hears::Refused, 0),
    ("8.3.1", "a :scheme that is not the web's", |c| only(&instead(":scheme", "ftp"), c), Hears::Refused, 0),
    ("8.3.1", "a :scheme with a line break", |c| only(&instead(":scheme", "https\r\nx: y"), c), Hears::Refused, 0),
    ("8.3.1", "an :authority with a user", |c| only(&instead(":authority", "me@localhost"), c), Hears::Refused, 0),
    ("8.3.1", "an :authority with a path", |c| only(&instead(":authority", "localhost/a"), c), Hears::Refused, 0),
    ("8.3.1", "an :authority with a line break", |c| only(&instead(":authority", "h\r\nx: y"), c), Hears::Refused, 0),
    ("8.3.1", "an empty :authority", |c| only(&instead(":authority", ""), c), Hears::Refused, 0),
    ("8.3.1", "neither :authority nor Host", |c| only(&without(":authority"), c), Hears::Refused, 0),
    (
        "8.3.1",
        "Host instead of :authority",
        |c| {
            only(&with(without(":authority"), &[("host", "localhost")]), c);
        },
        Hears::Ok,
        1,
    ),
    ("8.3.1", "Host beside the same :authority", |c| only(&with(get("/"), &[("host", "LOCALHOST")]), c), Hears::Ok, 1),
    (
        "8.3.1",
        "Host beside another :authority",
        |c| only(&with(get("/"), &[("host", "other")]), c),
        Hears::Status(400),
        0,
    ),
    (
        "8.3.1",
        "Host twice",
        |c| only(&with(without(":authority"), &[("host", "a"), ("host", "a")]), c),
        Hears::Status(400),
        0,
    ),
    (
        "8.5",
        "CONNECT",
        |c| {
            c.request(1, &[(":method", "CONNECT"), (":authority", "localhost:22")], 0);
        },
        Hears::Refused,
        0,
    ),
    (
        "8.5",
        "extended CONNECT, which was not offered",
        |c| {
            c.request(1, &[&[(":protocol", "websocket")], &instead(":method", "CONNECT")[..]].concat(), 0);
        },
        Hears::Refused,
        0,
    ),
    ("9110, 9.3.8", "TRACE", |c| only(&instead(":method", "TRACE"), c), Hears::Status(501), 0),
];
