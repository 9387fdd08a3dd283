//! A look at a client's bytes before hyper parses them, for what hyper lets pass: a bare LF as a line's end, a `#` in
//! the target, which it cuts off silently (RFC 9112, 2.2 and 3.2), and what [`chunks`](super::chunks) names.
//!
//! What is found is made unreadable in place, so that the parser itself refuses the request and closes. How long a body
//! is, is never read here: the bytes behind a head are shown to hyper only when hyper has said how it understands that
//! head, so that the two cannot disagree about where the next one begins.

use crate::http::chunks::Chunks;

/// A byte that no parser takes in a head.
const POISON: u8 = 0;

/// What follows a head, as hyper reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// A body of so many bytes, perhaps none, and then another head.
    Length(u64),
    /// A chunked body, and then another head.
    Chunks,
}

/// Follows a connection's messages through the pieces in which they are read.
#[derive(Debug, Default, Clone, Copy)]
pub struct Screen {
    stage: Stage,
    /// Bytes of the line so far, its end not counted.
    line: usize,
    /// Bytes of the request line, as far as it has come.
    first: usize,
    /// The last byte seen.
    last: u8,
}

#[derive(Debug, Default, Clone, Copy)]
enum Stage {
    #[default]
    RequestLine,
    Fields,
    /// The head is whole; what follows is not known yet.
    Head,
    Length(u64),
    Chunks(Chunks),
    /// Made unreadable: nothing after it is read as a message.
    Refused,
    /// Not HTTP/1.1.
    Off,
}

impl Screen {
    /// Looks at nothing: for a connection that speaks something else.
    pub fn off() -> Screen {
        Screen { stage: Stage::Off, ..Screen::default() }
    }

    /// Returns the length of the head's first line, bytes, as far as it has come: its target's and a few more.
    pub fn request_line(&self) -> usize {
        self.first
    }

    fn is_in_request_line(&self) -> bool {
        matches!(self.stage, Stage::RequestLine)
    }

    /// Says whether a head has begun, or is whole and has not become a request yet.
    pub fn is_in_head(&self) -> bool {
        match self.stage {
            Stage::RequestLine => self.line > 0,
            Stage::Fields | Stage::Head | Stage::Refused => true,
            Stage::Length(_) | Stage::Chunks(_) | Stage::Off => false,
        }
    }

    /// Says whether the bytes that come next depend on what hyper says of the last head.
    pub fn awaits(&self) -> bool {
        matches!(self.stage, Stage::Head)
    }

    /// Takes what hyper says of the last head.
    pub fn go_on(&mut self, follows: Follows) {
        (self.line, self.last) = (0, 0);
        self.stage = match follows {
            Follows::Length(0) => Stage::RequestLine,
            Follows::Length(length) => Stage::Length(length),
            Follows::Chunks => Stage::Chunks(Chunks::default()),
        };
    }

    /// Looks at the next bytes and returns how many of them hyper may have: at most to the end of a head.
    pub fn look(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.stage {
                Stage::RequestLine | Stage::Fields => at += self.look_at_line(&mut bytes[at..]),
                Stage::Length(left) => {
                    let step = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    *left -= step as u64;
                    at += step;
                    if *left == 0 {
                        self.go_on(Follows::Length(0));
                    }
                }
                Stage::Chunks(chunks) => {
                    at += chunks.look(&mut bytes[at..]);
                    if chunks.is_over() {
                        self.go_on(Follows::Length(0));
                    }
                }
                Stage::Head => break,
                Stage::Refused | Stage::Off => return bytes.len(),
            }
        }
        at
    }

    /// Looks at a head's line, or at the piece of it that has come; returns its length.
    fn look_at_line(&mut self, bytes: &mut [u8]) -> usize {
        let end = memchr::memchr(b'\n', bytes);
        let length = end.unwrap_or(bytes.len());
        let piece = &mut bytes[..length];
        if self.is_in_request_line()
            && let Some(hash) = memchr::memchr(b'#', piece)
        {
            piece[hash] = POISON;
        }
        self.line += piece.len();
        if self.is_in_request_line() {
            self.first = self.line;
        }
        self.last = piece.last().copied().unwrap_or(self.last);
        let Some(end) = end else { return length };
        if self.last == b'\r' {
            self.end_line();
        } else {
            bytes[end] = POISON;
            self.stage = Stage::Refused;
        }
        end + 1
    }

    fn end_line(&mut self) {
        let is_empty = self.line == 1;
        (self.line, self.last) = (0, b'\n');
        self.stage = match self.stage {
            // Empty lines before a request are passed over (RFC 9112, 2.2).
            Stage::RequestLine if is_empty => Stage::RequestLine,
            Stage::RequestLine => Stage::Fields,
            Stage::Fields if is_empty => Stage::Head,
            stage => stage,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Shows bytes in pieces as a connection would, with what hyper says of each head; returns what hyper got.
    fn shown(bytes: &[u8], follows: &[Follows], pieces: &[usize]) -> Vec<u8> {
        let (mut screen, mut got) = (Screen::default(), Vec::new());
        let (mut follows, mut held, mut rest) = (follows.iter(), Vec::new(), bytes.to_vec());
        for piece in pieces.iter().cycle() {
            if screen.awaits()
                && let Some(follows) = follows.next()
            {
                screen.go_on(*follows);
            }
            if held.is_empty() {
                held = rest.drain(..(*piece).min(rest.len())).collect();
            }
            if held.is_empty() {
                break;
            }
            let taken = screen.look(&mut held);
            assert!(taken > 0 || screen.awaits());
            if taken == 0 {
                break;
            }
            got.extend(held.drain(..taken));
        }
        got
    }

    fn screened(text: &str, cut: usize) -> Vec<u8> {
        let follows = [Follows::Length(1 << 20)];
        shown(text.as_bytes(), &follows, &[cut.max(1), usize::MAX])
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
                assert_eq!(bytes.len(), text.len());
                assert_eq!(bytes != text.as_bytes(), is_bad, "{text:?} cut at {cut}");
                assert_eq!(bytes.iter().filter(|byte| **byte == POISON).count(), usize::from(is_bad), "{text:?}");
            }
        }
    }

    #[test]
    fn a_head_behind_another_message_is_looked_at() {
        let first = [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", Follows::Length(0)),
            ("POST / HTTP/1.1\r\nHost: x\r\n\r\n#\n\n#\n", Follows::Length(5)),
            ("POST / HTTP/1.1\r\nHost: x\r\n\r\n3\r\n#\n#\r\n0\r\nA: #\r\n\r\n", Follows::Chunks),
        ];
        for (text, follows) in first {
            for (behind, is_bad) in [
                ("GET /#x HTTP/1.1\r\nHost: x\r\n\r\n", true),
                ("GET /x HTTP/1.1\r\nHost: x\n\r\n", true),
                ("GET /x HTTP/1.1\r\nHost: #\r\n\r\n", false),
            ] {
                let bytes = [text, behind].concat();
                for cut in 1..=bytes.len() {
                    let got = shown(bytes.as_bytes(), &[follows, Follows::Length(0)], &[cut]);
                    assert_eq!(got[..text.len()], *text.as_bytes(), "cut at {cut}");
                    assert_eq!(got != bytes.as_bytes(), is_bad, "{bytes:?} cut at {cut}");
                    assert_eq!(got.len(), bytes.len());
                }
            }
        }
    }

    #[test]
    fn nothing_behind_a_head_is_shown_before_hyper_has_said_what_it_is() {
        let mut bytes = *b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /#";
        let mut screen = Screen::default();
        assert_eq!(screen.look(&mut bytes), 27);
        assert!(screen.awaits() && screen.is_in_head());
        assert_eq!(screen.look(&mut bytes[27..]), 0);
        screen.go_on(Follows::Length(0));
        assert_eq!(screen.look(&mut bytes[27..]), 6);
        assert_eq!(bytes[27..], *b"GET /\0");
    }

    proptest! {
        #[test]
        fn proper_messages_pass_under_any_chunking(
            messages in prop::collection::vec(
                (prop::collection::vec("[a-z]{1,8}: [ -~]{0,30}", 0..4), prop::collection::vec(any::<u8>(), 0..60), any::<bool>()),
                1..4,
            ),
            cuts in prop::collection::vec(1usize..90, 1..40),
        ) {
            let (mut bytes, mut follows) = (Vec::new(), Vec::new());
            for (fields, body, is_chunked) in messages {
                bytes.extend(b"GET /path?query HTTP/1.1\r\n");
                for field in fields {
                    bytes.extend(field.as_bytes());
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"\r\n");
                if is_chunked {
                    if !body.is_empty() {
                        bytes.extend(format!("{:x}\r\n", body.len()).bytes());
                        bytes.extend(&body);
                        bytes.extend(b"\r\n");
                    }
                    bytes.extend(b"0\r\n\r\n");
                    follows.push(Follows::Chunks);
                } else {
                    bytes.extend(&body);
                    follows.push(Follows::Length(body.len() as u64));
                }
            }
            prop_assert_eq!(shown(&bytes, &follows, &cuts), bytes);
        }
    }
}
