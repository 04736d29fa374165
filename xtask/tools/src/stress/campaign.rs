//! A campaign: parallel runs until a bound, a failure or an interrupt ends it.
//!
//! It always leaves a tally, even after an interrupt, and no process of ours.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Error, Result};
use relocate::random::SplitMix64;

use harness::{
    cmdline::seed_of,
    console::tail,
    processes::{Interrupted, interrupted},
    transcript::GenerationLog,
};

use super::{
    cells::Cell,
    draw::{Job, shuffle},
    progress::{Counters, Goal, Progress},
    setting::Setting,
    tally::{Failure, Tally},
};

/// The number of failures that ends a campaign; more would add nothing.
const ENOUGH: usize = 10;

/// The number of generations in a run of a campaign without a total.
const A_ROUND: u32 = 20;

/// The number of lines of QEMU's exception log that a failure shows.
const EXCEPTIONS: usize = 60;

/// The result of a run.
pub struct Made {
    /// The generations.
    pub logs: Vec<GenerationLog>,
    /// Wall time in seconds.
    pub seconds: f64,
    /// The failure, if it failed.
    pub failure: Option<Failure>,
    /// The injected faults, each with its kind and how it ended.
    pub faults: Vec<(&'static str, &'static str)>,
}

/// A function that makes a run, with more arguments for QEMU.
pub type Make = fn(&Setting, &Job, &[String]) -> Result<Made>;

/// The runs of a campaign and the condition that ends it.
pub enum Bound {
    /// These runs, with the number of their generations or faults.
    Jobs(Vec<Job>, u64),
    /// Round after round of every cell, for this long.
    Time(Duration),
    /// Round after round of every cell, without an end.
    Open,
}

/// A campaign to be made.
pub struct Campaign<'a> {
    /// The inputs of every run.
    pub setting: &'a Setting,
    /// The function that makes a run.
    pub make: Make,
    /// The unit of the progress display.
    pub unit: &'static str,
    /// The selected cells.
    pub cells: &'a [Cell],
    /// The runs and the condition that ends them.
    pub bound: Bound,
    /// True if the first failure ends the campaign.
    pub until_fail: bool,
    /// The number of runs at a time.
    pub jobs: usize,
}

impl Campaign<'_> {
    /// Makes the runs and adds their results to `tally`.
    pub fn perform(self, tally: &mut Tally) -> Result<()> {
        let started = Instant::now();
        let Self { setting, cells, unit, .. } = self;
        cells.iter().for_each(|cell| tally.choose(&cell.name()));
        let goal = match &self.bound {
            Bound::Jobs(_, count) => Goal::Count(*count),
            Bound::Time(time) => Goal::Time(*time),
            Bound::Open => Goal::Open,
        };
        let deadline = if let Bound::Time(time) = self.bound { Some(started + time) } else { None };
        let mut jobs = queue(self.bound, setting.seed, cells);
        let progress = Progress::open(goal, unit, &setting.counters);
        let (make, until_fail) = (self.make, self.until_fail);
        let stop = AtomicBool::new(false);
        let next = Mutex::new(&mut *jobs);
        let shared = Mutex::new((&mut *tally, None::<Error>));
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) && !interrupted() {
                        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                            return;
                        }
                        let Some(job) = locked(&next).next() else { return };
                        let made = complete(setting, make, &job);
                        let mut shared = locked(&shared);
                        match made {
                            Ok(made) => {
                                if let Some(failure) = &made.failure {
                                    progress
                                        .say(&format!("FAILED {}: {}", failure.cell, failure.why));
                                }
                                let Made { logs, seconds, failure, faults } = made;
                                setting
                                    .counters
                                    .done
                                    .fetch_add(faults.len() as u64, Ordering::Relaxed);
                                let tally = &mut *shared.0;
                                tally.note(&job.cell, &logs, seconds, failure);
                                for (kind, end) in faults {
                                    tally.fault(&job.cell, kind, end);
                                }
                                let failed = tally.failures.len();
                                if failed >= ENOUGH || (until_fail && failed > 0) {
                                    stop.store(true, Ordering::Relaxed);
                                }
                            }
                            Err(error) => {
                                stop.store(true, Ordering::Relaxed);
                                if !error.is::<Interrupted>() {
                                    shared.1 = Some(error);
                                }
                            }
                        }
                    }
                });
            }
        });
        progress.close();
        let (_, error) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        tally.interrupted = interrupted();
        tally.seconds += started.elapsed().as_secs_f64();
        error.map_or(Ok(()), Err)
    }
}

/// Makes a run. The first failing run is repeated to get QEMU's exception log.
fn complete(setting: &Setting, make: Make, job: &Job) -> Result<Made> {
    let mut made = make(setting, job, &[])?;
    if let Some(failure) = &mut made.failure
        && setting.counters.failed.fetch_add(1, Ordering::Relaxed) == 0
    {
        failure.exceptions = exceptions(setting, make, job, failure)?;
    }
    Ok(made)
}

/// Repeats a failed run and returns the end of QEMU's exception log. The whole log goes into the
/// folder of the first run.
fn exceptions(setting: &Setting, make: Make, job: &Job, failure: &Failure) -> Result<String> {
    let log = ["-d", "int", "-D", "{folder}/exceptions.log"].map(str::to_owned);
    // Use separate counters, so that its generations are not counted.
    let alone = Setting { counters: Counters::default(), ..setting.clone() };
    let Some(second) = make(&alone, job, &log)?.failure else {
        return Ok("a repetition passed: the failure depends on more than the seed".to_owned());
    };
    let folder = Path::new(&second.folder);
    let text = std::fs::read_to_string(folder.join("exceptions.log")).unwrap_or_default();
    // Without this file, on a full disk for example, the text that we return is still complete.
    let _ = std::fs::write(Path::new(&failure.folder).join("exceptions.log"), &text);
    let _ = std::fs::remove_dir_all(folder);
    let same = if second.why == failure.why {
        String::new()
    } else {
        format!("a repetition failed differently: {}\n", second.why)
    };
    Ok(same + &tail(&text, EXCEPTIONS))
}

/// The runs in an order drawn from the seed, so that a bug in any cell shows early.
fn queue(bound: Bound, seed: u64, cells: &[Cell]) -> Box<dyn Iterator<Item = Job> + Send + '_> {
    let mut random = SplitMix64::new(seed_of(seed, "order"));
    match bound {
        Bound::Jobs(mut jobs, _) => {
            shuffle(&mut random, &mut jobs);
            Box::new(jobs.into_iter())
        }
        Bound::Time(_) | Bound::Open => Box::new((0..).flat_map(move |round| {
            let mut order: Vec<_> = cells.to_vec();
            shuffle(&mut random, &mut order);
            order.into_iter().map(move |cell| Job {
                cell,
                round,
                generations: A_ROUND,
                fault: None,
            })
        })),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
