//! A monitor of the case's own, beside the runner's, which that keeps to itself until the run's end.
//!
//! *When:* by the cases and the faults that ask QEMU something while the run goes on, or before its first instruction.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use tempfile::TempDir;

use crate::{explain::Qmp, folder::sockets, request::Request};

/// From one question to the next.
pub const STEP: Duration = Duration::from_millis(5);

/// Where it will be, once QEMU has started.
pub struct Monitor(TempDir);

impl Monitor {
    /// Has QEMU open one.
    pub fn of(request: &mut Request) -> Result<Self> {
        let monitor = Self(sockets()?);
        let chardev = format!(
            "socket,id=case,path={},server=on,wait=off",
            monitor.socket("monitor").display()
        );
        request
            .args
            .extend(["-chardev", &chardev, "-mon", "chardev=case,mode=control"].map(str::to_owned));
        Ok(monitor)
    }

    /// A socket of that name, beside its own.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Connects as soon as QEMU listens, unless the run is over before.
    pub fn connect(&self, over: &AtomicBool) -> Result<Qmp> {
        loop {
            match Qmp::connect(&self.socket("monitor")) {
                Err(_) if !over.load(Ordering::Relaxed) => thread::sleep(STEP),
                connected => return connected,
            }
        }
    }
}
