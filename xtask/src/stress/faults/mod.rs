//! `stress --faults`: damage of every kind, drawn at random, and how each case of it ends.
//!
//! *When:* by the campaign's workers, in place of plain runs. A case may end in three ways: refused with the right error and alive; gone, and
//! the next generation whole; or, for damage done after the point of no return alone, stopped by the control page, which says so. Never a
//! hang, never a jump into a damaged image. A damaged device tree that still reads as one cannot be told from a good one, for nobody has
//! taken its checksum before the first kernel reads it: what comes of it is shown and left out of the count.
//!
//! A kind of fault is a variant of [`Kind`], a row of [`KINDS`] and a routine that makes one run of it.

mod bits;
mod cpus;
mod disks;
mod machines;

use std::fmt;

use anyhow::{Result, bail, ensure};
use boot::marker;
use clap::ValueEnum;

use crate::{
    orders::Orders,
    proof::{prove, prove_each},
    request::Request,
    run::{Outcome, run},
    transcript,
    verdict::Verdict,
};

use super::{
    campaign::{Made, Setting},
    cells::Cell,
    draw::{Drawn, FEWEST, Job},
    life,
};

/// How many cases one run has, where a refusal leaves the generation to meet the next one.
const BATCH: usize = 16;

/// Where a fault is put.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Kind {
    /// A bit of what a restart depends on, between load and jump
    MemoryBits,
    /// A bit of a source or of the device tree, after the point of no return
    LateBit,
    /// A bit of a payload on the disk
    DiskBits,
    /// A bit of the disk's table of contents
    ContentsBit,
    /// Sectors that cannot be read
    ReadErrors,
    /// A disk that ends too early
    ShortDisk,
    /// A disk whose reads come in pieces
    SplitReads,
    /// A disk that makes everybody wait
    SlowDisk,
    /// Memory that is nearly full
    LittleMemory,
    /// A damaged device tree
    DamagedTree,
    /// A CPU that hangs with its interrupts masked
    StuckCpu,
    /// Interrupts of nobody's while a restart is under way
    Storm,
}

/// A kind, with how many cases a run of it has and how it is made.
struct Row {
    kind: Kind,
    cases: usize,
    make: fn(&Run<'_>) -> Result<Cases>,
}

/// All kinds. Each makes a run in turn.
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

/// How a case ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Refused,
    Gone,
    Stopped,
    /// A tree that is none, told before anything could live.
    Told,
    /// A tree that is damaged and still one.
    Undecided,
}

impl End {
    fn words(self) -> &'static str {
        match self {
            Self::Refused => "refused and alive",
            Self::Gone => "gone, the next whole",
            Self::Stopped => "stopped by the control page",
            Self::Told => "told by the entry",
            Self::Undecided => "left out: still reads as a tree",
        }
    }
}

/// The cases of a run, each with its name and its end; and the run.
struct Cases {
    ends: Vec<(&'static str, End)>,
    outcome: Outcome,
    /// The first of them that ended as none may.
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

    /// Whether it can be put into that cell.
    fn fits(self, cell: &Cell) -> bool {
        self != Self::StuckCpu || cell.cpus > 1
    }

    /// Its name, as it is typed.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }
}

/// Runs enough for `count` cases on each machine, among `cells`, of the kinds in turn.
pub fn jobs(count: usize, kinds: &[Kind], cells: &[Cell]) -> Vec<Job> {
    let all: Vec<_> = KINDS.iter().map(|row| row.kind).collect();
    let asked = if kinds.is_empty() { &all } else { kinds };
    let mut lives: Vec<_> = cells.iter().map(Cell::life).collect();
    lives.dedup();
    let mut jobs = Vec::new();
    for life in lives {
        let fitting = |kind: Kind| -> Vec<_> {
            cells.iter().filter(|cell| cell.life() == life && kind.fits(cell)).collect()
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
            // From one turn of a kind to its next a step by one, and kinds apart from each other: each comes to every cell.
            let cell = cells[(turn % kinds.len() * 7 + turn / kinds.len()) % cells.len()];
            let round = u32::try_from(turn).unwrap_or(u32::MAX);
            jobs.push(Job { cell: cell.clone(), round, generations: FEWEST, fault: Some(kind) });
            turn += 1;
        }
    }
    jobs
}

/// How many cases a run has.
pub fn cases(job: &Job) -> usize {
    job.fault.map_or(0, |kind| kind.row().cases)
}

/// Makes the run of `job`'s fault.
pub fn make(setting: &Setting, job: &Job, more: &[String]) -> Result<Made> {
    let Some(kind) = job.fault else { bail!("a run without a fault") };
    let drawn = job.drawn(setting.seed, &setting.config)?;
    let Cases { ends, outcome, wrong } =
        (kind.row().make)(&Run { setting, job, drawn: &drawn, more })?;
    let lives = transcript::lives(&outcome.console).unwrap_or_default();
    let seconds = outcome.elapsed.as_secs_f64();
    let failure = wrong.map(|why| super::tally::Failure {
        generation: lives.last().map(|life| life.number),
        why: format!("{}: {why}", kind.name()),
        again: job.again(setting),
        ..life::seen(job, &drawn, &outcome)
    });
    if failure.is_none() {
        outcome.folder.discard()?;
    }
    let faults = ends.into_iter().map(|(name, end)| (name, end.words())).collect();
    Ok(Made { lives, seconds, failure, faults })
}

/// How a whole run ended, where it ended as a run may.
enum Way {
    /// Every generation came up as it should; why restarts did not happen, generation by generation.
    Gone(Vec<Vec<String>>),
    /// The last generation there was refused, lived on, and ended in order: why.
    Refused(Vec<String>),
    /// The control page stopped: its words.
    Stopped(String),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(refused) => write!(f, "gone, after refusals {refused:?}"),
            Self::Refused(refused) => write!(f, "refused: {refused:?}"),
            Self::Stopped(words) => write!(f, "stopped: {words}"),
        }
    }
}

impl Run<'_> {
    /// What the kernel is ordered: to go on after a refusal, and what a fault needs of it.
    fn orders(&self) -> Orders {
        let mut orders = self.job.orders(self.drawn);
        orders.append.push("on-refusal=continue".to_owned());
        if self.job.fault == Some(Kind::Storm) {
            orders.append.push("selftest=storm".to_owned());
        }
        orders
    }

    /// How many CPUs come up; unknown where there may not be memory for all.
    fn cpus(&self) -> Option<u32> {
        (self.job.fault != Some(Kind::LittleMemory)).then_some(self.job.cell.cpus)
    }

    /// A run with a free hand for what the fault changes.
    fn request(&self) -> Result<Request> {
        let mut request = self.job.request(self.drawn, &self.orders(), self.setting)?;
        request.args.extend_from_slice(self.more);
        request.keep = true;
        Ok(request)
    }

    /// Makes the run and judges it: `ends` says how the cases ended, or why they did not as they may.
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

    /// How the run ended. An error is an end that no fault excuses: a hang, an exception, a generation that is not whole.
    fn way(&self, outcome: &Outcome) -> Result<Way> {
        let lives = transcript::lives(&outcome.console)?;
        let (orders, modes) = (self.orders(), self.job.cell.modes());
        for life in &lives {
            let lived_on = life
                .lines
                .iter()
                .filter(|line| line.contains(" lives on, all its memory given back"))
                .count();
            let refused = life.refused.len();
            ensure!(
                lived_on == refused,
                "generation {} refused {refused} times and lived on {lived_on} times",
                life.number
            );
        }
        let emergency = outcome
            .console
            .lines()
            .find(|line| line.starts_with(marker::EMERGENCY))
            .unwrap_or_default();
        match outcome.verdict {
            Verdict::Success => {
                prove(&lives, &orders, modes, self.cpus())?;
                Ok(Way::Gone(lives.into_iter().map(|life| life.refused).collect()))
            }
            Verdict::Failed(1) if emergency.is_empty() => {
                let Some(last) = lives.last() else { bail!("{}", outcome.verdict.words()) };
                ensure!(last.bye.is_none(), "generation {} said Bye! and ended", last.number);
                ensure!(
                    last.lines.last().is_some_and(|line| line == marker::FAILURE),
                    "it did not end with its marker"
                );
                ensure!(
                    !last.refused.is_empty(),
                    "generation {} ended without a reason",
                    last.number
                );
                prove_each(&lives, &orders, modes, None)?;
                Ok(Way::Refused(last.refused.clone()))
            }
            Verdict::Stopped if STOPS.iter().any(|start| emergency.starts_with(start)) => {
                ensure!(
                    lives.last().is_some_and(|last| last.bye.is_some()),
                    "nobody had said Bye!"
                );
                prove_each(&lives, &orders, modes, None)?;
                Ok(Way::Stopped(emergency.to_owned()))
            }
            _ => bail!(
                "{}{}{emergency}",
                outcome.verdict.words(),
                if emergency.is_empty() { "" } else { ": " }
            ),
        }
    }
}

/// What the control page says when it stops.
const STOPS: [&str; 3] = [
    "!! what arrived is not what was loaded: ",
    "!! the list holds an entry that is none: ",
    "!! fault while relocating: ",
];

/// Every generation that restarted refused a whole batch, each time with one of `says`; `names` are the cases.
fn batch(
    way: Way,
    names: &[&'static str],
    says: impl Fn(usize, &str) -> bool,
) -> Result<Vec<(&'static str, End)>> {
    let Way::Gone(refused) = way else {
        bail!("the run should have gone on with the last configuration, and is {way}")
    };
    let first = &refused[0];
    ensure!(
        first.len() == names.len(),
        "{} faults, and generation 0 refused {} times",
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

    use super::*;
    use crate::{
        config::Config,
        stress::cells::{Axes, cells},
    };

    #[test]
    fn every_kind_has_one_row_and_its_turn() {
        assert_eq!(KINDS.len(), Kind::value_variants().len());
        let config = Config::read(&crate::root()).unwrap();
        let cells = cells(&config, &Axes::default()).unwrap();
        let jobs = jobs(2000, &[], &cells);
        for life in ["el1", "nvhe", "vhe", "vhe-alternate"] {
            let of: Vec<_> = jobs.iter().filter(|job| job.cell.life() == life).collect();
            let sum: usize = of.iter().map(|job| cases(job)).sum();
            assert!((2000..2000 + BATCH).contains(&sum), "{life}: {sum}");
            let kinds: BTreeSet<_> =
                of.iter().filter_map(|job| job.fault).map(Kind::name).collect();
            assert_eq!(kinds.len(), KINDS.len());
            let cells: BTreeSet<_> = of.iter().map(|job| job.cell.name()).collect();
            assert!(cells.len() > 48, "{life}: {} cells", cells.len());
        }
        assert!(
            self::jobs(1, &[Kind::SlowDisk], &cells)
                .iter()
                .all(|job| job.fault == Some(Kind::SlowDisk))
        );
    }
}
