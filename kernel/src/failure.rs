//! Panics and exceptions: where, why, the registers; then the end.
//!
//! *When:* at any time in Rust. Every exception but an IRQ is a failure. *Refuses* to fail twice: what goes wrong in here is
//! told by the emergency printer's last words alone.
#![expect(
    unsafe_code,
    reason = "the names that boot calls, its last words, and a look at an instruction"
)]

use crate::console::Last;
use crate::memory::pointer;
use crate::{end, probe};
use boot::esr::{Esr, slot_name};
use boot::marker::{BROKEN, EMERGENCY};
use boot::phys::PhysAddr;
use boot::rule::told_by;
use boot::vectors::Frame;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

static FAILING: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    safe fn emergency_stop() -> !;
}

fn once() {
    if FAILING.swap(true, Ordering::Relaxed) {
        emergency_stop();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    once();
    let mut console = Last::open();
    let _ = match info.location() {
        Some(location) => write!(console, "\n{EMERGENCY}panic at {location}: {}\n", info.message()),
        None => write!(console, "\n{EMERGENCY}panic: {}\n", info.message()),
    };
    end::after_failure(&mut console)
}

/// The rule of the boot protocol that an exception tells of: an instruction of ours is UNDEFINED.
fn broken_rule(frame: &Frame) -> Option<u8> {
    let text = crate::image::Parts::of_this_image().text;
    if Esr(frame.esr).ec() != 0 || !text.contains(&PhysAddr(frame.elr)) {
        return None;
    }
    // SAFETY: an instruction of this image, which is mapped for reading too.
    told_by(unsafe { pointer(PhysAddr(frame.elr)).cast::<u32>().read() })
}

#[unsafe(no_mangle)]
fn kernel_exception(frame: &Frame) -> ! {
    if probe::is_one(frame) {
        probe::go_on(frame);
    }
    once();
    let mut console = Last::open();
    let base = crate::image::Parts::of_this_image().whole.start;
    let _ =
        writeln!(console, "\n{EMERGENCY}exception: {}: {}", slot_name(frame.slot), Esr(frame.esr));
    let _ = writeln!(
        console,
        "{EMERGENCY}exception slot={:016x} esr={:016x} elr={:016x} far={:016x} spsr={:016x} sp={:016x} base={:016x} mpidr={:016x}",
        frame.slot,
        frame.esr,
        frame.elr,
        frame.far,
        frame.spsr,
        frame.sp,
        base.0,
        crate::cpus::mpidr()
    );
    for (number, registers) in frame.x.chunks(4).enumerate() {
        let _ = console.write_str(EMERGENCY);
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
