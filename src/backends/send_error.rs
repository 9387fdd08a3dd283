//! Why there is no answer from a backend, and whether it may have acted: the outcome of a start is decided on that.

use std::io;
use std::time::Duration;

use rustls::AlertDescription;

use crate::backends::dial::DialError;
use crate::backends::h2;
use crate::http::body::UploadError;

/// Why there is no answer from a backend.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection; nothing was sent.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A fresh connection gave the request back; nothing was sent.
    #[error("request was handed back unsent")]
    HandedBack(#[source] hyper::Error),
    /// The backend certified that it did nothing with it: HTTP/2 `REFUSED_STREAM`, or `GOAWAY` below its stream.
    #[error("backend refused the request unread")]
    Refused(#[source] hyper::Error),
    /// The client's own body failed; a part may have been sent.
    #[error(transparent)]
    Upload(UploadError),
    /// The connection ended before an answer's head; the backend may have acted.
    #[error("connection ended before an answer")]
    Closed(#[source] hyper::Error),
    /// What came is not HTTP that may be passed on; the backend may have acted.
    #[error("answer is not valid HTTP")]
    Unreadable(#[source] hyper::Error),
    /// Where the answer ends can be read in two ways; the backend may have acted.
    #[error("answer's length is ambiguous")]
    Ambiguous,
    /// No answer's head within the time; the backend may have acted.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl SendError {
    /// Says whether it is certain that the backend did nothing: no byte was sent, or it said so.
    pub fn nothing_was_sent(&self) -> bool {
        match self {
            SendError::Dial(_) | SendError::HandedBack(_) | SendError::Refused(_) => true,
            SendError::Upload(_) | SendError::Closed(_) | SendError::Unreadable(_) => false,
            SendError::Ambiguous | SendError::TimedOut(_) => false,
        }
    }

    /// Judges how a request ended that was given to a connection.
    pub(super) fn from_hyper(error: hyper::Error) -> SendError {
        let upload = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<UploadError>()).copied();
        match upload {
            Some(upload) => SendError::Upload(upload),
            None if h2::is_refusal(&error) => SendError::Refused(error),
            None if error.is_parse() => SendError::Unreadable(error),
            None => match handshake_alert(&error) {
                Some(alert) => SendError::Dial(DialError::Tls(io::Error::other(alert))),
                None => SendError::Closed(error),
            },
        }
    }
}

/// Finds the alert of a backend that did not take the gateway's certificate: with TLS 1.3 it comes when the gateway's
/// own side of the handshake is over, in place of everything that could answer a request (RFC 8446, 4.4.2.4).
fn handshake_alert(error: &hyper::Error) -> Option<rustls::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let tls = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls @ rustls::Error::AlertReceived(alert)) = tls.and_then(|tls| tls.downcast_ref()) {
            let about_certificate = matches!(
                alert,
                AlertDescription::CertificateRequired
                    | AlertDescription::BadCertificate
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
                    | AlertDescription::AccessDenied
                    | AlertDescription::DecryptError
            );
            return about_certificate.then(|| tls.clone());
        }
        cause = inner.source();
    }
    None
}
