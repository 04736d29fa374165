//! RAM that the firmware's memory map leaves to a kernel.
//!
//! The loader looks for RAM each time it has read the map, before it leaves boot services.
//! `GetMemoryMap` may list descriptors in any order. Each range is found by a new pass over the
//! map, so that no memory is needed to sort it.
//!
//! Memory counts as RAM (UEFI 2.10, table 7.10) if it was free or belonged to boot services, can be
//! cached write-back, and is not set aside for a special purpose. The rest is not RAM:
//!
//! - Runtime services: this kernel does not call them, but a kernel that it starts may learn of
//!   them in another way.
//! - Reserved memory, which must not even be mapped.
//! - Memory that the map does not mention.

use boot::phys::{PAGE_SIZE, PhysAddr};
use core::ops::Range;
use uefi_raw::table::boot::{MemoryAttribute, MemoryDescriptor, MemoryType};

/// Memory map: descriptors `stride` bytes apart, which may be more than the size we know.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> MemoryMap<'a> {
    /// Wraps the map in `bytes`, or returns `None` if `stride` is less than any descriptor's size.
    #[must_use]
    pub fn new(bytes: &'a [u8], stride: usize) -> Option<Self> {
        (stride >= size_of::<MemoryDescriptor>()).then_some(Self { bytes, stride })
    }

    /// Returns the ranges of RAM in ascending order, adjacent descriptors merged.
    #[must_use]
    pub fn ram(self) -> Ram<'a> {
        Ram { map: self, from: 0 }
    }

    fn usable(self) -> impl Iterator<Item = Range<u64>> {
        self.bytes.chunks_exact(self.stride).filter_map(|bytes| {
            let ty = MemoryType(u32::from_le_bytes(*bytes.first_chunk()?));
            let number =
                |at: usize| bytes[at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let (start, pages) = (number(8)?, number(24)?);
            let attributes = MemoryAttribute::from_bits_retain(number(32)?);
            let end = start.checked_add(pages.checked_mul(PAGE_SIZE)?)?;
            (is_ram(ty, attributes) && start < end).then_some(start..end)
        })
    }
}

fn is_ram(ty: MemoryType, attributes: MemoryAttribute) -> bool {
    let free = [
        MemoryType::LOADER_CODE,
        MemoryType::LOADER_DATA,
        MemoryType::BOOT_SERVICES_CODE,
        MemoryType::BOOT_SERVICES_DATA,
        MemoryType::CONVENTIONAL,
        // The device tree has been copied out of it, and this kernel reads no ACPI tables.
        MemoryType::ACPI_RECLAIM,
    ];
    free.contains(&ty)
        && attributes.contains(MemoryAttribute::WRITE_BACK)
        && !attributes.contains(MemoryAttribute::SPECIAL_PURPOSE)
}

/// Iterator over ranges of RAM, each found by a pass over the whole map.
#[derive(Clone, Debug)]
pub struct Ram<'a> {
    map: MemoryMap<'a>,
    from: u64,
}

impl Iterator for Ram<'_> {
    type Item = Range<PhysAddr>;

    fn next(&mut self) -> Option<Self::Item> {
        let Range { start, mut end } = self
            .map
            .usable()
            .filter(|range| range.start >= self.from)
            .min_by_key(|range| range.start)?;
        while let Some(further) = self
            .map
            .usable()
            .filter(|range| (start..=end).contains(&range.start))
            .map(|r| r.end)
            .max()
            && further > end
        {
            end = further;
        }
        self.from = end;
        Some(PhysAddr::new(start)..PhysAddr::new(end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WB: MemoryAttribute = MemoryAttribute::WRITE_BACK;

    /// Builds descriptors of 48 bytes, as EDK2 does.
    fn map(of: &[(MemoryType, u64, u64, MemoryAttribute)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (ty, start, pages, attributes) in of {
            bytes.extend(u64::from(ty.0).to_le_bytes());
            for number in [*start, 0, *pages, attributes.bits(), u64::MAX] {
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes
    }

    fn ram(of: &[(MemoryType, u64, u64, MemoryAttribute)]) -> Vec<Range<u64>> {
        let bytes = map(of);
        MemoryMap::new(&bytes, 48)
            .unwrap()
            .ram()
            .map(|range| range.start.get()..range.end.get())
            .collect()
    }

    #[test]
    fn what_touches_is_one_range_in_whatever_order_it_comes() {
        let found = ram(&[
            (MemoryType::CONVENTIONAL, 0x8000, 2, WB),
            (MemoryType::LOADER_DATA, 0x2000, 1, WB),
            (MemoryType::BOOT_SERVICES_CODE, 0x1000, 1, WB),
            (MemoryType::BOOT_SERVICES_DATA, 0x3000, 1, WB | MemoryAttribute::UNCACHEABLE),
            (MemoryType::LOADER_CODE, 0x4000, 1, WB),
            (MemoryType::ACPI_RECLAIM, 0x5000, 1, WB),
        ]);
        assert_eq!(found, [0x1000..0x6000, 0x8000..0xa000]);
    }

    #[test]
    fn ram_may_begin_at_zero() {
        let found =
            ram(&[(MemoryType::CONVENTIONAL, 0x8000, 1, WB), (MemoryType::CONVENTIONAL, 0, 1, WB)]);
        assert_eq!(found, [0..0x1000, 0x8000..0x9000]);
    }

    #[test]
    fn what_overlaps_is_one_range() {
        let found = ram(&[
            (MemoryType::CONVENTIONAL, 0x1000, 4, WB),
            (MemoryType::LOADER_DATA, 0x2000, 1, WB),
            (MemoryType::LOADER_DATA, 0x4000, 2, WB),
            (MemoryType::LOADER_DATA, 0x7000, 1, WB),
        ]);
        assert_eq!(found, [0x1000..0x6000, 0x7000..0x8000]);
    }

    #[test]
    fn what_the_firmware_keeps_is_no_ram() {
        for ty in [
            MemoryType::RESERVED,
            MemoryType::RUNTIME_SERVICES_CODE,
            MemoryType::RUNTIME_SERVICES_DATA,
            MemoryType::UNUSABLE,
            MemoryType::ACPI_NON_VOLATILE,
            MemoryType::MMIO,
            MemoryType::PERSISTENT_MEMORY,
            MemoryType::UNACCEPTED,
            MemoryType(0x8000_0000),
        ] {
            let found = ram(&[
                (MemoryType::CONVENTIONAL, 0x1000, 1, WB),
                (ty, 0x2000, 1, WB),
                (MemoryType::CONVENTIONAL, 0x3000, 1, WB),
            ]);
            assert_eq!(found, [0x1000..0x2000, 0x3000..0x4000], "{ty:?}");
        }
        assert_eq!(ram(&[(MemoryType::CONVENTIONAL, 0x1000, 1, MemoryAttribute::UNCACHEABLE)]), []);
        assert_eq!(
            ram(&[(MemoryType::CONVENTIONAL, 0x1000, 1, WB | MemoryAttribute::SPECIAL_PURPOSE)]),
            []
        );
    }

    #[test]
    fn a_map_that_cannot_be_is_none() {
        assert!(MemoryMap::new(&[0; 80], 39).is_none());
        assert!(MemoryMap::new(&[0; 80], 40).is_some());
        assert_eq!(
            ram(&[(MemoryType::CONVENTIONAL, u64::MAX - 4095, 2, WB)]),
            [],
            "past the address space"
        );
        assert_eq!(ram(&[(MemoryType::CONVENTIONAL, 0x1000, u64::MAX, WB)]), []);
        assert_eq!(ram(&[(MemoryType::CONVENTIONAL, 0x1000, 0, WB)]), []);
        assert_eq!(ram(&[]), []);
    }
}
