//! One request after its checks: who it comes from, and how its head goes on to a backend.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderName, Request, Version, request};
use hyper::body::Incoming;

use crate::gateway::core::{Core, Peer};
use crate::http::body::{ClientBody, Gate, Upload};
use crate::http::forwarding::{self, Sender};
use crate::http::headers::{self, Head, X_REQUEST_ID, X_USER_ID};
use crate::http::refusal::Refusal;
use crate::limits;
use crate::names::UserId;
use crate::routing::identity::{self, HeaderAction, Identified};
use crate::routing::table::{Backend, BaseUrl, RoutingTable, Trusted};
use crate::telemetry::record::Record;

/// What a request's head says, checked.
#[derive(Debug)]
pub struct Call {
    /// What one walk over the head found.
    pub head: Head,
    /// Who asks, and what becomes of the identity header.
    pub identified: Identified,
    /// The connection it came on.
    pub peer: Rc<Peer>,
    /// `X-Request-Id`.
    pub request_id: Rc<str>,
    trusted_proxy: bool,
}

/// Takes the client's `X-Request-Id` if it is 1 to 128 visible ASCII characters, else makes one.
pub fn request_id(core: &Core, headers: &HeaderMap) -> Rc<str> {
    let mut values = headers.get_all(X_REQUEST_ID).iter();
    if let (Some(value), None) = (values.next(), values.next())
        && (1..=limits::REQUEST_ID).contains(&value.len())
        && let Ok(text) = value.to_str()
        && text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Rc::from(text);
    }
    core.fresh_id()
}

impl Call {
    /// Checks a request's head by the rules of HTTP and of identity.
    ///
    /// # Errors
    /// A [`Refusal`] for a head that is ambiguous, over a limit, or claims an identity in an odd way.
    pub fn check(
        peer: &Rc<Peer>,
        table: &RoutingTable,
        request: &Request<Incoming>,
        record: &mut Record,
    ) -> Result<Call, Refusal> {
        let head = headers::check(request, &table.limits)?;
        let identity = &table.identity;
        let token_header = identity.jwt.as_ref().map(|jwt| &jwt.header);
        let nominates = |name| headers::is_nominated(request.headers(), name);
        if head.nominates && [Some(&identity.header), token_header].into_iter().flatten().any(nominates) {
            return Err(Refusal::BadRequest("Connection names a field that it must not name"));
        }
        if head.chunked && headers::is_trailer(request.headers(), &identity.header) {
            return Err(Refusal::BadRequest("Trailer names a field that it must not name"));
        }
        let may_identify = match &identity.trusted {
            Trusted::Any => true,
            Trusted::Networks(networks) => peer.is_in(networks),
        };
        let identified = identity::identify(request.headers(), may_identify, identity).map_err(|bad| {
            record.error = Some(bad.to_string());
            Refusal::BadIdentity
        })?;
        record.user.clone_from(&identified.user);
        Ok(Call {
            head,
            identified,
            peer: peer.clone(),
            request_id: record.request_id.clone(),
            trusted_proxy: peer.is_in(&table.server.trusted_proxies),
        })
    }

    /// Returns who asks, the default user included.
    pub fn user(&self) -> Option<&UserId> {
        self.identified.user.as_ref()
    }

    /// Refuses a request whose token is not valid, on the routes that are taken over; elsewhere it goes on as nobody's,
    /// so that a token can be renewed.
    ///
    /// # Errors
    /// [`Refusal::InvalidToken`].
    pub fn refuse_bad_token(&self, record: &mut Record) -> Result<(), Refusal> {
        let Some(bad) = self.identified.bad_token else { return Ok(()) };
        record.error = Some(bad.to_string());
        Err(Refusal::InvalidToken)
    }

    fn sender(&self) -> Sender<'_> {
        Sender { address: &self.peer.address_value, scheme: self.peer.scheme, trusted: self.trusted_proxy }
    }

    /// Edits a head for legacy: nothing changes but hop-by-hop, forwarding and identity fields and the request id.
    pub fn address_to_legacy(&self, parts: &mut request::Parts, table: &RoutingTable) -> Result<(), Refusal> {
        let headers = &mut parts.headers;
        headers::strip_request(headers, &self.head);
        identity::remove_spellings(headers, &table.identity.header);
        match &self.identified.header {
            HeaderAction::Keep => {}
            HeaderAction::Remove => {
                headers.remove(&table.identity.header);
            }
            HeaderAction::Replace(value) => {
                headers.insert(table.identity.header.clone(), value.clone());
            }
        }
        forwarding::write(headers, &self.sender());
        headers.insert(X_REQUEST_ID, self.id_value());
        if !headers.contains_key(header::HOST) {
            headers.insert(header::HOST, host_value(&table.legacy.url));
        }
        parts.version = Version::HTTP_11;
        address_target(&table.legacy.url, &mut parts.uri)?;
        Ok(())
    }

    /// Makes the head of a request to workers: what they need and nothing else.
    pub fn head_for_workers(
        &self,
        client: &HeaderMap,
        user: Option<&UserId>,
        table: &RoutingTable,
    ) -> Result<HeaderMap, Refusal> {
        let mut headers = HeaderMap::with_capacity(16);
        for name in table.workers.forward_headers.iter().chain(&ALWAYS_FORWARDED) {
            for value in client.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        if let Some(host) = client.get(header::HOST) {
            headers.insert(header::HOST, host.clone());
        }
        for name in [forwarding::X_FORWARDED_FOR, forwarding::X_FORWARDED_HOST, forwarding::X_FORWARDED_PROTO] {
            for value in client.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        forwarding::write(&mut headers, &self.sender());
        // Cloudflare routes by Host: it must be the Worker's; the client's is in X-Forwarded-Host.
        headers.insert(header::HOST, host_value(&table.workers.backend.url));
        if let Some(user) = user {
            headers.insert(X_USER_ID, user_for_workers(user)?);
        }
        headers.insert(X_REQUEST_ID, self.id_value());
        Ok(headers)
    }

    /// Takes a client's body as it comes; with `Expect: 100-continue` it waits for the backend's word at the gate.
    pub fn upload(
        &self,
        parts: &mut request::Parts,
        body: Incoming,
        table: &RoutingTable,
    ) -> (Upload, Option<Arc<Gate>>) {
        if !self.head.chunked && http_body::Body::is_end_stream(&body) {
            return (Upload::Empty, None);
        }
        if self.head.chunked {
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let gate = self.head.expects_continue.then(Arc::default);
        let unread = self.peer.progress.read_body();
        (Upload::Client(ClientBody::new(body, self.peer.end, table.limits.body_idle, gate.clone(), unread)), gate)
    }

    fn id_value(&self) -> HeaderValue {
        HeaderValue::from_str(&self.request_id).expect("visible ASCII, by construction")
    }
}

/// Writes a user as workers read one: their runtime takes header values for UTF-8 and turns Latin-1 letters into
/// U+FFFD (seen on workerd), so that two users could be one there.
///
/// # Errors
/// None for a user that was filtered.
pub fn user_for_workers(user: &UserId) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_bytes(user.as_str().as_bytes()).map_err(|_| Refusal::BadIdentity)
}

/// Client headers that workers always get: W3C trace context (`traceparent`, `tracestate`) and the user agent.
const ALWAYS_FORWARDED: [HeaderName; 3] =
    [HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate"), header::USER_AGENT];

/// Makes the head of a request to workers that no client's request is at hand for.
///
/// # Errors
/// A [`Refusal`] if the user or the id is not fit for a header, which stored ones are.
pub fn bare_head_for_workers(
    user: Option<&UserId>,
    request_id: &str,
    table: &RoutingTable,
) -> Result<HeaderMap, Refusal> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::HOST, host_value(&table.workers.backend.url));
    if let Some(user) = user {
        headers.insert(X_USER_ID, user_for_workers(user)?);
    }
    headers.insert(X_REQUEST_ID, HeaderValue::from_str(request_id).map_err(|_| Refusal::Internal)?);
    Ok(headers)
}

fn host_value(url: &BaseUrl) -> HeaderValue {
    HeaderValue::from_str(&url.authority).expect("an authority is visible ASCII, by construction")
}

/// Puts a backend's base path in front of the client's target, in origin form.
fn address_target(url: &BaseUrl, uri: &mut Uri) -> Result<(), Refusal> {
    if !url.path.is_empty() || uri.authority().is_some() {
        *uri = backend_target(url, uri.path_and_query().map_or("/", PathAndQuery::as_str))?;
    }
    Ok(())
}

/// Joins a backend's base path and a path of ours.
///
/// # Errors
/// A [`Refusal`] if the two make no valid target.
pub fn backend_target(url: &BaseUrl, path: &str) -> Result<Uri, Refusal> {
    let joined = if path.starts_with('/') { format!("{}{path}", url.path) } else { path.to_owned() };
    Uri::try_from(joined).map_err(|_| Refusal::BadRequest("The request target is not valid"))
}

/// Makes a GET without a body for a backend.
pub fn get(backend: &Backend, path: &str, headers: HeaderMap) -> Result<Request<Upload>, Refusal> {
    let mut request = Request::new(Upload::Empty);
    *request.uri_mut() = backend_target(&backend.url, path)?;
    *request.headers_mut() = headers;
    Ok(request)
}
