//! What each CPU has of its own: one page, the same for the first and for those that it starts.
//!
//! *When:* from a CPU's first instruction on. Until the CPU has a stack, SP of its level names this page, and the emergency printer saves
//! registers in its frame. From then on TPIDR_EL1 names it, which is where the CPU's exception stack begins, downwards.

use core::sync::atomic::AtomicU64;

/// What assembly knows of the page, at its beginning. A secondary CPU reads it with its MMU off: it is clean to PoC before PSCI's CPU_ON.
#[derive(Debug)]
#[repr(C)]
pub struct Own {
    /// x0 to x30 of an exception that the emergency printer tells.
    pub frame: [AtomicU64; 32],
    /// TTBR0_EL1 of the map that a secondary joins, its ASID with it.
    pub ttbr0: u64,
    /// The top of the stack of a CPU that PSCI starts.
    pub stack: u64,
    /// What the first instruction of a CPU that PSCI started found, written once its MMU is on.
    pub entered: Entered,
}

/// The state that a secondary CPU was entered in; written behind Rust's back.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Entered {
    /// CurrentEL.
    pub current_el: AtomicU64,
    /// DAIF.
    pub daif: AtomicU64,
    /// SCTLR_ELx of that level.
    pub sctlr: AtomicU64,
    /// CNTVOFF_EL2; zero where the entry was at EL1.
    pub cntvoff_el2: AtomicU64,
}
