//! RFC 9112, section 3: method, target, version, and the Host that belongs to the target.

use super::judge::{Case, Section, hold, lines};

pub(crate) fn sections() -> Vec<Section> {
    vec![
        ("RFC 9112 3 request line", request_line()),
        ("RFC 9112 3.1 method", methods()),
        ("RFC 9112 3.2 target", targets()),
        ("RFC 9112 3.2 fragments", fragments()),
        ("RFC 9112 3.2.2 absolute form", absolute()),
        ("RFC 9112 3.2.3 CONNECT and authority form", authority()),
        ("RFC 9112 3.2.4 asterisk form", asterisk()),
        ("RFC 9110 7.2 Host", hosts()),
        ("RFC 9112 2.3 version", versions()),
    ]
}

fn request(line: &str) -> Vec<u8> {
    lines(&format!("{line}\nHost: h\n\n"))
}

fn request_line() -> Vec<Case> {
    let bad = [
        "GET  /x HTTP/1.1",
        "GET /x  HTTP/1.1",
        "GET\t/x HTTP/1.1",
        "GET /x\tHTTP/1.1",
        "GET /x HTTP/1.1 ",
        "GET /x HTTP/1.1\t",
        "GET /x HTTP/1.1 y",
        "GET /a b HTTP/1.1",
        "GET /x y HTTP/1.1",
        "GET HTTP/1.1",
        "GET",
        "GET ",
        "GET /x",
        "GET /x ",
        "/x HTTP/1.1",
        "HTTP/1.1 200 OK",
        ":",
        "X: a",
    ];
    bad.iter().map(|line| Case::refuse(request(line))).collect()
}

fn methods() -> Vec<Case> {
    let mut cases = Vec::new();
    for bad in [
        "", "G ET", "G@T", "GET,", "G(T", "GET)", "GET/", "\"GET\"", "GET:", "G=T", "{GET}", "G[T]", "GET?", "G\\T",
        "<GET>", "GET;",
    ] {
        cases.push(Case::refuse(request(&format!("{bad} /x HTTP/1.1"))));
    }
    for good in ["DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH", "get", "Get", "X", "!$%&'*+-.^_`|~09", "PRI"] {
        cases.push(Case::accept(request(&format!("{good} /x HTTP/1.1"))).line(&format!("{good} /x HTTP/1.1")).body(""));
    }
    let long = "A".repeat(200);
    cases.push(Case::either(request(&format!("{long} /x HTTP/1.1"))).line(&format!("{long} /x HTTP/1.1")));
    for target in ["/", "/x?y", "*", "http://h/"] {
        for method in ["TRACE", "CONNECT"] {
            cases.push(Case::refuse(request(&format!("{method} {target} HTTP/1.1"))));
        }
    }
    cases
}

fn targets() -> Vec<Case> {
    let bad = ["x", "?q", "h/x", "/<x>", "/>", "\\x", "@h/x", ":80/x", "%2Fx", ".", "..", "../x", "://h/x"];
    let mut cases: Vec<_> = bad.iter().map(|target| Case::refuse(request(&format!("GET {target} HTTP/1.1")))).collect();
    let good = [
        "/",
        "/a//b/../c/./",
        "/%7e%2F%00%ff?",
        "/?a=/../&&=%zz",
        "/a;b=c:@!$'()*+,[]|^{}",
        "/x?y?z",
        "//evil/x",
        "/api/export",
        "/%",
        "/%g1",
        "/a%20b",
        "/~x",
        "/x?",
        "/x?#".trim_end_matches('#'),
        "/?/",
        "/x/..",
        "/\\x",
        "/\"",
    ];
    for target in good {
        cases.push(Case::accept(request(&format!("GET {target} HTTP/1.1"))).line(&format!("GET {target} HTTP/1.1")));
    }
    cases
}

fn fragments() -> Vec<Case> {
    let bad = [
        "GET /x#y",
        "GET /x?a#b",
        "GET /#",
        "GET #",
        "GET #/x",
        "POST /x#/../api/export/overlay/start",
        "OPTIONS *#",
        "POST /api/export/overlay/start#",
        "POST /api/export/overlay/start#?",
        "GET http://h/x#y",
        "GET /#?a",
    ];
    bad.iter().map(|line| Case::refuse(request(&format!("{line} HTTP/1.1")))).collect()
}

fn absolute() -> Vec<Case> {
    let bad = [
        "GET http://other/x",
        "GET http://h:81/x",
        "GET http://u@h/x",
        "GET http://u:p@h/x",
        "GET https://other/x",
        "GET http://h.evil/x",
        "GET http:///x",
        "GET http://",
        "GET http:/x",
        "GET ftp://h/x",
        "GET ws://h/x",
        "GET ://h",
        "GET http://h@other/x",
        "GET http://[h/x",
        "GET http://h:x/x",
        "GET http://h\\@other/x",
        "GET ftp://other/x",
        "GET http://hh/x",
        "GET http://other:80/",
    ];
    let mut cases: Vec<_> = bad.iter().map(|line| Case::refuse(request(&format!("{line} HTTP/1.1")))).collect();
    cases.push(Case::refuse(lines("GET http://h/x HTTP/1.1\n\n")));
    cases.push(Case::refuse(lines("GET http://h/x HTTP/1.1\nHost: h\nHost: h\n\n")));
    cases.push(Case::refuse(lines("GET http://h/x HTTP/1.1\nHost:\n\n")));
    for (target, host, path) in [
        ("http://h/x", "h", "/x"),
        ("http://h/x?y", "h", "/x?y"),
        ("http://h", "h", "/"),
        ("http://H/x", "h", "/x"),
        ("HTTP://h/x", "h", "/x"),
        ("http://h:8080/x", "h:8080", "/x"),
        ("http://[::1]:8080/x", "[::1]:8080", "/x"),
        ("http://h//x", "h", "//x"),
    ] {
        let case = Case::accept(lines(&format!("GET {target} HTTP/1.1\nHost: {host}\n\n")));
        cases.push(case.line(&format!("GET {path} HTTP/1.1")).field("host", &[host]));
    }
    cases
}

fn authority() -> Vec<Case> {
    let bad = [
        "CONNECT other:443",
        "CONNECT h:80",
        "CONNECT h",
        "CONNECT h:",
        "CONNECT :443",
        "CONNECT [::1]:443",
        "CONNECT u@h:443",
        "CONNECT 127.0.0.1:9901",
        "GET h:80",
        "GET h",
        "POST h:80",
        "OPTIONS h:80",
        "GET 127.0.0.1:80",
        "GET [::1]:80",
    ];
    bad.iter().map(|line| Case::refuse(request(&format!("{line} HTTP/1.1")))).collect()
}

fn asterisk() -> Vec<Case> {
    let bad = ["GET *", "POST *", "DELETE *", "OPTIONS **", "OPTIONS *x", "OPTIONS *?q", "options *"];
    let mut cases: Vec<_> = bad.iter().map(|line| Case::refuse(request(&format!("{line} HTTP/1.1")))).collect();
    cases.push(Case::accept(request("OPTIONS * HTTP/1.1")).line("OPTIONS * HTTP/1.1"));
    cases
}

fn hosts() -> Vec<Case> {
    let mut cases = vec![
        Case::refuse(lines("GET /x HTTP/1.1\n\n")),
        Case::refuse(lines("GET /x HTTP/1.1\nX-Forwarded-Host: h\n\n")),
        Case::refuse(lines("GET /x HTTP/1.1\nHosts: h\n\n")),
    ];
    for bad in [
        "a b",
        "a/b",
        "a@b",
        "",
        "a,b",
        "a?b",
        "a#b",
        "h\nHost: h",
        "h\nhost: g",
        "h\nHOST: h",
        "h\nX: a\nHost: h",
        "h:abc",
        "h:80:80",
        "[::1",
        "::1]",
        "::1",
        "h:-1",
        "h:+1",
        "h:80 ",
        "<h>",
        "h\\x",
        "h\"",
        "[]",
        ":80",
        "h,h",
        "h;\u{1}",
        "h\th",
        "http://h",
        "h/",
        "[::1]x",
        "[::1]:x",
        "[h g]",
        "{h}",
        "h|g",
        "h^g",
        "h`",
    ] {
        // A trailing blank is no part of a value (RFC 9112, 5.1).
        let case = if bad == "h:80 " { Case::accept } else { Case::refuse };
        cases.push(case(lines(&format!("GET /x HTTP/1.1\nHost: {bad}\n\n"))));
    }
    for good in [
        "h",
        "h:80",
        "[::1]",
        "[::1]:80",
        "127.0.0.1:8080",
        "a-b.c_d.example.",
        "h:",
        "H",
        "xn--bcher-kva.example",
        "h%41",
    ] {
        let case = Case::accept(lines(&format!("GET /x HTTP/1.1\nHost: {good}\n\n")));
        cases.push(case.field("host", &[good]).field("x-forwarded-host", &[good]));
    }
    for case in ["HOST: h", "host:h", "hOsT:\th\t", "Host:    h   "] {
        cases.push(Case::accept(lines(&format!("GET /x HTTP/1.1\n{case}\n\n"))).field("host", &["h"]));
    }
    cases
}

fn versions() -> Vec<Case> {
    let mut cases = Vec::new();
    for bad in [
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/2",
        "HTTP/3.0",
        "HTTP/0.9",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1.01",
        "HTTP/11.1",
        "HTTP/1,1",
        "HTTP/1.1x",
        "HTTP/1.1.1",
        "HTTPS/1.1",
        "HTTP1.1",
        "HTTP /1.1",
        "HTTP/ 1.1",
        "http/1.1",
        "Http/1.1",
        "HTTP/A.B",
        "HTTP/-1.1",
        "ICY/1.1",
        "HTTP/1.1;x",
        "HTTP\\1.1",
        "HTTP/９.9",
    ] {
        cases.push(Case::refuse(request(&format!("GET /x {bad}"))));
    }
    cases.push(Case::refuse("GET /x\r\n"));
    cases.push(Case::refuse("GET /x\r\n\r\n"));
    // HTTP/1.0 is served once, as 1.1, with a Host of our own where it had none.
    cases.push(Case::last(request("GET /x HTTP/1.0")).line("GET /x HTTP/1.1").field("host", &["h"]));
    cases.push(Case::last(lines("GET /x HTTP/1.0\n\n")).line("GET /x HTTP/1.1").field("x-forwarded-host", &[]));
    cases.push(
        Case::last(lines("POST /x HTTP/1.0\nHost: h\nContent-Length: 3\n\nabc")).line("POST /x HTTP/1.1").body("abc"),
    );
    cases.push(Case::accept(lines("GET /x HTTP/1.0\nHost: h\nConnection: keep-alive\n\n")).line("GET /x HTTP/1.1"));
    cases.push(Case::refuse(lines("GET /x HTTP/1.0\nHost: h\nHost: h\n\n")));
    cases
}

#[test]
fn request_lines_name_one_place_in_one_way() {
    hold(sections());
}
