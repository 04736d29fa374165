//! Ways to look at a run: each gives the lines that tell of something wrong, and none where all went well.
//!
//! *When:* twice for each control. What every look tells: the console's lines that complain, a run's end other than success, where a run that had to
//! be ended stood, and the first rule of several generations that was broken. An error is a run that could not be made.

use anyhow::{Context, Result};
use boot::marker;

use crate::{
    kernel_build::Built,
    orders::Orders,
    proof::{Modes, check},
    request::Request,
    run::Outcome,
    transcript,
    verdict::Verdict,
};

use super::super::{case::Trial, debugger::debugged, exceptions, memory, refused::late};

/// Makes the run, and gives what is to be said of it.
pub type Look = fn(&mut Trial<'_>, Request, &Orders, Modes) -> Result<Vec<String>>;

/// What a console's line has that complains.
const COMPLAINTS: [&str; 4] = [marker::REFUSED, marker::EMERGENCY, "was not started", "FAILED"];

/// The generations, as they tell of themselves.
pub fn lives(
    trial: &mut Trial<'_>,
    request: Request,
    orders: &Orders,
    modes: Modes,
) -> Result<Vec<String>> {
    let outcome = trial.run(&request)?;
    Ok(told(outcome, judged(outcome, orders, modes)))
}

/// The last generation's Image in memory, and what its first instruction found.
pub fn image(
    trial: &mut Trial<'_>,
    request: Request,
    orders: &Orders,
    modes: Modes,
) -> Result<Vec<String>> {
    let judged = memory::image(trial, request, orders, modes);
    Ok(told(trial.last().context("no run was made")?, judged))
}

/// The loadables in memory.
pub fn loadables(
    trial: &mut Trial<'_>,
    request: Request,
    orders: &Orders,
    modes: Modes,
) -> Result<Vec<String>> {
    let judged = memory::loadables(trial, request, orders, modes);
    Ok(told(trial.last().context("no run was made")?, judged))
}

/// QEMU's log of exceptions: who answered SOFT_RESTART.
pub fn answers(
    trial: &mut Trial<'_>,
    mut request: Request,
    orders: &Orders,
    modes: Modes,
) -> Result<Vec<String>> {
    let stub = trial.kernel().symbol("hyp_stub_vectors")?;
    request.args.extend(["-d", "int", "-D", "{folder}/exceptions.log"].map(str::to_owned));
    let outcome = trial.run(&request)?;
    let mut told = told(outcome, judged(outcome, orders, modes));
    let log = std::fs::read_to_string(outcome.folder.file("exceptions.log"))
        .context("QEMU left no log")?;
    told.extend(exceptions::strangers(&log, &transcript::lives(&outcome.console)?, stub)?);
    Ok(told)
}

/// The hyp-stub's conformance suite: the console, whatever the run's end, which in nvhe is an exception on purpose.
pub fn suite(trial: &mut Trial<'_>, request: Request, _: &Orders, _: Modes) -> Result<Vec<String>> {
    let outcome = trial.run(&request)?;
    let lines = outcome
        .console
        .lines()
        .filter(|line| line.contains("FAILED") || line.contains("checks passed"));
    Ok(lines.map(str::to_owned).collect())
}

/// The generations, where a debugger turned over a byte of a source between the booted kernel's two looks at it.
pub fn damaged(
    trial: &mut Trial<'_>,
    request: Request,
    orders: &Orders,
    modes: Modes,
) -> Result<Vec<String>> {
    const SOURCE: usize = 3;
    let kernel: &Built = trial.kernel();
    let outcome = debugged(trial, request, |mut gdb| {
        late::damage(&mut gdb, kernel, SOURCE)?;
        gdb.detach()
    })?;
    Ok(told(outcome, judged(outcome, orders, modes)))
}

fn judged(outcome: &Outcome, orders: &Orders, modes: Modes) -> Result<()> {
    check(&transcript::lives(&outcome.console)?, orders, modes)
}

/// What a run itself tells, and what was judged of it.
fn told(outcome: &Outcome, judged: Result<()>) -> Vec<String> {
    let complains = |line: &&str| COMPLAINTS.iter().any(|words| line.contains(words));
    let mut told: Vec<String> =
        outcome.console.lines().filter(complains).map(str::to_owned).collect();
    if outcome.verdict != Verdict::Success {
        told.push(outcome.verdict.words());
    }
    told.extend(outcome.explanation.iter().flat_map(|text| text.lines().next()).map(str::to_owned));
    told.extend(judged.err().map(|error| format!("{error:#}")));
    told
}
