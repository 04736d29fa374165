//! Cache maintenance by VA to the point of coherency (PoC).
//!
//! Used wherever memory is read or written past the caches: before a kexec, and after one.
#![expect(unsafe_code, reason = "cache maintenance instructions")]

use crate::phys::PhysAddr;
use core::arch::asm;
use core::ops::Range;

/// Cleans and invalidates every line of `range` to PoC, and waits until that is done.
///
/// The range must be mapped, and written through the cache. Over memory that was written past the
/// cache, cleaning a dirty line would put its old data back. \[I5\]
pub fn clean_and_invalidate(range: &Range<PhysAddr>) {
    let ctr: u64;
    // SAFETY: reading CTR_EL0 has no side effect.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    let line = 4_u64 << (ctr >> 16 & 0xf);
    let mut address = range.start.get() & !(line - 1);
    while address < range.end.get() {
        // SAFETY: the line is written back before it is invalidated, so no store is lost.
        unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) };
        address += line;
    }
    // SAFETY: a barrier accesses no memory. The maintenance completes before any later access.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Invalidates this CPU's instruction cache, so that it fetches what was cleaned to PoC before.
pub fn invalidate_instructions() {
    // SAFETY: only copies are discarded; the CPU fetches the same instructions from memory again.
    unsafe { asm!("ic iallu", "dsb sy", "isb", options(nostack, preserves_flags)) };
}
