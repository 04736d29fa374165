//! Names the watchdogs that a predecessor left enabled.
//!
//! - When: with the `check` parameter. A watchdog whose clock is off may not answer a read, so
//!   nothing else reads it.
//! - Leaves: the watchdogs as they are. The one who enabled a watchdog knows how to feed it.

use crate::devices::register_at;
use crate::map::KernelIdmap;
use boot::phys::PhysRange;
use fdt::machine::Watchdog;
use log::warn;

/// The bit of every kind's register that says that the watchdog runs.
const ENABLED: u32 = 1;

/// Maps each watchdog, and names it if it runs.
pub fn report(watchdogs: &[Watchdog], map: &mut KernelIdmap) {
    for Watchdog { path, kind, control } in watchdogs {
        map.add_device(&control.whole_pages());
        if register_at::<u32>((control.start + kind.enable()).get()).read() & ENABLED != 0 {
            warn!("watchdog {path} runs: it may reset the machine, and nothing here feeds it");
        }
    }
}
