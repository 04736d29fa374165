//! Table of the boot protocol's rules, in the document's order; later additions follow.
//!
//! A rule's number is its permanent name.

use super::{
    ACTIVITY, Access, BRANCHES, CONTROL_STACKS, COPIES, COUNTER, DEBUG, EVENTS, FINE_TRAPS, FP,
    Facts, Finding, LATER_EVENTS, LATER_TRAPS, LONG_ACCESSES, MORE_TRAPS, Other, PERMISSIONS,
    POINTER_CODES, POINTER_KEYS, PRIORITIES, Rule, SME, SVE, TAGS, TCR2, THREAD_POINTER,
};
use crate::initrd_window;
use alloc::format;
use alloc::string::String;
use boot::image::BASE_ALIGNMENT;
use boot::phys::{PhysAddr, PhysRange};
use boot::record::DTB_MAX_SIZE;
use boot::rule;
use boot::sysreg::{current_el, sctlr, spsr};
use core::ops::Range;
use fdt::machine::Conduit;

const TREE: &str = "2";
const HEADER: &str = "4, header";
const DMA: &str = "4, DMA";
const GENERAL: &str = "4, general-purpose registers";
const MODE: &str = "4, CPU mode";
const CACHES: &str = "4, caches, MMUs";
const TIMERS: &str = "4, architected timers";
const COHERENCY: &str = "4, coherency";
const SYSTEM: &str = "4, system registers";
const ENTERING: &str = "4, entering each CPU";
const CHOSEN: &str = "Devicetree Specification, /chosen";

const fn rule(
    number: u8,
    place: &'static str,
    text: &'static str,
    hold: fn(&Facts) -> Finding,
) -> Rule {
    Rule { number, text, place, hold }
}

/// Every rule that this kernel checks. Not checked:
///
/// - GICv5: this kernel does not drive it.
/// - SPE's data sources, and SME2's ZT0: their ID registers show them only if they are open.
/// - Enables of the activity monitors: they depend on the platform.
/// - Memory around the dtb: this kernel maps the dtb by pages.
/// - The non-secure state of the CPU.
pub const RULES: [Rule; 49] = [
    rule(1, TREE, "the dtb is on an 8-byte boundary", |facts| {
        Finding::of(facts.record.x0.is_multiple_of(8), hex(facts.record.x0))
    }),
    rule(2, TREE, "the dtb has at most 2 MiB", |facts| match facts.record.dtb_size {
        0 => Finding::unseen("no dtb"),
        size => Finding::of(size <= DTB_MAX_SIZE, format!("{size} bytes")),
    }),
    rule(3, HEADER, "the Image is text_offset above a 2 MiB boundary", |facts| {
        let at = facts.record.load_address;
        Finding::of(at.wrapping_sub(facts.text_offset).is_multiple_of(BASE_ALIGNMENT), hex(at))
    }),
    rule(4, HEADER, "image_size bytes from the Image's start on are unreserved RAM", |facts| {
        let Some(tree) = &facts.tree else { return Finding::unseen(NO_TREE) };
        let image = facts.image();
        match tree.reserved.iter().find(|reserved| reserved.overlaps(&image)) {
            Some(reserved) => Finding::of(false, format!("{} reserved", span(reserved))),
            None => Finding::of(tree.ram.iter().any(|ram| ram.covers(&image)), span(&image)),
        }
    }),
    rule(5, HEADER, "the dtb and the initrd are outside of those bytes", |facts| {
        // The entry code has already overwritten a dtb inside the image.
        if facts.image().contains(&PhysAddr::new(facts.record.x0)) {
            return Finding::of(false, hex(facts.record.x0));
        }
        let initrd = facts.tree.iter().filter_map(|tree| tree.initrd.clone());
        let mut given = facts.dtb().into_iter().chain(initrd).peekable();
        match given.peek().cloned() {
            None => Finding::unseen(NO_TREE),
            Some(first) => {
                let within = given.find(|given| given.overlaps(&facts.image()));
                Finding::of(within.is_none(), span(&within.unwrap_or(first)))
            }
        }
    }),
    rule(6, HEADER, "initrd and Image fit into one window of 32 GiB, 1 GiB aligned", |facts| {
        let Some(tree) = &facts.tree else { return Finding::unseen(NO_TREE) };
        let Some(initrd) = &tree.initrd else { return Finding::absent("no initrd") };
        Finding::of(initrd_window::holds(&facts.image(), initrd), span(initrd))
    }),
    rule(7, DMA, "no device can write to memory", |facts| {
        facts.runtime(|runtime| match &runtime.running[..] {
            [] => Finding::of(true, "no virtio device or PCI function is on"),
            running => Finding::of(false, running.join(", ")),
        })
    }),
    rule(8, GENERAL, "x0 is the address of a dtb in RAM", |facts| {
        let x0 = hex(facts.record.x0);
        match (facts.dtb(), &facts.tree) {
            (None, _) if !facts.record.x0.is_multiple_of(8) => {
                Finding::unseen("not aligned, not looked at")
            }
            (None, _) if facts.image().contains(&PhysAddr::new(facts.record.x0)) => {
                Finding::unseen("within the Image, not looked at")
            }
            (None, _) => Finding::of(false, x0),
            (Some(_), None) => Finding::unseen(NO_TREE),
            (Some(dtb), Some(tree)) => Finding::of(tree.ram.iter().any(|ram| ram.covers(&dtb)), x0),
        }
    }),
    rule(9, GENERAL, "x1 is zero", |facts| zero(facts.record.x1)),
    rule(10, GENERAL, "x2 is zero", |facts| zero(facts.record.x2)),
    rule(11, GENERAL, "x3 is zero", |facts| zero(facts.record.x3)),
    rule(12, MODE, "Debug, SError, IRQ and FIQ are masked", |facts| {
        Finding::of(facts.record.daif == spsr::DAIF, format!("DAIF {:#x}", facts.record.daif))
    }),
    rule(rule::LEVEL, MODE, "the CPU is at EL2 or EL1", |facts| {
        let level = facts.record.current_el;
        Finding::of(
            level == current_el::EL2 || level == current_el::EL1,
            format!("EL{}", level >> 2),
        )
    }),
    rule(14, CACHES, "the MMU is off", |facts| {
        Finding::of(facts.record.sctlr & sctlr::M == 0, format!("SCTLR {:#x}", facts.record.sctlr))
    }),
    rule(15, CACHES, "the D-cache is off (implied)", |facts| {
        Finding::of(facts.record.sctlr & sctlr::C == 0, format!("SCTLR {:#x}", facts.record.sctlr))
    }),
    rule(16, CACHES, "the Image is clean to PoC, no I-cache holds older contents", |_| {
        Finding::unseen("no register shows it")
    }),
    rule(17, TIMERS, "CNTFRQ is the counter's frequency on all CPUs", |facts| {
        let frequency = facts.record.cntfrq;
        let other = facts.others().find(|other| other.came && other.cntfrq != frequency);
        Finding::of(
            frequency != 0 && other.is_none(),
            match other {
                Some(other) => {
                    format!("{frequency} Hz, CPU {:#x} {} Hz", other.mpidr, other.cntfrq)
                }
                None => format!("{frequency} Hz"),
            },
        )
    }),
    rule(18, TIMERS, "CNTVOFF is the same on all CPUs", |facts| {
        let here = facts.record.cntvoff_el2;
        facts.each_other(
            |other| other.counts_alike && other.cntvoff_el2 == here,
            |other| format!("{here:#x} here, {:#x} there", other.cntvoff_el2),
        )
    }),
    rule(19, TIMERS, "entered at EL1, the physical counter can be read", |facts| {
        access(facts, COUNTER)
    }),
    rule(20, COHERENCY, "all CPUs are in one coherency domain", |_| {
        Finding::unseen("no register shows it")
    }),
    rule(rule::HVC, SYSTEM, "entered at EL2, HVC is there", |facts| {
        facts.runtime(|runtime| match runtime.hvc {
            None => Finding::absent("entered at EL1"),
            // If HVC is UNDEFINED, the entry code stops and its message names this rule.
            Some(answers) => Finding::of(
                answers,
                if answers { "the stub answers" } else { "not the stub answers" },
            ),
        })
    }),
    rule(rule::GIC_REGISTERS, SYSTEM, "a GICv3's CPU interface is registers", |facts| {
        facts.runtime(|runtime| match runtime.gic_registers {
            None => Finding::absent("no GICv3"),
            Some(true) => Finding::of(true, "driven"),
            // If they are trapped, the kernel panics and its message names this rule.
            Some(false) => Finding::unseen("not driven: the device tree names no timer"),
        })
    }),
    rule(rule::FP, SYSTEM, "FP and SIMD are not trapped", |facts| access(facts, FP)),
    rule(24, SYSTEM, "pointer authentication: keys are not trapped", |facts| {
        access(facts, POINTER_KEYS)
    }),
    rule(25, SYSTEM, "pointer authentication: instructions are not trapped", |facts| {
        access(facts, POINTER_CODES)
    }),
    rule(rule::SVE, SYSTEM, "SVE is not trapped", |facts| access(facts, SVE)),
    rule(rule::SME, SYSTEM, "SME is not trapped", |facts| access(facts, SME)),
    rule(28, SYSTEM, "allocation tags (MTE2) are not trapped", |facts| access(facts, TAGS)),
    rule(29, SYSTEM, "activity monitors are not trapped", |facts| access(facts, ACTIVITY)),
    rule(30, SYSTEM, "branch records are not trapped", |facts| access(facts, BRANCHES)),
    rule(31, SYSTEM, "memory copy and set (MOPS) are not trapped", |facts| access(facts, COPIES)),
    rule(rule::TCR2, SYSTEM, "TCR2 is not trapped", |facts| access(facts, TCR2)),
    rule(33, SYSTEM, "permission indirection is not trapped", |facts| access(facts, PERMISSIONS)),
    rule(34, SYSTEM, "guarded control stacks are not trapped", |facts| {
        access(facts, CONTROL_STACKS)
    }),
    rule(rule::EVENTS, SYSTEM, "the PMU is not trapped", |facts| access(facts, EVENTS)),
    rule(rule::DEBUG, SYSTEM, "debug registers are not trapped", |facts| access(facts, DEBUG)),
    rule(37, SYSTEM, "SCR_EL3.FIQ and vector lengths are the same on all CPUs", |_| {
        Finding::unseen("no register shows the former; the latter is not checked")
    }),
    rule(38, ENTERING, "each CPU of the device tree can be started", |facts| {
        let method = match facts.tree.as_ref().and_then(|tree| tree.conduit) {
            Some(Conduit::Smc) => "PSCI by SMC",
            Some(Conduit::Hvc) => "PSCI by HVC",
            None => "no PSCI",
        };
        facts.each_of_all(
            |other| other.came,
            |other| match other.came {
                true => method.into(),
                false => format!("CPU {:#x}: {method}", other.mpidr),
            },
        )
    }),
    rule(39, ENTERING, "all CPUs are entered at one level", |facts| {
        let here = facts.record.current_el;
        facts.each_other(
            |other| other.current_el == here,
            |other| format!("EL{} here, EL{} there", here >> 2, other.current_el >> 2),
        )
    }),
    rule(40, ENTERING, "the others too: MMU and D-cache off, interrupts masked", |facts| {
        let is_kept =
            |other: &Other| other.sctlr & (sctlr::M | sctlr::C) == 0 && other.daif == spsr::DAIF;
        facts.each_other(is_kept, |other| {
            format!("SCTLR {:#x}, DAIF {:#x}", other.sctlr, other.daif)
        })
    }),
    rule(rule::HCX, SYSTEM, "entered at EL2, HCRX_EL2 is not trapped", |facts| {
        access(facts, MORE_TRAPS)
    }),
    rule(rule::FGT, SYSTEM, "entered at EL2, fine-grained traps (FGT) are not trapped", |facts| {
        access(facts, FINE_TRAPS)
    }),
    rule(43, SYSTEM, "entered at EL2, fine-grained traps of FGT2 are not trapped", |facts| {
        access(facts, LATER_TRAPS)
    }),
    rule(44, SYSTEM, "SME's thread pointer is not trapped", |facts| access(facts, THREAD_POINTER)),
    rule(45, SYSTEM, "SME's priorities are not trapped", |facts| access(facts, PRIORITIES)),
    rule(46, SYSTEM, "the PMU of v3p9 is not trapped", |facts| access(facts, LATER_EVENTS)),
    rule(47, SYSTEM, "guarded control stacks are off", |facts| {
        facts.runtime(|runtime| match runtime.gcscr {
            Some(value) => Finding::of(value == 0, format!("GCSCR {value:#x}")),
            None if runtime.accesses[CONTROL_STACKS] == Access::Trapped => {
                Finding::unseen("an exception")
            }
            None if runtime.accesses[CONTROL_STACKS] == Access::Free => Finding::unseen("cleared"),
            None => Finding::absent(NONE),
        })
    }),
    rule(48, SYSTEM, "64-byte accesses (LS64) are not trapped", |facts| {
        access(facts, LONG_ACCESSES)
    }),
    rule(49, CHOSEN, "stdout-path names no console, or one that we drive", |facts| {
        match facts.tree.as_ref().map(|tree| &tree.console) {
            Some(Some(Ok(console))) => Finding::of(true, console.as_str()),
            Some(Some(Err(why))) => Finding::of(false, why.as_str()),
            Some(None) => Finding::absent("none is named"),
            None => Finding::unseen(NO_TREE),
        }
    }),
];

const NONE: &str = "the CPU has none";
const NO_TREE: &str = "no device tree could be read";

fn zero(value: u64) -> Finding {
    Finding::of(value == 0, hex(value))
}

fn access(facts: &Facts, number: usize) -> Finding {
    facts.runtime(|runtime| match runtime.accesses[number] {
        Access::Absent => Finding::absent(NONE),
        Access::Free => Finding::of(true, "tried"),
        Access::Trapped => Finding::of(false, "an exception"),
        Access::NotAsked => {
            Finding::absent(format!("entered at EL{}", facts.record.current_el >> 2))
        }
        Access::Untried => Finding::unseen("not tried"),
        Access::OutOfReach => Finding::unseen("the kernel runs at EL1"),
    })
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

fn span(range: &Range<PhysAddr>) -> String {
    format!("{} to {}", range.start, range.end)
}
