//! The table: each safety step, and how it is seen that it is one.
//!
//! *When:* the cases are listed, and docs/controls.md is written. Steps that only memory behind a cache can show stand here as well: whoever
//! reads the table is to miss none.

use std::fs;

use anyhow::{Context, Result};

use crate::{
    disk::{LOAD, payload},
    fit::{self, Kind, Payload},
    orders::Base,
    request::Request,
};

use super::{
    super::{
        debugger::LOADED,
        memory,
        patch::{HANG, NOP, UNDEFINED},
    },
    Experiment, Kernels, PLAIN, Shown, Step, WHOLE, looks,
};

/// `msr vbar_el1, x9`.
const SET_VBAR: u32 = 0xd518_c009;
/// `msr ttbr0_el1, x9`.
const SET_TTBR0: u32 = 0xd518_2009;
/// `msr sctlr_el1, x9`.
const SET_SCTLR: u32 = 0xd518_1009;
/// `msr sctlr_el2, x9`.
const SET_SCTLR_EL2: u32 = 0xd51c_1009;
/// `msr hcr_el2, x10`.
const SET_HCR: u32 = 0xd51c_110a;
/// `msr daifset, #15`.
const MASK: u32 = 0xd503_4fdf;
/// `mov x1, xzr`.
const CLEAR_X1: u32 = 0xaa1f_03e1;
/// `stp xzr, xzr, [x9], #16`.
const STORE_ZEROES: u32 = 0xa881_7d3f;
/// `add x9, x9, #16`: the same without the store.
const STORE_NOTHING: u32 = 0x9100_4129;
/// `str x10, [x21, #32]`: into the next image's header, where nobody reads.
const DAMAGE: u32 = 0xf900_12aa;

/// Which `b.ne` of stub_calls is for what is no call, and which for an address that is not aligned.
const NOT_HVC: usize = 0;
const MISALIGNED: usize = 2;

/// Four CPUs.
const CPUS: &[&str] = &["-smp", "4"];
/// Before each restart: a shared interrupt taken and not ended, a call pending, the timer expired.
const PROVOKE: &[&str] = &["selftest=interrupts"];
/// The same machine with an older interrupt controller.
const GICV2: &[&str] = &["-machine", "gic-version=2", "-smp", "2"];

/// In the order of the way out, then of the way in.
#[rustfmt::skip]
pub const STEPS: &[Step] = &[
    Step {
        name: "device-reset",
        does: "every virtio device's Status is written 0, as the last act but one",
        at: ["kernel/src/devices/device.rs", "device_reset"],
        without: "the read-back finds the device on and refuses; the generation lives on, without the memory that the device may write to",
        shown: Shown::By("devices/reset-left-out-modern", "the virtio device at 0x… is not in reset (Status 0xf): it could write to memory after the jump"),
    },
    Step {
        name: "device-read-back",
        does: "every virtio device's Status is read until it is 0",
        at: ["kernel/src/devices/device.rs", "device_status"],
        without: "a network device that was not reset writes frames into memory that is the next kernel's by then",
        shown: Shown::By("devices/without-reset", "!! what arrived is not what was loaded: …"),
    },
    Step {
        name: "bus-mastering-off",
        does: "a PCI function may not write to memory any more, whether or not it has a driver",
        at: ["kernel/src/devices/pci.rs", "Function::stop_mastering"],
        without: "a function that nobody drives could write to memory after the jump",
        shown: Shown::By("devices/quiet-before-the-jump", "what was left on is on at the jump: Status, bus mastering …"),
    },
    Step {
        name: "cpu-off",
        does: "a CPU that was told to stop takes its interrupts down and calls CPU_OFF",
        at: ["kernel/src/cpus/work.rs", "leave, turn_off"],
        without: "the restart is refused after two seconds, the CPU named; the generation lives on",
        shown: Shown::Here(Experiment {
            how: "turn_off spins", args: CPUS,
            omitted: Kernels { booted: |kernel| kernel.at("kernel::cpus::work::turn_off", 0, HANG), ..WHOLE },
            red: Some("does not stop: it would run on in memory that is overwritten"), lives_on: true, ..PLAIN
        }),
    },
    Step {
        name: "cpu-off-granted",
        does: "CPU_OFF comes back only where it was denied, and the CPU says so",
        at: ["kernel/src/cpus/work.rs", "leave, turn_off"],
        without: "the restart would wait for a CPU that goes on working",
        shown: Shown::By("cpus/one-is-denied", "CPU 1 (MPIDR 0x1) was denied PSCI CPU_OFF: it would run on in memory that is overwritten"),
    },
    Step {
        name: "affinity-info",
        does: "AFFINITY_INFO is asked until it says OFF, whatever the CPU says of itself",
        at: ["kernel/src/cpus/mod.rs", "is_off"],
        without: "a CPU that spins runs on into the next generation, which cannot start it: PSCI says that it is on",
        shown: Shown::Here(Experiment {
            how: "turn_off spins, in both runs; is_off answers yes", args: CPUS, base: Base::Load,
            provoked: Kernels { booted: |kernel| kernel.at("kernel::cpus::work::turn_off", 0, HANG), ..WHOLE },
            omitted: Kernels { booted: |kernel| kernel.answer("kernel::cpus::is_off", 1), ..WHOLE },
            green: Some("does not stop"), red: Some("was not started"), ..PLAIN
        }),
    },
    Step {
        name: "timer-off",
        does: "each CPU's timer is turned off",
        at: ["kernel/src/timer.rs", "Timer::off"],
        without: "the next kernel is entered with the timer on and its interrupt pending",
        shown: Shown::Here(Experiment {
            // At EL1: an entry at EL2 turns every timer off itself.
            how: "Timer::off returns at once", args: CPUS, machine: "el1",
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::timer::Timer::off"), ..WHOLE },
            red: Some("INTID 27 pending timer on"), ..PLAIN
        }),
    },
    Step {
        name: "interrupts-disabled",
        does: "every interrupt is disabled, in each redistributor and in the distributor",
        at: ["kernel/src/gic/bank.rs", "Bank::disable_all"],
        without: "the next kernel is entered with interrupts enabled that it did not enable",
        shown: Shown::Here(Experiment {
            how: "disable_all returns at once", args: CPUS, append: PROVOKE,
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::gic::bank::Bank::disable_all"), ..WHOLE },
            red: Some("INTID 255 enabled\", \"CPU 0 (MPIDR 0x0): INTID 0 enabled\""), ..PLAIN
        }),
    },
    Step {
        name: "interrupts-not-pending",
        does: "what is pending is cleared: a call between CPUs would be taken by the next kernel",
        at: ["kernel/src/gic/bank.rs", "Bank::clear_pending"],
        without: "the next kernel is entered with the call pending",
        shown: Shown::Here(Experiment {
            how: "clear_pending returns at once", append: PROVOKE,
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::gic::bank::Bank::clear_pending"), ..WHOLE },
            red: Some("CPU 0 (MPIDR 0x0): INTID 0 pending"), ..PLAIN
        }),
    },
    Step {
        name: "interrupts-not-pending-v2",
        does: "the same on a GICv2, where a call is pending from each sender",
        at: ["kernel/src/gic/bank.rs", "Bank::clear_pending"],
        without: "the next kernel is entered with the call pending",
        shown: Shown::Here(Experiment {
            how: "clear_pending returns at once", append: PROVOKE, args: GICV2,
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::gic::bank::Bank::clear_pending"), ..WHOLE },
            red: Some("CPU 0 (MPIDR 0x0): INTID 0 pending"), ..PLAIN
        }),
    },
    Step {
        name: "interrupts-not-active",
        does: "what was taken and never ended is deactivated",
        at: ["kernel/src/gic/bank.rs", "Bank::deactivate"],
        without: "the next kernel is entered with a shared interrupt active: it would never come again",
        shown: Shown::Here(Experiment {
            how: "deactivate returns at once", append: PROVOKE,
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::gic::bank::Bank::deactivate"), ..WHOLE },
            red: Some("shared by all CPUs: INTID 255 active"), ..PLAIN
        }),
    },
    Step {
        name: "running-priority",
        does: "the active priorities of the CPU's interface are cleared",
        at: ["kernel/src/gic/mod.rs", "Gic::no_priority_runs"],
        without: "the next kernel is entered with a priority running, behind which nothing is taken",
        shown: Shown::Here(Experiment {
            how: "no_priority_runs returns at once", append: PROVOKE,
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::gic::Gic::no_priority_runs"), ..WHOLE },
            red: Some("CPU 0 (MPIDR 0x0): one never ended"), ..PLAIN
        }),
    },
    Step {
        name: "cpu-interface",
        does: "each CPU leaves its own interrupts quiet before it goes off",
        at: ["kernel/src/gic/mod.rs", "Gic::leave_cpu"],
        without: "the next kernel's CPUs find the interrupts of the last one",
        shown: Shown::Here(Experiment {
            how: "leave_cpu returns at once", args: CPUS, append: PROVOKE,
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::gic::Gic::leave_cpu"), ..WHOLE },
            red: Some("CPU 3 (MPIDR 0x3): INTID 0 enabled"), ..PLAIN
        }),
    },
    Step {
        name: "distributor",
        does: "the distributor is left with nothing enabled, pending or active, and off",
        at: ["kernel/src/gic/mod.rs", "Gic::leave"],
        without: "the next kernel finds a shared interrupt enabled and active",
        shown: Shown::Here(Experiment {
            how: "leave returns at once", append: PROVOKE,
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::gic::Gic::leave"), ..WHOLE },
            red: Some("shared by all CPUs: INTID 255 enabled INTID 255 active"), ..PLAIN
        }),
    },
    Step {
        name: "sources-outside-destinations",
        does: "frames that lie in a destination are not taken for sources",
        at: ["kernel/src/memory.rs", "is_in_any"],
        without: "the segments' rules refuse, since a source would be overwritten before it is copied; the generation lives on",
        shown: Shown::Here(Experiment {
            how: "is_in_any answers no", generations: 2, base: Base::Load, disk: over_the_kernels_frames,
            omitted: Kernels { booted: |kernel| kernel.answer("kernel::memory::is_in_any", 0), ..WHOLE },
            red: Some("and could be overwritten before it is copied"), lives_on: true, ..PLAIN
        }),
    },
    Step {
        name: "sources-checked",
        does: "no source lies in a destination that is not its own",
        at: ["relocate/src/segment.rs", "overwritten_by"],
        without: "a page is overwritten before it is copied; the control page stops at the checksum",
        shown: Shown::Here(Experiment {
            how: "is_in_any answers no, in both runs; overwritten_by answers none", generations: 2, base: Base::Load, disk: over_the_loadables_frames,
            provoked: Kernels { booted: |kernel| kernel.answer("kernel::memory::is_in_any", 0), ..WHOLE },
            omitted: Kernels { booted: |kernel| kernel.answer("relocate::segment::overwritten_by", 0), ..WHOLE },
            green: Some("and could be overwritten before it is copied"), red: Some("!! what arrived is not what was loaded"), ..PLAIN
        }),
    },
    Step {
        name: "control-pages-outside-destinations",
        does: "no destination lies over the control pages",
        at: ["relocate/src/segment.rs", "is_over_control"],
        without: "the copy's store into the code that copies faults, since that code is mapped read-only, and no generation is left",
        shown: Shown::Here(Experiment {
            how: "a loadable is sent there, in both runs; is_over_control answers no", disk: over_control,
            omitted: Kernels { booted: |kernel| kernel.answer("relocate::segment::is_over_control", 0), ..WHOLE },
            green: Some("lies over the control pages"), red: Some("!! fault while relocating"), ..PLAIN
        }),
    },
    Step {
        name: "tail-zeroed",
        does: "what lies behind a payload's end is zeroed, to the end of its destination",
        at: ["kernel/src/memory.rs", "Frames::zero_from"],
        without: "a payload's last page ends with what was in memory before",
        shown: Shown::Here(Experiment {
            how: "RAM is dirty, in both runs; zero_from returns at once",
            disk: |image| fit::write(&memory::with_loadables(&image)),
            alter: |request| dirty(request, 0x5e00_0000, 0x200_0000),
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::memory::Frames::zero_from"), next: |kernel| kernel.skip("kernel::memory::Frames::zero_from") },
            look: looks::loadables, red: Some("'s last page is not zero at byte"), ..PLAIN
        }),
    },
    Step {
        name: "digest",
        does: "each payload's SHA-256 is held against the disk's word",
        at: ["kernel/src/fit.rs", "is_same"],
        without: "a kernel of which the disk lost a bit is entered",
        shown: Shown::Here(Experiment {
            how: "the disk's kernel has a bit turned over, in both runs; is_same answers yes", disk: bit_lost,
            omitted: Kernels { booted: |kernel| kernel.answer("kernel::fit::is_same", 1), ..WHOLE },
            generations: 2, look: looks::image, green: Some("is not what the FIT says: sha256"), red: Some("memory differs from the Image in 1 bytes"), ..PLAIN
        }),
    },
    Step {
        name: "tree-edited-in-place",
        does: "the numbers handed on are written over the last ones; none is added where it is already",
        at: ["kernel/src/handover.rs", "is_ours, has"],
        without: "the device tree grows with each generation",
        shown: Shown::Here(Experiment {
            how: "is_ours and has answer no",
            omitted: Kernels {
                next: |kernel| kernel.answer("kernel::handover::is_ours", 0)?.answer("kernel::handover::has", 0), ..WHOLE
            },
            red: Some("free memory, device tree and image of generation 2 are"), ..PLAIN
        }),
    },
    Step {
        name: "numbers-of-this-restart",
        does: "the base in /chosen is where this generation was sent; one that lies elsewhere refuses",
        at: ["kernel/src/main.rs", "kernel_main"],
        without: "a generation would live by a predecessor's numbers",
        shown: Shown::By("refused/sent-elsewhere", "this generation was sent to 0x… and lies at 0x…"),
    },
    Step {
        name: "memory-given-back",
        does: "a refusal gives back every frame that it took",
        at: ["kernel/src/memory.rs", "Frames, its drop"],
        without: "each refusal costs the generation that lives on memory",
        shown: Shown::Here(Experiment {
            how: "the last look refuses, in both runs; the drop returns at once",
            provoked: Kernels { booted: |kernel| kernel.answer("kernel::stage::has_changed", 1), ..WHOLE },
            omitted: Kernels { booted: |kernel| kernel.skip("core::ptr::drop_in_place<kernel::memory::Frames>"), ..WHOLE },
            green: Some("changed between load and jump"), red: Some("a refusal gave back"), ..PLAIN
        }),
    },
    Step {
        name: "last-look",
        does: "sources, device tree, code, list and tables are held against their checksums before \"Bye!\"",
        at: ["kernel/src/stage.rs", "has_changed"],
        without: "a source that changed is copied; the control page stops at the checksum, and no generation is left",
        shown: Shown::Here(Experiment {
            how: "a byte of a source is turned over by a debugger, in both runs; has_changed answers no",
            omitted: Kernels { booted: |kernel| kernel.answer("kernel::stage::has_changed", 0), ..WHOLE },
            look: looks::damaged, green: Some("changed between load and jump"), red: Some("!! what arrived is not what was loaded"), ..PLAIN
        }),
    },
    Step {
        name: "last-look-tree",
        does: "the same for the device tree",
        at: ["kernel/src/plan.rs", "Plan::check_sources"],
        without: "as last-look",
        shown: Shown::By("refused/tree-differs", "the device tree changed between load and jump (CRC-32C 0x… …"),
    },
    Step {
        name: "last-look-code",
        does: "the same for the relocation code and its vectors",
        at: ["kernel/src/stage.rs", "Staged::restart"],
        without: "changed code is run",
        shown: Shown::By("refused/code-differs", "the relocation code changed between load and jump (CRC-32C 0x… …"),
    },
    Step {
        name: "last-look-list",
        does: "the same for the list and the copy's tables",
        at: ["kernel/src/stage.rs", "Staged::restart"],
        without: "a changed list is obeyed",
        shown: Shown::By("refused/list-differs", "the list or the copy's tables changed between load and jump (CRC-32C 0x… …"),
    },
    Step {
        name: "private-vectors",
        does: "nvhe: EL2's vectors become those of the control block before the stub is overwritten",
        at: ["kernel/src/stage.rs", "Staged::install_vectors"],
        without: "SOFT_RESTART is answered by text that the copy has overwritten",
        shown: Shown::Here(Experiment {
            how: "install_vectors answers 0 and calls nobody",
            omitted: Kernels { booted: |kernel| kernel.answer("kernel::stage::Staged::install_vectors", 0), ..WHOLE },
            look: looks::answers, red: Some("SOFT_RESTART was answered by the stub's vectors"), ..PLAIN
        }),
    },
    Step {
        name: "exceptions-masked",
        does: "all exceptions are masked, as the boot protocol asks: before the jump to the control page, and there once more",
        at: ["relocate/src/control.rs, relocate/src/control.S", "enter, relocate_enter"],
        without: "the next kernel is entered with SError unmasked",
        shown: Shown::Here(Experiment {
            how: "`msr daifset, #15` is left out, at both places", machine: "el1", generations: 2,
            omitted: Kernels { booted: |kernel| kernel.replace("relocate::control::code::enter", MASK, NOP)?.replace("relocate_enter", MASK, NOP), ..WHOLE },
            look: looks::image, red: Some("the last generation found DAIF = 0x"), ..PLAIN
        }),
    },
    Step {
        name: "fault-vectors",
        does: "VBAR is that of the control block while the copy runs",
        at: ["relocate/src/control.S", "relocate_enter"],
        without: "a fault during the copy goes to vectors that are no longer executable, and is never told",
        shown: Shown::Here(Experiment {
            how: "an undefined instruction is put at verify, in both runs; `msr vbar_el1` is left out",
            provoked: Kernels { booted: |kernel| kernel.at("verify", 0, UNDEFINED), ..WHOLE },
            omitted: Kernels { booted: |kernel| kernel.replace("relocate_enter", SET_VBAR, NOP), ..WHOLE },
            green: Some("!! fault while relocating"), red: Some("at exception_vectors+0x200"), ..PLAIN
        }),
    },
    Step {
        name: "own-tables",
        does: "hot: the copy runs in a map of the control block's own",
        at: ["relocate/src/control.S", "relocate_enter"],
        without: "the kernel's own map holds the kernel's text read-only: the copy's first store to it faults",
        shown: Shown::Here(Experiment {
            how: "`msr ttbr0_el1` is left out",
            omitted: Kernels { booted: |kernel| kernel.replace("relocate_enter", SET_TTBR0, NOP), ..WHOLE },
            red: Some("!! fault while relocating"), ..PLAIN
        }),
    },
    Step {
        name: "list-entries",
        does: "an entry of the list that is none stops the copy",
        at: ["relocate/src/control.S", "walk, damaged"],
        without: "whatever the word says would be copied",
        shown: Shown::By("failing/wrong-list", "!! the list holds an entry that is none: 0000000000000030"),
    },
    Step {
        name: "verify",
        does: "every destination is held against the checksum that was taken at load",
        at: ["relocate/src/control.S", "verify"],
        without: "an image that did not arrive whole is entered",
        shown: Shown::Here(Experiment {
            how: "a store to the copied image stands before the call, in both runs; `bl verify` is left out", generations: 2,
            provoked: Kernels { booted: |kernel| kernel.at_call("relocate_enter", "verify", -4, DAMAGE), ..WHOLE },
            omitted: Kernels { booted: |kernel| kernel.at_call("relocate_enter", "verify", 0, NOP), ..WHOLE },
            look: looks::image, green: Some("!! what arrived is not what was loaded"), red: Some("memory differs from the Image in 1 bytes"), ..PLAIN
        }),
    },
    Step {
        name: "mmu-off",
        does: "the live regime is turned off before the branch",
        at: ["relocate/src/control.S", "mmu_off"],
        without: "the branch is taken in the copy's map, which holds the image as data, and faults",
        shown: Shown::Here(Experiment {
            how: "`msr sctlr_el1` is left out", machine: "el1",
            omitted: Kernels { booted: |kernel| kernel.replace("mmu_off", SET_SCTLR, NOP), ..WHOLE },
            red: Some("!! fault while relocating: slot=0000000000000004 esr=0000000086"), ..PLAIN
        }),
    },
    Step {
        name: "soft-restart-mmu-off",
        does: "SOFT_RESTART writes SCTLR_EL2's MMU-off value, whoever turned that MMU on",
        at: ["boot/src/macros.rs", "stub_calls"],
        without: "with EL2's MMU on, as a hypervisor may leave it, the next image would be entered with it on",
        shown: Shown::Here(Experiment {
            how: "the conformance suite runs, in both runs; `msr sctlr_el2` is left out", append: &["selftest=stub"],
            omitted: Kernels {
                booted: |kernel| kernel.replace("stub_call", SET_SCTLR_EL2, NOP), ..WHOLE
            },
            look: looks::suite, green: Some("checks passed"), red: Some("FAILED"), ..PLAIN
        }),
    },
    Step {
        name: "only-hvc-is-a-call",
        does: "the stub takes an exception for a call only where ESR_EL2.EC says HVC",
        at: ["boot/src/macros.rs", "stub_calls"],
        without: "a trapped register read with x0 = 1 is taken for a SOFT_RESTART",
        shown: Shown::Here(Experiment {
            how: "the conformance suite runs, in both runs, and ends with such a read; `b.ne` behind the comparison is left out",
            append: &["selftest=stub"],
            omitted: Kernels { booted: |kernel| kernel.never_branch("stub_call", NOT_HVC), ..WHOLE },
            green: Some("!! exception slot=0000000000000008 esr=00000000623"), red: Some("selftest: FAILED: the trapped read restarted"), ..PLAIN
        }),
    },
    Step {
        name: "vectors-aligned",
        does: "SET_VECTORS refuses an address that VBAR cannot hold",
        at: ["boot/src/macros.rs", "stub_calls"],
        without: "the call succeeds, and VBAR_EL2 is not what was asked for",
        shown: Shown::Here(Experiment {
            how: "the conformance suite runs, in both runs; `b.ne` behind the test is left out", append: &["selftest=stub"],
            omitted: Kernels { booted: |kernel| kernel.never_branch("stub_call", MISALIGNED), ..WHOLE },
            look: looks::suite, green: Some("checks passed"), red: Some("FAILED"), ..PLAIN
        }),
    },
    Step {
        name: "soft-restart-returns",
        does: "a SOFT_RESTART that comes back is told, and the CPU stops",
        at: ["relocate/src/control.S", "returned"],
        without: "the CPU would run on behind the call",
        shown: Shown::By("failing/soft-restart-returns-hot", "!! HVC_SOFT_RESTART returned: x0=0000000000000001"),
    },
    Step {
        name: "arguments-zero",
        does: "x1 to x3 are 0 at the entry, as the boot protocol asks",
        at: ["relocate/src/control.S", "leave"],
        without: "the next kernel is entered with an address of the list in x1",
        shown: Shown::Here(Experiment {
            how: "`mov x1, xzr` is left out", machine: "el1", generations: 2,
            omitted: Kernels { booted: |kernel| kernel.replace("leave", CLEAR_X1, NOP), ..WHOLE },
            look: looks::image, red: Some("the last generation found x1 = 0x"), ..PLAIN
        }),
    },
    Step {
        name: "e2h-cleared",
        does: "E2H and TGE that a VHE kernel left are replaced by this kernel's own",
        at: ["boot/src/el2.S", "el2_setup"],
        without: "the way to EL1 is illegal under TGE: an illegal execution state, told by the stub's vectors",
        shown: Shown::Here(Experiment {
            how: "`msr hcr_el2` is left out", machine: "vhe", append: &["alternate"],
            omitted: Kernels { next: |kernel| kernel.replace("el2_setup", SET_HCR, NOP), ..WHOLE },
            red: Some("!! exception slot=0000000000000004 esr=000000003a000000"), ..PLAIN
        }),
    },
    Step {
        name: "lpis-off",
        does: "LPIs that a predecessor left on are turned off, or their tables kept out of our memory",
        at: ["kernel/src/lpi.rs", "quiesce, turn_off"],
        without: "the GIC writes to memory that it was given by another kernel",
        shown: Shown::By("cpus/lpis-nvhe", "1 of the CPUs with LPIs on and tables in RAM; turned off"),
    },
    Step {
        name: "bss-cleared",
        does: "the entry clears bss, which no loader has to",
        at: ["boot/src/entry.S", "entry"],
        without: "a static is what was in memory before: the lock of the heap's arena is found taken, and the kernel panics",
        shown: Shown::Here(Experiment {
            how: "the arena is dirty before the first instruction, in both runs; the store of zeroes is left out", alter: dirty_arena,
            omitted: Kernels { booted: |kernel| kernel.replace("entry", STORE_ZEROES, STORE_NOTHING), ..WHOLE },
            red: Some("the heap begins once"), ..PLAIN
        }),
    },
    Step {
        name: "breadcrumbs-kept",
        does: "the breadcrumb page that /chosen names stays out of the heap until it is read",
        at: ["kernel/src/division.rs", "keep_out"],
        without: "nothing is seen: between the heap's first range and the reading nothing is allocated there. It stands for the next line that allocates",
        shown: Shown::Here(Experiment {
            how: "keep_out returns at once",
            omitted: Kernels { next: |kernel| kernel.skip("kernel::division::keep_out"), ..WHOLE },
            red: None, ..PLAIN
        }),
    },
    Step { shown: Shown::Assumed, ..model("clean-control-block", "the control block is clean to PoC, the I-cache invalidated, before it is run", ["kernel/src/stage.rs", "Staged::new"]) },
    model("clean-destinations", "each destination is cleaned to PoC after the copy (hot), before and after it (cold)", ["relocate/src/control.S", "walk"]),
    model("clean-sources", "cold: sources are cleaned to PoC before they are read past the caches", ["relocate/src/control.S", "walk"]),
    model("barriers-of-the-copy", "what was stored and cleaned is complete before the next step may lean on it", ["relocate/src/control.S", "relocate_enter, mmu_off"]),
    model("instructions-forgotten", "`ic iallu` behind the copy, before the branch", ["relocate/src/control.S", "relocate_enter, cold_copy"]),
    model("translations-forgotten", "each regime's TLB is invalidated before its MMU goes on", ["boot/src/el2.S, boot/src/entry.S", "el2_setup, mmu_on"]),
    model("record-and-early-tables", "what the entry writes past the caches is invalidated after, and cleaned before where no loader has done it", ["boot/src/entry.S", "early_map"]),
    model("breadcrumb-lines", "each breadcrumb's line is cleaned and invalidated at once", ["relocate/src/control.S", "crumb"]),
    Step { shown: Shown::Assumed, ..model("secondary-page", "what a secondary reads with its MMU off is clean to PoC before CPU_ON", ["kernel/src/cpus/mod.rs", "Cpus::start"]) },
];

const fn model(name: &'static str, does: &'static str, at: [&'static str; 2]) -> Step {
    Step { name, does, at, without: "QEMU cannot show it", shown: Shown::Model }
}

/// The kernel, and a loadable sent where the kernel's frames are found: by halves of MiBs, near the end of RAM.
fn over_the_kernels_frames(image: Vec<u8>) -> Vec<u8> {
    fit::write(&[
        payload("kernel", image, Some(LOAD)),
        loadable("loadable", 0x5ff0_0000, vec![0xa5; 512 << 10]),
    ])
}

/// The kernel, sent where a loadable's frames are found: by whole MiBs. The kernel is copied first.
fn over_the_loadables_frames(image: Vec<u8>) -> Vec<u8> {
    let data = (0..1_u32 << 20).flat_map(u32::to_le_bytes).collect();
    fit::write(&[
        payload("kernel", image, Some(0x5fe0_0000)),
        loadable("loadable", 0x4a00_0000, data),
    ])
}

/// The kernel, and a loadable over the last MiB of 512 MiB of RAM, where the control pages are.
fn over_control(image: Vec<u8>) -> Vec<u8> {
    fit::write(&[
        payload("kernel", image, None),
        loadable("loadable", 0x5ff0_0000, vec![0xa5; 1 << 20]),
    ])
}

fn loadable(name: &str, load: u64, data: Vec<u8>) -> Payload {
    Payload { kind: Kind::Loadable { load }, ..payload(name, data, None) }
}

/// The kernel, a bit of its header turned over where nobody reads, under its true digest.
fn bit_lost(image: Vec<u8>) -> Vec<u8> {
    const RES2: usize = 32;
    let start = image[..64].to_vec();
    let mut disk = fit::write(&[payload("kernel", image, None)]);
    let at =
        disk.windows(64).position(|window| window == start).expect("the disk holds the kernel");
    disk[at + RES2] ^= 1;
    disk
}

/// Fills RAM before the machine starts.
fn dirty(request: &mut Request, start: u64, bytes: usize) -> Result<()> {
    let folder = crate::target_dir().join("ouroboros").join("dirt");
    fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let file = folder.join(&request.name);
    fs::write(&file, vec![0xa5; bytes])
        .with_context(|| format!("cannot write {}", file.display()))?;
    let path = file.display().to_string().replace(',', ",,");
    request
        .args
        .extend(["-device".to_owned(), format!("loader,file={path},addr={start:#x},force-raw=on")]);
    Ok(())
}

/// Of bss, the heap's arena with its lock.
fn dirty_arena(request: &mut Request) -> Result<()> {
    let start = LOADED + request.kernel.symbol("kernel::memory::ARENA")?;
    dirty(request, start, 4096)
}
