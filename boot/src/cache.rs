//! Cache maintenance by VA, to the point of coherency.
//!
//! *When:* wherever memory is about to be read or written past the caches: before a hand-over, and after one.
#![expect(unsafe_code, reason = "cache maintenance instructions")]

use crate::phys::PhysAddr;
use core::arch::asm;
use core::ops::Range;

/// Cleans and invalidates every line of `range` to PoC, and waits until that is done.
///
/// For memory that was written through the cache: of what was written past it, a dirty line's old data would be left. \[I5\]
/// The range must be mapped.
pub fn clean_and_invalidate(range: &Range<PhysAddr>) {
    let ctr: u64;
    // SAFETY: reading CTR_EL0 has no side effect.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    let line = 4_u64 << (ctr >> 16 & 0xf);
    let mut address = range.start.0 & !(line - 1);
    while address < range.end.0 {
        // SAFETY: cleaning writes back what was stored; invalidating after it loses nothing.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
        address += line;
    }
    // SAFETY: a barrier: the maintenance is complete before anything after it.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Invalidates this CPU's instruction cache: what was cleaned to PoC before is what will be fetched.
pub fn invalidate_instructions() {
    // SAFETY: what is discarded are copies; what they are made of again is in memory.
    unsafe { asm!("ic iallu", "dsb sy", "isb", options(nostack, preserves_flags)) };
}
