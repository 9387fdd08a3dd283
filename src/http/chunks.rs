//! A chunked body as its client spells it (RFC 9112, section 7.1), followed byte by byte to its end.
//!
//! Hyper reads it and decides; this looks only for what hyper would let pass: control bytes in an extension, a blank
//! without an extension behind it, a bare LF among the trailers.

/// What hyper refuses in a chunk's first line.
const POISON_LINE: u8 = b'\n';
/// What it refuses among trailers.
const POISON_TRAILER: u8 = 0;

/// Follows one chunked body through the pieces in which it is read.
#[derive(Debug, Default, Clone, Copy)]
pub struct Chunks {
    state: State,
    /// Bytes of the chunk still to come; in its first line the size so far.
    left: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Blank,
    Extension,
    LineEnd,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
    /// Broken in a way that hyper refuses: nothing after it is read as a message.
    Broken,
}

impl Chunks {
    /// Says whether the body, its trailers included, is over.
    pub fn is_over(&self) -> bool {
        self.state == State::End
    }

    /// Looks at the next bytes; returns how many of them belong to the body.
    pub fn look(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.state != State::End {
            match self.state {
                State::Data => {
                    let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    self.left -= step as u64;
                    at += step;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                }
                State::Broken => return bytes.len(),
                _ => {
                    self.step(&mut bytes[at]);
                    at += 1;
                }
            }
        }
        at
    }

    fn step(&mut self, byte: &mut u8) {
        self.state = match (self.state, *byte) {
            (State::Size, digit) if digit.is_ascii_hexdigit() => self.add(digit),
            (State::Size | State::Blank, b' ' | b'\t') => State::Blank,
            (State::Size | State::Blank, b';') => State::Extension,
            (State::Size | State::Extension, b'\r') => State::LineEnd,
            (State::Blank, b'\r') => break_with(byte, POISON_LINE),
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => State::Extension,
            (State::Extension, _) => break_with(byte, POISON_LINE),
            (State::LineEnd, b'\n') if self.left == 0 => State::TrailerStart,
            (State::LineEnd, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::Trailer, b'\n') => break_with(byte, POISON_TRAILER),
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerStart | State::Trailer, _) => State::Trailer,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::End,
            _ => State::Broken,
        };
    }

    fn add(&mut self, digit: u8) -> State {
        let digit = char::from(digit).to_digit(16).map_or(0, u64::from);
        match self.left.checked_mul(16).and_then(|size| size.checked_add(digit)) {
            Some(size) => {
                self.left = size;
                State::Size
            }
            None => State::Broken,
        }
    }
}

fn break_with(byte: &mut u8, poison: u8) -> State {
    *byte = poison;
    State::Broken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the bytes after a look in two pieces, how many belong to the body, and whether it is over.
    fn looked(text: &str, cut: usize) -> (Vec<u8>, usize, bool) {
        let mut bytes = text.as_bytes().to_vec();
        let mut chunks = Chunks::default();
        let (first, second) = bytes.split_at_mut(cut.min(text.len()));
        let mut used = chunks.look(first);
        if used == first.len() {
            used += chunks.look(second);
        }
        (bytes, used, chunks.is_over())
    }

    #[test]
    fn what_hyper_lets_pass_is_made_unreadable() {
        let bad = [
            "3;a\0b\r\nabc\r\n0\r\n\r\n",
            "3;\u{1}\r\nabc\r\n0\r\n\r\n",
            "3;a=\"\u{7f}\"\r\nabc\r\n0\r\n\r\n",
            "3;a\nb\r\nabc\r\n0\r\n\r\n",
            "3 \r\nabc\r\n0\r\n\r\n",
            "3\t \r\nabc\r\n0\r\n\r\n",
            "0 \r\n\r\n",
            "3\r\nabc\r\n0\r\nX: a\nY: b\r\n\r\n",
            "3\r\nabc\r\n0\r\n\n",
            "3\r\nabc\r\n0\r\nX: a\r\n\n",
        ];
        for text in bad {
            for cut in 0..=text.len() {
                let (bytes, _, is_over) = looked(text, cut);
                let changed = bytes.iter().zip(text.bytes()).filter(|(is, was)| **is != *was).count();
                assert!(changed <= 1 && !is_over, "{text:?} cut at {cut}: {bytes:?}");
                assert!(changed == 1 || text.contains("a\nb"), "{text:?}: LF is refused as it is");
            }
        }
    }

    #[test]
    fn what_hyper_refuses_itself_is_left_alone_and_never_over() {
        let bad = [
            "zz\r\n",
            "3\rabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3 3\r\nabc\r\n0\r\n\r\n",
            "10000000000000000\r\nabc",
            "ffffffffffffffffffff\r\n",
            "0\r\nX: a\rb\r\n\r\n",
            "0\r\n\rX",
        ];
        for text in bad {
            for cut in 0..=text.len() {
                let (bytes, used, is_over) = looked(text, cut);
                assert_eq!(
                    (bytes.as_slice(), used, is_over),
                    (text.as_bytes(), text.len(), false),
                    "{text:?} at {cut}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_proper_body_passes_and_ends_where_it_ends(
            pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), "[;][ -~]{0,9}|"), 0..5),
            trailers in prop::collection::vec("[a-z]{1,8}: [ -~]{0,12}", 0..3),
            behind in prop::collection::vec(any::<u8>(), 0..20),
            cuts in prop::collection::vec(1usize..9, 1..40),
        ) {
            let mut bytes = Vec::new();
            for (data, extension) in &pieces {
                bytes.extend(format!("{:x}{extension}\r\n", data.len()).bytes());
                bytes.extend(data);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n");
            for trailer in trailers {
                bytes.extend(format!("{trailer}\r\n").bytes());
            }
            bytes.extend(b"\r\n");
            let length = bytes.len();
            bytes.extend(&behind);
            let before = bytes.clone();
            let (mut chunks, mut used) = (Chunks::default(), 0);
            for cut in cuts.iter().cycle() {
                if used == bytes.len() { break }
                let end = (used + cut).min(bytes.len());
                let step = chunks.look(&mut bytes[used..end]);
                used += step;
                if chunks.is_over() { break }
                prop_assert!(step > 0);
            }
            prop_assert!(chunks.is_over());
            prop_assert_eq!(used, length);
            prop_assert_eq!(bytes, before);
        }
    }
}
