//! Who a request came from, as backends are told: `X-Forwarded-For`, `-Proto` and `-Host`.
//!
//! They are written on every request; what came in is kept from trusted proxies alone. `Forwarded` (RFC 7239) says the
//! same in other words and is removed with the hop-by-hop fields, so that a backend cannot be told two stories.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// `X-Forwarded-For`.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Who sent a request, as the forwarding fields say it.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The peer's address as text.
    pub address: &'a HeaderValue,
    /// `http` or `https`: how the peer reached us.
    pub scheme: &'static str,
    /// Whether what the peer says about those before it is kept.
    pub trusted: bool,
}

/// Writes `X-Forwarded-For`, `-Proto` and `-Host`.
pub fn write(headers: &mut HeaderMap, sender: &Sender<'_>) {
    let host = headers.get(header::HOST).cloned();
    if !sender.trusted {
        headers.insert(X_FORWARDED_FOR, sender.address.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(sender.scheme));
        match host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host),
            None => headers.remove(X_FORWARDED_HOST),
        };
        return;
    }
    let mut hops: Vec<u8> = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR).iter().chain([sender.address]) {
        if !hops.is_empty() {
            hops.extend_from_slice(b", ");
        }
        hops.extend_from_slice(value.as_bytes());
    }
    let hops = HeaderValue::from_bytes(&hops).unwrap_or_else(|_| sender.address.clone());
    headers.insert(X_FORWARDED_FOR, hops);
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(sender.scheme));
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_fields_of_strangers_are_replaced() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("host", "h"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let address = HeaderValue::from_static("10.0.0.1");
        let mut sender = Sender { address: &address, scheme: "http", trusted: false };
        let mut trusted = headers.clone();
        write(&mut headers, &sender);
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "h");
        sender.trusted = true;
        write(&mut trusted, &sender);
        assert_eq!(trusted["x-forwarded-for"], "6.6.6.6, 10.0.0.1");
        assert_eq!(trusted["x-forwarded-proto"], "https");
    }
}
