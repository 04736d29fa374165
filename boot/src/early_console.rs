//! Early console: prints before Rust runs, and after it has failed.
//!
//! - Needs neither stack nor heap. Assembly uses it from the first instructions until Rust installs
//!   its vectors. The kernel ends with it when a panic itself panics.
//! - Prints on the UART that Rust opened as the console. Before that, on the one that the Image
//!   names at [`OFFSET`]; `cargo xtask image --earlycon` writes it there. No address is in the
//!   code, since what is a UART on one machine is RAM on another.
//! - Without a UART, keeps its words in the [failure record](crate::failure_record), and resets the
//!   machine by PSCI once `end_by` has named the conduit. An abort in the printer ends the machine
//!   in the same way.

use crate::uart::Uart;

/// Offset in the Image of the [`Uart`] to use before the FDT is read.
#[doc(alias = "earlycon")]
#[doc(alias = "earlyprintk")]
pub const OFFSET: usize = 4096 - 128;

/// Returns the UART that the Image names, if any.
#[cfg(target_os = "none")]
#[must_use]
#[expect(unsafe_code, reason = "reads a static that assembly defines")]
pub fn of_image() -> Uart {
    unsafe extern "C" {
        safe static early_uart_of_image: Uart;
    }
    early_uart_of_image
}

/// Makes the early console use this UART from here on.
///
/// Cleans the new numbers to PoC, since the early console may run with the MMU off.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "writes a static that assembly reads")]
pub fn open(uart: &Uart) {
    use crate::phys::PhysAddr;
    unsafe extern "C" {
        static mut early_uart_opened: Uart;
    }
    let place = &raw mut early_uart_opened;
    // SAFETY: `write` requires an aligned, writable place. Only this CPU runs Rust yet, and
    // assembly reads the static only when Rust has failed.
    unsafe { place.write(*uart) };
    let start = PhysAddr::new(place.expose_provenance() as u64);
    crate::cache::clean_and_invalidate(&(start..start + size_of::<Uart>() as u64));
}

/// A way to call PSCI.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Conduit {
    /// SMC.
    Smc = 1,
    /// HVC.
    Hvc,
}

/// Makes the early console end the machine by this conduit if it has no UART.
///
/// Cleans the number to PoC, as [`open`] does.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "names a static that assembly reads")]
pub fn end_by(conduit: Conduit) {
    use crate::phys::PhysAddr;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
    unsafe extern "C" {
        safe static early_conduit: AtomicU64;
    }
    early_conduit.store(conduit as u64, Relaxed);
    let place = &raw const early_conduit;
    let start = PhysAddr::new(place.expose_provenance() as u64);
    crate::cache::clean_and_invalidate(&(start..start + size_of::<u64>() as u64));
}

const _: () = assert!(OFFSET + size_of::<Uart>() <= 4096);

/// PSCI's function SYSTEM_RESET (Arm DEN0022).
#[cfg(target_os = "none")]
const SYSTEM_RESET: u64 = 0x8400_0009;

/// Assembly half of the early console.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "assembly")]
mod assembly {
    use crate::failure_record::FailureRecord;
    use core::mem::offset_of;

    crate::assembly!(
        include_str!("early_console.S"),
        UART_SIZE = const size_of::<crate::uart::Uart>(),
        FAILURE_SIZE = const size_of::<FailureRecord>(),
        FAILURE_ESR = const offset_of!(FailureRecord, esr),
        FAILURE_FAR = const offset_of!(FailureRecord, far),
        FAILURE_TEXT_BYTES = const offset_of!(FailureRecord, text_bytes),
        FAILURE_TEXT = const offset_of!(FailureRecord, text),
        FAILURE_TEXT_SIZE = const crate::failure_record::TEXT_SIZE,
        REASON_EXCEPTION = const crate::failure_record::Reason::Exception as u64,
        SMC = const super::Conduit::Smc as u64,
        HVC = const super::Conduit::Hvc as u64,
        SYSTEM_RESET = const super::SYSTEM_RESET,
        FRAME_SIZE = const offset_of!(crate::percpu::PerCpu, ttbr0),
        NEEDS = sym crate::rule::NEEDS,
        NEEDS_COUNT = const crate::rule::COUNT,
        NEED_SIZE = const size_of::<crate::rule::Need>(),
        NEED_MASK = const offset_of!(crate::rule::Need, mask),
        NEED_RULE = const offset_of!(crate::rule::Need, rule),
    );
}
