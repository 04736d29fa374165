//! The last step: takes interrupts over, describes the CPUs, finds the devices, draws the seed.
//!
//! Leaves every device in reset, and the other CPUs off: `Cpus::start` starts them.
#![expect(unsafe_code, reason = "gives the CPUs their blocks of RAM")]

use super::owned::{Owned, draws};
use super::parsed::Facts;
use crate::cpus::{self, Cpus};
use crate::devices::Devices;
use crate::interrupts::{self, StaleIrqs, StaleLpis};
use crate::state::Kernel;
use alloc::string::String;
use alloc::vec::Vec;
use boot::phys::PhysAddr;
use core::ops::Range;
use protocol::mode::{Mode, Note};
use protocol::record::Text;

/// The running kernel, and what it found at entry.
pub struct Running {
    /// The state of this generation.
    pub kernel: Kernel,
    /// Facts that are reported once, and not needed later.
    pub found: Found,
}

/// Facts that this generation found at entry.
pub struct Found {
    /// The error for the first parameter that could not be parsed, if any.
    pub cmdline_error: Option<String>,
    /// The base that the previous kernel chose for this one. `None` after another loader.
    pub expected_base: Option<PhysAddr>,
    /// The reason if this is not the mode that the command line requests.
    pub note: Option<Note>,
    /// The initrd that /chosen names.
    pub initrd: Option<Range<PhysAddr>>,
    /// The stale interrupts found among those that all CPUs share.
    pub stale_irqs: StaleIrqs,
    /// The LPI state that an earlier kernel left.
    pub stale_lpis: StaleLpis,
    /// The size in bytes of the FDT that this generation was entered with.
    pub blob_was: usize,
    /// The boot trace: the phases up to `kernel_main`, with their times.
    pub boot_trace: Vec<(Text, i64)>,
    /// CNTVCT at the first instruction.
    pub entered: u64,
}

impl Owned {
    /// Takes over interrupts, CPUs and devices.
    pub fn run(self) -> Running {
        let Self { record, facts, parts, mut map, uart, stale_lpis, layout, random, .. } = self;
        let Facts {
            handed, generation, cmdline, cmdline_error, machine, initrd, mode, note, ..
        } = facts;
        let (gic, timer) = (machine.gic.clone(), machine.timer);
        let stale_irqs = interrupts::begin(gic, timer, cpus::mpidr(), mode == Mode::Vhe);
        let (cpus, stack) = (&machine.cpus, parts.guards[1].start);
        // SAFETY: `new` requires blocks that belong to their CPUs permanently. `MemoryLayout` kept
        // them out of heap and frames, and `add_ram` left their guard pages unmapped.
        let cpus = unsafe { Cpus::new(cpus, &layout.blocks, stack, map.ttbr0(), mode) };
        let devices = Devices::find(&machine, &mut map);

        let seed = handed.map(|handed| handed.seed).or(cmdline.seed).or_else(|| {
            let mut seed = [0; 8];
            devices.entropy("the seed", &mut seed)?;
            Some(u64::from_le_bytes(seed))
        });
        let seed = seed.unwrap_or(record.entered ^ record.cntfrq << 32);
        let random = random.unwrap_or_else(|| draws(seed, generation));

        let found = Found {
            cmdline_error,
            expected_base: handed.map(|handed| handed.base),
            note,
            initrd,
            stale_irqs,
            stale_lpis,
            blob_was: self.blob_was,
            boot_trace: self.boot_trace,
            entered: record.entered,
        };
        let kernel = Kernel {
            generation,
            cmdline,
            seed,
            random,
            mode,
            machine,
            parts,
            layout,
            uart,
            map,
            cpus,
            devices,
            initrd: self.initrd,
            blob: self.blob,
        };
        Running { kernel, found }
    }
}
