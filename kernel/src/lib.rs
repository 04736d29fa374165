//! The kernel's pure half: parsers, rules and choices that touch no hardware.
//!
//! It has no unsafe code and reads no registers, so it builds and is tested on any host. The kernel
//! itself is the binary of this crate (`main.rs`).
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod chosen;
pub mod cmdline;
pub mod fit;
pub mod gzip;
pub mod handover;
pub mod initrd_window;
pub mod intid;
pub mod lpi;
pub mod memory_layout;
pub mod mode;
pub mod protocol;
pub mod tree;
