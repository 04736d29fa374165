//! The generic timer's counter, as the one clock of every phase.
//!
//! *When:* always. CNTVCT, not CNTPCT: EL1 may read it whoever is above, and on our own way CNTVOFF is zero.
#![expect(unsafe_code, reason = "reads system registers")]

use core::arch::asm;
use spin::Once;

/// CNTVCT_EL0, not earlier than what precedes.
#[must_use]
pub fn now() -> u64 {
    let count;
    // SAFETY: reading the counter has no side effect.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nostack)) };
    count
}

/// CNTFRQ_EL0, in Hz, of the CPU that asks first, which is the one that was entered first. There is one counter, and firmware that sets
/// the register on one CPU alone is known.
#[must_use]
pub fn frequency() -> u64 {
    static FREQUENCY: Once<u64> = Once::new();
    *FREQUENCY.call_once(own_frequency)
}

/// CNTFRQ_EL0 of this CPU.
#[must_use]
pub fn own_frequency() -> u64 {
    let frequency;
    // SAFETY: as above.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    frequency
}

/// `ticks` of the counter in nanoseconds.
#[must_use]
pub fn nanoseconds(ticks: u64) -> u64 {
    let frequency = frequency();
    // Seconds and what is left of one: neither product passes 64 bits. A frequency that nobody has set makes seconds of ticks.
    let whole = ticks.checked_div(frequency).unwrap_or(ticks);
    let rest = ticks.checked_rem(frequency).unwrap_or(0);
    whole * 1_000_000_000 + (rest * 1_000_000_000).checked_div(frequency).unwrap_or(0)
}
