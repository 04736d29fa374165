//! Tests on QEMU's log of exceptions (`-d int`): each exception must be expected.
//!
//! - A generation in nvhe that restarts makes two calls from EL1 to EL2: SET_VECTORS, which
//!   returns, and SOFT_RESTART, which does not.
//! - A generation in vhe makes one call, FINALISE_EL2, which returns at EL2.
//! - A generation in el1 makes none.
//! - All other exceptions are interrupts that return: no fault is recovered from.

use anyhow::{Context, Result, ensure};

use harness::{
    cmdline::{Cmdline, Restart},
    invariants::{Modes, check},
    transcript::{self, GenerationLog, hex},
};

use super::{
    case::{Case, Trial, case},
    matrix::{MODES, words_for},
};

const GENERATIONS: u32 = 4;

/// Offset in a vector table of synchronous exceptions from a lower level.
const FROM_BELOW: u64 = 0x400;

/// Offset of the private EL2 vectors in the control pages.
const PRIVATE_VECTORS: u64 = 0x1800;

/// Returns one case for each mode and restart.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (mode, machine, modes) in MODES {
        for restart in [Restart::Hot, Restart::Cold] {
            cases.push(case(format!("exceptions/{mode}-{restart}"), move |trial| {
                let cmdline = Cmdline {
                    generations: GENERATIONS,
                    restart,
                    append: words_for(modes),
                    ..trial.cmdline()
                };
                pass(trial, machine, &cmdline, modes)
            }));
        }
    }
    cases
}

fn pass(trial: &mut Trial<'_>, machine: &str, cmdline: &Cmdline, modes: Modes) -> Result<()> {
    let stub = trial.kernel().symbol("hyp_stub_vectors")?;
    // No semihosting, whose calls would be exceptions as well.
    let mut request = trial.request_psci(machine, cmdline)?;
    request.args = ["-d", "int", "-D", "{folder}/exceptions.log"].map(str::to_owned).into();
    let outcome = trial.run(&request)?;
    let log = outcome.folder.file("exceptions.log");
    ensure!(outcome.verdict.exit_code() == 0, "{}", outcome.verdict.words());
    let logs = transcript::logs(&outcome.console)?;
    let log =
        std::fs::read_to_string(&log).with_context(|| format!("QEMU left no {}", log.display()))?;
    check(&logs, cmdline, modes)?;
    let mut calls = calls(&log)?;
    calls.retain(|call| !call.is_interrupt());
    judge(&calls, &logs, stub)
}

/// Finds the SOFT_RESTART calls that other vectors than the private EL2 vectors answered. The log
/// is of nVHE generations that each restart by one such call, which does not return.
pub fn strangers(log: &str, logs: &[GenerationLog], stub: u64) -> Result<Vec<String>> {
    let mut calls = calls(log)?;
    calls.retain(|call| call.kind == "Hypervisor Call" && call.returned.is_none());
    let left = logs.iter().filter_map(|gen_log| Some((gen_log, gen_log.bye.as_ref()?)));
    let mut words = Vec::new();
    for (index, (gen_log, bye)) in left.enumerate() {
        let number = gen_log.number;
        let call = calls
            .get(index)
            .with_context(|| format!("the log has no SOFT_RESTART of generation {number}"))?;
        if call.vector != Some(bye.control + PRIVATE_VECTORS + FROM_BELOW) {
            let who = if call.vector == Some(gen_log.base + stub + FROM_BELOW) {
                "the stub's"
            } else {
                "unknown"
            };
            words.push(format!(
                "generation {number}'s SOFT_RESTART was answered by {who} vectors, \
                 not the private ones"
            ));
        }
    }
    Ok(words)
}

/// An exception in the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Call {
    /// QEMU's name for the exception.
    kind: String,
    /// The exception levels, as in `EL1 to EL2`.
    levels: String,
    /// The preferred return address; for a call, the instruction after it.
    elr: u64,
    /// The address of the vector, or `None` if QEMU's own firmware answered.
    vector: Option<u64>,
    /// The exception levels of the return to `elr`, if there was one.
    returned: Option<String>,
}

impl Call {
    /// Returns whether this is an interrupt that its own level took and returned from.
    fn is_interrupt(&self) -> bool {
        self.kind == "IRQ" && self.returned.as_ref() == Some(&self.levels)
    }
}

/// Parses the exceptions, in order.
fn calls(log: &str) -> Result<Vec<Call>> {
    let mut calls: Vec<Call> = Vec::new();
    // A return belongs to the exception before it, and to no other.
    let mut open = false;
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix("Taking exception ") {
            let kind = rest
                .split_once('[')
                .and_then(|(_, rest)| rest.split_once(']'))
                .context("no name")?
                .0;
            calls.push(Call { kind: kind.to_owned(), ..Call::default() });
            open = true;
        } else if let Some(levels) = line.strip_prefix("Exception return from ") {
            let pc = hex(line, " PC ")?;
            if let Some(call) = calls.last_mut().filter(|call| open && call.elr == pc) {
                call.returned =
                    Some(levels.split(" PC").next().unwrap_or_default().replace("AArch64 ", ""));
            }
            open = false;
        } else if let Some(call) = calls.last_mut() {
            if let Some(levels) = line.strip_prefix("...from ") {
                call.levels = levels.to_owned();
            } else if line.starts_with("...with ELR ") {
                call.elr = hex(line, "ELR ")?;
            } else if line.starts_with("...to ") {
                call.vector = Some(hex(line, " PC ")?);
            }
        }
    }
    Ok(calls)
}

/// Checks the exceptions against the generations: which calls each made, which vectors answered,
/// and whether each call returned.
fn judge(calls: &[Call], logs: &[GenerationLog], stub: u64) -> Result<()> {
    // The last exception is PSCI SYSTEM_OFF, which QEMU's firmware answers.
    let [calls @ .., off] = calls else { anyhow::bail!("the log is empty") };
    ensure!(off.vector.is_none(), "the last exception is {off:?}, and should be a call of PSCI");
    let mut calls = calls.iter();
    for gen_log in logs {
        let mut expect = |what: &str, vectors: u64, returned: Option<&str>| {
            let call = calls
                .next()
                .with_context(|| format!("generation {} did not call {what}", gen_log.number))?;
            let expected = Call {
                kind: "Hypervisor Call".to_owned(),
                levels: "EL1 to EL2".to_owned(),
                elr: call.elr,
                vector: Some(vectors + FROM_BELOW),
                returned: returned.map(str::to_owned),
            };
            ensure!(
                *call == expected,
                "generation {}: {call:x?}, and should be {what}, {expected:x?}",
                gen_log.number
            );
            Ok(())
        };
        if gen_log.mode == "vhe" {
            expect("FINALISE_EL2", gen_log.base + stub, Some("EL2 to EL2"))?;
        }
        if gen_log.mode == "nvhe"
            && let Some(bye) = &gen_log.bye
        {
            expect("SET_VECTORS", gen_log.base + stub, Some("EL2 to EL1"))?;
            expect("SOFT_RESTART", bye.control + PRIVATE_VECTORS, None)?;
        }
    }
    let more = calls.next();
    ensure!(more.is_none(), "an unexpected exception: {more:x?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::transcript::{GOOD, logs};

    /// Log of the good console's nVHE generations. `el2_setup` returns to EL1 without an exception
    /// before.
    const LOG: &str = "\
Exception return from AArch64 EL2 to AArch64 EL1 PC 0x40204fb0
Taking exception 11 [Hypervisor Call] on CPU 0
...from EL1 to EL2
...with ESR 0x16/0x5a000000
...with ELR 0x4021154c
...to EL2 PC 0x40203c00 PSTATE 0x3c9
Exception return from AArch64 EL2 to AArch64 EL1 PC 0x4021154c
Taking exception 11 [Hypervisor Call] on CPU 0
...from EL1 to EL2
...with ELR 0x5ffc00f8
...to EL2 PC 0x5ffc1c00 PSTATE 0x3c9
Exception return from AArch64 EL2 to AArch64 EL1 PC 0x40204fb0
Taking exception 11 [Hypervisor Call] on CPU 0
...from EL1 to EL2
...with ELR 0x4021154c
...to EL2 PC 0x40203c00 PSTATE 0x3c9
Exception return from AArch64 EL2 to AArch64 EL1 PC 0x4021154c
Taking exception 11 [Hypervisor Call] on CPU 0
...from EL1 to EL2
...with ELR 0x5ff800f8
...to EL2 PC 0x5ff81c00 PSTATE 0x3c9
Exception return from AArch64 EL2 to AArch64 EL1 PC 0x40204fb0
Taking exception 13 [Secure Monitor Call] on CPU 0
...from EL1 to EL3
...handled as PSCI call
";

    fn judged(log: &str) -> Result<()> {
        judge(&calls(log).unwrap(), &logs(GOOD).unwrap(), 0x3800)
    }

    #[test]
    fn one_call_returns_and_one_does_not() {
        judged(LOG).unwrap();
        let returned: Vec<_> =
            calls(LOG).unwrap().into_iter().map(|call| call.returned.is_some()).collect();
        assert_eq!(returned, [true, false, true, false, false]);
    }

    #[test]
    fn each_rule_can_fail() {
        let fault = "Taking exception 4 [Data Abort] on CPU 0\n...from EL1 to EL1\n\
                     ...with ELR 0x1\n...to EL1 PC 0x2\n";
        for (was, is) in [
            // The stub answers SOFT_RESTART; SOFT_RESTART returns; SET_VECTORS does not return.
            ("...to EL2 PC 0x5ffc1c00", "...to EL2 PC 0x40203c00"),
            (
                "0x5ffc1c00 PSTATE 0x3c9\nExcep",
                "0x5ffc1c00\nException return from EL2 to EL1 PC 0x5ffc00f8\nExcep",
            ),
            ("EL1 PC 0x4021154c", "EL1 PC 0x40211550"),
            // There is another exception; the run does not end by PSCI.
            ("Taking exception 13", &format!("{fault}Taking exception 13")),
            ("...handled as PSCI call", "...to EL3 PC 0x400"),
        ] {
            let doctored = LOG.replacen(was, is, 1);
            assert_ne!(doctored, LOG, "{was}");
            assert!(judged(&doctored).is_err(), "{is}");
        }
    }
}
