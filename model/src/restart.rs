//! The kexec path: from `relocate_new_kernel` to the next image's first instruction.
//!
//! - *When:* eight scenes, hot and cold: at EL1; on nVHE over the private EL2 vectors, with EL2's
//!   MMU off as the stub left it, or on; and with VHE.
//! - *Expects:* dirty lines over all that the old kernel did not clean. These are its own text,
//!   tables and data over the destinations, the payloads in the source frames, and the device tree
//!   that stays in place. Memory below holds junk, and the I-cache the old kernel's text.
//! - *Leaves:* what the arm64 boot protocol promises an image, and every breadcrumb in memory.

use core::mem::offset_of;
use std::ops::Range;

use boot::breadcrumb;
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::sysreg::{asid, hcr, mair, sctlr, tcr};
use relocate::checksum::Crc32c;
use relocate::control::{ARGUMENTS_OFFSET, Arguments, COLD, Check, HVC};
use relocate::list;
use relocate::segment::Segment;

use crate::cpu::Cpu;
use crate::failure::Violation;
use crate::kernel::Kernel;
use crate::memory::{Access, Memory};
use crate::scene::{self, Scene, junk, protocol, put};
use crate::system::registers::*;
use crate::system::{Level, Processor, System};
use crate::translation::{Leaf, Regime};

/// Start of the RAM window.
const BASE: u64 = 0x4020_0000;
const PAGES: u64 = 32;
const IMAGE: Range<u64> = pages(0, 5);
const TREE: Range<u64> = pages(5, 1);
/// Two runs of frames for the image's first four pages; the last page stays in place.
const SOURCES: [Range<u64>; 3] = [pages(8, 3), pages(6, 1), pages(4, 1)];
/// Control pages: code and vectors, breadcrumbs, list, relocation idmap.
const CONTROL: Range<u64> = pages(16, 8);
const CODE: Range<u64> = pages(16, 2);
const BREADCRUMBS: Range<u64> = pages(18, 1);
const LIST: Range<u64> = pages(19, 1);
const COPY_TABLES: u64 = pages(20, 4).start;
/// The running kernel's tables; the next image is copied over them.
const LIFE_TABLES: u64 = IMAGE.start;
/// Tables of a hypervisor that had EL2 before.
const EL2_TABLES: u64 = pages(24, 4).start;

const fn pages(first: u64, number: u64) -> Range<u64> {
    BASE + first * PAGE_SIZE..BASE + (first + number) * PAGE_SIZE
}

/// The mode of the old kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    El1,
    /// With the hyp-stub at EL2; EL2's MMU may be on, as a resident hypervisor left it.
    Nvhe {
        el2_on: bool,
    },
    Vhe,
}

/// Returns all kexec scenes.
#[must_use]
pub fn scenes(kernel: &Kernel) -> Vec<Scene> {
    let modes = [
        ("el1", Mode::El1),
        ("nvhe", Mode::Nvhe { el2_on: false }),
        ("nvhe, EL2 on", Mode::Nvhe { el2_on: true }),
        ("vhe", Mode::Vhe),
    ];
    let each = |cold: bool| {
        modes.map(|(name, mode)| {
            scene(kernel, &format!("{} {name}", if cold { "cold" } else { "hot" }), mode, cold)
        })
    };
    [false, true].into_iter().flat_map(each).collect()
}

fn scene(kernel: &Kernel, name: &str, mode: Mode, cold: bool) -> Scene {
    let image = junk(1, IMAGE.end - IMAGE.start);
    let tree = junk(2, PAGE_SIZE);
    let mut memory = Memory::new(BASE, junk(3, PAGES * PAGE_SIZE));

    // The control pages are in memory, as `Staged::new` leaves them.
    let moved = kernel.range("relocate_page_start", "relocate_page_end");
    let mut code = kernel.image[moved.start as usize..moved.end as usize].to_vec();
    let flags =
        if cold { COLD } else { 0 } | if matches!(mode, Mode::Nvhe { .. }) { HVC } else { 0 };
    let sources = SOURCES.map(|run| PhysAddr::new(run.start)..PhysAddr::new(run.end));
    let head = fill_list(&mut memory, &sources);
    arguments(&mut code[ARGUMENTS_OFFSET as usize..], head, flags, &image, &tree);
    memory.beneath_mut(&CODE).copy_from_slice(&code);
    memory.beneath_mut(&BREADCRUMBS).fill(0);
    put(memory.beneath_mut(&BREADCRUMBS), 0, breadcrumb::BYE as u64 + breadcrumb::REACHED);
    memory
        .beneath_mut(&(COPY_TABLES..COPY_TABLES + 4 * PAGE_SIZE))
        .copy_from_slice(&tables(COPY_TABLES));
    memory
        .beneath_mut(&(EL2_TABLES..EL2_TABLES + 4 * PAGE_SIZE))
        .copy_from_slice(&tables(EL2_TABLES));

    // The old kernel wrote this and did not clean it.
    memory.dirty(IMAGE.start, &tables(LIFE_TABLES));
    memory.dirty(TREE.start, &tree);
    let mut rest = image.as_slice();
    for run in SOURCES {
        let (part, behind) = rest.split_at((run.end - run.start) as usize);
        memory.dirty(run.start, part);
        rest = behind;
    }
    memory.remember(IMAGE.start, &junk(4, IMAGE.end - IMAGE.start));

    for range in [IMAGE, TREE, CONTROL, pages(24, 4)].into_iter().chain(SOURCES) {
        memory.allow(Access::Read, range);
    }
    memory.allow(Access::Write, IMAGE);
    memory.allow(Access::Write, BREADCRUMBS);
    memory.allow(Access::Execute, CODE);

    let level = if mode == Mode::Vhe { Level::El2 } else { Level::El1 };
    let mut system =
        System::new(if mode == Mode::El1 { Processor::Plain } else { Processor::Rich });
    let (life, el2) = match mode {
        Mode::Vhe => ([SCTLR_EL2, TTBR0_EL2, TCR_EL2, MAIR_EL2], hcr::VHE),
        _ => ([SCTLR_EL1, TTBR0_EL1, TCR_EL1, MAIR_EL1], hcr::NVHE),
    };
    let values =
        [sctlr::MMU_ON, LIFE_TABLES | asid::KERNEL << asid::SHIFT, tcr::VALUE, mair::VALUE];
    life.into_iter().zip(values).for_each(|(register, value)| system.set(register, value));
    system.set(HCR_EL2, el2);
    if let Mode::Nvhe { el2_on } = mode {
        system.set(VBAR_EL2, CODE.end - PAGE_SIZE / 2);
        system.set(
            SCTLR_EL2,
            sctlr::EL2_MMU_OFF | if el2_on { sctlr::M | sctlr::C | sctlr::I } else { 0 },
        );
        [(TTBR0_EL2, EL2_TABLES), (TCR_EL2, tcr::VALUE), (MAIR_EL2, mair::VALUE)]
            .into_iter()
            .for_each(|(register, value)| system.set(register, value));
    }
    // The old kernel has used its map, so the TLB holds its entries.
    for page in (BASE..pages(PAGES, 0).start).step_by(PAGE_SIZE as usize) {
        let executable = CODE.contains(&page);
        let leaf = Leaf { page, normal: true, writable: !executable, executable };
        let regime = if mode == Mode::Vhe { Regime::El20 } else { Regime::El10 };
        memory.tlb.keep(regime, asid::KERNEL as u16, page, leaf);
    }

    let start = Cpu::new(
        system,
        memory,
        level,
        kernel.symbol("relocate_new_kernel") - moved.start + CODE.start,
    );
    let contract = move |cpu: &mut Cpu| contract(cpu, mode, &image, &tree);
    Scene {
        name: name.to_owned(),
        code: moved,
        placed: CODE.start,
        start,
        stop: IMAGE.start,
        milestones: Vec::new(),
        contract: Box::new(contract),
    }
}

fn fill_list(memory: &mut Memory, sources: &[Range<PhysAddr>]) -> u64 {
    let in_place = [PhysAddr::new(TREE.start)..PhysAddr::new(TREE.end)];
    let segments = [
        Segment {
            name: "kernel",
            destination: PhysAddr::new(IMAGE.start)..PhysAddr::new(IMAGE.end),
            source: sources,
        },
        Segment { name: "tree", destination: in_place[0].clone(), source: &in_place },
    ];
    let mut page = [[0; list::ENTRIES_PER_PAGE]];
    let head = list::build(&segments, &mut page, PhysAddr::new(LIST.start)).expect("a short list");
    let bytes = page[0].iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>();
    memory.beneath_mut(&LIST).copy_from_slice(&bytes);
    head
}

fn arguments(bytes: &mut [u8], head: u64, flags: u64, image: &[u8], tree: &[u8]) {
    for (at, value) in [
        (offset_of!(Arguments, head), head),
        (offset_of!(Arguments, relocation_ttbr0), COPY_TABLES | asid::RELOCATION << asid::SHIFT),
        (offset_of!(Arguments, entry), IMAGE.start),
        (offset_of!(Arguments, dtb), TREE.start),
        (offset_of!(Arguments, breadcrumbs), BREADCRUMBS.start),
        (offset_of!(Arguments, flags), flags),
        (offset_of!(Arguments, checks_used), 2),
    ] {
        put(bytes, at, value);
    }
    for (index, (range, held)) in [(IMAGE, image), (TREE, tree)].into_iter().enumerate() {
        let check = &mut bytes[offset_of!(Arguments, checks) + index * size_of::<Check>()..];
        put(check, offset_of!(Check, start), range.start);
        put(check, offset_of!(Check, end), range.end);
        put(check, offset_of!(Check, crc32c), Crc32c::default().update(held).value().into());
    }
}

/// Makes four tables that map the window 1:1: the relocation code executable, the rest writable.
fn tables(at: u64) -> Vec<u8> {
    scene::tables(at, &(BASE..pages(PAGES, 0).start), &CODE)
}

/// Checks everything that the next image is promised.
fn contract(cpu: &mut Cpu, mode: Mode, image: &[u8], tree: &[u8]) -> Result<(), Violation> {
    let level = if mode == Mode::El1 { Level::El1 } else { Level::El2 };
    protocol(cpu, level, (&IMAGE, image), (&TREE, tree))?;
    // Older clean lines over the page do not matter: its reader invalidates it first. [I6]
    if let Some(line) = cpu.memory.dirty_line(&BREADCRUMBS) {
        return Err(Violation::DirtyLine(line));
    }
    for phase in 0..breadcrumb::NAMES.len() {
        let slot = BREADCRUMBS.start + (phase * breadcrumb::SLOT_SIZE) as u64;
        let number = cpu.memory.beneath(&(slot..slot + 8));
        if number != (phase as u64 + breadcrumb::REACHED).to_le_bytes() {
            return Err(Violation::Content("a breadcrumb", slot));
        }
    }
    Ok(())
}
