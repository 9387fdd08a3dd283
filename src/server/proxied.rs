//! The PROXY header, versions 1 and 2: a TCP load balancer says with the first bytes whose connection it hands over.
//!
//! Source: HAProxy's `doc/proxy-protocol.txt`. Where `server.proxy_protocol` is on, a header is mandatory and only
//! `server.trusted_proxies` may send one; whatever else comes is closed without an answer (section 2).

use std::io;
use std::net::IpAddr;

use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::limits;

/// What the sender of a header says of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is this client's.
    For(IpAddr),
    /// It is nobody's that has an address here: the sender's own (LOCAL), or of a family that names no TCP client.
    ForNobody,
}

/// Why a connection did not begin with a header.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The connection failed or ended first.
    #[error("connection ended before its PROXY header")]
    Ended(#[from] io::Error),
    /// Version 1, and not to the letter.
    #[error("not a valid PROXY header")]
    Text(#[source] v1::BinaryParseError),
    /// Version 2, and not to the letter.
    #[error("not a valid PROXY header")]
    Binary(#[source] v2::ParseError),
    /// Neither version.
    #[error("no PROXY header")]
    None,
    /// Longer than [`limits::PROXY_HEADER`].
    #[error("PROXY header of {0} bytes is too long")]
    TooLong(usize),
}

/// Signature, version and command, family, length.
const BINARY_HEAD: usize = 16;
const LOCAL: u8 = 0x20;

/// Reads a header and not a byte more: what follows may be TLS.
///
/// # Errors
/// [`ProxyHeaderError`]; the connection is of no use then.
pub async fn read(stream: &mut TcpStream) -> Result<Sent, ProxyHeaderError> {
    let mut header = Vec::with_capacity(limits::PROXY_LINE);
    loop {
        let mut seen = [0; limits::PROXY_LINE];
        let count = stream.peek(&mut seen).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match next(&header, &seen[..count])? {
            Next::Take(count) => take(stream, &mut header, count).await?,
            Next::Last(count) => {
                take(stream, &mut header, count).await?;
                return text(&header);
            }
            Next::Rest(count) => {
                take(stream, &mut header, count).await?;
                return binary(&header);
            }
        }
    }
}

async fn take(stream: &mut TcpStream, header: &mut Vec<u8>, count: usize) -> io::Result<()> {
    let have = header.len();
    header.resize(have + count, 0);
    stream.read_exact(&mut header[have..]).await.map(drop)
}

/// What to read next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// So many bytes belong to the header, and more do.
    Take(usize),
    /// So many end a line of version 1.
    Last(usize),
    /// So many end a header of version 2, come or not.
    Rest(usize),
}

/// Decides what of the bytes that have come belongs to the header; `header` is what was taken of it before.
fn next(header: &[u8], seen: &[u8]) -> Result<Next, ProxyHeaderError> {
    let byte = |at: usize| header.get(at).or_else(|| seen.get(at - header.len())).copied();
    let begins_with = |prefix: &[u8]| {
        prefix.iter().enumerate().take_while(|(at, _)| byte(*at).is_some()).all(|(at, want)| byte(at) == Some(*want))
    };
    if begins_with(v2::PROTOCOL_PREFIX) {
        let (Some(high), Some(low)) = (byte(BINARY_HEAD - 2), byte(BINARY_HEAD - 1)) else {
            return Ok(Next::Take(seen.len().min(BINARY_HEAD - header.len())));
        };
        let length = BINARY_HEAD + usize::from(u16::from_be_bytes([high, low]));
        return if length <= limits::PROXY_HEADER {
            Ok(Next::Rest(length - header.len()))
        } else {
            Err(ProxyHeaderError::TooLong(length))
        };
    }
    if !begins_with(b"PROXY ") {
        return Err(ProxyHeaderError::None);
    }
    let room = limits::PROXY_LINE - header.len();
    match seen.iter().take(room).position(|byte| *byte == b'\n') {
        Some(end) => Ok(Next::Last(end + 1)),
        None if seen.len() >= room => Err(ProxyHeaderError::TooLong(header.len() + seen.len())),
        None => Ok(Next::Take(seen.len())),
    }
}

fn text(line: &[u8]) -> Result<Sent, ProxyHeaderError> {
    // Whatever stands behind it is to be ignored (section 2.1); the crate reads a few words of it.
    if let Some(b"\r\n" | [b' ', .., b'\r', b'\n']) = line.strip_prefix(b"PROXY UNKNOWN") {
        return Ok(Sent::ForNobody);
    }
    let header = v1::Header::try_from(line).map_err(ProxyHeaderError::Text)?;
    // A bare CR would end the header before the line's end.
    if header.header.len() != line.len() {
        return Err(ProxyHeaderError::None);
    }
    Ok(match header.addresses {
        v1::Addresses::Tcp4(pair) => Sent::For(pair.source_address.into()),
        v1::Addresses::Tcp6(pair) => Sent::For(pair.source_address.into()),
        v1::Addresses::Unknown => Sent::ForNobody,
    })
}

fn binary(header: &[u8]) -> Result<Sent, ProxyHeaderError> {
    // Whatever else a LOCAL header says is to be ignored, its family included (section 2.2).
    if header[v2::PROTOCOL_PREFIX.len()] == LOCAL {
        return Ok(Sent::ForNobody);
    }
    let header = v2::Header::try_from(header).map_err(ProxyHeaderError::Binary)?;
    Ok(match (header.protocol, header.addresses) {
        (v2::Protocol::Stream, v2::Addresses::IPv4(pair)) => Sent::For(pair.source_address.into()),
        (v2::Protocol::Stream, v2::Addresses::IPv6(pair)) => Sent::For(pair.source_address.into()),
        _ => Sent::ForNobody,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Reader = fn(&[u8]) -> Result<Sent, ProxyHeaderError>;

    /// Feeds a header in pieces as they might come; returns what was read and how many bytes of it.
    fn fed(bytes: &[u8], pieces: usize) -> (Result<Sent, String>, usize) {
        let mut header = Vec::new();
        loop {
            let rest = &bytes[header.len()..];
            let seen = &rest[..rest.len().min(pieces)];
            if seen.is_empty() {
                return (Err("ended".into()), header.len());
            }
            let (count, read): (usize, Option<Reader>) = match next(&header, seen) {
                Ok(Next::Take(count)) => (count, None),
                Ok(Next::Last(count)) => (count, Some(text)),
                Ok(Next::Rest(count)) => (count, Some(binary)),
                Err(error) => return (Err(error.to_string()), header.len()),
            };
            if count > rest.len() {
                return (Err("ended".into()), bytes.len());
            }
            header.extend_from_slice(&rest[..count]);
            if let Some(read) = read {
                return (read(&header).map_err(|error| error.to_string()), header.len());
            }
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &length, body].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

    fn v6() -> Vec<u8> {
        let source = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
        [&source[..], &[0; 16], &[0, 1, 0, 2]].concat()
    }

    #[test]
    fn what_a_header_says_however_it_is_cut() {
        let client = |text: &str| Sent::For(text.parse().unwrap());
        let cases = [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n".to_vec(), client("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n".to_vec(), client("2001:db8::7")),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n".to_vec(), client("::ffff:192.0.2.7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Sent::ForNobody),
            (b"PROXY UNKNOWN a b c 1 2\r\n".to_vec(), Sent::ForNobody),
            ([b"PROXY UNKNOWN ".as_slice(), &[b'f'; 91], b"\r\n"].concat(), Sent::ForNobody),
            (v2(0x21, 0x11, &V4), client("192.0.2.7")),
            (v2(0x21, 0x11, &[&V4[..], &[4, 0, 3, 1, 2, 3]].concat()), client("192.0.2.7")),
            (v2(0x21, 0x21, &v6()), client("2001:db8::7")),
            (v2(0x21, 0x11, &[&V4[..], &[0; 8000]].concat()), client("192.0.2.7")),
            (v2(0x21, 0x00, &[]), Sent::ForNobody),
            (v2(0x21, 0x12, &V4), Sent::ForNobody),
            (v2(0x21, 0x22, &v6()), Sent::ForNobody),
            (v2(0x21, 0x31, &[b'/'; 216]), Sent::ForNobody),
            (v2(0x20, 0x00, &[]), Sent::ForNobody),
            (v2(0x20, 0x11, &V4), Sent::ForNobody),
            (v2(0x20, 0xff, &[1, 2, 3]), Sent::ForNobody),
        ];
        for (bytes, sent) in cases {
            let behind = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            for pieces in (1..20).chain([limits::PROXY_LINE]) {
                assert_eq!(fed(&behind, pieces), (Ok(sent), bytes.len()), "{bytes:?} in pieces of {pieces}");
            }
            for length in 0..bytes.len() {
                assert_eq!(fed(&bytes[..length], 107).0, Err("ended".into()), "{bytes:?} cut at {length}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff]].concat();
        let cases = [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01".to_vec(),
            b"proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY\r\n".to_vec(),
            b"PROXY \r\n".to_vec(),
            b"PROXY  TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7  10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 \r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\rX\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 65536\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.256 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 \xff 10.0.0.1 1 2\r\n".to_vec(),
            [b"PROXY UNKNOWN ".as_slice(), &[b'f'; 92], b"\r\n"].concat(),
            [b"PROXY UNKNOWN ".as_slice(), &[b'f'; 1000]].concat(),
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x2f, 0x11, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x13, &V4),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x21, &v6()[..35]),
            v2(0x21, 0x31, &[0; 215]),
            long,
        ];
        for bytes in cases {
            for pieces in [1, 7, limits::PROXY_LINE] {
                let (sent, read) = fed(&bytes, pieces);
                assert!(sent.as_ref().is_err_and(|error| error != "ended"), "{bytes:?}: {sent:?}");
                assert!(read <= bytes.len());
            }
        }
    }
}
