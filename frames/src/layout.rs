//! The memory layout: RAM that this kernel keeps, and RAM for the heap.
//!
//! - Runs once in a generation, before RAM is mapped.
//! - Expects the machine as the device tree describes it, and the range of this image.
//! - Leaves ranges of whole pages. `control`, `blocks`, `free` and `reclaim` do not overlap.
//! - Returns `None` if RAM has no room for the control pages.
//! - Ignores breadcrumbs outside of RAM, and gives no block to a CPU whose stacks do not fit.

use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::Range;
use fdt::machine::Machine;
use relocate::placement;
use relocate::random::SplitMix64;

/// The size of the control pages.
///
/// Code, vectors and breadcrumbs take three pages, the list about one page for each 500 MiB that is
/// moved, and page tables the rest.
const CONTROL_SIZE: u64 = 64 * PAGE_SIZE;

/// The alignment of the control pages: the 16 pages of a contiguous hint, so that the control pages
/// share no such range with memory next to them.
const CONTROL_ALIGNMENT: u64 = 16 * PAGE_SIZE;

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
    /// The part of `mapped` that is free: the heap gets it at once.
    pub free: Vec<Range<PhysAddr>>,
    /// The memory that the heap gets once the FDT was copied and the breadcrumbs were read.
    pub reclaim: Vec<Range<PhysAddr>>,
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
            .filter(|page| page.0.is_multiple_of(PAGE_SIZE))
            .and_then(|page| page.range(PAGE_SIZE));
        let breadcrumbs = breadcrumbs.filter(|page| mapped.iter().any(|ram| ram.covers(page)));

        // `taken` stays in use; `avoid` adds the FDT and the breadcrumbs, which are in use until
        // they have been read.
        let mut taken: Vec<_> =
            machine.reserved.iter().map(|reserved| reserved.range.whole_pages()).collect();
        taken.push(image.clone());
        let read = [tree.clone()].into_iter().chain(breadcrumbs.clone());
        let mut avoid = taken.clone();
        avoid.push(tree.clone());
        keep_out(&mut avoid, breadcrumbs.as_ref());
        let control = match random {
            Some(random) => placement::random_block(
                random,
                &machine.ram,
                &avoid,
                CONTROL_SIZE,
                CONTROL_ALIGNMENT,
            ),
            None => placement::highest_block(&machine.ram, &avoid, CONTROL_SIZE, CONTROL_ALIGNMENT),
        };
        let control = control?.range(CONTROL_SIZE)?;
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
        let free = without(&mapped, &avoid);
        // Reclaim the FDT and the breadcrumbs only where they are RAM that nothing else keeps.
        let mut reclaim = without(&Vec::from_iter(read), &taken);
        reclaim.retain(|range| mapped.iter().any(|ram| ram.covers(range)));
        Some(Self { breadcrumbs, control, blocks, mapped, free, reclaim })
    }
}

/// Returns what is left of `ranges` without `others`.
fn without(ranges: &[Range<PhysAddr>], others: &[Range<PhysAddr>]) -> Vec<Range<PhysAddr>> {
    let mut left = Vec::new();
    placement::subtract(ranges, others, |range| left.push(range));
    left
}

/// Keeps a range out of the heap's RAM. Not inlined: a test patches it.
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
        PhysAddr(start)..PhysAddr(start + bytes)
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
        MemoryLayout::of(&machine(cpus), &image, &tree, breadcrumbs.map(PhysAddr), BLOCK, None)
            .unwrap()
    }

    fn bytes(ranges: &[Range<PhysAddr>]) -> u64 {
        ranges.iter().map(PhysRange::bytes).sum()
    }

    #[test]
    fn every_page_has_one_owner() {
        let layout = divide(3, Some(70 * MIB));
        assert_eq!(layout.mapped, [range(65 * MIB, 15 * MIB)]);
        assert_eq!((layout.control.end, layout.blocks.len()), (PhysAddr(80 * MIB), 2));
        let image_and_kept = MIB + PAGE_SIZE;
        let blocks = bytes(&layout.blocks) + layout.control.bytes();
        assert_eq!(bytes(&layout.reclaim), MIB + PAGE_SIZE);
        assert_eq!(
            bytes(&layout.free) + bytes(&layout.reclaim) + blocks + image_and_kept,
            15 * MIB
        );
        let mut all = [layout.free, layout.reclaim, layout.blocks, vec![layout.control]].concat();
        all.sort_by_key(|range| range.start);
        assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "{all:?}");
    }

    #[test]
    fn breadcrumbs_outside_ram_reserve_no_page() {
        for wrong in [70 * MIB + 8, 64 * MIB, 80 * MIB, 80 * MIB - 8, !0xfff, u64::MAX] {
            let layout = divide(1, Some(wrong));
            assert_eq!((layout.breadcrumbs, bytes(&layout.reclaim)), (None, MIB), "{wrong:#x}");
        }
        assert_eq!(
            divide(1, Some(80 * MIB - PAGE_SIZE)).breadcrumbs,
            Some(range(80 * MIB - PAGE_SIZE, PAGE_SIZE))
        );
    }

    #[test]
    fn a_cpu_without_room_gets_no_block_and_no_room_for_the_control_block_is_refused() {
        let cpus = 1000;
        let layout = divide(cpus, None);
        assert!(layout.blocks.len() < cpus - 1 && layout.blocks.len() > 100);
        let small = Machine { ram: vec![range(64 * MIB, MIB)], ..machine(1) };
        assert_eq!(MemoryLayout::of(&small, &range(0, 0), &range(0, 0), None, BLOCK, None), None);
    }
}
