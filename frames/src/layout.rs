//! The memory layout: RAM that this kernel keeps, RAM for the heap, and RAM for frames.
//!
//! - Runs once in a generation, before RAM is mapped.
//! - Expects the machine as the device tree describes it, and the range of this image.
//! - Leaves ranges of whole pages. `control`, `blocks`, `heap` and `frames` do not overlap.
//! - Returns `None` if RAM has no room for the control pages.
//! - Ignores breadcrumbs outside of RAM, and gives no block to a CPU whose stacks do not fit.

use alloc::vec::Vec;
use boot::phys::{PAGE_SHIFT, PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::Range;
use fdt::machine::Machine;
use relocate::placement;
use relocate::random::SplitMix64;

/// Returns the number of control pages for a machine whose RAM is mapped as so many ranges.
///
/// Code, vectors and breadcrumbs take three pages, the list about one page for each 500 MiB that is
/// moved, and page tables the rest: two for each end of a range, if its GiB has no other end.
fn control_pages(ranges: usize) -> u64 {
    const FOR_SOME_RANGES: u64 = 64;
    const SOME_RANGES: usize = 8;
    let more = 4 * ranges.saturating_sub(SOME_RANGES) as u64;
    (FOR_SOME_RANGES + more).next_multiple_of(CONTROL_ALIGNMENT / PAGE_SIZE)
}

/// The alignment of the control pages: the 16 pages of a contiguous hint, so that the control pages
/// share no such range with memory next to them.
const CONTROL_ALIGNMENT: u64 = 16 * PAGE_SIZE;

/// The largest heap.
///
/// The largest things in it are device trees of at most 2 MiB each: this kernel's own, a payload's,
/// and up to four parts of the payload's while it is edited. Then come a FIT's tree with
/// 1 MiB, 256 KiB each of a gzip file and of network buffers, and the disk's 64 KiB. All else is
/// some hundred KiB.
const MOST_HEAP: u64 = 16 << 20;

/// The smallest heap, if free RAM has room for it.
///
/// Network buffers take half of it, and a device tree of some KiB with all else fits in the rest.
const LEAST_HEAP: u64 = 256 << 10;

/// The heap's share of free RAM, where that is between the two.
const HEAP_SHARE: u64 = 8;

/// Page 0, which is no RAM to this kernel: a pointer to it would be null.
pub const PAGE_0: Range<PhysAddr> = PhysAddr::new(0)..PhysAddr::new(PAGE_SIZE);

/// Returns RAM in whole pages, without [`PAGE_0`].
#[must_use]
pub fn usable(ram: &[Range<PhysAddr>]) -> Vec<Range<PhysAddr>> {
    without(ram, &[PAGE_0])
}

/// The memory layout of this generation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemoryLayout {
    /// The page with the previous kernel's breadcrumbs, if there is one.
    pub breadcrumbs: Option<Range<PhysAddr>>,
    /// The control pages: relocation code, breadcrumbs, list and page tables of the next kexec.
    pub control: Range<PhysAddr>,
    /// A block for each secondary CPU, for as many as fit.
    pub blocks: Vec<Range<PhysAddr>>,
    /// RAM that may be mapped.
    pub mapped: Vec<Range<PhysAddr>>,
    /// The heap: one range, whose place depends on nothing but the machine, this image's place and
    /// the control pages. Empty if no page is free.
    pub heap: Range<PhysAddr>,
    /// The rest of `mapped`, for the frame allocator. It holds the FDT and the breadcrumbs: no
    /// frame may be taken before the FDT was copied and the breadcrumbs were read.
    pub frames: Vec<Range<PhysAddr>>,
}

impl MemoryLayout {
    /// Divides the machine's RAM.
    ///
    /// - `tree`: the pages of the FDT that this kernel was entered with
    /// - `breadcrumbs`: the page that the previous kernel named in /chosen
    /// - `block_size`: the bytes for each secondary CPU, a power of two
    /// - `random`: places the control pages at random; without it they go as high as possible
    #[must_use]
    pub fn of(
        machine: &Machine,
        image: &Range<PhysAddr>,
        tree: &Range<PhysAddr>,
        breadcrumbs: Option<PhysAddr>,
        block_size: u64,
        random: Option<&mut SplitMix64>,
    ) -> Option<Self> {
        let unmapped: Vec<_> =
            machine.reserved.iter().filter(|r| r.no_map).map(|r| r.range.whole_pages()).collect();
        let mapped = without(&machine.ram, &unmapped);
        let breadcrumbs = breadcrumbs
            .filter(|page| page.get().is_multiple_of(PAGE_SIZE))
            .and_then(|page| page.range(PAGE_SIZE));
        let breadcrumbs = breadcrumbs.filter(|page| mapped.iter().any(|ram| ram.covers(page)));

        // `taken` stays in use; `avoid` adds the FDT and the breadcrumbs, which are in use until
        // they have been read.
        let mut taken: Vec<_> =
            machine.reserved.iter().map(|reserved| reserved.range.whole_pages()).collect();
        taken.push(image.clone());
        let mut avoid = taken.clone();
        avoid.push(tree.clone());
        keep_out(&mut avoid, breadcrumbs.as_ref());
        let (ram, size) = (&machine.ram, control_pages(mapped.len()) * PAGE_SIZE);
        let control = match random {
            Some(random) => placement::random_block(random, ram, &avoid, size, CONTROL_ALIGNMENT),
            None => placement::highest_block(ram, &avoid, size, CONTROL_ALIGNMENT),
        };
        let control = control?.range(size)?;
        taken.push(control.clone());
        avoid.push(control.clone());
        // Unlike the control pages, the blocks may be in the next image's destination: secondaries
        // are off when it is copied.
        let mut blocks = Vec::new();
        for _ in 1..machine.cpus.len() {
            let block = placement::highest_block(&machine.ram, &avoid, block_size, block_size);
            let Some(block) = block.and_then(|start| start.range(block_size)) else { break };
            taken.push(block.clone());
            avoid.push(block.clone());
            blocks.push(block);
        }
        let heap = heap(&without(&mapped, &avoid));
        taken.push(heap.clone());
        let frames = without(&mapped, &taken);
        Some(Self { breadcrumbs, control, blocks, mapped, heap, frames })
    }
}

/// Chooses the heap's place: the highest one for a power of two of bytes.
///
/// The size is a share of the free RAM. If no place is large enough, a smaller power of two is
/// tried.
fn heap(free: &[Range<PhysAddr>]) -> Range<PhysAddr> {
    let share = free.iter().map(PhysRange::bytes).sum::<u64>() / HEAP_SHARE;
    let most = share.clamp(LEAST_HEAP, MOST_HEAP).ilog2();
    (PAGE_SHIFT..=most)
        .rev()
        .find_map(|order| {
            placement::highest_block(free, &[], 1 << order, 1 << order)?.range(1 << order)
        })
        .unwrap_or_default()
}

/// Returns what is left of `ranges` without `others`.
fn without(ranges: &[Range<PhysAddr>], others: &[Range<PhysAddr>]) -> Vec<Range<PhysAddr>> {
    let mut left = Vec::new();
    placement::subtract(ranges, others, |range| left.push(range));
    left
}

/// Keeps a range out of the places for control pages, stacks and heap. Not inlined: a test patches
/// it.
#[inline(never)]
fn keep_out(taken: &mut Vec<Range<PhysAddr>>, range: Option<&Range<PhysAddr>>) {
    taken.extend(range.cloned());
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use fdt::machine::Reservation;

    const MIB: u64 = 1 << 20;
    const BLOCK: u64 = 64 << 10;

    fn range(start: u64, bytes: u64) -> Range<PhysAddr> {
        PhysAddr::new(start)..PhysAddr::new(start + bytes)
    }

    fn machine(cpus: usize) -> Machine {
        let secret =
            Reservation { range: range(64 * MIB, MIB), name: "secret".into(), no_map: true };
        let kept =
            Reservation { range: range(65 * MIB + 1, 1), name: "kept".into(), no_map: false };
        let cpus = (0..cpus as u64).collect();
        Machine {
            ram: vec![range(64 * MIB, 16 * MIB)],
            reserved: vec![secret, kept],
            cpus,
            ..Machine::default()
        }
    }

    fn divide(cpus: usize, breadcrumbs: Option<u64>) -> MemoryLayout {
        let (image, tree) = (range(66 * MIB, MIB), range(68 * MIB, MIB));
        MemoryLayout::of(&machine(cpus), &image, &tree, breadcrumbs.map(PhysAddr::new), BLOCK, None)
            .unwrap()
    }

    fn bytes(ranges: &[Range<PhysAddr>]) -> u64 {
        ranges.iter().map(PhysRange::bytes).sum()
    }

    #[test]
    fn every_page_has_one_owner() {
        let layout = divide(3, Some(70 * MIB));
        assert_eq!(layout.mapped, [range(65 * MIB, 15 * MIB)]);
        assert_eq!((layout.control.end, layout.blocks.len()), (PhysAddr::new(80 * MIB), 2));
        let (image, tree, kept) =
            (range(66 * MIB, MIB), range(68 * MIB, MIB), range(65 * MIB, PAGE_SIZE));
        let crumbs = range(70 * MIB, PAGE_SIZE);
        for read in [&tree, &crumbs] {
            assert!(layout.frames.iter().any(|frames| frames.covers(read)), "frames lack {read:?}");
            let others = [&layout.control, &layout.heap].into_iter().chain(&layout.blocks);
            assert!(others.into_iter().all(|other| !other.overlaps(read)), "{read:?} is in use");
        }
        let mut all = [layout.frames, layout.blocks, vec![layout.control, layout.heap]].concat();
        all.extend([image, kept]);
        all.sort_by_key(|range| range.start);
        assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "{all:?}");
        assert_eq!(bytes(&all), 15 * MIB);
    }

    #[test]
    fn the_heap_is_a_power_of_two_of_the_free_ram() {
        // 16 MiB of RAM, of which 12.7 are free: an eighth of that is more than 1 MiB.
        let heap = divide(1, None).heap;
        assert_eq!((heap.bytes(), heap.end), (MIB, PhysAddr::new(79 * MIB)));
        let of = |free: &[Range<PhysAddr>]| super::heap(free);
        assert_eq!(of(&[range(MIB, 4096 * MIB)]), range(4080 * MIB, 16 * MIB));
        assert_eq!(of(&[range(MIB, 200 * MIB + 4096)]), range(176 * MIB, 16 * MIB));
        assert_eq!(of(&[range(MIB, MIB)]), range(MIB + 768 * 1024, 256 << 10));
        // No place is large enough: the largest power of two that fits.
        assert_eq!(of(&[range(MIB, 128 << 10), range(3 * MIB, 4096)]), range(MIB, 128 << 10));
        assert_eq!(of(&[range(MIB + 4096, 4096)]), range(MIB + 4096, 4096));
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn page_0_is_no_ram() {
        assert_eq!(
            usable(&[range(0, MIB), range(2 * MIB, MIB)]),
            [range(PAGE_SIZE, MIB - PAGE_SIZE), range(2 * MIB, MIB)]
        );
        let machine = Machine { ram: usable(&[range(0, 4 * MIB)]), ..machine(1) };
        let none = range(0, 0);
        let layout = MemoryLayout::of(&machine, &none, &none, None, BLOCK, None).unwrap();
        assert_eq!(layout.frames[0].start, PhysAddr::new(PAGE_SIZE));
        let owned = bytes(&layout.frames) + layout.control.bytes() + layout.heap.bytes();
        assert_eq!(owned, 4 * MIB - PAGE_SIZE);
    }

    #[test]
    fn breadcrumbs_outside_ram_reserve_no_page() {
        for wrong in [70 * MIB + 8, 64 * MIB, 80 * MIB, 80 * MIB - 8, !0xfff, u64::MAX] {
            assert_eq!(divide(1, Some(wrong)), divide(1, None), "{wrong:#x}");
        }
        assert_eq!(
            divide(1, Some(80 * MIB - PAGE_SIZE)).breadcrumbs,
            Some(range(80 * MIB - PAGE_SIZE, PAGE_SIZE))
        );
    }

    #[test]
    fn breadcrumbs_at_the_end_of_ram_are_kept_until_they_are_read() {
        let crumbs = range(80 * MIB - PAGE_SIZE, PAGE_SIZE);
        let layout = divide(3, Some(crumbs.start.get()));
        assert_eq!(layout.control.end, PhysAddr::new(80 * MIB - 16 * PAGE_SIZE));
        let mut others = layout.blocks.iter().chain([&layout.control, &layout.heap]);
        assert!(others.all(|other| !other.overlaps(&crumbs)), "{layout:?}");
        assert!(layout.frames.iter().any(|frames| frames.covers(&crumbs)), "{layout:?}");
    }

    #[test]
    fn a_cpu_without_room_gets_no_block_and_no_room_for_the_control_block_is_refused() {
        let cpus = 1000;
        let layout = divide(cpus, None);
        assert!(layout.blocks.len() < cpus - 1 && layout.blocks.len() > 100);
        let small = Machine { ram: vec![range(64 * MIB, MIB)], ..machine(1) };
        assert_eq!(MemoryLayout::of(&small, &range(0, 0), &range(0, 0), None, BLOCK, None), None);
    }

    #[test]
    fn ram_in_pieces_needs_more_control_pages() {
        for (ranges, pages) in [(1, 64), (8, 64), (9, 80), (12, 80), (13, 96), (60, 272)] {
            assert_eq!(control_pages(ranges), pages, "{ranges} ranges");
        }
    }
}
