//! A kept connection that its backend closes at the instant of its use: a start is never sent twice, a GET never fails.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use toml::Table;

use crate::support::backend::{Backend, say};
use crate::support::client::{self, Connection, Request};
use crate::support::gateway::{Gateway, set};
use crate::support::parts;
use crate::support::rude::{Rude, Step, refused_addr};
use crate::support::scene::{self, calm, everybody_on_legacy, start_of};
use crate::support::wire::{Framing, latin1};

const ROUNDS: usize = 1_000;

/// Answers one to three requests on a connection and closes it, at once or some 100 µs later.
fn closing(answer: impl Fn(usize, usize) -> String + Send + 'static) -> Rude {
    Rude::start(move |connection| {
        // Knuth's multiplicative hash: as random as this needs, and the same in every run.
        let dice = connection.wrapping_mul(2_654_435_761) >> 7;
        let mut steps = Vec::new();
        for n in 0..=dice % 3 {
            let body = answer(connection, n);
            steps.extend([Step::ReadRequest, Step::json(200, &body)]);
        }
        let pause = Duration::from_micros((dice / 3 % 8 * 100) as u64);
        if !pause.is_zero() {
            steps.push(Step::Wait(pause));
        }
        steps.push(if dice % 5 == 0 { Step::Reset } else { Step::Close });
        steps
    })
}

fn one_thread(table: &mut Table) {
    calm(table);
    // One thread has one pool, so that each request meets the connection of the one before.
    set(table, "server.threads", 1);
    set(table, "exports.overlay.input_key", toml::Table::from_iter([("field".to_owned(), "key".into())]));
    table["exports"]["overlay"].as_table_mut().unwrap().remove("params");
}

/// Sends starts one after the other on one connection; counts the answers by status, and each job's acknowledgements.
fn start_many(gateway: &Gateway) -> BTreeMap<u16, usize> {
    let mut connection = Connection::open(gateway.addr());
    let mut by_status = BTreeMap::new();
    for n in 0..ROUNDS {
        let body = format!(r#"{{"project_id":{n},"key":"k"}}"#);
        let request = start_of("overlay", &body).user("reuse").header("X-Request-Id", &format!("start-{n}-"));
        let answer = connection.exchange(&request).unwrap();
        *by_status.entry(answer.status).or_default() += 1;
        if answer.status != 200 {
            assert_eq!((answer.status, answer.json()["code"].as_str()), (502, Some("start_outcome_unknown")));
        }
    }
    by_status
}

/// Counts how often each start arrived.
fn arrivals(rude: &Rude) -> Vec<usize> {
    let text: String = rude.received().iter().map(|bytes| latin1(bytes)).collect();
    let mut counts = vec![0; ROUNDS];
    for (at, _) in text.match_indices("start-") {
        let number = text[at + 6..].split('-').next().and_then(|digits| digits.parse::<usize>().ok());
        counts[number.expect("a number")] += 1;
    }
    counts
}

#[test]
fn a_start_is_never_sent_twice_over_a_connection_that_closes() {
    for on_legacy in [false, true] {
        let rude = closing(|connection, n| format!(r#"{{"job_id":"reuse-{connection}-{n}"}}"#));
        let mut backends = scene::legacy_at(parts::shared(), format!("http://{}", refused_addr()));
        let place = if on_legacy { &mut backends.legacy } else { &mut backends.workers };
        *place = rude.url();
        let gateway = Gateway::with(backends, |table| {
            one_thread(table);
            if on_legacy {
                everybody_on_legacy(table);
            }
        });
        let by_status = start_many(&gateway);
        let arrived = arrivals(&rude);
        let twice = arrived.iter().filter(|count| **count > 1).count();
        let connections = rude.connections();
        println!(
            "\n  {ROUNDS} starts, legacy: {on_legacy}: {by_status:?} over {connections} connections, {twice} twice"
        );
        assert_eq!(twice, 0);
        let lost = by_status.get(&502).copied().unwrap_or(0);
        let accepted = by_status.get(&200).copied().unwrap_or(0);
        assert_eq!(accepted + lost, ROUNDS);
        // Whatever was acknowledged has arrived; what has not arrived was not said to have failed for certain.
        assert!(arrived.iter().filter(|count| **count == 1).count() >= accepted);
        // A close that was seen once is expected again: hardly a start meets the next one.
        assert!(lost <= ROUNDS / 50, "{lost} starts met a connection that was closing");
    }
}

#[test]
fn a_get_never_fails_over_a_connection_that_closes() {
    let rude = closing(|_, n| format!(r#"{{"n":{n}}}"#));
    let gateway = Gateway::with(scene::legacy_at(parts::shared(), rude.url()), one_thread);
    let mut connection = Connection::open(gateway.addr());
    for n in 0..ROUNDS {
        let answer = connection.exchange(&Request::get(&format!("/api/anything/{n}"))).unwrap();
        assert_eq!(answer.status, 200, "GET {n}: {}", answer.text());
        assert!(answer.json()["n"].is_u64());
    }
    let connections = rude.connections();
    println!("\n  {ROUNDS} GETs: 0 errors over {connections} connections");
    assert!(connections < ROUNDS * 9 / 10, "hardly a connection was used again: nothing was tested");
}

#[test]
fn a_status_poll_never_fails_over_a_connection_that_closes() {
    // The job is there before the polls: the first answer to a start names it, all others are polls.
    let rude = closing(|_, _| r#"{"job_id":"polled","status":"processing"}"#.to_owned());
    let backends = scene::workers_at(parts::shared(), rude.url());
    let gateway = Gateway::with(backends, one_thread);
    let mut connection = Connection::open(gateway.addr());
    let start = connection.exchange(&start_of("overlay", r#"{"project_id":1,"key":"k"}"#).user("reuse")).unwrap();
    assert_eq!(start.status, 200, "{}", start.text());
    let poll = Request::get("/api/export/overlay/status/polled").user("reuse");
    for n in 0..ROUNDS {
        let answer = connection.exchange(&poll).unwrap();
        assert_eq!(answer.status, 200, "poll {n}: {}", answer.text());
    }
}

#[test]
fn a_start_that_is_asked_again_gets_a_connection_of_its_own() {
    // Two connections that answer one start each, and end with the next one in their hands.
    let both = Barrier::new(2);
    let workers = Backend::start(move |connection, wire| {
        for number in 0..2 {
            let head = wire.read_head()?;
            wire.read_body(head.framing(Framing::Empty))?;
            if number == 1 {
                break;
            }
            if connection < 2 {
                both.wait();
            }
            let body = format!(r#"{{"job_id":"again-{connection}"}}"#);
            say(wire, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        }
        Ok(())
    });
    let gateway = Gateway::with(scene::workers_at(parts::shared(), workers.url()), |table| {
        one_thread(table);
        set(table, "backends.workers.idempotent", true);
    });
    let start = start_of("overlay", r#"{"project_id":1,"key":"k"}"#).user("reuse");
    let send = || client::send(gateway.addr(), &start);
    thread::scope(|scope| {
        [scope.spawn(send), scope.spawn(send)].map(|sent| assert_eq!(sent.join().unwrap().status, 200))
    });
    let answer = send();
    assert_eq!((answer.status, answer.field("job_id").as_str()), (200, "again-2"), "{}", answer.text());
    assert_eq!(workers.connections(), 3);
}

#[test]
fn an_answer_before_the_end_of_an_upload_costs_no_other_request_its_connection() {
    let backend = Backend::start(|_, wire| {
        loop {
            let head = wire.read_head()?;
            let is_early = head.line.contains(" /early ");
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if is_early {
                say(wire, answer);
            }
            wire.read_body(head.framing(Framing::Empty))?;
            if !is_early {
                say(wire, answer);
            }
        }
    });
    let gateway = Gateway::with(&backend, |table| set(table, "server.threads", 1));
    let post = Request::new("POST", "/next").body("x");
    let mut uploading = Connection::open(gateway.addr());
    uploading.send(b"POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab");
    assert_eq!(uploading.read("POST").unwrap().text(), "ok");
    let mut connection = Connection::open(gateway.addr());
    for _ in 0..5 {
        assert_eq!(connection.exchange(&post).unwrap().text(), "ok");
    }
    assert_eq!(backend.connections(), 2, "one for the upload, one for all others");
    uploading.send(b"cd");
    assert_eq!(uploading.exchange(&post).unwrap().text(), "ok", "the upload goes on behind its answer");
}

#[test]
fn a_connection_that_idled_too_long_is_not_used_again() {
    let answer = |n: usize| Step::json(200, &format!(r#"{{"job_id":"idle-{n}"}}"#));
    let rude = Rude::start(move |n| vec![Step::ReadRequest, answer(n), Step::Again]);
    let gateway = Gateway::with(scene::workers_at(parts::shared(), rude.url()), |table| {
        one_thread(table);
        set(table, "backends.workers.idle_timeout", "100ms");
    });
    let start = || -> Value {
        let request = start_of("overlay", r#"{"project_id":1,"key":"k"}"#).user("reuse");
        crate::support::client::send(gateway.addr(), &request).json()["job_id"].clone()
    };
    assert_eq!([start(), start()], ["idle-0", "idle-0"]);
    // The sweep closes it, without any request that would find it too old.
    crate::support::eventually("the end of the idle connection", || (rude.open() == 0).then_some(()));
    assert_eq!(start(), "idle-1");
}
