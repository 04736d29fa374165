//! The handlers of panics and exceptions: they print the reason, then end the run.
//!
//! - Run at any time in Rust. Every exception other than an IRQ is a failure.
//! - The reason goes to the failure record as well, and without a console all that they print.
//! - A second failure, in a handler itself, only prints the early console's "stopped" line.
//! - A third one, in that print, ends the machine without a word. A fourth one, in that end, only
//!   stops this CPU.
#![expect(
    unsafe_code,
    reason = "the names that boot calls, its last words, and a look at an instruction"
)]

use crate::console::Last;
use crate::memory::pointer;
use crate::{end, probe};
use boot::esr::{Esr, slot_name};
use boot::failure_record::{self, Reason};
use boot::marker::{BROKEN, EXCEPTION, EXCEPTION_NAME, FATAL, PANIC};
use boot::phys::PhysAddr;
use boot::rule::rule_of;
use boot::vectors::Frame;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

/// The number of failures so far.
static FAILURES: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    safe fn early_stop() -> !;
}

/// Returns for the first failure, and begins its record. A later one ends here.
fn once(reason: Reason, syndrome: [u64; 3]) {
    match FAILURES.fetch_add(1, Ordering::Relaxed) {
        0 => failure_record::begin(reason, syndrome),
        1 => early_stop(),
        2 => end::silently(),
        _ => loop {
            core::hint::spin_loop();
        },
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    once(Reason::Panic, [0; 3]);
    let mut console = Last::open();
    let _ = match info.location() {
        Some(location) => write!(console, "\n{PANIC}{location}: {}\n", info.message()),
        None => write!(console, "\n{FATAL}panic: {}\n", info.message()),
    };
    end::after_failure(&mut console)
}

/// Returns the rule of the boot protocol that an exception shows to be broken, if any.
///
/// It does so if an instruction of this image was UNDEFINED although the boot protocol requires EL2
/// or EL3 to permit it.
fn broken_rule(frame: &Frame) -> Option<u8> {
    let text = crate::layout::Parts::of_this_image().text;
    if Esr(frame.esr).ec() != 0 || !text.contains(&PhysAddr::new(frame.elr)) {
        return None;
    }
    // SAFETY: `read` requires a mapped, aligned address. ELR points at an instruction of this
    // image's text, which is mapped readable.
    rule_of(unsafe { pointer(PhysAddr::new(frame.elr)).cast::<u32>().read() })
}

#[unsafe(no_mangle)]
fn kernel_exception(frame: &Frame) -> ! {
    if probe::is_one(frame) {
        probe::resume(frame);
    }
    once(Reason::Exception, [frame.esr, frame.elr, frame.far]);
    let mut console = Last::open();
    let base = crate::layout::Parts::of_this_image().whole.start;
    let _ = writeln!(console, "\n{EXCEPTION_NAME}{}: {}", slot_name(frame.slot), Esr(frame.esr));
    let _ = writeln!(
        console,
        "{EXCEPTION}{:016x} esr={:016x} elr={:016x} far={:016x} spsr={:016x} \
         sp={:016x} base={:016x} mpidr={:016x}",
        frame.slot,
        frame.esr,
        frame.elr,
        frame.far,
        frame.spsr,
        frame.sp,
        base.get(),
        crate::cpus::mpidr()
    );
    for (number, registers) in frame.x.chunks(4).enumerate() {
        let _ = console.write_str(FATAL);
        for (offset, value) in registers.iter().enumerate() {
            let _ = write!(console, " x{}={value:016x}", number * 4 + offset);
        }
        let _ = console.write_str("\n");
    }
    if let Some(rule) = broken_rule(frame) {
        let _ = writeln!(console, "{BROKEN}{rule}: the instruction at elr was not opened");
    }
    end::after_failure(&mut console)
}
