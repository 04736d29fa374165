//! The cases' way to a guest with a debugger at its side, and what they do to it.
//!
//! *When:* by the cases that need a moment which no patch of the kernel brings about: memory that changes between two instructions.

use anyhow::{Context, Result};

pub use crate::debugger::LOADED;
use crate::{debugger, explain::Gdb, request::Request, run::Outcome};

use super::case::Trial;

/// Makes the case's run; `meddle` has the guest stopped before its first instruction, and lets it go in the end.
pub fn debugged<'a>(
    trial: &'a mut Trial<'_>,
    request: Request,
    meddle: impl FnOnce(Gdb) -> Result<()> + Send,
) -> Result<&'a Outcome> {
    debugger::debugged(request, |request| trial.run(request), meddle)
}

/// Sets the Status of the entropy device, behind the kernel's back: as whoever had the machine before may have left it.
pub fn leave_entropy_device_on(gdb: &mut Gdb) -> Result<()> {
    let status = entropy_device(gdb)?;
    gdb.write(status, &[1, 0, 0, 0])
}

/// Where the Status of the first entropy device in a slot lies.
pub fn entropy_device(gdb: &mut Gdb) -> Result<u64> {
    const SLOTS: u64 = 0x0a00_0000;
    const SLOT_SIZE: u64 = 0x200;
    const DEVICE_ID: u64 = 0x8;
    const STATUS: u64 = 0x70;
    const ENTROPY: u8 = 4;
    let mut slots = (0..32).map(|slot| SLOTS + slot * SLOT_SIZE);
    let slot = slots.find(|slot| gdb.memory(slot + DEVICE_ID, 4).is_ok_and(|id| id[0] == ENTROPY));
    Ok(slot.context("no slot holds an entropy device")? + STATUS)
}
