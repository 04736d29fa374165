//! Kernels that fail on purpose: they must report the failure, stop, and never jump.
//!
//! Patched instructions cause an exception, a panic, a fault during the copy, or a wrong copy. The
//! test checks the line that the kernel prints and the explanation by xtask.

use anyhow::{Context, Result, ensure};
use boot::{esr::Esr, marker};

use harness::{
    cmdline::{Base, Cmdline, Restart},
    disk,
    patch::{ERET, Patched, UNDEFINED},
    request::Disk,
    verdict::Verdict,
};
use protocol::fit::writer as fit;

use super::case::{Case, Trial, case};

/// A patch of a kernel.
type Patch = for<'a> fn(Patched<'a>) -> Result<Patched<'a>>;

/// A kernel that fails, and the expected report.
#[derive(Clone, Copy)]
struct Failing {
    name: &'static str,
    machine: &'static str,
    restart: Restart,
    base: Base,
    patch: Patch,
    /// Patches the booted kernel if true, else the one that it restarts into.
    booted: bool,
    end: Verdict,
    /// The beginning of an expected console line.
    line: &'static str,
    /// Other expected text, on the console or in the explanation.
    more: &'static [&'static str],
}

/// Defaults: mode nvhe, a hot restart to the same address; the run must end stopped.
const PLAIN: Failing = Failing {
    name: "",
    machine: "nvhe",
    restart: Restart::Hot,
    base: Base::Same,
    patch: |kernel| Ok(kernel),
    booted: true,
    end: Verdict::Stopped,
    line: "",
    more: &[],
};

/// `stp q0, q1, [x6], #32` of the copy loop, and `add x6, x6, #32`, which is the same without the
/// store.
const STORE: u32 = 0xac81_04c0;
const STORE_NOTHING: u32 = 0x9100_80c6;
/// `ldr x0, [x1], #8`, which loads the next list entry, and `mov x0, #0x30`, which is an invalid
/// entry.
const NEXT_ENTRY: u32 = 0xf840_8420;
const NO_ENTRY: u32 = 0xd280_0600;
/// `mov x20, x0`, which keeps the device tree's address, and `mov x20, xzr`.
const KEEP_TREE: u32 = 0xaa00_03f4;
const KEEP_NOTHING: u32 = 0xaa1f_03f4;
/// `mov sp, x9`, and `sub sp, x9, #15, lsl #12`, which leaves 4 of 64 KiB.
const STACK: u32 = 0x9100_013f;
const SMALL_STACK: u32 = 0xd140_3d3f;

/// `mov x9, #0`, which replaces the exception level that a call came from.
const NO_LEVEL: u32 = 0xd280_0009;

const FAULT: &str = marker::RELOCATION_FAULT;
const MISMATCH: &str = marker::MISMATCH;
/// The report of an UNDEFINED instruction, with its syndrome.
const UNDEFINED_TAKEN: &str = concat!(marker!(exception), "0000000000000004 esr=0000000002000000");
/// Syndrome in [`UNDEFINED_TAKEN`].
const SYNDROME: Esr = Esr(0x0200_0000);

/// An exception at EL1, after `cpu_setup` has installed vectors in its first instructions.
const AT_EL1: Patch = |kernel| kernel.at("cpu_setup", 12, UNDEFINED);
/// An exception at EL2, after `el2_setup` has installed vectors.
const AT_EL2: Patch = |kernel| kernel.at("el2_setup", 12, UNDEFINED);
const IN_THE_COPY: Patch = |kernel| kernel.at("walk_kimage", 0, UNDEFINED);
const WRONG_COPY: Patch = |kernel| kernel.replace("walk_kimage", STORE, STORE_NOTHING);
const WRONG_LIST: Patch = |kernel| kernel.replace("walk_kimage", NEXT_ENTRY, NO_ENTRY);
const STUB_RETURNS: Patch = |kernel| kernel.at("private_stub", 0, ERET);

#[rustfmt::skip]
const FAILINGS: &[Failing] = &[
    Failing { name: "exception-early-el1", machine: "el1", patch: AT_EL1, line: UNDEFINED_TAKEN,
              more: &["slot 4, synchronous, current level; ", "at cpu_setup+0xc ("], ..PLAIN },
    Failing { name: "exception-early-el2", patch: AT_EL2, line: UNDEFINED_TAKEN,
              more: &["slot 4, synchronous, current level; ", "at el2_setup+0xc ("], ..PLAIN },
    Failing { name: "exception-after-the-jump", machine: "vhe", restart: Restart::Cold,
              patch: AT_EL2, booted: false, line: UNDEFINED_TAKEN,
              more: &["slot 4, synchronous, current level; ", "at el2_setup+0xc (", ", leaving +",
                      "last breadcrumb of the entry at 0x40200000: 'first instruction'"], ..PLAIN },
    Failing { name: "exception-in-rust", patch: |kernel| kernel.at("relocate_crc32c", 0, UNDEFINED),
              end: Verdict::Failed(1),
              line: marker::EXCEPTION_NAME,
              more: &["synchronous, current level: ", marker::FAILURE, "elr=", "x0=", "x28="],
              ..PLAIN },
    Failing { name: "exception-in-rust-vhe", machine: "vhe",
              patch: |kernel| kernel.at("relocate_crc32c", 0, UNDEFINED), end: Verdict::Failed(1),
              line: marker::EXCEPTION_NAME,
              more: &["synchronous, current level: ", marker::FAILURE], ..PLAIN },
    Failing { name: "panic", patch: |kernel| kernel.replace("entry", KEEP_TREE, KEEP_NOTHING),
              line: marker::PANIC,
              more: &["x0 = 0x48000000", "device tree", marker::FAILURE], ..PLAIN },
    Failing { name: "finalise-refused", machine: "vhe",
              patch: |kernel| kernel.at("stub_finalise", 0, NO_LEVEL),
              line: marker::PANIC,
              more: &["the stub refused HVC_FINALISE_EL2", "0xbadca11", marker::FAILURE], ..PLAIN },
    Failing { name: "stack-overflow", patch: |kernel| kernel.replace("entry", STACK, SMALL_STACK),
              end: Verdict::Failed(1),
              line: marker::EXCEPTION_NAME,
              more: &["current level: data abort, same level: translation fault", marker::FAILURE],
              ..PLAIN },
    Failing { name: "fault-el1-hot", machine: "el1", patch: IN_THE_COPY, line: FAULT,
              more: &["control page: walk_kimage"], ..PLAIN },
    Failing { name: "fault-el1-cold", machine: "el1", restart: Restart::Cold, patch: IN_THE_COPY,
              line: FAULT, more: &["control page: walk_kimage"], ..PLAIN },
    Failing { name: "fault-nvhe-hot", patch: IN_THE_COPY, line: FAULT,
              more: &["control page: walk_kimage"], ..PLAIN },
    Failing { name: "fault-nvhe-cold", restart: Restart::Cold, patch: IN_THE_COPY, line: FAULT,
              more: &["control page: walk_kimage", "at EL2h"], ..PLAIN },
    Failing { name: "fault-vhe-hot", machine: "vhe", patch: IN_THE_COPY, line: FAULT,
              more: &["control page: walk_kimage", "at EL2h"], ..PLAIN },
    Failing { name: "fault-vhe-cold", machine: "vhe", restart: Restart::Cold, patch: IN_THE_COPY,
              line: FAULT, more: &["control page: walk_kimage"], ..PLAIN },
    // base=load: at the running kernel's own address, the old bytes would equal the copy.
    Failing { name: "wrong-copy-el1", machine: "el1", base: Base::Load, patch: WRONG_COPY,
              line: MISMATCH, more: &["crc32c=", "expected="], ..PLAIN },
    Failing { name: "wrong-copy-nvhe", base: Base::Load, patch: WRONG_COPY, line: MISMATCH,
              more: &["crc32c=", "expected="], ..PLAIN },
    Failing { name: "wrong-copy-cold", restart: Restart::Cold, base: Base::Load, patch: WRONG_COPY,
              line: MISMATCH, more: &["expected="], ..PLAIN },
    Failing { name: "wrong-copy-vhe", machine: "vhe", base: Base::Load, patch: WRONG_COPY,
              line: MISMATCH, more: &["expected="], ..PLAIN },
    Failing { name: "wrong-list", patch: WRONG_LIST,
              line: concat!(marker!(invalid_entry), "0000000000000030"), ..PLAIN },
    Failing { name: "soft-restart-returns-hot", patch: STUB_RETURNS,
              line: concat!(marker!(soft_restart_returned), "0000000000000001"), ..PLAIN },
    Failing { name: "soft-restart-returns-cold", restart: Restart::Cold, patch: STUB_RETURNS,
              line: marker::SOFT_RESTART_RETURNED, ..PLAIN },
];

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    FAILINGS
        .iter()
        .map(|failing| case(format!("failing/{}", failing.name), |trial| failing.pass(trial)))
        .collect()
}

impl Failing {
    fn pass(&self, trial: &mut Trial<'_>) -> Result<()> {
        let cmdline = Cmdline { restart: self.restart, base: self.base, ..trial.cmdline() };
        let mut request = trial.request(self.machine, &cmdline)?;
        let image = (self.patch)(Patched::new(trial.kernel()))?.image;
        if self.booted {
            request.image = Some(image);
        } else {
            request.disk = Disk::Bytes(fit::write(&[disk::payload("fails", image, None)]).into());
        }
        let outcome = trial.ends(&request, self.end)?;
        let line = outcome.console.lines().find(|line| line.starts_with(self.line));
        line.with_context(|| format!("no line of the console begins \"{}\"", self.line))?;
        let explanation = outcome.explanation.as_deref().unwrap_or_default();
        for words in self.more {
            ensure!(
                outcome.console.contains(words) || explanation.contains(words),
                "no line says \"{words}\""
            );
        }
        let in_words = SYNDROME.to_string();
        ensure!(
            self.line != UNDEFINED_TAKEN || explanation.contains(&in_words),
            "the explanation does not say \"{in_words}\""
        );
        // A kernel that failed must not reach generation 1.
        let next = format!("{}1 of", marker::GENERATION);
        ensure!(!outcome.console.contains(&next), "the kernel started the next generation");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::page::path, *};

    #[test]
    fn docs_kexec_quotes_each_report_of_the_relocation_code() {
        let page = fs::read_to_string(path("docs/kexec.md")).unwrap();
        for marker in [marker::SOFT_RESTART_RETURNED, marker::INVALID_ENTRY, MISMATCH, FAULT] {
            assert!(page.contains(&format!("`{marker}…")), "{marker}");
        }
    }
}
