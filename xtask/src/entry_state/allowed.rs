//! The list: which registers may differ between a cold boot and a self-kexec, in which bits, and why the boot protocol allows it.
//!
//! *When:* each run's states are held against it, and docs/entry-state.md is written from it. The protocol is Linux's Documentation/arch/arm64/booting.rst, "Call the kernel image". It asks, at
//! the level of entry: x0 the device tree and x1 to x3 zero, DAIF masked, MMU and D-cache off, CNTFRQ and CNTVOFF as on the other CPUs; and that what is writable has been
//! initialised. What it asks to be open above the level of entry is above EL1 alone here, and the machine without EL2 has no such registers.
//! A reason says who makes the register what this kernel needs, before it needs it.

/// Registers that may differ for one reason.
#[derive(Debug)]
pub struct Allowed {
    /// By the Arm ARM.
    pub registers: &'static [&'static str],
    /// The bits that may.
    pub bits: u64,
    /// How they are seen to differ.
    pub seen: Seen,
    /// Why they may.
    pub reason: &'static str,
}

/// How registers are seen to differ.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seen {
    /// The same in each run, each bit somewhere: the value stands on the page, and a bit that never differs is one too many.
    Always,
    /// An address, a time, what was left over: another value in another build.
    ByChance,
}

const ALL: u64 = u64::MAX;

const fn always(register: &'static [&'static str], bits: u64, reason: &'static str) -> Allowed {
    Allowed { registers: register, bits, seen: Seen::Always, reason }
}

const fn by_chance(registers: &'static [&'static str], bits: u64, reason: &'static str) -> Allowed {
    Allowed { registers, bits, seen: Seen::ByChance, reason }
}

/// x4 and up.
const GENERAL: &[&str] = &[
    "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
    "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30",
];

/// In the order in which the way in comes to them.
#[rustfmt::skip]
pub const ALLOWED: &[Allowed] = &[
    by_chance(&["x0"], ALL, "the device tree's address: the protocol says what lies there, and leaves the place to whoever enters"),
    by_chance(GENERAL, ALL, "the protocol names x0 to x3 alone, and `entry` reads no other before it has written it"),
    by_chance(&["NZCV"], 0xf << 28, "the protocol names no flag; `_start` itself may change them, and no branch depends on them before a compare"),
    by_chance(&["sp"], ALL, "no stack is promised: `entry` sets SPSel and SP before anything uses them"),
    by_chance(&["SP_EL1"], ALL, "as SP: `el2_setup` writes it; where the entry is at EL1, it is SP itself"),
    by_chance(&["SP_EL2"], ALL, "as SP, which at EL2 it is itself; QEMU shows here what it was at the last change of level"),
    by_chance(&["VBAR_EL1"], ALL, "vectors are the kernel's own: `entry` and `cpu_setup` set them, and until then none is taken: DAIF masks what comes from outside, and those instructions raise none themselves"),
    by_chance(&["VBAR_EL2"], ALL, "as VBAR_EL1: `entry` points it to the stub. Until then it names the predecessor's, in the control block, which is not overwritten [I3]"),

    // bits 29, 28, 20, 18, 16, 5, 4, 3
    always(&["SCTLR_EL1"], 0x3015_0038, "M, C, I, A and EE may not differ. These do: LSMAOE, nTLSMD and TSCXT, which are RES1 where they are not implemented, and nTWE, nTWI, CP15BEN, SA0 and SA, \
        which are about EL0 or about accesses through SP; `entry` makes none, and `cpu_setup` writes the register whole"),
    // RES1 without E2H: 29, 28, 23, 22, 18, 16, 11, 5, 4; with it 29, 28, 23, 22, 20, 11.
    always(&["SCTLR_EL2"], 0x30d5_0830, "M, C, I, A and EE may not differ. These are the bits that are RES1 in one of the two layouts that E2H selects, which QEMU resets to 0 and this kernel writes \
        as 1; `el2_setup` writes the register whole, before it touches E2H"),
    // ENSCXT, API, APK, E2H, RW, TGE
    always(&["HCR_EL2"], 1 << 53 | 1 << 41 | 1 << 40 | 1 << 34 | 1 << 31 | 1 << 27, "whoever is entered at EL2 configures EL2: the protocol asks something of it only where the entry is at EL1. RW, API, APK and ENSCXT \
        are what `el2_setup` opens for EL1. E2H and TGE are left set by a VHE kernel, here as in Linux; `el2_setup` turns the MMU off first and clears them then [I1]"),
    // The RES1 bits without E2H and FPEN with it; TZ and TSM are cleared where SVE and SME are.
    always(&["CPTR_EL2"], 0x0030_33ff, "what EL2 traps is its own to choose where it is entered: RES1 in one layout, FPEN in the other; `el2_setup` writes it whole, in the layout that E2H selects"),
    always(&["CNTHCTL_EL2"], 0xc03, "EL1's way to the physical counter and timer, bits 0 and 1, which lie at 10 and 11 under E2H. The protocol asks for it where the entry is at EL1; `el2_setup` writes it"),
    always(&["ZCR_EL2"], 0xf, "the longest vectors that EL1 may choose: `el2_setup` opens them all. Asked for where the entry is at EL1"),
    always(&["SMCR_EL2"], 1 << 31 | 0xf, "as ZCR_EL2, for SME, with the whole of A64 in streaming mode"),
    always(&["ESR_EL2"], 0x5a00_0000, "the last syndrome, an HVC: the next exception writes it before anybody reads it"),
    by_chance(&["ELR_EL2"], ALL, "where the last exception came from; `el2_setup` writes it before its ERET"),
    by_chance(&["SPSR_EL2"], ALL, "as ELR_EL2"),
    by_chance(&["ELR_EL1"], ALL, "where the last exception of EL1 came from: the next one writes it before anybody reads it"),
    by_chance(&["SPSR_EL1"], ALL, "as ELR_EL1"),

    always(&["CPACR_EL1"], 0x30_0000, "FPEN: FP and SIMD are not trapped any more; `cpu_setup` writes it before there is compiled code"),
    always(&["MAIR_EL1"], 0xff04, "without effect while M is clear; `mmu_on` writes it before it sets M"),
    always(&["TCR_EL1"], 0x5_8090_3510, "as MAIR_EL1"),
    by_chance(&["TTBR0_EL1"], ALL, "as MAIR_EL1. It names tables of the predecessor, whose translations `mmu_on` invalidates [I4]"),
    always(&["MAIR_EL2"], 0xff04, "without effect while M is clear; `stub_finalise` writes it before it sets M"),
    always(&["TCR_EL2"], 0x5_8090_3510, "as MAIR_EL2"),
    by_chance(&["TTBR0_EL2"], ALL, "as MAIR_EL2. It names tables of the predecessor, whose translations `el2_setup` invalidates [I4]"),
    by_chance(&["TPIDR_EL1"], ALL, "software's own, without effect on the CPU: `entry` writes it before Rust reads it"),
    by_chance(&["TPIDR_EL2"], ALL, "as TPIDR_EL1; the stub saves there what it needs, and `stub_finalise` writes it for Rust"),
    by_chance(&["CNTV_CVAL_EL0"], ALL, "when a timer would expire that is off: CNTV_CTL_EL0 may not differ"),
    by_chance(&["CNTHP_CVAL_EL2"], ALL, "as CNTV_CVAL_EL0; it is the timer of a kernel at EL2, and CNTHP_CTL_EL2 may not differ"),
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
