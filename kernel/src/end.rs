//! The end of a run, told so that a program can tell how it went.
//!
//! *When:* in the last generation, after a refusal, after a failure. A marker on the console always; then a semihosting exit with a real code
//! where the orders allow it, else PSCI SYSTEM_OFF; where neither ends the machine, it stands still.

use crate::console::{self, Last};
use crate::cpus;
use crate::firmware::Firmware;
use boot::marker::{FAILURE, STOPPED, SUCCESS};
use core::fmt::Write;
use core::hint::spin_loop;
use log::info;
use smccc::psci;
use spin::Once;

static SEMIHOSTING: Once<bool> = Once::new();

/// Says once whether this machine may be ended by a semihosting call.
pub fn prepare(semihosting: bool) {
    SEMIHOSTING.call_once(|| semihosting);
}

/// Ends a run that went as ordered.
pub fn success() -> ! {
    info!("{SUCCESS}");
    console::flush();
    leave(0)
}

/// Ends a run that did not, the reason having been told.
pub fn failure() -> ! {
    info!("{FAILURE}");
    console::flush();
    leave(1)
}

/// Ends a run in a panic or an exception.
pub fn after_failure(console: &mut Last) -> ! {
    let _ = writeln!(console, "{FAILURE}");
    if SEMIHOSTING.get().is_none() {
        // Too early to know how: last words, and nothing more.
        let _ = writeln!(console, "{STOPPED}");
    }
    leave(1)
}

fn leave(code: i32) -> ! {
    cpus::mask();
    if let Some(true) = SEMIHOSTING.get() {
        semihosting::process::exit(code);
    }
    // Returns where there is no firmware, or before its conduit is known.
    let _ = psci::system_off::<Firmware>();
    loop {
        spin_loop();
    }
}
