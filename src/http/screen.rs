//! A look at a request head before hyper parses it, for what hyper lets pass: a bare LF as a line's end, and a `#` in
//! the target, which it cuts off silently (RFC 9112, 2.2 and 3.2).
//!
//! What is found is made unreadable in place, so that the parser itself refuses the request and closes. A head that
//! comes in the same read as the end of the request before it is not looked at: nothing of this kind goes on to a
//! backend in any case, since heads are written anew.

/// A byte that no parser takes in a head.
const POISON: u8 = 0;

/// Follows one request head through the pieces in which it is read.
#[derive(Debug, Default, Clone, Copy)]
pub struct Screen {
    stage: Stage,
    /// Bytes of the line so far, its end not counted.
    line: usize,
    /// The last byte seen.
    last: u8,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    RequestLine,
    Fields,
    Done,
}

impl Screen {
    /// Says whether the head has ended in its first line: then it is the target that is too long.
    pub fn is_in_request_line(&self) -> bool {
        self.stage == Stage::RequestLine
    }

    /// Looks at the next bytes of a head; what follows it is left alone.
    pub fn look(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while self.stage != Stage::Done && at < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[at..]).map(|offset| at + offset);
            let length = end.unwrap_or(bytes.len());
            let piece = &mut bytes[at..length];
            if self.stage == Stage::RequestLine
                && let Some(hash) = memchr::memchr(b'#', piece)
            {
                piece[hash] = POISON;
            }
            self.line += piece.len();
            self.last = piece.last().copied().unwrap_or(self.last);
            let Some(end) = end else { return };
            if self.last != b'\r' {
                bytes[end] = POISON;
                self.stage = Stage::Done;
                return;
            }
            self.end_line();
            at = end + 1;
        }
    }

    fn end_line(&mut self) {
        let is_empty = self.line == 1;
        (self.line, self.last) = (0, b'\n');
        self.stage = match self.stage {
            // Empty lines before a request are passed over (RFC 9112, 2.2).
            Stage::RequestLine if is_empty => Stage::RequestLine,
            Stage::RequestLine => Stage::Fields,
            Stage::Fields if is_empty => Stage::Done,
            stage => stage,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn screened(text: &str, cut: usize) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        let mut screen = Screen::default();
        let (first, second) = bytes.split_at_mut(cut.min(text.len()));
        screen.look(first);
        screen.look(second);
        bytes
    }

    #[test]
    fn what_hyper_lets_pass_is_made_unreadable() {
        let cases = [
            ("GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", true),
            ("GET / HTTP/1.1\nHost: x\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: x\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: x\r\n\n", true),
            ("\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: x\r\nA: #\r\n\r\n", false),
            ("\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", false),
            ("POST / HTTP/1.1\r\nHost: x\r\n\r\n# a body\nis left alone", false),
        ];
        for (text, is_bad) in cases {
            for cut in 0..=text.len() {
                let bytes = screened(text, cut);
                assert_eq!(bytes != text.as_bytes(), is_bad, "{text:?} cut at {cut}");
                assert_eq!(bytes.iter().filter(|byte| **byte == POISON).count(), usize::from(is_bad), "{text:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_proper_head_and_its_body_pass_under_any_chunking(
            fields in prop::collection::vec("[a-z]{1,8}: [ -~]{0,30}", 0..6),
            body in prop::collection::vec(any::<u8>(), 0..60),
            cuts in prop::collection::vec(1usize..9, 1..40),
        ) {
            let mut bytes = b"GET /path?query HTTP/1.1\r\n".to_vec();
            for field in fields {
                bytes.extend(field.as_bytes());
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"\r\n");
            bytes.extend(&body);
            let before = bytes.clone();
            let mut screen = Screen::default();
            let mut rest = &mut bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (piece, after) = rest.split_at_mut((*cut).min(rest.len()));
                screen.look(piece);
                rest = after;
            }
            prop_assert_eq!(bytes, before);
        }
    }
}
