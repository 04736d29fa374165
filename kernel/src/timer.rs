//! The generic timer that this kernel ticks by (Arm ARM D11.2).
//!
//! *When:* from the moment that a CPU takes its interrupts over until it leaves. *Leaves:* off.
//!
//! EL1's virtual timer in el1 and nvhe, because a hypervisor above may keep the physical one for itself. In vhe EL2's physical one: its name is
//! CNTP's under E2H, and every machine wires it, which cannot be said of EL2's virtual timer.
#![expect(unsafe_code, reason = "reads and writes timer registers")]

use crate::clock;
use core::arch::asm;
use core::fmt;

/// How often it ticks in a second.
const TICKS: u64 = 1000;

/// The shortest tick, in counts, for a frequency that nobody has set: an interrupt that comes again at once leaves no time for anything else.
const SHORTEST: u64 = 1000;

/// CNTx_CTL: the timer is on.
const ENABLE: u64 = 1 << 0;
/// Its time has come.
const EXPIRED: u64 = 1 << 2;

/// Which one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Timer {
    /// EL1's virtual timer.
    VirtualEl1,
    /// EL2's physical timer.
    PhysicalEl2,
}

impl Timer {
    /// Whether it is on.
    pub fn is_on(self) -> bool {
        self.control() & ENABLE != 0
    }

    /// Whether its time has come.
    pub fn has_expired(self) -> bool {
        self.control() & EXPIRED != 0
    }

    /// On, for one tick from now.
    pub fn arm(self) {
        let ticks = (clock::frequency() / TICKS).max(SHORTEST);
        match self {
            // SAFETY: this CPU's own timer.
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

    /// Off.
    #[inline(never)]
    pub fn off(self) {
        self.set_control(0);
    }

    fn control(self) -> u64 {
        let control;
        match self {
            // SAFETY: what it says has no side effects.
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

    /// In effect when this returns: an interrupt that is still to come is known to the GIC.
    fn set_control(self, control: u64) {
        match self {
            // SAFETY: this CPU's own timer.
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
