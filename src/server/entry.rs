//! The way in: whose a new connection is, and whether there is a place for it.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::gateway::core::Core;
use crate::gateway::seats::{Seat, Unseated};
use crate::http::early::Early;
use crate::http::refusal::Refusal;
use crate::limits;
use crate::routing::table::RoutingTable;
use crate::server::Stage;
use crate::server::proxied::{self, Sent};

/// A connection that may be served.
#[derive(Debug)]
pub struct Entry {
    /// The connection, behind its PROXY header.
    pub stream: TcpStream,
    /// Whose it is.
    pub address: IpAddr,
    /// Whether the address is a proxy's that did not say whose the connection is.
    pub is_nameless: bool,
    /// Its place.
    pub seat: Seat,
}

/// Lets a connection in that says itself where it is from; `None` where there is no place for it.
pub fn direct(core: &Core, table: &RoutingTable, stream: TcpStream, peer: SocketAddr, seat: Seat) -> Option<Entry> {
    let entry = Entry { stream, address: peer.ip().to_canonical(), is_nameless: false, seat };
    seated(core, table, entry)
}

/// Lets a connection in that begins with a PROXY header; `None` where it does not, or where there is no place for it.
pub async fn announced(
    core: Rc<Core>,
    mut stream: TcpStream,
    peer: SocketAddr,
    seat: Seat,
    stage: watch::Receiver<Stage>,
) -> Option<Entry> {
    let table = core.gateway.table.load_full();
    let proxy = peer.ip().to_canonical();
    if !table.server.trusted_proxies.iter().any(|network| network.contains(&proxy)) {
        core.gateway.turned.note(&core.gateway, Unseated::ProxyHeader, proxy);
        return None;
    }
    let sent = tokio::select! {
        sent = timeout(table.server.header_timeout, proxied::read(&mut stream)) => sent,
        () = patience_at_the_end(stage) => return None,
    };
    match sent {
        Ok(Ok(sent)) => {
            let (address, is_nameless) = match sent {
                Sent::For(client) => (client.to_canonical(), false),
                Sent::ForNobody => (proxy, true),
            };
            seated(&core, &table, Entry { stream, address, is_nameless, seat })
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

fn seated(core: &Core, table: &RoutingTable, mut entry: Entry) -> Option<Entry> {
    let is_proxy = table.server.trusted_proxies.iter().any(|network| network.contains(&entry.address));
    let limit = table.limits.connections_per_address.filter(|_| !is_proxy);
    if entry.seat.name(entry.address, limit) {
        return Some(entry);
    }
    core.gateway.turned.note(&core.gateway, Unseated::Address, entry.address);
    turn_away(&entry.stream);
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
