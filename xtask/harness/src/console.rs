//! A run's console: read as it arrives, shown, logged, and cut into lines.
//!
//! Each stream has its own thread. A last line without a newline is kept too: a kernel that hangs
//! leaves one.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc::Sender},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use protocol::record::PREFIX;

/// A line of the console, and the time at which it was complete.
#[derive(Debug)]
pub struct Line {
    /// Time since QEMU was started.
    pub at: Duration,
    /// The text without its line end.
    pub text: String,
}

/// A writer that passes on everything but the lines of records, which are for programs.
pub struct WithoutRecords<W> {
    to: W,
    /// The start of a line that may become a record's.
    held: Vec<u8>,
    state: LineState,
}

/// The verdict on the line that is being written.
#[derive(Clone, Copy, Eq, PartialEq)]
enum LineState {
    /// It may still be a record.
    Undecided,
    /// It is for people.
    Shown,
    /// It is a record.
    Dropped,
}

impl<W: Write> WithoutRecords<W> {
    /// Passes on to `to`.
    pub const fn to(to: W) -> Self {
        Self { to, held: Vec::new(), state: LineState::Undecided }
    }
}

impl<W: Write> Write for WithoutRecords<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut shown = Vec::new();
        for &byte in bytes {
            if self.state == LineState::Undecided {
                self.held.push(byte);
                if self.held == PREFIX.as_bytes() {
                    self.state = LineState::Dropped;
                    self.held.clear();
                } else if !PREFIX.as_bytes().starts_with(&self.held) {
                    self.state = LineState::Shown;
                    shown.append(&mut self.held);
                }
            } else if self.state == LineState::Shown {
                shown.push(byte);
            }
            if byte == b'\n' {
                self.state = LineState::Undecided;
            }
        }
        self.to.write_all(&shown)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// A stream that is being read, and everything read so far.
pub struct Stream {
    so_far: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    /// Reads `from` until it ends, on a thread of its own. Writes to the file `log`, to `show` if
    /// given, and line by line to `lines`. The end of the stream closes that channel.
    pub fn read(
        mut from: impl Read + Send + 'static,
        log: &Path,
        mut show: Option<Box<dyn Write + Send>>,
        lines: Option<Sender<Line>>,
        started: Instant,
    ) -> Result<Self> {
        let mut log =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let so_far = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&so_far);
        let reader = std::thread::spawn(move || {
            let mut splitter = Splitter::default();
            let mut buffer = [0; 4096];
            // An error is an end too: the process at the other end has exited.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let at = started.elapsed();
                let bytes = &buffer[..count];
                all.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
                // A full disk or a closed terminal must not end the run; the verdict uses the copy
                // in memory.
                let _ = log.write_all(bytes);
                if let Some(show) = &mut show {
                    let _ = show.write_all(bytes).and_then(|()| show.flush());
                }
                for text in splitter.feed(bytes) {
                    let _ = lines.as_ref().map(|lines| lines.send(Line { at, text }));
                }
            }
            if let (Some(lines), Some(text)) = (lines, splitter.rest()) {
                let _ = lines.send(Line { at: started.elapsed(), text });
            }
        });
        Ok(Self { so_far, reader })
    }

    /// Everything read so far, as text.
    pub fn text(&self) -> String {
        text(&self.so_far.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a function, callable from any thread, that says whether `words` have arrived.
    pub fn watch(&self, words: &'static str) -> impl Fn() -> bool + Send + 'static {
        let so_far = Arc::clone(&self.so_far);
        move || {
            let so_far = so_far.lock().unwrap_or_else(PoisonError::into_inner);
            so_far.windows(words.len()).any(|window| window == words.as_bytes())
        }
    }

    /// Waits for the end of the stream, at most `limit`, and returns all that has come.
    ///
    /// A process that escaped the group that we killed may hold the other end open.
    pub fn finish_within(self, limit: Duration) -> String {
        let end = Instant::now() + limit;
        while !self.reader.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.text()
    }

    /// Waits for the end of the stream and returns all of it. The process at the other end must
    /// have ended.
    pub fn finish(self) -> String {
        let _ = self.reader.join();
        text(&self.so_far.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Decodes bytes from a serial line, with plain line ends.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\r', "")
}

/// Splits bytes that arrive in pieces into lines.
#[derive(Default)]
struct Splitter(Vec<u8>);

impl Splitter {
    /// Returns the lines that `bytes` completes.
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            lines.push(text(&line[..end]));
        }
        lines
    }

    /// Returns the last, unfinished line.
    fn rest(self) -> Option<String> {
        (!self.0.is_empty()).then(|| text(&self.0))
    }
}

/// The last `count` lines of `text` that are for people.
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with(PREFIX)).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_dropped_however_the_bytes_arrive() {
        let console = format!("one\r\n{PREFIX}2}}\r\n\r\n{{\"other\":3}}\r\n{PREFIX}4}}\r\nlast");
        for size in 1..console.len() {
            let mut shown = WithoutRecords::to(Vec::new());
            console.as_bytes().chunks(size).for_each(|part| shown.write_all(part).unwrap());
            assert_eq!(shown.to, b"one\r\n\r\n{\"other\":3}\r\nlast", "{size}");
        }
    }

    #[test]
    fn pieces_become_lines_and_nothing_is_lost() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.feed(b"Gener"), Vec::<String>::new());
        assert_eq!(splitter.feed(b"ation 1\r\n\nBye"), ["Generation 1", ""]);
        assert_eq!(splitter.feed(b"!\n!! sto"), ["Bye!"]);
        assert_eq!(splitter.rest().as_deref(), Some("!! sto"));
    }

    #[test]
    fn a_stream_is_logged_split_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("console.log");
        let (lines, heard) = std::sync::mpsc::channel();
        let bytes: &[u8] = b"one\r\ntwo\xff\r\nrest";
        let stream = Stream::read(bytes, &log, None, Some(lines), Instant::now()).unwrap();
        let heard: Vec<_> = heard.iter().map(|line| line.text).collect();
        assert_eq!(heard, ["one", "two\u{fffd}", "rest"]);
        assert_eq!(stream.finish(), "one\ntwo\u{fffd}\nrest");
        assert_eq!(std::fs::read(&log).unwrap(), bytes);
    }

    #[test]
    fn the_tail_of_a_short_text_is_the_text() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 20), "a");
        assert_eq!(tail("", 20), "");
    }
}
