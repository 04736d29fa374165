//! The verdict on a run, reached after QEMU has ended or was ended.
//!
//! The console decides. If the guest can set QEMU's exit code, the code must agree: a semihosting
//! exit sets it, while a PSCI power-off always ends QEMU with 0.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

use crate::events::{Event, Kind};

/// The verdict on a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The run did what it was meant to do.
    Success,
    /// The run failed, with QEMU's exit code, or 128 and the number of the signal that ended QEMU.
    Failed(i32),
    /// xtask ended the run because it was out of time.
    TimedOut,
    /// xtask ended the run after a CPU printed that it stops.
    Stopped,
}

/// Why we stopped reading the console.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The console ended, and QEMU with it.
    Console,
    /// The deadline passed.
    OutOfTime,
    /// A CPU stopped, and the time for its last words is over.
    Stopped,
    /// The kernel printed its last marker, on a machine that need not end by itself.
    Marked,
}

impl Verdict {
    /// The exit code of xtask.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed(_) | Self::Stopped => 1,
            // The exit code that timeout(1) uses.
            Self::TimedOut => 124,
        }
    }

    /// Describes the verdict.
    pub fn words(self) -> String {
        match self {
            Self::Success => "success".to_owned(),
            Self::Failed(0) => {
                "failed: the machine ended with 0, but the console has no success marker".to_owned()
            }
            Self::Failed(code) => format!("failed: the machine ended with {code}"),
            Self::TimedOut => "failed: out of time".to_owned(),
            Self::Stopped => "failed: a CPU stopped".to_owned(),
        }
    }
}

/// The exit code as a shell reports it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Judges a run. The console decides, and the exit code too where the guest can set it. All
/// that we know of a payload is that the last kernel left for it and that it ended the machine.
pub fn judge(
    end: End,
    code: Option<i32>,
    semihosting: bool,
    payload: bool,
    events: &[Event],
) -> Verdict {
    let seen = |kind| events.iter().any(|event| event.kind == kind);
    let reached = seen(if payload { Kind::Bye } else { Kind::Success });
    let as_requested = reached && !seen(Kind::Failure) && !seen(Kind::Stopped);
    match (end, code) {
        (End::OutOfTime, _) => Verdict::TimedOut,
        (End::Stopped, _) => Verdict::Stopped,
        // The console closed, but QEMU did not end in time.
        (End::Console, None) => Verdict::TimedOut,
        (End::Marked, _) if as_requested => Verdict::Success,
        (End::Marked, code) => Verdict::Failed(code.unwrap_or(1)),
        (End::Console, Some(code)) if as_requested && (code == 0 || !semihosting) => {
            Verdict::Success
        }
        (End::Console, Some(code)) => Verdict::Failed(code),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn events(kinds: &[Kind]) -> Vec<Event> {
        kinds.iter().map(|&kind| Event { at: Duration::ZERO, kind, line: String::new() }).collect()
    }

    #[test]
    fn a_success_needs_the_marker_and_where_it_counts_the_code() {
        let good = events(&[Kind::Generation, Kind::Success]);
        assert_eq!(judge(End::Console, Some(0), true, false, &good), Verdict::Success);
        assert_eq!(judge(End::Console, Some(1), true, false, &good), Verdict::Failed(1));
        assert_eq!(judge(End::Console, Some(1), false, false, &good), Verdict::Success);
        assert_eq!(
            judge(End::Console, Some(0), true, false, &events(&[Kind::Generation])),
            Verdict::Failed(0)
        );
    }

    #[test]
    fn a_success_that_is_taken_back_or_does_not_end_is_none() {
        assert_eq!(
            judge(End::Console, Some(0), true, false, &events(&[Kind::Success, Kind::Failure])),
            Verdict::Failed(0)
        );
        assert_eq!(
            judge(End::Console, Some(0), false, false, &events(&[Kind::Success, Kind::Stopped])),
            Verdict::Failed(0)
        );
        assert_eq!(
            judge(End::OutOfTime, None, true, false, &events(&[Kind::Success])),
            Verdict::TimedOut
        );
        assert_eq!(
            judge(End::Console, None, true, false, &events(&[Kind::Success])),
            Verdict::TimedOut
        );
        assert_eq!(
            judge(End::Stopped, None, true, false, &events(&[Kind::Stopped])),
            Verdict::Stopped
        );
        let marked = |kind| judge(End::Marked, None, false, false, &events(&[kind]));
        assert_eq!(marked(Kind::Success), Verdict::Success);
        assert_eq!(marked(Kind::Failure), Verdict::Failed(1));
    }

    #[test]
    fn a_payload_is_gone_to_and_ends_the_machine() {
        let gone = events(&[Kind::Generation, Kind::Bye]);
        assert_eq!(judge(End::Console, Some(0), false, true, &gone), Verdict::Success);
        assert_eq!(
            judge(End::Console, Some(1), false, true, &gone),
            Verdict::Success,
            "its code may be anything"
        );
        assert_eq!(judge(End::Console, Some(0), false, false, &gone), Verdict::Failed(0));
        let not = events(&[Kind::Generation, Kind::Refused, Kind::Failure]);
        assert_eq!(judge(End::Console, Some(0), false, true, &not), Verdict::Failed(0));
        assert_eq!(
            judge(End::Console, Some(0), false, true, &events(&[Kind::Generation])),
            Verdict::Failed(0)
        );
        let stopped = events(&[Kind::Bye, Kind::Stopped]);
        assert_eq!(judge(End::Console, Some(0), false, true, &stopped), Verdict::Failed(0));
        assert_eq!(judge(End::OutOfTime, None, false, true, &gone), Verdict::TimedOut);
    }

    #[test]
    fn each_end_has_its_exit_code() {
        assert_eq!(Verdict::Success.exit_code(), 0);
        assert_eq!(Verdict::Failed(0).exit_code(), 1, "an end without the marker is no success");
        assert_eq!(Verdict::Failed(42).exit_code(), 1);
        assert_eq!(Verdict::Stopped.exit_code(), 1);
        assert_eq!(Verdict::TimedOut.exit_code(), 124);
    }
}
