//! The control block: the frames that are nobody's destination, and the relocation code that runs in them.
//!
//! *When:* staged while the kernel lives, entered as its last act. The block is contiguous: [`CODE_PAGES`] pages of code (with the
//! [`Arguments`] at their place in the first) and vectors, then the breadcrumb page, then list pages and the copy's page tables.
//! *Refuses,* by the relocation code on the UART: a damaged list, a destination that does not match its checksum, a fault, a
//! SOFT_RESTART that returns. It then stops and never jumps.

use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::Range;

/// Pages of relocation code: the code itself with its arguments, and the vectors.
pub const CODE_PAGES: u64 = 2;

/// Where the arguments lie in the first page.
pub const ARGUMENTS_OFFSET: u64 = 0xd00;

/// [`Arguments::flags`]: the copy runs with the MMU off.
pub const COLD: u64 = 1 << 0;

/// [`Arguments::flags`]: the way to the next image is HVC_SOFT_RESTART, not a branch.
pub const HVC: u64 = 1 << 1;

/// A destination and what it must hold before the jump.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Check {
    /// First byte, physical.
    pub start: u64,
    /// Byte past the last, physical.
    pub end: u64,
    /// CRC-32C of the range.
    pub crc32c: u64,
}

/// What the relocation code knows. All addresses are physical.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Arguments {
    /// The list's head entry, as Linux's `kimage->head`.
    pub head: u64,
    /// TTBR0 with the ASID of the map that the copy runs on (hot only).
    pub copy_ttbr0: u64,
    /// The next image's first instruction.
    pub entry: u64,
    /// Its device tree.
    pub dtb: u64,
    /// The breadcrumb page.
    pub breadcrumbs: u64,
    /// [`COLD`], [`HVC`].
    pub flags: u64,
    /// A PL011.
    pub uart: u64,
    /// How many of `checks` are in use.
    pub checks_used: u64,
    /// Every destination, once.
    pub checks: [Check; crate::segment::MAX_SEGMENTS],
}

impl Check {
    /// The check of a destination whose bytes have this CRC-32C.
    #[must_use]
    pub const fn new(destination: &Range<PhysAddr>, crc32c: u32) -> Self {
        Self { start: destination.start.0, end: destination.end.0, crc32c: crc32c as u64 }
    }
}

const _: () = assert!(ARGUMENTS_OFFSET as usize + size_of::<Arguments>() <= PAGE_SIZE as usize);

/// Where the parts of a control block lie.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Layout {
    /// Relocation code and vectors: read-only and executable once staged.
    pub code: Range<PhysAddr>,
    /// The page of breadcrumbs, the only one that the next generation reads.
    pub breadcrumbs: Range<PhysAddr>,
    /// What is left, for list pages and page tables.
    pub rest: Range<PhysAddr>,
}

impl Layout {
    /// Divides a block of at least four pages, 4 KiB aligned.
    ///
    /// # Panics
    ///
    /// Where the block is smaller: its size is the kernel's own choice.
    #[must_use]
    pub fn of(block: &Range<PhysAddr>) -> Self {
        assert!(
            block.bytes() >= (CODE_PAGES + 2) * PAGE_SIZE && block.start.is_aligned(PAGE_SIZE),
            "a control block too small"
        );
        let code_end = PhysAddr(block.start.0 + CODE_PAGES * PAGE_SIZE);
        let crumbs_end = PhysAddr(code_end.0 + PAGE_SIZE);
        Self {
            code: block.start..code_end,
            breadcrumbs: code_end..crumbs_end,
            rest: crumbs_end..block.end,
        }
    }

    /// The private EL2 vectors' address, 2 KiB aligned: the second half of the code's second page.
    #[must_use]
    pub fn private_el2_vectors(&self) -> PhysAddr {
        PhysAddr(self.code.end.0 - PAGE_SIZE / 2)
    }
}

/// The assembly half: the code itself, and the way into its copy.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "assembly, its bytes, and the jump into a copy of them")]
mod code {
    use super::{ARGUMENTS_OFFSET, Arguments, CODE_PAGES, COLD, Check, HVC};
    use crate::list;
    use boot::breadcrumb;
    use boot::phys::{PAGE_SHIFT, PAGE_SIZE, PhysAddr};
    use boot::sysreg::sctlr;
    use core::arch::asm;
    use core::mem::offset_of;

    /// What [`walk`](self) does with a run: copy it.
    const COPY: u64 = 1 << 0;
    /// Clean and invalidate its source to PoC.
    const CLEAN_SOURCE: u64 = 1 << 1;
    /// Clean and invalidate its destination to PoC.
    const CLEAN_DESTINATION: u64 = 1 << 2;

    boot::assembly!(
        include_str!("control.S"),
        PAGE_SIZE = const PAGE_SIZE,
        PAGE_SHIFT = const PAGE_SHIFT,
        ARGUMENTS = const ARGUMENTS_OFFSET,
        HEAD = const offset_of!(Arguments, head),
        COPY_TTBR0 = const offset_of!(Arguments, copy_ttbr0),
        ENTRY = const offset_of!(Arguments, entry),
        BREADCRUMBS = const offset_of!(Arguments, breadcrumbs),
        UART = const offset_of!(Arguments, uart),
        CHECKS_USED = const offset_of!(Arguments, checks_used),
        CHECKS = const offset_of!(Arguments, checks),
        CHECK_START = const offset_of!(Check, start),
        CHECK_CRC = const offset_of!(Check, crc32c),
        CHECK_SIZE = const size_of::<Check>(),
        COLD_BIT = const COLD.trailing_zeros(),
        HVC_BIT = const HVC.trailing_zeros(),
        COPY = const COPY,
        COPY_BIT = const COPY.trailing_zeros(),
        CLEAN_SOURCE = const CLEAN_SOURCE,
        CLEAN_SOURCE_BIT = const CLEAN_SOURCE.trailing_zeros(),
        CLEAN_DESTINATION = const CLEAN_DESTINATION,
        CLEAN_DESTINATION_BIT = const CLEAN_DESTINATION.trailing_zeros(),
        DONE_BIT = const list::DONE.trailing_zeros(),
        INDIRECTION_BIT = const list::INDIRECTION.trailing_zeros(),
        DESTINATION_BIT = const list::DESTINATION.trailing_zeros(),
        SOURCE_BIT = const list::SOURCE.trailing_zeros(),
        ENTRY_ADDRESS = const list::ADDRESS,
        RUN_SHIFT = const list::RUN_SHIFT,
        RUN_BITS = const list::RUN_BITS,
        SLOT_SIZE = const breadcrumb::SLOT_SIZE,
        REACHED = const breadcrumb::REACHED,
        CONTROL = const breadcrumb::CONTROL,
        COPIED = const breadcrumb::COPIED,
        MAINTAINED = const breadcrumb::MAINTAINED,
        VERIFIED = const breadcrumb::VERIFIED,
        MMU_OFF = const breadcrumb::MMU_OFF,
        LEAVING = const breadcrumb::LEAVING,
        SCTLR_MMU_OFF = const sctlr::EL1_MMU_OFF,
    );

    unsafe extern "C" {
        static relocate_page_start: [u8; (CODE_PAGES * PAGE_SIZE) as usize];
    }

    /// The relocation code as it is linked, to be copied into a control block.
    #[must_use]
    pub fn pages() -> &'static [u8; (CODE_PAGES * PAGE_SIZE) as usize] {
        // SAFETY: the symbol is the start of that many bytes of the image's text, which nothing writes.
        unsafe { &relocate_page_start }
    }

    /// Enters the staged relocation code at `code`. \[I2\]–\[I7\]
    ///
    /// # Safety
    ///
    /// The control block at `code` is staged as [`super`] says, executable in the live map, and clean to PoC; its list and arguments
    /// were checked; no device writes to memory any more; on nVHE the private EL2 vectors are installed. Nothing of this program
    /// runs again.
    #[inline(never)]
    pub unsafe fn enter(code: PhysAddr) -> ! {
        // SAFETY: the caller stands for the code and for what it does; it does not return.
        unsafe {
            asm!("msr daifset, #0xf", "br {code}", code = in(reg) code.0, options(noreturn));
        }
    }
}

#[cfg(target_os = "none")]
pub use code::{enter, pages};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_divided_without_gap_or_overlap() {
        let block = PhysAddr(0x4000_0000)..PhysAddr(0x4004_0000);
        let layout = Layout::of(&block);
        assert_eq!(layout.code, PhysAddr(0x4000_0000)..PhysAddr(0x4000_2000));
        assert_eq!(layout.private_el2_vectors(), PhysAddr(0x4000_1800));
        assert_eq!(layout.breadcrumbs, PhysAddr(0x4000_2000)..PhysAddr(0x4000_3000));
        assert_eq!(layout.rest, PhysAddr(0x4000_3000)..block.end);
    }

    #[test]
    #[should_panic(expected = "too small")]
    fn a_block_without_room_is_refused() {
        let _ = Layout::of(&(PhysAddr(0x4000_0000)..PhysAddr(0x4000_3000)));
    }
}
