//! Boot path of an arm64 kernel: from the loader's jump to the first line of Rust.
//!
//! - The pure half is values: register bits, the Image header, the hyp-stub's ABI, console markers.
//!   It builds and is tested on any host.
//! - The other half (`target_os = "none"`) is the assembly that runs before Rust does.
//!
//! A kernel that links this crate defines `kernel_main`, `kernel_secondary`, `kernel_interrupt` and
//! `kernel_exception`, and links with `image.ld`.
#![cfg_attr(not(test), no_std)]

pub mod breadcrumb;
pub mod early_console;
pub mod esr;
pub mod failure_record;
pub mod hyp;
pub mod image;
pub mod macros;
pub mod marker;
pub mod percpu;
pub mod phys;
pub mod record;
pub mod rule;
pub mod sysreg;
pub mod uart;

#[cfg(target_os = "none")]
pub mod cache;
#[cfg(target_os = "none")]
mod el2;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
pub mod hyp_stub;
#[cfg(target_os = "none")]
pub mod secondary;
#[cfg(target_os = "none")]
pub mod vectors;
