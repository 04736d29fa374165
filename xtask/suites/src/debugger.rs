//! Debugger access for test cases: stops a guest and changes its memory.
//!
//! For cases that need an event that no patch of the kernel can cause, such as memory that changes
//! between two instructions.

use anyhow::{Context, Result};

pub use harness::debugger::LOADED;
use harness::{debugger, postmortem::Gdb, request::Request, run::Outcome};

use super::case::Trial;

/// Runs the request under a debugger. `meddle` gets the guest before its first instruction, and
/// must resume it at the end.
pub fn debugged<'a>(
    trial: &'a mut Trial<'_>,
    request: Request,
    meddle: impl FnOnce(Gdb) -> Result<()> + Send,
) -> Result<&'a Outcome> {
    debugger::debugged(request, |request| trial.run(request), meddle)
}

/// Sets the Status of the entropy device from the debugger, as an earlier program may have left it.
pub fn leave_entropy_device_on(gdb: &mut Gdb) -> Result<()> {
    let status = entropy_device(gdb)?;
    gdb.write(status, &[1, 0, 0, 0])
}

/// Returns the address of the Status register of the first entropy device in a virtio-mmio slot.
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
