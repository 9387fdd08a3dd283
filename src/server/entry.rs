//! The way in: whose a new connection is, and whether there is a place for it.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::gateway::core::{Core, Peer, is_in};
use crate::gateway::seats::{Seat, Unseated};
use crate::http::body::BodyEnd;
use crate::http::early::Early;
use crate::http::inbound::Progress;
use crate::http::refusal::Refusal;
use crate::limits;
use crate::routing::table::RoutingTable;
use crate::server::Stage;
use crate::server::proxied::{self, Sent};

/// A connection that may be served.
#[derive(Debug)]
pub struct Entry {
    /// The connection, behind its PROXY header.
    pub tcp: TcpStream,
    /// Who it is.
    pub guest: Guest,
}

/// Who a connection is.
#[derive(Debug)]
pub struct Guest {
    address: IpAddr,
    address_value: HeaderValue,
    /// Whether the address is a proxy's that did not say whose the connection is.
    is_nameless: bool,
    seat: Rc<Seat>,
}

impl Guest {
    fn new(address: IpAddr, is_nameless: bool, seat: Seat) -> Guest {
        let address_value = HeaderValue::from_str(&address.to_string()).expect("an address is visible ASCII");
        Guest { address, address_value, is_nameless, seat: Rc::new(seat) }
    }

    /// Returns its address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Makes what its requests know of it.
    pub fn peer(&self, scheme: &'static str, end: BodyEnd, progress: Arc<Progress>) -> Rc<Peer> {
        Rc::new(Peer {
            address: self.address,
            address_value: self.address_value.clone(),
            scheme,
            end,
            progress,
            is_nameless: self.is_nameless,
            seat: self.seat.clone(),
        })
    }
}

/// Lets a connection in that says itself where it is from; `None` where there is no place for it.
pub fn direct(core: &Core, table: &RoutingTable, tcp: TcpStream, peer: SocketAddr, seat: Seat) -> Option<Entry> {
    seated(core, table, tcp, (peer.ip().to_canonical(), false), seat)
}

/// Lets a connection in that begins with a PROXY header; `None` where it does not, or where there is no place for it.
pub async fn announced(
    core: Rc<Core>,
    mut tcp: TcpStream,
    peer: SocketAddr,
    seat: Seat,
    stage: watch::Receiver<Stage>,
) -> Option<Entry> {
    let table = core.gateway.table.load_full();
    let proxy = peer.ip().to_canonical();
    if !is_in(&table.server.trusted_proxies, proxy) {
        core.gateway.turned.note(&core.gateway, Unseated::ProxyHeader, proxy);
        return None;
    }
    let sent = tokio::select! {
        sent = timeout(table.server.header_timeout, proxied::read(&mut tcp)) => sent,
        () = patience_at_the_end(stage) => return None,
    };
    match sent {
        Ok(Ok(sent)) => {
            let whose = match sent {
                Sent::For(client) => (client.to_canonical(), false),
                Sent::ForNobody => (proxy, true),
            };
            seated(&core, &table, tcp, whose, seat)
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, %proxy, "connection did not begin with a PROXY header");
            core.gateway.turned.note(&core.gateway, Unseated::ProxyHeader, proxy);
            None
        }
        Err(_) => {
            core.gateway.turned.note(&core.gateway, Unseated::ProxyHeader, proxy);
            None
        }
    }
}

/// Waits for the way down, and then as long as a connection that came in time has for its first byte.
async fn patience_at_the_end(mut stage: watch::Receiver<Stage>) {
    let _ = stage.wait_for(|stage| *stage >= Stage::Draining).await;
    sleep(limits::FIRST_REQUEST).await;
}

fn seated(
    core: &Core,
    table: &RoutingTable,
    tcp: TcpStream,
    (address, is_nameless): (IpAddr, bool),
    mut seat: Seat,
) -> Option<Entry> {
    let is_proxy = is_in(&table.server.trusted_proxies, address);
    let limit = table.limits.connections_per_address.filter(|_| !is_proxy);
    if seat.name(address, limit) {
        return Some(Entry { tcp, guest: Guest::new(address, is_nameless, seat) });
    }
    core.gateway.turned.note(&core.gateway, Unseated::Address, address);
    // With TLS nothing can be said before a handshake, which is what it is to be spared.
    if table.server.tls.is_none() {
        turn_away(&tcp);
    }
    None
}

/// Says why, as far as that costs nothing: what has come is read away, so that the answer is not lost to a reset, and
/// nobody is waited for.
fn turn_away(stream: &TcpStream) {
    let mut scrap = [0; 4096];
    for _ in 0..4 {
        if !stream.try_read(&mut scrap).is_ok_and(|count| count > 0) {
            break;
        }
    }
    // A client that is gone or does not read is not told.
    let _ = stream.try_write(&Early::new(Refusal::TooManyConnections).bytes());
    let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
}
