//! Device trees: read a machine, edit /chosen, and write the tree that the next kernel gets.
//!
//! - [`machine`] reads what this kernel needs to know.
//! - [`console`] describes the console that stdout-path names.
//! - [`handover`] passes four numbers from one generation to the next, in a tree of constant size.
//! - [`chosen`] writes the tree for a payload, [`firmware`] the tree for this kernel under UEFI.
//! - [`copy`] does the writing for all three. Each of them is a set of edits.
//! - [`node`] reads a blob as nodes and properties.
//! - [`blob`] finds the tokens of a blob, and checks them.
//!
//! The crate holds no unsafe code and touches no hardware: blobs go in, values and blobs come out,
//! and `cargo test` tests all of it. [`blob`], [`node`], [`copy::write`] and [`firmware`] allocate
//! nothing.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod blob;
pub mod chosen;
pub mod console;
pub mod copy;
pub mod firmware;
pub mod handover;
pub mod machine;
pub mod node;
