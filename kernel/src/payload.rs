//! Payload: the last generation's way out, to a kernel that is not ours, with the ramdisk and the device tree that go with it.
//!
//! *When:* in the place of a generation's own plan, where `payload=` orders it; nothing here runs otherwise. *Leaves:* a [`Plan`] like any other: the
//! ramdisk is one more segment, the device tree is written anew ([`chosen`]). *Refuses:* what a plan refuses, a ramdisk that the
//! kernel could not reach, a device tree that is none.
#![expect(unsafe_code, reason = "reads the CPU's random numbers")]

use crate::disk::Disk;
use crate::life::Life;
use crate::load::{self, Contents, Image};
use crate::memory::{self, Frames};
use crate::plan::Plan;
use crate::refused::Refused;
use crate::tell_loaded;
use alloc::vec::Vec;
use boot::image::{Header, PLACE_ANYWHERE};
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::arch::asm;
use core::ops::Range;
use kernel::chosen::{self, Chosen, SEED_BYTES};
use kernel::fit::{self, Companions, Fit, Payload};
use kernel::orders::Base;
use kernel::tree::{Machine, Reservation, Tree};
use kernel::window;
use log::{info, warn};
use relocate::placement;

/// Plans to go to the configuration that `payload=` names or, where so many have been refused already, to the `nth` one behind it. Gives in
/// `known` how many configurations there are, once that one is found.
pub fn plan(life: &mut Life, nth: usize, known: &mut usize) -> Result<Plan, Refused> {
    let free = memory::free();
    let mut disk = Disk::open(&life.devices)?;
    let contents = Contents::read(&mut disk)?;
    let ordered = life.orders.payload.as_deref().unwrap_or_default();
    let first = contents.configurations.iter().position(|name| name == ordered);
    let first = first.ok_or_else(|| Refused::NoPayload(ordered.into()))?;
    *known = contents.configurations.len();
    let name = contents.configurations.get(first + nth).ok_or(Refused::NoConfiguration(nth))?;

    let (mut fit, header) =
        contents.open(&mut disk, name, life.machine.ram.iter().map(PhysRange::bytes).sum())?;
    let Companions { ramdisk, fdt, bootargs } = contents.companions(&disk, name)?;
    // A tree of its own is read first: it may reserve what nothing of the payload may lie on.
    let own = fdt.map(|fdt| own_tree(&mut disk, &fdt)).transpose()?;
    let mut machine = life.machine.clone();
    machine.reserved.extend(own.iter().flat_map(|own| own.reserved.iter().cloned()));
    let mut keep_off: Vec<_> =
        machine.reserved.iter().map(|reserved| reserved.range.clone()).collect();
    keep_off.push(life.control.clone());

    let mut chosen = Chosen { bootargs: bootargs.as_deref(), ..Chosen::default() };
    let entry =
        PhysAddr(base(life, &keep_off, &fit, &header)?.0.saturating_add(header.text_offset));
    if let Some(ramdisk) = ramdisk {
        let (ramdisk, place) = placed(life, &keep_off, &fit, &header, entry, ramdisk)?;
        chosen.ramdisk = Some(place);
        fit.loadables.push(ramdisk);
    }
    let image = Image::load(&mut disk, &fit, &header, entry, Frames::in_place)?;
    tell_loaded(name, &image, &disk);
    drop(disk);

    chosen.seeds = seeds(life);
    let blob = chosen::write(own.as_ref().map_or(&life.blob, |own| &own.blob), &chosen)?;
    let plan = Plan::new(image, &blob, None, &machine, &life.control)?;
    if let Some(own) = own {
        // Where its own tree has no RAM, the payload would not look, or die of it in silence.
        for segment in plan.segments() {
            if !own.ram.iter().any(|ram| ram.covers(&segment.destination)) {
                return Err(Refused::NotItsRam(segment.name.into(), segment.destination));
            }
        }
    }
    // What is held besides the segments' own pages is lists of runs, and what the device tree's frames were rounded up by.
    let bytes: u64 = plan.segments().iter().map(|segment| segment.destination.bytes()).sum();
    let moved: u64 = plan.moved().iter().map(PhysRange::bytes).sum();
    let held = free - memory::free();
    info!(
        "the way to \"{name}\" holds {held} bytes of memory for segments of {bytes} bytes, {} of them in place",
        bytes - moved
    );
    Ok(plan)
}

/// Where the kernel's base is: a 2 MiB boundary, the lowest one unless something else is ordered and the kernel can lie there. One that may lie
/// anywhere does not come where this kernel runs, where there is room elsewhere: then its frames are free, and it is read into its place.
fn base(
    life: &mut Life,
    keep_off: &[Range<PhysAddr>],
    fit: &Fit,
    header: &Header,
) -> Result<PhysAddr, Refused> {
    let (ram, size) = (&life.machine.ram, header.text_offset + header.image_size);
    // What lies below a kernel that may not lie anywhere is lost to it.
    let is_bound = header.flags & PLACE_ANYWHERE == 0;
    let lowest =
        |avoid: &[Range<PhysAddr>]| placement::lowest_block(ram, avoid, size, placement::SLOT);
    let slot = match life.orders.base {
        Base::Load => return load::base_in(fit, header),
        _ if is_bound => lowest(keep_off),
        Base::Random => placement::random_slot(&mut life.random, ram, keep_off, size),
        Base::Same => {
            let mut elsewhere = keep_off.to_vec();
            elsewhere.push(life.parts.whole.clone());
            lowest(&elsewhere).or_else(|| lowest(keep_off))
        }
    };
    slot.ok_or(Refused::NoSlot(size))
}

/// The ramdisk with a place: where the FIT says, or as high as the kernel at `entry` can reach.
fn placed(
    life: &Life,
    keep_off: &[Range<PhysAddr>],
    fit: &Fit,
    header: &Header,
    entry: PhysAddr,
    ramdisk: Payload,
) -> Result<(Payload, Range<PhysAddr>), Refused> {
    let bytes = ramdisk.place.end - ramdisk.place.start;
    let kernel = entry..PhysAddr(entry.0.saturating_add(header.image_size));
    let start = match ramdisk.load {
        Some(load) => load,
        None => {
            let mut avoid = keep_off.to_vec();
            avoid.push(kernel.clone());
            avoid.extend(fit.loadables.iter().filter_map(|payload| {
                payload.load?.range(payload.place.end - payload.place.start)
            }));
            let highest = |window| {
                let ram: Vec<_> =
                    life.machine.ram.iter().map(|ram| window::cut(ram, &window)).collect();
                placement::highest_block(&ram, &avoid, bytes, PAGE_SIZE)
            };
            window::of(&kernel)
                .into_iter()
                .find_map(highest)
                .ok_or_else(|| Refused::NoRoom(bytes, kernel.clone()))?
        }
    };
    let place = start..PhysAddr(start.0.saturating_add(bytes));
    if !window::holds(&kernel, &place) {
        return Err(Refused::Window(place, kernel));
    }
    Ok((Payload { load: Some(start), ..ramdisk }, place))
}

/// A device tree of the payload's own.
struct OwnTree {
    /// Without what was said in it to somebody else.
    blob: Vec<u8>,
    ram: Vec<Range<PhysAddr>>,
    reserved: Vec<Reservation>,
}

/// A device tree from the disk, verified and read.
fn own_tree(disk: &mut Disk, fdt: &Payload) -> Result<OwnTree, Refused> {
    let blob = chosen::write(&read(disk, fdt)?, &Chosen::default())?;
    let Machine { ram, mut reserved, .. } = Machine::read(&Tree::open(&blob)?)?;
    reserved.iter_mut().for_each(|reserved| reserved.name += " of the payload's own device tree");
    Ok(OwnTree { blob, ram, reserved })
}

/// The bytes of a device tree from the disk, verified.
fn read(disk: &mut Disk, fdt: &Payload) -> Result<Vec<u8>, Refused> {
    let bytes = fdt.place.end - fdt.place.start;
    chosen::check_size(bytes)?;
    let mut blob = Vec::new();
    blob.try_reserve_exact(bytes as usize).map_err(|_| Refused::Memory(bytes))?;
    blob.resize(bytes as usize, 0);
    disk.read(fdt.place.start, &mut blob)?;
    fit::verify(fdt, [&blob[..]])?;
    Ok(blob)
}

/// Random bytes for the payload alone: an entropy device's, or the CPU's own.
fn seeds(life: &Life) -> Option<[u8; SEED_BYTES]> {
    const WHAT: &str = "kaslr-seed and rng-seed";
    let mut seeds = [0; SEED_BYTES];
    if life.devices.entropy(WHAT, &mut seeds).is_none() {
        if !from_cpu(&mut seeds) {
            warn!("no entropy device and no RNDR: no {WHAT}");
            return None;
        }
        info!("RNDR gives {WHAT}");
    }
    Some(seeds)
}

/// Fills `bytes` from RNDR (FEAT_RNG), where the CPU has it and it answers.
fn from_cpu(bytes: &mut [u8]) -> bool {
    let isar0: u64;
    // SAFETY: an identification register has no side effects.
    unsafe { asm!("mrs {}, id_aa64isar0_el1", out(reg) isar0, options(nomem, nostack)) };
    isar0 >> 60 != 0 && bytes.chunks_mut(8).all(|chunk| {
        let (number, answered): (u64, u64);
        // RNDR by its encoding; it sets Z where it has no number.
        // SAFETY: the CPU has the register; reading it sets the flags and nothing else.
        unsafe {
            asm!("mrs {}, s3_3_c2_c4_0", "cset {}, ne", out(reg) number, out(reg) answered, options(nomem, nostack));
        }
        chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
        answered != 0
    })
}
