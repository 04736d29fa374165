//! A life: what a generation has found and set up, between its first line of Rust and its last.
//!
//! *When:* [`Life::begin`] takes the machine over from the entry. *Leaves:* mode, map, heap, console; the handed-over blob shrunk and ours;
//! the control block taken out of RAM. *Refuses,* by a panic on the emergency console, for nothing could go on: no device tree,
//! a damaged one, no RAM.
#![expect(unsafe_code, reason = "gives RAM to the heap, and opens the console")]

use crate::cpus::{self, Cpus};
use crate::devices::Devices;
use crate::image::{Parts, handed_over_tree};
use crate::interrupts::{self, Found, LpisFound};
use crate::map::{LifeMap, Regions};
use crate::memory::Heap;
use crate::settle::settle;
use crate::{checker, clock, console, end, firmware, way_here};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use boot::record::EntryRecord;
use core::ops::Range;
use kernel::division::Division;
use kernel::handover::{self, Handed};
use kernel::mode::{Mode, Note};
use kernel::orders::{self, Base, Orders};
use kernel::tree::{Machine, Tree};
use relocate::random::SplitMix64;

/// What a generation is.
pub struct Life {
    /// Which one: 0 is the loader's.
    pub generation: u32,
    /// What was ordered.
    pub orders: Orders,
    /// Why a word of bootargs could not be obeyed, if one could not.
    pub disobeyed: Option<String>,
    /// What every generation of this run draws from.
    pub seed: u64,
    /// This generation's own draws.
    pub random: SplitMix64,
    /// Where it was sent, if a predecessor of ours sent it.
    pub sent_to: Option<PhysAddr>,
    /// Where it lives.
    pub mode: Mode,
    /// Why that is not as ordered.
    pub note: Option<Note>,
    /// What the device tree says.
    pub machine: Machine,
    /// The ramdisk that came with it, which is nothing to this kernel.
    pub initrd: Option<Range<PhysAddr>>,
    /// Its devices.
    pub devices: Devices,
    /// The console's PL011: the device tree's, or the emergency one.
    pub uart: Range<PhysAddr>,
    /// RAM as it is mapped: without what must not be.
    pub mapped: Vec<Range<PhysAddr>>,
    /// This image.
    pub parts: Parts,
    /// The map that it lives in.
    pub map: LifeMap,
    /// The CPUs.
    pub cpus: Cpus,
    /// What the interrupts that all CPUs share were found in.
    pub found: Found,
    /// What a predecessor left of LPIs.
    pub lpis: LpisFound,
    /// The control block.
    pub control: Range<PhysAddr>,
    /// The device tree to hand on.
    pub blob: Vec<u8>,
    /// The size that it was handed over with.
    pub blob_was: usize,
    /// The phases of the way here, with their times.
    pub way_here: String,
    /// CNTVCT at the first instruction.
    pub entered: u64,
}

impl Life {
    /// Takes the machine over.
    ///
    /// # Panics
    ///
    /// Where there is no device tree to live by.
    pub fn begin(record: &'static EntryRecord) -> Self {
        let main = clock::now();
        let heap = Heap::begin();
        // SAFETY: `given` is last used before its pages are added to the heap, below.
        let given = unsafe { handed_over_tree(record) }.unwrap_or_else(|| {
            let (x0, size) = (record.x0, record.dtb_size);
            let why = "a loader must hand over an 8-byte aligned device tree of at most 2 MiB, outside of the Image";
            panic!("x0 = {x0:#x}, size {size}: {why}{}", checker::Early(record))
        });
        let tree = Tree::open(given)
            .unwrap_or_else(|refused| panic!("{refused}{}", checker::Early(record)));
        let (orders, obeyed) = Orders::parse(tree.bootargs());
        let disobeyed = obeyed.err().map(|refused: orders::Refused<'_>| refused.to_string());
        let handed = Handed::read(&tree);
        let mut machine = Machine::read(&tree).unwrap_or_else(|refused| panic!("{refused}"));
        let initrd = tree.initrd();
        let generation = handed.map_or(0, |handed| handed.generation);
        let (mode, note) = settle(record, orders.el2(generation));
        firmware::prepare(machine.conduit);
        end::prepare(orders.semihosting);

        // A map of image, device tree and devices first: a device may have to be made to let go of RAM.
        let parts = Parts::of_this_image();
        let given_at = PhysAddr(record.x0);
        let given_pages = (given_at..PhysAddr(given_at.0 + given.len() as u64)).whole_pages();
        // Last words go to the emergency UART, whichever is the console.
        let emergency =
            PhysAddr(boot::emergency::UART)..PhysAddr(boot::emergency::UART + PAGE_SIZE);
        let uart = machine.uart.clone().unwrap_or_else(|| emergency.clone());
        let mut devices = machine.virtio.clone();
        devices.extend([uart.clone()]);
        devices.extend(machine.gic.iter().flat_map(|gic| gic.registers()));
        devices.extend(machine.its.iter().cloned());
        devices
            .extend((!machine.ram.iter().any(|ram| ram.overlaps(&emergency))).then_some(emergency));
        let regions = Regions { devices: &devices, image: &parts, tree: &given_pages };
        // SAFETY: the device tree says where devices are; the image's parts are the linker's.
        let mut map = unsafe { LifeMap::activate(mode == Mode::Vhe, &regions) };
        // SAFETY: the device tree says that a PL011 lies there, or it is the emergency UART; it is mapped as device memory, and nothing
        // else drives it.
        unsafe { console::open(uart.start, generation) };
        let lpis = interrupts::turn_lpis_off(&mut machine);

        // The first generation's seed may have to be drawn, and that needs a heap. So its control block is not, in any case: the same
        // seed makes the same run whether it was drawn or given.
        let draws = |seed| SplitMix64::new(seed ^ u64::from(generation) << 32);
        let mut random = handed.map(|handed| draws(handed.seed));
        let anywhere = random.as_mut().filter(|_| orders.base == Base::Random);
        let breadcrumbs = handed.map(|handed| handed.breadcrumbs);
        let division = Division::of(
            &machine,
            &parts.whole,
            &given_pages,
            breadcrumbs,
            cpus::BLOCK_SIZE,
            anywhere,
        );
        let Division { breadcrumbs, control, blocks, mapped, free, later } =
            division.expect("RAM holds no control block");

        let mut left_out = vec![parts.whole.clone(), given_pages];
        left_out.extend(blocks.iter().flat_map(cpus::guards));
        // SAFETY: the device tree says what is RAM and what of it must not be mapped.
        unsafe { map.add_ram(&mapped, &left_out, &control) };
        for range in free {
            // SAFETY: mapped RAM that is neither reserved, nor the image, the blob, the breadcrumbs or the control block.
            unsafe { heap.add(range) };
        }

        let way_here = way_here::read(record, breadcrumbs.as_ref(), main);
        let blob_was = given.len();
        let blob = if handover::is_ours(handed.as_ref()) {
            given.to_vec()
        } else {
            handover::shrink(given).unwrap_or_else(|refused| panic!("{refused}"))
        };

        for range in later {
            // SAFETY: as above; the blob was copied and the breadcrumbs were read, and nothing points there any more.
            unsafe { heap.add(range) };
        }

        let found = interrupts::begin(machine.gic.clone(), machine.timer, mode == Mode::Vhe);
        // SAFETY: the blocks were taken out of RAM for this, and mapped without their guards.
        let cpus =
            unsafe { Cpus::new(&machine.cpus, &blocks, parts.guards[1].start, map.ttbr0(), mode) };
        let devices = Devices::find(&machine, &mut map);
        let seed = handed.map(|handed| handed.seed).or(orders.seed).or_else(|| {
            let mut seed = [0; 8];
            devices.entropy("the seed", &mut seed)?;
            Some(u64::from_le_bytes(seed))
        });
        let seed = seed.unwrap_or(record.entered ^ record.cntfrq << 32);
        let random = random.unwrap_or_else(|| draws(seed));

        let sent_to = handed.map(|handed| handed.base);
        Self {
            generation,
            orders,
            disobeyed,
            seed,
            random,
            sent_to,
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
            found,
            lpis,
            control,
            blob,
            blob_was,
            way_here,
            entered: record.entered,
        }
    }

    /// RAM that no image may land on.
    #[must_use]
    pub fn not_to_land_on(&self) -> Vec<Range<PhysAddr>> {
        let reserved = self.machine.reserved.iter().map(|reserved| reserved.range.clone());
        reserved.chain([self.control.clone()]).collect()
    }

    /// What the next generation is told, when it is sent to `base`.
    #[must_use]
    pub fn hand_on(&self, base: PhysAddr) -> Handed {
        Handed {
            generation: self.generation + 1,
            seed: self.seed,
            base,
            breadcrumbs: relocate::control::Layout::of(&self.control).breadcrumbs.start,
        }
    }
}
