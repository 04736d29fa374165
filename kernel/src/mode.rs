//! The mode of life: el1, nvhe or vhe, by what the machine offers and what was ordered.
//!
//! *When:* before the kernel's map is built, since vhe changes the regime. The pure half: the choice. Going there is the binary's `settle`.

use crate::orders::El2;
use core::fmt;

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
            Self::OnlyVhe => "el2=nvhe was ordered, but this CPU is VHE-only (HCR_EL2.E2H stays set): going on as vhe",
            Self::NoEl2 => "el2= was ordered, but the image was entered at EL1: going on as el1",
        })
    }
}

/// What bears on the choice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cpu {
    /// The image was entered at EL2.
    pub entered_at_el2: bool,
    /// FEAT_VHE: ID_AA64MMFR1_EL1.VH is not 0.
    pub vhe: bool,
    /// HCR_EL2.E2H stayed set when it was cleared.
    pub vhe_only: bool,
}

/// What was ordered, held against what there is.
#[must_use]
pub const fn choose(cpu: &Cpu, ordered: Option<El2>) -> (Mode, Option<Note>) {
    let Cpu { entered_at_el2, vhe, vhe_only } = *cpu;
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
    fn an_order_is_obeyed_where_the_cpu_can() {
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
}
