//! Harness: builds the kernel, runs it as a guest, and judges what the guest prints.
//!
//! The tools and the suites use it. A [`request::Request`] says what to run, [`run::run`] makes the
//! run and keeps its records in [`artifacts`], [`transcript`] reads the console, and
//! [`invariants`] has the rules that every generation must keep.

pub mod apt;
pub mod artifacts;
pub mod checksums;
pub mod cmdline;
pub mod config;
pub mod console;
pub mod cpio;
pub mod debian;
pub mod debugger;
pub mod disk;
pub mod error;
pub mod events;
pub mod exec;
pub mod firmware;
pub mod fit_edit;
pub mod frame_source;
pub mod guest;
pub mod host_debugger;
pub mod invariants;
pub mod kernel_build;
pub mod loader;
pub mod monitor;
pub mod needs;
pub mod packages;
pub mod parts;
pub mod patch;
pub mod paths;
pub mod postmortem;
pub mod processes;
pub mod qemu;
pub mod relr;
pub mod report;
pub mod request;
pub mod rules;
pub mod run;
pub mod serial_input;
pub mod setup;
pub mod transcript;
pub mod tree_edit;
pub mod verdict;
pub mod xml;
