//! A guest that is only watched: console lines with the host's time, and a QMP monitor.
//!
//! Benchmarks use it where a run is timed line by line and `run`'s limits, verdict and report would
//! be in the way. Dropping it ends QEMU; only [`Guest::end`] removes its folder. A console that is
//! silent for longer than the caller waits is an error.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    artifacts::{Artifacts, sockets, stamp},
    console::{Line, Stream},
    parts,
    postmortem::Qmp,
    processes::{Guarded, Interrupted, interrupted},
    qemu,
    request::{Disk, Request},
};

/// A running guest.
pub struct Guest {
    child: Guarded,
    console: Stream,
    lines: Receiver<Line>,
    folder: Artifacts,
    qmp: PathBuf,
    started: Instant,
    /// Keeps the folder of the sockets.
    _sockets: TempDir,
}

impl Guest {
    /// Starts QEMU for the request, with `args` after the request's own arguments.
    pub fn start(request: &Request, args: &[&str]) -> Result<Self> {
        let folder = Artifacts::create(&stamp(&request.name))?;
        let image =
            folder.write("Image", request.image.as_ref().unwrap_or(&request.kernel.image))?;
        let disk = match &request.disk {
            Disk::Bytes(bytes) => Some(folder.write("disk.itb", bytes.as_slice())?),
            _ => None,
        };
        let sockets = sockets()?;
        let (qmp, gdb) = (sockets.path().join("qmp"), sockets.path().join("gdb"));
        let mut command = Command::new(parts::qemu());
        command.args(&request.words(&image, disk.as_deref(), folder.path())[1..]);
        command.args(qemu::questions(&qmp, &gdb)).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());

        let started = Instant::now();
        let child = Guarded::spawn(&mut command)
            .with_context(|| format!("cannot start {}", parts::qemu().display()))?;
        let (_, stdout, _) = child.pipes();
        let (sender, lines) = mpsc::channel();
        let stdout = stdout.context("QEMU has no standard output")?;
        let console =
            Stream::read(stdout, &folder.file("console.log"), None, Some(sender), started)?;
        Ok(Self { child, console, lines, folder, qmp, started, _sockets: sockets })
    }

    /// Time since QEMU was started.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for the next line that `is_it` accepts; returns the time of that line. `patience`
    /// limits the wait for each line, not for all of them.
    pub fn heard(&self, patience: Duration, is_it: impl Fn(&str) -> bool) -> Result<Duration> {
        heard(&self.lines, patience, is_it)
    }

    /// Connects to the monitor, retrying while a QEMU that has just started may not listen yet.
    pub fn monitor(&self, patience: Duration) -> Result<Qmp> {
        loop {
            match Qmp::connect(&self.qmp) {
                Err(_) if self.elapsed() < patience && !interrupted() => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                connected => return connected,
            }
        }
    }

    /// Ends QEMU and removes the folder; returns the whole console.
    pub fn end(self) -> Result<String> {
        self.child.kill();
        let console = self.console.finish();
        self.folder.discard()?;
        Ok(console)
    }
}

/// Waits for the next line that `is_it` accepts; returns its time.
fn heard(
    lines: &Receiver<Line>,
    patience: Duration,
    is_it: impl Fn(&str) -> bool,
) -> Result<Duration> {
    loop {
        match lines.recv_timeout(patience) {
            Ok(line) if is_it(&line.text) => return Ok(line.at),
            Ok(_) => {}
            Err(_) if interrupted() => return Err(Interrupted.into()),
            Err(error) => return Err(error).context("the console is silent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_waited_for_and_silence_is_an_error() {
        let (sender, lines) = mpsc::channel();
        for (ms, text) in [(1, "a"), (2, "b"), (3, "b")] {
            sender.send(Line { at: Duration::from_millis(ms), text: text.to_owned() }).unwrap();
        }
        let heard = |text: &str| heard(&lines, Duration::from_millis(1), |line| line == text);
        assert_eq!(heard("b").unwrap(), Duration::from_millis(2));
        assert_eq!(heard("a").unwrap_err().to_string(), "the console is silent");
    }
}
