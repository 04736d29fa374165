//! The end of a run, told so that a program can tell how it went.
//!
//! *When:* in the last generation, after a refusal, after a failure. A marker on the console always; then a semihosting exit with a real code
//! where the orders allow it, else PSCI SYSTEM_OFF; where neither ends the machine, it stands still.

use crate::console::{self, Last};
use boot::marker::{FAILURE, STOPPED, SUCCESS};
use core::fmt::Write;
use core::hint::spin_loop;
use kernel::tree::Conduit;
use log::info;
use smccc::{Hvc, Smc, psci};
use spin::Once;

/// How this machine is ended.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Semihosting is allowed.
    pub semihosting: bool,
    /// PSCI's conduit.
    pub conduit: Option<Conduit>,
}

static WAY: Once<Way> = Once::new();

/// Says once how this machine is to be ended.
pub fn prepare(way: Way) {
    WAY.call_once(|| way);
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
    if WAY.get().is_none() {
        // Too early to know how: last words, and nothing more.
        let _ = writeln!(console, "{STOPPED}");
    }
    leave(1)
}

fn leave(code: i32) -> ! {
    if let Some(way) = WAY.get() {
        if way.semihosting {
            semihosting::process::exit(code);
        }
        let _ = match way.conduit {
            Some(Conduit::Smc) => psci::system_off::<Smc>(),
            Some(Conduit::Hvc) => psci::system_off::<Hvc>(),
            None => Ok(()),
        };
    }
    loop {
        spin_loop();
    }
}
