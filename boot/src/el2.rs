//! EL2 set-up: opens EL2 for a kernel at EL1, and leaves the hyp-stub there.
//!
//! Runs on every CPU that is entered at EL2, before the CPU has a stack.
//!
//! - Expects EL2h with the MMU off. A VHE kernel may have left E2H set.
//! - Leaves the CPU at EL1h with the MMU off, and the hyp-stub at EL2.
//! - Touches a register only if the ID registers say that it exists. It clears bits that trap when
//!   they are set, and sets bits that trap when they are clear. The values are in
//!   [`crate::sysreg`].
//! - Leaves out the FGT2 registers and MPAMSM_EL1: this kernel does not use what they control at
//!   EL1, and at EL2 they trap nothing.
#![expect(unsafe_code, reason = "assembly, and the names by which it and Rust know each other")]

use crate::sysreg::{
    cnthctl, cptr, hcr, hcrx, hdfg, hfg, hfgi, icc_sre, mdcr, sctlr, spsr, vector_length,
};

crate::assembly!(
    include_str!("el2.S"),
    SCTLR_EL1_MMU_OFF = const sctlr::EL1_MMU_OFF,
    HCR_NVHE = const hcr::NVHE,
    HCR_APK_API = const hcr::APK | hcr::API,
    HCR_ATA = const hcr::ATA,
    HCR_ENSCXT = const hcr::ENSCXT,
    HCR_FIEN = const hcr::FIEN,
    HCR_E2H = const hcr::E2H,
    HCR_E2H_BIT = const hcr::E2H.trailing_zeros(),
    CPTR_NVHE = const cptr::NVHE,
    CPTR_TZ = const cptr::TZ,
    CPTR_TSM = const cptr::TSM,
    CPTR_FPEN = const cptr::FPEN,
    CPTR_ZEN = const cptr::ZEN,
    CPTR_SMEN = const cptr::SMEN,
    VECTOR_LONGEST = const vector_length::LONGEST,
    SMCR_EZT0 = const vector_length::EZT0,
    SMCR_FA64 = const vector_length::FA64,
    CNTHCTL_NVHE = const cnthctl::NVHE,
    CNTHCTL_VHE = const cnthctl::VHE,
    MDCR_HPMN_BITS = const mdcr::HPMN_BITS,
    MDCR_E2PB = const mdcr::E2PB,
    MDCR_E2TB = const mdcr::E2TB,
    ICC_SRE_ENABLE = const icc_sre::SRE_ENABLE,
    HCRX_MSCEN = const hcrx::MSCEN,
    HCRX_TCR2EN = const hcrx::TCR2EN,
    HCRX_SCTLR2EN = const hcrx::SCTLR2EN,
    HCRX_GCSEN = const hcrx::GCSEN,
    HCRX_ENFPM = const hcrx::ENFPM,
    HCRX_D128EN = const hcrx::D128EN,
    HCRX_ENALS = const hcrx::ENALS,
    HCRX_ENASR = const hcrx::ENASR,
    HCRX_ENAS0 = const hcrx::ENAS0,
    HFG_ACCDATA = const hfg::ACCDATA,
    HFG_GCS = const hfg::GCS,
    HFG_SME = const hfg::SME,
    HFG_THE = const hfg::THE,
    HFG_S1PIE = const hfg::S1PIE,
    HFG_S1POE = const hfg::S1POE,
    HFG_AIE = const hfg::AIE,
    HFGI_BRBE = const hfgi::BRBE,
    HFGI_GCS = const hfgi::GCS,
    HDFG_BRBE_READ = const hdfg::BRBE_READ,
    HDFG_BRBE_WRITE = const hdfg::BRBE_WRITE,
    HDFG_PMSNEVFR = const hdfg::PMSNEVFR,
    SPSR_TO_EL1 = const spsr::TO_EL1,
);
