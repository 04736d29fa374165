//! The way out: from "Bye!" to the next image's first instruction.
#![cfg_attr(not(test), no_std)]

pub mod checksum;
pub mod control;
pub mod list;
pub mod placement;
pub mod random;
pub mod segment;
