//! Probes: accesses that a higher level may have forgotten to open, tried without harm.
//!
//! *When:* by the checker. *On entry:* the kernel's own vectors. *Leaves:* everything as it was: an exception from a probe's instruction skips it, and
//! the probe answers that it was trapped. *Refuses:* an exception from anywhere else, which stays a failure.
#![expect(unsafe_code, reason = "assembly, and going on behind an exception")]

use boot::sysreg::cptr;
use boot::vectors::Frame;
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use kernel::protocol::PROBES;

global_asm!(
    include_str!("probe.S"),
    SP = const offset_of!(Frame, sp),
    ELR = const offset_of!(Frame, elr),
    SPSR = const offset_of!(Frame, spsr),
    CPACR_ALL = const cptr::FPEN | cptr::ZEN | cptr::SMEN,
    PROBE_SHIFT = const PROBE_SIZE.trailing_zeros(),
);

/// The vector slot of synchronous exceptions from the level that takes them, with SP_ELx.
const SYNCHRONOUS: u64 = 4;

/// How long a probe is: two instructions.
const PROBE_SIZE: u64 = 8;

unsafe extern "C" {
    fn probe_try(number: u64) -> u64;
    fn probe_go_on(frame: &Frame) -> !;
    static probes: u8;
}

fn start() -> u64 {
    (&raw const probes).addr() as u64
}

/// Whether access number `number` ends in an exception. It is one that the CPU has.
pub fn is_trapped(number: usize) -> bool {
    assert!(number < PROBES);
    let trapped: u64;
    // SAFETY: a probe reads one register, or does nothing to memory; if that is trapped, the instruction behind it is next. Vector registers are
    // named because a handler that is left half-way does not give them back.
    unsafe {
        asm!(
            "bl {probe_try}",
            probe_try = sym probe_try,
            inout("x0") number as u64 => trapped,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            clobber_abi("C"),
        );
    }
    trapped != 0
}

/// Whether the exception is a probe's: one that its instruction raised, and no SError that came meanwhile.
pub fn is_one(frame: &Frame) -> bool {
    frame.slot == SYNCHRONOUS
        && (start()..start() + PROBE_SIZE * PROBES as u64).contains(&frame.elr)
}

/// Goes on behind the probe's instruction, and says that it was trapped.
pub fn go_on(frame: &Frame) -> ! {
    // SAFETY: the frame is of a probe's instruction, and whoever called the probe takes as they were only the registers that a callee keeps.
    unsafe { probe_go_on(frame) }
}
