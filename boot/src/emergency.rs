//! The emergency console: what speaks before Rust does, and when Rust can no longer be trusted.
//!
//! *When:* from the first instructions to the kernel's own vectors, and under a second panic. *Needs:* neither stack nor heap.

/// A PL011 that needs no set-up, the only address in this project that no device tree gave: QEMU virt's first UART.
pub const UART: u64 = 0x0900_0000;

/// A PL011's flag register, from its base on, which is its data register (Arm DDI 0183, 3.2).
pub const UART_FLAGS: u64 = 0x18;

/// A flag: the transmitter takes no more.
pub const UART_FULL: u64 = 1 << 5;

/// The assembly half.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "assembly")]
mod assembly {
    crate::assembly!(
        include_str!("emergency.S"),
        EMERGENCY_UART = const super::UART,
        FRAME_SIZE = const core::mem::offset_of!(crate::own::Own, ttbr0),
        NEEDS = sym crate::rule::NEEDS,
        NEEDS_COUNT = const crate::rule::COUNT,
        NEED_SIZE = const size_of::<crate::rule::Need>(),
        NEED_MASK = const core::mem::offset_of!(crate::rule::Need, mask),
        NEED_RULE = const core::mem::offset_of!(crate::rule::Need, rule),
    );
}
