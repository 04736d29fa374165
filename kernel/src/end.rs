//! The end of a run, with a result that a program can read.
//!
//! - Runs at the end of the last generation, after a refusal, and after a panic or an exception.
//! - Prints a marker on the console.
//! - Then ends the machine: by a semihosting exit with an exit code if the command line allows it,
//!   else by PSCI. SYSTEM_OFF follows a marker; without a console, SYSTEM_RESET shows a failure.
//! - If neither works, this CPU spins.

use crate::console::{self, Last};
use crate::cpus;
use crate::firmware::Firmware;
use boot::marker::{FAILURE, STOPPED, SUCCESS};
use core::fmt::Write;
use core::hint::spin_loop;
use log::info;
use protocol::record::{End, Record};
use smccc::psci;
use spin::Once;

static SEMIHOSTING: Once<bool> = Once::new();

/// Sets, once, whether the run may be ended by a semihosting call.
pub fn prepare(semihosting: bool) {
    SEMIHOSTING.call_once(|| semihosting);
}

/// Ends a run that did all that the command line asks for.
pub fn success() -> ! {
    info!("{SUCCESS}");
    record(true);
    console::flush();
    leave(0, console::is_open())
}

/// Ends a run that failed. The caller has printed the reason.
pub fn failure() -> ! {
    info!("{FAILURE}");
    record(false);
    console::flush();
    leave(1, console::is_open())
}

fn record(success: bool) {
    console::record(&Record::End(End { generation: console::generation(), success }));
}

/// Ends a run after a panic or an exception.
pub fn after_failure(console: &mut Last) -> ! {
    let _ = writeln!(console, "{FAILURE}");
    if SEMIHOSTING.get().is_none() {
        // We do not know yet how to end the machine, so mark the end of the output.
        let _ = writeln!(console, "{STOPPED}");
    }
    leave(1, console.is_shown())
}

/// Ends a run whose console does not work.
pub fn silently() -> ! {
    leave(1, false)
}

fn leave(code: i32, is_shown: bool) -> ! {
    cpus::mask();
    if let Some(true) = SEMIHOSTING.get() {
        semihosting::process::exit(code);
    }
    // Either returns if there is no PSCI, or if its conduit is not known yet.
    if code != 0 && !is_shown {
        let _ = psci::system_reset::<Firmware>();
    }
    let _ = psci::system_off::<Firmware>();
    loop {
        spin_loop();
    }
}
