//! What is said at the end of a run, and the exit code that it becomes.
//!
//! *When:* after `run::run`. A success is one line. A failure shows the last lines of the console, where each CPU stood,
//! where everything is kept, and the line that makes the run again.

use crate::{console::tail, events::Kind, qemu, request::Request, run::Outcome, verdict::Verdict};

/// How many of the console's last lines a failure shows.
const LAST_LINES: usize = 20;

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
