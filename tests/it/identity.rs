//! Who a request comes from, where a token or a cookie says it: one user on every route, and nobody by mistake.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use toml::Table;

use crate::support::backend::Recorder;
use crate::support::client::{self, Connection, Request, Response};
use crate::support::gateway::{self, Backends, Gateway, set as set_key, unset};
use crate::support::parts::{self, Set, header_of, quick_folder};
use crate::support::scene::{assert_own, header, line_of, only, poll_of, start_as, start_of};
use crate::support::tokens::{self, Es256, claims, hs256};
use crate::support::websocket::Socket;
use crate::support::{End, eventually};

const SECRET: &str = "a secret that only the issuer has, of good length";

/// A gateway whose users have tokens, and the folder with their keys.
struct Tokens {
    gateway: Gateway,
    folder: TempDir,
}

impl Tokens {
    fn with(set: &Set, keys: &str, change: impl FnOnce(&mut Table)) -> Tokens {
        let folder = quick_folder("gateway-folder");
        let file = folder.path().join("keys");
        fs::write(&file, keys).unwrap();
        let gateway = Gateway::with(set, |table| {
            set_key(table, "identity.jwt.keys", file.display().to_string());
            set_key(table, "identity.jwt.issuer", "https://issuer.example");
            set_key(table, "identity.jwt.audience", "exports");
            change(table);
        });
        Tokens { gateway, folder }
    }

    fn start(set: &Set) -> Tokens {
        Tokens::with(set, SECRET, |_| {})
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    fn send(&self, request: &Request) -> Response {
        client::send(self.gateway.addr(), request)
    }

    /// Returns what `/readyz` says: its status, and its reasons as text.
    fn readiness(&self) -> (String, String) {
        let answer = client::get(self.gateway.admin(), "/readyz");
        assert_eq!(answer.status, 200);
        (answer.field("status"), answer.json()["reasons"].to_string())
    }
}

fn bearer(request: Request, token: &str) -> Request {
    request.header("Authorization", &format!("Bearer {token}"))
}

fn start_request() -> Request {
    start_of("overlay", &client::overlay(12).to_string())
}

/// Returns the only request that a part has seen with this request id.
fn seen_by_id(part: &parts::Part, id: &str) -> Value {
    let mut seen = part.seen();
    seen.retain(|request| header_of(request, "x-request-id") == [id]);
    assert_eq!(seen.len(), 1, "{id}: {seen:?}");
    seen.remove(0)
}

#[test]
fn a_token_decides_the_user_on_every_route() {
    let set = parts::shared();
    let tokens = Tokens::start(set);
    let (user, other) = (set.user(), set.user());
    let (own, others) = (hs256(SECRET.as_bytes(), &claims(&user)), hs256(SECRET.as_bytes(), &claims(&other)));

    let answer = tokens.send(&bearer(start_as(&other, "token-start"), &own));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("workers")), "{}", answer.text());
    assert_eq!((set.jobs_of(&user), set.jobs_of(&other)), ((0, 1), (0, 0)));
    let seen = only(&set.workers, "start", &user);
    assert!(header_of(&seen, "authorization").is_empty(), "the user's token is no business of workers");
    assert_eq!(line_of(&tokens.gateway, "token-start")["user"], user.as_str());

    let job = answer.field("job_id");
    for export in [None, Some("overlay")] {
        let poll = |user: &str, token: &str| tokens.send(&bearer(poll_of(user, &job, export), token)).status;
        assert_eq!(poll(&other, &own), 200, "the token counts");
        assert_eq!(poll(&user, &others), 404, "the header counts for nothing");
    }
    assert_eq!(tokens.send(&poll_of(&user, &job, None)).status, 404, "without a token it is the default user who asks");

    // What passes through: the header is replaced, or made; the token goes along.
    for (id, request) in [
        ("token-pass-1", Request::get("/api/echo/x").header("X-User-Id", &other)),
        ("token-pass-2", Request::get("/api/echo/x")),
        ("token-pass-3", Request::get("/api/echo/x").header("x_user_id", &other)),
    ] {
        tokens.send(&bearer(request, &own).header("X-Request-Id", id));
        let seen = seen_by_id(&set.legacy, id);
        assert_eq!(header(&seen, "x-user-id"), user);
        assert_eq!(header(&seen, "authorization"), format!("Bearer {own}"));
        assert!(header_of(&seen, "x_user_id").is_empty());
    }
    let url = format!("ws://{}/ws/export/x", tokens.gateway.addr());
    let authorization = format!("Bearer {own}");
    let fields = [("Authorization", authorization.as_str()), ("X-User-Id", &other), ("X-Request-Id", "token-ws")];
    let mut socket = Socket::try_open(&url, &fields).expect("legacy takes it");
    socket.send_text("ping");
    assert_eq!(socket.read_text(), "pong");
    assert_eq!(header(&seen_by_id(&set.legacy, "token-ws"), "x-user-id"), user);
    // The job's own WebSocket needs no token, but a wrong one is a wrong one.
    let url = format!("ws://{}/api/jobs/{job}/ws", tokens.gateway.addr());
    drop(Socket::open(&url));
    assert_eq!(Socket::try_open(&url, &[("Authorization", "Bearer x")]).expect_err("it is wrong").status, 401);
}

#[test]
fn a_start_on_legacy_is_the_tokens_users_too() {
    let set = parts::shared();
    let tokens = Tokens::with(set, SECRET, |table| set_key(table, "rollout.percent", 0));
    let (user, other) = (set.user(), set.user());
    let token = hs256(SECRET.as_bytes(), &claims(&user));
    let answer = tokens.send(&bearer(start_as(&other, "legacy-token"), &token));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("legacy")), "{}", answer.text());
    assert_eq!((set.jobs_of(&user), set.jobs_of(&other)), ((1, 0), (0, 0)));
    assert_eq!(header(&seen_by_id(&set.legacy, "legacy-token"), "x-user-id"), user);
}

/// Tokens that name `user` and must not count.
fn bad_tokens(user: &str, key: &Es256) -> Vec<(&'static str, String)> {
    let with = |name: &str, value: Value| {
        let mut claims = claims(user);
        claims[name] = value;
        key.token("1", &claims)
    };
    let good = key.token("1", &claims(user));
    let (head, _) = good.split_once('.').expect("three parts");
    let foreign = key.token("1", &claims("somebody-else"));
    let [_, foreign_claims, _] = foreign.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let signature = good.rsplit('.').next().expect("three parts");
    let none = |alg: &str| format!("{}.", tokens::message(&json!({"alg": alg}), &claims(user)));
    vec![
        ("expired", with("exp", json!(tokens::now() - 60))),
        ("not yet", with("nbf", json!(tokens::now() + 60))),
        ("malformed nbf", with("nbf", json!("x"))),
        ("without an end", with("exp", Value::Null)),
        ("issuer", with("iss", json!("https://evil.example"))),
        ("audience", with("aud", json!("elsewhere"))),
        ("nobody", with("sub", json!("..."))),
        ("no user", with("sub", Value::Null)),
        ("another key", Es256::new().token("1", &claims(user))),
        ("unknown key id", key.token("2", &claims(user))),
        ("other claims", format!("{head}.{foreign_claims}.{signature}")),
        ("none", none("none")),
        ("None", none("None")),
        ("public key as secret", hs256(key.point(), &claims(user))),
        ("public file as secret", hs256(key.jwks("1").as_bytes(), &claims(user))),
        ("garbage", "x".to_owned()),
        ("empty", String::new()),
        ("too long", format!("{good}{}", "A".repeat(9_000))),
    ]
}

#[test]
fn a_token_that_is_not_valid_is_401_on_the_export_routes_and_nobody_elsewhere() {
    let set = parts::shared();
    let key = Es256::new();
    let tokens = Tokens::with(set, &key.jwks("1"), |_| {});
    let user = set.user();
    let good = key.token("1", &claims(&user));
    let answer = tokens.send(&bearer(start_request(), &good));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let job = answer.field("job_id");
    for (number, (what, token)) in bad_tokens(&user, &key).into_iter().enumerate() {
        let id = format!("bad-token-{number}");
        let start = start_request().user(&user);
        for request in [start, poll_of(&user, &job, None), poll_of(&user, &job, Some("overlay"))] {
            let answer = tokens.send(&bearer(request, &token).header("X-Request-Id", &id));
            assert_own(&answer, 401, "invalid_token");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""), "{what}");
        }
        // A refresh route must still work, as nobody: not as the header says, and not as the default user by name.
        let pass = bearer(Request::post_json("/api/login", &json!({})), &token).user(&user);
        let answer = tokens.send(&pass.header("X-Request-Id", &format!("{id}-login")));
        assert_eq!((answer.status, answer.all("set-cookie").len()), (200, 3), "{what}: {}", answer.text());
        let seen = seen_by_id(&set.legacy, &format!("{id}-login"));
        assert!(header_of(&seen, "x-user-id").is_empty(), "{what}");
        assert_eq!(header(&seen, "authorization").trim(), format!("Bearer {token}").trim(), "{what}");
        let line = line_of(&tokens.gateway, &format!("{id}-login"));
        assert!(line["user"].is_null(), "{what}: {line}");
        let line = tokens.gateway.access_log(|line| line["request_id"] == id.as_str() && line["status"] == 401);
        assert_eq!((line["code"].as_str(), line["user"].is_null()), (Some("invalid_token"), true), "{what}: {line}");
        assert!(line["error"].as_str().is_some_and(|error| error.starts_with("token")), "{what}: {line}");
    }
    assert_eq!(set.jobs_of(&user), (0, 1), "no start got through");
    let shown = format!("{}{:?}", tokens.gateway.stderr_text(), tokens.gateway.access_lines());
    assert!(!shown.contains(good.rsplit('.').next().expect("a signature")), "no token in a log");
}

#[test]
fn without_a_token_the_header_counts_for_nothing_and_goes_nowhere() {
    let set = parts::shared();
    let anonymous = Tokens::with(set, SECRET, |table| unset(table, "identity.default"));
    let user = set.user();
    set.legacy.add_video("a", 12, "clip.mp4");
    let answer = anonymous.send(&start_as(&user, "no-token"));
    assert_eq!((answer.status, answer.header("x-export-backend")), (200, Some("legacy")), "{}", answer.text());
    assert_eq!(line_of(&anonymous.gateway, "no-token")["reason"], "anonymous");
    assert!(header_of(&seen_by_id(&set.legacy, "no-token"), "x-user-id").is_empty());
    anonymous.send(&Request::get("/api/echo/x").user(&user).header("X-Request-Id", "no-token-pass"));
    assert!(header_of(&seen_by_id(&set.legacy, "no-token-pass"), "x-user-id").is_empty());
    // A peer that is listed may say who its users are; a token still comes first.
    let trusting = Tokens::with(set, SECRET, |table| {
        set_key(table, "identity.trusted", vec![toml::Value::from("127.0.0.0/8")]);
    });
    let other = set.user();
    assert_eq!(trusting.send(&start_as(&user, "trusted")).status, 200);
    assert_eq!(trusting.send(&bearer(start_as(&user, "both"), &hs256(SECRET.as_bytes(), &claims(&other)))).status, 200);
    assert_eq!((set.jobs_of(&user), set.jobs_of(&other)), ((0, 1), (0, 1)));
}

#[test]
fn a_cookie_decides_where_there_is_no_token() {
    let set = parts::shared();
    let tokens = Tokens::with(set, SECRET, |table| set_key(table, "identity.cookie", "uid"));
    let (user, other) = (set.user(), set.user());
    let with_cookie = |id: &str, cookie: &str| start_as(&other, id).header("Cookie", cookie);
    assert_eq!(tokens.send(&with_cookie("cookie", &format!("theme=dark; uid={user}"))).status, 200);
    assert_eq!((set.jobs_of(&user), set.jobs_of(&other)), ((0, 1), (0, 0)));
    assert!(header_of(&only(&set.workers, "start", &user), "cookie").is_empty());
    let pass = Request::get("/api/echo/x").user(&other).header("Cookie", &format!("uid=../{user}"));
    tokens.send(&pass.header("X-Request-Id", "cookie-pass"));
    let seen = seen_by_id(&set.legacy, "cookie-pass");
    assert_eq!((header(&seen, "x-user-id"), header(&seen, "cookie")), (user.clone(), format!("uid=../{user}")));
    let token = hs256(SECRET.as_bytes(), &claims(&other));
    assert_eq!(tokens.send(&bearer(with_cookie("both", &format!("uid={user}")), &token)).status, 200);
    assert_eq!((set.jobs_of(&user), set.jobs_of(&other)), ((0, 1), (0, 1)), "the token comes first");
    assert_own(&tokens.send(&bearer(with_cookie("bad", &format!("uid={user}")), "x")), 401, "invalid_token");
    for (number, cookie) in
        ["uid=a; uid=b", "uid=a; uid=a", "uid=a,b", &format!("uid={}", "x".repeat(1_025))].iter().enumerate()
    {
        let id = format!("odd-cookie-{number}");
        assert_own(&tokens.send(&with_cookie(&id, cookie)), 400, "bad_identity");
        assert_own(&tokens.send(&Request::get("/api/echo/x").header("Cookie", cookie)), 400, "bad_identity");
    }
    let twice = with_cookie("twice", "uid=a").header("Cookie", "uid=b");
    assert_own(&tokens.send(&twice), 400, "bad_identity");
    let twice = bearer(bearer(start_request(), &token), &token);
    assert_own(&tokens.send(&twice), 400, "bad_identity");
    let nominated = start_request().header("Connection", "authorization");
    assert_own(&tokens.send(&bearer(nominated, &token)), 400, "bad_request");
}

#[test]
fn a_changed_key_file_is_live_within_a_second_and_a_broken_one_changes_nothing() {
    let set = parts::shared();
    let (old, new) = (Es256::new(), Es256::new());
    let tokens = Tokens::with(set, &old.jwks("1"), |_| {});
    let user = set.user();
    let (by_old, by_new) = (old.token("1", &claims(&user)), new.token("2", &claims(&user)));
    let status = |token: &str| tokens.send(&bearer(poll_of("ignored", "no-such-job", None), token)).status;
    assert_eq!((status(&by_old), status(&by_new)), (404, 401));
    let (ready, reasons) = tokens.readiness();
    assert_eq!((ready.as_str(), reasons.as_str()), ("ready", "[]"));

    let live = |what: &str, text: &str, done: &dyn Fn() -> bool| {
        fs::write(tokens.keys(), text).unwrap();
        let began = Instant::now();
        eventually(what, || done().then_some(()));
        let took = began.elapsed();
        // The promise is a second; the machine that runs this may be busy.
        assert!(took < Duration::from_secs(3), "{what}: {took:?}");
    };
    live("the new key", &new.jwks("2"), &|| status(&by_new) == 404);
    assert_eq!(status(&by_old), 401);
    let half = &new.jwks("2")[..40];
    live("the broken file is shown", half, &|| tokens.readiness().0 == "degraded");
    let (_, reasons) = tokens.readiness();
    assert!(reasons.contains("key_file_refused") && reasons.contains("identity.jwt.keys"), "{reasons}");
    assert_eq!((status(&by_new), status(&by_old)), (404, 401), "the last good keys serve on");
    tokens.gateway.set_percent(50.0);
    assert_eq!(status(&by_new), 404, "also through an edit of the configuration");
    live("a good file again", &old.jwks("1"), &|| status(&by_old) == 404);
    assert_eq!(tokens.readiness().0, "ready");
    assert_eq!(status(&by_new), 401);
    fs::remove_file(tokens.keys()).unwrap();
    eventually("the missing file is shown", || (tokens.readiness().0 == "degraded").then_some(()));
    assert_eq!(status(&by_old), 404);
}

/// A set of two keys, as an issuer has it while it changes them.
fn both(one: (&Es256, &str), other: (&Es256, &str)) -> String {
    let key = |(key, id): (&Es256, &str)| serde_json::from_str::<Value>(&key.jwks(id)).unwrap()["keys"][0].take();
    json!({"keys": [key(one), key(other)]}).to_string()
}

#[test]
fn keys_are_replaced_under_load_and_nobody_is_turned_away() {
    let recorder = Recorder::answering(
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n{\"detail\":\"Not Found\"}",
    );
    let folder = quick_folder("gateway-folder");
    let file = folder.path().join("keys");
    let keys: Vec<_> = ["a", "b", "c", "d", "e"].map(|id| (Es256::new(), id)).into();
    let token = |at: usize| keys[at].0.token(keys[at].1, &claims("ann"));
    let set = |at: usize| both((&keys[at].0, keys[at].1), (&keys[at + 1].0, keys[at + 1].1));
    fs::write(&file, set(0)).unwrap();
    let backends = Backends { legacy: recorder.url(), workers: recorder.url(), data: folder.path().into() };
    let gateway = Gateway::with(backends, |table| {
        set_key(table, "identity.jwt.keys", file.display().to_string());
        set_key(table, "identity.jwt.audience", "exports");
    });
    let poll = |token: &str| bearer(poll_of("ignored", "no-such-job", None), token);
    let status = |token: &str| client::send(gateway.addr(), &poll(token)).status;
    let (at, sent, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let tokens: Vec<_> = (0..keys.len()).map(token).collect();
    let ended = AtomicBool::new(false);
    let began = Instant::now();
    let took = thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut kept = Connection::open(gateway.addr());
                while !ended.load(Ordering::SeqCst) {
                    let answer = kept.exchange(&poll(&tokens[at.load(Ordering::SeqCst)]));
                    sent.fetch_add(1, Ordering::SeqCst);
                    if !answer.as_ref().is_ok_and(|answer| answer.status == 404) {
                        failed.lock().unwrap().push(format!("{answer:?}"));
                        return;
                    }
                    // 1,000 a second in all, as far as the machine allows.
                    thread::sleep(Duration::from_millis(8));
                }
            });
        }
        // Whatever fails here, the threads above end.
        let _end = End(&ended);
        for next in 1..keys.len() - 1 {
            let before = sent.load(Ordering::SeqCst);
            // The issuer signs with a key that is known already, then publishes the one after it and forgets the first.
            at.store(next, Ordering::SeqCst);
            eventually("requests with the next key", || (sent.load(Ordering::SeqCst) >= before + 250).then_some(()));
            fs::write(&file, set(next)).unwrap();
            eventually("the new set", || (status(&tokens[next + 1]) == 404).then_some(()));
            assert_eq!(status(&tokens[next - 1]), 401, "the first is forgotten");
        }
        began.elapsed()
    });
    let sent = sent.into_inner();
    println!("{sent} requests in {took:?}, 3 sets of keys");
    assert_eq!(failed.into_inner().unwrap(), Vec::<String>::new());
    assert!(sent >= 750, "{sent}");
}

#[test]
fn check_says_who_a_user_is_and_refuses_what_lets_anybody_be_anybody() {
    let folder = quick_folder("gateway-folder");
    let config = folder.path().join("gateway.toml");
    let check = |change: &dyn Fn(&mut Table)| {
        let backends = Backends {
            legacy: "http://127.0.0.1:1".into(),
            workers: "http://127.0.0.1:2".into(),
            data: folder.path().into(),
        };
        let mut table = gateway::table(&backends);
        set_key(&mut table, "identity.jwt.keys", "keys/jwks.json");
        change(&mut table);
        fs::write(&config, table.to_string()).unwrap();
        let output = gateway::run(&["check", "--config", &config.display().to_string()]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = check(&|_| {});
    assert_eq!(code, Some(64));
    assert!(text.contains("identity.jwt.keys: ") && text.contains("jwks.json cannot be read: no such file"), "{text}");
    fs::create_dir(folder.path().join("keys")).unwrap();
    fs::write(folder.path().join("keys/jwks.json"), Es256::new().jwks("1")).unwrap();
    let (code, text) = check(&|table| set_key(table, "identity.cookie", "uid"));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("The user is the claim sub of the token in authorization (1 key in "), "{text}");
    assert!(
        text.contains("keys/jwks.json), else the cookie uid.") && text.contains("x-user-id from clients is removed."),
        "{text}"
    );
    let (code, text) = check(&|table| set_key(table, "identity.trusted", "any"));
    assert_eq!(code, Some(64));
    assert!(text.contains("identity.trusted: is \"any\" beside a cookie or a jwt"), "{text}");
}
