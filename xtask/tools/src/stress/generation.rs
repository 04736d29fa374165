//! One run of a cell: makes it and checks each of its generations.
//!
//! A run that passes leaves nothing; a failed one leaves its folder.

use std::sync::Arc;

use anyhow::Result;

use harness::{
    console::tail,
    invariants::{Broken, prove},
    request::Medium,
    run::{Outcome, run},
    transcript::{self, GenerationLog},
    verdict::Verdict,
};

use super::{
    campaign::Made,
    draw::{Drawn, Job},
    setting::Setting,
    tally::Failure,
};

/// The number of the console's last lines that a failure shows.
const LAST_LINES: usize = 30;

/// Makes the run, with `more` arguments for QEMU.
pub fn make(setting: &Setting, job: &Job, more: &[String]) -> Result<Made> {
    let drawn = job.drawn(setting.seed, &setting.config)?;
    let cmdline = job.cmdline(&drawn);
    let mut request = job.request(&drawn, &cmdline, setting)?;
    request.seen = Some(Arc::clone(&setting.counters.done));
    request.args.extend_from_slice(more);
    // Keep the folder: the check after the run may still need it.
    request.keep = true;
    let outcome = run(&request)?;
    let (logs, wrong) = match transcript::logs(&outcome.console) {
        Ok(logs) => {
            let wrong = if outcome.verdict == Verdict::Success {
                prove(&logs, &cmdline, job.cell.modes(), Some(job.cell.cpus)).err()
            } else {
                Some(ended(&outcome, &logs))
            };
            (logs, wrong.map(|broken| (Some(broken.generation), broken.to_string())))
        }
        Err(error) => (Vec::new(), Some((None, format!("the console does not parse: {error:#}")))),
    };
    let seconds = outcome.elapsed.as_secs_f64();
    let failure = wrong.map(|(generation, why)| Failure {
        generation,
        why,
        again: job.again(setting),
        ..seen(job, &drawn, &outcome)
    });
    if failure.is_none() {
        outcome.folder.discard()?;
    }
    Ok(Made { logs, seconds, failure, faults: Vec::new() })
}

/// The broken rule for a run that did not end with success.
fn ended(outcome: &Outcome, logs: &[GenerationLog]) -> Broken {
    let generation = logs.last().map_or(0, |gen_log| gen_log.number);
    Broken { generation, rule: "ends with success", why: outcome.verdict.words() }
}

/// The evidence of a run.
pub fn seen(job: &Job, drawn: &Drawn, outcome: &Outcome) -> Failure {
    let cell = &job.cell;
    Failure {
        cell: cell.name(),
        machine: format!(
            "{}, {} × {}, GICv{}, {}, {}{}{}",
            cell.machine,
            cell.cpus,
            drawn.cpu,
            cell.gic,
            drawn.memory,
            job.cmdline(drawn).append.join(" "),
            if drawn.network { " network" } else { "" },
            if drawn.fit == Medium::Initrd { " initrd" } else { "" }
        ),
        seed: format!("{:#018x}", drawn.seed),
        console: tail(&outcome.console, LAST_LINES),
        stood: outcome.explanation.clone().unwrap_or_default(),
        folder: outcome.folder.path().display().to_string(),
        ..Failure::default()
    }
}
