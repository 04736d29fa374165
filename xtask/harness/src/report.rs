//! The report at the end of a run.
//!
//! A success is one line. A failure shows the last lines of the console, where each CPU stood, the
//! folder of the run, and the line that repeats the run.

use crate::{console::tail, events::Kind, qemu, request::Request, run::Outcome, verdict::Verdict};

/// The number of the console's last lines that a failure shows.
const LAST_LINES: usize = 20;

/// Formats the whole report.
pub fn words(request: &Request, outcome: &Outcome) -> String {
    let logs = outcome.events.iter().filter(|event| event.kind == Kind::Generation).count();
    let (verdict, seconds) = (outcome.verdict.words(), outcome.elapsed.as_secs_f64());
    let end = format!("{}: {verdict}; generations seen: {logs}, in {seconds:.2} s", request.name);
    if outcome.verdict == Verdict::Success {
        return if request.keep {
            format!("{end}; kept in {}", outcome.folder.path().display())
        } else {
            end
        };
    }
    let again = request.again.clone().unwrap_or_else(|| {
        let command = outcome.folder.file("command");
        qemu::shell_line(["sh", &command.display().to_string()])
    });
    format!("{end}\n{}{}", seen(outcome), part("Run it again:", &again)).trim_end().to_owned()
}

/// Formats the evidence of a failed run.
pub fn seen(outcome: &Outcome) -> String {
    [
        part("The console's last lines:", &tail(&outcome.console, LAST_LINES)),
        part("QEMU's messages:", &tail(&outcome.qemu, LAST_LINES)),
        part("Where the CPUs stood:", outcome.explanation.as_deref().unwrap_or_default()),
        part("Kept in:", &outcome.folder.path().display().to_string()),
    ]
    .concat()
}

/// Formats lines under a title; empty if there are no lines.
fn part(title: &str, body: &str) -> String {
    if body.trim().is_empty() {
        return String::new();
    }
    body.trim_end().lines().fold(format!("\n{title}\n"), |text, line| text + "  " + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_without_lines_has_no_title() {
        assert_eq!(part("Why:", " \n"), "");
        assert_eq!(part("Why:", "one\n\ntwo\n"), "\nWhy:\n  one\n  \n  two\n");
    }
}
