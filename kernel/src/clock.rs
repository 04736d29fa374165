//! The clock: the generic timer's virtual counter.
//!
//! It reads CNTVCT rather than CNTPCT, which a hypervisor may trap. Our entry at EL2 sets
//! CNTVOFF_EL2 to zero, so both count alike.
#![expect(unsafe_code, reason = "reads system registers")]

use core::arch::asm;
use spin::Once;

/// Returns CNTVCT_EL0. The ISB keeps the CPU from reading it before earlier instructions finish.
#[must_use]
pub fn now() -> u64 {
    let count;
    // SAFETY: reading the counter has no side effect.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nostack)) };
    count
}

/// Returns the counter's frequency in Hz: CNTFRQ_EL0 of the CPU that was entered first.
///
/// All CPUs share one counter, but some firmware sets CNTFRQ_EL0 on one CPU only. So the first
/// call, which that CPU makes, decides.
#[must_use]
pub fn frequency() -> u64 {
    static FREQUENCY: Once<u64> = Once::new();
    *FREQUENCY.call_once(own_frequency)
}

/// Returns CNTFRQ_EL0 of this CPU.
#[must_use]
pub fn own_frequency() -> u64 {
    let frequency;
    // SAFETY: reading the register has no side effect.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    frequency
}

/// Converts ticks of the counter to nanoseconds.
#[must_use]
pub fn nanoseconds(ticks: u64) -> u64 {
    let frequency = frequency();
    // Convert whole seconds and the rest separately, so that neither product exceeds 64 bits. If
    // firmware left the frequency at 0, count each tick as a second.
    let whole = ticks.checked_div(frequency).unwrap_or(ticks);
    let rest = ticks.checked_rem(frequency).unwrap_or(0);
    whole * 1_000_000_000 + (rest * 1_000_000_000).checked_div(frequency).unwrap_or(0)
}
