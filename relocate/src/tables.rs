//! The number of page tables that an identity map of ranges needs.
//!
//! A map with 4 KiB pages and a root at level 0 has one table for each entry that is not one block:
//! at level 0 (512 GiB) each entry in use, at levels 1 and 2 (1 GiB, 2 MiB) each entry that a range
//! covers in part.

use boot::phys::{PAGE_SHIFT, PhysAddr, PhysRange};
use boot::sysreg::descriptor::LEVEL_BITS;
use core::ops::Range;

/// Returns how many page tables a map of these ranges needs, the root included.
///
/// The ranges may overlap: then the later one is mapped over a part of the earlier one.
#[must_use]
pub fn needed(ranges: &[Range<PhysAddr>]) -> usize {
    let below = (1..=3).map(|level| {
        // The entries of the table above, `1 << shift` bytes each.
        let shift = PAGE_SHIFT + (4 - level) * LEVEL_BITS;
        let split = || ranges.iter().flat_map(|range| entries(range, shift));
        // Count each entry once, without memory for a set.
        split().enumerate().filter(|&(nth, entry)| !split().take(nth).any(|e| e == entry)).count()
    });
    1 + below.sum::<usize>()
}

/// Returns the entries of `1 << shift` bytes that the range touches, without those that it covers
/// whole; at level 0, whose entries are never blocks, all of them.
fn entries(range: &Range<PhysAddr>, shift: u32) -> impl Iterator<Item = u64> {
    let is_table = shift == PAGE_SHIFT + 3 * LEVEL_BITS;
    let (start, end) = (range.start.get(), range.end.get());
    let (first, last) = (start >> shift, end.saturating_sub(1) >> shift);
    let is_whole = move |entry: u64| start <= entry << shift && (entry + 1) << shift <= end;
    let all = if is_table { first..last + 1 } else { 0..0 };
    let ends = [first, last].into_iter().take(if is_table { 0 } else { 2 });
    let is_empty = range.bytes() == 0;
    all.chain(ends.filter(move |&entry| !is_whole(entry))).filter(move |_| !is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    fn range(start: u64, end: u64) -> Range<PhysAddr> {
        PhysAddr::new(start)..PhysAddr::new(end)
    }

    #[test]
    fn blocks_need_no_table_of_their_own() {
        assert_eq!(needed(&[]), 1);
        assert_eq!(needed(&[range(GIB, GIB)]), 1, "an empty range");
        // Root and level 1.
        assert_eq!(needed(&[range(GIB, 3 * GIB)]), 2);
        // And level 2 for the end.
        assert_eq!(needed(&[range(GIB, 2 * GIB + 2 * MIB)]), 3);
        // And level 3 for the end, which shares level 2.
        assert_eq!(needed(&[range(GIB, 2 * GIB + 2 * MIB + 4 * KIB)]), 4);
        assert_eq!(needed(&[range(GIB + 4 * KIB, 2 * GIB - 4 * KIB)]), 5);
        // A range within one page of level 3.
        assert_eq!(needed(&[range(GIB, GIB + 4 * KIB)]), 4);
    }

    #[test]
    fn ranges_share_tables() {
        let touching =
            [range(GIB, GIB + 6 * MIB + 4 * KIB), range(GIB + 6 * MIB + 8 * KIB, 2 * GIB)];
        assert_eq!(needed(&touching), 4, "both split one entry");
        assert_eq!(needed(&[range(0, GIB), range(600 * GIB, 601 * GIB)]), 3, "two of level 1");
        let holes: Vec<_> = (0..40)
            .map(|nth| GIB + nth * 4 * MIB)
            .map(|start| range(start + 64 * KIB, start + 4 * MIB))
            .collect();
        assert_eq!(needed(&holes), 1 + 1 + 1 + 40);
    }

    #[test]
    fn a_range_over_another_splits_it() {
        let code = range(GIB + 5 * MIB, GIB + 5 * MIB + 8 * KIB);
        assert_eq!(needed(&[range(GIB, 2 * GIB), code]), 4);
    }

    #[test]
    fn the_count_is_that_of_every_entry_looked_at() {
        // Every entry of a small space, one by one.
        let brute = |ranges: &[Range<PhysAddr>]| {
            let split = |bytes: u64, always: bool| {
                (0..2048 * GIB / bytes)
                    .filter(|entry| {
                        let whole = range(entry * bytes, (entry + 1) * bytes);
                        ranges.iter().any(|r| r.overlaps(&whole) && (always || !r.covers(&whole)))
                    })
                    .count()
            };
            1 + split(512 * GIB, true) + split(GIB, false) + split(2 * MIB, false)
        };
        for ranges in [
            [range(GIB + 4 * KIB, 5 * GIB), range(700 * GIB, 1500 * GIB + 6 * MIB)],
            [range(0, 4 * KIB), range(511 * GIB + 2 * MIB, 513 * GIB + 12 * KIB)],
            [range(2 * MIB, 4 * MIB), range(4 * MIB, 1024 * GIB)],
        ] {
            assert_eq!(needed(&ranges), brute(&ranges), "{ranges:?}");
        }
    }
}
