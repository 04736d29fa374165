//! The entry: from the Image's first byte to the first line of Rust.
//!
//! - *When:* entered at EL1, and at EL2 with E2H clear or still set by a VHE kernel, on CPUs with
//!   and without the features that the EL2 set-up checks for.
//! - *Expects:* only what the arm64 boot protocol promises \[I1\]. The file is clean to PoC, and
//!   the I-cache holds nothing old over it. Memory past the file has dirty lines with other data.
//!   The device tree is only in the cache. Every register that the protocol does not name holds
//!   junk, and the TLB holds a previous kernel's entries.
//! - *Leaves:* record, tables, bss and pointers, which read as written through the new map; and no
//!   entry of a previous kernel in the TLB.

use core::mem::offset_of;
use std::ops::Range;

use boot::early_console;
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::record::EntryRecord;
use boot::sysreg::{asid, cnthctl, cptr, current_el, descriptor, hcr, mair, sctlr, spsr, tcr};
use boot::uart::{Kind, Uart};

use crate::cpu::Cpu;
use crate::decode::SystemRegister;
use crate::failure::Violation;
use crate::kernel::Kernel;
use crate::memory::{Access, LINE, Memory};
use crate::scene::{Scene, expect, junk};
use crate::system::registers::*;
use crate::system::{E2H, Level, Processor, System};
use crate::translation::Regime;

/// The address at which the loader put the Image.
pub const BASE: u64 = 0x4020_0000;
const WINDOW: u64 = 0x10_0000;
/// The first two pages of the device tree, after the image.
const TREE: Range<u64> = BASE + 0xf_0000..BASE + 0xf_2000;
/// The value of registers about which the protocol promises nothing.
pub const JUNK: u64 = 0x5ca1_ab1e_0dd5_eed5;

/// The UART that the Image names.
const UART: Uart = Uart::new(Kind::Pl011, PhysAddr::new(0x0900_0000), 0, 4);

/// The state of the CPU at the entry.
#[derive(Clone, Copy)]
struct Arrival {
    name: &'static str,
    processor: Processor,
    level: Level,
    /// HCR_EL2, and SCTLR_ELx of the level entered.
    hcr: u64,
    sctlr: u64,
    daif: u64,
}

/// DAIF as U-Boot leaves it, with SError unmasked.
const SERROR_UNMASKED: u64 = 0x2c0;

const ARRIVALS: [Arrival; 9] = [
    Arrival {
        name: "entry el1",
        processor: Processor::Plain,
        level: Level::El1,
        hcr: 0,
        sctlr: sctlr::EL1_MMU_OFF,
        daif: SERROR_UNMASKED,
    },
    Arrival {
        name: "entry el1, big-endian loader",
        processor: Processor::Rich,
        level: Level::El1,
        hcr: 0,
        sctlr: sctlr::EL1_MMU_OFF | sctlr::EE,
        daif: spsr::DAIF,
    },
    Arrival {
        name: "entry el2",
        processor: Processor::Plain,
        level: Level::El2,
        hcr: 0,
        sctlr: sctlr::EL2_MMU_OFF,
        daif: SERROR_UNMASKED,
    },
    Arrival {
        name: "entry el2, big-endian loader",
        processor: Processor::Rich,
        level: Level::El2,
        hcr: 0,
        sctlr: sctlr::EL2_MMU_OFF | sctlr::EE,
        daif: spsr::DAIF,
    },
    Arrival {
        name: "entry el2, E2H set",
        processor: Processor::Rich,
        level: Level::El2,
        hcr: hcr::VHE,
        // `mmu_off` leaves this value.
        sctlr: sctlr::EL1_MMU_OFF,
        daif: spsr::DAIF,
    },
    Arrival {
        name: "entry el2, E2H cannot be cleared",
        processor: Processor::VheOnly,
        level: Level::El2,
        hcr: hcr::VHE,
        sctlr: sctlr::EL1_MMU_OFF,
        daif: spsr::DAIF,
    },
    Arrival {
        name: "entry el2, E2H is RES1 and reads as written",
        processor: Processor::E2hRes1,
        level: Level::El2,
        hcr: hcr::VHE,
        sctlr: sctlr::EL1_MMU_OFF,
        daif: spsr::DAIF,
    },
    Arrival {
        // Out of reset, E2H is UNKNOWN.
        name: "entry el2, E2H is RES1 and reads as 0",
        processor: Processor::E2hRes1,
        level: Level::El2,
        hcr: 0,
        sctlr: sctlr::EL2_MMU_OFF,
        daif: SERROR_UNMASKED,
    },
    Arrival {
        name: "entry el2, writes to E2H have no effect",
        processor: Processor::NestedGuest,
        level: Level::El2,
        hcr: 0,
        sctlr: sctlr::EL2_MMU_OFF,
        daif: spsr::DAIF,
    },
];

/// Returns all entry scenes.
#[must_use]
pub fn scenes(kernel: &Kernel) -> Vec<Scene> {
    ARRIVALS.iter().map(|arrival| scene(kernel, *arrival)).collect()
}

fn scene(kernel: &Kernel, arrival: Arrival) -> Scene {
    let placed = |name| BASE + kernel.symbol(name);
    let range = |start, end| placed(start)..placed(end);
    let image = BASE..placed("_image_end");
    let tree = tree();

    let mut memory = Memory::new(BASE, junk(5, WINDOW));
    let file = kernel.image.len() as u64;
    memory.beneath_mut(&(BASE..BASE + file)).copy_from_slice(&kernel.image);
    let named = BASE + early_console::OFFSET as u64;
    let numbers = UART.to_bytes();
    memory.beneath_mut(&(named..named + numbers.len() as u64)).copy_from_slice(&numbers);
    let beyond = (BASE + file).next_multiple_of(LINE as u64);
    memory.dirty(beyond, &junk(6, image.end - beyond));
    memory.dirty(TREE.start, &tree);
    // The previous kernel's entries, under the E2H that it ran with.
    let host = (arrival.hcr | arrival.processor.stuck()) & E2H;
    let at_el2 = if host == 0 { Regime::El2 } else { Regime::El20 };
    memory
        .tlb
        .leave_behind(&[Regime::El10, at_el2][..if arrival.level == Level::El1 { 1 } else { 2 }]);

    memory.allow(Access::Execute, BASE..BASE + PAGE_SIZE);
    memory.allow(Access::Execute, range("text_start", "text_end"));
    memory.allow(Access::Read, image.clone());
    // The code may read the device tree's header up to its size, and no more.
    memory.allow(Access::Read, TREE.start..TREE.start + 8);
    for written in [
        placed("entry_record")..placed("entry_record") + size_of::<EntryRecord>() as u64,
        placed("relr_applied")..placed("relr_applied") + 8,
        range("early_tables", "early_tables_end"),
        range("bss_start", "bss_end"),
    ] {
        memory.allow(Access::Write, written);
    }
    for pointer in &kernel.pointers {
        memory.allow(Access::Write, BASE + pointer..BASE + pointer + 8);
    }

    let mut system = System::new(arrival.processor);
    for register in
        [SCTLR_EL1, CPACR_EL1, TTBR0_EL1, TTBR1_EL1, TCR_EL1, MAIR_EL1, VBAR_EL1, TPIDR_EL1]
    {
        system.set(register, JUNK);
    }
    if arrival.level == Level::El1 {
        system.set(SCTLR_EL1, arrival.sctlr);
    } else {
        for register in [
            TTBR0_EL2,
            TCR_EL2,
            MAIR_EL2,
            VBAR_EL2,
            CPTR_EL2,
            CNTHCTL_EL2,
            CNTVOFF_EL2,
            MDCR_EL2,
            VTTBR_EL2,
        ] {
            system.set(register, JUNK);
        }
        system.set(SCTLR_EL2, arrival.sctlr);
        system.set(HCR_EL2, arrival.hcr);
        if arrival.processor != Processor::Plain {
            // Out of reset these are UNKNOWN.
            system.set(GCSCR_EL1, JUNK);
            system.set(GCSCRE0_EL1, JUNK);
        }
        // Each timer is enabled by the previous kernel.
        timers(arrival.processor).for_each(|(_, register)| system.set(register, 1));
    }

    let mut start = Cpu::new(system, memory, arrival.level, BASE);
    start.daif = arrival.daif;
    start.x = [JUNK; 31];
    start.x[..4].copy_from_slice(&[TREE.start, 0, 0, 0]);
    // The record's first stamp is the time of the entry, so it may be early.
    start.early_readings = 1;
    let stop = BASE + kernel.into_rust("entry").unwrap_or_default();
    let checked = kernel.clone();
    Scene {
        name: arrival.name.to_owned(),
        code: 0..kernel.symbol("text_end"),
        placed: BASE,
        start,
        stop,
        milestones: vec![kernel.symbol("early_idmap"), kernel.symbol("relocate_self")],
        contract: Box::new(move |cpu| contract(cpu, &checked, arrival, &tree)),
    }
}

/// Makes two pages with the header of a device tree.
fn tree() -> Vec<u8> {
    let mut tree = junk(7, TREE.end - TREE.start);
    tree[..4].copy_from_slice(&fdt::blob::MAGIC.to_be_bytes());
    tree[4..8].copy_from_slice(&((TREE.end - TREE.start) as u32).to_be_bytes());
    tree
}

/// Checks everything that Rust relies on.
fn contract(
    cpu: &mut Cpu,
    kernel: &Kernel,
    arrival: Arrival,
    tree: &[u8],
) -> Result<(), Violation> {
    let placed = |name| BASE + kernel.symbol(name);
    if !cpu.memory.is_quiet() {
        return Err(Violation::Pending);
    }
    if let Some(regime) = cpu.memory.tlb.left_behind() {
        return Err(Violation::LeftBehind(regime));
    }
    expect("the exception level", u64::from(cpu.level != Level::El1), 0)?;
    expect("DAIF", cpu.daif, spsr::DAIF & !(1 << 8))?;
    expect("x0", cpu.x[0], placed("entry_record"))?;
    expect("SP", cpu.system.get(SP_EL1), placed("boot_stack_end"))?;
    let root = placed("early_tables");
    let mut settled = vec![
        ("SCTLR_EL1", SCTLR_EL1, sctlr::MMU_ON),
        ("TTBR0_EL1", TTBR0_EL1, root | asid::EARLY << asid::SHIFT),
        ("TTBR1_EL1", TTBR1_EL1, 0),
        ("MAIR_EL1", MAIR_EL1, mair::VALUE),
        ("VBAR_EL1", VBAR_EL1, placed("exception_vectors")),
    ];
    if arrival.level == Level::El2 {
        let stuck = arrival.processor.stuck();
        // EL1 has FP, the counter and the timer, in the layout that E2H selects.
        let (cptr, cnthctl) = if stuck == 0 {
            (cptr::NVHE & !(cptr::TZ | cptr::TSM), cnthctl::NVHE)
        } else {
            (cptr::FPEN | cptr::ZEN | cptr::SMEN, cnthctl::VHE)
        };
        let plain = arrival.processor == Processor::Plain;
        settled.extend([
            ("CPTR_EL2", CPTR_EL2, if plain { cptr::NVHE } else { cptr }),
            ("CNTHCTL_EL2", CNTHCTL_EL2, cnthctl),
        ]);
        settled.extend([
            ("SCTLR_EL2", SCTLR_EL2, sctlr::EL2_MMU_OFF),
            ("VBAR_EL2", VBAR_EL2, placed("hyp_stub_vectors")),
            ("CNTVOFF_EL2", CNTVOFF_EL2, 0),
            ("GCSCR_EL1", GCSCR_EL1, 0),
            ("GCSCRE0_EL1", GCSCRE0_EL1, 0),
        ]);
        settled.extend(timers(arrival.processor).map(|(name, register)| (name, register, 0)));
        expect("HCR_EL2.E2H", cpu.system.get(HCR_EL2) & E2H, stuck)?;
        expect("HCR_EL2.TGE", cpu.system.get(HCR_EL2) & hcr::TGE, 0)?;
    }
    for (name, register, value) in settled {
        expect(name, cpu.system.get(register), value)?;
        expect("a register that is not in effect", u64::from(!cpu.system.is_settled(register)), 0)?;
    }
    expect("TCR_EL1", cpu.system.get(TCR_EL1) & !(7 << tcr::IPS_SHIFT), tcr::VALUE)?;
    let text = placed("text_start")..placed("text_end");
    if let Some(line) = cpu.memory.would_fetch(&text) {
        return Err(Violation::StaleInstruction(line));
    }

    record(cpu, placed("entry_record"), arrival)?;
    map(cpu, root, &text, &(BASE..placed("_image_end")))?;
    for at in (placed("bss_start")..placed("bss_end")).step_by(8) {
        if cpu.read(at)? != 0 {
            return Err(Violation::Content("bss", at));
        }
    }
    for pointer in &kernel.pointers {
        let linked = u64::from_le_bytes(
            kernel.image[*pointer as usize..][..8].try_into().expect("eight bytes"),
        );
        if cpu.read(BASE + pointer)? != linked.wrapping_add(BASE) {
            return Err(Violation::Content("a relocated pointer", BASE + pointer));
        }
    }
    cpu.memory.allow(Access::Read, TREE);
    for (at, bytes) in (TREE.start..).step_by(8).zip(tree.as_chunks().0) {
        if cpu.read(at)? != u64::from_le_bytes(*bytes) {
            return Err(Violation::Content("the device tree", at));
        }
    }
    Ok(())
}

/// Returns the timers that EL2 can reach, as the registers that turn them off.
fn timers(processor: Processor) -> impl Iterator<Item = (&'static str, SystemRegister)> {
    let all = [
        ("CNTP_CTL_EL0", CNTP_CTL_EL0),
        ("CNTV_CTL_EL0", CNTV_CTL_EL0),
        ("CNTHP_CTL_EL2", CNTHP_CTL_EL2),
        ("CNTHV_CTL_EL2", CNTHV_CTL_EL2),
    ];
    // CNTHV exists only with VHE.
    all.into_iter().take(if processor == Processor::Plain { 3 } else { 4 })
}

/// Checks the entry record against `boot::record`.
fn record(cpu: &mut Cpu, at: u64, arrival: Arrival) -> Result<(), Violation> {
    let el2 = arrival.level == Level::El2;
    let stuck = arrival.processor.stuck();
    let held = [
        (offset_of!(EntryRecord, x0), TREE.start),
        (offset_of!(EntryRecord, x1), 0),
        (offset_of!(EntryRecord, x2), 0),
        (offset_of!(EntryRecord, x3), 0),
        (offset_of!(EntryRecord, load_address), BASE),
        (offset_of!(EntryRecord, current_el), if el2 { current_el::EL2 } else { current_el::EL1 }),
        (offset_of!(EntryRecord, daif), arrival.daif),
        (offset_of!(EntryRecord, sctlr), arrival.sctlr),
        (offset_of!(EntryRecord, vbar), JUNK),
        (offset_of!(EntryRecord, hcr_el2), if el2 { arrival.hcr } else { 0 }),
        (offset_of!(EntryRecord, cntvoff_el2), if el2 { JUNK } else { 0 }),
        (offset_of!(EntryRecord, cntfrq), cpu.system.get(CNTFRQ_EL0)),
        (offset_of!(EntryRecord, midr), cpu.system.get(MIDR_EL1)),
        (offset_of!(EntryRecord, mpidr), cpu.system.get(MPIDR_EL1)),
        (offset_of!(EntryRecord, dtb_size), TREE.end - TREE.start),
    ];
    for (offset, value) in held {
        if cpu.read(at + offset as u64)? != value {
            return Err(Violation::Content("the entry record", at + offset as u64));
        }
    }
    let in_effect = cpu.read(at + offset_of!(EntryRecord, hcr_el2_in_effect) as u64)?;
    expect("the record's E2H in effect", in_effect & E2H, stuck)?;
    let mut last = 0;
    for offset in [
        offset_of!(EntryRecord, entered),
        offset_of!(EntryRecord, el2_ready),
        offset_of!(EntryRecord, mmu_on),
    ] {
        let stamp = cpu.read(at + offset as u64)?;
        let left_out = offset == offset_of!(EntryRecord, el2_ready) && !el2;
        let good = if left_out { stamp == 0 } else { last < stamp && stamp < cpu.steps };
        if !good {
            return Err(Violation::Content("the entry record's stamps", at + offset as u64));
        }
        last = last.max(stamp);
    }
    Ok(())
}

/// Checks the early idmap: the attributes of each page of the image and of the device tree, and
/// that the pages around them are not mapped.
fn map(cpu: &mut Cpu, root: u64, text: &Range<u64>, image: &Range<u64>) -> Result<(), Violation> {
    let mut leaf = |page: u64| {
        let mut table = root;
        for shift in [39, 30, 21] {
            table = cpu.read(table + (page >> shift & 0x1ff) * 8)? & 0x0000_ffff_ffff_f000;
        }
        cpu.read(table + (page >> 12 & 0x1ff) * 8)
    };
    let attributes = |page: u64| match page {
        _ if text.contains(&page) => page | descriptor::TEXT,
        _ if image.contains(&page) => page | descriptor::DATA,
        _ if TREE.contains(&page) => page | descriptor::READ,
        _ => 0,
    };
    for page in (BASE..BASE + WINDOW).step_by(PAGE_SIZE as usize) {
        if leaf(page)? != attributes(page) {
            return Err(Violation::Content("the early idmap", page));
        }
    }
    let uart = UART.pages().start.get();
    if leaf(uart)? != uart | descriptor::DEVICE {
        return Err(Violation::Content("the early idmap", uart));
    }
    Ok(())
}
