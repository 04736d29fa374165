//! What kernel, loaders and tools agree on: command line, FIT images, modes, rules of the boot protocol.
//!
//! The crate holds no unsafe code and touches no hardware. The kernel, the tools and the fuzzers link it, so each of these facts is written once.
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
