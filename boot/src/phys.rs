//! Physical addresses, and half-open ranges of them.

use core::fmt;
use core::ops::{Add, Range, Sub};

/// Translation granule, and the unit in which memory is allocated, mapped and moved: 4 KiB.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Number of address bits within a page.
pub const PAGE_SHIFT: u32 = 12;

/// Said of a sum or a difference that is no address: a mistake of ours.
const OVERFLOW: &str = "address arithmetic left the 64-bit space";

/// Physical address.
///
/// The kernel's map is an identity map, so this is also the address that a pointer holds.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// Returns the address with this number.
    #[must_use]
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// Returns the address as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the address `bytes` higher, or `None` past the end of the 64-bit space.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }

    /// Returns the address `bytes` higher, or the last one of the 64-bit space.
    #[must_use]
    pub const fn saturating_add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Returns whether the address is a multiple of `alignment`, a power of two.
    #[must_use]
    pub const fn is_aligned(self, alignment: u64) -> bool {
        self.0 & (alignment - 1) == 0
    }

    /// Rounds down to a multiple of `alignment`, a power of two.
    #[must_use]
    pub const fn align_down(self, alignment: u64) -> Self {
        Self(self.0 & !(alignment - 1))
    }

    /// Rounds up to a multiple of `alignment`, a power of two.
    ///
    /// # Panics
    ///
    /// If the result is past the end of the 64-bit space, where no machine has memory.
    #[must_use]
    pub const fn align_up(self, alignment: u64) -> Self {
        Self(
            self.0
                .checked_add(alignment - 1)
                .expect("an address in the last page of the 64-bit space"),
        )
        .align_down(alignment)
    }

    /// Returns the range of `bytes` bytes from here, or `None` past the end of the 64-bit space.
    #[must_use]
    pub const fn range(self, bytes: u64) -> Option<Range<Self>> {
        match self.checked_add(bytes) {
            Some(end) => Some(self..end),
            None => None,
        }
    }
}

/// Returns the address so many bytes higher.
///
/// # Panics
///
/// Past the end of the 64-bit space. [`PhysAddr::checked_add`] is for numbers that others wrote.
impl Add<u64> for PhysAddr {
    type Output = Self;

    fn add(self, bytes: u64) -> Self {
        self.checked_add(bytes).expect(OVERFLOW)
    }
}

/// Returns the address so many bytes lower.
///
/// # Panics
///
/// Below address 0.
impl Sub<u64> for PhysAddr {
    type Output = Self;

    fn sub(self, bytes: u64) -> Self {
        Self(self.0.checked_sub(bytes).expect(OVERFLOW))
    }
}

/// Returns by how many bytes the other address is lower.
///
/// # Panics
///
/// If it is higher.
impl Sub for PhysAddr {
    type Output = u64;

    fn sub(self, lower: Self) -> u64 {
        self.0.checked_sub(lower.0).expect(OVERFLOW)
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Operations on `Range<PhysAddr>`.
pub trait PhysRange: Sized {
    /// Returns the size in bytes.
    fn bytes(&self) -> u64;
    /// Returns whether the two ranges have a byte in common.
    fn overlaps(&self, other: &Self) -> bool;
    /// Returns whether all of `other` is within this range.
    fn covers(&self, other: &Self) -> bool;
    /// Returns the smallest range of whole pages that covers this one.
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
        PhysAddr::new(start)..PhysAddr::new(end)
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        assert!(!range(0x1000, 0x2000).overlaps(&range(0x2000, 0x3000)));
        assert!(!range(0x2000, 0x3000).overlaps(&range(0x1000, 0x2000)));
        assert!(range(0x1000, 0x2001).overlaps(&range(0x2000, 0x3000)));
        assert!(range(0x1000, 0x9000).overlaps(&range(0x2000, 0x3000)));
        assert!(!range(0x2000, 0x2000).overlaps(&range(0x1000, 0x3000)));
    }

    #[test]
    fn an_empty_range_overlaps_nothing() {
        assert!(!range(0x2000, 0x2000).overlaps(&range(0x1000, 0x3000)));
        assert!(!range(0x1000, 0x3000).overlaps(&range(0x2000, 0x2000)));
        assert!(!range(0x3000, 0x1000).overlaps(&range(0x0000, 0x4000)));
    }

    #[test]
    fn a_range_covers_what_ends_where_it_ends() {
        let outer = range(0x1000, 0x3000);
        assert!(outer.covers(&outer));
        assert!(outer.covers(&range(0x1001, 0x2fff)));
        assert!(!outer.covers(&range(0x0fff, 0x2000)));
        assert!(!outer.covers(&range(0x2000, 0x3001)));
        assert!(!outer.covers(&range(0x0000, 0x4000)));
    }

    #[test]
    fn a_range_has_as_many_bytes_as_its_ends_are_apart() {
        assert_eq!(range(0x1000, 0x3001).bytes(), 0x2001);
        assert_eq!(range(0x1000, 0x1000).bytes(), 0);
        assert_eq!(range(0x3000, 0x1000).bytes(), 0);
        assert_eq!(PhysAddr::new(0x1000).range(0x2000), Some(range(0x1000, 0x3000)));
        assert_eq!(PhysAddr::new(0x1000).checked_add(0x2000), Some(PhysAddr::new(0x3000)));
    }

    #[test]
    fn an_address_moves_by_bytes() {
        let address = PhysAddr::new(0x1000);
        assert_eq!(address + 0x234, PhysAddr::new(0x1234));
        assert_eq!(PhysAddr::new(0x1234) - 0x234, address);
        assert_eq!(PhysAddr::new(0x1234) - address, 0x234);
        assert_eq!(address.saturating_add(2), PhysAddr::new(0x1002));
        assert_eq!(address.saturating_add(u64::MAX), PhysAddr::new(u64::MAX));
    }

    #[test]
    #[should_panic(expected = "address arithmetic left the 64-bit space")]
    fn a_sum_past_the_end_is_no_address() {
        let _ = PhysAddr::new(u64::MAX) + 1;
    }

    #[test]
    #[should_panic(expected = "address arithmetic left the 64-bit space")]
    fn a_difference_below_zero_is_no_address() {
        let _ = PhysAddr::new(1) - 2;
    }

    #[test]
    #[should_panic(expected = "address arithmetic left the 64-bit space")]
    fn a_higher_address_is_not_subtracted() {
        let _ = PhysAddr::new(1) - PhysAddr::new(2);
    }

    #[test]
    fn nothing_is_past_the_end_of_the_64_bit_space() {
        let last = PhysAddr::new(u64::MAX);
        assert_eq!(last.checked_add(1), None);
        assert_eq!(last.range(1), None);
        assert_eq!(last.range(0), Some(last..last));
        assert_eq!(
            PhysAddr::new(u64::MAX - 0xfff).align_up(PAGE_SIZE).get(),
            0xffff_ffff_ffff_f000
        );
    }

    #[test]
    #[should_panic(expected = "an address in the last page of the 64-bit space")]
    fn no_page_begins_after_the_last_one() {
        let _ = PhysAddr::new(u64::MAX - 0xffe).align_up(PAGE_SIZE);
    }

    #[test]
    fn addresses_are_rounded_to_the_alignment() {
        for (address, alignment, aligned, down, up) in [
            (0x0000, 0x1000, true, 0x0000, 0x0000),
            (0x0001, 0x1000, false, 0x0000, 0x1000),
            (0x0fff, 0x1000, false, 0x0000, 0x1000),
            (0x1000, 0x1000, true, 0x1000, 0x1000),
            (0x1800, 0x1000, false, 0x1000, 0x2000),
            (0x1800, 0x0800, true, 0x1800, 0x1800),
            (0x1801, 0x0001, true, 0x1801, 0x1801),
        ] {
            let address = PhysAddr::new(address);
            assert_eq!(address.is_aligned(alignment), aligned, "{address} to {alignment:#x}");
            assert_eq!(address.align_down(alignment).get(), down, "{address} to {alignment:#x}");
            assert_eq!(address.align_up(alignment).get(), up, "{address} to {alignment:#x}");
        }
    }

    #[test]
    fn an_address_is_printed_in_hexadecimal() {
        assert_eq!(PhysAddr::new(0x4020_0000).to_string(), "0x40200000");
    }

    #[test]
    fn whole_pages_grow_outwards() {
        assert_eq!(range(0x1fff, 0x2001).whole_pages(), range(0x1000, 0x3000));
        assert_eq!(range(0x1000, 0x2000).whole_pages(), range(0x1000, 0x2000));
    }
}
