//! Kernels that hang on purpose: xtask must stop them and report where they hung.
//!
//! Each case puts `b .` at a symbol: in the first instructions, in the control page, or after the
//! jump. The run must end by its time limit. The explanation must name exception level, MMU state,
//! symbol and last breadcrumb.

use std::time::Duration;

use anyhow::{Result, ensure};

use harness::{
    cmdline::{Cmdline, Restart},
    disk,
    patch::{HANG, Patched},
    request::Disk,
    verdict::Verdict,
};
use protocol::fit::writer as fit;

use super::case::{Case, Trial, case};

/// Time limit of a run. A generation takes a hundredth of it, but much more on a busy host.
const LIMIT: Duration = Duration::from_secs(4);

/// A kernel that hangs, and the expected explanation.
#[derive(Clone, Copy)]
struct Hang {
    name: &'static str,
    machine: &'static str,
    restart: Restart,
    /// Patches the booted kernel if true, else the one that it restarts into.
    booted: bool,
    symbol: &'static str,
    /// The expected beginning of the explanation.
    stands: &'static str,
    /// The expected end of its first line.
    phase: &'static str,
}

const ENTERED: &str = "last breadcrumb of the entry at 0x40200000: 'first instruction'";
const EL2_SET_UP: &str = "last breadcrumb of the entry at 0x40200000: 'EL2 set up'";

#[rustfmt::skip]
const HANGS: [Hang; 9] = [
    Hang { name: "early-entry", machine: "nvhe", restart: Restart::Hot, booted: true,
           symbol: "el2_setup",
           stands: "CPU 0 stands at EL2h, MMU off, at el2_setup (base 0x40200000)",
           phase: ENTERED },
    Hang { name: "early-entry-el1", machine: "el1", restart: Restart::Hot, booted: true,
           symbol: "cpu_setup",
           stands: "CPU 0 stands at EL1h, MMU off, at cpu_setup (base 0x40200000)",
           phase: ENTERED },
    Hang { name: "control-page", machine: "nvhe", restart: Restart::Hot, booted: true,
           symbol: "verify",
           stands: "CPU 0 stands at EL1h, MMU on, at control page: verify (page 0x",
           phase: "last breadcrumb: 3 'maintained'" },
    Hang { name: "control-page-cold", machine: "nvhe", restart: Restart::Cold, booted: true,
           symbol: "verify",
           stands: "CPU 0 stands at EL2h, MMU off, at control page: verify (page 0x",
           phase: "last breadcrumb: 2 'copied'" },
    Hang { name: "control-page-vhe", machine: "vhe", restart: Restart::Hot, booted: true,
           symbol: "mmu_off",
           stands: "CPU 0 stands at EL2h, MMU on, at control page: mmu_off (page 0x",
           phase: "last breadcrumb: 4 'verified'" },
    Hang { name: "control-page-el1", machine: "el1", restart: Restart::Cold, booted: true,
           symbol: "walk_kimage",
           stands: "CPU 0 stands at EL1h, MMU off, at control page: walk_kimage (page 0x",
           phase: "last breadcrumb: 5 'MMU off'" },
    Hang { name: "after-the-jump", machine: "nvhe", restart: Restart::Hot, booted: false,
           symbol: "el2_setup",
           stands: "CPU 0 stands at EL2h, MMU off, at el2_setup (base 0x40200000)",
           phase: ENTERED },
    Hang { name: "after-the-jump-vhe", machine: "vhe", restart: Restart::Cold, booted: false,
           symbol: "cpu_setup",
           stands: "CPU 0 stands at EL1h, MMU off, at cpu_setup (base 0x40200000)",
           phase: EL2_SET_UP },
    Hang { name: "after-the-jump-el1", machine: "el1", restart: Restart::Hot, booted: false,
           symbol: "mmu_on",
           stands: "CPU 0 stands at EL1h, MMU off, at mmu_on (base 0x40200000)", phase: ENTERED },
];

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    HANGS
        .into_iter()
        .map(|hang| case(format!("hang/{}", hang.name), move |trial| hang.pass(trial)))
        .collect()
}

impl Hang {
    fn pass(&self, trial: &mut Trial<'_>) -> Result<()> {
        let cmdline = Cmdline { restart: self.restart, ..trial.cmdline() };
        let mut request = trial.request(self.machine, &cmdline)?;
        request.timeout = LIMIT;
        let hangs = Patched::new(trial.kernel()).at(self.symbol, 0, HANG)?.image;
        if self.booted {
            request.image = Some(hangs);
        } else {
            request.disk = Disk::Bytes(fit::write(&[disk::payload("hangs", hangs, None)]).into());
        }
        let outcome = trial.ends(&request, Verdict::TimedOut)?;
        let explanation = outcome.explanation.as_deref().unwrap_or_default();
        let first = explanation.lines().next().unwrap_or_default();
        ensure!(
            first.starts_with(self.stands),
            "the explanation begins \"{first}\", not \"{}\"",
            self.stands
        );
        ensure!(
            first.ends_with(self.phase),
            "the explanation begins \"{first}\", which does not end \"{}\"",
            self.phase
        );
        ensure!(
            self.booted || explanation.contains(", leaving +"),
            "the explanation does not name the last breadcrumb of the kexec path"
        );
        // The detailed lines: the instruction, and the decoded state.
        for words in ["instruction 0x14000000  b .", "PSTATE", "SCTLR_EL", "masked: D A I F"] {
            ensure!(explanation.contains(words), "the explanation does not say \"{words}\"");
        }
        Ok(())
    }
}
