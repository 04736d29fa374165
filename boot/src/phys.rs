//! Physical addresses and ranges of them.
//!
//! *When:* in every phase. An address is checked once, where its type is made; ranges are half open, `start..end`.

use core::fmt;
use core::ops::Range;

/// The translation granule, and the unit in which memory is handed out, mapped and moved: 4 KiB.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// The bits of an address within a page.
pub const PAGE_SHIFT: u32 = 12;

/// A physical address. The kernel's map is an identity map, so it is also the address that a pointer holds.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct PhysAddr(pub u64);

impl PhysAddr {
    /// The address `bytes` further on, or `None` past the end of the 64-bit space.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }

    /// Whether the address is a multiple of `alignment`, a power of two.
    #[must_use]
    pub const fn is_aligned(self, alignment: u64) -> bool {
        self.0 & (alignment - 1) == 0
    }

    /// The greatest multiple of `alignment`, a power of two, that is not above this address.
    #[must_use]
    pub const fn align_down(self, alignment: u64) -> Self {
        Self(self.0 & !(alignment - 1))
    }

    /// The least multiple of `alignment`, a power of two, that is not below this address.
    ///
    /// # Panics
    ///
    /// Where that lies past the end of the 64-bit space: no memory lies there.
    #[must_use]
    pub const fn align_up(self, alignment: u64) -> Self {
        Self(
            self.0
                .checked_add(alignment - 1)
                .expect("an address in the last page of the 64-bit space"),
        )
        .align_down(alignment)
    }

    /// The range of `bytes` bytes that starts here, or `None` where it would pass the end of the 64-bit space.
    #[must_use]
    pub const fn range(self, bytes: u64) -> Option<Range<Self>> {
        match self.checked_add(bytes) {
            Some(end) => Some(self..end),
            None => None,
        }
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What `Range<PhysAddr>` can be asked.
pub trait PhysRange: Sized {
    /// The range's size in bytes.
    fn bytes(&self) -> u64;
    /// Whether the two ranges have a byte in common.
    fn overlaps(&self, other: &Self) -> bool;
    /// Whether all of `other` lies in this range.
    fn covers(&self, other: &Self) -> bool;
    /// The smallest range of whole pages that covers this one.
    #[must_use]
    fn whole_pages(&self) -> Self;
}

impl PhysRange for Range<PhysAddr> {
    fn bytes(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }

    fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }

    fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    fn whole_pages(&self) -> Self {
        self.start.align_down(PAGE_SIZE)..self.end.align_up(PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range<PhysAddr> {
        PhysAddr(start)..PhysAddr(end)
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        assert!(!range(0x1000, 0x2000).overlaps(&range(0x2000, 0x3000)));
        assert!(range(0x1000, 0x2001).overlaps(&range(0x2000, 0x3000)));
        assert!(range(0x1000, 0x9000).overlaps(&range(0x2000, 0x3000)));
        assert!(!range(0x2000, 0x2000).overlaps(&range(0x1000, 0x3000)));
    }

    #[test]
    fn whole_pages_grow_outwards() {
        assert_eq!(range(0x1fff, 0x2001).whole_pages(), range(0x1000, 0x3000));
        assert_eq!(range(0x1000, 0x2000).whole_pages(), range(0x1000, 0x2000));
    }
}
