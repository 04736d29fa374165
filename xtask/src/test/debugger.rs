//! Guests with a debugger at their side, from before their first instruction.
//!
//! *When:* by the cases that need a moment which no patch of the kernel brings about: memory that changes between two instructions. QEMU is
//! started stopped, and asked over a monitor of the case's own to open a gdb stub; the runner's own stub is closed by that.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    explain::{Gdb, Qmp},
    request::Request,
    run::Outcome,
};

use super::case::Trial;

/// Where `virt` loads the Image.
pub const LOADED: u64 = 0x4020_0000;

/// How long QEMU may take to open its monitor, in steps.
const PATIENCE: u32 = 2000;
const STEP: Duration = Duration::from_millis(5);

/// Makes the run; `meddle` has the guest stopped before its first instruction, and lets it go in the end.
pub fn debugged<'a>(
    trial: &'a mut Trial<'_>,
    mut request: Request,
    meddle: impl FnOnce(Gdb) -> Result<()> + Send,
) -> Result<&'a Outcome> {
    let sockets = tempfile::Builder::new().prefix("xtask").tempdir().context("cannot make a folder for sockets")?;
    let (monitor, stub) = (sockets.path().join("meddle"), sockets.path().join("gdb"));
    let chardev = format!("socket,id=meddle,path={},server=on,wait=off", monitor.display());
    request.args.extend(["-S", "-chardev", &chardev, "-mon", "chardev=meddle,mode=control"].map(str::to_owned));
    thread::scope(|scope| {
        let meddled = scope.spawn(|| meddle(open(&monitor, &stub)?));
        let outcome = trial.run(&request);
        let meddled = meddled.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let outcome = outcome?;
        meddled.map(|()| outcome)
    })
}

fn open(monitor: &Path, stub: &Path) -> Result<Gdb> {
    let mut qmp = Qmp::connect(monitor);
    for _ in 0..PATIENCE {
        if qmp.is_ok() {
            break;
        }
        thread::sleep(STEP);
        qmp = Qmp::connect(monitor);
    }
    let mut qmp = qmp?;
    qmp.execute("query-status", &json!({}))?;
    qmp.human(&format!("gdbserver unix:{},server=on,wait=off", stub.display()))?;
    Gdb::connect(stub)
}

/// Sets the Status of the entropy device, behind the kernel's back: as whoever had the machine before may have left it.
pub fn leave_entropy_device_on(gdb: &mut Gdb) -> Result<()> {
    const SLOTS: u64 = 0x0a00_0000;
    const SLOT_SIZE: u64 = 0x200;
    const DEVICE_ID: u64 = 0x8;
    const STATUS: u64 = 0x70;
    const ENTROPY: u8 = 4;
    let mut slots = (0..32).map(|slot| SLOTS + slot * SLOT_SIZE);
    let slot = slots.find(|slot| gdb.memory(slot + DEVICE_ID, 4).is_ok_and(|id| id[0] == ENTROPY));
    gdb.write(slot.context("no slot holds an entropy device")? + STATUS, &[1, 0, 0, 0])
}
