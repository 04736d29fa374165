//! A last look at a guest that has ended itself.
//!
//! *When:* where a case wants to see the memory or the registers of the last generation. QEMU is told to stay after PSCI's
//! SYSTEM_OFF, asked over a monitor of the case's own, and then told to quit; for the run it has ended by itself.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::{
    explain::Qmp,
    monitor::{Monitor, STEP},
    request::Request,
    transcript::{self, Life},
    verdict::Verdict,
};

use super::case::Trial;

/// Makes the run, without semihosting, which would end QEMU itself; `look` sees the guest after its end. Gives the generations and what `look`
/// brings back.
pub fn last_look<T: Send>(
    trial: &mut Trial<'_>,
    mut request: Request,
    look: impl FnOnce(&mut Qmp) -> Result<T> + Send,
) -> Result<(Vec<Life>, T)> {
    ensure!(!request.semihosting, "a guest that may call the host ends QEMU");
    let monitor = Monitor::of(&mut request)?;
    request.args.push("-no-shutdown".to_owned());
    let over = AtomicBool::new(false);
    let (ran, seen) = thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let mut qmp = shut_down(&monitor, &over)?;
            let seen = look(&mut qmp);
            // QEMU may be gone before it answers.
            let _ = qmp.execute("quit", &json!({}));
            seen
        });
        let ran = trial.run(&request).map(|outcome| (outcome.verdict, outcome.console.clone()));
        over.store(true, Ordering::Relaxed);
        (ran, seen.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (verdict, console) = ran?;
    ensure!(verdict == Verdict::Success, "{}", verdict.words());
    Ok((transcript::lives(&console)?, seen?))
}

/// Waits until the guest has ended itself.
fn shut_down(monitor: &Monitor, over: &AtomicBool) -> Result<Qmp> {
    let mut qmp = monitor.connect(over)?;
    while !over.load(Ordering::Relaxed) {
        if qmp.execute("query-status", &json!({}))?["status"] == "shutdown" {
            return Ok(qmp);
        }
        thread::sleep(STEP);
    }
    bail!("the run was over before its guest had ended itself")
}

/// Reads `size` bytes of the guest's memory.
pub fn memory(qmp: &mut Qmp, address: u64, size: u64) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new().context("cannot make a file for a guest's memory")?;
    qmp.physical_memory(address, size, file.path())?;
    let bytes = std::fs::read(file.path())?;
    ensure!(
        bytes.len() as u64 == size,
        "QEMU wrote {} bytes of memory, and {size} were asked for",
        bytes.len()
    );
    Ok(bytes)
}
