//! The EFI stub's exit: from `efi_leave` to the Image's first instruction.
//!
//! - *When:* after ExitBootServices, in the firmware's map; at EL1, and at EL2 with E2H clear or
//!   set.
//! - *Expects:* the Image's copy and the device tree only in the cache, as the stub wrote them. The
//!   routine itself is as the firmware loaded it: cleaned only far enough to be fetched with the
//!   caches on. Memory holds junk, and the I-cache holds what was in the copy's place before.
//! - *Leaves:* what the arm64 boot protocol promises an image, and no part of the routine only in
//!   the cache.

use std::ops::Range;

use boot::phys::PAGE_SIZE;
use boot::sysreg::{hcr, mair, sctlr, tcr};

use crate::cpu::Cpu;
use crate::failure::Violation;
use crate::kernel::Kernel;
use crate::memory::{Access, LINE, Memory};
use crate::scene::{Scene, junk, protocol, tables};
use crate::system::registers::*;
use crate::system::{Level, Processor, System};

const BASE: u64 = 0x4020_0000;
const PAGES: u64 = 16;
const WINDOW: Range<u64> = pages(0, PAGES);
/// The copy; its file ends within a page and within a line.
const IMAGE: Range<u64> = BASE..pages(2, 0).end + 0x208;
/// The device tree, as long as its header says.
const TREE: Range<u64> = pages(4, 0).start..pages(5, 0).start + 0x38;
/// The firmware's tables, for either layout of EL2's registers.
const TABLES: u64 = pages(8, 4).start;
const CODE: Range<u64> = pages(12, 2);

const fn pages(first: u64, number: u64) -> Range<u64> {
    BASE + first * PAGE_SIZE..BASE + (first + number) * PAGE_SIZE
}

/// Returns all EFI scenes.
#[must_use]
pub fn scenes(kernel: &Kernel) -> Vec<Scene> {
    [
        scene(kernel, "efi el1", Processor::Plain, Level::El1, 0),
        scene(kernel, "efi el2", Processor::Rich, Level::El2, 0),
        scene(kernel, "efi el2, E2H set", Processor::VheOnly, Level::El2, hcr::VHE),
    ]
    .into()
}

fn scene(kernel: &Kernel, name: &str, processor: Processor, level: Level, hcr: u64) -> Scene {
    let routine = kernel.range("efi_leave", "efi_leave_end");
    let placed = CODE.start + routine.start % PAGE_SIZE;
    let code = placed..placed + (routine.end - routine.start);
    let (image, tree) = (whole_lines(&IMAGE), whole_lines(&TREE));
    let (image_bytes, tree_bytes) =
        (junk(1, image.end - image.start), junk(2, tree.end - tree.start));

    let mut memory = Memory::new(BASE, junk(3, PAGES * PAGE_SIZE));
    memory
        .beneath_mut(&(TABLES..TABLES + 4 * PAGE_SIZE))
        .copy_from_slice(&tables(TABLES, &WINDOW, &CODE));
    let linked = &kernel.image[routine.start as usize..routine.end as usize];
    memory.beneath_mut(&code).copy_from_slice(linked);
    let own = whole_lines(&code);
    let own_bytes = memory.beneath(&own).to_vec();
    memory.dirty(own.start, &own_bytes);
    memory.dirty(image.start, &image_bytes);
    memory.dirty(tree.start, &tree_bytes);
    memory.remember(image.start, &junk(4, image.end - image.start));
    for range in [image.clone(), tree.clone(), own.clone(), TABLES..TABLES + 4 * PAGE_SIZE] {
        memory.allow(Access::Read, range);
    }
    memory.allow(Access::Execute, code);

    let mut system = System::new(processor);
    let live = match level {
        Level::El1 => [SCTLR_EL1, TTBR0_EL1, TCR_EL1, MAIR_EL1],
        Level::El2 => [SCTLR_EL2, TTBR0_EL2, TCR_EL2, MAIR_EL2],
    };
    let values = [sctlr::MMU_ON, TABLES, tcr::VALUE, mair::VALUE];
    live.into_iter().zip(values).for_each(|(register, value)| system.set(register, value));
    system.set(HCR_EL2, hcr);

    let mut start = Cpu::new(system, memory, level, placed);
    // Boot services leave interrupts unmasked.
    start.daif = 0;
    start.x[..4].copy_from_slice(&[TREE.start, TREE.end, IMAGE.start, IMAGE.end]);
    let contract = move |cpu: &mut Cpu| {
        protocol(cpu, level, (&image, &image_bytes), (&tree, &tree_bytes))?;
        cpu.memory.dirty_line(&own).map_or(Ok(()), |line| Err(Violation::DirtyLine(line)))
    };
    Scene {
        name: name.to_owned(),
        code: routine,
        placed,
        start,
        stop: IMAGE.start,
        milestones: Vec::new(),
        contract: Box::new(contract),
    }
}

/// Returns the cache lines that overlap `range`.
fn whole_lines(range: &Range<u64>) -> Range<u64> {
    range.start & !(LINE as u64 - 1)..range.end.next_multiple_of(LINE as u64)
}
