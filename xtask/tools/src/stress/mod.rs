//! The verb `stress`: many generations on every cell, each checked by all rules.
//!
//! It runs for minutes or for days; in continuous integration, in shards. Everything that varies is
//! drawn from one printed seed. It leaves reports and the folders of failed runs. For each failure
//! it prints the one line that repeats it.

mod campaign;
mod cells;
mod draw;
mod faults;
mod files;
mod generation;
mod histogram;
mod html;
mod junit;
mod merge;
mod pack;
mod progress;
mod report;
mod setting;
mod tally;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use harness::{
    cmdline::{draw_seed, parse_seed},
    config::Config,
    kernel_build::{self, Built},
    parts::{Hardware, Parts},
    processes::end_ourselves,
    setup,
};

use self::{
    campaign::{Bound, Campaign},
    cells::{Axes, Cell, Shard, cells},
    draw::{Job, SILENCE, shares},
    faults::kind::Kind,
    files::Files,
    merge::MergeOptions,
    progress::Counters,
    setting::Setting,
};

pub use self::tally::{Failure, Tally};

/// The default number of generations.
const GENERATIONS: u64 = 5000;

/// Run many generations on every cell of the matrix, and check each of them
#[derive(Args, Clone, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Exit code: 0 only if all runs passed, 1 if one failed, 2 requested something that does not exist,
130 interrupted.

Examples:
  cargo xtask stress                                            5000 generations, on every cell
  cargo xtask stress --duration 10m --html stress.html
  cargo xtask stress --machine nvhe --cpus 4 --gic 3 --until-fail
  cargo xtask stress --faults --jobs 4
  cargo xtask stress --until-fail --report failed               and then: --repeat failed/….zip
  cargo xtask stress --list
  cargo xtask stress --seed 0x2a --shard 1/4 --json 1.json      a fixed quarter of the cells
  cargo xtask stress merge *.json --html stress.html"
)]
pub struct StressOptions {
    #[command(subcommand)]
    command: Option<Sub>,
    /// The number of generations in all, spread over the cells [default: 5000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    generations: Option<u64>,
    /// The time to run, round after round of all cells: 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with = "generations")]
    duration: Option<Duration>,
    /// Stop at the first failure; without --generations or --duration, only then
    #[arg(long)]
    until_fail: bool,
    /// The number of runs at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    jobs: Option<u32>,
    /// The seed of everything that varies, decimal or 0x… [default: drawn anew and printed]
    #[arg(long, value_name = "S", value_parser = parse_seed)]
    seed: Option<u64>,
    #[command(flatten)]
    axes: Axes,
    /// Inject this many faults on each machine instead, and check how each ends [default: 2000]
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        default_missing_value = "2000",
        conflicts_with_all = ["duration", "until_fail"]
    )]
    faults: Option<usize>,
    /// Inject only faults of this kind
    #[arg(long, value_enum, value_name = "KIND,…", value_delimiter = ',', requires = "faults")]
    fault: Vec<Kind>,
    /// Make only this run of each cell, with all the generations; printed with each failure
    #[arg(long, value_name = "R", requires = "generations")]
    round: Option<u32>,
    /// Run only a part of the cells: part I of N, counted from 1
    #[arg(long, value_name = "I/N", value_parser = Shard::parse)]
    shard: Option<Shard>,
    /// List the cells without running them
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    files: Files,
    /// The longest that a console may be silent, in seconds
    #[arg(
        long,
        value_name = "S",
        default_value_t = SILENCE.as_secs(),
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    silence: u64,
    /// Pack each failed run into a zip file in this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Repeat a packed run, with the kernel in the zip file
    #[arg(long, value_name = "ZIP", exclusive = true)]
    repeat: Option<PathBuf>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    /// A CPU model that QEMU knows [default: the machine's]
    #[arg(long, value_name = "C", help_heading = "Your own parts")]
    cpu: Option<String>,
    /// RAM as QEMU takes it [default: each run draws one of qemu.toml's]
    #[arg(long, value_name = "SIZE", help_heading = "Your own parts")]
    memory: Option<String>,
    #[command(flatten)]
    parts: Parts,
}

/// A line that repeats a run, from the verb's name on.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: StressOptions,
}

/// The subcommands of `stress`.
#[derive(Clone, Debug, Subcommand)]
enum Sub {
    Merge(MergeOptions),
}

impl StressOptions {
    /// Runs the verb; returns its exit code.
    pub fn perform(&self) -> Result<u8> {
        if let Some(Sub::Merge(options)) = &self.command {
            return options.perform();
        }
        let config = Arc::new(self.config()?);
        if self.list {
            self.chosen(&config)?.1.iter().for_each(|cell| println!("{}", cell.name()));
            return Ok(0);
        }
        if let Some(path) = &self.repeat {
            setup::ensure_qemu(self.yes)?;
            return Ok(Self::repeat(path)?.exit_code());
        }
        self.chosen(&config)?;
        self.files.check()?;
        setup::check_target()?;
        setup::ensure_qemu(self.yes)?;
        Ok(self.stress(&config, &Arc::new(kernel_build::build_for(&config)?))?.exit_code())
    }

    /// Parses the options from a line that repeats a run.
    pub fn read_line(line: &str) -> Result<Self> {
        let Some(options) = line.strip_prefix("cargo xtask stress") else {
            bail!("`{line}` is not a line of the verb stress")
        };
        let words = ["stress"].into_iter().chain(options.split_whitespace());
        match Line::try_parse_from(words) {
            Ok(line) => Ok(line.options),
            Err(error) => bail!("`{line}` cannot be read: {error}"),
        }
    }

    /// The hardware that the axes do not choose.
    fn hardware(&self) -> Hardware {
        Hardware { cpu: self.cpu.clone(), memory: self.memory.clone(), ..Hardware::default() }
    }

    /// The options for the user's own parts, as typed.
    fn part_words(&self) -> Vec<String> {
        [self.hardware().words(), self.parts.words(), self.parts.args()].concat()
    }

    /// qemu.toml, as the options change it.
    fn config(&self) -> Result<Config> {
        let mut config = self.parts.config(&self.hardware())?;
        config.stress.memory = self.memory.clone().map_or(config.stress.memory, |size| vec![size]);
        Ok(config)
    }

    /// Repeats a packed run.
    pub fn repeat(path: &Path) -> Result<Tally> {
        let folder = tempfile::tempdir().context("cannot make a folder for a kernel")?;
        let (case, kernel) = pack::unpack(path, folder.path())?;
        let here = commit();
        if here != case.commit {
            println!(
                "warning: packed at commit `{}`; this tree is at `{here}`: qemu.toml may differ",
                case.commit
            );
        }
        println!("the run failed on {}: {}\n{}", case.qemu, case.why, case.again);
        let options = Self::read_line(&case.again)?;
        options.stress(&Arc::new(options.config()?), &Arc::new(kernel))
    }

    /// All cells that the options select, and those of them in this shard.
    fn chosen(&self, config: &Config) -> Result<(Vec<Cell>, Vec<Cell>)> {
        let all = cells(config, &self.axes)?;
        let mine = self.shard.map_or_else(|| all.clone(), |shard| shard.of(&all));
        Ok((all, mine))
    }

    /// Runs the campaign on this kernel, prints the summary and writes the reports.
    pub fn stress(&self, config: &Arc<Config>, kernel: &Arc<Built>) -> Result<Tally> {
        end_ourselves();
        let (all, mine) = self.chosen(config)?;
        let seed = self.seed.unwrap_or_else(draw_seed);
        let shard = self.shard.map_or(String::new(), |shard| format!(" shard {shard}"));
        let part = format!("seed {seed:#018x}{shard}");
        println!("{part}; {} cells", mine.len());
        let counters = Counters::default();
        let silence = Duration::from_secs(self.silence);
        let setting = Setting {
            config: Arc::clone(config),
            kernel: Arc::clone(kernel),
            seed,
            silence,
            parts: self.part_words(),
            counters,
        };
        let mut tally = Tally {
            what: if self.faults.is_some() { "faults" } else { "stress" }.to_owned(),
            kernel: kernel.build_id.clone(),
            commit: commit(),
            qemu: setup::qemu_version().unwrap_or_default(),
            parts: vec![part],
            ..Tally::default()
        };
        let campaign = Campaign {
            setting: &setting,
            make: if self.faults.is_some() { faults::make } else { generation::make },
            unit: if self.faults.is_some() { "faults" } else { "generations" },
            cells: &mine,
            bound: self.bound(seed, &all, &mine),
            until_fail: self.until_fail,
            jobs: self.jobs.map_or_else(cores, |jobs| jobs as usize),
        };
        // After an error, still report what was found before it.
        let ended = campaign.perform(&mut tally);
        println!("\n{}", report::screen(&tally));
        self.files.write(&tally)?;
        if let Some(folder) = &self.report {
            pack::pack_all(&tally, folder)?
                .iter()
                .for_each(|packed| println!("packed {}", packed.display()));
        }
        ended.map(|()| tally)
    }

    /// The bound of the campaign. A cell's share is drawn over all cells, so that all shards
    /// together make the same runs as one campaign without shards.
    fn bound(&self, seed: u64, all: &[Cell], mine: &[Cell]) -> Bound {
        if let (Some(round), Some(generations)) = (self.round, self.generations) {
            let generations = u32::try_from(generations).unwrap_or(u32::MAX);
            let job = |cell: &Cell, fault| Job { cell: cell.clone(), round, generations, fault };
            let jobs = match self.faults {
                Some(_) => mine
                    .iter()
                    .flat_map(|cell| self.fault.iter().map(|&kind| job(cell, Some(kind))))
                    .collect(),
                None => mine.iter().map(|cell| job(cell, None)).collect(),
            };
            return counted(jobs);
        }
        if let Some(count) = self.faults {
            let jobs = faults::jobs(count, &self.fault, all);
            return counted(jobs.into_iter().filter(|job| mine.contains(&job.cell)).collect());
        }
        match (self.generations, self.duration) {
            (_, Some(time)) => Bound::Time(time),
            (None, None) if self.until_fail => Bound::Open,
            (generations, None) => {
                let jobs = shares(seed, generations.unwrap_or(GENERATIONS), all);
                counted(jobs.into_iter().filter(|job| mine.contains(&job.cell)).collect())
            }
        }
    }
}

/// The bound for these runs, with the number of their generations or faults.
fn counted(jobs: Vec<Job>) -> Bound {
    let of = |job: &Job| {
        if job.fault.is_some() { faults::cases(job) as u64 } else { u64::from(job.generations) }
    };
    let count = jobs.iter().map(of).sum();
    Bound::Jobs(jobs, count)
}

/// The commit of the tree, with a `+` if the tree has changes; empty without git.
fn commit() -> String {
    let mut command = Command::new("git");
    command
        .args(["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"])
        .current_dir(harness::paths::root());
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Parses `90s`, `10m`, `2h`, or seconds without a unit.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let whole = seconds
        .and_then(|seconds| number.parse::<u64>().ok()?.checked_mul(seconds))
        .filter(|&whole| whole > 0);
    whole
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is not a duration: type 90s, 10m or 2h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_typed_with_their_unit() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("7", 7)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in ["", "m", "10d", "-1s", "0", "1.5h", "99999999999999999999h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_users_own_parts_are_in_the_line_that_repeats_a_run() {
        let words = "--cpu max --memory 3G --qemu /q --accel tcg --dtb /d -- -d int";
        let options = StressOptions::read_line(&format!("cargo xtask stress {words}")).unwrap();
        assert_eq!(options.part_words().join(" "), words);
    }
}
