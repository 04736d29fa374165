//! EFI loader: makes the Image a PE/COFF application that enters it as any loader does.
//!
//! This is a crate of its own, because it is one more loader and not part of the boot path; it only
//! travels in the Image. `boot` knows nothing of it but where a PE header may be. A kernel that
//! links `boot` alone is an Image without a PE header.
//!
//! - The pure half is values: the PE header, the RAM in the firmware's memory map, the new device
//!   tree, the load options. It builds and is tested on any host.
//! - The other half (`target_os = "none"`) is the application. It runs in the firmware's map and on
//!   the firmware's stack.
#![cfg_attr(target_os = "none", no_std)]

pub mod initrd;
pub mod memory;
pub mod options;
pub mod pe;

#[cfg(target_os = "none")]
mod stub;
