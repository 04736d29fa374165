//! Table of all safety steps, with the evidence that each is needed.
//!
//! It lists the cases of this suite, and docs/controls.md is generated from it. For completeness it
//! includes steps that only a model of caches can test.

use std::fs;

use anyhow::{Context, Result};
use boot::marker;

use harness::{
    cmdline::Base,
    disk::{LOAD, payload},
    patch::{HANG, NOP, Patched, UNDEFINED},
    request::Request,
};
use protocol::{
    fit::writer::{self as fit, Kind, Payload},
    record,
};

use super::{
    super::{debugger::LOADED, memory},
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
/// `add x9, x9, #16`, which is `STORE_ZEROES` without the store.
const STORE_NOTHING: u32 = 0x9100_4129;
/// `str x10, [x21, #32]`, into a field of the next image's header that no code reads.
const DAMAGE: u32 = 0xf900_12aa;

/// Positions of two `b.ne` in `stub_calls`: for exceptions that are no call, and for misaligned
/// vectors.
const NOT_HVC: usize = 0;
const MISALIGNED: usize = 2;

/// Four CPUs.
const CPUS: &[&str] = &["-smp", "4"];
/// Leaves interrupts before each restart: an SPI acknowledged and not ended, an SGI pending, the
/// timer expired.
const PROVOKE: &[&str] = &["selftest=interrupts"];
/// Two CPUs and a GICv2.
const GICV2: &[&str] = &["-machine", "gic-version=2", "-smp", "2"];

/// The steps in the order of the kexec path, then of the entry path.
#[rustfmt::skip]
pub const STEPS: &[Step] = &[
    Step {
        name: "device-reset",
        does: "before the jump, this kernel writes 0 to the Status of every virtio device",
        at: ["kernel/src/devices/device.rs", "device_reset"],
        without: "the read-back refuses; this kernel continues, without the memory that the device \
            may write to",
        shown: Shown::By("devices/reset-left-out-modern",
            &["the virtio device at 0x… is not in reset (Status 0xf): it could write to memory \
            after the jump"]),
    },
    Step {
        name: "device-read-back",
        does: "this kernel reads the Status of every virtio device until it is 0",
        at: ["kernel/src/devices/device.rs", "device_status"],
        without: "a network device that was not reset writes frames into memory that the next \
            kernel owns",
        shown: Shown::By("devices/without-reset", &[marker::MISMATCH, "…"]),
    },
    Step {
        name: "bus-mastering-off",
        does: "this kernel turns bus mastering off in every PCI function, with or without a driver",
        at: ["kernel/src/devices/pci.rs", "Function::stop_mastering"],
        without: "a PCI function without a driver could write to memory after the jump",
        shown: Shown::By("devices/quiet-before-the-jump",
            &["a device that was left on is still on at the jump: Status, bus mastering …"]),
    },
    Step {
        name: "cpu-off",
        does: "a CPU that receives the stop command silences its interrupts and calls CPU_OFF",
        at: ["kernel/src/cpus/work.rs", "leave, turn_off"],
        without: "this kernel refuses the restart after two seconds, names the CPU and continues",
        shown: Shown::Here(Experiment {
            how: "turn_off spins", args: CPUS,
            omitted: Kernels {
                booted: |kernel| kernel.at("kernel::cpus::work::turn_off", 0, HANG), ..WHOLE
            },
            red: Some("does not stop: it would run on in memory that is overwritten"),
            continues: true, ..PLAIN
        }),
    },
    Step {
        name: "cpu-off-granted",
        does: "CPU_OFF returns only if PSCI denies it, and the CPU then reports the denial",
        at: ["kernel/src/cpus/work.rs", "leave, turn_off"],
        without: "the restart would wait for a CPU that continues to work",
        shown: Shown::By("cpus/one-is-denied",
            &["CPU 1 (MPIDR 0x1) was denied PSCI CPU_OFF: it would run on in memory that is \
            overwritten"]),
    },
    Step {
        name: "affinity-info",
        does: "this kernel polls AFFINITY_INFO until it reports OFF, whatever the CPU itself \
            reported",
        at: ["kernel/src/cpus/mod.rs", "is_off"],
        without: "a CPU that spins keeps running; the next kernel cannot start it, since PSCI \
            reports it as on",
        shown: Shown::Here(Experiment {
            how: "turn_off spins, in both runs; is_off returns true", args: CPUS, base: Base::Load,
            provoked: Kernels {
                booted: |kernel| kernel.at("kernel::cpus::work::turn_off", 0, HANG), ..WHOLE
            },
            omitted: Kernels { booted: |kernel| kernel.answer("kernel::cpus::is_off", 1), ..WHOLE },
            green: Some("does not stop"), red: Some("was not started"), ..PLAIN
        }),
    },
    Step {
        name: "timer-off",
        does: "each CPU turns its timer off",
        at: ["kernel/src/timer.rs", "Timer::off"],
        without: "the next kernel starts with the timer on and its interrupt pending",
        shown: Shown::Here(Experiment {
            // el1: an entry at EL2 turns every timer off itself.
            how: "Timer::off returns at once", args: CPUS, machine: "el1",
            omitted: Kernels { booted: |kernel| kernel.skip("kernel::timer::Timer::off"), ..WHOLE },
            red: Some("INTID 27 pending timer on"), ..PLAIN
        }),
    },
    Step {
        name: "interrupts-disabled",
        does: "this kernel disables every interrupt, in each redistributor and in the distributor",
        at: ["gic/src/driver/bank.rs", "Bank::disable_all"],
        without: "the next kernel starts with interrupts enabled that it did not enable",
        shown: Shown::Here(Experiment {
            how: "disable_all returns at once", args: CPUS, append: PROVOKE,
            omitted: Kernels {
                booted: |kernel| kernel.skip("gic::driver::bank::Bank::disable_all"), ..WHOLE
            },
            red: Some("INTID 255 enabled\", \"CPU 0 (MPIDR 0x0): INTID 0 enabled\""), ..PLAIN
        }),
    },
    Step {
        name: "interrupts-not-pending",
        does: "this kernel clears pending interrupts: the next kernel would take a pending SGI",
        at: ["gic/src/driver/bank.rs", "Bank::clear_pending"],
        without: "the next kernel starts with an SGI pending",
        shown: Shown::Here(Experiment {
            how: "clear_pending returns at once", append: PROVOKE,
            omitted: Kernels {
                booted: |kernel| kernel.skip("gic::driver::bank::Bank::clear_pending"), ..WHOLE
            },
            red: Some("CPU 0 (MPIDR 0x0): INTID 0 pending"), ..PLAIN
        }),
    },
    Step {
        name: "interrupts-not-pending-v2",
        does: "this kernel clears pending SGIs of a GICv2, which are pending per sender",
        at: ["gic/src/driver/bank.rs", "Bank::clear_pending"],
        without: "the next kernel starts with an SGI pending",
        shown: Shown::Here(Experiment {
            how: "clear_pending returns at once", append: PROVOKE, args: GICV2,
            omitted: Kernels {
                booted: |kernel| kernel.skip("gic::driver::bank::Bank::clear_pending"), ..WHOLE
            },
            red: Some("CPU 0 (MPIDR 0x0): INTID 0 pending"), ..PLAIN
        }),
    },
    Step {
        name: "interrupts-not-active",
        does: "this kernel deactivates interrupts that were acknowledged and never ended",
        at: ["gic/src/driver/bank.rs", "Bank::deactivate"],
        without: "the next kernel starts with an SPI active, and would never receive it again",
        shown: Shown::Here(Experiment {
            how: "deactivate returns at once", append: PROVOKE,
            omitted: Kernels {
                booted: |kernel| kernel.skip("gic::driver::bank::Bank::deactivate"), ..WHOLE
            },
            red: Some("shared by all CPUs: INTID 255 active"), ..PLAIN
        }),
    },
    Step {
        name: "running-priority",
        does: "each CPU clears the active priorities of its CPU interface",
        at: ["gic/src/driver.rs", "Gic::no_priority_runs"],
        without: "the next kernel starts with a running priority, which blocks its interrupts",
        shown: Shown::Here(Experiment {
            how: "no_priority_runs returns at once", append: PROVOKE,
            omitted: Kernels {
                booted: |kernel| kernel.skip("gic::driver::Gic::no_priority_runs"), ..WHOLE
            },
            red: Some("CPU 0 (MPIDR 0x0): one never ended"), ..PLAIN
        }),
    },
    Step {
        name: "cpu-interface",
        does: "each CPU silences its private interrupts and its interface before it goes off",
        at: ["gic/src/driver.rs", "Gic::leave_cpu"],
        without: "the next kernel's CPUs find the interrupts of the previous kernel",
        shown: Shown::Here(Experiment {
            how: "leave_cpu returns at once", args: CPUS, append: PROVOKE,
            omitted: Kernels {
                booted: |kernel| kernel.skip("gic::driver::Gic::leave_cpu"), ..WHOLE
            },
            red: Some("CPU 3 (MPIDR 0x3): INTID 0 enabled"), ..PLAIN
        }),
    },
    Step {
        name: "distributor",
        does: "this kernel leaves the distributor off, with no SPI enabled, pending or active",
        at: ["gic/src/driver.rs", "Gic::leave"],
        without: "the next kernel finds an SPI enabled and active",
        shown: Shown::Here(Experiment {
            how: "leave returns at once", append: PROVOKE,
            omitted: Kernels { booted: |kernel| kernel.skip("gic::driver::Gic::leave"), ..WHOLE },
            red: Some("shared by all CPUs: INTID 255 enabled INTID 255 active"), ..PLAIN
        }),
    },
    Step {
        name: "sources-outside-destinations",
        does: "this kernel uses no frame in a destination as a source",
        at: ["frames/src/allocator.rs", "is_in_any"],
        without: "the segment rules refuse, as the copy would overwrite a source too early; this \
            kernel continues",
        shown: Shown::Here(Experiment {
            how: "is_in_any returns false", generations: 2, base: Base::Load,
            disk: over_the_kernels_frames,
            omitted: Kernels {
                booted: |kernel| kernel.answer("frames::allocator::is_in_any", 0), ..WHOLE
            },
            red: Some("and could be overwritten before it is copied"), continues: true, ..PLAIN
        }),
    },
    Step {
        name: "sources-checked",
        does: "the segment rules refuse a source inside a destination, unless it is already in \
            place",
        at: ["relocate/src/segment.rs", "overwritten_by"],
        without: "a page is overwritten before it is copied; the control page stops at the \
            checksum",
        shown: Shown::Here(Experiment {
            how: "is_in_any returns false, in both runs; overwritten_by returns None",
            generations: 2, base: Base::Load, disk: over_the_loadables_frames,
            provoked: Kernels {
                booted: |kernel| kernel.answer("frames::allocator::is_in_any", 0), ..WHOLE
            },
            omitted: Kernels {
                booted: |kernel| kernel.answer("relocate::segment::overwritten_by", 0), ..WHOLE
            },
            green: Some("and could be overwritten before it is copied"),
            red: Some(marker::MISMATCH), ..PLAIN
        }),
    },
    Step {
        name: "control-pages-outside-destinations",
        does: "the segment rules refuse a destination that overlaps the control pages",
        at: ["relocate/src/segment.rs", "is_over_control"],
        without: "the copy stores into its own code, which is mapped read-only, and faults; no \
            kernel is left",
        shown: Shown::Here(Experiment {
            how: "a loadable is sent there, in both runs; is_over_control returns false",
            disk: over_control,
            omitted: Kernels {
                booted: |kernel| kernel.answer("relocate::segment::is_over_control", 0), ..WHOLE
            },
            green: Some("overlaps the control pages"), red: Some(marker::RELOCATION_FAULT),
            ..PLAIN
        }),
    },
    Step {
        name: "tail-zeroed",
        does: "this kernel zeroes the rest of each destination after the payload's end",
        at: ["kernel/src/memory.rs", "Frames::zero_from"],
        without: "a payload's last page ends with old memory contents",
        shown: Shown::Here(Experiment {
            how: "RAM is filled beforehand, in both runs; zero_from returns at once",
            disk: |image| fit::write(&memory::with_loadables(&image)),
            alter: |request| dirty(request, 0x5e00_0000, 0x200_0000),
            omitted: Kernels {
                booted: |kernel| kernel.skip("kernel::memory::Frames::zero_from"),
                next: |kernel| kernel.skip("kernel::memory::Frames::zero_from")
            },
            look: looks::loadables, red: Some("'s last page is not zero at byte"), ..PLAIN
        }),
    },
    Step {
        name: "digest",
        does: "this kernel compares each payload's digests with those in the FIT",
        at: ["protocol/src/fit.rs", "is_same"],
        without: "this kernel enters a kernel that has a wrong bit on the disk",
        shown: Shown::Here(Experiment {
            how: "a bit of the kernel on the disk is flipped, in both runs; is_same returns true",
            disk: bit_lost,
            omitted: Kernels {
                booted: |kernel| kernel.answer("protocol::fit::is_same", 1), ..WHOLE
            },
            generations: 2, look: looks::image, green: Some("is not what the FIT says: sha256"),
            red: Some("memory differs from the Image in 1 bytes"), ..PLAIN
        }),
    },
    Step {
        name: "tree-edited-in-place",
        does: "new /chosen properties overwrite the previous ones; none is added twice",
        at: ["fdt/src/handover.rs", "is_ours"],
        without: "the device tree grows with each generation",
        shown: Shown::Here(Experiment {
            how: "is_ours and the copier's is_left_out return false",
            omitted: Kernels {
                next: |kernel| kernel
                    .answer("fdt::handover::is_ours", 0)?
                    .answer("fdt::copy::is_left_out", 0),
                ..WHOLE
            },
            red: Some("free memory, device tree and image of generation 2 are"), ..PLAIN
        }),
    },
    Step {
        name: "numbers-of-this-restart",
        does: "this kernel refuses a base in /chosen that is not its own address",
        at: ["kernel/src/main.rs", "kernel_main"],
        without: "this kernel would use the /chosen properties of an earlier kexec",
        shown: Shown::By("refused/sent-elsewhere",
            &["the previous kernel chose base 0x… for this generation, which is at 0x…"]),
    },
    Step {
        name: "memory-given-back",
        does: "a refusal frees every frame that the restart allocated",
        at: ["kernel/src/memory.rs", "Frames, its drop"],
        without: "each refusal leaks memory of the generation that continues",
        shown: Shown::Here(Experiment {
            how: "the last check refuses, in both runs; the drop returns at once",
            provoked: Kernels {
                booted: |kernel| kernel.answer("kernel::plan::has_changed", 1), ..WHOLE
            },
            omitted: Kernels {
                booted: |kernel| kernel.skip("core::ptr::drop_in_place<kernel::memory::Frames>"),
                ..WHOLE
            },
            green: Some(record::CHANGED), red: Some("a refusal gave back"), ..PLAIN
        }),
    },
    Step {
        name: "last-look",
        does: "before \"Bye!\", this kernel checks sources, device tree, code, list and tables \
            again",
        at: ["kernel/src/plan.rs", "has_changed"],
        without: "a changed source is copied; the control page stops at the checksum, and no \
            kernel is left",
        shown: Shown::Here(Experiment {
            how: "a debugger flips a bit of a source, in both runs; has_changed returns false",
            omitted: Kernels {
                booted: |kernel| kernel.answer("kernel::plan::has_changed", 0), ..WHOLE
            },
            look: looks::damaged, green: Some(record::CHANGED),
            red: Some(marker::MISMATCH), ..PLAIN
        }),
    },
    Step {
        name: "last-look-tree",
        does: "before \"Bye!\", this kernel checks the device tree's checksum again",
        at: ["kernel/src/plan.rs", "Plan::check_sources"],
        without: "the same happens as in last-look",
        shown: Shown::By("refused/tree-differs",
            &[record::NEXT_FDT, " ", record::CHANGED, " (CRC-32C 0x… …"]),
    },
    Step {
        name: "last-look-code",
        does: "before \"Bye!\", this kernel checks the relocation code and its vectors again",
        at: ["kernel/src/stage.rs", "Staged::kexec"],
        without: "changed code would run",
        shown: Shown::By("refused/code-differs",
            &[record::RELOCATION_CODE, " ", record::CHANGED, " (CRC-32C 0x… …"]),
    },
    Step {
        name: "last-look-list",
        does: "before \"Bye!\", this kernel checks the list and the relocation idmap again",
        at: ["kernel/src/stage.rs", "Staged::kexec"],
        without: "the copy would follow a changed list",
        shown: Shown::By("refused/list-differs",
            &[record::LIST_AND_IDMAP, " ", record::CHANGED, " (CRC-32C 0x… …"]),
    },
    Step {
        name: "private-vectors",
        does: "nvhe: EL2's vectors move to the control pages before the copy overwrites the stub",
        at: ["kernel/src/stage.rs", "Staged::install_vectors"],
        without: "text that the copy has overwritten answers SOFT_RESTART",
        shown: Shown::Here(Experiment {
            how: "install_vectors returns 0 and makes no call",
            omitted: Kernels {
                booted: |kernel| kernel.answer("kernel::stage::Staged::install_vectors", 0), ..WHOLE
            },
            look: looks::answers, red: Some("SOFT_RESTART was answered by the stub's vectors"),
            ..PLAIN
        }),
    },
    Step {
        name: "exceptions-masked",
        does: "this kernel masks all exceptions before the jump, and again in the control page",
        at: ["relocate/src/control.rs, relocate/src/control.S", "enter, relocate_new_kernel"],
        without: "the next kernel starts with SError unmasked, against the boot protocol",
        shown: Shown::Here(Experiment {
            how: "`msr daifset, #15` is left out at both places", machine: "el1", generations: 2,
            omitted: Kernels {
                booted: |kernel| kernel
                    .replace("relocate::control::code::enter", MASK, NOP)?
                    .replace("relocate_new_kernel", MASK, NOP),
                ..WHOLE
            },
            look: looks::image, red: Some("the last generation found DAIF = 0x"), ..PLAIN
        }),
    },
    Step {
        name: "fault-vectors",
        does: "VBAR points to the control pages during the copy",
        at: ["relocate/src/control.S", "relocate_new_kernel"],
        without: "a fault during the copy goes to vectors that are no longer executable, and is \
            never reported",
        shown: Shown::Here(Experiment {
            how: "verify starts with an undefined instruction, in both runs; `msr vbar_el1` is \
                left out",
            provoked: Kernels { booted: |kernel| kernel.at("verify", 0, UNDEFINED), ..WHOLE },
            omitted: Kernels {
                booted: |kernel| kernel.replace("relocate_new_kernel", SET_VBAR, NOP), ..WHOLE
            },
            green: Some(marker::RELOCATION_FAULT), red: Some("at exception_vectors+0x200"),
            ..PLAIN
        }),
    },
    Step {
        name: "own-tables",
        does: "hot: the copy runs on the relocation idmap, which is in the control pages",
        at: ["relocate/src/control.S", "relocate_new_kernel"],
        without: "the copy's first store to this kernel's text faults: the kernel's own map has it \
            read-only",
        shown: Shown::Here(Experiment {
            how: "`msr ttbr0_el1` is left out",
            omitted: Kernels {
                booted: |kernel| kernel.replace("relocate_new_kernel", SET_TTBR0, NOP), ..WHOLE
            },
            red: Some(marker::RELOCATION_FAULT), ..PLAIN
        }),
    },
    Step {
        name: "list-entries",
        does: "the copy stops at an invalid list entry",
        at: ["relocate/src/control.S", "walk_kimage, damaged"],
        without: "the copy would use an invalid entry as an address",
        shown: Shown::By("failing/wrong-list",
            &[marker::INVALID_ENTRY, "0000000000000030"]),
    },
    Step {
        name: "verify",
        does: "the control page compares every destination with the checksum taken at load",
        at: ["relocate/src/control.S", "verify"],
        without: "the control page enters an image that was not copied correctly",
        shown: Shown::Here(Experiment {
            how: "a store into the copied image precedes the call, in both runs; `bl verify` is \
                left out", generations: 2,
            provoked: Kernels {
                booted: |kernel| kernel.at_call("relocate_new_kernel", "verify", -4, DAMAGE),
                ..WHOLE
            },
            omitted: Kernels {
                booted: |kernel| kernel.at_call("relocate_new_kernel", "verify", 0, NOP), ..WHOLE
            },
            look: looks::image, green: Some(marker::MISMATCH),
            red: Some("memory differs from the Image in 1 bytes"), ..PLAIN
        }),
    },
    Step {
        name: "mmu-off",
        does: "the control page turns the MMU off before the branch",
        at: ["relocate/src/control.S", "mmu_off"],
        without: "the branch faults, since the relocation idmap maps the next image as data",
        shown: Shown::Here(Experiment {
            how: "`msr sctlr_el1` is left out", machine: "el1",
            omitted: Kernels {
                booted: |kernel| kernel.replace("mmu_off", SET_SCTLR, NOP), ..WHOLE
            },
            red: Some(concat!(marker!(relocation_fault), "0000000000000004 esr=0000000086")),
            ..PLAIN
        }),
    },
    Step {
        name: "soft-restart-mmu-off",
        does: "SOFT_RESTART turns EL2's MMU off, even one that this kernel did not turn on",
        at: ["boot/src/macros.S", "stub_calls"],
        without: "the next image would start with EL2's MMU on, if a hypervisor left it on",
        shown: Shown::Here(Experiment {
            how: "the conformance suite runs, in both runs; `msr sctlr_el2` is left out",
            append: &["selftest=stub"],
            omitted: Kernels {
                booted: |kernel| kernel.replace("stub_call", SET_SCTLR_EL2, NOP), ..WHOLE
            },
            look: looks::suite, green: Some("checks passed"), red: Some("FAILED"), ..PLAIN
        }),
    },
    Step {
        name: "only-hvc-is-a-call",
        does: "the stub takes an exception for a call only if ESR_EL2.EC is HVC",
        at: ["boot/src/macros.S", "stub_calls"],
        without: "the stub takes a trapped register read with x0 = 1 for SOFT_RESTART",
        shown: Shown::Here(Experiment {
            how: "the suite ends with such a read, in both runs; `b.ne` after the comparison is \
                left out",
            append: &["selftest=stub"],
            omitted: Kernels {
                booted: |kernel| kernel.never_branch("stub_call", NOT_HVC), ..WHOLE
            },
            green: Some(concat!(marker!(exception), "0000000000000008 esr=00000000623")),
            red: Some("selftest: FAILED: the trapped read restarted"), ..PLAIN
        }),
    },
    Step {
        name: "vectors-aligned",
        does: "SET_VECTORS refuses an address that is misaligned for VBAR_EL2",
        at: ["boot/src/macros.S", "stub_calls"],
        without: "the call succeeds, but VBAR_EL2 does not hold the requested address",
        shown: Shown::Here(Experiment {
            how: "the conformance suite runs, in both runs; `b.ne` after the test is left out",
            append: &["selftest=stub"],
            omitted: Kernels {
                booted: |kernel| kernel.never_branch("stub_call", MISALIGNED), ..WHOLE
            },
            look: looks::suite, green: Some("checks passed"), red: Some("FAILED"), ..PLAIN
        }),
    },
    Step {
        name: "soft-restart-returns",
        does: "if SOFT_RESTART returns, the control page reports it and stops the CPU",
        at: ["relocate/src/control.S", "returned"],
        without: "the CPU would run on past the call",
        shown: Shown::By("failing/soft-restart-returns-hot",
            &[marker::SOFT_RESTART_RETURNED, "0000000000000001"]),
    },
    Step {
        name: "arguments-zero",
        does: "x1 to x3 are 0 at the entry, as the boot protocol requires",
        at: ["relocate/src/control.S", "leave"],
        without: "the next kernel starts with the address of a list entry in x1",
        shown: Shown::Here(Experiment {
            how: "`mov x1, xzr` is left out", machine: "el1", generations: 2,
            omitted: Kernels { booted: |kernel| kernel.replace("leave", CLEAR_X1, NOP), ..WHOLE },
            look: looks::image, red: Some("the last generation found x1 = 0x"), ..PLAIN
        }),
    },
    Step {
        name: "e2h-cleared",
        does: "the EL2 set-up overwrites the HCR_EL2 of a VHE kernel, clearing E2H and TGE",
        at: ["boot/src/el2.S", "el2_setup"],
        without: "ERET to EL1 is illegal under TGE: the stub's vectors report an illegal execution \
            state",
        shown: Shown::Here(Experiment {
            how: "both `msr hcr_el2` are left out", machine: "vhe", append: &["alternate"],
            omitted: Kernels { next: without_hcr, ..WHOLE },
            red: Some(concat!(marker!(exception), "0000000000000004 esr=000000003a000000")), ..PLAIN
        }),
    },
    Step {
        name: "lpis-off",
        does: "this kernel turns off LPIs that the previous kernel left on, or reserves their \
            tables",
        at: ["gic/src/lpi.rs", "quiesce, turn_off"],
        without: "the GIC writes to memory that another kernel gave it",
        shown: Shown::By("cpus/lpis-nvhe",
            &["1 of the CPUs with LPIs on and tables in RAM; turned off"]),
    },
    Step {
        name: "bss-cleared",
        does: "the entry code clears bss, since no loader has to",
        at: ["boot/src/entry.S", "entry"],
        without: "statics hold old memory contents: the heap arena's lock is found taken, and the \
            kernel panics",
        shown: Shown::Here(Experiment {
            how: "the arena is dirty before the boot, in both runs; the store of zeroes is left \
                out", alter: dirty_arena,
            omitted: Kernels {
                booted: |kernel| kernel.replace("entry", STORE_ZEROES, STORE_NOTHING), ..WHOLE
            },
            red: Some("the heap begins once"), ..PLAIN
        }),
    },
    Step {
        name: "breadcrumbs-kept",
        does: "the breadcrumb page that /chosen names stays out of control pages, stacks and heap",
        at: ["frames/src/layout.rs", "keep_out"],
        without: "nothing fails today, as no code allocates that early; the step guards code that \
            may do so later",
        shown: Shown::Here(Experiment {
            how: "keep_out returns at once",
            omitted: Kernels { next: |kernel| kernel.skip("frames::layout::keep_out"), ..WHOLE },
            red: None, ..PLAIN
        }),
    },
    Step { shown: Shown::Assumed,
        ..model("clean-control-pages",
            "the control pages are cleaned to PoC, and the I-cache invalidated, before they run",
            ["kernel/src/stage.rs", "Staged::new"]) },
    model("clean-destinations",
        "each destination is cleaned to PoC after the copy (hot), or before and after it (cold)",
        ["relocate/src/control.S", "walk_kimage"]),
    model("clean-sources",
        "cold: sources are cleaned to PoC before the copy reads them with the MMU off",
        ["relocate/src/control.S", "walk_kimage"]),
    model("barriers-of-the-copy",
        "stores and cache maintenance complete before the next step depends on them",
        ["relocate/src/control.S", "relocate_new_kernel, mmu_off"]),
    model("instructions-forgotten",
        "the I-cache is invalidated after the copy and before the branch",
        ["relocate/src/control.S", "relocate_new_kernel, cold_copy"]),
    model("translations-forgotten", "each regime's TLB is invalidated before its MMU is turned on",
        ["boot/src/el2.S, boot/src/entry.S", "el2_setup, mmu_on"]),
    model("record-and-early-tables",
        "lines written with the MMU off are invalidated after, and cleaned before if no loader did \
        so", ["boot/src/entry.S", "early_idmap"]),
    model("breadcrumb-lines", "each breadcrumb's cache line is cleaned and invalidated at once",
        ["relocate/src/control.S", "breadcrumb"]),
    Step { shown: Shown::Assumed,
        ..model("secondary-page",
            "memory that a secondary reads with its MMU off is cleaned to PoC before CPU_ON",
            ["kernel/src/cpus/mod.rs", "Cpus::start"]) },
];

/// Leaves out both writes of HCR_EL2: the test of E2H, and its result.
fn without_hcr(kernel: Patched<'_>) -> Result<Patched<'_>> {
    kernel.replace("el2_setup", SET_HCR, NOP)?.replace("el2_setup", SET_HCR, NOP)
}

const fn model(name: &'static str, does: &'static str, at: [&'static str; 2]) -> Step {
    Step { name, does, at, without: "QEMU cannot show this", shown: Shown::Model }
}

/// Returns the kernel, and a loadable whose destination overlaps the frames that the kernel is
/// loaded into: the highest ones below the control pages.
fn over_the_kernels_frames(image: Vec<u8>) -> Vec<u8> {
    fit::write(&[
        payload("kernel", image, Some(LOAD)),
        loadable("loadable", 0x5ff0_0000, vec![0xa5; 512 << 10]),
    ])
}

/// Returns a kernel whose destination overlaps the frames that a loadable is loaded into: those
/// below the kernel's. The kernel is copied first.
fn over_the_loadables_frames(image: Vec<u8>) -> Vec<u8> {
    let data = (0..1_u32 << 20).flat_map(u32::to_le_bytes).collect();
    fit::write(&[
        payload("kernel", image, Some(0x5fe0_0000)),
        loadable("loadable", 0x4a00_0000, data),
    ])
}

/// Returns the kernel, and a loadable for the last MiB of 512 MiB of RAM, where the control pages
/// are.
fn over_control(image: Vec<u8>) -> Vec<u8> {
    fit::write(&[
        payload("kernel", image, None),
        loadable("loadable", 0x5ff0_0000, vec![0xa5; 1 << 20]),
    ])
}

fn loadable(name: &str, load: u64, data: Vec<u8>) -> Payload {
    Payload { kind: Kind::Loadable { load }, ..payload(name, data, None) }
}

/// Returns the kernel with a bit flipped in an unused header field, and its correct digest.
fn bit_lost(image: Vec<u8>) -> Vec<u8> {
    const RES2: usize = 32;
    let start = image[..64].to_vec();
    let mut disk = fit::write(&[payload("kernel", image, None)]);
    let at =
        disk.windows(64).position(|window| window == start).expect("the disk holds the kernel");
    disk[at + RES2] ^= 1;
    disk
}

/// Fills RAM with 0xa5 before the machine starts.
fn dirty(request: &mut Request, start: u64, bytes: usize) -> Result<()> {
    let folder = harness::paths::target_dir().join("ouroboros").join("dirt");
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

/// Fills the heap's arena with its lock, in bss, before the machine starts.
fn dirty_arena(request: &mut Request) -> Result<()> {
    let start = LOADED + request.kernel.symbol("kernel::memory::ARENA")?;
    dirty(request, start, 4096)
}
