//! Where WebSocket frames begin and end (RFC 6455, section 5.2): just enough to put a Close between two of them.

/// Follows one direction of a WebSocket, byte by byte, without looking at what is said.
#[derive(Debug, Default, Clone, Copy)]
pub struct FrameTracker {
    /// Payload bytes still to come; while the length is read, the part known so far.
    left: u64,
    /// Bytes still to come of the step that is under way.
    pending: u8,
    step: Step,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Step {
    #[default]
    Boundary,
    Length,
    LongLength {
        masked: bool,
    },
    Mask,
    Payload,
}

impl FrameTracker {
    /// Says whether the bytes so far end with a whole frame.
    pub fn at_boundary(&self) -> bool {
        self.step == Step::Boundary
    }

    /// Follows the next bytes.
    pub fn follow(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match self.step {
                Step::Boundary => {
                    self.step = Step::Length;
                    bytes = rest;
                }
                Step::Length => {
                    let masked = first & 0x80 != 0;
                    bytes = rest;
                    match first & 0x7f {
                        126 => self.read_length(masked, 2),
                        127 => self.read_length(masked, 8),
                        short => {
                            self.left = u64::from(short);
                            self.after_length(masked);
                        }
                    }
                }
                Step::LongLength { masked } => {
                    self.left = (self.left << 8) | u64::from(*first);
                    self.pending -= 1;
                    bytes = rest;
                    if self.pending == 0 {
                        self.after_length(masked);
                    }
                }
                Step::Mask => {
                    self.pending -= 1;
                    bytes = rest;
                    if self.pending == 0 {
                        self.step = if self.left == 0 { Step::Boundary } else { Step::Payload };
                    }
                }
                Step::Payload => {
                    let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                    self.left -= here as u64;
                    bytes = &bytes[here..];
                    if self.left == 0 {
                        self.step = Step::Boundary;
                    }
                }
            }
        }
    }

    fn read_length(&mut self, masked: bool, bytes: u8) {
        self.left = 0;
        self.pending = bytes;
        self.step = Step::LongLength { masked };
    }

    fn after_length(&mut self, masked: bool) {
        if masked {
            self.pending = 4;
            self.step = Step::Mask;
        } else {
            self.step = if self.left == 0 { Step::Boundary } else { Step::Payload };
        }
    }
}

/// A Close frame with status 1001 ("going away"), as a server sends it.
pub const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// A Close frame with status 1001, as a client sends it: masked.
pub fn going_away_masked(mask: [u8; 4]) -> [u8; 8] {
    [0x88, 0x82, mask[0], mask[1], mask[2], mask[3], 0x03 ^ mask[0], 0xe9 ^ mask[1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(masked: bool, payload: usize) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload {
            0..126 => frame.push(bit | u8::try_from(payload).expect("below 126")),
            126..65536 => {
                frame.push(bit | 126);
                frame.extend(u16::try_from(payload).expect("below 65536").to_be_bytes());
            }
            _ => {
                frame.push(bit | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(0xaa, if masked { 4 } else { 0 } + payload));
        frame
    }

    proptest! {
        #[test]
        fn boundaries_are_found_under_any_chunking(
            frames in prop::collection::vec((any::<bool>(), prop_oneof![Just(0usize), 0usize..300, 65530usize..65540]), 1..5),
            cuts in prop::collection::vec(1usize..400, 1..40),
        ) {
            let mut bytes = Vec::new();
            let mut ends = std::collections::BTreeSet::from([0]);
            for (masked, payload) in frames {
                bytes.extend(frame(masked, payload));
                ends.insert(bytes.len());
            }
            let mut tracker = FrameTracker::default();
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(bytes.len());
                tracker.follow(&bytes[at..end]);
                at = end;
                prop_assert_eq!(tracker.at_boundary(), ends.contains(&at));
                if at == bytes.len() { break }
            }
        }
    }

    #[test]
    fn a_masked_close_says_1001() {
        let close = going_away_masked([1, 2, 3, 4]);
        assert_eq!([close[6] ^ 1, close[7] ^ 2], [0x03, 0xe9]);
    }
}
