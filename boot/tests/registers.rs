//! The register bits of `boot::sysreg` against `arm-sysregs`, and what it lacks against numbers.
//!
//! `arm-sysregs` is generated from Arm's machine-readable description of the architecture.

use arm_sysregs::el0::registers::{CtrEl0, PmcrEl0};
use arm_sysregs::el1::registers::*;
use arm_sysregs::el2::registers::*;
use boot::sysreg::*;
use boot::{early_console, esr, hyp, image, phys, record};

/// Pairs each bit of ours with theirs of that name.
macro_rules! bits {
    ($register:ident: $($ours:expr => $($theirs:ident)|+),+ $(,)?) => {
        $(assert_eq!(
            $ours,
            $($register::$theirs.bits() as u64)|+,
            concat!(stringify!($register), ": ", stringify!($ours))
        );)+
    };
}

/// Does the same for positions of fields.
macro_rules! fields {
    ($register:ident: $($ours:expr => $theirs:ident),+ $(,)?) => {
        $(assert_eq!(
            $ours,
            $register::$theirs,
            concat!(stringify!($register), ": ", stringify!($ours))
        );)+
    };
}

#[test]
fn control_registers_have_these_bits() {
    bits!(SctlrEl1: sctlr::M => M, sctlr::C => C, sctlr::SA => SA, sctlr::I => I,
        sctlr::WXN => WXN);
    bits!(SctlrEl2: sctlr::M => M, sctlr::C => C, sctlr::SA => SA, sctlr::I => I,
        sctlr::WXN => WXN);
    bits!(HcrEl2: hcr::TID3 => TID3, hcr::TGE => TGE, hcr::RW => RW, hcr::E2H => E2H,
        hcr::APK => APK, hcr::API => API, hcr::FIEN => FIEN, hcr::ENSCXT => ENSCXT,
        hcr::ATA => ATA);
    bits!(HcrxEl2: hcrx::ENAS0 => ENAS0, hcrx::ENALS => ENALS, hcrx::ENASR => ENASR,
        hcrx::D128EN => D128EN, hcrx::ENFPM => ENFPM, hcrx::MSCEN => MSCEN,
        hcrx::TCR2EN => TCR2EN, hcrx::SCTLR2EN => SCTLR2EN, hcrx::GCSEN => GCSEN);
    bits!(CptrEl2: cptr::TZ => TZ, cptr::TSM => TSM);
    assert_eq!(cptr::NVHE, (CptrEl2::RES1 | CptrEl2::TZ | CptrEl2::TSM).bits());
    bits!(IccSreEl2: icc_sre::SRE => SRE, icc_sre::SRE_ENABLE => SRE | ENABLE);
    bits!(CnthctlEl2: cnthctl::NVHE => EL0PCTEN | EL1PCEN);
    bits!(SpsrEl2: spsr::DAIF => D | A | I | F);
}

#[test]
fn fine_grained_traps_have_these_bits() {
    bits!(HfgrtrEl2: hfg::ACCDATA => NACCDATA_EL1, hfg::THE => NRCWMASK_EL1,
        hfg::AIE => NMAIR2_EL1 | NAMAIR2_EL1, hfg::GCS => NGCS_EL0 | NGCS_EL1,
        hfg::SME => NSMPRI_EL1 | NTPIDR2_EL0, hfg::S1PIE => NPIRE0_EL1 | NPIR_EL1,
        hfg::S1POE => NPOR_EL0 | NPOR_EL1);
    bits!(HdfgrtrEl2: hdfg::BRBE_READ => NBRBIDR | NBRBCTL | NBRBDATA,
        hdfg::BRBE_WRITE => NBRBCTL | NBRBDATA, hdfg::PMSNEVFR => NPMSNEVFR_EL1);
    bits!(HdfgwtrEl2: hdfg::BRBE_WRITE => NBRBCTL | NBRBDATA, hdfg::PMSNEVFR => NPMSNEVFR_EL1);
    bits!(HfgitrEl2: hfgi::BRBE => NBRBINJ | NBRBIALL,
        hfgi::GCS => NGCSPUSHM_EL1 | NGCSSTR_EL1 | NGCSEPP);
}

#[test]
fn fields_are_at_these_positions() {
    fields!(CptrEl2: cptr::ZEN.trailing_zeros() => ZEN_SHIFT,
        cptr::FPEN.trailing_zeros() => FPEN_SHIFT, cptr::SMEN.trailing_zeros() => SMEN_SHIFT);
    fields!(MdcrEl2: mdcr::E2PB.trailing_zeros() => E2PB_SHIFT,
        mdcr::E2TB.trailing_zeros() => E2TB_SHIFT, mdcr::HPMN_BITS as u32 => TPMCR_SHIFT);
    fields!(CtrEl0: ctr::DMINLINE => DMINLINE_SHIFT);
    fields!(PmcrEl0: pmcr::N => N_SHIFT);
    fields!(TcrEl1: tcr::IPS_SHIFT as u32 => IPS_SHIFT);
    // The fields that TCR's value sets, and no others.
    let width = |value: u64, shift: u32, bits: u32| value >> shift & ((1 << bits) - 1);
    let at = |shift, bits| width(tcr::VALUE, shift, bits);
    use TcrEl1 as T;
    assert_eq!([at(T::T0SZ_SHIFT, 6), at(T::T1SZ_SHIFT, 6)], [16, 16], "48-bit addresses");
    assert_eq!([at(T::IRGN0_SHIFT, 2), at(T::ORGN0_SHIFT, 2), at(T::SH0_SHIFT, 2)], [1, 1, 3]);
    assert_eq!([at(T::TG0_SHIFT, 2), at(T::TG1_SHIFT, 2)], [0, 2], "a granule of 4 KiB");
    assert_eq!(at(T::EPD1_SHIFT, 1), 1, "TTBR1 is off");
}

#[test]
fn id_registers_have_these_fields() {
    fields!(IdAa64pfr0El1: id_aa64pfr0::GIC => GIC_SHIFT, id_aa64pfr0::RAS => RAS_SHIFT,
        id_aa64pfr0::SVE => SVE_SHIFT, id_aa64pfr0::AMU => AMU_SHIFT,
        id_aa64pfr0::CSV2 => CSV2_SHIFT);
    fields!(IdAa64pfr1El1: id_aa64pfr1::MTE => MTE_SHIFT, id_aa64pfr1::SME => SME_SHIFT,
        id_aa64pfr1::GCS => GCS_SHIFT, id_aa64pfr1::THE => THE_SHIFT);
    fields!(IdAa64pfr2El1: id_aa64pfr2::FPMR => FPMR_SHIFT);
    fields!(IdAa64smfr0El1: id_aa64smfr0::FA64.trailing_zeros() => FA64_SHIFT);
    fields!(IdAa64isar1El1: id_aa64isar1::APA => APA_SHIFT, id_aa64isar1::API => API_SHIFT,
        id_aa64isar1::LS64 => LS64_SHIFT);
    fields!(IdAa64isar2El1: id_aa64isar2::APA3 => APA3_SHIFT, id_aa64isar2::MOPS => MOPS_SHIFT);
    fields!(IdAa64mmfr0El1: id_aa64mmfr0::FGT => FGT_SHIFT,
        id_aa64mmfr0::PARANGE.trailing_zeros() => PARANGE_SHIFT);
    fields!(IdAa64mmfr1El1: id_aa64mmfr1::VH => VH_SHIFT, id_aa64mmfr1::HCX => HCX_SHIFT);
    fields!(IdAa64mmfr3El1: id_aa64mmfr3::TCRX => TCRX_SHIFT,
        id_aa64mmfr3::SCTLRX => SCTLRX_SHIFT, id_aa64mmfr3::S1PIE => S1PIE_SHIFT,
        id_aa64mmfr3::S1POE => S1POE_SHIFT, id_aa64mmfr3::AIE => AIE_SHIFT,
        id_aa64mmfr3::D128 => D128_SHIFT);
    fields!(IdAa64mmfr4El1: id_aa64mmfr4::E2H0_SIGN - 3 => E2H0_SHIFT);
    fields!(IdAa64dfr0El1: id_aa64dfr0::PMUVER => PMUVER_SHIFT,
        id_aa64dfr0::PMSVER => PMSVER_SHIFT, id_aa64dfr0::TRACE_BUFFER => TRACEBUFFER_SHIFT,
        id_aa64dfr0::BRBE => BRBE_SHIFT);
}

#[test]
fn each_other_bit_is_where_the_arm_arm_has_it() {
    for (name, value, wanted) in [
        ("SCTLR_ELx.EE, bit 25", sctlr::EE, 0x200_0000),
        ("CNTHCTL_EL2 with E2H = 1, bits 11:10", cnthctl::VHE, 0xc00),
        ("ZCR_EL2.LEN and SMCR_EL2.LEN, bits 3:0", vector_length::LONGEST, 0xf),
        ("SMCR_EL2.EZT0, bit 30", vector_length::EZT0, 0x4000_0000),
        ("SMCR_EL2.FA64, bit 31", vector_length::FA64, 0x8000_0000),
        ("SPSR_ELx.M, EL1h", spsr::EL1H, 0x5),
        ("SPSR_ELx.M, EL2h", spsr::EL2H, 0x9),
        ("SPSR_ELx.M, bits 4:0", spsr::M, 0x1f),
        ("SPSR_ELx.M, bit 3", spsr::AT_EL2, 0x8),
        ("CurrentEL.EL, bits 3:2", current_el::EL1, 0x4),
        ("CurrentEL.EL, bits 3:2", current_el::EL2, 0x8),
        ("TCR_ELx.IPS, 48 bits", tcr::IPS_48_BITS, 0b101),
        ("TTBR0_ELx.ASID, from bit 48", asid::SHIFT, 48),
        ("ESR_ELx.EC, from bit 26", esr::EC_SHIFT, 26),
        ("ESR_ELx.EC, 6 bits", esr::EC_BITS, 6),
        ("a table or page descriptor, bits 1:0", descriptor::TABLE_OR_PAGE, 0b11),
    ] {
        assert_eq!(value, wanted, "{name}: {value:#x}");
    }
}

#[test]
fn a_table_is_a_page_of_512_descriptors() {
    assert_eq!(phys::PAGE_SIZE, 4096);
    assert_eq!(descriptor::LEVEL_BITS, 9);
}

#[test]
fn what_others_have_decided_are_these_numbers() {
    assert_eq!(hyp::VECTORS_ALIGNMENT, 0x800, "VBAR_ELx, bits 10:0");
    assert_eq!(record::DTB_MAX_SIZE, 0x20_0000, "the boot protocol's 2 MiB");
    assert_eq!(image::BASE_ALIGNMENT, 0x20_0000, "the boot protocol's 2 MiB");
    assert_eq!(early_console::OFFSET, 0xf80, "where `image --earlycon` writes");
}

#[test]
fn no_two_maps_share_an_asid() {
    assert_eq!([asid::EARLY, asid::KERNEL, asid::RELOCATION], [1, 2, 3]);
}
