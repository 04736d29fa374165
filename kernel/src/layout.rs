//! The layout of this image in memory, from the linker's symbols.
//!
//! The symbols are addressed relative to the PC, so they are right wherever the image was loaded.
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

/// The image's parts. All are whole pages.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The whole image: file, bss, stacks.
    pub whole: Range<PhysAddr>,
    /// Code.
    pub text: Range<PhysAddr>,
    /// Constants, and pointers that the entry code relocated (RELR).
    pub constants: Range<PhysAddr>,
    /// The guard pages, one below each stack.
    pub guards: [Range<PhysAddr>; 2],
}

impl Parts {
    /// Returns the parts of the running image.
    #[must_use]
    pub fn of_this_image() -> Self {
        let address = |symbol: *const u8| PhysAddr::new(symbol.expose_provenance() as u64);
        let page = |symbol| address(symbol)..(address(symbol) + boot::phys::PAGE_SIZE);
        Self {
            whole: address(&raw const _start)..address(&raw const _image_end),
            text: address(&raw const text_start)..address(&raw const text_end),
            constants: address(&raw const text_end)..address(&raw const rodata_end),
            guards: [page(&raw const boot_stack_guard), page(&raw const exception_stack_guard)],
        }
    }
}

/// Returns the FDT that the loader passed in x0.
///
/// Returns `None` if the entry code found no FDT that it could map, or if it overlaps this image.
///
/// # Safety
///
/// The slice must not be used after its memory was given to the frame allocator.
#[must_use]
pub unsafe fn handed_over_tree<'a>(record: &EntryRecord) -> Option<&'a [u8]> {
    if !(1..=DTB_MAX_SIZE).contains(&record.dtb_size) {
        return None;
    }
    let range = PhysAddr::new(record.x0).range(record.dtb_size)?;
    if range.overlaps(&Parts::of_this_image().whole) {
        return None;
    }
    // SAFETY: `from_raw_parts` requires mapped memory without a writer. The entry code found a
    // header at x0 and mapped `dtb_size` bytes. Until they are handed out as frames, nothing writes
    // them.
    Some(unsafe {
        core::slice::from_raw_parts(crate::memory::pointer(range.start), record.dtb_size as usize)
    })
}
