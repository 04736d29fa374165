//! The results of a campaign, as figures that can be added; written by `--json`.
//!
//! Runs are recorded one by one; the files of shards are merged.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use harness::{processes::INTERRUPTED, transcript::GenerationLog};

use super::{cells::Cell, histogram::Histogram};

/// All results of a campaign.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// The kind of campaign: `stress` or `faults`.
    pub what: String,
    /// The build id of the kernel.
    pub kernel: String,
    /// The commit of the tree, with a `+` if the tree has changes.
    pub commit: String,
    /// QEMU's version.
    pub qemu: String,
    /// The campaigns that are added up here, each with its seed and shard.
    pub parts: Vec<String>,
    /// Wall time in seconds, summed over all parts.
    pub seconds: f64,
    /// True if one of them was interrupted.
    pub interrupted: bool,
    /// The selected cells by name, in order.
    pub cells: BTreeMap<String, Lives>,
    /// The times of each phase in nanoseconds, by machine and restart.
    pub phases: BTreeMap<String, BTreeMap<String, Histogram>>,
    /// The nanoseconds from one first instruction to the next, by machine and restart, then by the
    /// generation's number in steps.
    pub ages: BTreeMap<String, BTreeMap<u32, Histogram>>,
    /// Faults by machine, then by kind: how many ended in which way.
    pub faults: BTreeMap<String, BTreeMap<String, BTreeMap<String, u64>>>,
    /// The failures.
    pub failures: Vec<Failure>,
}

/// The results of a cell.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lives {
    /// QEMU runs.
    pub runs: u64,
    /// Failed runs among them.
    pub failed: u64,
    /// Generations that started.
    pub generations: u64,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// A failed run, with its evidence.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The cell's name.
    pub cell: String,
    /// Machine, CPU and memory, for people.
    pub machine: String,
    /// The run's seed.
    pub seed: String,
    /// The generation that failed, if it was a single one.
    pub generation: Option<u32>,
    /// A description of what is wrong.
    pub why: String,
    /// The console's last lines.
    pub console: String,
    /// A description of where the CPUs stood.
    pub stood: String,
    /// The end of QEMU's exception log, from a repetition of the run; only for the first failure.
    pub exceptions: String,
    /// The line that repeats the run.
    pub again: String,
    /// The folder of the run.
    pub folder: String,
}

impl Tally {
    /// Records that a cell was selected, run or not.
    pub fn choose(&mut self, cell: &str) {
        self.cells.entry(cell.to_owned()).or_default();
    }

    /// Records a run of a cell: its generations, its duration, its failure if it failed.
    pub fn note(
        &mut self,
        cell: &Cell,
        logs: &[GenerationLog],
        seconds: f64,
        failure: Option<Failure>,
    ) {
        let entry = self.cells.entry(cell.name()).or_default();
        entry.runs += 1;
        entry.generations += logs.len() as u64;
        entry.seconds += seconds;
        entry.failed += u64::from(failure.is_some());
        self.failures.extend(failure);

        let group = format!("{} {}", cell.gen_log(), cell.restart);
        let phases = self.phases.entry(group.clone()).or_default();
        for (name, ns) in logs.iter().flat_map(|gen_log| gen_log.trace.iter().skip(1)) {
            phases.entry(name.clone()).or_default().add(*ns);
        }
        let ages = self.ages.entry(group).or_default();
        for pair in logs.windows(2) {
            if let Some(took) = pair[1].entered.checked_sub(pair[0].entered) {
                ages.entry(step(pair[1].number)).or_default().add(took);
            }
        }
    }

    /// Records a fault that was injected into a run of a cell, and how it ended.
    pub fn fault(&mut self, cell: &Cell, kind: &str, end: &str) {
        let kinds = self.faults.entry(cell.gen_log()).or_default();
        *kinds.entry(kind.to_owned()).or_default().entry(end.to_owned()).or_default() += 1;
    }

    /// Adds the results of another campaign. Refuses those of another kernel or another kind of
    /// campaign, and those that are included already.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        ensure!(
            self.what == other.what,
            "one is of `{}`, another of `{}`: merge them separately",
            self.what,
            other.what
        );
        ensure!(
            self.kernel == other.kernel,
            "one is of the kernel {}, another of {}: merge them separately",
            self.kernel,
            other.kernel
        );
        let twice = other.parts.iter().find(|part| self.parts.contains(part));
        ensure!(
            twice.is_none(),
            "\"{}\" would be counted twice",
            twice.map_or("", |part| part.as_str())
        );
        self.parts.extend(other.parts);
        self.seconds += other.seconds;
        self.interrupted |= other.interrupted;
        for (name, logs) in other.cells {
            let entry = self.cells.entry(name).or_default();
            entry.runs += logs.runs;
            entry.failed += logs.failed;
            entry.generations += logs.generations;
            entry.seconds += logs.seconds;
        }
        for (group, phases) in other.phases {
            let mine = self.phases.entry(group).or_default();
            phases
                .into_iter()
                .for_each(|(name, times)| mine.entry(name).or_default().merge(&times));
        }
        for (group, ages) in other.ages {
            let mine = self.ages.entry(group).or_default();
            ages.into_iter().for_each(|(age, times)| mine.entry(age).or_default().merge(&times));
        }
        for (machine, kinds) in other.faults {
            for (kind, ends) in kinds {
                let mine = self.faults.entry(machine.clone()).or_default().entry(kind).or_default();
                ends.into_iter().for_each(|(end, count)| *mine.entry(end).or_default() += count);
            }
        }
        self.failures.extend(other.failures);
        Ok(())
    }

    /// The number of generations that started.
    pub fn generations(&self) -> u64 {
        self.cells.values().map(|cell| cell.generations).sum()
    }

    /// The number of injected faults.
    pub fn injected(&self) -> u64 {
        self.faults.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values).sum()
    }

    /// The number of selected cells that were not run.
    pub fn left_out(&self) -> usize {
        self.cells.values().filter(|cell| cell.runs == 0).count()
    }

    /// Returns whether nothing failed and the campaign was not interrupted.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && !self.interrupted
    }

    /// The exit code of the verb.
    pub fn exit_code(&self) -> u8 {
        if self.interrupted { INTERRUPTED } else { u8::from(!self.passed()) }
    }

    /// The summary in one sentence.
    pub fn sentence(&self) -> String {
        let (generations, seconds) = (self.generations(), self.seconds);
        let runs: u64 = self.cells.values().map(|cell| cell.runs).sum();
        let ran = self.cells.len() - self.left_out();
        let word = match (self.interrupted, self.failures.len()) {
            (_, 1) => "FAILED: 1 run; ".to_owned(),
            (_, failed @ 2..) => format!("FAILED: {failed} runs; "),
            (true, 0) => "interrupted; none failed; ".to_owned(),
            (false, 0) => "passed: ".to_owned(),
        };
        let faults = match self.injected() {
            0 => String::new(),
            faults => format!("{faults} faults, "),
        };
        let rate = generations as f64 / seconds.max(0.001);
        let left_out = if self.left_out() == 0 {
            String::new()
        } else {
            format!(" (of {} chosen)", self.cells.len())
        };
        format!(
            "{word}{faults}{generations} generations in {runs} runs of {ran} cells{left_out}, \
             {seconds:.0} s, {rate:.1} generations/s"
        )
    }
}

/// Rounds a generation's number down to a step: single numbers up to 16, then four steps for each
/// doubling.
fn step(number: u32) -> u32 {
    if number <= 16 {
        return number;
    }
    let step = (f64::from(number).log2() * 4.0).floor() / 4.0;
    2_f64.powf(step).round() as u32
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::stress::cells::{Axes, cells};
    use harness::{
        config::Config,
        transcript::{GOOD, logs},
    };

    /// A tally of one run for each of the first `runs` cells, three generations each, optionally
    /// with a failure.
    pub fn tally(part: &str, runs: usize, failure: Option<Failure>) -> Tally {
        let config = Config::read(&harness::paths::root()).unwrap();
        let cells = cells(&config, &Axes::default()).unwrap();
        let mut tally = Tally {
            what: "stress".into(),
            kernel: "ab".into(),
            parts: vec![part.into()],
            seconds: 2.0,
            ..Tally::default()
        };
        for cell in &cells[..runs] {
            tally.note(cell, &logs(GOOD).unwrap(), 1.0, None);
        }
        if failure.is_some() {
            tally.note(&cells[0], &[], 1.0, failure);
        }
        tally
    }

    /// A failure whose text would break a report that does not escape it.
    pub fn failure() -> Failure {
        Failure {
            cell: "el1-1cpu-gicv2-legacy-hot-same".into(),
            generation: Some(2),
            why: "a <b> & \"c\" ]]> d".into(),
            console: "[2] Generation 2 <of> 3 & \u{1b}[0m\u{7}".into(),
            again: "cargo xtask stress --seed '0x1'".into(),
            ..Failure::default()
        }
    }

    #[test]
    fn a_merge_is_the_sum() {
        let mut merged = tally("a", 2, None);
        merged.merge(tally("b", 3, Some(failure()))).unwrap();
        assert_eq!(merged.generations(), 15);
        assert_eq!(merged.cells.values().map(|cell| cell.runs).sum::<u64>(), 6);
        assert_eq!((merged.seconds, merged.failures.len(), merged.parts.len()), (4.0, 1, 2));
        let counts = |tally: &Tally| {
            tally.phases.values().flat_map(BTreeMap::values).map(Histogram::count).sum::<u64>()
        };
        assert_eq!(counts(&merged), counts(&tally("a", 2, None)) + counts(&tally("b", 3, None)));
        assert!(!merged.passed() && tally("a", 2, None).passed());
        assert_eq!((merged.exit_code(), tally("a", 2, None).exit_code()), (1, 0));
        assert!(
            merged.sentence().starts_with("FAILED: 1 run; 15 generations in 6 runs"),
            "{}",
            merged.sentence()
        );
    }

    #[test]
    fn what_does_not_belong_together_is_not_merged() {
        let first = tally("a", 1, None);
        assert!(
            first.clone().merge(tally("a", 1, None)).unwrap_err().to_string().contains("twice")
        );
        let other = Tally { kernel: "cd".into(), ..tally("b", 1, None) };
        assert!(first.clone().merge(other).unwrap_err().to_string().contains("kernel ab"));
        let faults = Tally { what: "faults".into(), ..tally("b", 1, None) };
        assert!(first.clone().merge(faults).is_err());
    }

    #[test]
    fn a_file_holds_all_of_it() {
        let tally = tally("a", 2, Some(failure()));
        let text = serde_json::to_string_pretty(&tally).unwrap();
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), tally);
    }

    #[test]
    fn an_interrupted_campaign_has_not_passed() {
        let tally = Tally { interrupted: true, ..tally("a", 1, None) };
        assert!(!tally.passed() && tally.sentence().starts_with("interrupted"));
        assert_eq!(tally.exit_code(), 130);
    }

    #[test]
    fn ages_come_in_steps() {
        assert_eq!([1, 16, 17, 20, 10_000].map(step), [1, 16, 16, 19, 9742]);
    }
}
