//! What a CPU does that does not lead: it comes, works, and goes off when it is told to.
//!
//! *When:* from PSCI's CPU_ON, or from the moment that another one leads, until CPU_OFF. *On entry:* what `boot::secondary` says. *Leaves:* its
//! interrupts quiet, when it goes. *Refuses:* nothing; that PSCI will not turn it off, it says, and works on.
#![expect(unsafe_code, reason = "takes a life over, and waits for interrupts")]

use super::cpu::{Cpu, mask, order, state, unmask};
use super::no_ticks;
use crate::firmware::Firmware;
use crate::interrupts;
use crate::life::Life;
use crate::{clock, selftest};
use boot::own::Own;
use boot::{hyp, hyp_stub};
use core::arch::asm;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use kernel::mode::Mode;
use log::warn;
use smccc::psci;

/// Makes `cpu` lead the life, on its own stack; this CPU works from now on.
pub fn hand_over(cpu: &'static Cpu, life: &'static mut Life) -> ! {
    LED.store(life, Release);
    cpu.give(order::LEAD);
    work(Cpu::current())
}

/// A life on its way to another CPU.
static LED: AtomicPtr<Life> = AtomicPtr::new(core::ptr::null_mut());

/// A secondary's first line of Rust.
#[unsafe(no_mangle)]
fn kernel_secondary(own: &'static Own) -> ! {
    let cpu = Cpu::current();
    debug_assert!(core::ptr::eq(own, &cpu.own));
    if cpu.mode == Mode::Vhe {
        // SAFETY: the stub's text is mapped 1:1 and executable in the kernel's map [I2]; only the level changes.
        let answer = unsafe { hyp_stub::call(hyp::FINALISE_EL2, [0; 4]) };
        assert!(
            answer == 0,
            "{cpu}: the stub refused HVC_FINALISE_EL2, which the first CPU's granted: {answer:#x}"
        );
    }
    cpu.came.store(clock::now(), Relaxed);
    cpu.frequency.store(clock::own_frequency(), Relaxed);
    cpu.enter();
    cpu.state.store(state::UP, Release);
    work(cpu)
}

/// What a CPU does that does not lead: it wakes, works, looks at its orders, sleeps.
fn work(cpu: &'static Cpu) -> ! {
    loop {
        mask();
        match cpu.given() {
            order::STOP => {
                leave(cpu);
                cpu.order.store(order::WORK, Release);
            }
            order::LEAD => {
                cpu.order.store(order::WORK, Relaxed);
                unmask();
                let life = LED.swap(core::ptr::null_mut(), Acquire);
                // SAFETY: whoever handed it over has let go of it for good, and it lives for ever.
                crate::lead(unsafe { &mut *life });
            }
            order::SELFTEST => {
                selftest::on_this_cpu(cpu.mode);
                cpu.order.store(order::WORK, Release);
            }
            _ => {}
        }
        cpu.work.fetch_add(1, Relaxed);
        // An interrupt that came since the order was read wakes it all the same, masked as it is.
        wait_for_interrupt();
        unmask();
    }
}

/// Takes this CPU down. Returns only if PSCI will not.
#[inline(never)]
fn leave(cpu: &Cpu) {
    interrupts::leave(cpu);
    cpu.state.store(state::LEAVING, Release);
    if let Err(error) = turn_off() {
        warn!("{cpu}: PSCI CPU_OFF: {error}");
        interrupts::enter(cpu);
        cpu.is_called.store(false, Release);
        cpu.state.store(state::DENIED, Release);
    }
}

/// PSCI CPU_OFF. Returns only if it will not.
#[inline(never)]
fn turn_off() -> Result<(), psci::error::Error> {
    psci::cpu_off::<Firmware>()
}

/// An interrupt.
#[unsafe(no_mangle)]
fn kernel_interrupt() {
    interrupts::take(Cpu::current());
}

/// Sleeps until there is an interrupt, masked or not; without interrupts, until [`interrupts::call`] sends an event.
fn wait_for_interrupt() {
    if no_ticks() {
        // SAFETY: waits.
        unsafe { asm!("wfe", options(nostack)) };
    } else {
        // SAFETY: waits.
        unsafe { asm!("dsb sy", "wfi", options(nostack)) };
    }
}
