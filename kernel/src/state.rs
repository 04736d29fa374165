//! The state of a running generation, which `init` makes.

use crate::cpus::Cpus;
use crate::devices::Devices;
use crate::layout::Parts;
use crate::map::KernelIdmap;
use crate::medium::{Initrd, NoFit};
use alloc::vec::Vec;
use boot::phys::PhysAddr;
use boot::uart::Uart;
use core::ops::Range;
use fdt::handover::Handover;
use fdt::machine::Machine;
use frames::layout::MemoryLayout;
use protocol::cmdline::Cmdline;
use protocol::mode::Mode;
use relocate::control;
use relocate::random::SplitMix64;

/// The state of this generation.
pub struct Kernel {
    /// The generation's number. The loader starts generation 0.
    pub generation: u32,
    /// The parameters on the command line.
    pub cmdline: Cmdline,
    /// The seed that all generations of this run share.
    pub seed: u64,
    /// This generation's own random numbers, derived from the seed.
    pub random: SplitMix64,
    /// The mode that this kernel runs in.
    pub mode: Mode,
    /// The machine as the FDT describes it.
    pub machine: Machine,
    /// The parts of this image.
    pub parts: Parts,
    /// The division of RAM.
    pub layout: MemoryLayout,
    /// The console's UART, if there is one.
    pub uart: Option<Uart>,
    /// The kernel's idmap, which is in use.
    pub map: KernelIdmap,
    /// The CPUs.
    pub cpus: Cpus,
    /// The machine's virtio devices and PCI functions.
    pub devices: Devices,
    /// The initrd, if it holds the FIT.
    pub initrd: Result<Initrd, NoFit>,
    /// The FDT for the next generation.
    pub blob: Vec<u8>,
}

impl Kernel {
    /// Returns the RAM that no image may be placed over: reservations and control pages.
    #[must_use]
    pub fn reserved_ranges(&self) -> Vec<Range<PhysAddr>> {
        let reserved = self.machine.reserved.iter().map(|reserved| reserved.range.clone());
        reserved.chain([self.layout.control.clone()]).collect()
    }

    /// Returns the `/chosen` properties for the next generation, which will run at `base`.
    #[must_use]
    pub fn next_handover(&self, base: PhysAddr) -> Handover {
        Handover {
            generation: self.generation + 1,
            seed: self.seed,
            base,
            breadcrumbs: control::Layout::of(&self.layout.control).breadcrumbs.start,
        }
    }
}
