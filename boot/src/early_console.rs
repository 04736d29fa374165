//! Early console: a PL011 for the time before Rust runs and after it has failed.
//!
//! Printing needs neither stack nor heap. Assembly uses it from the first instructions until Rust
//! installs its vectors. The kernel ends with it when a panic itself panics.

/// Base of a PL011 that needs no set-up: the first UART of QEMU's virt machine.
///
/// No other address in this project is hard-coded; all others come from the FDT.
#[doc(alias = "earlycon")]
#[doc(alias = "earlyprintk")]
pub const UART: u64 = 0x0900_0000;

/// Offset of a PL011's flag register; its data register is at offset 0 (Arm DDI 0183, 3.2).
pub const UART_FLAGS: u64 = 0x18;

/// Flag TXFF: the transmit FIFO is full.
pub const UART_FULL: u64 = 1 << 5;

/// Assembly half of the early console.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "assembly")]
mod assembly {
    crate::assembly!(
        include_str!("early_console.S"),
        EARLY_UART = const super::UART,
        FRAME_SIZE = const core::mem::offset_of!(crate::percpu::PerCpu, ttbr0),
        NEEDS = sym crate::rule::NEEDS,
        NEEDS_COUNT = const crate::rule::COUNT,
        NEED_SIZE = const size_of::<crate::rule::Need>(),
        NEED_MASK = const core::mem::offset_of!(crate::rule::Need, mask),
        NEED_RULE = const core::mem::offset_of!(crate::rule::Need, rule),
    );
}
