//! Every answer that the gateway makes itself when it does not forward one: the only file that picks a status for it.

use bytes::Bytes;
use http::StatusCode;

use crate::limits;

/// Why a request gets an answer of the gateway's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The request breaks HTTP's rules or could be read in two ways; the text names the rule.
    BadRequest(&'static str),
    /// CONNECT and TRACE are not for reverse proxies.
    MethodNotImplemented,
    /// A start that came as early data, which whoever recorded it can send again (RFC 8470, 5.2).
    TooEarly,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// The path could mean another one to the backend.
    OddPath,
    /// The identity header, cookie or token is duplicated, a list, or has control bytes.
    BadIdentity,
    /// The token is there and not valid.
    InvalidToken,
    /// The request target is longer than `limits.target`.
    TargetTooLong,
    /// The head is larger than `limits.headers` or `limits.header_count`.
    HeadersTooLarge,
    /// A start's body is larger than `limits.start_body`.
    BodyTooLarge,
    /// The request head did not arrive within `server.header_timeout`.
    HeadTimeout,
    /// The client stopped in the middle of its body.
    BodyTimeout,
    /// The client's body broke off.
    BodyBroken,
    /// Too much is under way.
    Overloaded,
    /// Its address has `limits.connections_per_address` connections.
    TooManyConnections,
    /// Legacy cannot be reached.
    LegacyUnavailable,
    /// Legacy did not answer in time.
    LegacyTimeout,
    /// Workers cannot be reached for a job's WebSocket.
    WorkersUnavailable,
    /// The job's backend cannot answer for it now.
    OwnerUnavailable {
        /// Seconds after which to ask again.
        retry_after: u64,
    },
    /// No such job, or not this user's: legacy's own bytes.
    JobNotFound,
    /// The look-up found no video: legacy's own bytes, with the file's `missing` sentence.
    NoWorkingVideo(String),
    /// The start cannot be translated and must not go to legacy (`fallback = false`).
    Untranslatable,
    /// Nobody knows whether a job exists; carries the backend's 5xx, or 502, 504 or 500.
    StartOutcomeUnknown(StatusCode),
    /// `Idempotency-Key` is not 1 to 255 visible ASCII characters, or is there twice.
    BadIdempotencyKey,
    /// The start with this key is still under way.
    StartInProgress,
    /// Nobody knows whether the start with this key made a job.
    StartStillUnknown,
    /// The start with this key had another body.
    KeyReused,
    /// No backend is left for a start.
    NoBackend,
    /// The start cannot be recorded.
    StoreUnavailable,
    /// The gateway's own fault: a panic was caught.
    Internal,
}

impl Refusal {
    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::BadRequest(_) | Refusal::OddPath | Refusal::BadIdentity | Refusal::BodyBroken => {
                StatusCode::BAD_REQUEST
            }
            Refusal::NoWorkingVideo(_) | Refusal::BadIdempotencyKey => StatusCode::BAD_REQUEST,
            Refusal::StartInProgress | Refusal::StartStillUnknown => StatusCode::CONFLICT,
            Refusal::InvalidToken => StatusCode::UNAUTHORIZED,
            Refusal::MethodNotImplemented => StatusCode::NOT_IMPLEMENTED,
            Refusal::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Refusal::TooEarly => StatusCode::TOO_EARLY,
            Refusal::TargetTooLong => StatusCode::URI_TOO_LONG,
            Refusal::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Refusal::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::HeadTimeout | Refusal::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Refusal::Overloaded | Refusal::TooManyConnections => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::OwnerUnavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::NoBackend | Refusal::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::LegacyUnavailable | Refusal::WorkersUnavailable => StatusCode::BAD_GATEWAY,
            Refusal::LegacyTimeout => StatusCode::GATEWAY_TIMEOUT,
            Refusal::JobNotFound => StatusCode::NOT_FOUND,
            Refusal::Untranslatable | Refusal::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::StartOutcomeUnknown(status) => *status,
            Refusal::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the word that programs act on.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::BadRequest(_) => "bad_request",
            Refusal::MethodNotImplemented => "method_not_implemented",
            Refusal::ExpectationFailed => "expectation_failed",
            Refusal::TooEarly => "too_early",
            Refusal::OddPath => "odd_path",
            Refusal::BadIdentity => "bad_identity",
            Refusal::InvalidToken => "invalid_token",
            Refusal::TargetTooLong => "target_too_long",
            Refusal::HeadersTooLarge => "headers_too_large",
            Refusal::BodyTooLarge => "body_too_large",
            Refusal::HeadTimeout => "request_timeout",
            Refusal::BodyTimeout => "body_timeout",
            Refusal::BodyBroken => "body_broken",
            Refusal::Overloaded => "overloaded",
            Refusal::TooManyConnections => "too_many_connections",
            Refusal::LegacyUnavailable => "legacy_unavailable",
            Refusal::LegacyTimeout => "legacy_timeout",
            Refusal::WorkersUnavailable => "workers_unavailable",
            Refusal::OwnerUnavailable { .. } => "owner_unavailable",
            Refusal::JobNotFound => "job_not_found",
            Refusal::NoWorkingVideo(_) => "no_working_video",
            Refusal::Untranslatable => "untranslatable",
            Refusal::BadIdempotencyKey => "bad_idempotency_key",
            Refusal::StartInProgress => "start_in_progress",
            Refusal::KeyReused => "idempotency_key_reused",
            Refusal::StartOutcomeUnknown(_) | Refusal::StartStillUnknown => "start_outcome_unknown",
            Refusal::NoBackend => "no_backend",
            Refusal::StoreUnavailable => "store_unavailable",
            Refusal::Internal => "internal_error",
        }
    }

    /// Returns the client's sentence.
    fn detail(&self) -> &str {
        match self {
            Refusal::BadRequest(rule) => rule,
            Refusal::MethodNotImplemented => "This method is not supported",
            Refusal::ExpectationFailed => "Only the expectation 100-continue is supported",
            Refusal::TooEarly => "The request came as early data; send it again when the TLS handshake is over",
            Refusal::OddPath => "The path contains a sequence that is not allowed here",
            Refusal::BadIdentity => "The identity of a request must be one plain value",
            Refusal::InvalidToken => "The token is not valid",
            Refusal::TargetTooLong => "The request target is too long",
            Refusal::HeadersTooLarge => "The request head is too large",
            Refusal::BodyTooLarge => "The request body is too large",
            Refusal::HeadTimeout => "The request head did not arrive in time",
            Refusal::BodyTimeout => "The request body did not arrive in time",
            Refusal::BodyBroken => "The request body broke off",
            Refusal::TooManyConnections => "Too many connections from this address; try again soon",
            Refusal::Overloaded => "Too many requests are under way; try again soon",
            Refusal::LegacyUnavailable => "The backend cannot be reached",
            Refusal::LegacyTimeout => "The backend did not answer in time",
            Refusal::WorkersUnavailable => "The export backend cannot be reached",
            Refusal::OwnerUnavailable { .. } => "The status of this export is not available right now; try again soon",
            Refusal::JobNotFound => "Job not found",
            Refusal::NoWorkingVideo(missing) => missing,
            Refusal::Untranslatable => "The export request could not be understood",
            Refusal::BadIdempotencyKey => "Idempotency-Key must be one value of 1 to 255 visible ASCII characters",
            Refusal::StartInProgress => "The export with this Idempotency-Key is being started; ask again soon",
            Refusal::KeyReused => "This Idempotency-Key was used for another request; use a new one",
            Refusal::StartOutcomeUnknown(_) | Refusal::StartStillUnknown => {
                "It is not known whether the export was started; do not start it again"
            }
            Refusal::NoBackend => "No export backend is available; the export was not started",
            Refusal::StoreUnavailable => "The export cannot be recorded right now; it was not started",
            Refusal::Internal => "The gateway failed to answer this request",
        }
    }

    /// Returns the seconds for `Retry-After`, where trying again makes sense.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Refusal::OwnerUnavailable { retry_after } => Some(*retry_after),
            Refusal::Overloaded | Refusal::TooManyConnections => Some(limits::RETRY_AFTER),
            Refusal::NoBackend | Refusal::StoreUnavailable | Refusal::StartInProgress => Some(limits::RETRY_AFTER),
            _ => None,
        }
    }

    /// Returns what `WWW-Authenticate` asks for (RFC 6750, section 3).
    pub fn challenge(&self) -> Option<&'static str> {
        matches!(self, Refusal::InvalidToken).then_some("Bearer error=\"invalid_token\"")
    }

    /// Says whether the connection must not carry another request.
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Refusal::BadRequest(_)
                | Refusal::MethodNotImplemented
                | Refusal::BodyBroken
                | Refusal::HeadTimeout
                | Refusal::BodyTimeout
                | Refusal::BodyTooLarge
                | Refusal::TargetTooLong
                | Refusal::HeadersTooLarge
                | Refusal::TooManyConnections
                | Refusal::Internal
        )
    }

    /// Returns the JSON body: `{"detail", "code", "request_id"}`, except where legacy would say it itself.
    pub fn body(&self, request_id: &str) -> Bytes {
        let detail = serde_json::Value::from(self.detail());
        let text = match self {
            Refusal::JobNotFound | Refusal::NoWorkingVideo(_) => format!(r#"{{"detail":{detail}}}"#),
            _ => {
                let id = serde_json::Value::from(request_id);
                format!(r#"{{"detail":{detail},"code":"{}","request_id":{id}}}"#, self.code())
            }
        };
        Bytes::from(text)
    }
}
