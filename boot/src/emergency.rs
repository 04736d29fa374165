//! The emergency console: what speaks before Rust does, and when Rust can no longer be trusted.
//!
//! *When:* from the first instructions to the kernel's own vectors, and under a second panic. *Needs:* neither stack nor heap.

/// A PL011 that needs no set-up, the only address in this project that no device tree gave: QEMU virt's first UART.
pub const UART: u64 = 0x0900_0000;

/// The assembly half.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "assembly")]
mod assembly {
    crate::assembly!(
        include_str!("emergency.S"),
        EMERGENCY_UART = const super::UART,
        CURRENT_EL2 = const crate::sysreg::current_el::EL2,
    );
}
