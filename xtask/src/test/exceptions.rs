//! QEMU's own log of exceptions: which ones there were, and who answered.
//!
//! *When:* a run whose QEMU was told `-d int`. Each nVHE generation leaves by one hypervisor call from EL1 to EL2 that does not return, and
//! makes one that does (SET_VECTORS); one in VHE makes one that returns at EL2 (FINALISE_EL2); at EL1 there is none. And there is
//! nothing else but interrupts that come back: no fault that somebody recovered from.

use anyhow::{Context, Result, ensure};

use crate::{
    orders::{Orders, Restart},
    proof::{Modes, check},
    transcript::{self, Life, hex},
};

use super::{
    case::{Case, Trial, case},
    matrix::{MODES, words_for},
};

const GENERATIONS: u32 = 4;

/// The vector of a synchronous exception from a lower level, from the table's start on.
const FROM_BELOW: u64 = 0x400;

/// Where the private EL2 vectors lie, from the control pages' start on.
const PRIVATE_VECTORS: u64 = 0x1800;

/// Modes × restarts.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (mode, machine, modes) in MODES {
        for restart in [Restart::Hot, Restart::Cold] {
            cases.push(case(format!("exceptions/{mode}-{restart}"), move |trial| {
                let orders = Orders {
                    generations: GENERATIONS,
                    restart,
                    append: words_for(modes),
                    ..trial.orders()
                };
                pass(trial, machine, &orders, modes)
            }));
        }
    }
    cases
}

fn pass(trial: &mut Trial<'_>, machine: &str, orders: &Orders, modes: Modes) -> Result<()> {
    let stub = trial.kernel().symbol("hyp_stub_vectors")?;
    // A semihosting call is an exception as well.
    let mut request = trial.request_psci(machine, orders)?;
    request.args = ["-d", "int", "-D", "{folder}/exceptions.log"].map(str::to_owned).into();
    let outcome = trial.run(&request)?;
    let log = outcome.folder.file("exceptions.log");
    ensure!(outcome.verdict.exit_code() == 0, "{}", outcome.verdict.words());
    let lives = transcript::lives(&outcome.console)?;
    let log =
        std::fs::read_to_string(&log).with_context(|| format!("QEMU left no {}", log.display()))?;
    check(&lives, orders, modes)?;
    let mut calls = calls(&log)?;
    calls.retain(|call| !call.is_interrupt());
    judge(&calls, &lives, stub)
}

/// Who answered each call that did not return, in the log of a run whose generations restart by one: the words of each that was not the
/// private EL2 vectors.
pub fn strangers(log: &str, lives: &[Life], stub: u64) -> Result<Vec<String>> {
    let mut calls = calls(log)?;
    calls.retain(|call| call.kind == "Hypervisor Call" && call.returned.is_none());
    let left = lives.iter().filter_map(|life| Some((life, life.bye.as_ref()?)));
    let mut words = Vec::new();
    for (index, (life, bye)) in left.enumerate() {
        let number = life.number;
        let call = calls
            .get(index)
            .with_context(|| format!("the log has no SOFT_RESTART of generation {number}"))?;
        if call.vector != Some(bye.control + PRIVATE_VECTORS + FROM_BELOW) {
            let who = if call.vector == Some(life.base + stub + FROM_BELOW) {
                "the stub's"
            } else {
                "unknown"
            };
            words.push(format!(
                "generation {number}'s SOFT_RESTART was answered by {who} vectors, not the private ones"
            ));
        }
    }
    Ok(words)
}

/// An exception in the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Call {
    /// QEMU's name for it.
    kind: String,
    /// `EL1 to EL2`.
    levels: String,
    /// Where it was taken from; for a call, the instruction behind it.
    elr: u64,
    /// Where it was taken to; `None` where QEMU's own firmware answered.
    vector: Option<u64>,
    /// The levels of the return to where it was taken from, if there was one.
    returned: Option<String>,
}

impl Call {
    /// An interrupt that its own level took, and that went on where it was.
    fn is_interrupt(&self) -> bool {
        self.kind == "IRQ" && self.returned.as_ref() == Some(&self.levels)
    }
}

/// The exceptions, in order.
fn calls(log: &str) -> Result<Vec<Call>> {
    let mut calls: Vec<Call> = Vec::new();
    // A return belongs to the exception before it, once.
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

/// Holds the exceptions against the lives: what each was to call, where its answer came from, and whether it came back.
fn judge(calls: &[Call], lives: &[Life], stub: u64) -> Result<()> {
    // Firmware's answer to the last word: SYSTEM_OFF.
    let [calls @ .., off] = calls else { anyhow::bail!("the log is empty") };
    ensure!(off.vector.is_none(), "the last exception is {off:?}, and should be a call of PSCI");
    let mut calls = calls.iter();
    for life in lives {
        let mut expect = |what: &str, vectors: u64, returned: Option<&str>| {
            let call = calls
                .next()
                .with_context(|| format!("generation {} did not call {what}", life.number))?;
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
                life.number
            );
            Ok(())
        };
        if life.mode == "vhe" {
            expect("FINALISE_EL2", life.base + stub, Some("EL2 to EL2"))?;
        }
        if life.mode == "nvhe"
            && let Some(bye) = &life.bye
        {
            expect("SET_VECTORS", life.base + stub, Some("EL2 to EL1"))?;
            expect("SOFT_RESTART", bye.control + PRIVATE_VECTORS, None)?;
        }
    }
    let more = calls.next();
    ensure!(more.is_none(), "an exception that nobody ordered: {more:x?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{lives, tests::GOOD};

    /// Of the good console's nVHE generations; its EL2 set-up returns to EL1 without an exception before.
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
        judge(&calls(log).unwrap(), &lives(GOOD).unwrap(), 0x3800)
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
        let fault = "Taking exception 4 [Data Abort] on CPU 0\n...from EL1 to EL1\n...with ELR 0x1\n...to EL1 PC 0x2\n";
        for (was, is) in [
            // The public stub answers the last call; that call comes back; the first does not.
            ("...to EL2 PC 0x5ffc1c00", "...to EL2 PC 0x40203c00"),
            (
                "0x5ffc1c00 PSTATE 0x3c9\nExcep",
                "0x5ffc1c00\nException return from EL2 to EL1 PC 0x5ffc00f8\nExcep",
            ),
            ("EL1 PC 0x4021154c", "EL1 PC 0x40211550"),
            // Something else happens, or it does not end by PSCI.
            ("Taking exception 13", &format!("{fault}Taking exception 13")),
            ("...handled as PSCI call", "...to EL3 PC 0x400"),
        ] {
            let doctored = LOG.replacen(was, is, 1);
            assert_ne!(doctored, LOG, "{was}");
            assert!(judged(&doctored).is_err(), "{is}");
        }
    }
}
