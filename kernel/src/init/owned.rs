//! The third step: divides RAM, maps it, and gives it to heap and frame allocator.
//!
//! - Leaves a copy of the FDT without padding, and the previous kernel's breadcrumbs read. The
//!   memory of both is free from here on.
//! - Leaves an initrd that holds a FIT reserved.
//! - Refuses a machine whose RAM has no room for the control pages.
#![expect(unsafe_code, reason = "gives RAM to heap and frames")]

use super::Error;
use super::mapped::Mapped;
use super::parsed::{Facts, Parsed};
use crate::interrupts::StaleLpis;
use crate::layout::Parts;
use crate::map::KernelIdmap;
use crate::medium::{Candidate, Initrd, NoFit};
use crate::memory::Frames;
use crate::{boot_trace, cpus};
use alloc::vec;
use alloc::vec::Vec;
use boot::record::EntryRecord;
use boot::uart::Uart;
use fdt::handover::{self, Shrink};
use frames::layout::MemoryLayout;
use protocol::cmdline::Base;
use protocol::record::Text;
use relocate::random::SplitMix64;

/// All RAM mapped and divided; the FDT and the previous kernel's breadcrumbs read.
pub struct Owned {
    /// The entry code's record.
    pub record: &'static EntryRecord,
    /// The content of the FDT and the command line.
    pub facts: Facts,
    /// The parts of this image.
    pub parts: Parts,
    /// The kernel's idmap.
    pub map: KernelIdmap,
    /// The console's UART, if there is one.
    pub uart: Option<Uart>,
    /// The LPI state that the previous kernel left.
    pub stale_lpis: StaleLpis,
    /// The division of RAM.
    pub layout: MemoryLayout,
    /// This generation's own random numbers, if the previous kernel handed over its seed.
    pub random: Option<SplitMix64>,
    /// The initrd, if it holds the FIT.
    pub initrd: Result<Initrd, NoFit>,
    /// The FDT for the next generation.
    pub blob: Vec<u8>,
    /// The size in bytes of the FDT that this generation was entered with.
    pub blob_was: usize,
    /// The boot trace: the phases up to `kernel_main`, with their times.
    pub boot_trace: Vec<(Text, i64)>,
}

impl Mapped {
    /// Takes all RAM that the FDT names.
    ///
    /// # Errors
    ///
    /// [`Error::NoControlPages`], [`Error::Tree`].
    pub fn own(self) -> Result<Owned, Error> {
        let fdt_pages = self.parsed.fdt_pages();
        let Self { parsed, parts, mut map, uart, stale_lpis, firmware_map } = self;
        let Parsed { record, main, heap, handed_over, mut facts } = parsed;
        // The initrd may hold the FIT. Reserve it before RAM is divided: it cannot be read yet.
        let initrd = Candidate::of(facts.initrd.as_ref(), &facts.machine, &parts.whole);
        facts.machine.reserved.extend(initrd.iter().map(Candidate::reservation));
        // Generation 0 never places its control pages at random, since its seed may have to come
        // from the entropy device, which needs a heap. It does not do so for a seed on the command
        // line either: one seed must give one run, whether it was drawn or passed as `seed=`.
        let mut random = facts.handed.map(|handed| draws(handed.seed, facts.generation));
        let layout = MemoryLayout::of(
            &facts.machine,
            &parts.whole,
            &fdt_pages,
            facts.handed.map(|handed| handed.breadcrumbs),
            cpus::BLOCK_SIZE,
            random.as_mut().filter(|_| facts.cmdline.base == Base::Random),
        );
        let layout = layout.ok_or(Error::NoControlPages)?;

        // Map the heap first. The tables for all other RAM, with as many holes as it has, come from
        // it: the arena in the image is too small for them.
        // SAFETY: `add_ram` requires RAM that may be read speculatively. The heap is a part of
        // `layout.mapped`, which leaves out `no-map` reservations.
        unsafe { map.add_ram(core::slice::from_ref(&layout.heap), &[]) };
        // SAFETY: `extend` requires mapped, writable RAM that nothing uses. `MemoryLayout` chose it
        // outside of reservations, image, FDT, breadcrumbs, control pages and the CPUs' blocks.
        unsafe { heap.extend(layout.heap.clone()) };
        // Image, FDT, UEFI's memory map and heap are mapped already, and the guard pages stay
        // unmapped.
        let mut left_out = vec![parts.whole.clone(), fdt_pages];
        left_out.extend(firmware_map);
        left_out.extend([layout.heap.clone(), layout.control.clone()]);
        left_out.extend(layout.blocks.iter().flat_map(cpus::guards));
        // SAFETY: as above: the FDT names these ranges as RAM.
        unsafe { map.add_ram(&layout.mapped, &left_out) };
        // SAFETY: as above.
        unsafe { map.add_control(&layout.control) };

        // SAFETY: `open` requires a mapped range without a writer. `of` found it in RAM without
        // `no-map`. `MemoryLayout` kept it out of all that it gave out, since it is reserved.
        let initrd = initrd.and_then(|initrd| unsafe { initrd.open() });
        if let Err(NoFit::NotAFit(..)) = initrd {
            // No later generation reserves it either. In this one it is neither heap nor frames.
            facts.machine.reserved.pop();
        }

        let boot_trace = boot_trace::read(record, layout.breadcrumbs.as_ref(), main);
        let blob_was = handed_over.len();
        let blob = if handover::is_ours(facts.handed.as_ref()) {
            handed_over.to_vec()
        } else {
            let ram = facts.machine.firmware_map.is_some().then_some(&facts.machine.ram[..]);
            handover::shrink(handed_over, Shrink { keeps_initrd: initrd.is_ok(), ram })?
        };
        // SAFETY: `begin` requires the same as `extend`. `layout.frames` leaves out the heap and
        // what the heap avoids, except the FDT, which was copied, and the breadcrumbs, which were
        // read. `handed_over` is the only reference to either, and is not used again.
        unsafe { Frames::begin(&layout.frames) };
        Ok(Owned {
            record,
            facts,
            parts,
            map,
            uart,
            stale_lpis,
            layout,
            random,
            initrd,
            blob,
            blob_was,
            boot_trace,
        })
    }
}

/// Returns a generation's own random numbers, from the seed that all generations share.
pub fn draws(seed: u64, generation: u32) -> SplitMix64 {
    SplitMix64::new(seed ^ u64::from(generation) << 32)
}
