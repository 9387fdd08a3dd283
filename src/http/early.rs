//! Answers to heads that never became a request: hyper refuses them itself, with a status and nothing else.
//! Here its answer gets the words that all refusals have.

use http::StatusCode;
use uuid::Uuid;

use crate::http::refusal::Refusal;
use crate::http::screen::Screen;

/// Bytes of a request line beside its target: `OPTIONS `, a blank and the version.
const AROUND_TARGET: usize = 18;

/// A refusal of a head that is not a request, on its way to the client.
#[derive(Debug)]
pub struct Early {
    /// Why.
    pub refusal: Refusal,
    /// The id that the client is told.
    pub request_id: String,
}

impl Early {
    /// Refuses a head.
    pub fn new(refusal: Refusal) -> Early {
        Early { refusal, request_id: Uuid::now_v7().to_string() }
    }

    /// Recognises the answer that hyper makes by itself: a 4xx of three lines, to be closed, without a body; `target` is
    /// the longest target that is taken, bytes.
    pub fn in_place_of(answer: &[u8], screen: &Screen, target: usize) -> Option<Early> {
        let text = std::str::from_utf8(answer).ok()?;
        let lines: Vec<&str> = text.strip_suffix("\r\n\r\n")?.split("\r\n").collect();
        let [status, "connection: close", "content-length: 0"] = lines[..] else { return None };
        let refusal = match status.get(9..12)? {
            "400" => Refusal::BadRequest("The request is not valid HTTP/1.1"),
            // Of a head that is too large in all, what is too long in its first line is the target.
            "431" if screen.request_line() > target + AROUND_TARGET => Refusal::TargetTooLong,
            "431" => Refusal::HeadersTooLarge,
            "414" => Refusal::TargetTooLong,
            _ => return None,
        };
        Some(Early::new(refusal))
    }

    /// Writes the whole answer.
    pub fn bytes(&self) -> Vec<u8> {
        let (status, body) = (self.refusal.status(), self.refusal.body(&self.request_id));
        let reason = StatusCode::canonical_reason(&status).unwrap_or_default();
        let later = self.refusal.retry_after().map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\nx-request-id: {}\r\ncontent-length: {}\r\n\
             {later}connection: close\r\n\r\n",
            status.as_u16(),
            self.request_id,
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&body);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hypers_own_answer_is_replaced() {
        let mut screen = Screen::default();
        screen.look(&mut [b'a'; 100]);
        let judged = |text: &str, target| {
            Early::in_place_of(text.as_bytes(), &screen, target).map(|early| early.refusal.status().as_u16())
        };
        let own = |text: &str| judged(text, 50);
        assert_eq!(own("HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"), Some(400));
        let large = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!((own(large), judged(large, 82)), (Some(414), Some(431)));
        assert_eq!(
            own("HTTP/1.1 400 Bad Request\r\nserver: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
            None
        );
        assert_eq!(own("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"), None);
    }
}
