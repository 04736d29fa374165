//! The EL2 set-up: what a kernel at EL1 needs opened, and the stub that is left behind.
//!
//! *When:* on every CPU that is entered at EL2, before there is a stack. *Entry:* EL2h, MMU off, E2H perhaps left set by a VHE
//! kernel. *Leaves:* EL1h, MMU off, the hyp-stub at EL2. Each register is touched only where the ID registers say it exists;
//! what traps by a set bit is cleared, what traps by a clear bit is set. The values are [`crate::sysreg`]'s.
//!
//! Not here: FGT2 registers, MPAMSM_EL1. What lies behind them this kernel does not use at EL1, and at EL2 they do not trap.
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
