//! How long it takes to Linux's first message: from our "Bye!", and from the CPU's start under QEMU's own `-kernel`.
//!
//! *When:* by `protocols`, behind its tables. The two are run by turns, so that both see the same host, and each run is ended when its message has
//! come. Both are timed by the host's clock, at the console. QEMU's time begins when it is told to let the CPU run: its own start is not counted, nor
//! that it puts kernel and ramdisk into memory meanwhile. Ours has what is left to copy, the checks and the way out in it. `earlycon` makes Linux
//! print its first message when it has it. The least of each is compared: what else the host does only ever adds. *Leaves* figures beside their aim
//! and fails nothing.

use std::{
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    bench::statistics::{Spread, spread},
    console::{Line, Stream},
    events::{Kind, classify},
    explain::Qmp,
    folder::{Folder, sockets, stamp},
    processes::{Guarded, Interrupted, interrupted},
    qemu,
    request::{Disk, Request},
};

/// Linux's orders.
pub const WORDS: &str = "earlycon console=ttyAMA0 panic=-1";

/// How much longer than from QEMU it may take, in milliseconds: an aim.
const AIM_MS: f64 = 20.0;

/// What Linux says first.
const FIRST: &str = "] Booting Linux on physical CPU";

/// The longest from one line to the next.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured, in milliseconds.
pub struct Times {
    qemu: Spread,
    ours: Spread,
}

impl Times {
    /// Makes so many runs of each.
    pub fn measure(qemu: &Request, ours: &Request, rounds: usize) -> Result<Self> {
        let (mut from_qemu, mut from_us) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            from_qemu.push(first_message(qemu)?.as_secs_f64() * 1e3);
            from_us.push(first_message(ours)?.as_secs_f64() * 1e3);
        }
        let of = |times| spread(times).context("no runs");
        Ok(Self { qemu: of(from_qemu)?, ours: of(from_us)? })
    }

    /// From QEMU, from us, and how the two compare with the aim.
    pub fn cells(&self) -> [String; 3] {
        let cell = |times: &Spread| format!("{:.1} (median {:.1})", times.least, times.median);
        let more = self.ours.least - self.qemu.least;
        let verdict = if more <= AIM_MS { "kept" } else { "missed" };
        [cell(&self.qemu), cell(&self.ours), format!("{verdict}: {more:+.1}")]
    }
}

/// One run, until the message has come; how long that took.
fn first_message(request: &Request) -> Result<Duration> {
    let folder = Folder::create(&stamp(&request.name))?;
    let image = folder.write("Image", request.image.as_ref().unwrap_or(&request.kernel.image))?;
    let disk = match &request.disk {
        Disk::Bytes(bytes) => Some(folder.write("disk.itb", bytes.as_slice())?),
        _ => None,
    };
    let sockets = sockets()?;
    let (qmp, gdb) = (sockets.path().join("qmp"), sockets.path().join("gdb"));
    let mut command = Command::new(qemu::QEMU);
    command.args(&request.words(&image, disk.as_deref(), folder.path())[1..]).args(qemu::questions(&qmp, &gdb));
    if !request.payload {
        command.arg("-S");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());

    let started = Instant::now();
    let child = Guarded::spawn(&mut command).with_context(|| format!("cannot start {}", qemu::QEMU))?;
    let (_, stdout, _) = child.pipes();
    let (sender, lines) = mpsc::channel();
    let stdout = stdout.context("QEMU has no standard output")?;
    let console = Stream::read(stdout, &folder.file("console.log"), None, Some(sender), started)?;
    let from = if request.payload {
        heard(&lines, |line| classify(line) == Some(Kind::Bye)).context("no \"Bye!\"")?
    } else {
        let mut monitor = connected(&qmp, started)?;
        let from = started.elapsed();
        monitor.execute("cont", &json!({}))?;
        from
    };
    let came = heard(&lines, |line| line.contains(FIRST)).context("Linux says nothing")?;
    child.kill();
    console.finish();
    folder.discard()?;
    Ok(came.saturating_sub(from))
}

/// The monitor of a QEMU that has just been started.
fn connected(socket: &std::path::Path, started: Instant) -> Result<Qmp> {
    loop {
        match Qmp::connect(socket) {
            Err(_) if started.elapsed() < PATIENCE && !interrupted() => std::thread::sleep(Duration::from_millis(5)),
            connected => return connected,
        }
    }
}

/// When the first such line came.
fn heard(lines: &Receiver<Line>, is_it: impl Fn(&str) -> bool) -> Result<Duration> {
    loop {
        match lines.recv_timeout(PATIENCE) {
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
    fn the_aim_is_beside_the_least() {
        let of = |times: [f64; 3]| spread(times).unwrap();
        let times = Times { qemu: of([40.0, 38.0, 90.0]), ours: of([60.0, 55.0, 59.0]) };
        assert_eq!(times.cells(), ["38.0 (median 40.0)", "55.0 (median 59.0)", "kept: +17.0"]);
        let slower = Times { ours: of([60.5, 61.0, 58.5]), ..times };
        assert_eq!(slower.cells()[2], "missed: +20.5");
    }
}
