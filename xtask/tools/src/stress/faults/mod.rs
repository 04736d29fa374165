//! Fault injection, `stress --faults`: random damage, and how each case ends.
//!
//! A case may end in three ways:
//!
//! - the kexec is refused with the right error, and the kernel continues;
//! - the kexec succeeds, and the next generation is intact;
//! - only for damage after the point of no return: the relocation code stops and reports it.
//!
//! A hang or a jump into a damaged image is never allowed. A damaged device tree that still parses
//! cannot be distinguished from a good one: no one computed its checksum before the first kernel
//! read it. Such a case is shown but not counted.
//!
//! A kind of fault is a variant of [`Kind`], a row of [`KINDS`] and a routine that makes one run of
//! it.

mod bits;
mod cpus;
mod disks;
pub mod kind;
mod machines;

use std::fmt;

use anyhow::{Result, bail, ensure};
use boot::marker;

use harness::{
    cmdline::Cmdline,
    invariants::{prove, prove_each},
    request::Request,
    run::{Outcome, run},
    transcript,
    verdict::Verdict,
};

use super::{
    campaign::Made,
    cells::Cell,
    draw::{Drawn, FEWEST, Job},
    generation,
    setting::Setting,
};

use self::kind::Kind;

/// The number of cases in one run, where the kernel survives a refusal and so meets the next case.
const BATCH: usize = 16;

/// A kind, with the number of cases in a run of it and the routine that makes one.
struct Row {
    kind: Kind,
    cases: usize,
    make: fn(&Run<'_>) -> Result<Cases>,
}

/// All kinds. The campaign takes them in turn.
const KINDS: &[Row] = &[
    Row { kind: Kind::MemoryBits, cases: BATCH, make: bits::between },
    Row { kind: Kind::LateBit, cases: 1, make: bits::late },
    Row { kind: Kind::DiskBits, cases: BATCH, make: disks::bits },
    Row { kind: Kind::ContentsBit, cases: 1, make: disks::contents_bit },
    Row { kind: Kind::ReadErrors, cases: BATCH, make: disks::read_errors },
    Row { kind: Kind::ShortDisk, cases: 1, make: disks::short },
    Row { kind: Kind::SplitReads, cases: 1, make: disks::split_reads },
    Row { kind: Kind::SlowDisk, cases: 1, make: disks::slow },
    Row { kind: Kind::LittleMemory, cases: 1, make: machines::little_memory },
    Row { kind: Kind::DamagedTree, cases: 1, make: machines::damaged_tree },
    Row { kind: Kind::StuckCpu, cases: 1, make: cpus::stuck },
    Row { kind: Kind::Storm, cases: 1, make: cpus::storm },
];

/// The end of a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Refused,
    Gone,
    Stopped,
    /// The device tree was invalid, and the kernel reported that at entry.
    Reported,
    /// The device tree was damaged but still parses.
    Undecided,
}

impl End {
    fn words(self) -> &'static str {
        match self {
            Self::Refused => "refused, kernel continued",
            Self::Gone => "kexec done, next generation intact",
            Self::Stopped => "stopped by the relocation code",
            Self::Reported => "reported at entry",
            Self::Undecided => "not counted: still parses as a tree",
        }
    }
}

/// The cases of a run, each with its name and how it ended, and the run itself.
struct Cases {
    ends: Vec<(&'static str, End)>,
    outcome: Outcome,
    /// The first case that ended in a way that is not allowed.
    wrong: Option<String>,
}

/// A run with faults, to be made.
struct Run<'a> {
    setting: &'a Setting,
    job: &'a Job,
    drawn: &'a Drawn,
    more: &'a [String],
}

impl Kind {
    fn row(self) -> &'static Row {
        KINDS.iter().find(|row| row.kind == self).expect("every kind has a row")
    }

    /// Returns whether the fault can be injected on this cell.
    fn fits(self, cell: &Cell) -> bool {
        self != Self::StuckCpu || cell.cpus > 1
    }
}

/// Enough runs for `count` cases on each machine, spread over `cells`, with the kinds in turn.
pub fn jobs(count: usize, kinds: &[Kind], cells: &[Cell]) -> Vec<Job> {
    let all: Vec<_> = KINDS.iter().map(|row| row.kind).collect();
    let asked = if kinds.is_empty() { &all } else { kinds };
    let mut logs: Vec<_> = cells.iter().map(Cell::gen_log).collect();
    logs.dedup();
    let mut jobs = Vec::new();
    for gen_log in logs {
        let fitting = |kind: Kind| -> Vec<_> {
            cells.iter().filter(|cell| cell.gen_log() == gen_log && kind.fits(cell)).collect()
        };
        let kinds: Vec<_> = asked
            .iter()
            .map(|&kind| (kind, fitting(kind)))
            .filter(|(_, cells)| !cells.is_empty())
            .collect();
        let (mut cases, mut turn) = (0, 0);
        while cases < count && !kinds.is_empty() {
            let (kind, cells) = &kinds[turn % kinds.len()];
            let kind = *kind;
            cases += kind.row().cases;
            // A kind moves on by one cell each time its turn comes, and the kinds start at
            // different cells, so that each kind reaches every cell.
            let cell = cells[(turn % kinds.len() * 7 + turn / kinds.len()) % cells.len()];
            let round = u32::try_from(turn).unwrap_or(u32::MAX);
            jobs.push(Job { cell: cell.clone(), round, generations: FEWEST, fault: Some(kind) });
            turn += 1;
        }
    }
    jobs
}

/// The number of cases in a run.
pub fn cases(job: &Job) -> usize {
    job.fault.map_or(0, |kind| kind.row().cases)
}

/// Makes the run with `job`'s fault.
pub fn make(setting: &Setting, job: &Job, more: &[String]) -> Result<Made> {
    let Some(kind) = job.fault else { bail!("a run without a fault") };
    let drawn = job.drawn(setting.seed, &setting.config)?;
    let Cases { ends, outcome, wrong } =
        (kind.row().make)(&Run { setting, job, drawn: &drawn, more })?;
    let logs = transcript::logs(&outcome.console).unwrap_or_default();
    let seconds = outcome.elapsed.as_secs_f64();
    let failure = wrong.map(|why| super::tally::Failure {
        generation: logs.last().map(|gen_log| gen_log.number),
        why: format!("{}: {why}", kind.name()),
        again: job.again(setting),
        ..generation::seen(job, &drawn, &outcome)
    });
    if failure.is_none() {
        outcome.folder.discard()?;
    }
    let faults = ends.into_iter().map(|(name, end)| (name, end.words())).collect();
    Ok(Made { logs, seconds, failure, faults })
}

/// The end of a whole run, if it is an allowed one.
enum Way {
    /// Every generation started as it should; the refusals of each generation.
    Gone(Vec<Vec<String>>),
    /// The last generation refused, continued, and ended in order; its refusals.
    Refused(Vec<String>),
    /// The relocation code stopped; its message.
    Stopped(String),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(refused) => write!(f, "completed, after refusals {refused:?}"),
            Self::Refused(refused) => write!(f, "refused: {refused:?}"),
            Self::Stopped(words) => write!(f, "stopped: {words}"),
        }
    }
}

impl Run<'_> {
    /// The kernel's parameters: continue after a refusal, and whatever the fault requires.
    fn cmdline(&self) -> Cmdline {
        let mut cmdline = self.job.cmdline(self.drawn);
        cmdline.append.push("on-refusal=continue".to_owned());
        if self.job.fault == Some(Kind::Storm) {
            cmdline.append.push("selftest=storm".to_owned());
        }
        cmdline
    }

    /// The number of CPUs that must come up; `None` if there may not be memory for all.
    fn cpus(&self) -> Option<u32> {
        (self.job.fault != Some(Kind::LittleMemory)).then_some(self.job.cell.cpus)
    }

    /// The run before the fault is added.
    fn request(&self) -> Result<Request> {
        let mut request = self.job.request(self.drawn, &self.cmdline(), self.setting)?;
        request.args.extend_from_slice(self.more);
        request.keep = true;
        Ok(request)
    }

    /// Makes the run and judges it. `ends` says how the cases ended, or returns an error for an end
    /// that is not allowed.
    fn judged(
        &self,
        request: &Request,
        ends: impl FnOnce(Way) -> Result<Vec<(&'static str, End)>>,
    ) -> Result<Cases> {
        self.judge(run(request)?, ends)
    }

    fn judge(
        &self,
        outcome: Outcome,
        ends: impl FnOnce(Way) -> Result<Vec<(&'static str, End)>>,
    ) -> Result<Cases> {
        Ok(match self.way(&outcome).and_then(ends) {
            Ok(ends) => Cases { ends, outcome, wrong: None },
            Err(why) => Cases { ends: Vec::new(), outcome, wrong: Some(format!("{why:#}")) },
        })
    }

    /// Classifies the end of the run. The error is an end that is never allowed: a hang, an
    /// exception, a generation that breaks a rule.
    fn way(&self, outcome: &Outcome) -> Result<Way> {
        let logs = transcript::logs(&outcome.console)?;
        let (cmdline, modes) = (self.cmdline(), self.job.cell.modes());
        for gen_log in &logs {
            let lived_on = gen_log
                .lines
                .iter()
                .filter(|line| line.contains(" continues, all its memory given back"))
                .count();
            let refused = gen_log.refused.len();
            ensure!(
                lived_on == refused,
                "generation {} refused {refused} times, but continued {lived_on} times",
                gen_log.number
            );
        }
        let fatal = outcome
            .console
            .lines()
            .find(|line| line.starts_with(marker::FATAL))
            .unwrap_or_default();
        match outcome.verdict {
            Verdict::Success => {
                prove(&logs, &cmdline, modes, self.cpus())?;
                Ok(Way::Gone(logs.into_iter().map(|gen_log| gen_log.refused).collect()))
            }
            Verdict::Failed(1) if fatal.is_empty() => {
                let Some(last) = logs.last() else { bail!("{}", outcome.verdict.words()) };
                ensure!(last.bye.is_none(), "generation {} printed Bye! and ended", last.number);
                ensure!(
                    last.lines.last().is_some_and(|line| line == marker::FAILURE),
                    "its last line is not the failure marker"
                );
                ensure!(
                    !last.refused.is_empty(),
                    "generation {} ended without a refusal",
                    last.number
                );
                prove_each(&logs, &cmdline, modes, None)?;
                Ok(Way::Refused(last.refused.clone()))
            }
            Verdict::Stopped if STOPS.iter().any(|start| fatal.starts_with(start)) => {
                ensure!(
                    logs.last().is_some_and(|last| last.bye.is_some()),
                    "the last generation had not printed Bye!"
                );
                prove_each(&logs, &cmdline, modes, None)?;
                Ok(Way::Stopped(fatal.to_owned()))
            }
            _ => bail!(
                "{}{}{fatal}",
                outcome.verdict.words(),
                if fatal.is_empty() { "" } else { ": " }
            ),
        }
    }
}

/// The messages with which the relocation code stops.
const STOPS: [&str; 3] = [marker::MISMATCH, marker::INVALID_ENTRY, marker::RELOCATION_FAULT];

/// Checks that generation 0 refused once for each of `names`, each time with a message that `says`
/// accepts, and that the run then continued to its end.
fn batch(
    way: Way,
    names: &[&'static str],
    says: impl Fn(usize, &str) -> bool,
) -> Result<Vec<(&'static str, End)>> {
    let Way::Gone(refused) = way else {
        bail!("the run should have continued with the last configuration, but is {way}")
    };
    let first = &refused[0];
    ensure!(
        first.len() == names.len(),
        "{} faults, but generation 0 refused {} times",
        names.len(),
        first.len()
    );
    for (at, (words, name)) in first.iter().zip(names).enumerate() {
        ensure!(says(at, words), "fault {at}, {name}, was refused with \"{words}\"");
    }
    Ok(names.iter().map(|name| (*name, End::Refused)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum;

    use super::*;
    use crate::stress::cells::{Axes, cells};
    use harness::config::Config;

    #[test]
    fn every_kind_has_one_row_and_its_turn() {
        assert_eq!(KINDS.len(), Kind::value_variants().len());
        let config = Config::read(&harness::paths::root()).unwrap();
        let cells = cells(&config, &Axes::default()).unwrap();
        let jobs = jobs(2000, &[], &cells);
        for gen_log in ["el1", "nvhe", "vhe", "vhe-alternate"] {
            let of: Vec<_> = jobs.iter().filter(|job| job.cell.gen_log() == gen_log).collect();
            let sum: usize = of.iter().map(|job| cases(job)).sum();
            assert!((2000..2000 + BATCH).contains(&sum), "{gen_log}: {sum}");
            let kinds: BTreeSet<_> =
                of.iter().filter_map(|job| job.fault).map(Kind::name).collect();
            assert_eq!(kinds.len(), KINDS.len());
            let cells: BTreeSet<_> = of.iter().map(|job| job.cell.name()).collect();
            assert!(cells.len() > 48, "{gen_log}: {} cells", cells.len());
        }
        assert!(
            self::jobs(1, &[Kind::SlowDisk], &cells)
                .iter()
                .all(|job| job.fault == Some(Kind::SlowDisk))
        );
    }
}
