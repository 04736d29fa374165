//! The mode of life: el1, nvhe or vhe, by what the machine offers and what was ordered.
//!
//! *When:* before the kernel's map is built, since vhe changes the regime. *On entry:* EL1, with the stub at EL2 if the image was
//! entered there. *Leaves:* the mode; in vhe this code has gone on at EL2.
#![expect(unsafe_code, reason = "reads system registers and calls the stub")]

use boot::hyp;
use boot::hyp_stub;
use boot::record::EntryRecord;
use boot::sysreg::current_el;
use core::arch::asm;
use core::fmt;
use kernel::orders::El2;

/// Where the kernel lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// At EL1, and there is no EL2 of ours.
    El1,
    /// At EL1, over its own stub at EL2.
    Nvhe,
    /// At EL2 with E2H.
    Vhe,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::El1 => "el1",
            Self::Nvhe => "nvhe",
            Self::Vhe => "vhe",
        })
    }
}

/// A mode that was asked for and that this CPU does not have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Note {
    /// vhe, on a CPU without FEAT_VHE.
    NoVhe,
    /// nvhe, on a CPU whose E2H is always set.
    OnlyVhe,
    /// Either, entered at EL1.
    NoEl2,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoVhe => "el2=vhe was ordered, but this CPU has no VHE (ID_AA64MMFR1_EL1.VH = 0): going on as nvhe",
            Self::OnlyVhe => {
                "el2=nvhe was ordered, but this CPU is VHE-only (ID_AA64MMFR4_EL1.E2H0 < 0): going on as vhe"
            }
            Self::NoEl2 => "el2= was ordered, but the image was entered at EL1: going on as el1",
        })
    }
}

/// What was ordered, held against what the CPU has.
const fn choose(entered_at_el2: bool, vhe: bool, vhe_only: bool, ordered: Option<El2>) -> (Mode, Option<Note>) {
    match (entered_at_el2, ordered) {
        (false, None) => (Mode::El1, None),
        (false, Some(_)) => (Mode::El1, Some(Note::NoEl2)),
        (true, Some(El2::Nvhe)) if vhe_only => (Mode::Vhe, Some(Note::OnlyVhe)),
        (true, Some(El2::Nvhe)) => (Mode::Nvhe, None),
        (true, Some(El2::Vhe)) if !vhe => (Mode::Nvhe, Some(Note::NoVhe)),
        (true, None) if !vhe => (Mode::Nvhe, None),
        (true, Some(El2::Vhe) | None) => (Mode::Vhe, None),
    }
}

/// Chooses the mode, and goes to EL2 for vhe.
///
/// # Panics
///
/// Where the stub refuses what the ID registers promise.
pub fn settle(record: &EntryRecord, ordered: Option<El2>) -> (Mode, Option<Note>) {
    let (mmfr1, mmfr4): (u64, u64);
    // SAFETY: identification registers have no side effects. (MMFR4 by its encoding: older CPUs read it as zero.)
    unsafe {
        asm!("mrs {}, id_aa64mmfr1_el1", "mrs {}, s3_0_c0_c7_4", out(reg) mmfr1, out(reg) mmfr4, options(nomem, nostack));
    }
    let vhe = mmfr1 >> 8 & 0xf != 0;
    let vhe_only = mmfr4 >> 27 & 1 == 1;
    let (mode, note) = choose(record.current_el == current_el::EL2, vhe, vhe_only, ordered);
    if mode == Mode::Vhe {
        // SAFETY: the early map holds the stub 1:1 and executable at this level [I2]; only the level changes.
        let answer = unsafe { hyp_stub::call(hyp::FINALISE_EL2, [0; 4]) };
        assert!(answer == 0, "the stub refused HVC_FINALISE_EL2, which this CPU's ID registers promise: {answer:#x}");
    }
    (mode, note)
}
