//! The facts that kernel, loaders and tools share, written once: each of them links this crate.
//!
//! - [`cmdline`]: the parameters in bootargs, and their words.
//! - [`fit`]: the FIT that kernels are loaded from, read and (feature `write`) written; [`gzip`]
//!   unpacks what it holds.
//! - [`mode`]: el1, nvhe or vhe.
//! - [`rules`]: the rules of the arm64 boot protocol, and which of them a loader broke.
//! - [`initrd_window`]: where an initrd may be.
//!
//! The crate holds no unsafe code and touches no hardware.
#![cfg_attr(not(any(test, feature = "write")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod cmdline;
pub mod fit;
pub mod gzip;
pub mod initrd_window;
pub mod mode;
pub mod record;
pub mod rules;
