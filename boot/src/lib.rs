//! The way in: from a loader's jump to the first line of Rust.
#![cfg_attr(not(test), no_std)]

pub mod marker;
pub mod phys;
