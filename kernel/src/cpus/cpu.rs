//! A CPU: what it and the others know of it.
//!
//! *When:* from [`Cpus::new`](super::Cpus::new) on. One CPU at a time gives orders, the one that leads; every other one reads its own.
#![expect(unsafe_code, reason = "finds this CPU's page, and masks interrupts")]

use crate::interrupts::{self, Found};
use crate::memory::pointer;
use boot::own::Own;
use boot::phys::{PAGE_SIZE, PhysAddr};
use core::arch::asm;
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use kernel::mode::Mode;
use spin::Mutex;

/// What a CPU is to do next. Each CPU has one order at a time, given by the CPU that leads.
pub mod order {
    pub const WORK: u8 = 0;
    pub const STOP: u8 = 1;
    pub const LEAD: u8 = 2;
    pub const SELFTEST: u8 = 3;
}

/// Where a CPU is.
pub mod state {
    pub const OFF: u8 = 0;
    pub const STARTING: u8 = 1;
    pub const UP: u8 = 2;
    pub const LEAVING: u8 = 3;
    /// PSCI would not turn it off.
    pub const DENIED: u8 = 4;
    /// PSCI would not turn it on.
    pub const LOST: u8 = 5;
    /// There is no memory for its stacks, and nobody was told yet.
    pub const HOMELESS: u8 = 6;
}

/// A CPU: what it and the others know of it. At the top of its exception stack, where TPIDR_EL1 points.
#[repr(C)]
pub struct Cpu {
    /// What the entry and the vectors find there.
    pub own: Own,
    /// Its place in the device tree's order.
    pub index: usize,
    /// MPIDR_EL1's affinity.
    pub mpidr: u64,
    /// What it lives in.
    pub mode: Mode,
    /// Where it is, of [`state`].
    pub state: AtomicU8,
    /// What it is to do, of [`order`].
    pub order: AtomicU8,
    /// Timer interrupts taken.
    pub ticks: AtomicU64,
    /// Units of work done: one for each time that it woke.
    pub work: AtomicU64,
    /// Another CPU calls it, and it has not taken that interrupt yet.
    pub is_called: AtomicBool,
    /// Interrupts taken that were not ours, and the last one's INTID.
    pub strays: AtomicU32,
    /// See `strays`.
    pub stray: AtomicU32,
    /// Which bit of GICv2's target lists it is.
    pub gicv2_target: AtomicU32,
    /// Each of its ticks brings interrupts with it that are nobody's.
    pub storms: AtomicBool,
    /// What its interrupts were found in.
    pub found: Mutex<Found>,
    /// Its counter when it came up.
    pub came: AtomicU64,
    /// Its CNTFRQ_EL0.
    pub frequency: AtomicU64,
    /// What it counted when it came did not lie between what the CPU that started it read.
    pub differs: AtomicBool,
}

const _: () = assert!(size_of::<Cpu>() <= PAGE_SIZE as usize);

impl Cpu {
    /// One that is in `state`, with nothing done and nothing to do.
    pub fn new(own: Own, index: usize, mpidr: u64, mode: Mode, state: u8) -> Self {
        Self {
            own,
            index,
            mpidr,
            mode,
            state: AtomicU8::new(state),
            order: AtomicU8::new(order::WORK),
            ticks: AtomicU64::new(0),
            work: AtomicU64::new(0),
            is_called: AtomicBool::new(false),
            strays: AtomicU32::new(0),
            stray: AtomicU32::new(0),
            gicv2_target: AtomicU32::new(0),
            storms: AtomicBool::new(false),
            found: Mutex::new(Found::default()),
            came: AtomicU64::new(0),
            frequency: AtomicU64::new(0),
            differs: AtomicBool::new(false),
        }
    }

    /// The one that asks.
    pub fn current() -> &'static Self {
        let own: u64;
        // SAFETY: reading it has no side effects. At EL2 too it is this register that holds the page's address.
        unsafe { asm!("mrs {}, tpidr_el1", out(reg) own, options(nomem, nostack)) };
        // SAFETY: on every CPU that runs Rust, and takes interrupts or orders, the page holds its `Cpu`, which is never moved.
        unsafe { &*pointer(PhysAddr(own)).cast() }
    }

    /// Whether it is the one that asks.
    pub fn is_current(&self) -> bool {
        core::ptr::eq(self, Self::current())
    }

    /// Gives it an order, and calls it.
    pub fn give(&self, order: u8) {
        self.is_called.store(interrupts::driven().is_some(), Relaxed);
        self.order.store(order, Release);
        interrupts::call(self);
    }

    /// The order that it was given. None before the call was taken: if it were obeyed earlier, at a tick, the call would be left to the next
    /// kernel.
    pub fn given(&self) -> u8 {
        let order = self.order.load(Acquire);
        if self.is_called.load(Acquire) { order::WORK } else { order }
    }

    /// Takes its interrupts over, and lets them come.
    pub fn enter(&self) {
        *self.found.lock() = interrupts::enter(self);
        // A call that came before this CPU could be called is lost, and must not be waited for. One that came since is pending.
        self.is_called.store(false, Release);
        unmask();
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {} (MPIDR {:#x})", self.index, self.mpidr)
    }
}

/// MPIDR_EL1.
pub fn mpidr() -> u64 {
    let mpidr;
    // SAFETY: reading it has no side effects.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mpidr, options(nomem, nostack)) };
    mpidr
}

/// Masks IRQs on this CPU.
pub fn mask() {
    // SAFETY: only delays interrupts.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
}

/// Lets IRQs come to this CPU.
pub fn unmask() {
    // What is pending is taken here, and not perhaps later: the work loop masks again at once.
    // SAFETY: the vectors handle them.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack)) };
}
