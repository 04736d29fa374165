//! A campaign: runs, several at a time, until there is a reason to stop.
//!
//! *When:* once cells and bounds are chosen. *Leaves* a tally, whatever came of it, an interrupt too; no process of ours runs any more.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Error, Result};
use relocate::random::SplitMix64;

use crate::{
    config::Config,
    console::tail,
    kernel_build::Built,
    orders::seed_of,
    processes::{Interrupted, interrupted},
    transcript::Life,
};

use super::{
    cells::Cell,
    draw::{Job, shuffle},
    progress::{Counters, Goal, Progress},
    tally::{Failure, Tally},
};

/// So many failures tell all that there is to tell.
const ENOUGH: usize = 10;

/// How many generations a run has where nobody says how many there are in all.
const A_ROUND: u32 = 20;

/// How many lines of QEMU's log of exceptions a failure shows.
const EXCEPTIONS: usize = 60;

/// What all runs are made with.
#[derive(Clone)]
pub struct Setting {
    /// qemu.toml.
    pub config: Arc<Config>,
    /// The kernel.
    pub kernel: Arc<Built>,
    /// What everything is drawn from.
    pub seed: u64,
    /// The longest that a console may be silent.
    pub silence: Duration,
    /// What is counted meanwhile.
    pub counters: Counters,
}

/// What came of a run.
pub struct Made {
    /// Its generations.
    pub lives: Vec<Life>,
    /// Wall time.
    pub seconds: f64,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The faults that were injected: kind, and how it ended.
    pub faults: Vec<(&'static str, &'static str)>,
}

/// Makes a run, with more words for QEMU.
pub type Make = fn(&Setting, &Job, &[String]) -> Result<Made>;

/// Which runs, and until when.
pub enum Bound {
    /// These; and how much that is, as it is counted.
    Jobs(Vec<Job>, u64),
    /// Round after round of every cell, for so long.
    Time(Duration),
    /// Round after round of every cell.
    Open,
}

/// Runs to be made.
pub struct Campaign<'a> {
    /// With what.
    pub setting: &'a Setting,
    /// How.
    pub make: Make,
    /// What it counts, for people.
    pub unit: &'static str,
    /// The cells that were chosen.
    pub cells: &'a [Cell],
    /// Until when.
    pub bound: Bound,
    /// Is the first failure the end?
    pub until_fail: bool,
    /// How many runs at a time.
    pub jobs: usize,
}

impl Campaign<'_> {
    /// Makes the runs and adds what they found to `tally`.
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
                                let Made { lives, seconds, failure, faults } = made;
                                setting
                                    .counters
                                    .done
                                    .fetch_add(faults.len() as u64, Ordering::Relaxed);
                                let tally = &mut *shared.0;
                                tally.note(&job.cell, &lives, seconds, failure);
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

/// Makes a run; the first that fails is made once more for QEMU's log of its exceptions.
fn complete(setting: &Setting, make: Make, job: &Job) -> Result<Made> {
    let mut made = make(setting, job, &[])?;
    if let Some(failure) = &mut made.failure
        && setting.counters.failed.fetch_add(1, Ordering::Relaxed) == 0
    {
        failure.exceptions = exceptions(setting, make, job, failure)?;
    }
    Ok(made)
}

/// QEMU's log of the exceptions of a second run, whole beside what the first run left, its end as text.
fn exceptions(setting: &Setting, make: Make, job: &Job, failure: &Failure) -> Result<String> {
    let log = ["-d", "int", "-D", "{folder}/exceptions.log"].map(str::to_owned);
    // Nobody counts its generations.
    let alone = Setting { counters: Counters::default(), ..setting.clone() };
    let Some(second) = make(&alone, job, &log)?.failure else {
        return Ok("made once more, it passed: it depends on more than its seed".to_owned());
    };
    let folder = Path::new(&second.folder);
    let text = std::fs::read_to_string(folder.join("exceptions.log")).unwrap_or_default();
    // A disk that is full takes nothing from what is told here.
    let _ = std::fs::write(Path::new(&failure.folder).join("exceptions.log"), &text);
    let _ = std::fs::remove_dir_all(folder);
    let same = if second.why == failure.why {
        String::new()
    } else {
        format!("made once more, it failed otherwise: {}\n", second.why)
    };
    Ok(same + &tail(&text, EXCEPTIONS))
}

/// The runs in the order in which they are made, which the seed draws: a fault of one cell shows early, whichever it is.
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
