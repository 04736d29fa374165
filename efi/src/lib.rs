//! The way in from UEFI: the Image is a PE/COFF application too, and behind that entry point lies a loader that enters the Image as any
//! loader does.
//!
//! A crate of its own, because it is no part of the way in: it is one more loader, which happens to travel in the Image. `boot` knows
//! nothing of it but where a PE header may lie, and a kernel that links `boot` alone is an Image without one.
//!
//! The pure half is values: the PE header, what the firmware's memory map leaves, the device tree with that in it, the load options;
//! it builds and is tested on any host. The other half (`target_os = "none"`) runs as the firmware's guest, in a map and on a stack that are the
//! firmware's.
#![cfg_attr(target_os = "none", no_std)]

pub mod memory;
pub mod options;
pub mod pe;
pub mod tree;

#[cfg(target_os = "none")]
mod stub;
