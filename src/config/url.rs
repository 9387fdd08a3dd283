//! Base addresses of backends and of the gateway itself.

use std::net::Ipv6Addr;

use super::problem::Mistake;
use crate::routing::table::BaseUrl;

/// Parses `http(s)://host[:port][/path]`: no user information, no query, no fragment.
///
/// The value is named in a mistake only where it cannot hold a password.
pub(crate) fn parse_base_url(text: &str) -> Result<BaseUrl, Mistake> {
    let example = "write an address such as \"https://api.example.com\"";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Mistake::new("has no scheme", "begin the address with http:// or https://"));
    };
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(Mistake::new("has a scheme that is not http or https", example)),
    };
    if let Some(c) = rest.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '\\' | '"' | '<' | '>' | '`')) {
        return Err(Mistake::new(format!("has a character that an address cannot have: {c:?}"), example));
    }
    if rest.contains(['?', '#']) {
        return Err(Mistake::new("has a query or a fragment", "leave out what begins with ? or #"));
    }
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    if authority.contains('@') {
        let advice = "leave out the user and password before the @; secrets do not belong in an address";
        return Err(Mistake::new("has user information", advice));
    }
    let (host, port) = split_port(authority)?;
    let host = parse_host(host)?;
    let port = match port {
        None => None,
        Some(port) => Some(parse_port(port)?),
    };
    let path = path.trim_end_matches('/');
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(Mistake::new("has a dot segment in its path", "write the path without . and .."));
    }
    let default = if tls { 443 } else { 80 };
    let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let port = port.unwrap_or(default);
    let authority = if port == default { shown } else { format!("{shown}:{port}") };
    Ok(BaseUrl { tls, host, port, path: path.to_owned(), authority })
}

/// Splits `host[:port]`; the host of an IPv6 address comes without its brackets.
pub(crate) fn split_port(authority: &str) -> Result<(&str, Option<&str>), Mistake> {
    if let Some(inside) = authority.strip_prefix('[') {
        let Some((host, after)) = inside.split_once(']') else {
            return Err(Mistake::new("has a [ without a ]", "write an IPv6 address as [::1]:8000"));
        };
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(Mistake::new(
                format!("has no IPv6 address in its brackets: {host:?}"),
                "write one such as [::1]:8000",
            ));
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(Mistake::new("has text after its ]", "write an IPv6 address as [::1]:8000")),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err(Mistake::new("has more than one colon in its host", "put an IPv6 address in brackets: [::1]:8000"))
        }
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

pub(crate) fn parse_host(host: &str) -> Result<String, Mistake> {
    if host.is_empty() {
        return Err(Mistake::new("has no host", "write an address such as \"https://api.example.com\""));
    }
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        return Ok(address.to_string());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !host.strip_suffix('.').unwrap_or(host).split('.').all(label) {
        let advice = "use letters, digits, - and dots; an international name in its xn-- form";
        return Err(Mistake::new(format!("has a host that is not a name or an IP address: {host:?}"), advice));
    }
    Ok(host.to_ascii_lowercase())
}

pub(crate) fn parse_port(port: &str) -> Result<u16, Mistake> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number) if digits && number > 0 => Ok(number),
        _ => Err(Mistake::new("has a port that is not between 1 and 65535", "write one such as :8000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_taken_apart() {
        let cases = [
            ("http://127.0.0.1:8000", (false, "127.0.0.1", 8000, "", "127.0.0.1:8000")),
            ("https://API.Example.com/", (true, "api.example.com", 443, "", "api.example.com")),
            ("HTTP://a:80/base//", (false, "a", 80, "/base", "a")),
            ("https://[::1]:8443/x/y/", (true, "::1", 8443, "/x/y", "[::1]:8443")),
            ("http://[0:0::1]", (false, "::1", 80, "", "[::1]")),
            ("http://my_service.:80", (false, "my_service.", 80, "", "my_service.")),
        ];
        for (text, (tls, host, port, path, authority)) in cases {
            let expected = BaseUrl { tls, host: host.into(), port, path: path.into(), authority: authority.into() };
            let url = parse_base_url(text).expect(text);
            assert_eq!(BaseUrl { host: parse_host(&url.host).expect(text), ..url }, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        let bad = "a|ftp://a|http://|http://:80|http://a:|http://a:0|http://a:65536|http://a:+1|http://a b|http://a/?q\
            |http://a/#f|http://u:p@a|http://::1|http://[::1|http://[x]|http://[::1]x|http://a/../b|http://-a|http://a..b\
            |http://a\\b|http://\u{e9}|http://a/\u{1}";
        for text in bad.split('|') {
            assert!(parse_base_url(text).is_err(), "{text}");
        }
        let mistake = parse_base_url("http://user:hunter2@host").expect_err("it has user information");
        assert!(!mistake.to_string().contains("hunter2"));
    }
}
