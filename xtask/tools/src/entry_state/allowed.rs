//! The registers that may differ between a cold boot and a self-kexec: bits and reason.
//!
//! The comparison of each run uses this list, and docs/entry-state.md is generated from it. The
//! protocol is Linux's Documentation/arch/arm64/booting.rst, "Call the kernel image". At the
//! exception level of entry it requires:
//!
//! - x0 = device tree, x1 to x3 zero;
//! - DAIF masked, MMU and D-cache off;
//! - CNTFRQ and CNTVOFF as on the other CPUs;
//! - all writable system registers initialised.
//!
//! Its requirements for higher levels matter here only for an entry at EL1, on the machine without
//! EL2, which has no such registers. A reason names the code that sets the register before the
//! kernel depends on it.

/// Registers that may differ for one reason.
#[derive(Debug)]
pub struct Allowed {
    /// Names as in the Arm ARM.
    pub registers: &'static [&'static str],
    /// The bits that may differ.
    pub bits: u64,
    /// Repeatability of the difference.
    pub seen: Seen,
    /// The reason, as docs/entry-state.md prints it.
    pub reason: &'static str,
}

/// Repeatability of a difference between runs and builds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// Every listed bit differs in some run, with the same values in every build: the page shows
    /// them. A listed bit that never differs is an error.
    Always,
    /// An address, a time, a leftover: another build has another value.
    ByChance,
}

const ALL: u64 = u64::MAX;

const fn always(register: &'static [&'static str], bits: u64, reason: &'static str) -> Allowed {
    Allowed { registers: register, bits, seen: Seen::Always, reason }
}

const fn by_chance(registers: &'static [&'static str], bits: u64, reason: &'static str) -> Allowed {
    Allowed { registers, bits, seen: Seen::ByChance, reason }
}

/// x4 to x30.
const GENERAL: &[&str] = &[
    "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
    "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30",
];

/// The list, in the order in which the entry code reaches the registers.
#[rustfmt::skip]
pub const ALLOWED: &[Allowed] = &[
    by_chance(
        &["x0"],
        ALL,
        "Holds the device tree's address. The protocol defines what is there and leaves its place \
         to the loader.",
    ),
    by_chance(
        GENERAL,
        ALL,
        "The protocol defines only x0 to x3. `entry` writes every other register before it reads \
         it.",
    ),
    by_chance(
        &["NZCV"],
        0xf << 28,
        "The protocol defines no flags. `_start` itself may change them, and no branch uses them \
         before a compare.",
    ),
    by_chance(
        &["sp"],
        ALL,
        "The protocol promises no stack. `entry` sets SPSel and SP before anything uses them.",
    ),
    by_chance(
        &["SP_EL1"],
        ALL,
        "As for SP: `el2_setup` writes it. If the kernel is entered at EL1, this is SP itself.",
    ),
    by_chance(
        &["SP_EL2"],
        ALL,
        "As for SP: at EL2 this is SP itself. QEMU shows its value at the last change of \
         exception level.",
    ),
    by_chance(
        &["VBAR_EL1"],
        ALL,
        "The kernel has its own vectors: `entry` and `cpu_setup` set them. The CPU takes no \
         exception before that: DAIF masks the asynchronous ones, and the instructions up to \
         there cause no synchronous one.",
    ),
    by_chance(
        &["VBAR_EL2"],
        ALL,
        "As for VBAR_EL1: `entry` points it to the stub. Until then it points to the previous \
         kernel's vectors in the control pages, which the copy does not overwrite [I3].",
    ),

    // bits 29, 28, 20, 18, 16, 5, 4, 3
    always(
        &["SCTLR_EL1"],
        0x3015_0038,
        "M, C, I, A and EE may not differ. LSMAOE, nTLSMD and TSCXT may, because they are RES1 if \
         not implemented. nTWE, nTWI, CP15BEN, SA0 and SA may, because they affect EL0 or \
         accesses through SP, and `entry` makes none. `cpu_setup` writes the whole register.",
    ),
    // RES1 with E2H = 0: 29, 28, 23, 22, 18, 16, 11, 5, 4; with E2H = 1: 29, 28, 23, 22, 20, 11.
    always(
        &["SCTLR_EL2"],
        0x30d5_0830,
        "M, C, I, A and EE may not differ. The listed bits are RES1 in one of the two layouts \
         that E2H selects. QEMU resets them to 0, and this kernel writes them as 1. `el2_setup` \
         writes the whole register before it changes E2H.",
    ),
    // ENSCXT, API, APK, E2H, RW, TGE
    always(
        &["HCR_EL2"],
        1 << 53 | 1 << 41 | 1 << 40 | 1 << 34 | 1 << 31 | 1 << 27,
        "A kernel entered at EL2 configures EL2 itself: the protocol makes demands on EL2 only if \
         the entry is at EL1. `el2_setup` sets RW, API, APK and ENSCXT for EL1. A VHE kernel \
         leaves E2H and TGE set, here as in Linux; `el2_setup` turns the MMU off before it clears \
         them [I1].",
    ),
    // The RES1 bits with E2H = 0, and FPEN with E2H = 1. TZ and TSM are 0 on CPUs with SVE and SME.
    always(
        &["CPTR_EL2"],
        0x0030_33ff,
        "A kernel entered at EL2 chooses its own traps. The listed bits are RES1 in one layout \
         and FPEN in the other. `el2_setup` writes the whole register in the layout that E2H \
         selects.",
    ),
    always(
        &["CNTHCTL_EL2"],
        0xc03,
        "EL1's access to the physical counter and timer: bits 0 and 1, or bits 10 and 11 if E2H \
         is set. The protocol requires it only if the entry is at EL1. `el2_setup` writes it.",
    ),
    always(
        &["ZCR_EL2"],
        0xf,
        "The longest vector length that EL1 may choose; `el2_setup` allows all. The protocol \
         requires this only if the entry is at EL1.",
    ),
    always(
        &["SMCR_EL2"],
        1 << 31 | 0xf,
        "As for ZCR_EL2, for SME, with all of A64 allowed in streaming mode (FA64).",
    ),
    always(
        &["ESR_EL2"],
        0x5a00_0000,
        "The syndrome of the last exception, an HVC. The next exception writes it before any code \
         reads it.",
    ),
    by_chance(
        &["ELR_EL2"],
        ALL,
        "The return address of the last exception. `el2_setup` writes it before its ERET.",
    ),
    by_chance(&["SPSR_EL2"], ALL, "As for ELR_EL2."),
    by_chance(
        &["ELR_EL1"],
        ALL,
        "The return address of the last exception at EL1. The next exception writes it before any \
         code reads it.",
    ),
    by_chance(&["SPSR_EL1"], ALL, "As for ELR_EL1."),

    always(
        &["CPACR_EL1"],
        0x30_0000,
        "FPEN: FP and SIMD no longer trap. `cpu_setup` writes it before compiled code runs.",
    ),
    always(
        &["MAIR_EL1"],
        0xff00,
        "No effect while SCTLR_EL1.M is clear. `mmu_on` writes it before it sets M.",
    ),
    always(&["TCR_EL1"], 0x5_8090_3510, "As for MAIR_EL1."),
    by_chance(
        &["TTBR0_EL1"],
        ALL,
        "As for MAIR_EL1. It points to tables of the previous kernel; `mmu_on` invalidates their \
         translations [I4].",
    ),
    always(
        &["MAIR_EL2"],
        0xff00,
        "No effect while SCTLR_EL2.M is clear. `stub_finalise` writes it before it sets M.",
    ),
    always(&["TCR_EL2"], 0x5_8090_3510, "As for MAIR_EL2."),
    by_chance(
        &["TTBR0_EL2"],
        ALL,
        "As for MAIR_EL2. It points to tables of the previous kernel; `el2_setup` invalidates \
         their translations [I4].",
    ),
    by_chance(
        &["TPIDR_EL1"],
        ALL,
        "A software register without effect on the CPU. `entry` writes it before Rust reads it.",
    ),
    by_chance(
        &["TPIDR_EL2"],
        ALL,
        "As for TPIDR_EL1. The stub saves data there, and `stub_finalise` writes it for Rust.",
    ),
    by_chance(
        &["CNTV_CVAL_EL0"],
        ALL,
        "The expiry time of a timer that is off: CNTV_CTL_EL0 may not differ.",
    ),
    by_chance(
        &["CNTHP_CVAL_EL2"],
        ALL,
        "As for CNTV_CVAL_EL0, for the timer of a kernel at EL2: CNTHP_CTL_EL2 may not differ.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_register_is_on_the_list_twice_and_the_protocols_own_are_not_on_it() {
        let names: Vec<_> = ALLOWED.iter().flat_map(|allowed| allowed.registers).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for name in [
            "x1",
            "x2",
            "x3",
            "DAIF",
            "CurrentEL",
            "CNTFRQ_EL0",
            "CNTVOFF_EL2",
            "CNTV_CTL_EL0",
            "CNTHP_CTL_EL2",
        ] {
            assert!(!names.contains(&&name), "{name}");
        }
        // M, A, C, I, EE.
        for name in ["SCTLR_EL1", "SCTLR_EL2"] {
            let allowed = ALLOWED.iter().find(|allowed| allowed.registers == [name]).unwrap();
            assert_eq!(allowed.bits & (1 << 25 | 1 << 12 | 0b111), 0, "{name}");
        }
    }
}
