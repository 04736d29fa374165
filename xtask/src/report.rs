//! What is said at the end of a run, and the exit code that it becomes.
//!
//! *When:* after `run::run`. A success is one line. A failure shows the last lines of the console, where each CPU stood,
//! where everything is kept, and the line that makes the run again.

use crate::{
    console::{Kind, tail},
    qemu,
    run::{Outcome, Request, Verdict},
};

/// How many of the console's last lines a failure shows.
const LAST_LINES: usize = 20;

impl Verdict {
    /// The exit code of xtask.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed(_) | Self::Stopped => 1,
            // As timeout(1) has it.
            Self::TimedOut => 124,
        }
    }

    /// The end in words.
    fn words(self) -> String {
        match self {
            Self::Success => "success".to_owned(),
            Self::Failed(0) => "failed: QEMU ended well, but the console does not tell of a success".to_owned(),
            Self::Failed(code) => format!("failed: QEMU ended with {code}"),
            Self::TimedOut => "failed: out of time".to_owned(),
            Self::Stopped => "failed: a CPU stopped".to_owned(),
        }
    }
}

/// The words at the end of the run.
pub fn words(request: &Request, outcome: &Outcome) -> String {
    let folder = outcome.folder.path();
    let lives = outcome.events.iter().filter(|event| event.kind == Kind::Generation).count();
    let (verdict, seconds) = (outcome.verdict.words(), outcome.elapsed.as_secs_f64());
    let end = format!("{}: {verdict}; generations seen: {lives}, in {seconds:.2} s", request.name);
    if outcome.verdict == Verdict::Success {
        return if request.keep { format!("{end}; kept in {}", folder.display()) } else { end };
    }
    let again = request.again.clone().unwrap_or_else(|| {
        let command = outcome.folder.file("command");
        qemu::shell_line(["sh", &command.display().to_string()])
    });
    let mut text = format!("{end}\n");
    let mut part = |title: &str, body: &str| {
        if !body.trim().is_empty() {
            text.push_str(&format!("\n{title}\n"));
            body.trim_end().lines().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    };
    part("The console's last lines:", &tail(&outcome.console, LAST_LINES));
    part("QEMU's own words:", &tail(&outcome.qemu, LAST_LINES));
    part("Where it stood:", outcome.explanation.as_deref().unwrap_or_default());
    part("Kept in:", &folder.display().to_string());
    part("Run it again:", &again);
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_exit_code() {
        assert_eq!(Verdict::Success.exit_code(), 0);
        assert_eq!(Verdict::Failed(0).exit_code(), 1, "an end without the marker is no success");
        assert_eq!(Verdict::Failed(42).exit_code(), 1);
        assert_eq!(Verdict::Stopped.exit_code(), 1);
        assert_eq!(Verdict::TimedOut.exit_code(), 124);
    }
}
