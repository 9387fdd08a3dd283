//! `healthcheck`: asks the admin port of a gateway on this machine, for containers.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::write_out;
use crate::routing::table::RoutingTable;

/// How long the gateway has for its answer, in all; containers ask every few seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Exit code 0 if the gateway that serves this file says that it is ready, else 1 and one sentence.
pub fn run(table: &RoutingTable) -> ExitCode {
    let listen = table.fixed.admin_listen;
    let address = SocketAddr::new(reachable(listen.ip()), listen.port());
    let text = match ask(address) {
        Ok(200) => return write_out("ready\n"),
        Ok(status) => format!("not ready: {address} answers {status}\n"),
        Err(error) => format!("no answer from {address}: {error}\n"),
    };
    // Standard error may be closed; the exit code still tells.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
    ExitCode::FAILURE
}

/// An address that stands for all is asked on loopback.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn ask(address: SocketAddr) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    let status = std::str::from_utf8(&head).ok().and_then(|head| head.strip_prefix("HTTP/1.1 "));
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidData, "not an HTTP/1.1 answer");
    status.and_then(|status| status.parse().ok()).ok_or_else(invalid)
}
