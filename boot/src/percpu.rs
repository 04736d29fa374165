//! Per-CPU page: what assembly and Rust keep for each CPU.
//!
//! The first CPU and those that it starts each have one, with the same layout.
//!
//! - Until the CPU has a stack, SP points to this page, and the early console saves registers in
//!   its frame.
//! - From then on TPIDR_EL1 points to it. The CPU's exception stack starts there and grows down.

use core::sync::atomic::AtomicU64;

/// Head of the per-CPU page: the fields that assembly uses.
///
/// A secondary CPU reads them with its MMU off, so they must be clean to PoC before PSCI's CPU_ON.
#[derive(Debug)]
#[repr(C)]
#[doc(alias = "percpu")]
#[doc(alias = "tpidr")]
pub struct PerCpu {
    /// Registers x0 to x30 of an exception that the early console prints.
    pub frame: [AtomicU64; 32],
    /// TTBR0_EL1 of the map that a secondary CPU joins, including the ASID.
    pub ttbr0: u64,
    /// Top of a secondary CPU's stack.
    pub stack: u64,
    /// State that a secondary CPU's first instruction found, stored once its MMU is on.
    pub entered: Entered,
}

/// State that a secondary CPU was entered in.
///
/// Its fields are atomics because assembly writes them, which the compiler does not see.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Entered {
    /// CurrentEL.
    pub current_el: AtomicU64,
    /// DAIF.
    pub daif: AtomicU64,
    /// SCTLR_ELx of the level of entry.
    pub sctlr: AtomicU64,
    /// CNTVOFF_EL2; zero if entered at EL1.
    pub cntvoff_el2: AtomicU64,
}
