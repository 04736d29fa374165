//! The workshop: builds, runs, tests and measures Ouroboros; reads qemu.toml; never links the kernel.
//!
//! `cargo xtask --help` tells what it does. This file turns a verb's end into an exit code:
//! 0 done, 1 failed, 2 asked for something that does not exist, 124 out of time, 130 interrupted.

mod bench;
mod check;
mod check_loader;
mod checksums;
mod cli;
mod config;
mod console;
mod cpio;
mod debian;
mod debugger;
mod disk;
mod doctor;
mod entry_state;
mod events;
mod explain;
mod fit;
mod fit_edit;
mod folder;
mod fuzz;
mod guest;
mod hand_over;
mod image;
mod kernel_build;
mod loader;
mod monitor;
mod orders;
mod processes;
mod proof;
mod protocol;
mod protocols;
mod qemu;
mod relr;
mod report;
mod request;
mod run;
mod setup;
mod stress;
mod test;
mod traffic;
mod transcript;
mod tree_edit;
mod typist;
mod verdict;
mod xml;

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

/// Asked for something that does not exist; ends with exit code 2.
#[derive(Debug)]
pub struct Usage(
    /// What, and what there is instead.
    pub String,
);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The workspace's directory: where qemu.toml lies.
pub fn root() -> PathBuf {
    // Cargo says where the package is now; the compiler's word is for an xtask that is started by hand.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or(package.clone(), Path::to_path_buf)
}

/// Where cargo, and so the kernel's build and the runs' folders, put what they make.
pub fn target_dir() -> PathBuf {
    // A relative CARGO_TARGET_DIR is relative to where cargo was started, and so are we.
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => std::path::absolute(&path).unwrap_or_else(|_| path.into()),
        None => root().join("target"),
    }
}

/// The cargo that started us, and so of the toolchain that is pinned here.
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
