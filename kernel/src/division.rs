//! RAM divided: what a life keeps, what the heap gets, and what it gets later.
//!
//! *When:* once in a life, before RAM is mapped. *On entry:* a machine as its device tree tells it, and the image. *Leaves:* ranges of whole pages
//! that do not overlap, but for the CPUs' blocks, which are RAM like any other to the next generation. *Refuses:* by `None`, a machine that holds
//! no control block; breadcrumbs outside of RAM are nobody's, and a CPU for whose stacks there is no room gets none.

use crate::tree::Machine;
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::Range;
use relocate::placement;
use relocate::random::SplitMix64;

/// The control block's size: code, vectors and breadcrumbs take three pages, the list a page for each 500 MiB or so, tables the rest.
const CONTROL_SIZE: u64 = 64 * PAGE_SIZE;

/// Its alignment: a range of contiguous-hint pages, so that none of its neighbours shares one.
const CONTROL_ALIGNMENT: u64 = 16 * PAGE_SIZE;

/// Who gets what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Division {
    /// The page that tells the way here, where there is one.
    pub breadcrumbs: Option<Range<PhysAddr>>,
    /// What the next image is moved by.
    pub control: Range<PhysAddr>,
    /// A block for each secondary CPU, as far as they go.
    pub blocks: Vec<Range<PhysAddr>>,
    /// RAM that may be mapped.
    pub mapped: Vec<Range<PhysAddr>>,
    /// What of it nobody has: the heap's.
    pub free: Vec<Range<PhysAddr>>,
    /// What the heap gets once the device tree was copied and the breadcrumbs were read.
    pub later: Vec<Range<PhysAddr>>,
}

impl Division {
    /// Divides the machine's RAM. `tree` is where the device tree was handed over, `breadcrumbs` where a predecessor says that its page lies. Each
    /// secondary CPU gets `block_size` bytes, a power of two. The control block lies as high as it can, or where `random` says.
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

        // Nobody's memory is what is left of RAM without these.
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
        // Secondaries are off when a copy is made: their blocks are in nobody's way, and may lie where the next image goes.
        let mut blocks = Vec::new();
        for _ in 1..machine.cpus.len() {
            let block = placement::highest_block(&machine.ram, &avoid, block_size, block_size);
            let Some(block) = block.and_then(|start| start.range(block_size)) else { break };
            taken.push(block.clone());
            avoid.push(block.clone());
            blocks.push(block);
        }
        let free = without(&mapped, &avoid);
        // Where they are RAM, and nobody else's.
        let mut later = without(&Vec::from_iter(read), &taken);
        later.retain(|range| mapped.iter().any(|ram| ram.covers(range)));
        Some(Self { breadcrumbs, control, blocks, mapped, free, later })
    }
}

/// What is left of `ranges` without `others`.
fn without(ranges: &[Range<PhysAddr>], others: &[Range<PhysAddr>]) -> Vec<Range<PhysAddr>> {
    let mut left = Vec::new();
    placement::subtract(ranges, others, |range| left.push(range));
    left
}

/// Keeps a range out of the heap.
#[inline(never)]
fn keep_out(taken: &mut Vec<Range<PhysAddr>>, range: Option<&Range<PhysAddr>>) {
    taken.extend(range.cloned());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Reservation;
    use alloc::vec;

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

    fn divide(cpus: usize, breadcrumbs: Option<u64>) -> Division {
        let (image, tree) = (range(66 * MIB, MIB), range(68 * MIB, MIB));
        Division::of(&machine(cpus), &image, &tree, breadcrumbs.map(PhysAddr), BLOCK, None).unwrap()
    }

    fn bytes(ranges: &[Range<PhysAddr>]) -> u64 {
        ranges.iter().map(PhysRange::bytes).sum()
    }

    #[test]
    fn every_page_has_one_owner() {
        let division = divide(3, Some(70 * MIB));
        assert_eq!(division.mapped, [range(65 * MIB, 15 * MIB)]);
        assert_eq!((division.control.end, division.blocks.len()), (PhysAddr(80 * MIB), 2));
        let image_and_kept = MIB + PAGE_SIZE;
        let blocks = bytes(&division.blocks) + division.control.bytes();
        assert_eq!(bytes(&division.later), MIB + PAGE_SIZE);
        assert_eq!(
            bytes(&division.free) + bytes(&division.later) + blocks + image_and_kept,
            15 * MIB
        );
        let mut all =
            [division.free, division.later, division.blocks, vec![division.control]].concat();
        all.sort_by_key(|range| range.start);
        assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "{all:?}");
    }

    #[test]
    fn breadcrumbs_that_are_no_page_of_ram_are_nobody_s() {
        for wrong in [70 * MIB + 8, 64 * MIB, 80 * MIB, 80 * MIB - 8, !0xfff, u64::MAX] {
            let division = divide(1, Some(wrong));
            assert_eq!((division.breadcrumbs, bytes(&division.later)), (None, MIB), "{wrong:#x}");
        }
        assert_eq!(
            divide(1, Some(80 * MIB - PAGE_SIZE)).breadcrumbs,
            Some(range(80 * MIB - PAGE_SIZE, PAGE_SIZE))
        );
    }

    #[test]
    fn a_cpu_without_room_gets_no_block_and_no_room_for_the_control_block_is_refused() {
        let cpus = 1000;
        let division = divide(cpus, None);
        assert!(division.blocks.len() < cpus - 1 && division.blocks.len() > 100);
        let small = Machine { ram: vec![range(64 * MIB, MIB)], ..machine(1) };
        assert_eq!(Division::of(&small, &range(0, 0), &range(0, 0), None, BLOCK, None), None);
    }
}
