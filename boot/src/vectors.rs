//! Exception vectors of a kernel that runs Rust: the frame they save, and the calls into Rust.
//!
//! - In use from the kernel's first line of Rust until the control pages install their own.
//! - An IRQ calls `kernel_interrupt`, then continues the interrupted code.
//! - Every other exception is fatal: `kernel_exception` gets the [`Frame`] and does not return.
#![expect(unsafe_code, reason = "assembly, and the names by which it and Rust know each other")]

use core::mem::offset_of;

/// State that an exception interrupted.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct Frame {
    /// General registers x0 to x30.
    pub x: [u64; 31],
    /// Stack pointer.
    pub sp: u64,
    /// ESR_ELx.
    pub esr: u64,
    /// ELR_ELx: the return address.
    pub elr: u64,
    /// FAR_ELx: for aborts, the faulting address.
    pub far: u64,
    /// SPSR_ELx.
    pub spsr: u64,
    /// Vector slot, 0 to 15 (Arm ARM D1.3.1.5, the vector table).
    pub slot: u64,
}

/// Bytes saved for an interrupt handler, which may change x0 to x18, x30 and the vector registers.
const INTERRUPT_FRAME: usize = 20 * 8 + 32 * 16;

unsafe extern "Rust" {
    /// The kernel's handler of fatal exceptions, in the crate that links this one.
    safe fn kernel_exception(frame: &Frame) -> !;
    /// The kernel's interrupt handler.
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
