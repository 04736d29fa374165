//! Entry path of a secondary CPU: what `secondary.S` expects and leaves, and its end in Rust.
//!
//! Runs once the first CPU uses a map that other CPUs may share.
//!
//! - Expects the level that the first CPU was entered at, MMU and D-cache off, and in x0 the CPU's
//!   [`PerCpu`], clean to PoC.
//! - Leaves what the first CPU's entry path leaves: EL1h, IRQ and FIQ masked, a stack, Rust's
//!   vectors, and the hyp-stub if the CPU was entered at EL2.
//! - Turns the MMU on with the map of [`PerCpu::ttbr0`] directly, without an early idmap; it holds
//!   this image 1:1. \[I2\]
//! - Stores the state that its first instruction found in [`PerCpu::entered`].
//! - Uses nothing from the first CPU's registers.
#![expect(unsafe_code, reason = "assembly, and the names by which it and Rust know each other")]

use crate::percpu::{Entered, PerCpu};
use core::mem::offset_of;

unsafe extern "Rust" {
    /// First line of Rust of a secondary CPU, in the crate that links this one.
    safe fn kernel_secondary(own: &'static PerCpu) -> !;
}

extern "C" fn enter_kernel(own: &'static PerCpu) -> ! {
    kernel_secondary(own)
}

crate::assembly!(
    include_str!("secondary.S"),
    TTBR0 = const offset_of!(PerCpu, ttbr0),
    STACK = const offset_of!(PerCpu, stack),
    ENTERED_CURRENT_EL = const offset_of!(PerCpu, entered) + offset_of!(Entered, current_el),
    ENTERED_SCTLR = const offset_of!(PerCpu, entered) + offset_of!(Entered, sctlr),
    DAIF_A = const crate::sysreg::daif::A,
    KERNEL_SECONDARY = sym enter_kernel,
);

unsafe extern "C" {
    /// First instruction of a secondary CPU. CPU_ON takes its physical address; do not call it.
    #[doc(alias = "trampoline")]
    pub fn secondary_entry();
}
