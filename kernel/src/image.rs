//! This image's own parts, as the linker laid them out and the loader placed them.
//!
//! *When:* at any time in Rust: the symbols are addresses relative to the program counter.
#![expect(unsafe_code, reason = "the linker's symbols")]

use boot::phys::{PhysAddr, PhysRange};
use boot::record::{DTB_MAX_SIZE, EntryRecord};
use core::ops::Range;

unsafe extern "C" {
    static _start: u8;
    static text_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static boot_stack_guard: u8;
    static exception_stack_guard: u8;
    static _image_end: u8;
}

/// Where the parts lie. All whole pages.
#[derive(Clone, Debug)]
pub struct Parts {
    /// All of it: file, bss, stacks.
    pub whole: Range<PhysAddr>,
    /// Code.
    pub text: Range<PhysAddr>,
    /// Constants, and pointers that RELR has made good.
    pub constants: Range<PhysAddr>,
    /// One page below each stack.
    pub guards: [Range<PhysAddr>; 2],
}

impl Parts {
    /// The running image's.
    #[must_use]
    pub fn of_this_image() -> Self {
        let address = |symbol: *const u8| PhysAddr(symbol.expose_provenance() as u64);
        let page = |symbol| address(symbol)..PhysAddr(address(symbol).0 + boot::phys::PAGE_SIZE);
        Self {
            whole: address(&raw const _start)..address(&raw const _image_end),
            text: address(&raw const text_start)..address(&raw const text_end),
            constants: address(&raw const text_end)..address(&raw const rodata_end),
            guards: [page(&raw const boot_stack_guard), page(&raw const exception_stack_guard)],
        }
    }
}

/// The device tree as it was handed over, or `None` where x0 named none that the early map could hold, or one that shares memory with this image.
///
/// # Safety
///
/// What is returned is not used any more when its memory is given to the heap.
#[must_use]
pub unsafe fn handed_over_tree<'a>(record: &EntryRecord) -> Option<&'a [u8]> {
    if !(1..=DTB_MAX_SIZE).contains(&record.dtb_size) {
        return None;
    }
    let range = PhysAddr(record.x0).range(record.dtb_size)?;
    if range.overlaps(&Parts::of_this_image().whole) {
        return None;
    }
    // SAFETY: the entry found a header there and mapped that many bytes; nothing writes them before they are given to the heap.
    Some(unsafe {
        core::slice::from_raw_parts(crate::memory::pointer(range.start), record.dtb_size as usize)
    })
}
