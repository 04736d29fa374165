//! Time until Linux's first message: from our "Bye!", and from QEMU's `-kernel`.
//!
//! `interop` measures it after its tables. The two kinds of run alternate, so that both see the
//! same host, and each run ends at the message. The host's clock times both at the console.
//!
//! - QEMU's time begins when it receives the command to start the CPU. It excludes QEMU's own start
//!   and loading.
//! - Our time includes the rest of the copy, the checks and the exit path.
//!
//! `earlycon` makes Linux print its first message immediately. The least times are compared,
//! because other work of the host only adds time. The result is printed beside its aim and fails
//! nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::bench::statistics::{Spread, spread};
use harness::{
    events::{Kind, classify},
    guest::Guest,
    request::Request,
};

/// Linux's command line.
pub const WORDS: &str = "earlycon console=ttyAMA0 panic=-1";

/// The aim for the additional time compared with QEMU, in milliseconds.
const AIM_MS: f64 = 20.0;

/// Linux's first message.
const FIRST: &str = "] Booting Linux on physical CPU";

/// The longest wait for a line.
const PATIENCE: Duration = Duration::from_secs(60);

/// The measured times, in milliseconds.
pub struct Times {
    qemu: Spread,
    ours: Spread,
}

impl Times {
    /// Measures `rounds` runs of each kind.
    pub fn measure(qemu: &Request, ours: &Request, rounds: usize) -> Result<Self> {
        let (mut from_qemu, mut from_us) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            from_qemu.push(first_message(qemu)?.as_secs_f64() * 1e3);
            from_us.push(first_message(ours)?.as_secs_f64() * 1e3);
        }
        let of = |times| spread(times).context("no runs");
        Ok(Self { qemu: of(from_qemu)?, ours: of(from_us)? })
    }

    /// Returns three cells: QEMU's time, our time, and the difference compared with the aim.
    pub fn cells(&self) -> [String; 3] {
        let cell = |times: &Spread| format!("{:.1} (median {:.1})", times.least, times.median);
        let more = self.ours.least - self.qemu.least;
        let verdict = if more <= AIM_MS { "kept" } else { "missed" };
        [cell(&self.qemu), cell(&self.ours), format!("{verdict}: {more:+.1}")]
    }
}

/// Runs until the message comes; returns how long that took.
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
