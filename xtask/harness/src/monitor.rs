//! A QMP monitor for a test, next to the runner's own.
//!
//! The runner keeps its own monitor to itself until the run ends. Tests and injected faults use
//! this one to query QEMU while the guest runs, or before its first instruction.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use tempfile::TempDir;

use crate::{artifacts::sockets, postmortem::Qmp, request::Request};

/// The time between two attempts to connect.
pub const STEP: Duration = Duration::from_millis(5);

/// The folder in which QEMU opens the monitor's socket.
pub struct Monitor(TempDir);

impl Monitor {
    /// Adds a monitor to QEMU's command line.
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

    /// The path of a socket of this name, in the monitor's folder.
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
