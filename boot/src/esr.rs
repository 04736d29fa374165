//! Exception syndromes (ESR_ELx), decoded to text.
//!
//! Assembly takes the exception classes from here; the kernel's handlers and xtask take the text.
//! Encodings are the Arm ARM's, "ESR_EL1, Exception Syndrome Register (EL1)" (D24.2.40), whose
//! layout ESR_EL2 shares; each ISS has a heading of its own there. Classes that only AArch32 raises
//! have no name here, because nothing runs in AArch32.

use core::fmt;

/// EC of an HVC from AArch64: the only class that the hyp-stub acts on.
pub const EC_HVC64: u64 = 0x16;
/// EC of an SVC from AArch64.
pub const EC_SVC64: u64 = 0x15;
/// EC of an SMC from AArch64 that was trapped.
pub const EC_SMC64: u64 = 0x17;
/// EC of an MSR, MRS or system instruction that was trapped.
pub const EC_SYSREG: u64 = 0x18;
/// EC of a BRK.
pub const EC_BRK64: u64 = 0x3c;
/// EC of an instruction abort from the level that took it.
pub const EC_INSTRUCTION_ABORT: u64 = 0x21;
/// EC of a data abort from the level that took it.
pub const EC_DATA_ABORT: u64 = 0x25;

/// Position of EC in an ESR.
pub const EC_SHIFT: u64 = 26;
/// Width of EC in bits.
pub const EC_BITS: u64 = 6;

/// Returns the exception class of a syndrome: EC, bits 31:26.
#[must_use]
pub const fn ec(esr: u64) -> u64 {
    (esr >> EC_SHIFT) & ((1 << EC_BITS) - 1)
}

/// Value of ESR_EL1 or ESR_EL2. `Display` describes what happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(transparent)]
pub struct Esr(pub u64);

impl Esr {
    /// Returns the exception class: EC.
    #[must_use]
    pub const fn ec(self) -> u64 {
        ec(self.0)
    }

    /// Returns the details that depend on the class: ISS, bits 24:0.
    #[must_use]
    pub const fn iss(self) -> u64 {
        self.0 & 0x1ff_ffff
    }

    /// Names the exception class, or returns `None` if this file has no name for it.
    #[must_use]
    pub const fn class(self) -> Option<&'static str> {
        Some(match self.ec() {
            0x00 => "unknown reason (mostly UNDEFINED)",
            0x01 => "WFI or WFE trapped",
            0x07 => "SVE, SIMD or floating point trapped",
            0x09 => "pointer authentication trapped",
            0x0a => "an instruction trapped",
            0x0d => "branch target exception",
            0x0e => "illegal execution state",
            0x14 => "128-bit system register access trapped",
            EC_SVC64 => "SVC",
            EC_HVC64 => "HVC",
            EC_SMC64 => "SMC trapped",
            EC_SYSREG => "system register access trapped",
            0x19 => "SVE trapped",
            0x1a => "ERET trapped",
            0x1b => "TSTART trapped",
            0x1c => "pointer authentication failed",
            0x1d => "SME trapped",
            0x20 => "instruction abort, lower level",
            EC_INSTRUCTION_ABORT => "instruction abort, same level",
            0x22 => "PC misaligned",
            0x24 => "data abort, lower level",
            EC_DATA_ABORT => "data abort, same level",
            0x26 => "SP misaligned",
            0x27 => "memory copy or set exception",
            0x2c => "floating point exception",
            0x2d => "guarded control stack exception",
            0x2f => "SError",
            0x30 => "breakpoint, lower level",
            0x31 => "breakpoint, same level",
            0x32 => "single step, lower level",
            0x33 => "single step, same level",
            0x34 => "watchpoint, lower level",
            0x35 => "watchpoint, same level",
            EC_BRK64 => "BRK",
            _ => return None,
        })
    }

    /// Returns whether the class is an instruction or data abort.
    #[must_use]
    pub const fn is_abort(self) -> bool {
        matches!(self.ec(), 0x20 | 0x21 | 0x24 | 0x25)
    }

    /// Returns whether an abort was caused by a write (ISS.WnR). Instruction aborts never are.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self.ec(), 0x24 | 0x25) && self.0 & 1 << 6 != 0
    }

    /// Returns whether an abort left no address in FAR_ELx (ISS.FnV).
    ///
    /// Only an external abort outside a table walk may set FnV.
    #[must_use]
    pub const fn far_not_valid(self) -> bool {
        self.is_abort() && self.0 & 0x3f == 0x10 && self.0 & 1 << 10 != 0
    }

    /// Returns an abort's kind of fault (DFSC or IFSC), and the level of the table walk, if any.
    #[must_use]
    pub const fn fault(self) -> Option<(&'static str, Option<i8>)> {
        if !self.is_abort() {
            return None;
        }
        let code = (self.0 & 0x3f) as i8;
        let level = Some(code & 3);
        Some(match code {
            0x00..=0x03 => ("address size fault", level),
            0x04..=0x07 => ("translation fault", level),
            0x08..=0x0b => ("access flag fault", level),
            0x0c..=0x0f => ("permission fault", level),
            0x10 => ("external abort", None),
            0x11 => ("tag check fault", None),
            // The codes of levels -2 and -1 (FEAT_D128, FEAT_LPA2) are below the same kind's level
            // 0, or wherever codes were still free.
            0x12..=0x17 => ("external abort on the walk", Some(code - 0x14)),
            0x18 => ("parity or ECC error", None),
            0x1b..=0x1f => ("parity or ECC error on the walk", Some(code - 0x1c)),
            0x21 => ("alignment fault", None),
            0x22..=0x27 => ("granule protection fault on the walk", Some(code - 0x24)),
            0x28 => ("granule protection fault", None),
            0x29 => ("address size fault", Some(-1)),
            0x2a | 0x2b => ("translation fault", Some(code - 0x2c)),
            0x2c => ("address size fault", Some(-2)),
            0x30 => ("TLB conflict", None),
            0x31 => ("unsupported hardware update of a descriptor", None),
            0x34 => ("lockdown fault", None),
            0x35 => ("exclusive or atomic access to memory that has none", None),
            _ => ("fault of a reserved code", None),
        })
    }
}

impl fmt::Display for Esr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let iss = self.iss();
        let Some(class) = self.class() else {
            return write!(f, "exception class {:#x}, ISS {iss:#x}", self.ec());
        };
        f.write_str(class)?;
        if let Some((kind, level)) = self.fault() {
            write!(f, ": {kind}")?;
            if let Some(level) = level {
                write!(f, " at level {level}")?;
            }
            // If CM is set, WnR is set for any instruction: print "maintenance" instead.
            f.write_str(match self.ec() {
                0x20 | 0x21 => " on a fetch",
                _ if iss & 1 << 8 != 0 => " on maintenance",
                _ if self.is_write() => " on a write",
                _ => " on a read",
            })?;
            f.write_str(if iss & 1 << 7 != 0 {
                ", at stage 2 for the walk of stage 1"
            } else {
                ""
            })?;
            return f.write_str(if self.far_not_valid() { ", FAR not valid" } else { "" });
        }
        match self.ec() {
            0x01 => write!(f, " ({})", ["WFI", "WFE", "WFIT", "WFET"][(iss & 3) as usize]),
            0x0d => write!(f, ", BTYPE {}", iss & 3),
            EC_SVC64 | EC_HVC64 | EC_SMC64 | EC_BRK64 => write!(f, " #{:#x}", iss & 0xffff),
            EC_SYSREG => {
                let (op0, op1, crn) = (iss >> 20 & 3, iss >> 14 & 7, iss >> 10 & 15);
                let (crm, op2, rt) = (iss >> 1 & 15, iss >> 17 & 7, iss >> 5 & 31);
                let access = if iss & 1 == 1 { "read of" } else { "write to" };
                write!(f, ": {access} S{op0}_{op1}_C{crn}_C{crm}_{op2} with Rt = {rt}")
            }
            // With IDS set, the CPU defines the rest of ISS. Otherwise the raw ISS is enough: DFSC
            // 0x11 means an asynchronous SError, and AET is there if the CPU has RAS.
            0x2f if iss & 1 << 24 != 0 => write!(f, ", ISS {iss:#x} as this CPU defines it"),
            0x2f | 0x1d => write!(f, ", ISS {iss:#x}"),
            _ => Ok(()),
        }
    }
}

/// Names a slot of the vector table (0 to 15, each 0x80 bytes; Arm ARM D1, "Exception vectors").
#[must_use]
pub const fn slot_name(slot: u64) -> &'static str {
    match slot {
        0 => "synchronous, current level with SP_EL0",
        1 => "IRQ, current level with SP_EL0",
        2 => "FIQ, current level with SP_EL0",
        3 => "SError, current level with SP_EL0",
        4 => "synchronous, current level",
        5 => "IRQ, current level",
        6 => "FIQ, current level",
        7 => "SError, current level",
        8 => "synchronous, lower level",
        9 => "IRQ, lower level",
        10 => "FIQ, lower level",
        11 => "SError, lower level",
        12 => "synchronous, lower level in AArch32",
        13 => "IRQ, lower level in AArch32",
        14 => "FIQ, lower level in AArch32",
        15 => "SError, lower level in AArch32",
        _ => "no slot of a vector table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn syndromes_read_as_sentences() {
        for (esr, words) in [
            (0x0000_0000, "unknown reason (mostly UNDEFINED)"),
            (0x0600_0001, "WFI or WFE trapped (WFE)"),
            (0x3600_0002, "branch target exception, BTYPE 2"),
            (0x5600_0000, "SVC #0x0"),
            (0x5a00_0000, "HVC #0x0"),
            (0xf200_03e8, "BRK #0x3e8"),
            (0x9600_0045, "data abort, same level: translation fault at level 1 on a write"),
            (0x9600_000f, "data abort, same level: permission fault at level 3 on a read"),
            (0x9600_0061, "data abort, same level: alignment fault on a write"),
            (0x9600_014b, "data abort, same level: access flag fault at level 3 on maintenance"),
            (0x9600_0410, "data abort, same level: external abort on a read, FAR not valid"),
            (0x9600_002b, "data abort, same level: translation fault at level -1 on a read"),
            (
                0x9200_00c6,
                "data abort, lower level: translation fault at level 2 on a write, \
                 at stage 2 for the walk of stage 1",
            ),
            (0x8600_000e, "instruction abort, same level: permission fault at level 2 on a fetch"),
            (
                0x8200_0006,
                "instruction abort, lower level: translation fault at level 2 on a fetch",
            ),
            (0x8600_0030, "instruction abort, same level: TLB conflict on a fetch"),
            (0x8a00_0000, "PC misaligned"),
            (0xbe00_0011, "SError, ISS 0x11"),
            // MRS x1, CNTHCTL_EL2 (S3_4_C14_C1_0) from EL1.
            (0x6231_3823, "system register access trapped: read of S3_4_C14_C1_0 with Rt = 1"),
            // MSR HCR_EL2 (S3_4_C1_C1_0), x0.
            (0x6231_0402, "system register access trapped: write to S3_4_C1_C1_0 with Rt = 0"),
            (0xfe00_0007, "exception class 0x3f, ISS 0x7"),
        ] {
            assert_eq!(Esr(esr).to_string(), words, "{esr:#x}");
        }
    }

    #[test]
    fn assembly_and_rust_read_the_same_class() {
        assert_eq!(ec(0x5a00_0000), EC_HVC64);
        assert_eq!(ec(0x9600_0045), EC_DATA_ABORT);
        // ISS2, bits 55:32, is not part of the class.
        assert_eq!(ec(0x00ff_ffff_5a00_0000), 0x16);
    }

    #[test]
    fn slots_go_by_level_and_kind() {
        assert_eq!(slot_name(4), "synchronous, current level");
        assert_eq!(slot_name(9), "IRQ, lower level");
        assert_eq!(slot_name(16), "no slot of a vector table");
    }
}
