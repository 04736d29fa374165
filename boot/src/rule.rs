//! Boot protocol rules that we depend on, and the instructions that need them.
//!
//! A higher level that traps an instruction makes it UNDEFINED for us, or never returns; the
//! syndrome says nothing more. But the instruction shows which register is not accessible, and so
//! which rule was broken. The early console and Rust's exception handler look it up here.
//!
//! These are plain values. The rules themselves are in the crate `protocol`.

/// Rule number: the Image is text_offset above a 2 MiB boundary.
pub const PLACED: u8 = 3;
/// Rule number: the CPU is entered at EL2 or EL1.
pub const LEVEL: u8 = 13;
/// Rule number: HVC is enabled.
pub const HVC: u8 = 21;
/// Rule number: a GICv3's CPU interface is accessed by system registers.
pub const GIC_REGISTERS: u8 = 22;
/// Rule number: floating point does not trap.
pub const FP: u8 = 23;
/// Rule number: SVE does not trap.
pub const SVE: u8 = 26;
/// Rule number: SME does not trap.
pub const SME: u8 = 27;
/// Rule number: TCR2 does not trap.
pub const TCR2: u8 = 32;
/// Rule number: the performance monitors do not trap.
pub const EVENTS: u8 = 35;
/// Rule number: the debug registers do not trap.
pub const DEBUG: u8 = 36;

/// Rule number: HCRX_EL2 does not trap.
pub const HCX: u8 = 41;
/// Rule number: the fine-grained trap registers do not trap.
pub const FGT: u8 = 42;

/// Pattern of instructions that need a rule to be kept. Assembly reads it too.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Need {
    /// Bits of the instruction that are compared.
    pub mask: u32,
    /// Value of those bits.
    pub word: u32,
    /// Number of the rule.
    pub rule: u32,
}

/// Mask of one system register's MRS and MSR: all bits but the direction and Rt.
const REGISTER: u32 = 0xffdf_ffe0;
/// Mask of a group of system registers: [`REGISTER`] without op2 and CRm's low three bits.
const GROUP: u32 = 0xffdf_f800;

/// Returns the pattern of MRS and MSR of S3_`op1`_C`crn`_C`crm`_`op2`, as far as `mask` goes.
const fn need(rule: u8, mask: u32, [op1, crn, crm, op2]: [u32; 4]) -> Need {
    Need {
        mask,
        word: 0xd518_0000 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5,
        rule: rule as u32,
    }
}

/// Number of [`NEEDS`].
pub const COUNT: usize = 13;

/// Every instruction of the entry path and the kernel that a higher level may still trap.
pub static NEEDS: [Need; COUNT] = [
    // HVC with any immediate.
    Need { mask: 0xffe0_001f, word: 0xd400_0002, rule: HVC as u32 },
    // ICC_*_EL1; ICC_PMR_EL1; ICC_SRE_EL2 and ICH_*_EL2.
    need(GIC_REGISTERS, GROUP, [0, 12, 8, 0]),
    need(GIC_REGISTERS, REGISTER, [0, 4, 6, 0]),
    need(GIC_REGISTERS, GROUP, [4, 12, 8, 0]),
    // FPCR.
    need(FP, REGISTER, [3, 4, 4, 0]),
    // ZCR_EL2.
    need(SVE, REGISTER, [4, 1, 2, 0]),
    // SMCR_EL2, SMPRIMAP_EL2.
    need(SME, REGISTER, [4, 1, 2, 6]),
    need(SME, REGISTER, [4, 1, 2, 5]),
    // TCR2_EL1.
    need(TCR2, REGISTER, [0, 2, 0, 3]),
    // PMCR_EL0.
    need(EVENTS, REGISTER, [3, 9, 12, 0]),
    // MDCR_EL2.
    need(DEBUG, REGISTER, [4, 1, 1, 1]),
    // HCRX_EL2.
    need(HCX, REGISTER, [4, 1, 2, 2]),
    // HFGRTR_EL2: the first fine-grained trap register that el2_setup writes.
    need(FGT, REGISTER, [4, 1, 1, 4]),
];

/// Returns the rule that was broken if `instruction`, which this CPU has, is UNDEFINED.
#[must_use]
pub fn rule_of(instruction: u32) -> Option<u8> {
    NEEDS.iter().find(|need| instruction & need.mask == need.word).map(|need| need.rule as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_names_its_rule() {
        for (instruction, rule) in [
            (0xd400_0002, Some(21)), // hvc #0
            (0xd403_2002, Some(21)), // hvc #0x1900
            (0xd400_0003, None),     // smc #0
            (0xd53c_c9a9, Some(22)), // mrs x9, icc_sre_el2
            (0xd51c_cb1f, Some(22)), // msr ich_hcr_el2, xzr
            (0xd518_4600, Some(22)), // msr icc_pmr_el1, x0
            (0xd538_cc00, Some(22)), // mrs x0, icc_iar1_el1
            (0xd518_c009, None),     // msr vbar_el1, x9
            (0xd53b_4409, Some(23)), // mrs x9, fpcr
            (0xd51c_1209, Some(26)), // msr zcr_el2, x9
            (0xd51c_12cb, Some(27)), // msr smcr_el2, x11
            (0xd51c_12bf, Some(27)), // msr smprimap_el2, xzr
            (0xd518_207f, Some(32)), // msr tcr2_el1, xzr
            (0xd53b_9c09, Some(35)), // mrs x9, pmcr_el0
            (0xd51c_112a, Some(36)), // msr mdcr_el2, x10
            (0xd51c_124a, Some(41)), // msr hcrx_el2, x10
            (0xd51c_118a, Some(42)), // msr hfgrtr_el2, x10
            (0xd51c_1109, None),     // msr hcr_el2, x9
            (0xd503_201f, None),     // nop
        ] {
            assert_eq!(rule_of(instruction), rule, "{instruction:#x}");
        }
    }

    #[test]
    fn a_rule_has_two_digits() {
        assert!(
            NEEDS.iter().all(|need| (10..100).contains(&need.rule)),
            "the early console has room for two"
        );
    }
}
