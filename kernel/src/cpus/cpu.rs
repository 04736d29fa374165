//! Per-CPU state that this CPU and the other CPUs share: state, command, counters.
//!
//! - When: from [`Cpus::new`](super::Cpus::new) on.
//! - The leading CPU, which runs `crate::run`, writes commands; each other CPU reads its own.
#![expect(unsafe_code, reason = "finds this CPU's page, and masks interrupts")]

use super::atomic::{AtomicEnum, Variants};
use crate::interrupts::{self, CpuInterrupts, StaleIrqs};
use crate::memory::pointer;
use boot::percpu::PerCpu;
use boot::phys::{PAGE_SIZE, PhysAddr};
use core::arch::asm;
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};
use protocol::mode::Mode;
use spin::Mutex;

/// Command from the leading CPU. Each CPU has one command at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CpuCommand {
    /// Stay in the work loop.
    Idle,
    /// Leave the work loop and power off.
    Stop,
    /// Run the generation from here on.
    TakeOver,
    /// Run the hyp-stub's conformance suite.
    Selftest,
}

/// State of a CPU, as the others see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CpuState {
    /// Off, by AFFINITY_INFO, or never started.
    Off,
    /// CPU_ON succeeded; the CPU has not reached Rust yet.
    Starting,
    /// In the work loop, or leading.
    Up,
    /// Its interrupts are quiet and CPU_OFF is next.
    Leaving,
    /// PSCI denied CPU_OFF.
    OffDenied,
    /// Not started, and reported: PSCI refused CPU_ON, or there was no memory for its stacks.
    OnFailed,
    /// Without memory for its stacks; [`Cpus::start`](super::Cpus::start) has yet to report it.
    NoStack,
    /// Without a redistributor, so that no interrupt reaches it; `start` has yet to report it.
    Alone,
}

impl Variants for CpuCommand {
    const ALL: &[Self] = &[Self::Idle, Self::Stop, Self::TakeOver, Self::Selftest];
}

impl Variants for CpuState {
    const ALL: &[Self] = &[
        Self::Off,
        Self::Starting,
        Self::Up,
        Self::Leaving,
        Self::OffDenied,
        Self::OnFailed,
        Self::NoStack,
        Self::Alone,
    ];
}

/// A CPU, at the top of its exception stack, where TPIDR_EL1 points.
#[repr(C)]
pub struct Cpu {
    /// The part that the entry code and the vectors read, at the start of the page.
    pub percpu: PerCpu,
    /// Position in the device tree's /cpus.
    pub index: usize,
    /// The mode that this kernel runs in.
    pub mode: Mode,
    /// Current state.
    pub state: AtomicEnum<CpuState>,
    /// Current command.
    pub command: AtomicEnum<CpuCommand>,
    /// Units of work done: one for each wake-up.
    pub work: AtomicU64,
    /// This CPU's part in interrupts.
    pub interrupts: CpuInterrupts,
    /// Stale interrupts that a predecessor left on this CPU.
    pub stale_irqs: Mutex<StaleIrqs>,
    /// CNTVCT when this CPU came up.
    pub came: AtomicU64,
    /// CNTFRQ_EL0 of this CPU.
    pub frequency: AtomicU64,
    /// Set if `came` is not between the counter readings, before and after, of the starting CPU.
    pub differs: AtomicBool,
}

const _: () = assert!(size_of::<Cpu>() <= PAGE_SIZE as usize);

impl Cpu {
    /// Creates a CPU in `state`, with all counters zero and no command.
    pub fn new(percpu: PerCpu, index: usize, mpidr: u64, mode: Mode, state: CpuState) -> Self {
        Self {
            percpu,
            index,
            mode,
            state: AtomicEnum::new(state),
            command: AtomicEnum::new(CpuCommand::Idle),
            work: AtomicU64::new(0),
            interrupts: CpuInterrupts::new(mpidr),
            stale_irqs: Mutex::new(StaleIrqs::default()),
            came: AtomicU64::new(0),
            frequency: AtomicU64::new(0),
            differs: AtomicBool::new(false),
        }
    }

    /// Returns the CPU that executes this.
    pub fn current() -> &'static Self {
        let percpu: u64;
        // SAFETY: reading TPIDR_EL1 has no side effects. This kernel uses TPIDR_EL1 at EL2 too.
        unsafe { asm!("mrs {}, tpidr_el1", out(reg) percpu, options(nomem, nostack)) };
        // SAFETY: on every CPU that runs Rust and takes interrupts or commands, TPIDR_EL1 is the
        // address of its `Cpu`, which never moves.
        unsafe { &*pointer(PhysAddr::new(percpu)).cast() }
    }

    /// Returns the affinity bits of its MPIDR_EL1.
    pub fn mpidr(&self) -> u64 {
        self.interrupts.mpidr
    }

    /// Returns whether this is the CPU that executes the call.
    pub fn is_current(&self) -> bool {
        core::ptr::eq(self, Self::current())
    }

    /// Sets the command and sends the wake-up SGI.
    pub fn give(&self, command: CpuCommand) {
        interrupts::announce(&self.interrupts);
        self.command.store(command, Release);
        interrupts::call(&self.interrupts);
    }

    /// Returns [`CpuCommand::Idle`] until the wake-up SGI is acknowledged, then the command. Acting
    /// on the command earlier, at a tick, would leave that SGI pending for the next kernel.
    pub fn given(&self) -> CpuCommand {
        let command = self.command.load(Acquire);
        if interrupts::is_called(&self.interrupts) { CpuCommand::Idle } else { command }
    }

    /// Takes over this CPU's interrupts and unmasks IRQs.
    pub fn enter(&self) {
        *self.stale_irqs.lock() = interrupts::enter(&self.interrupts);
        unmask();
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {} (MPIDR {:#x})", self.index, self.mpidr())
    }
}

/// Reads MPIDR_EL1.
pub fn mpidr() -> u64 {
    let mpidr;
    // SAFETY: reading MPIDR_EL1 has no side effects.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mpidr, options(nomem, nostack)) };
    mpidr
}

/// Masks IRQs on this CPU.
pub fn mask() {
    // SAFETY: masking only delays interrupts.
    unsafe { asm!("msr daifset, #2", options(nostack)) };
}

/// Unmasks IRQs on this CPU.
pub fn unmask() {
    // ISB: take pending interrupts here. Without it the CPU might not take them before the work
    // loop masks again.
    // SAFETY: the kernel's vectors handle every interrupt that may be pending.
    unsafe { asm!("msr daifclr, #2", "isb", options(nostack)) };
}
