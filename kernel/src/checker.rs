//! The checker: what this generation was entered with, held against the boot protocol and told.
//!
//! *When:* `check` in bootargs, once all CPUs are up: a table for people, then a line of JSON for each rule. A kernel that was handed no device tree
//! has no orders; its last words hold what can be told without ([`Early`]). *Leaves:* the machine as it was. The rules are `kernel::protocol`'s.
#![expect(unsafe_code, reason = "reads ID registers, and calls the stub")]

use crate::image::Parts;
use crate::life::Life;
use crate::probe;
use alloc::format;
use boot::hyp::STUB_ERR;
use boot::hyp_stub;
use boot::phys::PhysRange;
use boot::record::EntryRecord;
use boot::sysreg::current_el;
use core::arch::asm;
use core::fmt;
use kernel::mode::Mode;
use kernel::protocol::{
    ACCESSES, Access, CONTROL_STACKS, Facts, Ids, LATER_TRAPS, Lived, PROBES, TreeFacts, held,
    summary,
};
use kernel::tree::Gic;
use log::info;

/// Tells what became of each rule.
pub fn tell(record: &EntryRecord, life: &Life) {
    info!(
        "boot protocol: next, what a higher level may trap is tried; where that ends here, it was not opened"
    );
    crate::console::flush();
    let facts = Facts { tree: Some(tree(life)), lived: Some(lived(record, life)), ..early(record) };
    held(&facts).for_each(|line| info!("{line}"));
    held(&facts).for_each(|line| info!("{line:#}"));
    info!("{}", summary(&facts));
}

/// What the record alone tells, in the last words of a kernel without a device tree.
pub struct Early<'a>(pub &'a EntryRecord);

impl fmt::Display for Early<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = early(self.0);
        held(&facts).try_for_each(|line| write!(f, "\n{line}"))?;
        held(&facts).try_for_each(|line| write!(f, "\n{line:#}"))?;
        write!(f, "\n{}", summary(&facts))
    }
}

fn early(record: &EntryRecord) -> Facts {
    let image_size = Parts::of_this_image().whole.bytes();
    // _start is the Image's own header, whose text_offset is 0.
    Facts { record: *record, text_offset: 0, image_size, tree: None, lived: None }
}

fn tree(life: &Life) -> TreeFacts {
    let machine = &life.machine;
    let reserved = machine.reserved.iter().map(|reserved| reserved.range.clone()).collect();
    TreeFacts {
        ram: machine.ram.clone(),
        reserved,
        initrd: life.initrd.clone(),
        conduit: machine.conduit,
    }
}

fn lived(record: &EntryRecord, life: &Life) -> Lived {
    let running = life
        .devices
        .running
        .iter()
        .map(|(place, register)| format!("{place}: {register:#x}"))
        .collect();
    let accesses = accesses(record, life.mode);
    let is_v3 = matches!(life.machine.gic, Some(Gic::V3 { .. }));
    Lived {
        running,
        others: life.cpus.entered(),
        // Whoever got here has used them.
        gic_registers: is_v3.then(|| crate::interrupts::driven().is_some()),
        hvc: (record.current_el == current_el::EL2)
            .then(|| life.mode == Mode::Vhe || stub_answers()),
        gcscr: gcscr(&accesses),
        accesses,
    }
}

/// Whether the stub refuses a number that it does not know.
fn stub_answers() -> bool {
    const UNKNOWN: u64 = 0xffff;
    // SAFETY: this kernel lives at EL1 over its own stub, which changes nothing for a number that it does not know.
    unsafe { hyp_stub::call(UNKNOWN, [0; 4]) == STUB_ERR }
}

/// Tries whatever this CPU has.
fn accesses(record: &EntryRecord, mode: Mode) -> [Access; ACCESSES] {
    let (ids, at_el2) = (ids(), record.current_el == current_el::EL2);
    core::array::from_fn(|number| match number {
        _ if !ids.has(number) => Access::Absent,
        LATER_TRAPS | PROBES.. if !at_el2 => Access::NotAsked,
        // The EL2 set-up has come by.
        PROBES.. => Access::Free,
        LATER_TRAPS if mode != Mode::Vhe => Access::OutOfReach,
        _ if probe::is_trapped(number) => Access::Trapped,
        _ => Access::Free,
    })
}

/// GCSCR_EL1, or under E2H GCSCR_EL2, which nobody has written since the entry.
fn gcscr(accesses: &[Access; ACCESSES]) -> Option<u64> {
    (accesses[CONTROL_STACKS] == Access::Free).then(|| {
        let value: u64;
        // SAFETY: reading it has no side effects, and has just been tried.
        unsafe { asm!("mrs {}, s3_0_c2_c5_0", out(reg) value, options(nomem, nostack)) };
        value
    })
}

fn ids() -> Ids {
    macro_rules! id {
        ($name:literal) => {{
            let value: u64;
            // SAFETY: an identification register has no side effects.
            unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
            value
        }};
    }
    Ids {
        pfr0: id!("id_aa64pfr0_el1"),
        pfr1: id!("id_aa64pfr1_el1"),
        isar1: id!("id_aa64isar1_el1"),
        mmfr0: id!("id_aa64mmfr0_el1"),
        mmfr1: id!("id_aa64mmfr1_el1"),
        // ID_AA64ISAR2_EL1 and ID_AA64MMFR3_EL1, by encodings for older assemblers.
        isar2: id!("s3_0_c0_c6_2"),
        mmfr3: id!("s3_0_c0_c7_3"),
        dfr0: id!("id_aa64dfr0_el1"),
    }
}
