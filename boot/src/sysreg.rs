//! System register bits, and the values that the kernel gives each register.
//!
//! A module is a register; names are the Arm ARM's (D24, "AArch64 System Register Descriptions").
//! Assembly takes every bit from here as a `const` operand. The tests compare them with
//! `arm-sysregs`, and the values with literal numbers.
//!
//! In the modules of ID registers a constant is the position of a field, or a value of the field
//! above it.

/// SCTLR_ELx: MMU, caches, byte order. EL1 and EL2 have these bits at the same positions.
pub mod sctlr {
    /// Stage 1 translation on.
    pub const M: u64 = 1 << 0;
    /// Data and unified caches on.
    pub const C: u64 = 1 << 2;
    /// SP alignment check at this exception level.
    pub const SA: u64 = 1 << 3;
    /// Instruction caches on.
    pub const I: u64 = 1 << 12;
    /// Data accesses of this exception level are big-endian.
    pub const EE: u64 = 1 << 25;
    /// Writable memory is never executable.
    pub const WXN: u64 = 1 << 19;

    /// SCTLR_EL1 with MMU and caches off, little-endian: bits 29, 28, 23, 22, 20 and 11.
    ///
    /// Each is RES1 without the extension that defines it, and keeps the old behaviour with it.
    pub const EL1_MMU_OFF: u64 = 1 << 29 | 1 << 28 | 1 << 23 | 1 << 22 | 1 << 20 | 1 << 11;
    /// SCTLR_EL1 (or, under E2H, SCTLR_EL2) of the running kernel: MMU, caches and the SP check on.
    pub const MMU_ON: u64 = EL1_MMU_OFF | M | C | I | SA;
    /// SCTLR_EL2 with MMU and caches off, little-endian: its RES1 bits 29, 28, 23, 22, 18, 16, 11,
    /// 5 and 4.
    pub const EL2_MMU_OFF: u64 =
        1 << 29 | 1 << 28 | 1 << 23 | 1 << 22 | 1 << 18 | 1 << 16 | 1 << 11 | 1 << 5 | 1 << 4;
}

/// HCR_EL2: what EL1 may do, and whether EL2 hosts a kernel.
pub mod hcr {
    /// Reads of ID registers by EL1 are trapped.
    pub const TID3: u64 = 1 << 18;
    /// Exceptions from EL0 go to EL2.
    pub const TGE: u64 = 1 << 27;
    /// EL1 is AArch64.
    pub const RW: u64 = 1 << 31;
    /// EL2 hosts a kernel (FEAT_VHE): EL1 names at EL2 reach the EL2 registers.
    pub const E2H: u64 = 1 << 34;
    /// Pointer authentication keys are not trapped.
    pub const APK: u64 = 1 << 40;
    /// Pointer authentication instructions are not trapped.
    pub const API: u64 = 1 << 41;
    /// Error record injection registers are not trapped (FEAT_RASv1p1).
    pub const FIEN: u64 = 1 << 47;
    /// SCXTNUM_EL1 is not trapped (FEAT_CSV2_2).
    pub const ENSCXT: u64 = 1 << 53;
    /// Allocation tags are not trapped (FEAT_MTE2).
    pub const ATA: u64 = 1 << 56;

    /// Value for a kernel at EL1 over the stub, before the bits that the ID registers add.
    ///
    /// TSC is clear: the kernel calls PSCI from EL1, and PSCI's conduit is SMC there.
    pub const NVHE: u64 = RW;
    /// Value for a kernel at EL2.
    pub const VHE: u64 = RW | E2H | TGE;
}

/// CPTR_EL2: floating point, SVE and SME traps. Its layout follows HCR_EL2.E2H.
pub mod cptr {
    /// E2H = 0: RES1, and no trap of FP; SVE and SME are still trapped (TZ, TSM).
    pub const NVHE: u64 = 0x33ff;
    /// E2H = 0: trap SVE.
    pub const TZ: u64 = 1 << 8;
    /// E2H = 0: trap SME.
    pub const TSM: u64 = 1 << 12;
    /// E2H = 1 (and CPACR_EL1): FP is not trapped at any level.
    pub const FPEN: u64 = 3 << 20;
    /// E2H = 1 (and CPACR_EL1): SVE is not trapped at any level.
    pub const ZEN: u64 = 3 << 16;
    /// E2H = 1 (and CPACR_EL1): SME is not trapped at any level.
    pub const SMEN: u64 = 3 << 24;
}

/// CNTHCTL_EL2: physical timer and counter, opened for EL1. With E2H = 1 both bits are ten higher.
pub mod cnthctl {
    /// Value with E2H = 0: EL1PCTEN and EL1PCEN.
    pub const NVHE: u64 = 0b11;
    /// Value with E2H = 1: EL1PCTEN and EL1PTEN.
    pub const VHE: u64 = NVHE << 10;
}

/// MDCR_EL2: debug, PMU, profiling and trace.
pub mod mdcr {
    /// Width of HPMN, the low bits: all event counters belong to EL1.
    pub const HPMN_BITS: u64 = 5;
    /// The profiling buffer belongs to EL1 and is not trapped (FEAT_SPE).
    pub const E2PB: u64 = 3 << 12;
    /// The trace buffer belongs to EL1 and is not trapped (FEAT_TRBE).
    pub const E2TB: u64 = 3 << 24;
}

/// PMCR_EL0: the PMU's control register.
pub mod pmcr {
    /// Position of N, the number of event counters. MDCR_EL2.HPMN has the same width.
    pub const N: u32 = 11;
}

/// ICC_SRE_EL2: access to the GIC by system registers.
pub mod icc_sre {
    /// System registers, not memory-mapped ones.
    pub const SRE: u64 = 1 << 0;
    /// SRE and Enable: EL1 may choose for itself.
    pub const SRE_ENABLE: u64 = SRE | 1 << 3;
}

/// HCRX_EL2 (FEAT_HCX). Zero traps nothing, except that each bit named here traps when it is clear.
pub mod hcrx {
    /// ST64BV0 is not trapped (FEAT_LS64_ACCDATA).
    pub const ENAS0: u64 = 1 << 0;
    /// LD64B and ST64B are not trapped (FEAT_LS64).
    pub const ENALS: u64 = 1 << 1;
    /// ST64BV is not trapped (FEAT_LS64_V).
    pub const ENASR: u64 = 1 << 2;
    /// 128-bit system registers are not trapped (FEAT_D128).
    pub const D128EN: u64 = 1 << 17;
    /// FPMR is not trapped (FEAT_FPMR).
    pub const ENFPM: u64 = 1 << 23;
    /// Memory copy instructions are not UNDEFINED at EL1 (FEAT_MOPS).
    pub const MSCEN: u64 = 1 << 11;
    /// TCR2_EL1 is not trapped (FEAT_TCR2).
    pub const TCR2EN: u64 = 1 << 14;
    /// SCTLR2_EL1 is not trapped (FEAT_SCTLR2).
    pub const SCTLR2EN: u64 = 1 << 15;
    /// Guarded control stack instructions are not trapped (FEAT_GCS).
    pub const GCSEN: u64 = 1 << 22;
}

/// HFGRTR_EL2 and HFGWTR_EL2 (FEAT_FGT). A bit whose name begins with n traps when it is clear.
pub mod hfg {
    /// ACCDATA_EL1 (FEAT_LS64_ACCDATA).
    pub const ACCDATA: u64 = 1 << 50;
    /// RCWMASK_EL1 (FEAT_THE).
    pub const THE: u64 = 1 << 56;
    /// AMAIR2_EL1 and MAIR2_EL1 (FEAT_AIE).
    pub const AIE: u64 = 1 << 62 | 1 << 63;
    /// Guarded control stack registers of EL1 and EL0 (FEAT_GCS).
    pub const GCS: u64 = 1 << 52 | 1 << 53;
    /// SMPRI_EL1 and TPIDR2_EL0 (FEAT_SME).
    pub const SME: u64 = 1 << 54 | 1 << 55;
    /// PIRE0_EL1 and PIR_EL1 (FEAT_S1PIE).
    pub const S1PIE: u64 = 1 << 57 | 1 << 58;
    /// POR_EL0 and POR_EL1 (FEAT_S1POE).
    pub const S1POE: u64 = 1 << 59 | 1 << 60;
}

/// HDFGRTR_EL2 and HDFGWTR_EL2 (FEAT_FGT).
pub mod hdfg {
    /// Branch record buffer: reads of control, data and identification do not trap (FEAT_BRBE).
    pub const BRBE_READ: u64 = 1 << 59 | 1 << 60 | 1 << 61;
    /// Branch record buffer: writes do not trap. Its identification register is read-only.
    pub const BRBE_WRITE: u64 = 1 << 60 | 1 << 61;
    /// PMSNEVFR_EL1 is not trapped (FEAT_SPEv1p2).
    pub const PMSNEVFR: u64 = 1 << 62;
}

/// HFGITR_EL2 (FEAT_FGT).
pub mod hfgi {
    /// BRB INJ and BRB IALL are not trapped (FEAT_BRBE).
    pub const BRBE: u64 = 1 << 55 | 1 << 56;
    /// GCSPUSHM, GCSSTR and the exception-return forms are not trapped (FEAT_GCS).
    pub const GCS: u64 = 1 << 57 | 1 << 58 | 1 << 59;
}

/// ZCR_EL2 and SMCR_EL2: vector lengths for EL1.
pub mod vector_length {
    /// Longest vector length of the CPU (LEN = 15, which the CPU rounds down).
    pub const LONGEST: u64 = 0xf;
    /// SMCR_EL2.FA64: the full A64 set in streaming mode (FEAT_SME_FA64).
    pub const FA64: u64 = 1 << 31;
    /// SMCR_EL2.EZT0: ZT0 is not trapped (FEAT_SME2).
    pub const EZT0: u64 = 1 << 30;
}

/// SPSR_ELx: the state that an ERET establishes.
pub mod spsr {
    /// Debug, SError, IRQ and FIQ masked.
    pub const DAIF: u64 = 0b1111 << 6;
    /// M\[3:0\]: EL1 with its own stack pointer.
    pub const EL1H: u64 = 0b0101;
    /// M\[3:0\]: EL2 with its own stack pointer.
    pub const EL2H: u64 = 0b1001;
    /// M\[4:0\]: the level, its stack pointer, and AArch32 or AArch64.
    pub const M: u64 = 0b1_1111;
    /// M\[3\]: set for EL2, clear for EL1 (EL3 is not a case here).
    pub const AT_EL2: u64 = 1 << 3;
    /// State in which the EL2 set-up enters EL1.
    pub const TO_EL1: u64 = DAIF | EL1H;
}

/// The operand of MSR DAIFSet and DAIFClr: the exceptions to mask or unmask.
pub mod daif {
    /// Debug, SError, IRQ and FIQ.
    pub const ALL: u64 = 0b1111;
    /// SError.
    pub const A: u64 = 1 << 2;
}

/// The condition flags as an operand of CCMP.
pub mod nzcv {
    /// Carry: the condition `hs` holds, `lo` does not.
    pub const C: u64 = 1 << 1;
}

/// CurrentEL, as an MRS returns it.
pub mod current_el {
    /// EL1.
    pub const EL1: u64 = 1 << 2;
    /// EL2.
    pub const EL2: u64 = 2 << 2;
}

/// MAIR_ELx: the two memory types that the maps use.
pub mod mair {
    /// AttrIndx of device memory, nGnRnE: no gathering, no reordering, no early acknowledgement.
    ///
    /// PCI's configuration space needs it: a write there must not be posted. So do some buses,
    /// which answer any other access by an SError.
    pub const DEVICE: u64 = 0;
    /// AttrIndx of Normal memory, write-back, read- and write-allocate, inner and outer.
    pub const NORMAL: u64 = 1;
    /// Value of MAIR: attribute 0 is nGnRnE (0x00), attribute 1 is Normal write-back (0xff).
    pub const VALUE: u64 = 0xff << (8 * NORMAL);
}

/// TCR_EL1, and TCR_EL2 under E2H, which has the same layout.
pub mod tcr {
    /// 48-bit addresses through TTBR0, 4 KiB granule, write-back inner-shareable walks.
    ///
    /// EPD1 disables walks through TTBR1. Assembly adds IPS from ID_AA64MMFR0_EL1.PARange.
    pub const VALUE: u64 = T0SZ | T0SZ << 16 | IRGN0_WBWA | ORGN0_WBWA | SH0_INNER | EPD1 | TG1_4K;
    /// Position of IPS.
    pub const IPS_SHIFT: u64 = 32;
    /// IPS for 48 bits, the most that a 48-bit descriptor reaches.
    pub const IPS_48_BITS: u64 = 5;

    const T0SZ: u64 = 64 - 48;
    const IRGN0_WBWA: u64 = 1 << 8;
    const ORGN0_WBWA: u64 = 1 << 10;
    const SH0_INNER: u64 = 3 << 12;
    const EPD1: u64 = 1 << 23;
    const TG1_4K: u64 = 2 << 30;
}

/// Level at which the walk of a 48-bit table starts.
pub const ROOT_LEVEL: usize = 0;

/// Address space identifiers: one for each map that TTBR0 is ever switched to.
///
/// With them a switch needs no TLB maintenance. Every leaf of every map is nG. \[I4\]
pub mod asid {
    /// ASID of the early idmap, which the entry path builds with the MMU off.
    pub const EARLY: u64 = 1;
    /// ASID of the kernel's map.
    pub const KERNEL: u64 = 2;
    /// ASID of the map in the control pages, which the relocation code copies in.
    pub const RELOCATION: u64 = 3;
    /// Position of the ASID in TTBR0.
    pub const SHIFT: u64 = 48;
}

/// Stage 1 page descriptors, at level 3 as the early idmap uses them.
pub mod descriptor {
    use crate::phys::PAGE_SIZE;

    /// Type bits of a table descriptor, or at level 3 of a page.
    pub const TABLE_OR_PAGE: u64 = 0b11;
    /// Address bits of a descriptor, with 4 KiB granule and 48-bit addresses.
    pub const ADDRESS: u64 = (1 << 48) - PAGE_SIZE;
    /// Address bits that each level resolves: a table is a page of descriptors.
    pub const LEVEL_BITS: u32 = (PAGE_SIZE / 8).trailing_zeros();
    const AF: u64 = 1 << 10;
    const NG: u64 = 1 << 11;
    const INNER_SHAREABLE: u64 = 3 << 8;
    const READ_ONLY: u64 = 1 << 7;
    const PXN: u64 = 1 << 53;
    const UXN: u64 = 1 << 54;
    const NORMAL: u64 = TABLE_OR_PAGE | super::mair::NORMAL << 2 | INNER_SHAREABLE | AF | NG;

    /// Text: read-only, executable at the kernel's level.
    pub const TEXT: u64 = NORMAL | READ_ONLY | UXN;
    /// Data: writable, never executable.
    pub const DATA: u64 = NORMAL | PXN | UXN;
    /// Data from the loader: read-only, never executable.
    pub const READ: u64 = NORMAL | READ_ONLY | PXN | UXN;
    /// Device registers: nGnRnE, never executable.
    pub const DEVICE: u64 = TABLE_OR_PAGE | super::mair::DEVICE << 2 | AF | NG | PXN | UXN;
}

/// Width of a field of an ID register, and of the fields of CTR_EL0.
pub const ID_FIELD_BITS: u32 = 4;

/// CTR_EL0: cache geometry.
pub mod ctr {
    /// Smallest data cache line: log2 of its 4-byte words.
    pub const DMINLINE: u32 = 16;
}

/// ID_AA64PFR0_EL1.
pub mod id_aa64pfr0 {
    /// GIC by system registers.
    pub const GIC: u32 = 24;
    /// Reliability, availability and serviceability.
    pub const RAS: u32 = 28;
    /// Value of RAS with FEAT_RASv1p1.
    pub const RAS_V1P1: u32 = 2;
    /// Scalable vectors.
    pub const SVE: u32 = 32;
    /// Activity monitors.
    pub const AMU: u32 = 44;
    /// Speculative use of out-of-context branch targets.
    pub const CSV2: u32 = 56;
    /// Value of CSV2 with FEAT_CSV2_2: SCXTNUM_ELx exist.
    pub const CSV2_2: u32 = 2;
}

/// ID_AA64PFR1_EL1.
pub mod id_aa64pfr1 {
    /// Memory tagging.
    pub const MTE: u32 = 8;
    /// Value of MTE with FEAT_MTE2: allocation tags.
    pub const MTE2: u32 = 2;
    /// Scalable matrices.
    pub const SME: u32 = 24;
    /// Value of SME with FEAT_SME2: ZT0.
    pub const SME2: u32 = 2;
    /// Guarded control stacks.
    pub const GCS: u32 = 44;
    /// Translation hardening.
    pub const THE: u32 = 48;
}

/// ID_AA64PFR2_EL1.
pub mod id_aa64pfr2 {
    /// FPMR.
    pub const FPMR: u32 = 32;
}

/// ID_AA64SMFR0_EL1.
pub mod id_aa64smfr0 {
    /// The full A64 set in streaming mode: one bit.
    pub const FA64: u64 = 1 << 63;
}

/// ID_AA64ISAR1_EL1.
pub mod id_aa64isar1 {
    /// Pointer authentication by QARMA5.
    pub const APA: u32 = 4;
    /// Pointer authentication by an IMPLEMENTATION DEFINED algorithm.
    pub const API: u32 = 8;
    /// 64-byte loads and stores.
    pub const LS64: u32 = 60;
    /// Value of LS64 with FEAT_LS64_V: ST64BV.
    pub const LS64_V: u32 = 2;
    /// Value of LS64 with FEAT_LS64_ACCDATA: ST64BV0 and ACCDATA_EL1.
    pub const LS64_ACCDATA: u32 = 3;
}

/// ID_AA64ISAR2_EL1.
pub mod id_aa64isar2 {
    /// Pointer authentication by QARMA3.
    pub const APA3: u32 = 12;
    /// Memory copy and memory set instructions.
    pub const MOPS: u32 = 16;
}

/// ID_AA64MMFR0_EL1.
pub mod id_aa64mmfr0 {
    /// Physical address size: a mask, because the field begins at bit 0.
    pub const PARANGE: u64 = 0b1111;
    /// Fine-grained traps.
    pub const FGT: u32 = 56;
}

/// ID_AA64MMFR1_EL1.
pub mod id_aa64mmfr1 {
    /// Virtualization host extensions.
    pub const VH: u32 = 8;
    /// HCRX_EL2.
    pub const HCX: u32 = 40;
}

/// ID_AA64MMFR3_EL1.
pub mod id_aa64mmfr3 {
    /// TCR2_ELx.
    pub const TCRX: u32 = 0;
    /// SCTLR2_ELx.
    pub const SCTLRX: u32 = 4;
    /// Stage 1 permission indirection.
    pub const S1PIE: u32 = 8;
    /// Stage 1 permission overlays.
    pub const S1POE: u32 = 16;
    /// Attribute index enhancement.
    pub const AIE: u32 = 24;
    /// 128-bit translation descriptors.
    pub const D128: u32 = 32;
}

/// ID_AA64MMFR4_EL1.
pub mod id_aa64mmfr4 {
    /// Sign bit of E2H0, a signed field: set if HCR_EL2.E2H is RES1 (no FEAT_E2H0).
    pub const E2H0_SIGN: u32 = 27;
}

/// ID_AA64DFR0_EL1.
pub mod id_aa64dfr0 {
    /// Performance monitors.
    pub const PMUVER: u32 = 8;
    /// Statistical profiling.
    pub const PMSVER: u32 = 32;
    /// Value of PMSVer with FEAT_SPEv1p2.
    pub const SPE_V1P2: u32 = 3;
    /// Trace buffer.
    pub const TRACE_BUFFER: u32 = 44;
    /// Branch record buffer.
    pub const BRBE: u32 = 52;
}

/// SMIDR_EL1: streaming mode.
pub mod smidr {
    /// The CPU has streaming mode priorities.
    pub const SMPS: u64 = 1 << 15;
}

/// PMBIDR_EL1: the profiling buffer.
pub mod pmbidr {
    /// A higher level, or the other security state, owns the buffer.
    pub const P: u64 = 1 << 4;
}

/// TRBIDR_EL1: the trace buffer.
pub mod trbidr {
    /// A higher level, or the other security state, owns the buffer.
    pub const P: u64 = 1 << 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_each_mode_are_these_numbers() {
        assert_eq!(sctlr::EL1_MMU_OFF, 0x30d0_0800);
        assert_eq!(sctlr::EL2_MMU_OFF, 0x30c5_0830);
        assert_eq!(sctlr::MMU_ON, 0x30d0_180d);
        assert_eq!(hcr::NVHE, 0x8000_0000);
        assert_eq!(hcr::VHE, 0x4_8800_0000);
        assert_eq!(cptr::NVHE & !(cptr::TZ | cptr::TSM), 0x22ff);
        assert_eq!(cnthctl::VHE, 0xc00);
        assert_eq!(mdcr::E2PB | mdcr::E2TB, 0x0300_3000);
        assert_eq!(spsr::TO_EL1, 0x3c5);
        assert_eq!(mair::VALUE, 0xff00);
        assert_eq!(tcr::VALUE, 0x8090_3510);
        assert_eq!(descriptor::ADDRESS, 0x0000_ffff_ffff_f000);
        assert_eq!(descriptor::TEXT, 0x0040_0000_0000_0f87);
        assert_eq!(descriptor::DATA, 0x0060_0000_0000_0f07);
        assert_eq!(descriptor::READ, 0x0060_0000_0000_0f87);
        assert_eq!(descriptor::DEVICE, 0x0060_0000_0000_0c03);
    }

    #[test]
    fn the_values_and_bits_of_id_registers_are_these_numbers() {
        assert_eq!([id_aa64pfr0::RAS_V1P1, id_aa64pfr0::CSV2_2], [2, 2]);
        assert_eq!([id_aa64pfr1::MTE2, id_aa64pfr1::SME2], [2, 2]);
        assert_eq!([id_aa64isar1::LS64_V, id_aa64isar1::LS64_ACCDATA], [2, 3]);
        assert_eq!(id_aa64dfr0::SPE_V1P2, 3);
        assert_eq!(id_aa64smfr0::FA64, 0x8000_0000_0000_0000);
        assert_eq!(smidr::SMPS, 0x8000);
        assert_eq!((pmbidr::P, trbidr::P), (0x10, 0x10));
        assert_eq!((ID_FIELD_BITS, id_aa64mmfr0::PARANGE), (4, 0xf));
        assert_eq!((daif::ALL, daif::A, nzcv::C), (15, 4, 2));
    }

    #[test]
    fn no_map_is_writable_and_executable() {
        for leaf in [descriptor::TEXT, descriptor::DATA, descriptor::READ, descriptor::DEVICE] {
            let (read_only, pxn) = (leaf >> 7 & 1, leaf >> 53 & 1);
            assert!(read_only == 1 || pxn == 1, "{leaf:#x}");
            assert_eq!(leaf >> 11 & 1, 1, "{leaf:#x} is global");
        }
    }
}
