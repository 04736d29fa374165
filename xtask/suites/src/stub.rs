//! Tests with the hyp-stub's conformance suite, which the kernel runs with `selftest=stub`.
//!
//! The suite runs on CPUs with and without VHE. In nVHE it ends with a trapped system register
//! access while x0 looks like SOFT_RESTART. Only the early console may answer that, and the machine
//! stops.

use anyhow::{Result, ensure};
use boot::{esr, marker};

use harness::{cmdline::Cmdline, config::Gic, transcript::hex, verdict::Verdict};

use super::case::{Case, Trial, case, with_cpus};

const NVHE: [&str; 3] = ["cortex-a72", "neoverse-n1", "max"];
const VHE: [&str; 2] = ["neoverse-n1", "max"];

/// Returns one case for each machine and CPU, and two cases with four CPUs.
pub fn cases() -> Vec<Case> {
    let machines = NVHE.map(|cpu| ("nvhe", cpu)).into_iter().chain(VHE.map(|cpu| ("vhe", cpu)));
    let one = machines.map(|(machine, cpu)| (machine, cpu, 1));
    let all = one.chain([("nvhe", NVHE[0], 4), ("vhe", VHE[0], 4)]);
    let named = |(machine, cpu, cpus)| {
        let name = if cpus == 1 {
            format!("stub/{machine}-{cpu}")
        } else {
            format!("stub/{machine}-{cpu}-{cpus}-cpus")
        };
        case(name, move |trial| pass(trial, machine, cpu, cpus))
    };
    all.map(named).collect()
}

fn pass(trial: &mut Trial<'_>, machine: &str, cpu: &str, cpus: u32) -> Result<()> {
    let cmdline = Cmdline { append: vec!["selftest=stub".to_owned()], ..trial.cmdline() };
    let mut request = trial.request(machine, &cmdline)?;
    request.cpu = Some(cpu.to_owned());
    with_cpus(&mut request, cpus, Gic::V3);
    let expected = if machine == "nvhe" { Verdict::Stopped } else { Verdict::Success };
    let outcome = trial.ends(&request, expected)?;
    judge(&outcome.console, machine == "nvhe")?;
    for index in 0..cpus {
        let passed = format!("checks passed on CPU {index}");
        ensure!(outcome.console.contains(&passed), "CPU {index} reports no result of the suite");
    }
    let words = outcome.explanation.as_deref().unwrap_or_default();
    ensure!(
        machine != "nvhe" || words.contains("system register access trapped: read of"),
        "the explanation does not name the trapped register access"
    );
    Ok(())
}

/// Checks that all checks passed, and that exactly one trap was reported if `traps`, else none.
fn judge(console: &str, traps: bool) -> Result<()> {
    ensure!(!console.contains("FAILED"), "a check failed");
    let passed = console
        .lines()
        .filter(|line| line.contains("selftest: stub: ") && line.ends_with(" checks passed"));
    ensure!(passed.count() == 1, "the suite did not report exactly once that its checks passed");
    let exceptions: Vec<_> =
        console.lines().filter(|line| line.starts_with(marker::EXCEPTION)).collect();
    ensure!(exceptions.len() == usize::from(traps), "exceptions: {exceptions:#?}");
    for line in exceptions {
        let syndrome = hex(&line.replace("esr=", "esr=0x"), "esr=")?;
        let class = esr::ec(syndrome);
        ensure!(
            class == esr::EC_SYSREG,
            "the trap's class is {class:#x}, and should be {:#x}",
            esr::EC_SYSREG
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "[0] selftest: stub: 43 checks passed\n!! exception slot=8 esr=0000000062300129 elr=1\n";

    #[test]
    fn a_suite_that_passed_and_trapped_is_good() {
        judge(GOOD, true).unwrap();
        judge("[0] selftest: stub: 16 checks passed\n", false).unwrap();
    }

    #[test]
    fn each_rule_can_fail() {
        for doctored in [
            GOOD.replace("[0]", "[0] selftest: FAILED: x0\n[0]"),
            GOOD.replace("passed", "FAILED"),
            GOOD.replace("62300129", "5a000000"),
            GOOD.to_owned() + GOOD,
            GOOD.lines().next().unwrap().to_owned(),
        ] {
            assert!(judge(&doctored, true).is_err(), "{doctored}");
        }
        assert!(judge(GOOD, false).is_err());
    }
}
