//! Work loop of every CPU that does not lead: wake up, act on the command, sleep.
//!
//! - When: from CPU_ON, or from the moment that another CPU takes over, until CPU_OFF.
//! - Expects: the state that `boot::secondary` establishes.
//! - Leaves: this CPU's interrupts quiet before CPU_OFF. If PSCI denies CPU_OFF, the CPU reports
//!   that and returns to work.
#![expect(unsafe_code, reason = "takes over the state of this kernel, and waits for interrupts")]

use super::cpu::{Cpu, CpuCommand, CpuState, mask, unmask};
use crate::firmware::Firmware;
use crate::interrupts;
use crate::state::Kernel;
use crate::{clock, selftest};
use boot::percpu::PerCpu;
use boot::{hyp, hyp_stub};
use core::arch::asm;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use log::warn;
use protocol::mode::Mode;
use smccc::psci;

/// Makes `cpu` run the generation from here on, on its own stack. This CPU enters the work loop.
pub fn migrate(cpu: &'static Cpu, kernel: &'static mut Kernel) -> ! {
    MIGRATING.store(kernel, Release);
    cpu.give(CpuCommand::TakeOver);
    work(Cpu::current())
}

/// The generation's state, on its way to another CPU.
static MIGRATING: AtomicPtr<Kernel> = AtomicPtr::new(core::ptr::null_mut());

/// First Rust function of a secondary CPU.
#[unsafe(no_mangle)]
fn kernel_secondary(percpu: &'static PerCpu) -> ! {
    let cpu = Cpu::current();
    debug_assert!(core::ptr::eq(percpu, &cpu.percpu));
    if cpu.mode == Mode::Vhe {
        // SAFETY: the kernel's map holds the stub's text 1:1 and executable [I2]; only the
        // exception level changes.
        let answer = unsafe { hyp_stub::call(hyp::FINALISE_EL2, [0; 4]) };
        assert!(
            answer == 0,
            "{cpu}: the stub refused HVC_FINALISE_EL2, which the first CPU's granted: {answer:#x}"
        );
    }
    cpu.came.store(clock::now(), Relaxed);
    cpu.frequency.store(clock::own_frequency(), Relaxed);
    cpu.enter();
    cpu.state.store(CpuState::Up, Release);
    work(cpu)
}

/// Wakes, acts on the command, does a unit of work, sleeps. Never returns.
fn work(cpu: &'static Cpu) -> ! {
    loop {
        mask();
        match cpu.given() {
            CpuCommand::Stop => {
                leave(cpu);
                cpu.command.store(CpuCommand::Idle, Release);
            }
            CpuCommand::TakeOver => {
                cpu.command.store(CpuCommand::Idle, Relaxed);
                unmask();
                let kernel = MIGRATING.swap(core::ptr::null_mut(), Acquire);
                // SAFETY: `migrate` stored a leaked `Kernel` and kept no reference to it; after
                // the swap this CPU holds the only one.
                crate::run(unsafe { &mut *kernel });
            }
            CpuCommand::Selftest => {
                selftest::on_this_cpu(cpu.mode);
                cpu.command.store(CpuCommand::Idle, Release);
            }
            CpuCommand::Idle => {}
        }
        cpu.work.fetch_add(1, Relaxed);
        // WFI wakes for masked IRQs too: none that arrived since `given` is missed.
        wait_for_interrupt();
        unmask();
    }
}

/// Silences this CPU's interrupts and turns it off. Returns only if PSCI denies CPU_OFF.
#[inline(never)]
fn leave(cpu: &Cpu) {
    interrupts::leave(&cpu.interrupts);
    cpu.state.store(CpuState::Leaving, Release);
    if let Err(error) = turn_off() {
        warn!("{cpu}: PSCI CPU_OFF: {error}");
        interrupts::enter(&cpu.interrupts);
        cpu.state.store(CpuState::OffDenied, Release);
    }
}

/// Calls PSCI CPU_OFF. Returns only if PSCI denies it.
#[inline(never)]
fn turn_off() -> Result<(), psci::error::Error> {
    psci::cpu_off::<Firmware>()
}

/// Handles an interrupt; the vectors call this.
#[unsafe(no_mangle)]
fn kernel_interrupt() {
    interrupts::take(&Cpu::current().interrupts);
}

/// Sleeps until an interrupt is pending, masked or not. Without a GIC, sleeps until
/// [`interrupts::call`] sends an event.
fn wait_for_interrupt() {
    if interrupts::driven().is_none() {
        // SAFETY: WFE only waits.
        unsafe { asm!("wfe", options(nostack)) };
    } else {
        // DSB: complete this CPU's memory accesses before it sleeps.
        // SAFETY: WFI only waits.
        unsafe { asm!("dsb sy", "wfi", options(nostack)) };
    }
}
