//! The change to the mode that this kernel runs in.
//!
//! - Runs before the kernel's idmap is built, because vhe changes the translation regime.
//! - Expects EL1, with the hyp-stub at EL2 if the image was entered there.
//! - Leaves the CPU in the chosen mode; in vhe this code continues at EL2.
#![expect(unsafe_code, reason = "reads system registers and calls the stub")]

use boot::hyp;
use boot::hyp_stub;
use boot::record::EntryRecord;
use boot::sysreg::{current_el, hcr};
use core::arch::asm;
use protocol::cmdline::El2;
use protocol::mode::{Cpu, Mode, Note, choose};

/// Chooses the mode, and moves to EL2 for vhe.
///
/// # Panics
///
/// If the stub refuses a mode that the ID registers promise.
pub fn enter_mode(record: &EntryRecord, requested: Option<El2>) -> (Mode, Option<Note>) {
    let mmfr1: u64;
    // SAFETY: reading an ID register has no side effects.
    unsafe { asm!("mrs {}, id_aa64mmfr1_el1", out(reg) mmfr1, options(nomem, nostack)) };
    let cpu = Cpu {
        entered_at_el2: record.current_el == current_el::EL2,
        vhe: (mmfr1 >> 8) & 0xf != 0,
        vhe_only: record.hcr_el2_in_effect & hcr::E2H != 0,
    };
    let (mode, note) = choose(&cpu, requested);
    if mode == Mode::Vhe {
        // SAFETY: `call` requires the stub at EL2 [I3], which `el2_setup` installed. FINALISE_EL2
        // requires a map that holds the stub 1:1 and executable; the early idmap does [I2].
        let answer = unsafe { hyp_stub::call(hyp::FINALISE_EL2, [0; 4]) };
        assert!(
            answer == 0,
            "the stub refused HVC_FINALISE_EL2, which this CPU's ID registers promise: {answer:#x}"
        );
    }
    (mode, note)
}
