//! The way in of a secondary CPU: from PSCI's CPU_ON to its first line of Rust.
//!
//! *When:* the first CPU lives in a map that may be shared. *On entry:* the level that the first CPU was entered at, MMU and D-cache off, x0 = the
//! CPU's [`Own`], clean to PoC. *Leaves:* as the first CPU's way in: EL1h, IRQ and FIQ masked, Rust's vectors, a stack; at EL2, where there is
//! one, the hyp-stub; and in the page what the first instruction found. But MMU and caches are on in the map of [`Own::ttbr0`] at once: it holds this image 1:1. \[I2\] Nothing here is taken from
//! the first CPU's registers.
#![expect(unsafe_code, reason = "assembly, and the names by which it and Rust know each other")]

use crate::own::{Entered, Own};
use core::mem::offset_of;

unsafe extern "Rust" {
    /// A secondary CPU's first line of Rust, in the crate that links this one.
    safe fn kernel_secondary(own: &'static Own) -> !;
}

extern "C" fn enter_kernel(own: &'static Own) -> ! {
    kernel_secondary(own)
}

crate::assembly!(
    include_str!("secondary.S"),
    TTBR0 = const offset_of!(Own, ttbr0),
    STACK = const offset_of!(Own, stack),
    ENTERED_CURRENT_EL = const offset_of!(Own, entered) + offset_of!(Entered, current_el),
    ENTERED_SCTLR = const offset_of!(Own, entered) + offset_of!(Entered, sctlr),
    KERNEL_SECONDARY = sym enter_kernel,
);

unsafe extern "C" {
    /// The first instruction: what CPU_ON is told, by its physical address. Not to be called.
    pub fn secondary_entry();
}
