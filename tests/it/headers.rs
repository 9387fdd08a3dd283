//! Header fields on their way through: what is kept to the letter, what stays behind, what the gateway writes itself.

use crate::support::backend::{Backend, Received, Recorder, read_request};
use crate::support::client::{Connection, Request, get, send};
use crate::support::gateway::{Gateway, set};
use crate::support::parts::{header_of, shared};

fn fields(pairs: &[(&str, &str)]) -> Request {
    pairs.iter().fold(Request::get("/x"), |request, (name, value)| request.header(name, value))
}

/// Sends one request through and returns what arrived.
fn through(gateway: &Gateway, recorder: &Recorder, request: &Request) -> Received {
    recorder.forget();
    assert_eq!(send(gateway.addr(), request).status, 200, "{request:?}");
    recorder.only()
}

#[test]
fn fields_keep_their_case_their_order_and_their_bytes() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let sent = [
        ("X-One", "1"),
        ("aCCept", "text/html;q=0.8,*/*"),
        ("X-Many", "first"),
        ("COOKIE", "a=1; b=\"2\""),
        ("x-many", "second"),
        ("X-Latin", "caf\u{e9} \u{ff}"),
        ("X-MANY", "third, fourth"),
        ("X-Empty", ""),
        ("Authorization", "Bearer abc.def"),
        ("X-Tab", "a\tb"),
    ];
    let request = through(&gateway, &recorder, &fields(&sent));
    for (name, value) in sent {
        assert!(request.head.headers.contains(&(name.into(), value.into())), "{name}: {:?}", request.head.headers);
    }
    assert_eq!(request.all("x-many"), ["first", "second", "third, fourth"]);
}

#[test]
fn answers_keep_their_case_their_order_and_their_bytes() {
    let backend = Backend::start(|_, wire| {
        read_request(wire)?;
        let head = b"HTTP/1.1 207 Gar nicht uebel\r\nServer: uvicorn\r\nX-oDD-case: 1\r\nSet-Cookie: a=1; Path=/\r\n\
            Vary: Origin\r\nset-cookie: b=2\r\nSet-Cookie: a=3; HttpOnly\r\nX-Latin: \xe9\xff\r\nDate: then\r\n\
            Content-Length: 2\r\n\r\nok";
        wire.send(head).unwrap();
        Ok(())
    });
    let gateway = Gateway::start(&backend);
    let answer = get(gateway.addr(), "/");
    assert_eq!(answer.head.line, "HTTP/1.1 207 Gar nicht uebel");
    assert_eq!(answer.all("set-cookie"), ["a=1; Path=/", "b=2", "a=3; HttpOnly"]);
    for (name, value) in [("X-oDD-case", "1"), ("X-Latin", "\u{e9}\u{ff}"), ("Date", "then"), ("Server", "uvicorn")] {
        assert!(answer.head.headers.contains(&(name.into(), value.into())), "{name}: {:?}", answer.head.headers);
    }
    assert_eq!(answer.head.headers.len(), 9, "nothing is added: {:?}", answer.head.headers);
}

#[test]
fn an_answer_without_a_date_gets_none() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let names: Vec<_> = get(gateway.addr(), "/").head.headers.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["Content-Type", "Content-Length"]);
}

#[test]
fn three_cookies_of_a_real_login_arrive_apart() {
    let gateway = Gateway::start(shared());
    let direct = send(shared().legacy.addr(), &Request::post_json("/api/login", &serde_json::json!({"user": "u"})));
    let through = send(gateway.addr(), &Request::post_json("/api/login", &serde_json::json!({"user": "u"})));
    assert_eq!((through.status, through.all("set-cookie").len()), (direct.status, direct.all("set-cookie").len()));
    assert!(through.all("set-cookie").len() >= 2, "{through:?}");
}

#[test]
fn hop_by_hop_fields_of_a_request_stay_behind() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let request = through(
        &gateway,
        &recorder,
        &fields(&[
            ("Connection", "X-Secret, keep-alive"),
            ("connection", "x-other ,, X-Third"),
            ("X-Secret", "1"),
            ("X-Other", "1"),
            ("X-Third", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authorization", "Basic abc"),
            ("TE", "gzip;q=1"),
            ("Upgrade", "foo/2"),
            ("Forwarded", "for=1.2.3.4;host=evil"),
            ("X-Kept", "1"),
        ]),
    );
    let names: Vec<_> = request.head.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    for gone in [
        "connection",
        "x-secret",
        "x-other",
        "x-third",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "forwarded",
    ] {
        assert!(!names.contains(&gone.to_owned()), "{gone} in {names:?}");
    }
    assert_eq!(request.all("x-kept"), ["1"]);
}

#[test]
fn hop_by_hop_fields_of_an_answer_stay_behind() {
    let recorder = Recorder::answering(
        "HTTP/1.1 200 OK\r\nConnection: X-Inner, keep-alive\r\nX-Inner: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: close\r\nProxy-Authenticate: Basic\r\nTE: x\r\nUpgrade: h2c\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok",
    );
    let gateway = Gateway::start(&recorder);
    let mut connection = Connection::open(gateway.addr());
    for _ in 0..2 {
        let answer = connection.exchange(&Request::get("/")).unwrap();
        let mut names: Vec<_> = answer.head.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["Content-Length", "X-Kept"]);
    }
}

#[test]
fn a_backend_that_closes_its_connection_does_not_close_the_clients() {
    let recorder = Recorder::answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let gateway = Gateway::start(&recorder);
    let mut connection = Connection::open(gateway.addr());
    for _ in 0..3 {
        let answer = connection.exchange(&Request::get("/")).unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
}

#[test]
fn protected_fields_cannot_be_taken_away_by_naming_them() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
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
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Anything",
    ] {
        for value in
            [name.to_owned(), format!("close, {}", name.to_lowercase()), format!(" ,{}\t,x", name.to_uppercase())]
        {
            let answer = send(gateway.addr(), &fields(&[("X-User-Id", "ann"), ("Connection", &value)]));
            assert_eq!((answer.status, answer.field("code").as_str()), (400, "bad_request"), "{value:?}");
            assert_eq!(answer.header("connection"), Some("close"));
        }
    }
    assert_eq!(recorder.backend.connections(), 0);
}

#[test]
fn an_identity_that_could_be_read_in_two_ways_is_refused_everywhere() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let bad: [&[(&str, &str)]; 6] = [
        &[("X-User-Id", "ann"), ("X-User-Id", "bob")],
        &[("X-User-Id", "ann"), ("x-user-id", "ann")],
        &[("X-User-Id", ""), ("X-USER-ID", "ann")],
        &[("X-User-Id", "ann, bob")],
        &[("X-User-Id", ",ann")],
        &[("X-User-Id", "an\tn")],
    ];
    for pairs in bad {
        for target in ["/api/projects", "/api/export/status/abc", "/"] {
            let request = pairs.iter().fold(Request::get(target), |it, (name, value)| it.header(name, value));
            let answer = send(gateway.addr(), &request);
            assert_eq!((answer.status, answer.field("code").as_str()), (400, "bad_identity"), "{pairs:?} {target}");
        }
    }
    assert_eq!(recorder.backend.connections(), 0);
}

#[test]
fn spellings_of_the_identity_with_underscores_are_removed() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    // WSGI and CGI fold `_` and `-`: the backend must not find a second user.
    let odd =
        [("X_User_Id", "eve"), ("X-User_Id", "eve"), ("x_user-id", "eve"), ("X-User-Id", "ann"), ("X-UserId", "kept")];
    let request = through(&gateway, &recorder, &fields(&odd));
    let users: Vec<_> = request
        .head
        .headers
        .iter()
        .filter(|(name, _)| name.replace('_', "-").eq_ignore_ascii_case("x-user-id"))
        .collect();
    assert_eq!(users, [&("X-User-Id".to_owned(), "ann".to_owned())]);
    assert_eq!(request.all("x-userid"), ["kept"]);
}

#[test]
fn only_trusted_networks_say_who_somebody_is() {
    let recorder = Recorder::start();
    let trusted = |networks: &[&str]| {
        let networks: Vec<toml::Value> = networks.iter().map(|it| (*it).into()).collect();
        Gateway::with(&recorder, |table| set(table, "identity.trusted", networks))
    };
    let stranger = trusted(&["10.0.0.0/8"]);
    assert_eq!(through(&stranger, &recorder, &fields(&[("X-User-Id", "ann")])).all("x-user-id"), [""; 0]);
    let friend = trusted(&["10.0.0.0/8", "127.0.0.0/8"]);
    assert_eq!(through(&friend, &recorder, &fields(&[("X-User-Id", "ann")])).all("x-user-id"), ["ann"]);
    // What goes on is what was decided: legacy would drop the same characters.
    assert_eq!(through(&friend, &recorder, &fields(&[("X-User-Id", "../an n")])).all("x-user-id"), ["ann"]);
}

#[test]
fn forwarding_fields_of_strangers_are_replaced() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let request = through(
        &gateway,
        &recorder,
        &fields(&[
            ("Host", "app.example"),
            ("X-Forwarded-For", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil"),
            ("X-Forwarded-Host", "evil2"),
        ]),
    );
    assert_eq!(request.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.all("x-forwarded-proto"), ["http"]);
    assert_eq!(request.all("x-forwarded-host"), ["app.example"]);
    assert_eq!(request.all("host"), ["app.example"]);
}

#[test]
fn forwarding_fields_of_trusted_proxies_are_kept_and_appended_to() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| {
        set(table, "server.trusted_proxies", vec![toml::Value::from("127.0.0.0/8")]);
    });
    let request = through(
        &gateway,
        &recorder,
        &fields(&[
            ("Host", "inner"),
            ("X-Forwarded-For", "6.6.6.6, 5.5.5.5"),
            ("X-Forwarded-For", "7.7.7.7"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "app.example"),
            ("Forwarded", "for=6.6.6.6"),
        ]),
    );
    assert_eq!(request.all("x-forwarded-for"), ["6.6.6.6, 5.5.5.5, 7.7.7.7, 127.0.0.1"]);
    assert_eq!(request.all("x-forwarded-proto"), ["https"]);
    assert_eq!(request.all("x-forwarded-host"), ["app.example"]);
    assert_eq!(request.all("forwarded"), [""; 0]);
    let bare = through(&gateway, &recorder, &fields(&[("Host", "inner")]));
    assert_eq!((bare.all("x-forwarded-for"), bare.all("x-forwarded-host")), (vec!["127.0.0.1"], vec!["inner"]));
}

#[test]
fn every_request_carries_one_request_id() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let long = "x".repeat(128);
    for good in ["abc", "0-!\"#~", long.as_str()] {
        assert_eq!(through(&gateway, &recorder, &fields(&[("X-Request-Id", good)])).all("x-request-id"), [good]);
    }
    let longer = "x".repeat(129);
    let bad: [&[&str]; 6] = [&[], &[""], &["a b"], &["caf\u{e9}"], &[longer.as_str()], &["one", "two"]];
    for values in bad {
        let pairs: Vec<_> = values.iter().map(|value| ("X-Request-Id", *value)).collect();
        let request = through(&gateway, &recorder, &fields(&pairs));
        let [id] = request.all("x-request-id")[..] else { panic!("{values:?}: {request:?}") };
        assert!(!values.contains(&id) && id.len() == 36, "{values:?} became {id:?}");
    }
}

#[test]
fn uvicorn_sees_the_clients_host_and_address() {
    let gateway = Gateway::start(shared());
    let user = crate::support::unique_user();
    let request = Request::post_json("/api/export/annotate/status/nope", &serde_json::json!({})).user(&user);
    send(gateway.addr(), &request.header("Host", "app.example:8443").header("Cookie", "session=1"));
    let [seen] = &shared().legacy.seen_from("other", &user)[..] else { panic!("one request") };
    assert_eq!(header_of(seen, "host"), ["app.example:8443"]);
    assert_eq!(header_of(seen, "x-forwarded-host"), ["app.example:8443"]);
    assert_eq!(header_of(seen, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(header_of(seen, "cookie"), ["session=1"]);
}
