//! Guests with a debugger at their side, from before their first instruction.
//!
//! *When:* by the cases that need a moment which no patch of the kernel brings about: memory that changes between two instructions. QEMU is
//! started stopped, and asked over a monitor of the case's own to open a gdb stub; the runner's own stub is closed by that.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{explain::Gdb, request::Request, run::Outcome};

use super::{case::Trial, monitor::Monitor};

/// Where `virt` loads the Image.
pub const LOADED: u64 = 0x4020_0000;

/// Makes the run; `meddle` has the guest stopped before its first instruction, and lets it go in the end.
pub fn debugged<'a>(
    trial: &'a mut Trial<'_>,
    mut request: Request,
    meddle: impl FnOnce(Gdb) -> Result<()> + Send,
) -> Result<&'a Outcome> {
    let monitor = Monitor::of(&mut request)?;
    request.args.push("-S".to_owned());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let meddled = scope.spawn(|| meddle(open(&monitor, &over)?));
        let outcome = trial.run(&request);
        over.store(true, Ordering::Relaxed);
        let meddled = meddled.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let outcome = outcome?;
        meddled.map(|()| outcome)
    })
}

fn open(monitor: &Monitor, over: &AtomicBool) -> Result<Gdb> {
    let mut qmp = monitor.connect(over)?;
    let stub = monitor.socket("gdb");
    qmp.execute("query-status", &json!({}))?;
    qmp.human(&format!("gdbserver unix:{},server=on,wait=off", stub.display()))?;
    Gdb::connect(&stub)
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
