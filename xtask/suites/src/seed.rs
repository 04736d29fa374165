//! Tests that a seed determines all places, whatever the heap holds and however slow the host is.
//!
//! Each case runs the same parameters on the same machine, four times:
//!
//! - as they are;
//! - with `selftest=heap`: the kernel allocates and waits, differently in each run;
//! - with `selftest=heap` on a machine where each instruction takes 1 ns;
//! - with `selftest=heap` on a machine where each takes 128 ns. The lines of phase times become
//!   longer, and with them the kernel's strings.

use anyhow::{Context, Result, ensure};

use harness::{
    cmdline::{Base, Cmdline, Restart},
    invariants::{self, Modes, check},
    transcript::{Bye, GenerationLog},
};

use super::case::{Case, Trial, case};

/// The number of generations.
const GENERATIONS: u32 = 4;

/// Arguments for QEMU: each instruction takes 1 or 2⁷ ns, whatever it takes on the host. The timer
/// ticks each ms, so a slower machine would do little else than tick.
const FAST: [&str; 2] = ["-icount", "shift=0,sleep=off"];
const SLOW: [&str; 2] = ["-icount", "shift=7,sleep=off"];

/// Returns one case for each mode.
pub fn cases() -> Vec<Case> {
    let case_of = |mode| case(format!("seed/heap-{mode}"), move |trial| pass(trial, mode));
    invariants::MODES.map(case_of).into()
}

fn pass(trial: &mut Trial<'_>, mode: &'static str) -> Result<()> {
    let cmdline = Cmdline {
        generations: GENERATIONS,
        base: Base::Random,
        restart: Restart::Cold,
        ..trial.cmdline()
    };
    let disturbed = Cmdline { append: vec!["selftest=heap".to_owned()], ..cmdline.clone() };
    let mut runs = Vec::new();
    for (cmdline, args) in
        [(&cmdline, &[][..]), (&disturbed, &[]), (&disturbed, &FAST), (&disturbed, &SLOW)]
    {
        let mut request = trial.request(mode, cmdline)?;
        request.args.extend(args.iter().map(ToString::to_string));
        let logs = trial.logs(&request)?;
        check(&logs, cmdline, Modes::All(mode))?;
        runs.push(logs);
    }
    let [quiet, noises @ ..] = [0, 1, 2, 3].map(|run: usize| noise(&runs[run]));
    ensure!(
        quiet.is_empty() && noises.iter().all(|noise| noise.len() == GENERATIONS as usize - 1),
        "the self-test ran in other generations than it should: {noises:?}"
    );
    ensure!(
        noises[0] != noises[1] && noises[1] != noises[2],
        "the self-test did the same in two runs: {noises:?}"
    );
    let (fast, slow) = (trace_digits(&runs[2]), trace_digits(&runs[3]));
    ensure!(
        slow > fast,
        "the boot traces have {slow} digits on the slow machine, and {fast} on the fast one"
    );
    let expected = places(&runs[0])?;
    for (number, logs) in runs.iter().enumerate() {
        let found = places(logs)?;
        ensure!(found == expected, "run {number} went to {found:#x?}, run 0 to {expected:#x?}");
    }
    Ok(())
}

/// Returns the lines in which the self-test says what it did.
fn noise(logs: &[GenerationLog]) -> Vec<&str> {
    let lines = logs.iter().flat_map(|gen_log| &gen_log.lines);
    lines.filter_map(|line| line.strip_prefix("selftest: heap: ")).collect()
}

/// Returns the number of digits of all times between breadcrumbs.
fn trace_digits(logs: &[GenerationLog]) -> usize {
    let times = logs.iter().flat_map(|gen_log| &gen_log.trace);
    times.map(|(_, ns)| ns.to_string().len()).sum()
}

/// Base, control pages, and the kexec, of one generation.
type Place<'a> = (u64, u64, Option<&'a Bye>);

/// Returns all places of each generation: base and control pages, and from its kexec the next
/// kernel's entry, device tree, control pages and breadcrumbs.
fn places(logs: &[GenerationLog]) -> Result<Vec<Place<'_>>> {
    let gone = logs.len().checked_sub(1).context("no generation")?;
    ensure!(logs[..gone].iter().all(|gen_log| gen_log.bye.is_some()), "a generation has no kexec");
    Ok(logs.iter().map(|gen_log| (gen_log.base, gen_log.control, gen_log.bye.as_ref())).collect())
}
