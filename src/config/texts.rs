//! The kinds of values that are texts: addresses, networks, names, secrets.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderName, HeaderValue};
use ipnet::IpNet;

use super::problem::Mistake;
use super::url::parse_base_url;
use super::values::{Value, shown};
use crate::names::UserId;
use crate::routing::table::{BaseUrl, Secret};

impl Value for SocketAddr {
    const EXPECTED: &'static str = "an address and port such as \"0.0.0.0:8080\"";

    fn parse(text: &str) -> Result<SocketAddr, Mistake> {
        let advice = match text.rsplit_once(':') {
            Some(("" | "*", port)) => format!("write \"0.0.0.0:{port}\" for every address"),
            Some(("localhost", port)) => format!("write \"127.0.0.1:{port}\""),
            None if text.parse::<IpAddr>().is_ok() => format!("add the port: \"{text}:8080\""),
            _ => "write an IP address and a port, such as \"0.0.0.0:8080\" or \"[::]:8080\"".to_owned(),
        };
        text.parse().map_err(|_| Mistake::new(format!("{} is not an IP address with a port", shown(text)), advice))
    }
}

impl Value for IpNet {
    const EXPECTED: &'static str = "a network such as \"10.0.0.0/8\"";

    fn parse(text: &str) -> Result<IpNet, Mistake> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(IpNet::from(address));
        }
        let advice = "write a network such as \"10.0.0.0/8\" or \"fd00::/8\", or one address";
        let net: IpNet = text.parse().map_err(|_| Mistake::new(format!("{} is not a network", shown(text)), advice))?;
        if net.trunc() != net {
            let advice = format!("write \"{}\" for the network, \"{}\" for the address", net.trunc(), net.addr());
            return Err(Mistake::new(format!("{text} has bits set beyond its prefix"), advice));
        }
        Ok(net)
    }
}

impl Value for BaseUrl {
    const EXPECTED: &'static str = "an address such as \"https://api.example.com\"";

    fn parse(text: &str) -> Result<BaseUrl, Mistake> {
        parse_base_url(text)
    }
}

impl Value for HeaderName {
    const EXPECTED: &'static str = "the name of a header such as \"X-User-Id\"";

    fn parse(text: &str) -> Result<HeaderName, Mistake> {
        let advice = "use letters, digits and -";
        text.parse().map_err(|_| Mistake::new(format!("{} is not the name of a header", shown(text)), advice))
    }
}

impl Value for Secret {
    const EXPECTED: &'static str = "a text such as \"${ADMIN_TOKEN}\"";
    const SECRET: bool = true;

    fn parse(text: &str) -> Result<Secret, Mistake> {
        if text.len() <= 4_096 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Secret(text.to_owned()));
        }
        let advice = "a header must carry it: use visible ASCII characters, at most 4096 of them";
        Err(Mistake::new("has characters that a header cannot carry, or too many", advice))
    }
}

/// A user as written, and as legacy understands it.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) written: String,
    pub(crate) id: UserId,
}

impl Value for User {
    const EXPECTED: &'static str = "a user id in quotes";

    fn parse(text: &str) -> Result<User, Mistake> {
        let advice = "a user id has letters, digits, _ and -; legacy drops everything else";
        let id = UserId::from_text(text)
            .ok_or_else(|| Mistake::new(format!("{} has nothing left of a user id", shown(text)), advice))?;
        Ok(User { written: text.to_owned(), id })
    }
}

/// The name of a cookie (RFC 6265, section 4.1.1).
#[derive(Debug, Clone)]
pub(crate) struct CookieName(pub(crate) String);

impl Value for CookieName {
    const EXPECTED: &'static str = "the name of a cookie such as \"uid\"";

    fn parse(text: &str) -> Result<CookieName, Mistake> {
        // The same characters as a header's name, but case counts.
        match text.parse::<HeaderName>() {
            Ok(_) => Ok(CookieName(text.to_owned())),
            Err(_) => Err(Mistake::new(
                format!("{} is not the name of a cookie", shown(text)),
                "use letters, digits, _ and -",
            )),
        }
    }
}

/// Text in one line, without control characters, not empty.
#[derive(Debug, Clone)]
pub(crate) struct Line(pub(crate) String);

impl Value for Line {
    const EXPECTED: &'static str = "a text in quotes";

    fn parse(text: &str) -> Result<Line, Mistake> {
        match text {
            "" => Err(Mistake::new("is empty", "write something, or leave the key out")),
            _ if text.contains(char::is_control) => Err(Mistake::new("has control characters", "write one plain line")),
            _ => Ok(Line(text.to_owned())),
        }
    }
}

/// Text that may have several lines.
#[derive(Debug, Clone)]
pub(crate) struct Text(pub(crate) String);

impl Value for Text {
    const EXPECTED: &'static str = "a text in quotes";

    fn parse(text: &str) -> Result<Text, Mistake> {
        if text.contains('\0') {
            return Err(Mistake::new("has a NUL in it", "write plain text"));
        }
        Ok(Text(text.to_owned()))
    }
}

/// Where `websocket_url` points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WebSocket {
    Direct,
    Gateway,
}

impl Value for WebSocket {
    const EXPECTED: &'static str = "\"direct\" or \"gateway\"";

    fn parse(text: &str) -> Result<WebSocket, Mistake> {
        match text {
            "direct" => Ok(WebSocket::Direct),
            "gateway" => Ok(WebSocket::Gateway),
            _ => Err(Mistake::new(
                format!("{} is not \"direct\" or \"gateway\"", shown(text)),
                "\"direct\" lets browsers connect to workers, \"gateway\" lets them connect through this gateway",
            )),
        }
    }
}

/// A status of workers that means: no job was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Declined(pub(crate) u16);

impl Value for Declined {
    const EXPECTED: &'static str = "a status such as 503";
    const BARE: bool = true;

    fn parse(text: &str) -> Result<Declined, Mistake> {
        match text.parse::<u16>() {
            Ok(status @ (400..=499 | 503)) => Ok(Declined(status)),
            Ok(status @ 100..=599) => Err(Mistake::new(
                format!("{status} does not prove that no job was made"),
                "only 4xx and 503 may be listed; a start that may run must never start twice",
            )),
            _ => Err(Mistake::new(format!("{} is not a status", shown(text)), "write numbers such as 404 or 503")),
        }
    }
}

/// An origin as browsers send it.
#[derive(Debug, Clone)]
pub(crate) struct Origin(pub(crate) HeaderValue);

impl Value for Origin {
    const EXPECTED: &'static str = "an origin such as \"https://app.example.com\"";

    fn parse(text: &str) -> Result<Origin, Mistake> {
        if text == "*" {
            let advice = "list the origins: browsers refuse \"*\" for requests with credentials";
            return Err(Mistake::new("\"*\" is not an origin", advice));
        }
        let url = parse_base_url(text)?;
        let exact = format!("{}://{}", if url.tls { "https" } else { "http" }, url.authority);
        if text != exact {
            let message = format!("{} is not written as browsers send it", shown(text));
            return Err(Mistake::new(message, format!("write \"{exact}\"")));
        }
        let value = HeaderValue::from_str(text).map_err(|_| Mistake::new("is not an origin", ""))?;
        Ok(Origin(value))
    }
}
