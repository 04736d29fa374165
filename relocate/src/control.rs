//! The control pages, which no move overwrites, and the relocation code in them.
//!
//! - *When:* staged while the kernel still runs; entered as its last act.
//! - *Layout:* one contiguous block. [`CODE_PAGES`] pages hold the code (with its [`Arguments`] in
//!   the first page) and the vectors. The breadcrumb page follows, then list pages, then the page
//!   tables of the relocation idmap.
//! - *Refuses:* a damaged list, a destination that does not match its checksum, a fault, or a
//!   SOFT_RESTART that returns. The relocation code then prints the reason on the UART and stops;
//!   it does not enter the next image.

use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use boot::uart::Uart;
use core::ops::Range;

/// The number of pages of relocation code: one of code and arguments, one of vectors.
pub const CODE_PAGES: u64 = 2;

/// Offset of the arguments in the first page.
pub const ARGUMENTS_OFFSET: u64 = 0xd00;

/// [`Arguments::flags`]: copy with the MMU off.
pub const COLD: u64 = 1 << 0;

/// [`Arguments::flags`]: go to EL2 by HVC_SOFT_RESTART: hot, into the next image; cold, to copy.
pub const HVC: u64 = 1 << 1;

/// A destination, and the checksum that it must match before the next image is entered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
#[doc(alias = "purgatory")]
pub struct Check {
    /// Address of the first byte, physical.
    pub start: u64,
    /// Address past the last byte, physical.
    pub end: u64,
    /// CRC-32C of the range.
    pub crc32c: u64,
}

/// The arguments of the relocation code. All addresses are physical.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
#[doc(alias = "kimage_arch")]
pub struct Arguments {
    /// The list's head entry, as Linux's `kimage->head`.
    pub head: u64,
    /// TTBR0 for the relocation idmap, including its ASID (hot only).
    pub relocation_ttbr0: u64,
    /// First instruction of the next image.
    pub entry: u64,
    /// Device tree of the next image.
    pub dtb: u64,
    /// Breadcrumb page.
    pub breadcrumbs: u64,
    /// [`COLD`], [`HVC`].
    pub flags: u64,
    /// The UART for error messages; without one they are not printed.
    pub uart: Uart,
    /// Number of `checks` in use.
    pub checks_used: u64,
    /// One check for each range that is copied, and one for the FDT.
    pub checks: [Check; crate::segment::MAX_SEGMENTS],
}

impl Check {
    /// Makes the check of a destination whose bytes have this CRC-32C.
    #[must_use]
    pub const fn new(destination: &Range<PhysAddr>, crc32c: u32) -> Self {
        Self { start: destination.start.get(), end: destination.end.get(), crc32c: crc32c as u64 }
    }
}

const _: () = assert!(ARGUMENTS_OFFSET as usize + size_of::<Arguments>() <= PAGE_SIZE as usize);

/// The parts of the control pages.
#[derive(Clone, Debug, Eq, PartialEq)]
#[doc(alias = "control_code_page")]
pub struct Layout {
    /// Relocation code and vectors; mapped read-only and executable once staged.
    pub code: Range<PhysAddr>,
    /// Breadcrumb page, the only one that the next kernel reads.
    pub breadcrumbs: Range<PhysAddr>,
    /// Remaining pages, for list pages and page tables.
    pub rest: Range<PhysAddr>,
}

impl Layout {
    /// Divides a block of at least four pages, aligned to 4 KiB.
    ///
    /// # Panics
    ///
    /// Panics if the block is too small or misaligned; the kernel itself chooses its size.
    #[must_use]
    pub fn of(block: &Range<PhysAddr>) -> Self {
        assert!(
            block.bytes() >= (CODE_PAGES + 2) * PAGE_SIZE && block.start.is_aligned(PAGE_SIZE),
            "the control pages are too few or misaligned"
        );
        let code_end = block.start + CODE_PAGES * PAGE_SIZE;
        let crumbs_end = code_end + PAGE_SIZE;
        Self {
            code: block.start..code_end,
            breadcrumbs: code_end..crumbs_end,
            rest: crumbs_end..block.end,
        }
    }

    /// Returns the address of the private EL2 vectors: the second half of the second code page.
    ///
    /// It is 2 KiB aligned.
    #[must_use]
    pub fn private_el2_vectors(&self) -> PhysAddr {
        self.code.end - PAGE_SIZE / 2
    }
}

/// The assembly code, and the jump into its copy.
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

    /// Action of `walk` in `control.S` on each run: copy it.
    const COPY: u64 = 1 << 0;
    /// Action: clean and invalidate the source to PoC.
    const CLEAN_SOURCE: u64 = 1 << 1;
    /// Action: clean and invalidate the destination to PoC.
    const CLEAN_DESTINATION: u64 = 1 << 2;

    boot::assembly!(
        include_str!("control.S"),
        PAGE_SIZE = const PAGE_SIZE,
        PAGE_SHIFT = const PAGE_SHIFT,
        ARGUMENTS = const ARGUMENTS_OFFSET,
        HEAD = const offset_of!(Arguments, head),
        RELOCATION_TTBR0 = const offset_of!(Arguments, relocation_ttbr0),
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

    /// Returns the relocation code as linked, to be copied into the control pages.
    #[must_use]
    pub fn pages() -> &'static [u8; (CODE_PAGES * PAGE_SIZE) as usize] {
        // SAFETY: the symbol marks the start of that many bytes of this image's text, which is
        // never written.
        unsafe { &relocate_page_start }
    }

    /// Enters the staged relocation code at `code`. \[I2\]–\[I7\]
    ///
    /// # Safety
    ///
    /// - The control pages at `code` are staged as [`super`] describes, executable in the current
    ///   map, and clean to PoC.
    /// - Their list and arguments have been checked.
    /// - No device writes to memory any more.
    /// - On nVHE, VBAR_EL2 points to the private EL2 vectors.
    /// - Nothing of this kernel runs again.
    #[inline(never)]
    #[doc(alias = "relocate_new_kernel")]
    #[doc(alias = "cpu_soft_restart")]
    #[doc(alias = "purgatory")]
    pub unsafe fn enter(code: PhysAddr) -> ! {
        // SAFETY: the caller guarantees that the code at `code` is staged and may take over the
        // machine. It does not return, as `noreturn` requires.
        unsafe {
            asm!("msr daifset, #0xf", "br {code}", code = in(reg) code.get(), options(noreturn));
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
        let block = PhysAddr::new(0x4000_0000)..PhysAddr::new(0x4004_0000);
        let layout = Layout::of(&block);
        assert_eq!(layout.code, PhysAddr::new(0x4000_0000)..PhysAddr::new(0x4000_2000));
        assert_eq!(layout.private_el2_vectors(), PhysAddr::new(0x4000_1800));
        assert_eq!(layout.breadcrumbs, PhysAddr::new(0x4000_2000)..PhysAddr::new(0x4000_3000));
        assert_eq!(layout.rest, PhysAddr::new(0x4000_3000)..block.end);
    }

    #[test]
    fn four_pages_are_enough() {
        let layout = Layout::of(&(PhysAddr::new(0x4000_1000)..PhysAddr::new(0x4000_5000)));
        assert_eq!(layout.rest, PhysAddr::new(0x4000_4000)..PhysAddr::new(0x4000_5000));
    }

    #[test]
    #[should_panic(expected = "too few or misaligned")]
    fn a_block_without_room_is_refused() {
        let _ = Layout::of(&(PhysAddr::new(0x4000_0000)..PhysAddr::new(0x4000_3fff)));
    }

    #[test]
    #[should_panic(expected = "too few or misaligned")]
    fn a_misaligned_block_is_refused() {
        let _ = Layout::of(&(PhysAddr::new(0x4000_0800)..PhysAddr::new(0x4004_0000)));
    }

    #[test]
    fn a_check_has_the_ends_of_its_destination() {
        let check =
            Check::new(&(PhysAddr::new(0x4020_0000)..PhysAddr::new(0x4030_0000)), 0xffff_fffe);
        assert_eq!((check.start, check.end, check.crc32c), (0x4020_0000, 0x4030_0000, 0xffff_fffe));
    }

    #[test]
    fn flags_are_single_bits() {
        assert_eq!((COLD, HVC), (0b01, 0b10));
    }
}
