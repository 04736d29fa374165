//! Device trees: read a machine, edit /chosen, and write the tree that the next kernel gets.
//!
//! The crate holds no unsafe code and touches no hardware: blobs go in, values and blobs come out, and `cargo test` tests all of it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod blob;
pub mod chosen;
pub mod copy;
pub mod firmware;
pub mod handover;
pub mod machine;
