//! The kernel's state: what this generation found, and what it set up.
//!
//! - Runs first: [`Kernel::init`] takes the machine over from `boot`'s entry code.
//! - Leaves mode, kernel's idmap, heap, frames and console in place; a shrunk copy of the loader's
//!   FDT; and the control pages, which no frame and no heap is in.
//! - Panics, on the early console, if there is no device tree, a damaged one, or no RAM: this
//!   generation cannot run without them.
#![expect(unsafe_code, reason = "gives RAM to heap and frames, and opens the console")]

use crate::cpus::{self, Cpus};
use crate::devices::Devices;
use crate::enter_mode::enter_mode;
use crate::interrupts::{self, StaleIrqs, StaleLpis};
use crate::layout::{Parts, handed_over_tree};
use crate::map::{KernelIdmap, Regions};
use crate::memory::{Frames, Heap};
use crate::{boot_trace, checker, clock, console, end, firmware};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use boot::record::EntryRecord;
use core::ops::Range;
use fdt::handover::{self, Handover};
use fdt::machine::{Machine, Tree};
use frames::layout::{MemoryLayout, usable};
use protocol::cmdline::{self, Base, Cmdline};
use protocol::mode::{Mode, Note};
use protocol::record::Text;
use relocate::random::SplitMix64;

/// The state of this generation.
pub struct Kernel {
    /// The generation's number. The loader starts generation 0.
    pub generation: u32,
    /// The parameters on the command line.
    pub cmdline: Cmdline,
    /// The error for the first parameter that could not be parsed, if any.
    pub cmdline_error: Option<String>,
    /// The seed that all generations of this run share.
    pub seed: u64,
    /// This generation's own random numbers, derived from the seed.
    pub random: SplitMix64,
    /// The base that the previous kernel chose for this one. `None` after another loader.
    pub expected_base: Option<PhysAddr>,
    /// The mode that this kernel runs in.
    pub mode: Mode,
    /// The reason if this is not the mode that the command line requests.
    pub note: Option<Note>,
    /// The machine as the device tree describes it.
    pub machine: Machine,
    /// The loader's initrd. This kernel does not use it.
    pub initrd: Option<Range<PhysAddr>>,
    /// The machine's virtio devices and PCI functions.
    pub devices: Devices,
    /// The console's PL011: the one in the device tree, or the early console's.
    pub uart: Range<PhysAddr>,
    /// All RAM except `no-map` reservations. The kernel's idmap covers it, apart from guard pages.
    pub mapped: Vec<Range<PhysAddr>>,
    /// The parts of this image.
    pub parts: Parts,
    /// The kernel's idmap, which is in use.
    pub map: KernelIdmap,
    /// The CPUs.
    pub cpus: Cpus,
    /// The stale interrupts found among those that all CPUs share.
    pub stale_irqs: StaleIrqs,
    /// The LPI state that an earlier kernel left.
    pub stale_lpis: StaleLpis,
    /// The control pages.
    pub control: Range<PhysAddr>,
    /// The heap's range of RAM.
    pub heap: Range<PhysAddr>,
    /// The FDT for the next generation.
    pub blob: Vec<u8>,
    /// The size in bytes of the FDT that this generation was entered with.
    pub blob_was: usize,
    /// The boot trace: the phases up to `kernel_main`, with their times.
    pub boot_trace: Vec<(Text, i64)>,
    /// CNTVCT at the first instruction.
    pub entered: u64,
}

impl Kernel {
    /// Takes the machine over: mode, idmap, heap, console, interrupts, CPUs, devices.
    ///
    /// # Panics
    ///
    /// If there is no usable device tree, or if RAM has no room for the control pages.
    pub fn init(record: &'static EntryRecord) -> Self {
        let main = clock::now();
        let heap = Heap::begin();
        // SAFETY: `handed_over_tree` requires that its result is unused once its memory is handed
        // out as frames. `given` is last used before `Frames::begin`, below.
        let given = unsafe { handed_over_tree(record) }.unwrap_or_else(|| {
            let (x0, size) = (record.x0, record.dtb_size);
            let why = "a loader must hand over an 8-byte aligned device tree of at most 2 MiB, \
                       outside of the Image";
            panic!("x0 = {x0:#x}, size {size}: {why}{}", checker::Early(record))
        });
        let tree =
            Tree::open(given).unwrap_or_else(|error| panic!("{error}{}", checker::Early(record)));
        let (cmdline, parsed) = Cmdline::parse(tree.bootargs());
        let cmdline_error = parsed.err().map(|error: cmdline::Error<'_>| error.to_string());
        let handed = Handover::read(&tree);
        let mut machine = Machine::read(&tree).unwrap_or_else(|error| panic!("{error}"));
        machine.ram = usable(&machine.ram);
        let initrd = tree.initrd();
        let generation = handed.map_or(0, |handed| handed.generation);
        let (mode, note) = enter_mode(record, cmdline.el2(generation));
        firmware::prepare(machine.conduit);
        end::prepare(cmdline.semihosting);

        // Map the image, the FDT and devices first, and RAM later: turning LPIs off needs the GIC's
        // registers, and reserves RAM that a redistributor keeps writing to.
        let parts = Parts::of_this_image();
        let given_at = PhysAddr(record.x0);
        let given_pages = (given_at..PhysAddr(given_at.0 + given.len() as u64)).whole_pages();
        // Map the early console's UART as well, whichever UART the console uses: the assembly
        // printer reports its failures there.
        let early_uart =
            PhysAddr(boot::early_console::UART)..PhysAddr(boot::early_console::UART + PAGE_SIZE);
        let uart = machine.uart.clone().unwrap_or_else(|| early_uart.clone());
        let mut devices = machine.virtio.clone();
        devices.extend([uart.clone()]);
        devices.extend(machine.gic.iter().flat_map(|gic| gic.registers()));
        devices.extend(machine.its.iter().cloned());
        devices.extend(
            (!machine.ram.iter().any(|ram| ram.overlaps(&early_uart))).then_some(early_uart),
        );
        let regions = Regions { devices: &devices, image: &parts, tree: &given_pages };
        // SAFETY: `activate` requires regions that describe this machine and this image. The device
        // ranges come from the device tree, and the image's parts from the linker.
        let mut map = unsafe { KernelIdmap::activate(mode == Mode::Vhe, &regions) };
        // SAFETY: `open` requires a mapped PL011 that nothing else drives. The device tree names
        // one at `uart`, or it is the early console's; `activate` mapped it as device memory.
        unsafe { console::open(uart.start, generation) };
        let stale_lpis = interrupts::turn_lpis_off(&mut machine);

        // Generation 0 never places its control pages at random, since its seed may have to come
        // from the entropy device, which needs a heap. It does not do so for a given seed either:
        // one seed must give one run, whether it was drawn or passed as `seed=`.
        let draws = |seed| SplitMix64::new(seed ^ u64::from(generation) << 32);
        let mut random = handed.map(|handed| draws(handed.seed));
        let anywhere = random.as_mut().filter(|_| cmdline.base == Base::Random);
        let breadcrumbs = handed.map(|handed| handed.breadcrumbs);
        let layout = MemoryLayout::of(
            &machine,
            &parts.whole,
            &given_pages,
            breadcrumbs,
            cpus::BLOCK_SIZE,
            anywhere,
        );
        let MemoryLayout { breadcrumbs, control, blocks, mapped, heap: heap_range, frames } =
            layout.expect("RAM holds no control block");

        let mut left_out = vec![parts.whole.clone(), given_pages];
        left_out.extend(blocks.iter().flat_map(cpus::guards));
        // SAFETY: `add_ram` requires RAM that may be read speculatively. The device tree names
        // these ranges as RAM, and `mapped` leaves out its `no-map` reservations.
        unsafe { map.add_ram(&mapped, &left_out, &control) };
        // SAFETY: `extend` requires mapped, writable RAM that nothing uses. `MemoryLayout` chose it
        // outside of reservations, image, FDT, breadcrumbs, control pages and the CPUs' blocks.
        unsafe { heap.extend(heap_range.clone()) };

        let boot_trace = boot_trace::read(record, breadcrumbs.as_ref(), main);
        let blob_was = given.len();
        let blob = if handover::is_ours(handed.as_ref()) {
            given.to_vec()
        } else {
            handover::shrink(given).unwrap_or_else(|error| panic!("{error}"))
        };

        // SAFETY: `begin` requires the same as `extend`. `frames` leaves out the heap and what the
        // heap avoids, except the FDT, which was copied, and the breadcrumbs, which were read. No
        // reference to either is used again.
        unsafe { Frames::begin(&frames) };

        let stale_irqs = interrupts::begin(machine.gic.clone(), machine.timer, mode == Mode::Vhe);
        // SAFETY: `new` requires blocks that belong to their CPUs permanently. `MemoryLayout` kept
        // them out of heap and frames, and `add_ram` left their guard pages unmapped.
        let cpus =
            unsafe { Cpus::new(&machine.cpus, &blocks, parts.guards[1].start, map.ttbr0(), mode) };
        let devices = Devices::find(&machine, &mut map);
        let seed = handed.map(|handed| handed.seed).or(cmdline.seed).or_else(|| {
            let mut seed = [0; 8];
            devices.entropy("the seed", &mut seed)?;
            Some(u64::from_le_bytes(seed))
        });
        let seed = seed.unwrap_or(record.entered ^ record.cntfrq << 32);
        let random = random.unwrap_or_else(|| draws(seed));

        let expected_base = handed.map(|handed| handed.base);
        Self {
            generation,
            cmdline,
            cmdline_error,
            seed,
            random,
            expected_base,
            mode,
            note,
            machine,
            initrd,
            devices,
            uart,
            mapped,
            parts,
            map,
            cpus,
            stale_irqs,
            stale_lpis,
            control,
            heap: heap_range,
            blob,
            blob_was,
            boot_trace,
            entered: record.entered,
        }
    }

    /// Returns the RAM that no image may be placed over: reservations and control pages.
    #[must_use]
    pub fn reserved_ranges(&self) -> Vec<Range<PhysAddr>> {
        let reserved = self.machine.reserved.iter().map(|reserved| reserved.range.clone());
        reserved.chain([self.control.clone()]).collect()
    }

    /// Returns the `/chosen` properties for the next generation, which will run at `base`.
    #[must_use]
    pub fn next_handover(&self, base: PhysAddr) -> Handover {
        Handover {
            generation: self.generation + 1,
            seed: self.seed,
            base,
            breadcrumbs: relocate::control::Layout::of(&self.control).breadcrumbs.start,
        }
    }
}
