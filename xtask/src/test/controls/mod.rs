//! Negative controls: each safety step left out once, and what is then seen of it.
//!
//! *When:* two runs for each step. In one the kernel is whole: it must go well, or stop where that is what the step is for. In the other the step is
//! left out, by instructions of the Image put in place of others: it must go wrong, and the evidence must name the step. A control whose two runs
//! look the same proves nothing, and fails. The shipped kernel has no second path for this; a step is a routine, and is found by its name.
//!
//! The Image that is booted and the one on the disk are patched apart: mostly the booted generation leaves the step out, and the next one, which is
//! whole, tells what it was left in.

mod looks;
mod page;
mod steps;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    disk, fit,
    orders::{Base, Orders, Restart},
    proof::Modes,
    request::{Disk, Request},
};

use super::{
    case::{Case, Trial, case},
    patch::Patched,
};

pub use self::page::Seen;

/// A change of a kernel.
type Patch = for<'a> fn(Patched<'a>) -> Result<Patched<'a>>;

/// A safety step of the way out, or of the way in where it answers for it.
struct Step {
    name: &'static str,
    /// What it does.
    does: &'static str,
    /// Where it is: file, symbol.
    at: [&'static str; 2],
    /// What happens without it, as it was observed.
    without: &'static str,
    shown: Shown,
}

/// How it is seen that a step is needed.
enum Shown {
    /// By leaving it out.
    Here(Experiment),
    /// By another suite's case, which shows what the step is there to refuse, in these words.
    By(&'static str, &'static str),
    /// QEMU models no caches and keeps no stale translation: by the check `model`, which runs the linked code over a memory that does.
    Model,
    /// By nothing that runs: the model begins behind it.
    Assumed,
}

/// Two runs that differ in the step alone.
struct Experiment {
    /// How the step is left out, in words.
    how: &'static str,
    machine: &'static str,
    restart: Restart,
    base: Base,
    generations: u32,
    append: &'static [&'static str],
    args: &'static [&'static str],
    /// Other changes of both runs.
    alter: fn(&mut Request) -> Result<()>,
    /// The disk that the next generations come from, given their Image.
    disk: fn(Vec<u8>) -> Vec<u8>,
    /// What the step is there for, brought about in both runs.
    provoked: Kernels,
    /// The step, left out in one of them.
    omitted: Kernels,
    /// What is looked at.
    look: looks::Look,
    /// What is told where the step is done: nothing, or what it is there to say.
    green: Option<&'static str>,
    /// What is told where it is left out. `None`: all goes well without it too, for a reason that the step gives; when that changes, the control is to
    /// be made a real one.
    red: Option<&'static str>,
    /// It is a refusal that tells, and the generation lives on, all its memory given back.
    lives_on: bool,
}

/// The two kernels of a run.
#[derive(Clone, Copy)]
struct Kernels {
    booted: Patch,
    next: Patch,
}

const WHOLE: Kernels = Kernels { booted: |kernel| Ok(kernel), next: |kernel| Ok(kernel) };

/// nvhe, hot, at the same place; all goes well with the step.
const PLAIN: Experiment = Experiment {
    how: "",
    machine: "nvhe",
    restart: Restart::Hot,
    base: Base::Same,
    // One more than the first that is like all later ones.
    generations: 4,
    append: &[],
    args: &[],
    alter: |_| Ok(()),
    disk: |image| fit::write(&[disk::payload("kernel", image, Some(disk::LOAD))]),
    provoked: WHOLE,
    omitted: WHOLE,
    look: looks::lives,
    green: None,
    red: None,
    lives_on: false,
};

/// A run that hangs is to end soon; a host that is busy with other things takes much longer than a generation.
const LIMIT: Duration = Duration::from_secs(20);

/// One for each step that is shown here. What they see is kept for the page.
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

/// The cases of other suites that show a step.
#[cfg(test)]
pub fn elsewhere() -> impl Iterator<Item = &'static str> {
    steps::STEPS
        .iter()
        .filter_map(|step| if let Shown::By(case, _) = step.shown { Some(case) } else { None })
}

impl Experiment {
    /// Makes both runs; gives the evidence, which is empty where none is expected.
    fn pass(&self, trial: &mut Trial<'_>) -> Result<String> {
        let green = self.told(trial, WHOLE)?;
        match self.green {
            None => ensure!(green.is_empty(), "with the step, this is told: {green:#?}"),
            Some(words) => ensure!(
                has(&green, words).is_some(),
                "with the step, \"{words}\" is not among {green:#?}"
            ),
        }
        let red = self.told(trial, self.omitted)?;
        let Some(words) = self.red else {
            ensure!(
                red.is_empty(),
                "without the step this is told, and nothing was expected: {red:#?}"
            );
            return Ok(String::new());
        };
        ensure!(
            has(&green, words).is_none(),
            "with the step, \"{words}\" is told all the same: {green:#?}"
        );
        let Some(evidence) = has(&red, words) else {
            bail!("without the step, \"{words}\" is not among what is told: {red:#?}")
        };
        let lives_on = |console: &str| console.contains("lives on, all its memory given back");
        ensure!(
            lives_on(&trial.last().context("no run was made")?.console) || !self.lives_on,
            "no generation lived on after \"{evidence}\""
        );
        Ok(evidence.clone())
    }

    /// What is told of a run with these kernels.
    fn told(&self, trial: &mut Trial<'_>, omitted: Kernels) -> Result<Vec<String>> {
        let kernel = trial.kernel();
        let booted = (omitted.booted)((self.provoked.booted)(Patched::new(kernel))?)?.image;
        let next = (omitted.next)((self.provoked.next)(Patched::new(kernel))?)?.image;
        let append = self.append.iter().map(|&word| word.to_owned()).collect();
        let orders = Orders {
            generations: self.generations,
            restart: self.restart,
            base: self.base,
            append,
            ..trial.orders()
        };
        let mut request = trial.request_psci(self.machine, &orders)?;
        request.timeout = LIMIT;
        request.image = Some(booted);
        request.disk = Disk::Bytes((self.disk)(next).into());
        request.args.extend(self.args.iter().map(|&arg| arg.to_owned()));
        (self.alter)(&mut request)?;
        let modes = if orders.append.iter().any(|word| word == "alternate") {
            Modes::Alternate
        } else {
            Modes::All(self.machine)
        };
        (self.look)(trial, request, &orders, modes)
    }
}

/// The first of the lines that has these words.
fn has<'a>(lines: &'a [String], words: &str) -> Option<&'a String> {
    lines.iter().find(|line| line.contains(words))
}
