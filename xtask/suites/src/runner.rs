//! The runner: runs cases, prints a line for each, and reports the failures at the end.
//!
//! An interrupt (Ctrl-C) ends it without a report on the cases that were still running.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Error, Result};

use harness::{
    error::Skipped,
    processes::{Interrupted, interrupted},
    qemu,
};

use super::case::{Case, TestContext, Trial};

/// The most QEMU cases that run at a time: each takes a core, and memory of this host.
const MOST_JOBS: usize = 4;

/// A case that failed or was skipped: the reason, and a description of its last run.
struct Failure {
    error: Error,
    seen: String,
}

/// The result of one case.
struct Made {
    end: Result<(), Failure>,
    took: Duration,
}

/// The results of the cases so far.
pub struct Tally {
    seed: u64,
    started: Instant,
    passed: usize,
    skipped: Vec<Skipped>,
    /// The name of each failed case, with the reason and a description of its last run.
    failed: Vec<(String, String)>,
}

impl Tally {
    /// Starts with no results.
    pub fn new(seed: u64) -> Self {
        Self { seed, started: Instant::now(), passed: 0, skipped: Vec::new(), failed: Vec::new() }
    }

    fn note(&mut self, case: &Case, Made { end, took }: Made) {
        let line = |word: &str, more: &str| {
            println!("{word:8} {:44} {:6.2} s{more}", case.name, took.as_secs_f64());
            let _ = std::io::stdout().flush();
        };
        match end {
            Ok(()) => {
                self.passed += 1;
                line("ok", "");
            }
            Err(Failure { error, seen }) => match error.downcast::<Skipped>() {
                Ok(skipped) => {
                    line("skipped", &format!("  {}", skipped.need()));
                    self.skipped.push(skipped);
                }
                Err(error) => {
                    line("FAILED", "");
                    self.failed.push((case.name.clone(), format!("{error:#}\n{seen}")));
                }
            },
        }
    }

    /// Counts a failed check that belongs to no single case but follows all of them.
    pub fn hold(&mut self, name: &str, held: Result<()>) {
        self.failed.extend(held.err().map(|error| (name.to_owned(), format!("{error:#}"))));
    }

    /// Prints the failures and the totals, and returns the exit code.
    pub fn close(self) -> u8 {
        for (name, words) in &self.failed {
            let seed = format!("{:#018x}", self.seed);
            let again = qemu::shell_line(["cargo", "xtask", "test", name, "--seed", &seed]);
            println!("\n{name}: {}\n\nRun it again:\n  {again}", words.trim_end());
        }
        let skipped = match self.skipped.len() {
            0 => String::new(),
            count => format!(", {count} skipped"),
        };
        println!(
            "\n{} passed, {} failed{skipped} (in {:.0} s)",
            self.passed,
            self.failed.len(),
            self.started.elapsed().as_secs_f64()
        );
        grouped(&self.skipped).iter().for_each(|line| println!("{line}"));
        u8::from(!self.failed.is_empty())
    }
}

/// Describes skipped cases: a line for each way to mend, with the number of cases for each need.
fn grouped(skipped: &[Skipped]) -> Vec<String> {
    let mut mends: Vec<&str> = Vec::new();
    for Skipped { mend, .. } in skipped {
        if !mends.contains(&mend.as_str()) {
            mends.push(mend);
        }
    }
    let line = |mend| {
        let mut needs = BTreeMap::<&str, (usize, BTreeSet<&str>)>::new();
        for case in skipped.iter().filter(|skipped| skipped.mend == mend) {
            let (count, details) = needs.entry(&case.lacks).or_default();
            *count += 1;
            details.extend(case.detail.as_deref());
        }
        let needs: Vec<_> = needs.into_iter().map(|(lacks, need)| counted(lacks, need)).collect();
        format!("skipped: {}: {mend}", needs.join("; "))
    };
    mends.into_iter().map(line).collect()
}

/// Describes the cases that lack one thing, as in "2 need a CPU (rule 31, rule 32)".
fn counted(lacks: &str, (count, details): (usize, BTreeSet<&str>)) -> String {
    let need = if count == 1 { "needs" } else { "need" };
    let details = details.into_iter().collect::<Vec<_>>().join(", ");
    let details = if details.is_empty() { details } else { format!(" ({details})") };
    format!("{count} {need} {lacks}{details}")
}

/// Runs the host tests in order.
pub fn one_by_one(cases: &[Case], tally: &mut Tally) -> Result<()> {
    cases.iter().try_for_each(|case| {
        tally.note(case, make(case, None)?);
        Ok(())
    })
}

/// Runs the QEMU cases, several at a time.
pub fn side_by_side(cases: &[Case], context: &TestContext, tally: &mut Tally) -> Result<()> {
    let jobs =
        thread::available_parallelism().map_or(1, usize::from).min(MOST_JOBS).min(cases.len());
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(tally);
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..jobs).map(|_| scope.spawn(|| work(cases, context, &next, &tally))).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn work(
    cases: &[Case],
    context: &TestContext,
    next: &AtomicUsize,
    tally: &Mutex<&mut Tally>,
) -> Result<()> {
    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
        let made = make(case, Some(context))?;
        locked(tally).note(case, made);
    }
    Ok(())
}

/// Runs one case. Returns an error only if the user interrupted the runner.
fn make(case: &Case, context: Option<&TestContext>) -> Result<Made> {
    if interrupted() {
        return Err(Interrupted.into());
    }
    let started = Instant::now();
    let mut trial = Trial::new(&case.name, context);
    let end = (case.check)(&mut trial);
    let took = started.elapsed();
    if interrupted() {
        return Err(Interrupted.into());
    }
    let end = match end {
        Ok(()) => trial.discard().map_err(|error| Failure { error, seen: String::new() }),
        Err(error) => Err(Failure { error, seen: trial.last_run() }),
    };
    Ok(Made { end, took })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::{super::case, *};
    use crate::needs::Need;

    fn skipped(lacks: &str, detail: Option<&str>, mend: &str) -> Skipped {
        let detail = detail.map(str::to_owned);
        Skipped { lacks: lacks.to_owned(), detail, mend: mend.to_owned() }
    }

    fn host(name: &str, check: fn() -> Result<()>) -> Case {
        Case { on_host: true, ..case::case(name, move |_| check()) }
    }

    #[test]
    fn a_failure_and_nothing_else_makes_the_exit_code() {
        let good = host("a/good", || Ok(()));
        let absent = host("a/absent", || Err(skipped("a tool", None, "get it").into()));
        let bad = host("a/bad", || bail!("it is not so"));

        let mut tally = Tally::new(1);
        one_by_one(&[good, absent], &mut tally).unwrap();
        assert_eq!((tally.passed, tally.skipped.len(), tally.failed.len()), (1, 1, 0));
        one_by_one(&[bad], &mut tally).unwrap();
        assert_eq!(tally.failed, [("a/bad".to_owned(), "it is not so\n".to_owned())]);
        assert_eq!(tally.close(), 1);
        assert_eq!(Tally::new(1).close(), 0);
    }

    #[test]
    fn a_case_is_skipped_if_a_need_is_missing_and_runs_if_none_is() {
        let missing = BTreeMap::from([(Need::UBoot, skipped("U-Boot", None, "apt"))]);
        let mut cases = [
            host("a/edk2", || Ok(())).needing([Need::Edk2]),
            host("a/u-boot", || Ok(())).needing([Need::Edk2, Need::UBoot]),
        ];
        cases.iter_mut().for_each(|case| case.skip_without(&missing));
        let mut tally = Tally::new(1);
        one_by_one(&cases, &mut tally).unwrap();
        assert_eq!((tally.passed, tally.skipped.len(), tally.failed.len()), (1, 1, 0));
    }

    #[test]
    fn skipped_cases_take_one_line_for_each_way_to_mend() {
        let apt = "sudo apt-get install -y qemu-efi-aarch64 u-boot-tools";
        let cpu = |rule| skipped("a CPU that QEMU 7.2 lacks", Some(rule), "a later QEMU");
        let all = [
            cpu("rule 31"),
            skipped("EDK2", None, apt),
            cpu("rule 42"),
            skipped("mkimage", None, apt),
            cpu("rule 42"),
            skipped("EDK2", None, apt),
        ];
        assert_eq!(
            grouped(&all),
            [
                "skipped: 3 need a CPU that QEMU 7.2 lacks (rule 31, rule 42): a later QEMU",
                "skipped: 2 need EDK2; 1 needs mkimage: \
                 sudo apt-get install -y qemu-efi-aarch64 u-boot-tools",
            ]
        );
        assert_eq!(grouped(&[]), [""; 0]);
    }
}
