//! Exceptions of a kernel that runs Rust.
//!
//! *When:* from the kernel's first line of Rust until the control page's vectors take over. An IRQ calls the kernel's handler and goes on where
//! it was; every other exception is a failure: its handler gets the frame and does not return.
#![expect(unsafe_code, reason = "assembly, and the names by which it and Rust know each other")]

use core::mem::offset_of;

/// What an exception interrupted.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct Frame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// The stack pointer.
    pub sp: u64,
    /// ESR_ELx.
    pub esr: u64,
    /// ELR_ELx: where.
    pub elr: u64,
    /// FAR_ELx: which address, for aborts.
    pub far: u64,
    /// SPSR_ELx.
    pub spsr: u64,
    /// The vector slot, 0 to 15 (Arm ARM D1.3.1.5, the vector table).
    pub slot: u64,
}

/// What an interrupt may change of what it interrupted: x0 to x18, x30, and the 32 vector registers.
const INTERRUPT_FRAME: usize = 20 * 8 + 32 * 16;

unsafe extern "Rust" {
    /// The kernel's handler of failures, in the crate that links this one.
    safe fn kernel_exception(frame: &Frame) -> !;
    /// Its handler of interrupts.
    safe fn kernel_interrupt();
}

extern "C" fn handle(frame: &Frame) -> ! {
    kernel_exception(frame)
}

extern "C" fn interrupt() {
    kernel_interrupt();
}

crate::assembly!(
    include_str!("vectors.S"),
    FRAME_SIZE = const size_of::<Frame>(),
    SP = const offset_of!(Frame, sp),
    ESR = const offset_of!(Frame, esr),
    FAR = const offset_of!(Frame, far),
    SLOT = const offset_of!(Frame, slot),
    HANDLER = sym handle,
    INTERRUPT_FRAME = const INTERRUPT_FRAME,
    INTERRUPT = sym interrupt,
);
