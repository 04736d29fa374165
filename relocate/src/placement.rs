//! Placement: finds addresses for the next image and the control pages.
//!
//! - *When:* while this kernel plans its successor.
//! - *Expects:* RAM, and the ranges to avoid.
//! - *Leaves:* nothing; every function computes its result without allocating.
//! - *Refuses:* nothing; a block that fits nowhere gets `None`.
//!
//! Sizes are rounded up to whole pages, RAM is rounded inwards, and ranges to avoid outwards. RAM
//! ranges must not overlap. Ranges to avoid may overlap, and come in any order.
//!
//! The cost is quadratic in the number of ranges to avoid, which is some tens. Sorting them would
//! need memory to sort in.

use core::ops::Range;

use boot::phys::{PAGE_SIZE, PhysAddr};

use crate::random::SplitMix64;

/// The alignment of an image's base: Linux's arm64 boot protocol requires 2 MiB.
pub const SLOT: u64 = boot::image::BASE_ALIGNMENT;

/// Returns the number of slots for `size` bytes.
///
/// A slot is a multiple of [`SLOT`] at which the block is within one range of RAM and overlaps no
/// range to avoid.
#[must_use]
pub fn slots(ram: &[Range<PhysAddr>], avoid: &[Range<PhysAddr>], size: u64) -> u64 {
    let mut count = 0;
    each_fit(ram, avoid, size, SLOT, |fit| count += fit.count);
    count
}

/// Returns one of the [`slots`], chosen uniformly.
pub fn random_slot(
    random: &mut SplitMix64,
    ram: &[Range<PhysAddr>],
    avoid: &[Range<PhysAddr>],
    size: u64,
) -> Option<PhysAddr> {
    random_block(random, ram, avoid, size, SLOT)
}

/// Returns a uniformly chosen address for a block of `size` bytes.
///
/// The block is within one range of RAM and clear of the ranges to avoid. The address is a multiple
/// of `align`, a power of two of at least a page.
pub fn random_block(
    random: &mut SplitMix64,
    ram: &[Range<PhysAddr>],
    avoid: &[Range<PhysAddr>],
    size: u64,
    align: u64,
) -> Option<PhysAddr> {
    let mut count = 0;
    each_fit(ram, avoid, size, align, |fit| count += fit.count);
    if count == 0 {
        return None;
    }
    let mut index = random.below(count);
    let mut place = None;
    each_fit(ram, avoid, size, align, |fit| {
        if place.is_none() {
            if index < fit.count {
                place = Some(fit.first + index * align);
            } else {
                index -= fit.count;
            }
        }
    });
    place
}

/// Returns the highest address for a block of `size` bytes.
///
/// The block is within one range of RAM and clear of the ranges to avoid. The address is a multiple
/// of `align`, a power of two of at least a page.
#[must_use]
pub fn highest_block(
    ram: &[Range<PhysAddr>],
    avoid: &[Range<PhysAddr>],
    size: u64,
    align: u64,
) -> Option<PhysAddr> {
    let mut highest = None;
    each_fit(ram, avoid, size, align, |fit| {
        highest = highest.max(Some(fit.first + (fit.count - 1) * align));
    });
    highest
}

/// Returns the lowest address for a block of `size` bytes.
///
/// The block is within one range of RAM and clear of the ranges to avoid. The address is a multiple
/// of `align`, a power of two of at least a page.
#[must_use]
pub fn lowest_block(
    ram: &[Range<PhysAddr>],
    avoid: &[Range<PhysAddr>],
    size: u64,
    align: u64,
) -> Option<PhysAddr> {
    let mut lowest = None;
    each_fit(ram, avoid, size, align, |fit| {
        lowest = Some(lowest.map_or(fit.first, |lowest: PhysAddr| lowest.min(fit.first)));
    });
    lowest
}

/// Emits RAM without the holes, as maximal ranges of whole pages.
///
/// The ranges come by RAM range, and in ascending order within each.
pub fn subtract(
    ram: &[Range<PhysAddr>],
    holes: &[Range<PhysAddr>],
    mut emit: impl FnMut(Range<PhysAddr>),
) {
    for ram in ram {
        let end = ram.end.align_down(PAGE_SIZE);
        if ram.start >= end {
            continue;
        }
        let mut at = ram.start.align_up(PAGE_SIZE);
        while at < end {
            // Find the first hole that is not yet passed. Ends are cut to RAM's before they are
            // rounded up, because a hole may reach the last page of the address space, whose end
            // has no address.
            let next = holes
                .iter()
                .filter(|hole| !hole.is_empty() && hole.end > at && hole.start < end)
                .min_by_key(|hole| hole.start);
            let Some(hole) = next else {
                emit(at..end);
                break;
            };
            let start = hole.start.align_down(PAGE_SIZE);
            if at < start {
                emit(at..start);
            }
            at = hole.end.min(end).align_up(PAGE_SIZE);
        }
    }
}

/// The candidate addresses in one free range: `first` and `count - 1` more, `align` apart.
struct Fit {
    first: PhysAddr,
    count: u64,
}

/// Emits the candidate addresses for `size` bytes, by free range; skips ranges that have none.
fn each_fit(
    ram: &[Range<PhysAddr>],
    avoid: &[Range<PhysAddr>],
    size: u64,
    align: u64,
    mut emit: impl FnMut(Fit),
) {
    assert!(
        align.is_power_of_two() && align >= PAGE_SIZE,
        "the alignment must be a power of two of at least a page"
    );
    let Some(size) = size.max(1).checked_next_multiple_of(PAGE_SIZE) else { return };
    subtract(ram, avoid, |free| {
        let (Some(first), Some(last)) =
            (free.start.get().checked_next_multiple_of(align), free.end.get().checked_sub(size))
        else {
            return;
        };
        if first <= last {
            emit(Fit { first: PhysAddr::new(first), count: (last - first) / align + 1 });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    fn range(start: u64, end: u64) -> Range<PhysAddr> {
        PhysAddr::new(start)..PhysAddr::new(end)
    }

    fn free(ram: &[Range<PhysAddr>], holes: &[Range<PhysAddr>]) -> Vec<Range<PhysAddr>> {
        let mut free = Vec::new();
        subtract(ram, holes, |range| {
            free.push(range);
            assert!(free.len() < 1000, "it does not end");
        });
        free
    }

    /// Finds every address by testing each multiple of `align` against the definition.
    fn tried(
        ram: &[Range<PhysAddr>],
        avoid: &[Range<PhysAddr>],
        size: u64,
        align: u64,
    ) -> Vec<PhysAddr> {
        let top = ram.iter().map(|ram| ram.end.get()).max().unwrap_or(0);
        (0..top.div_ceil(align))
            .map(|n| n * align)
            .filter(|&base| {
                let end = base + size.next_multiple_of(PAGE_SIZE);
                ram.iter().any(|ram| ram.start.get() <= base && end <= ram.end.get())
                    && !avoid.iter().any(|hole| {
                        !hole.is_empty()
                            && (hole.start.get() & !0xfff) < end
                            && base < hole.end.get().next_multiple_of(PAGE_SIZE)
                    })
            })
            .map(PhysAddr::new)
            .collect()
    }

    #[test]
    fn without_holes_ram_is_free_but_for_broken_pages() {
        let ram = [
            range(0x4000_0000, 0x4800_0000),
            range(0x1800, 0x4800),
            range(0x7001, 0x8fff),
            range(0x9010, 0x9020),
        ];
        assert_eq!(free(&ram, &[]), [range(0x4000_0000, 0x4800_0000), range(0x2000, 0x4000)]);
        assert_eq!(free(&[], &[range(0, 0x1000)]), []);
        let (empty, inverted) = (range(0x1000, 0x1000), range(0x9000, 0x1000));
        assert_eq!(free(&[empty, inverted], &[]), []);
    }

    #[test]
    fn holes_in_any_order_over_each_other_and_beyond_ram() {
        let ram = [range(0x10000, 0x20000), range(0x30000, 0x40000)];
        let holes = [
            range(0x3f001, 0x3f002),
            range(0x13000, 0x15000),
            range(0x12000, 0x14000),
            range(0x12800, 0x13000),
            range(0x1e000, 0x31000),
            range(0, 0x10001),
            range(0x16000, 0x16000),
            range(0x18000, 0x17000),
        ];
        let expected = [range(0x11000, 0x12000), range(0x15000, 0x1e000), range(0x31000, 0x3f000)];
        assert_eq!(free(&ram, &holes), expected);
        assert_eq!(free(&ram, &[range(0, u64::MAX)]), []);
        assert_eq!(
            free(&ram, &[range(0x31000, u64::MAX)]),
            [range(0x10000, 0x20000), range(0x30000, 0x31000)]
        );
    }

    #[test]
    fn a_hole_at_an_end_or_beside_another_leaves_no_empty_range() {
        let ram = [range(0x10000, 0x20000)];
        assert_eq!(free(&ram, &[range(0x10000, 0x11000)]), [range(0x11000, 0x20000)]);
        assert_eq!(free(&ram, &[range(0x1f000, 0x20000)]), [range(0x10000, 0x1f000)]);
        assert_eq!(free(&ram, &[range(0x20000, 0x21000), range(0xf000, 0x10000)]), ram);
        assert_eq!(
            free(&ram, &[range(0x12000, 0x13000), range(0x13000, 0x14000)]),
            [range(0x10000, 0x12000), range(0x14000, 0x20000)]
        );
    }

    #[test]
    fn the_ends_of_the_address_space() {
        let ram = [range(0, 0x2000), range(u64::MAX - 0x2fff, u64::MAX)];
        assert_eq!(
            free(&ram, &[]),
            [range(0, 0x2000), range(0xffff_ffff_ffff_d000, 0xffff_ffff_ffff_f000)]
        );
        assert_eq!(free(&ram, &[range(u64::MAX - 1, u64::MAX)]), free(&ram, &[]));
        assert_eq!(
            highest_block(&ram, &[], 0x1000, PAGE_SIZE),
            Some(PhysAddr::new(0xffff_ffff_ffff_e000))
        );
        assert_eq!(highest_block(&ram, &[], 0x1000, 1 << 63), Some(PhysAddr::new(0)));
        assert_eq!(highest_block(&ram, &[], u64::MAX, PAGE_SIZE), None);
    }

    #[test]
    fn slots_are_whole_and_in_one_range_of_ram() {
        // 8 MiB that begin 64 KiB late have slots at 2, 4 and 6 MiB.
        let ram = [range(64 * KIB, 8 * MIB)];
        assert_eq!(slots(&ram, &[], 1), 3);
        assert_eq!(slots(&ram, &[], 0), 3);
        assert_eq!(slots(&ram, &[], 2 * MIB), 3);
        assert_eq!(slots(&ram, &[], 2 * MIB + 1), 2);
        assert_eq!(slots(&ram, &[], 6 * MIB), 1);
        assert_eq!(slots(&ram, &[], 6 * MIB + 1), 0);
        assert_eq!(slots(&ram, &[range(4 * MIB - 1, 4 * MIB)], MIB), 3);
        assert_eq!(slots(&ram, &[range(4 * MIB - 1, 4 * MIB)], 2 * MIB), 2);
        assert_eq!(slots(&ram, &[range(4 * MIB, 4 * MIB + 1)], 4 * KIB), 2);
        // Ranges that touch are not merged here: the caller does that.
        assert_eq!(slots(&[range(0, 2 * MIB), range(2 * MIB, 4 * MIB)], &[], 4 * MIB), 0);
    }

    #[test]
    fn what_fits_nowhere_has_no_place() {
        let ram = [range(0, 4 * MIB)];
        let mut random = SplitMix64::new(3);
        assert_eq!(random_slot(&mut random, &ram, &[], 5 * MIB), None);
        assert_eq!(random_slot(&mut random, &[], &[], 1), None);
        assert_eq!(random_block(&mut random, &ram, &[range(0, 4 * MIB)], 1, PAGE_SIZE), None);
        assert_eq!(highest_block(&ram, &[range(0, 4 * MIB)], 1, PAGE_SIZE), None);
    }

    #[test]
    fn every_slot_is_as_likely_as_the_others() {
        // Ten slots, in gaps of three, one and six.
        let ram = [range(0, 10 * MIB), range(100 * MIB, 112 * MIB)];
        let avoid = [range(6 * MIB, 8 * MIB)];
        let draws = if cfg!(miri) { 500 } else { 100_000 };
        let mut random = SplitMix64::new(4);
        let mut hits = std::collections::BTreeMap::new();
        for _ in 0..draws {
            *hits
                .entry(random_slot(&mut random, &ram, &avoid, 2 * MIB).expect("there are ten"))
                .or_insert(0_usize) += 1;
        }
        assert!(hits.keys().copied().eq(tried(&ram, &avoid, 2 * MIB, SLOT)), "{hits:?}");
        assert_eq!(hits.len() as u64, slots(&ram, &avoid, 2 * MIB));
        let tolerance = if cfg!(miri) { 30 } else { 500 };
        assert!(hits.values().all(|hits| hits.abs_diff(draws / 10) < tolerance), "{hits:?}");
    }

    #[test]
    #[should_panic(expected = "must be a power of two")]
    fn an_alignment_of_three_pages_is_a_mistake() {
        let _ = highest_block(&[range(0, MIB)], &[], 1, 3 * PAGE_SIZE);
    }

    #[test]
    fn random_memories_agree_with_trying_everything() {
        let mut random = SplitMix64::new(5);
        for case in 0..if cfg!(miri) { 20 } else { 20_000 } {
            // Up to 128 pages of address space: a few RAM ranges that may touch, and up to eight
            // holes anywhere. Ends are at multiples of 512 bytes.
            let mut ram = Vec::new();
            let mut at = random.below(16);
            while at < 1024 && random.below(5) > 0 {
                let end = at + random.below(512);
                ram.push(range(at << 9, end << 9));
                at = end + random.below(2) * random.below(64);
            }
            let holes: Vec<Range<PhysAddr>> = (0..random.below(9))
                .map(|_| {
                    let start = random.below(1024);
                    range(start << 9, (start + random.below(64)) << 9)
                })
                .collect();
            let size = random.below(20 * PAGE_SIZE) + 1;
            let align = PAGE_SIZE << random.below(4);

            let places = tried(&ram, &holes, size, align);
            assert_eq!(
                highest_block(&ram, &holes, size, align),
                places.last().copied(),
                "case {case}"
            );
            assert_eq!(
                lowest_block(&ram, &holes, size, align),
                places.first().copied(),
                "case {case}"
            );
            let place = random_block(&mut random, &ram, &holes, size, align);
            assert_eq!(place.is_some(), !places.is_empty(), "case {case}");
            assert!(place.is_none_or(|place| places.contains(&place)), "case {case}");
            let mut count = 0;
            each_fit(&ram, &holes, size, align, |fit| count += fit.count);
            assert_eq!(count, places.len() as u64, "case {case}");

            let free = free(&ram, &holes);
            let pages: Vec<PhysAddr> = free
                .iter()
                .flat_map(|range| {
                    (range.start.get()..range.end.get()).step_by(4096).map(PhysAddr::new)
                })
                .collect();
            assert_eq!(pages, tried(&ram, &holes, PAGE_SIZE, PAGE_SIZE), "case {case}");
            let whole = |pair: &[Range<PhysAddr>]| {
                pair[0].end < pair[1].start
                    || ram.iter().any(|ram| ram.end.align_down(PAGE_SIZE) == pair[0].end)
            };
            assert!(free.windows(2).all(whole), "case {case}: two ranges that are one: {free:?}");
        }
    }
}
