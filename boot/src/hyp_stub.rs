//! The hyp-stub: its vectors, and the `hvc` that calls whatever answers at EL2.
//!
//! [`crate::el2`] installs the vectors. They answer until those of the control pages, or the next
//! kernel's, replace them. [`crate::hyp`] documents each call and what it refuses.
#![expect(unsafe_code, reason = "assembly, and a hypervisor call is an instruction")]

use crate::hyp::{FINALISE_EL2, RESET_VECTORS};
use crate::sysreg::{cnthctl, hcr, id_aa64mmfr1, id_aa64mmfr3, mdcr, sctlr, spsr};
use core::arch::asm;

crate::assembly!(
    include_str!("hyp_stub.S"),
    RESET_VECTORS = const RESET_VECTORS,
    FINALISE_EL2 = const FINALISE_EL2,
    VH = const id_aa64mmfr1::VH,
    TCRX = const id_aa64mmfr3::TCRX,
    SCTLRX = const id_aa64mmfr3::SCTLRX,
    SCTLR_M_BIT = const sctlr::M.trailing_zeros(),
    SCTLR_EL1_MMU_OFF = const sctlr::EL1_MMU_OFF,
    SPSR_M = const spsr::M,
    SPSR_EL1H = const spsr::EL1H,
    SPSR_EL2H = const spsr::EL2H,
    HCR_VHE = const hcr::VHE,
    MDCR_E2PB = const mdcr::E2PB,
    MDCR_E2TB = const mdcr::E2TB,
    CNTHCTL_VHE = const cnthctl::VHE,
);

/// Calls the vectors at EL2: `hvc #0` with `number` in x0 and up to four arguments. Returns x0.
///
/// `smccc::hvc64` does not fit: it relies on x18, which the stub's ABI may clobber.
///
/// # Safety
///
/// The vectors at EL2 must follow the hyp-stub's ABI, and the caller must meet what the call needs:
///
/// - SET_VECTORS makes the memory at x1 the code of EL2.
/// - SOFT_RESTART ends this program.
/// - FINALISE_EL2 needs the stub mapped 1:1 and executable in the running map \[I2\].
pub unsafe fn call(number: u64, arguments: [u64; 4]) -> u64 {
    let answer;
    // SAFETY: the vectors follow the ABI, by the caller's promise. They keep x19 and up and memory;
    // x0 to x18 are declared here.
    unsafe {
        asm!(
            "hvc #0",
            inout("x0") number => answer,
            inout("x1") arguments[0] => _,
            inout("x2") arguments[1] => _,
            inout("x3") arguments[2] => _,
            inout("x4") arguments[3] => _,
            out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _,
            out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _,
            out("x17") _, out("x18") _,
            options(nostack),
        );
    }
    answer
}
