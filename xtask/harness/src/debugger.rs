//! Guests that a debugger stops before their first instruction.
//!
//! The tests and the injected faults use them for a moment that no patch of the kernel can bring
//! about: memory that changes between two instructions. QEMU starts stopped and gets a monitor of
//! its own. Over that monitor we open a gdb stub, which closes the runner's stub.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::Result;
use serde_json::json;

use crate::{monitor::Monitor, postmortem::Gdb, request::Request};

/// The address at which `virt` loads the Image.
pub const LOADED: u64 = 0x4020_0000;

/// Makes the run by calling `run`. Meanwhile `meddle` gets the guest, stopped before its first
/// instruction, and must let it run in the end.
pub fn debugged<T>(
    mut request: Request,
    run: impl FnOnce(&Request) -> Result<T>,
    meddle: impl FnOnce(Gdb) -> Result<()> + Send,
) -> Result<T> {
    let monitor = Monitor::of(&mut request)?;
    request.args.push("-S".to_owned());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let meddled = scope.spawn(|| meddle(open(&monitor, &over)?));
        let outcome = run(&request);
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
