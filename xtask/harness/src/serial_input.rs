//! Input for a payload's prompt, typed once the prompt appears.
//!
//! A thread waits for the prompt while the run is in progress. We never type ahead: what a serial
//! port holds when its driver sets it up may be lost. The thread ends with the run even if no
//! prompt appears; the reader of the console notices the missing answer.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::console::Stream;

/// The time between two looks at the console.
const STEP: Duration = Duration::from_millis(20);

/// A prompt, and the text to type there.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The text on the console that shows that a program waits for input.
    pub prompt: &'static str,
    /// The input, in whole lines.
    pub typed: &'static str,
}

/// A thread that waits for its prompt; dropping this value ends it.
pub struct SerialInput {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SerialInput {
    /// Starts the thread.
    pub fn new(
        mut keyboard: impl Write + Send + 'static,
        answer: Answer,
        console: &Stream,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (shows, done) = (console.watch(answer.prompt), Arc::clone(&over));
        let thread = thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                if shows() {
                    // An error means that QEMU has ended; its console ends too, which the run
                    // notices.
                    let _ =
                        keyboard.write_all(answer.typed.as_bytes()).and_then(|()| keyboard.flush());
                    break;
                }
                thread::sleep(STEP);
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for SerialInput {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read},
        sync::mpsc,
        time::Instant,
    };

    use super::*;

    /// Yields what is sent to it, and ends with its sender.
    struct Said(mpsc::Receiver<&'static str>);

    impl Read for Said {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Ok(said) = self.0.recv() else { return Ok(0) };
            buffer[..said.len()].copy_from_slice(said.as_bytes());
            Ok(said.len())
        }
    }

    struct Keyboard(mpsc::Sender<Vec<u8>>);

    impl Write for Keyboard {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .send(bytes.to_vec())
                .map_or(Err(io::ErrorKind::BrokenPipe.into()), |()| Ok(bytes.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_is_typed_before_the_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let (says, said) = mpsc::channel();
        let (typed, types) = mpsc::channel();
        let console =
            Stream::read(Said(said), &folder.path().join("log"), None, None, Instant::now())
                .unwrap();
        let answer = Answer { prompt: "/ # ", typed: "poweroff\n" };
        let serial_input = SerialInput::new(Keyboard(typed), answer, &console);
        says.send("booting\r\n/ ").unwrap();
        assert!(types.recv_timeout(STEP * 10).is_err(), "half a prompt");
        says.send("# ").unwrap();
        assert_eq!(types.recv_timeout(Duration::from_secs(60)).unwrap(), b"poweroff\n");
        drop(serial_input);
        drop(says);
        assert!(console.finish().ends_with("/ # "));
    }

    #[test]
    fn without_a_prompt_the_typist_leaves_with_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let (typed, types) = mpsc::channel();
        let console =
            Stream::read(io::empty(), &folder.path().join("log"), None, None, Instant::now())
                .unwrap();
        drop(SerialInput::new(
            Keyboard(typed),
            Answer { prompt: "/ # ", typed: "poweroff\n" },
            &console,
        ));
        assert!(types.recv().is_err());
    }
}
