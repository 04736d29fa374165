//! Every register bit against its literal number, from the fields of the Arm ARM's D24.2.
//!
//! The unit tests of `sysreg` hold the composed values; these hold each bit by itself.

use boot::{esr, hyp, image, phys, record, sysreg::*};

#[test]
fn each_bit_is_where_the_arm_arm_has_it() {
    for (name, value, wanted) in [
        ("SCTLR_ELx.M, bit 0", sctlr::M, 0x1),
        ("SCTLR_ELx.C, bit 2", sctlr::C, 0x4),
        ("SCTLR_ELx.SA, bit 3", sctlr::SA, 0x8),
        ("SCTLR_ELx.I, bit 12", sctlr::I, 0x1000),
        ("SCTLR_ELx.WXN, bit 19", sctlr::WXN, 0x8_0000),
        ("SCTLR_ELx.EE, bit 25", sctlr::EE, 0x200_0000),
        ("HCR_EL2.TID3, bit 18", hcr::TID3, 0x4_0000),
        ("HCR_EL2.TGE, bit 27", hcr::TGE, 0x800_0000),
        ("HCR_EL2.RW, bit 31", hcr::RW, 0x8000_0000),
        ("HCR_EL2.E2H, bit 34", hcr::E2H, 0x4_0000_0000),
        ("HCR_EL2.APK, bit 40", hcr::APK, 0x100_0000_0000),
        ("HCR_EL2.API, bit 41", hcr::API, 0x200_0000_0000),
        ("HCR_EL2.FIEN, bit 47", hcr::FIEN, 0x8000_0000_0000),
        ("HCR_EL2.EnSCXT, bit 53", hcr::ENSCXT, 0x20_0000_0000_0000),
        ("HCR_EL2.ATA, bit 56", hcr::ATA, 0x100_0000_0000_0000),
        ("CPTR_EL2, RES1 with E2H = 0", cptr::NVHE, 0x33ff),
        ("CPTR_EL2.TZ, bit 8", cptr::TZ, 0x100),
        ("CPTR_EL2.TSM, bit 12", cptr::TSM, 0x1000),
        ("CPTR_EL2.ZEN, bits 17:16", cptr::ZEN, 0x3_0000),
        ("CPTR_EL2.FPEN, bits 21:20", cptr::FPEN, 0x30_0000),
        ("CPTR_EL2.SMEN, bits 25:24", cptr::SMEN, 0x300_0000),
        ("CNTHCTL_EL2, bits 1:0", cnthctl::NVHE, 0x3),
        ("CNTHCTL_EL2 with E2H = 1, bits 11:10", cnthctl::VHE, 0xc00),
        ("MDCR_EL2.HPMN, bits 4:0", mdcr::HPMN_BITS, 5),
        ("MDCR_EL2.E2PB, bits 13:12", mdcr::E2PB, 0x3000),
        ("MDCR_EL2.E2TB, bits 25:24", mdcr::E2TB, 0x300_0000),
        ("HCRX_EL2.EnAS0, bit 0", hcrx::ENAS0, 0x1),
        ("HCRX_EL2.EnALS, bit 1", hcrx::ENALS, 0x2),
        ("HCRX_EL2.EnASR, bit 2", hcrx::ENASR, 0x4),
        ("HCRX_EL2.MSCEn, bit 11", hcrx::MSCEN, 0x800),
        ("HCRX_EL2.TCR2En, bit 14", hcrx::TCR2EN, 0x4000),
        ("HCRX_EL2.SCTLR2En, bit 15", hcrx::SCTLR2EN, 0x8000),
        ("HCRX_EL2.D128En, bit 17", hcrx::D128EN, 0x2_0000),
        ("HCRX_EL2.GCSEn, bit 22", hcrx::GCSEN, 0x40_0000),
        ("HCRX_EL2.EnFPM, bit 23", hcrx::ENFPM, 0x80_0000),
        ("HFGxTR_EL2.nACCDATA_EL1, bit 50", hfg::ACCDATA, 0x4_0000_0000_0000),
        ("HFGxTR_EL2.nGCS_EL0 and nGCS_EL1, bits 53:52", hfg::GCS, 0x30_0000_0000_0000),
        ("HFGxTR_EL2.nSMPRI_EL1 and nTPIDR2_EL0, bits 55:54", hfg::SME, 0xc0_0000_0000_0000),
        ("HFGxTR_EL2.nRCWMASK_EL1, bit 56", hfg::THE, 0x100_0000_0000_0000),
        ("HFGxTR_EL2.nPIRE0_EL1 and nPIR_EL1, bits 58:57", hfg::S1PIE, 0x600_0000_0000_0000),
        ("HFGxTR_EL2.nPOR_EL0 and nPOR_EL1, bits 60:59", hfg::S1POE, 0x1800_0000_0000_0000),
        ("HFGxTR_EL2.nMAIR2_EL1 and nAMAIR2_EL1, bits 63:62", hfg::AIE, 0xc000_0000_0000_0000),
        ("HDFGRTR_EL2.nBRBIDR to nBRBDATA, bits 61:59", hdfg::BRBE_READ, 0x3800_0000_0000_0000),
        ("HDFGWTR_EL2.nBRBCTL and nBRBDATA, bits 61:60", hdfg::BRBE_WRITE, 0x3000_0000_0000_0000),
        ("HDFGxTR_EL2.nPMSNEVFR_EL1, bit 62", hdfg::PMSNEVFR, 0x4000_0000_0000_0000),
        ("HFGITR_EL2.nBRBINJ and nBRBIALL, bits 56:55", hfgi::BRBE, 0x180_0000_0000_0000),
        ("HFGITR_EL2.nGCS…, bits 59:57", hfgi::GCS, 0xe00_0000_0000_0000),
        ("ZCR_EL2.LEN and SMCR_EL2.LEN, bits 3:0", vector_length::LONGEST, 0xf),
        ("SMCR_EL2.EZT0, bit 30", vector_length::EZT0, 0x4000_0000),
        ("SMCR_EL2.FA64, bit 31", vector_length::FA64, 0x8000_0000),
        ("SPSR_ELx.D, A, I and F, bits 9:6", spsr::DAIF, 0x3c0),
        ("SPSR_ELx.M, EL1h", spsr::EL1H, 0x5),
        ("SPSR_ELx.M, EL2h", spsr::EL2H, 0x9),
        ("SPSR_ELx.M, bits 4:0", spsr::M, 0x1f),
        ("SPSR_ELx.M, bit 3", spsr::AT_EL2, 0x8),
        ("CurrentEL.EL, bits 3:2", current_el::EL1, 0x4),
        ("CurrentEL.EL, bits 3:2", current_el::EL2, 0x8),
        ("TCR_ELx.IPS, from bit 32", tcr::IPS_SHIFT, 32),
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
}

#[test]
fn no_two_maps_share_an_asid() {
    assert_eq!([asid::EARLY, asid::KERNEL, asid::RELOCATION], [1, 2, 3]);
}
