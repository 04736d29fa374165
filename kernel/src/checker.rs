//! Report of the arm64 boot protocol's rules, checked against this kernel's entry state.
//!
//! - When: with the `check` parameter, once all CPUs are up. Prints a table for people, then a line
//!   of JSON for each rule. Returns the broken rules, which end the run with `check=strict`.
//! - Without a device tree there is no command line. Then the panic message includes what the entry
//!   record alone shows ([`Early`]).
//! - Leaves: the machine as it was.
//!
//! The rules are in `protocol::rules`.
#![expect(unsafe_code, reason = "reads ID registers, and calls the stub")]

use crate::console;
use crate::layout::Parts;
use crate::probe;
use crate::state::Kernel;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use boot::hyp::STUB_ERR;
use boot::hyp_stub;
use boot::phys::{PhysAddr, PhysRange};
use boot::record::EntryRecord;
use boot::sysreg::current_el;
use core::arch::asm;
use core::fmt;
use core::ops::Range;
use fdt::machine::Gic;
use log::info;
use protocol::mode::Mode;
use protocol::record::Hex;
use protocol::rules::{
    ACCESSES, Access, CONTROL_STACKS, Facts, Ids, LATER_TRAPS, LONG_ACCESSES, Observer, PROBES,
    Runtime, TreeFacts, held, summary,
};

/// Prints the verdict on each rule, and returns the numbers of the broken ones.
pub fn report(record: &EntryRecord, kernel: &Kernel, initrd: Option<Range<PhysAddr>>) -> Vec<u8> {
    info!(
        "boot protocol: next, what a higher level may trap is tried; \
         where that ends here, it was not opened"
    );
    console::flush();
    let facts = Facts {
        tree: Some(tree(kernel, initrd)),
        runtime: Some(runtime(record, kernel)),
        ..early(record)
    };
    held(&facts).for_each(|line| info!("{line}"));
    let observer = Observer {
        generation: Some(kernel.generation),
        mode: Some(kernel.mode.name().into()),
        midr: midr(),
    };
    held(&facts).for_each(|line| console::record(&line.record(&observer)));
    info!("{}", summary(&facts));
    held(&facts).filter_map(|line| line.broken()).collect()
}

/// Verdicts from the entry record alone, for the panic message of a kernel without a device tree.
pub struct Early<'a>(pub &'a EntryRecord);

impl fmt::Display for Early<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = early(self.0);
        held(&facts).try_for_each(|line| write!(f, "\n{line}"))?;
        let observer = Observer { generation: None, mode: None, midr: midr() };
        held(&facts).try_for_each(|line| write!(f, "\n{}", line.record(&observer).line()))?;
        write!(f, "\n{}", summary(&facts))
    }
}

fn early(record: &EntryRecord) -> Facts {
    let image_size = Parts::of_this_image().whole.bytes();
    // The Image header is at the start of the image, and its text_offset is 0.
    Facts { record: *record, text_offset: 0, image_size, tree: None, runtime: None }
}

fn tree(kernel: &Kernel, initrd: Option<Range<PhysAddr>>) -> TreeFacts {
    let machine = &kernel.machine;
    let reserved = machine.reserved.iter().map(|reserved| reserved.range.clone()).collect();
    let console = match (&machine.console, &machine.console_error) {
        (Some(console), _) if console.is_big_endian => {
            Some(Err("its registers are big-endian".into()))
        }
        (Some(console), _) => Some(Ok(format!("{:?} at {}", console.kind, console.base))),
        (None, Some(why)) => Some(Err(why.to_string())),
        (None, None) => None,
    };
    TreeFacts {
        ram: machine.ram.clone(),
        reserved,
        initrd,
        conduit: machine.psci.and_then(|psci| psci.conduit_of_0_2()),
        console,
    }
}

fn runtime(record: &EntryRecord, kernel: &Kernel) -> Runtime {
    let running = kernel
        .devices
        .running
        .iter()
        .map(|(place, register)| format!("{place}: {register:#x}"))
        .collect();
    let accesses = accesses(record, kernel.mode);
    let is_v3 = matches!(kernel.machine.gic, Some(Gic::V3 { .. }));
    Runtime {
        running,
        others: kernel.cpus.entered(),
        // If the GIC is driven, this CPU has used its registers: a trap would have ended the run.
        gic_registers: is_v3.then(|| crate::interrupts::driven().is_some()),
        hvc: (record.current_el == current_el::EL2)
            .then(|| kernel.mode == Mode::Vhe || stub_answers()),
        gcscr: (kernel.mode != Mode::Nvhe).then(|| gcscr(&accesses)).flatten(),
        accesses,
    }
}

/// Returns whether the stub refuses a function number that it does not know.
fn stub_answers() -> bool {
    const UNKNOWN: u64 = 0xffff;
    // SAFETY: this kernel runs at EL1 over its own stub [I3], which changes nothing for an unknown
    // number.
    unsafe { hyp_stub::call(UNKNOWN, [0; 4]) == STUB_ERR }
}

/// Tries every access that this CPU has.
fn accesses(record: &EntryRecord, mode: Mode) -> [Access; ACCESSES] {
    let (ids, at_el2) = (ids(), record.current_el == current_el::EL2);
    core::array::from_fn(|number| match number {
        _ if !ids.has(number) => Access::Absent,
        LONG_ACCESSES if at_el2 => Access::NotAsked,
        LONG_ACCESSES => Access::Untried,
        LATER_TRAPS | PROBES.. if !at_el2 => Access::NotAsked,
        // The EL2 set-up has made these accesses already.
        PROBES.. => Access::Free,
        LATER_TRAPS if mode != Mode::Vhe => Access::OutOfReach,
        _ if probe::is_trapped(number) => Access::Trapped,
        _ => Access::Free,
    })
}

/// Reads GCSCR_EL1, or under E2H GCSCR_EL2. `el2_setup` clears EL1's, so in nvhe it says nothing.
fn gcscr(accesses: &[Access; ACCESSES]) -> Option<u64> {
    (accesses[CONTROL_STACKS] == Access::Free).then(|| {
        let value: u64;
        // SAFETY: reading GCSCR has no side effects, and the probe has shown that it does not trap.
        unsafe { asm!("mrs {}, s3_0_c2_c5_0", out(reg) value, options(nomem, nostack)) };
        value
    })
}

/// Reads an ID register, by name or encoding.
macro_rules! id {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading an ID register has no side effects.
        unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

fn midr() -> Hex {
    Hex(id!("midr_el1"))
}

fn ids() -> Ids {
    Ids {
        pfr0: id!("id_aa64pfr0_el1"),
        pfr1: id!("id_aa64pfr1_el1"),
        isar1: id!("id_aa64isar1_el1"),
        mmfr0: id!("id_aa64mmfr0_el1"),
        mmfr1: id!("id_aa64mmfr1_el1"),
        // ID_AA64ISAR2_EL1 and ID_AA64MMFR3_EL1, by encoding: older assemblers lack the names.
        isar2: id!("s3_0_c0_c6_2"),
        mmfr3: id!("s3_0_c0_c7_3"),
        dfr0: id!("id_aa64dfr0_el1"),
    }
}
