//! Where a browser follows a job of workers.

use crate::names::JobId;
use crate::routing::table::BaseUrl;

/// Returns the WebSocket address of a job under a base address: `http` → `ws`, `https` → `wss`, base path kept,
/// default port left out, IPv6 in brackets.
pub fn websocket_url(base: &BaseUrl, job: &JobId) -> String {
    let scheme = if base.tls { "wss" } else { "ws" };
    let BaseUrl { authority, path, .. } = base;
    format!("{scheme}://{authority}{path}/api/jobs/{job}/ws")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(tls: bool, host: &str, port: u16, path: &str, authority: &str) -> BaseUrl {
        BaseUrl { tls, host: host.into(), port, path: path.into(), authority: authority.into() }
    }

    #[test]
    fn every_kind_of_base_address() {
        let cases = [
            (base(false, "127.0.0.1", 8787, "", "127.0.0.1:8787"), "ws://127.0.0.1:8787/api/jobs/j-1/ws"),
            (base(true, "api.example.com", 443, "", "api.example.com"), "wss://api.example.com/api/jobs/j-1/ws"),
            (base(false, "example.com", 80, "", "example.com"), "ws://example.com/api/jobs/j-1/ws"),
            (base(true, "example.com", 8443, "", "example.com:8443"), "wss://example.com:8443/api/jobs/j-1/ws"),
            (base(true, "example.com", 80, "", "example.com:80"), "wss://example.com:80/api/jobs/j-1/ws"),
            (base(true, "example.com", 443, "/a/b", "example.com"), "wss://example.com/a/b/api/jobs/j-1/ws"),
            (base(false, "::1", 8080, "", "[::1]:8080"), "ws://[::1]:8080/api/jobs/j-1/ws"),
            (base(true, "2001:db8::1", 443, "/x", "[2001:db8::1]"), "wss://[2001:db8::1]/x/api/jobs/j-1/ws"),
        ];
        let job = JobId::parse("j-1").unwrap();
        for (base, expected) in cases {
            assert_eq!(websocket_url(&base, &job), expected);
        }
    }
}
