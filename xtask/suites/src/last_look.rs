//! Inspection of a guest's memory and registers after it has ended.
//!
//! QEMU runs with `-no-shutdown`, so it stays after PSCI SYSTEM_OFF. The case inspects the guest
//! through its own QMP monitor and then quits QEMU. The runner still sees a run that ended by
//! itself. The guest starts once the monitor is connected, which so sees every event.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use harness::{
    monitor::{Monitor, STEP},
    postmortem::Qmp,
    request::Request,
    transcript::{self, GenerationLog},
    verdict::Verdict,
};

use super::case::Trial;

/// Runs the request and calls `look` after the guest has powered off. Returns the generations and
/// the result of `look`. The request must not use semihosting, whose exit call would end QEMU
/// itself.
pub fn last_look<T: Send>(
    trial: &mut Trial<'_>,
    request: Request,
    look: impl FnOnce(&mut Qmp) -> Result<T> + Send,
) -> Result<(Vec<GenerationLog>, T)> {
    let (verdict, console, seen) = look_once(trial, request, has_ended, look)?;
    ensure!(verdict == Verdict::Success, "{}", verdict.words());
    Ok((transcript::logs(&console)?, seen))
}

/// Runs the request and calls `look` once `is_time` is true, then quits QEMU. Returns the verdict,
/// the console and the result of `look`.
pub fn look_once<T: Send>(
    trial: &mut Trial<'_>,
    mut request: Request,
    is_time: impl Fn(&mut Qmp) -> Result<bool> + Send,
    look: impl FnOnce(&mut Qmp) -> Result<T> + Send,
) -> Result<(Verdict, String, T)> {
    ensure!(!request.semihosting, "a guest that may call the host ends QEMU");
    let monitor = Monitor::of(&mut request)?;
    request.args.extend(["-no-shutdown", "-S"].map(str::to_owned));
    let over = AtomicBool::new(false);
    let (ran, seen) = thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let mut qmp = wait(&monitor, &over, is_time)?;
            let seen = look(&mut qmp);
            // QEMU may exit before it answers.
            let _ = qmp.execute("quit", &json!({}));
            seen
        });
        let ran = trial.run(&request).map(|outcome| (outcome.verdict, outcome.console.clone()));
        over.store(true, Ordering::Relaxed);
        (ran, seen.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (verdict, console) = ran?;
    Ok((verdict, console, seen?))
}

/// Returns whether the guest has powered off.
pub fn has_ended(qmp: &mut Qmp) -> Result<bool> {
    Ok(qmp.execute("query-status", &json!({}))?["status"] == "shutdown")
}

/// Waits until it is time to look.
fn wait(
    monitor: &Monitor,
    over: &AtomicBool,
    is_time: impl Fn(&mut Qmp) -> Result<bool>,
) -> Result<Qmp> {
    let mut qmp = monitor.connect(over)?;
    qmp.execute("cont", &json!({}))?;
    while !over.load(Ordering::Relaxed) {
        if is_time(&mut qmp)? {
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
        "QEMU wrote {} bytes of memory, and {size} were requested",
        bytes.len()
    );
    Ok(bytes)
}
