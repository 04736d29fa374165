//! Paths of the workspace, of cargo's target directory, and of cargo itself.

use std::{ffi::OsString, io, path::PathBuf};

/// The workspace's directory, which holds qemu.toml.
pub fn root() -> PathBuf {
    // Cargo says at run time where the package is. The value from compile time serves an xtask that
    // is started without cargo.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    // The package is the workspace's `xtask`, or one of the libraries in it.
    let root = package.ancestors().find(|folder| folder.join("qemu.toml").is_file());
    root.unwrap_or(&package).to_owned()
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

/// The path of this program, to start it again.
pub fn program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // Linux says so of a file that a build has replaced since, such as that of the host's tests.
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(replaced.map_or(path.clone(), PathBuf::from))
}

/// The cargo that started us, and so the one of the pinned toolchain.
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
