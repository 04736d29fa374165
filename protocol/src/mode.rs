//! The choice of the mode that this kernel runs in: el1, nvhe or vhe.
//!
//! It depends on the CPU, the level of entry and the command line. It is made before the kernel's
//! idmap is built, because vhe changes the translation regime. The binary's `enter_mode` enters the
//! mode.

use crate::cmdline::El2;
use core::fmt;

/// The exception level that the kernel runs at, and how.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Runs at EL1 and was entered there: EL2 is absent or another program's.
    El1,
    /// Runs at EL1, with its own hyp-stub at EL2.
    Nvhe,
    /// Runs at EL2 with HCR_EL2.E2H set.
    Vhe,
}

impl Mode {
    /// Returns the mode's name, as on the command line and in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::El1 => "el1",
            Self::Nvhe => "nvhe",
            Self::Vhe => "vhe",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The reason why the kernel does not run in the requested mode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Note {
    /// vhe was requested, on a CPU without FEAT_VHE.
    NoVhe,
    /// nvhe was requested, on a CPU whose HCR_EL2.E2H cannot be cleared.
    OnlyVhe,
    /// Either was requested, but the image was entered at EL1.
    NoEl2,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoVhe => {
                "el2=vhe was requested, but this CPU has no VHE \
                 (ID_AA64MMFR1_EL1.VH = 0): continuing as nvhe"
            }
            Self::OnlyVhe => {
                "el2=nvhe was requested, but this CPU is VHE-only \
                 (HCR_EL2.E2H stays set): continuing as vhe"
            }
            Self::NoEl2 => {
                "el2= was requested, but the image was entered at EL1: continuing as el1"
            }
        })
    }
}

/// The properties of the CPU that the choice depends on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cpu {
    /// True if the image was entered at EL2.
    pub entered_at_el2: bool,
    /// True if the CPU has FEAT_VHE: ID_AA64MMFR1_EL1.VH is not 0.
    pub vhe: bool,
    /// True if HCR_EL2.E2H stays in effect after the entry code cleared it.
    pub vhe_only: bool,
}

/// Chooses the mode: the requested one if the CPU has it, else vhe before nvhe before el1.
#[must_use]
pub const fn choose(cpu: &Cpu, requested: Option<El2>) -> (Mode, Option<Note>) {
    let Cpu { entered_at_el2, vhe, vhe_only } = *cpu;
    match (entered_at_el2, requested) {
        (false, None) => (Mode::El1, None),
        (false, Some(_)) => (Mode::El1, Some(Note::NoEl2)),
        (true, Some(El2::Nvhe)) if vhe_only => (Mode::Vhe, Some(Note::OnlyVhe)),
        (true, Some(El2::Nvhe)) => (Mode::Nvhe, None),
        (true, Some(El2::Vhe)) if !vhe => (Mode::Nvhe, Some(Note::NoVhe)),
        (true, None) if !vhe => (Mode::Nvhe, None),
        (true, Some(El2::Vhe) | None) => (Mode::Vhe, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EL1: Cpu = Cpu { entered_at_el2: false, vhe: true, vhe_only: false };
    const A72: Cpu = Cpu { entered_at_el2: true, vhe: false, vhe_only: false };
    const N1: Cpu = Cpu { entered_at_el2: true, vhe: true, vhe_only: false };
    const VHE_ONLY: Cpu = Cpu { entered_at_el2: true, vhe: true, vhe_only: true };

    #[test]
    fn without_orders_the_cpu_decides() {
        assert_eq!(choose(&EL1, None), (Mode::El1, None));
        assert_eq!(choose(&A72, None), (Mode::Nvhe, None));
        assert_eq!(choose(&N1, None), (Mode::Vhe, None));
        assert_eq!(choose(&VHE_ONLY, None), (Mode::Vhe, None));
    }

    #[test]
    fn a_requested_mode_is_used_if_the_cpu_has_it() {
        assert_eq!(choose(&A72, Some(El2::Nvhe)), (Mode::Nvhe, None));
        assert_eq!(choose(&N1, Some(El2::Nvhe)), (Mode::Nvhe, None));
        assert_eq!(choose(&N1, Some(El2::Vhe)), (Mode::Vhe, None));
        assert_eq!(choose(&VHE_ONLY, Some(El2::Vhe)), (Mode::Vhe, None));
    }

    #[test]
    fn what_it_cannot_is_said() {
        assert_eq!(choose(&A72, Some(El2::Vhe)), (Mode::Nvhe, Some(Note::NoVhe)));
        assert_eq!(choose(&VHE_ONLY, Some(El2::Nvhe)), (Mode::Vhe, Some(Note::OnlyVhe)));
        assert_eq!(choose(&EL1, Some(El2::Vhe)), (Mode::El1, Some(Note::NoEl2)));
        assert_eq!(choose(&EL1, Some(El2::Nvhe)), (Mode::El1, Some(Note::NoEl2)));
    }

    #[test]
    fn a_mode_is_printed_as_it_is_requested() {
        assert_eq!([Mode::El1, Mode::Nvhe, Mode::Vhe].map(Mode::name), ["el1", "nvhe", "vhe"]);
        assert_eq!(Mode::Nvhe.to_string(), "nvhe");
        let note = Note::NoVhe.to_string();
        assert!(note.contains("no VHE") && note.ends_with("continuing as nvhe"), "{note}");
    }
}
