//! RFC 9112, section 9, and RFC 9110, section 7.6: what belongs to one connection stays on it.

use super::judge::{CLIENT, Case, Section, get, hold, lines, post};

pub(crate) fn sections() -> Vec<Section> {
    vec![
        ("RFC 9112 9.3 persistence", persistence()),
        ("RFC 9110 7.6.1 fields of one hop", hop_by_hop()),
        ("RFC 9110 7.6.1 fields that must not be named", protected()),
        ("RFC 9110 7.8 Upgrade", upgrades()),
        ("RFC 7239 forwarding fields", forwarding()),
    ]
}

fn persistence() -> Vec<Case> {
    let mut cases = Vec::new();
    for close in [
        "close",
        "Close",
        "CLOSE",
        "X, close",
        "close, X",
        "keep-alive, close",
        "keep-alive\nConnection: close",
        "\tclose ",
    ] {
        cases.push(Case::last(get(&format!("Connection: {close}"))).field("connection", &[]));
    }
    cases.push(Case::last(post("Connection: close\nContent-Length: 3", "abc")).body("abc"));
    for kept in ["keep-alive", "Keep-Alive", "", "X", ", ,"] {
        cases.push(Case::accept(get(&format!("Connection: {kept}"))).field("connection", &[]));
    }
    cases
}

fn hop_by_hop() -> Vec<Case> {
    let mut cases = Vec::new();
    for (fields, gone) in [
        ("Connection: X-Hop\nX-Hop: a", "x-hop"),
        ("Connection: x-hop\nX-HOP: a\nx-hop: b", "x-hop"),
        ("Connection: keep-alive, X-Hop\nX-Hop: a", "x-hop"),
        ("Connection: X-A\nConnection: X-Hop\nX-Hop: a", "x-hop"),
        ("Connection: ,X-Hop,,\nX-Hop: a", "x-hop"),
        ("Keep-Alive: timeout=5", "keep-alive"),
        ("Proxy-Connection: keep-alive", "proxy-connection"),
        ("Proxy-Authorization: Basic eA==", "proxy-authorization"),
        ("TE: gzip", "te"),
        ("TE: gzip;q=1, deflate", "te"),
        ("Upgrade: foo/1", "upgrade"),
        ("Connection: Upgrade\nUpgrade: foo/1", "upgrade"),
        ("Connection: HTTP2-Settings\nHTTP2-Settings: AAMAAABkAAQAAP__", "http2-settings"),
        ("Forwarded: for=6.6.6.6", "forwarded"),
        ("Connection: Accept\nAccept: a", "accept"),
    ] {
        cases.push(Case::accept(get(fields)).field(gone, &[]).field("host", &["h"]));
    }
    // What is not named goes on.
    cases.push(Case::accept(get("Connection: X-A\nX-B: b")).field("x-b", &["b"]));
    cases.push(Case::accept(get("Trailer: X-A\nTransfer-Encoding: chunked\n\n0\n")).field("trailer", &["X-A"]));
    cases
}

fn protected() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Authorization",
        "Cookie",
        "X-User-Id",
        "Idempotency-Key",
        "Content-Type",
        "Content-Encoding",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
    ] {
        for spelling in [
            format!("Connection: {name}"),
            format!("connection:{}", name.to_lowercase()),
            format!("Connection: close, {}", name.to_uppercase()),
            format!("Connection: keep-alive\nX: a\nConnection: ,{name},"),
        ] {
            cases.push(Case::refuse(get(&format!("{spelling}\nX-User-Id: maya"))));
        }
    }
    for bad in ["a b", "(", "\"close\"", "close;q=1", "X:Y", "cl\u{e9}se", "/"] {
        cases.push(Case::refuse(get(&format!("Connection: {bad}"))));
    }
    cases
}

fn upgrades() -> Vec<Case> {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let mut cases = Vec::new();
    for fields in [
        "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__".to_owned(),
        "Connection: upgrade\nUpgrade: H2C".to_owned(),
        "Connection: Upgrade\nUpgrade: h2".to_owned(),
        "Connection: Upgrade\nUpgrade: TLS/1.0, HTTP/1.1".to_owned(),
        "Connection: Upgrade\nUpgrade: HTTP/2.0".to_owned(),
        "Connection: Upgrade\nUpgrade: connect-udp".to_owned(),
        format!("Upgrade: websocket\nSec-WebSocket-Version: 13\n{key}"),
        format!("Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 12\n{key}"),
        format!("Connection: Upgrade\nUpgrade: websocket\n{key}"),
        format!("Connection: Upgrade\nUpgrade: xwebsocket\nSec-WebSocket-Version: 13\n{key}"),
        "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13".to_owned(),
        format!("Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Version: 8\n{key}"),
    ] {
        // A plain request, and the one behind it is one, too: no tunnel was opened.
        cases.push(Case::accept(get(&fields)).field("upgrade", &[]).field("connection", &[]).body(""));
    }
    let handshake = format!("Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n{key}");
    // The backend answers 200, so that what is behind it is a request and no frame.
    cases.push(Case::accept(get(&handshake)).field("upgrade", &["websocket"]));
    cases.push(Case::accept(post(&handshake, "")).field("upgrade", &[]));
    cases.push(Case::last(lines(&format!("GET /x HTTP/1.0\nHost: h\n{handshake}\n\n"))).field("upgrade", &[]));
    cases.push(Case::refuse([get(&format!("{handshake}\nContent-Length: 3")), b"abc".to_vec()].concat()));
    cases
        .push(Case::refuse([get(&format!("{handshake}\nTransfer-Encoding: chunked")), b"0\r\n\r\n".to_vec()].concat()));
    cases
}

fn forwarding() -> Vec<Case> {
    let mut cases = Vec::new();
    for spoofed in [
        "X-Forwarded-For: 6.6.6.6",
        "x-forwarded-for: 127.0.0.1, 6.6.6.6",
        "X-Forwarded-For: a\nX-Forwarded-For: b",
        "X-Forwarded-For:",
        "X-Forwarded-For: \"",
        "Forwarded: for=6.6.6.6;proto=https",
    ] {
        let case = Case::accept(get(spoofed)).field("x-forwarded-for", &[CLIENT]).field("forwarded", &[]);
        cases.push(case.field("x-forwarded-proto", &["http"]).field("x-forwarded-host", &["h"]));
    }
    for spoofed in ["X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Proto: a\nX-Forwarded-Host: b"] {
        let case = Case::accept(get(spoofed)).field("x-forwarded-proto", &["http"]);
        cases.push(case.field("x-forwarded-host", &["h"]));
    }
    cases
}

#[test]
fn what_belongs_to_one_connection_stays_on_it() {
    hold(sections());
}
