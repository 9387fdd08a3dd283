//! `limits.connections_per_address`: no client takes all places, and the others notice nothing.

use toml::{Table, Value};

use crate::support::backend::Recorder;
use crate::support::client::{Connection, Request, Response, get};
use crate::support::eventually;
use crate::support::gateway::{Gateway, set};

fn from(client: &str, gateway: &Gateway) -> Connection {
    Connection::open_from(client.parse().unwrap(), gateway.addr())
}

fn asks(connection: &mut Connection) -> u16 {
    connection.exchange(&Request::get("/")).unwrap().status
}

fn turned_away(answer: &Response) {
    assert_eq!((answer.status, answer.field("code").as_str()), (503, "too_many_connections"));
    assert_eq!((answer.header("connection"), answer.header("retry-after")), (Some("close"), Some("2")));
}

#[test]
fn an_address_beyond_its_limit_is_told_so_and_others_are_served() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| {
        set(table, "limits.connections_per_address", 3);
        set(table, "server.threads", 2);
    });
    let mut places: Vec<_> = (0..3).map(|_| from("127.0.0.2", &gateway)).collect();
    for connection in &mut places {
        assert_eq!(asks(connection), 200);
    }
    for number in 0..20 {
        let mut connection = from("127.0.0.2", &gateway);
        if number % 2 == 0 {
            connection.send(&Request::new("POST", "/x").body(vec![b'x'; 3000]).bytes("h"));
        }
        turned_away(&connection.read("GET").unwrap());
        connection.expect_closed();
    }
    assert_eq!(asks(&mut from("127.0.0.3", &gateway)), 200, "another address has its own places");
    for connection in &mut places {
        assert_eq!(asks(connection), 200, "those inside notice nothing");
    }
    let refused = |reason| gateway.metric("export_gateway_connections_refused_total", &[("reason", reason)]);
    assert_eq!((refused("connections_per_address"), refused("connections")), (20.0, 0.0));
    let events = gateway.events("connections are refused");
    assert!((1..=2).contains(&events.len()), "{events:?}");
    drop(places.pop());
    eventually("a free place", || (asks(&mut from("127.0.0.2", &gateway)) == 200).then_some(()));
}

#[test]
fn a_trusted_proxy_has_no_limit_and_its_clients_have_theirs() {
    let recorder = Recorder::start();
    let gateway = Gateway::with(&recorder, |table| {
        set(table, "limits.connections_per_address", 2);
        set(table, "server.trusted_proxies", vec![Value::from("127.0.0.1/32")]);
    });
    let mut places: Vec<_> = (0..6).map(|_| Connection::open(gateway.addr())).collect();
    for connection in &mut places {
        assert_eq!(connection.exchange(&Request::get("/")).unwrap().status, 200);
    }
    drop(places);
    gateway.edit(|table| set(table, "server.proxy_protocol", true));
    let announced = |client: &str| {
        let mut connection = Connection::open(gateway.addr());
        let family = if client.contains(':') { "TCP6" } else { "TCP4" };
        let to = if client.contains(':') { "::1" } else { "10.0.0.1" };
        connection.send(format!("PROXY {family} {client} {to} 1 2\r\n").as_bytes());
        connection
    };
    for (same, other) in [
        (["192.0.2.1", "192.0.2.1", "192.0.2.1"], "192.0.2.2"),
        (["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::3"], "2001:db8:0:2::1"),
    ] {
        let mut places: Vec<_> = same[..2].iter().map(|client| announced(client)).collect();
        for connection in &mut places {
            assert_eq!(connection.exchange(&Request::get("/")).unwrap().status, 200);
        }
        turned_away(&announced(same[2]).read("GET").unwrap());
        assert_eq!(announced(other).exchange(&Request::get("/")).unwrap().status, 200);
    }
    let mut checks: Vec<_> = (0..5).map(|_| Connection::open(gateway.addr())).collect();
    for connection in &mut checks {
        connection.send(b"PROXY UNKNOWN\r\n");
        assert_eq!(connection.exchange(&Request::get("/")).unwrap().status, 200, "the proxy's own checks");
    }
}

#[test]
fn a_limit_that_is_set_later_counts_those_who_are_there() {
    let recorder = Recorder::start();
    let gateway = Gateway::start(&recorder);
    let mut places: Vec<_> = (0..4).map(|_| Connection::open(gateway.addr())).collect();
    for connection in &mut places {
        assert_eq!(connection.exchange(&Request::get("/")).unwrap().status, 200);
    }
    gateway.edit(|table: &mut Table| set(table, "limits.connections_per_address", 3));
    turned_away(&get(gateway.addr(), "/"));
    assert_eq!(places[0].exchange(&Request::get("/")).unwrap().status, 200, "nobody inside is cut off");
    places.truncate(2);
    eventually("a free place", || (get(gateway.addr(), "/").status == 200).then_some(()));
}
