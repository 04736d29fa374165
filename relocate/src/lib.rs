//! The kexec path, from "Bye!" to the next image's first instruction.
//!
//! - [`placement`] finds addresses for the next image and the control pages; [`random`] draws them.
//! - [`segment`] checks that the segments of the next image can be moved safely.
//! - [`list`] builds the kimage list of the moves, and checks it.
//! - [`checksum`] computes the CRC-32C of every segment.
//! - [`control`] holds the relocation code: it copies the segments, verifies them, and enters the
//!   next image.
#![cfg_attr(not(test), no_std)]

pub mod checksum;
pub mod control;
pub mod list;
pub mod placement;
pub mod random;
pub mod segment;
pub mod tables;
