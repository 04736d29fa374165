//! The generic timer behind this kernel's tick (Arm ARM D11.2).
//!
//! - When: from the moment that a CPU takes over its interrupts until it silences them.
//! - Leaves: the timer off.
//!
//! In el1 and nvhe this is EL1's virtual timer, because a hypervisor above may keep the physical
//! timer for itself. In vhe it is EL2's physical timer, which E2H accesses as CNTP. Every machine
//! wires that timer's interrupt; not every machine wires EL2's virtual timer.
#![expect(unsafe_code, reason = "reads and writes timer registers")]

use crate::clock;
use core::arch::asm;
use core::fmt;

/// Ticks per second.
const TICKS: u64 = 1000;

/// The shortest tick, in counts, in case firmware left CNTFRQ unset. An interrupt that returns at
/// once would leave no time for anything else.
const SHORTEST: u64 = 1000;

/// CNTx_CTL.ENABLE: the timer is on.
const ENABLE: u64 = 1 << 0;
/// CNTx_CTL.ISTATUS: the timer has expired.
const EXPIRED: u64 = 1 << 2;

/// The timer in use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Timer {
    /// EL1's virtual timer.
    VirtualEl1,
    /// EL2's physical timer.
    PhysicalEl2,
}

impl Timer {
    /// Returns whether the timer is on.
    pub fn is_on(self) -> bool {
        self.control() & ENABLE != 0
    }

    /// Returns whether the timer has expired.
    pub fn has_expired(self) -> bool {
        self.control() & EXPIRED != 0
    }

    /// Starts the timer for one tick from now. Not inlined: a test patches it.
    #[inline(never)]
    pub fn arm(self) {
        let ticks = (clock::frequency() / TICKS).max(SHORTEST);
        match self {
            // SAFETY: this kernel alone uses this CPU's own timer.
            Self::VirtualEl1 => unsafe {
                asm!("msr cntv_tval_el0, {}", in(reg) ticks, options(nostack))
            },
            // SAFETY: as above.
            Self::PhysicalEl2 => unsafe {
                asm!("msr cntp_tval_el0, {}", in(reg) ticks, options(nostack))
            },
        }
        self.set_control(ENABLE);
    }

    /// Turns the timer off.
    #[inline(never)]
    pub fn off(self) {
        self.set_control(0);
    }

    fn control(self) -> u64 {
        let control;
        match self {
            // SAFETY: reading the control register has no side effects.
            Self::VirtualEl1 => unsafe {
                asm!("mrs {}, cntv_ctl_el0", out(reg) control, options(nomem, nostack))
            },
            // SAFETY: as above.
            Self::PhysicalEl2 => unsafe {
                asm!("mrs {}, cntp_ctl_el0", out(reg) control, options(nomem, nostack))
            },
        }
        control
    }

    /// Writes the control register. The ISB puts the write into effect before this returns: an
    /// interrupt that can still arrive after that is already pending in the GIC.
    fn set_control(self, control: u64) {
        match self {
            // SAFETY: this kernel alone uses this CPU's own timer.
            Self::VirtualEl1 => unsafe {
                asm!("msr cntv_ctl_el0, {}", "isb", in(reg) control, options(nostack))
            },
            // SAFETY: as above.
            Self::PhysicalEl2 => unsafe {
                asm!("msr cntp_ctl_el0, {}", "isb", in(reg) control, options(nostack))
            },
        }
    }
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtualEl1 => "EL1's virtual timer",
            Self::PhysicalEl2 => "EL2's physical timer",
        })
    }
}
