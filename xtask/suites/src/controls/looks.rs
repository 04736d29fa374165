//! Looks: each makes a run and collects its reports of a failure, or none if all went well.
//!
//! Every look collects
//!
//! - console lines with a complaint;
//! - the verdict, unless the run succeeded;
//! - the position of the CPU, if the run hung;
//! - the first rule of `invariants` that a generation breaks.
//!
//! A look returns an error only if it could not make the run.

use anyhow::{Context, Result};
use boot::marker;

use harness::{
    cmdline::Cmdline,
    invariants::{Modes, check},
    kernel_build::Built,
    request::Request,
    run::Outcome,
    transcript,
    verdict::Verdict,
};

use super::super::{case::Trial, debugger::debugged, exceptions, memory, refused::late};

/// Makes a run and returns its reports.
pub type Look = fn(&mut Trial<'_>, Request, &Cmdline, Modes) -> Result<Vec<String>>;

/// Text that marks a console line as a complaint.
const COMPLAINTS: [&str; 4] = [marker::REFUSED, marker::FATAL, "was not started", "FAILED"];

/// Checks what the generations print.
pub fn logs(
    trial: &mut Trial<'_>,
    request: Request,
    cmdline: &Cmdline,
    modes: Modes,
) -> Result<Vec<String>> {
    let outcome = trial.run(&request)?;
    Ok(report(outcome, judged(outcome, cmdline, modes)))
}

/// Checks the last generation's Image in memory, and its entry record.
pub fn image(
    trial: &mut Trial<'_>,
    request: Request,
    cmdline: &Cmdline,
    modes: Modes,
) -> Result<Vec<String>> {
    let judged = memory::image(trial, request, cmdline, modes);
    Ok(report(trial.last().context("no run was made")?, judged))
}

/// Checks the loadables in memory.
pub fn loadables(
    trial: &mut Trial<'_>,
    request: Request,
    cmdline: &Cmdline,
    modes: Modes,
) -> Result<Vec<String>> {
    let judged = memory::loadables(trial, request, cmdline, modes);
    Ok(report(trial.last().context("no run was made")?, judged))
}

/// Checks in QEMU's log of exceptions which vectors answered SOFT_RESTART.
pub fn answers(
    trial: &mut Trial<'_>,
    mut request: Request,
    cmdline: &Cmdline,
    modes: Modes,
) -> Result<Vec<String>> {
    let stub = trial.kernel().symbol("hyp_stub_vectors")?;
    request.args.extend(["-d", "int", "-D", "{folder}/exceptions.log"].map(str::to_owned));
    let outcome = trial.run(&request)?;
    let mut reports = report(outcome, judged(outcome, cmdline, modes));
    let log = std::fs::read_to_string(outcome.folder.file("exceptions.log"))
        .context("QEMU left no log")?;
    reports.extend(exceptions::strangers(&log, &transcript::logs(&outcome.console)?, stub)?);
    Ok(reports)
}

/// Collects the results of the hyp-stub's conformance suite, with any verdict: in nvhe the suite
/// ends with an intended exception.
pub fn suite(
    trial: &mut Trial<'_>,
    request: Request,
    _: &Cmdline,
    _: Modes,
) -> Result<Vec<String>> {
    let outcome = trial.run(&request)?;
    let lines = outcome
        .console
        .lines()
        .filter(|line| line.contains("FAILED") || line.contains("checks passed"));
    Ok(lines.map(str::to_owned).collect())
}

/// Checks what the generations print after a debugger flipped a bit of a source between the booted
/// kernel's two checksums of it.
pub fn damaged(
    trial: &mut Trial<'_>,
    request: Request,
    cmdline: &Cmdline,
    modes: Modes,
) -> Result<Vec<String>> {
    const SOURCE: usize = 3;
    let kernel: &Built = trial.kernel();
    let outcome = debugged(trial, request, |mut gdb| {
        late::damage(&mut gdb, kernel, SOURCE)?;
        gdb.detach()
    })?;
    Ok(report(outcome, judged(outcome, cmdline, modes)))
}

fn judged(outcome: &Outcome, cmdline: &Cmdline, modes: Modes) -> Result<()> {
    check(&transcript::logs(&outcome.console)?, cmdline, modes)
}

/// Collects the reports of a run, and the error of the check `judged`.
fn report(outcome: &Outcome, judged: Result<()>) -> Vec<String> {
    let complains = |line: &&str| COMPLAINTS.iter().any(|words| line.contains(words));
    let mut reports: Vec<String> =
        outcome.console.lines().filter(complains).map(str::to_owned).collect();
    if outcome.verdict != Verdict::Success {
        reports.push(outcome.verdict.words());
    }
    reports
        .extend(outcome.explanation.iter().flat_map(|text| text.lines().next()).map(str::to_owned));
    reports.extend(judged.err().map(|error| format!("{error:#}")));
    reports
}
