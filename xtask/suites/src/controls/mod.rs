//! Negative controls: each safety step is left out once, and the run must show it.
//!
//! Each step has two runs:
//!
//! - With the step, the run must succeed, or stop if the step exists to stop it.
//! - Without the step, the run must fail, and the evidence must name the step.
//!
//! A control whose two runs look the same proves nothing, and fails. To leave a step out, the
//! control replaces instructions of the Image. A step is a routine, found by its symbol, so the
//! shipped kernel needs no second path for this.
//!
//! The booted Image and the one on the disk are patched separately. Usually the booted kernel lacks
//! the step; the next kernel is unmodified and reports the state that it was left in.

mod looks;
mod page;
mod steps;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use harness::{
    cmdline::{Base, Cmdline, Restart},
    disk,
    invariants::Modes,
    patch::Patched,
    request::{Disk, Request},
};
use protocol::fit::writer as fit;

use super::case::{Case, Trial, case};

pub use self::page::Seen;

/// A patch of a kernel.
type Patch = for<'a> fn(Patched<'a>) -> Result<Patched<'a>>;

/// A safety step of the kexec path, or one of the entry path that a kexec depends on.
struct Step {
    name: &'static str,
    /// A clause that says what the step does.
    does: &'static str,
    /// File and symbol of the step.
    at: [&'static str; 2],
    /// A clause that says what happens without the step, as observed.
    without: &'static str,
    shown: Shown,
}

/// The evidence that a step is needed.
enum Shown {
    /// A control of this suite, which leaves the step out.
    Here(Experiment),
    /// A case of another suite, which provokes what the step refuses, and the parts of the line
    /// that it expects.
    By(&'static str, &'static [&'static str]),
    /// The check `model`, which runs the linked code on a memory with caches and stale
    /// translations. QEMU models neither.
    Model,
    /// None: the model starts after this step.
    Assumed,
}

/// Two runs that differ only in the step.
struct Experiment {
    /// A clause that says how the step is left out.
    how: &'static str,
    machine: &'static str,
    restart: Restart,
    base: Base,
    generations: u32,
    append: &'static [&'static str],
    args: &'static [&'static str],
    /// Other changes of both runs.
    alter: fn(&mut Request) -> Result<()>,
    /// Makes the disk of the next generations from their Image.
    disk: fn(Vec<u8>) -> Vec<u8>,
    /// Patches of both runs that provoke what the step guards against.
    provoked: Kernels,
    /// Patches of the second run that leave the step out.
    omitted: Kernels,
    /// Collects the reports of a run.
    look: looks::Look,
    /// The report expected with the step, or `None` if there must be no report.
    green: Option<&'static str>,
    /// The report expected without the step. `None` means that nothing fails without it, for the
    /// reason given in `without`. Once something does fail, make the control a real one.
    red: Option<&'static str>,
    /// The report must be a refusal after which the generation continues, with all its memory
    /// freed.
    continues: bool,
}

/// The two kernels of a run.
#[derive(Clone, Copy)]
struct Kernels {
    booted: Patch,
    next: Patch,
}

const WHOLE: Kernels = Kernels { booted: |kernel| Ok(kernel), next: |kernel| Ok(kernel) };

/// Defaults: mode nvhe, a hot restart to the same address, no report with the step.
const PLAIN: Experiment = Experiment {
    how: "",
    machine: "nvhe",
    restart: Restart::Hot,
    base: Base::Same,
    // Generation 2 is the first that equals all later ones; one follows it.
    generations: 4,
    append: &[],
    args: &[],
    alter: |_| Ok(()),
    disk: |image| fit::write(&[disk::payload("kernel", image, Some(disk::LOAD))]),
    provoked: WHOLE,
    omitted: WHOLE,
    look: looks::logs,
    green: None,
    red: None,
    continues: false,
};

/// Time limit of a run: short, since some runs hang, but ample on a busy host.
const LIMIT: Duration = Duration::from_secs(20);

/// Returns one case for each step with a control. They add their evidence to `seen`, for the page.
pub fn cases(seen: &Arc<Seen>) -> Vec<Case> {
    let here = steps::STEPS.iter().filter_map(|step| match &step.shown {
        Shown::Here(experiment) => Some((step, experiment)),
        _ => None,
    });
    here.map(|(step, experiment)| {
        let seen = Arc::clone(seen);
        case(format!("controls/{}", step.name), move |trial| {
            seen.keep(step.name, experiment.pass(trial)?);
            Ok(())
        })
    })
    .collect()
}

/// Returns the names of the cases of other suites that show a step.
#[cfg(test)]
pub fn elsewhere() -> impl Iterator<Item = &'static str> {
    steps::STEPS
        .iter()
        .filter_map(|step| if let Shown::By(case, _) = step.shown { Some(case) } else { None })
}

impl Experiment {
    /// Makes both runs and returns the evidence, which is empty if `red` is `None`.
    fn pass(&self, trial: &mut Trial<'_>) -> Result<String> {
        let green = self.report(trial, WHOLE)?;
        match self.green {
            None => ensure!(green.is_empty(), "with the step, the run reports {green:#?}"),
            Some(words) => ensure!(
                has(&green, words).is_some(),
                "with the step, \"{words}\" is not among {green:#?}"
            ),
        }
        let red = self.report(trial, self.omitted)?;
        let Some(words) = self.red else {
            ensure!(
                red.is_empty(),
                "without the step, the run reports {red:#?}, and nothing was expected"
            );
            return Ok(String::new());
        };
        ensure!(
            has(&green, words).is_none(),
            "the run with the step reports \"{words}\" as well: {green:#?}"
        );
        let Some(evidence) = has(&red, words) else {
            bail!("without the step, \"{words}\" is not among {red:#?}")
        };
        let continues = |console: &str| console.contains("continues, all its memory given back");
        ensure!(
            continues(&trial.last().context("no run was made")?.console) || !self.continues,
            "no generation continued after \"{evidence}\""
        );
        Ok(evidence.clone())
    }

    /// Makes a run with these kernels and returns its reports.
    fn report(&self, trial: &mut Trial<'_>, omitted: Kernels) -> Result<Vec<String>> {
        let kernel = trial.kernel();
        let booted = (omitted.booted)((self.provoked.booted)(Patched::new(kernel))?)?.image;
        let next = (omitted.next)((self.provoked.next)(Patched::new(kernel))?)?.image;
        let append = self.append.iter().map(|&word| word.to_owned()).collect();
        let cmdline = Cmdline {
            generations: self.generations,
            restart: self.restart,
            base: self.base,
            append,
            ..trial.cmdline()
        };
        let mut request = trial.request_psci(self.machine, &cmdline)?;
        request.timeout = LIMIT;
        request.image = Some(booted);
        request.disk = Disk::Bytes((self.disk)(next).into());
        request.args.extend(self.args.iter().map(|&arg| arg.to_owned()));
        (self.alter)(&mut request)?;
        let modes = if cmdline.append.iter().any(|word| word == "alternate") {
            Modes::Alternate
        } else {
            Modes::All(self.machine)
        };
        (self.look)(trial, request, &cmdline, modes)
    }
}

/// Returns the first line that contains `words`.
fn has<'a>(lines: &'a [String], words: &str) -> Option<&'a String> {
    lines.iter().find(|line| line.contains(words))
}
