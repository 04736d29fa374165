//! Entry point of `cargo xtask`: runs one verb and returns an exit code.
//!
//! xtask builds, runs, tests and measures Ouroboros; it reads qemu.toml and never links the kernel.
//!
//! - 0: done
//! - 1: failed
//! - 2: requested something that does not exist
//! - 124: out of time
//! - 130: interrupted

mod artifacts;
mod bench;
mod check;
mod check_loader;
mod checksums;
mod cli;
mod cmdline;
mod config;
mod console;
mod cpio;
mod debian;
mod debugger;
mod diagrams;
mod disk;
mod doctor;
mod entry_state;
mod events;
mod fit_edit;
mod frame_source;
mod fuzz;
mod guest;
mod image;
mod interop;
mod invariants;
mod kernel_build;
mod loader;
mod monitor;
mod postmortem;
mod processes;
mod protocol;
mod qemu;
mod relr;
mod report;
mod request;
mod run;
mod serial_input;
mod setup;
mod stress;
mod test;
mod transcript;
mod tree_edit;
mod verdict;
mod xml;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

/// The error of a request for something that does not exist; ends xtask with exit code 2.
#[derive(Debug)]
pub struct Usage(
    /// The message: what does not exist, and what exists instead.
    pub String,
);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The workspace's directory, which holds qemu.toml.
pub fn root() -> PathBuf {
    // Cargo says at run time where the package is. The value from compile time serves an xtask that
    // is started without cargo.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or(package.clone(), Path::to_path_buf)
}

/// Cargo's target directory. Builds of the kernel and the folders of runs go there as well.
pub fn target_dir() -> PathBuf {
    // A relative CARGO_TARGET_DIR is relative to the directory in which cargo, and so xtask, was
    // started.
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => std::path::absolute(&path).unwrap_or_else(|_| path.into()),
        None => root().join("target"),
    }
}

/// The cargo that started us, and so the one of the pinned toolchain.
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let ended = processes::end_with_us().and_then(|()| cli.verb.perform());
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is::<processes::Interrupted>() => {
            ExitCode::from(processes::INTERRUPTED)
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}
