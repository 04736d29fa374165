//! How long it takes to Linux's first message: from our "Bye!", and from the CPU's start under QEMU's own `-kernel`.
//!
//! *When:* by `protocols`, behind its tables. The two are run by turns, so that both see the same host, and each run is ended when its message has
//! come. Both are timed by the host's clock, at the console. QEMU's time begins when it is told to let the CPU run: its own start is not counted, nor
//! that it puts kernel and ramdisk into memory meanwhile. Ours has what is left to copy, the checks and the way out in it. `earlycon` makes Linux
//! print its first message when it has it. The least of each is compared: what else the host does only ever adds. *Leaves* figures beside their aim
//! and fails nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    bench::statistics::{Spread, spread},
    events::{Kind, classify},
    guest::Guest,
    request::Request,
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
    let guest = Guest::start(request, if request.payload { &[] } else { &["-S"] })?;
    let from = if request.payload {
        guest.heard(PATIENCE, |line| classify(line) == Some(Kind::Bye)).context("no \"Bye!\"")?
    } else {
        let mut monitor = guest.monitor(PATIENCE)?;
        let from = guest.elapsed();
        monitor.execute("cont", &json!({}))?;
        from
    };
    let came = guest.heard(PATIENCE, |line| line.contains(FIRST)).context("Linux says nothing")?;
    guest.end()?;
    Ok(came.saturating_sub(from))
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
