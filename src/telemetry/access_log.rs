//! The access log: one line per request, gathered per thread, written by one thread of its own.
//!
//! A request never waits for the log. When the writer falls behind, whole buffers are dropped and their lines counted.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::limits;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Columns for a person at a terminal.
    Pretty,
}

/// Where lines go; cloned into every thread.
#[derive(Debug, Clone)]
pub struct AccessLog {
    buffers: SyncSender<Vec<u8>>,
    lost: Arc<AtomicU64>,
    format: Format,
}

/// The writer's thread; joined at exit, after every [`AccessLog`] is gone.
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

impl Writer {
    /// Waits until everything handed over is written.
    pub fn join(self) {
        // A writer that panicked has nothing left to say.
        let _ = self.0.join();
    }
}

impl AccessLog {
    /// Starts the writer.
    pub fn start(output: impl Write + Send + 'static, format: Format) -> std::io::Result<(AccessLog, Writer)> {
        let (buffers, received) = sync_channel(limits::LOG_QUEUE);
        let writer =
            std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(&received, output))?;
        Ok((AccessLog { buffers, lost: Arc::default(), format }, Writer(writer)))
    }

    /// Returns the counter of lines that were dropped.
    pub fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }

    /// Opens a thread's buffer.
    pub fn lines(&self) -> Lines {
        Lines { log: self.clone(), buffer: RefCell::default(), lines: Cell::new(0), second: Cell::default() }
    }
}

fn write_all(received: &Receiver<Vec<u8>>, mut output: impl Write) {
    while let Ok(buffer) = received.recv() {
        // Nobody can be told of a broken stdout but through itself; the gateway serves on.
        let _ = output.write_all(&buffer).and_then(|()| output.flush());
    }
}

/// A thread's buffer of lines.
#[derive(Debug)]
pub struct Lines {
    log: AccessLog,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    /// The second written last, since the Unix epoch, and how it reads: up to and with the decimal point.
    second: Cell<(u64, [u8; 20])>,
}

impl Lines {
    /// Returns how lines are to be written.
    pub fn format(&self) -> Format {
        self.log.format
    }

    /// Appends the time, RFC 3339 in UTC with milliseconds; a calendar date is worked out once a second.
    pub fn push_time(&self, buffer: &mut Vec<u8>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (mut second, mut text) = self.second.get();
        if second != since.as_secs() || second == 0 {
            second = since.as_secs();
            let whole = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(second)).to_string();
            text = *b"0000-00-00T00:00:00.";
            if let (Some(place), Some(known)) = (text.get_mut(..19), whole.as_bytes().get(..19)) {
                place.copy_from_slice(known);
            }
            self.second.set((second, text));
        }
        buffer.extend_from_slice(&text);
        let millis = since.subsec_millis();
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            buffer.push(b'0' + digit as u8);
        }
        buffer.push(b'Z');
    }

    /// Adds one line; `write` appends it to the buffer with its newline.
    pub fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.capacity() == 0 {
            buffer.reserve(limits::LOG_BUFFER);
        }
        write(&mut buffer);
        self.lines.set(self.lines.get() + 1);
        if buffer.len() >= limits::LOG_BUFFER - 4096 {
            drop(buffer);
            self.flush();
        }
    }

    /// Hands over what was gathered.
    pub fn flush(&self) {
        let buffer = self.buffer.take();
        let lines = self.lines.replace(0);
        if !buffer.is_empty() && self.log.buffers.try_send(buffer).is_err() {
            self.log.lost.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Appends a JSON string, cut to `limits::LOG_FIELD` bytes, with everything escaped that could break a line.
pub fn push_json(buffer: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(limits::LOG_FIELD);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let bytes = &text.as_bytes()[..end];
    buffer.push(b'"');
    if bytes.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
        buffer.extend_from_slice(bytes);
    } else {
        push_escaped(buffer, bytes);
    }
    buffer.push(b'"');
}

/// Says whether a byte stands for itself, whatever is around it. Most texts have no others: one pass without a branch
/// finds that out.
fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) & (byte != b'"') & (byte != b'\\')
}

fn push_escaped(buffer: &mut Vec<u8>, bytes: &[u8]) {
    let mut plain = 0;
    for (at, byte) in bytes.iter().enumerate() {
        // C1 control characters, which terminals obey as well: U+0080 to U+009F are C2 80 to C2 9F in UTF-8.
        let after_c2 = at > 0 && bytes[at - 1] == 0xc2 && (0x80..0xa0).contains(byte);
        if *byte >= 0x20 && *byte != b'"' && *byte != b'\\' && *byte != 0x7f && !after_c2 {
            continue;
        }
        buffer.extend_from_slice(&bytes[plain..at - usize::from(after_c2)]);
        plain = at + 1;
        match byte {
            b'"' | b'\\' => buffer.extend_from_slice(&[b'\\', *byte]),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let [high, low] = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                buffer.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
    buffer.extend_from_slice(&bytes[plain..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_becomes_valid_json(text in ".{0,300}") {
            let mut buffer = Vec::new();
            push_json(&mut buffer, &text);
            let read: String = serde_json::from_slice(&buffer).expect("valid JSON");
            prop_assert!(text.starts_with(&read) && read.len() + 4 > text.len().min(limits::LOG_FIELD));
        }
    }

    #[test]
    fn no_control_character_is_written_as_it_is() {
        let text: String = (0..0x100).filter_map(char::from_u32).collect();
        let mut buffer = Vec::new();
        push_json(&mut buffer, &text);
        let written = String::from_utf8(buffer).expect("UTF-8");
        assert!(!written.contains(char::is_control), "{written:?}");
        let read: String = serde_json::from_str(&written).expect("valid JSON");
        assert!(text.starts_with(&read) && read.contains('\u{9f}'), "{read:?}");
    }

    #[test]
    fn lines_that_nobody_takes_are_counted() {
        let (buffers, received) = sync_channel(1);
        let log = AccessLog { buffers, lost: Arc::default(), format: Format::Json };
        let lines = log.lines();
        for _ in 0..3 {
            lines.add(|buffer| buffer.extend_from_slice(b"x\n"));
            lines.flush();
        }
        assert_eq!(log.lost.load(Ordering::Relaxed), 2);
        drop(received);
    }
}
