//! Trial accesses that a higher exception level may trap.
//!
//! - When: the checker runs ([`is_trapped`]), and in every exception handler ([`is_one`]).
//! - Expects: the kernel's own vectors.
//! - Leaves: all state as it was. An exception from a probe skips the instruction, and the probe
//!   reports that it was trapped.
//! - Refuses: an exception from any other code, which remains a failure.
#![expect(unsafe_code, reason = "assembly, and returning past an exception")]

use boot::sysreg::cptr;
use boot::vectors::Frame;
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use protocol::rules::PROBES;

global_asm!(
    include_str!("probe.S"),
    SP = const offset_of!(Frame, sp),
    ELR = const offset_of!(Frame, elr),
    SPSR = const offset_of!(Frame, spsr),
    CPACR_ALL = const cptr::FPEN | cptr::ZEN | cptr::SMEN,
    PROBE_SHIFT = const PROBE_SIZE.trailing_zeros(),
);

/// Vector slot for synchronous exceptions from the current EL with SP_ELx.
const SYNCHRONOUS: u64 = 4;

/// Size of a probe: two instructions.
const PROBE_SIZE: u64 = 8;

unsafe extern "C" {
    fn probe_try(number: u64) -> u64;
    fn probe_resume(frame: &Frame) -> !;
    static probes: u8;
}

fn start() -> u64 {
    (&raw const probes).addr() as u64
}

/// Returns whether access number `number` raises an exception. The CPU must have that access.
pub fn is_trapped(number: usize) -> bool {
    assert!(number < PROBES);
    let trapped: u64;
    // SAFETY: a probe reads a register or runs a store of no bytes, and a trapped one is skipped.
    // The callee-saved vector registers are clobbers because `probe_resume` leaves the handler
    // without restoring them.
    unsafe {
        asm!(
            "bl {probe_try}",
            probe_try = sym probe_try,
            inout("x0") number as u64 => trapped,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _,
            out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            clobber_abi("C"),
        );
    }
    trapped != 0
}

/// Returns whether a probe's instruction raised the exception. An SError at the same place does not
/// count.
pub fn is_one(frame: &Frame) -> bool {
    frame.slot == SYNCHRONOUS
        && (start()..start() + PROBE_SIZE * PROBES as u64).contains(&frame.elr)
}

/// Returns from the exception to the instruction after the probe's, with x0 = 1 for "trapped".
pub fn resume(frame: &Frame) -> ! {
    // SAFETY: `is_one` has shown that the frame is a probe's, and a probe's caller relies only on
    // callee-saved registers.
    unsafe { probe_resume(frame) }
}
