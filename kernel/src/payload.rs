//! The plan for a payload: another kernel, with its initrd and its FDT.
//!
//! - Runs in the last generation, in place of `plan_own`, and only if `payload=` is given.
//! - Leaves a [`Plan`] like any other. The initrd is one more segment, and [`chosen`] writes the
//!   FDT anew.
//! - Refuses what a plan refuses, an initrd out of the kernel's reach, and an invalid FDT.
#![expect(unsafe_code, reason = "reads the CPU's random numbers")]

use crate::error::Error;
use crate::load::{self, Image, Selection};
use crate::log_loaded;
use crate::medium::Medium;
use crate::memory::{self, Frames};
use crate::plan::Plan;
use crate::state::Kernel;
use crate::unpack;
use alloc::vec::Vec;
use boot::image::{Header, PLACE_ANYWHERE};
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use boot::record::DTB_MAX_SIZE;
use core::arch::asm;
use core::ops::Range;
use fdt::chosen::{self, Chosen, SEED_BYTES};
use fdt::machine::{self, Machine, Reservation, Tree};
use log::{info, warn};
use protocol::cmdline::Base;
use protocol::fit::{self, Companions, Compression, Fit, Payload};
use protocol::initrd_window;
use relocate::placement;

/// Plans the kexec of the payload in the selected configuration.
pub fn plan(kernel: &mut Kernel, selection: Selection) -> Result<Plan, Error> {
    let Selection { mut medium, contents, name, free_before } = selection;
    let (mut fit, header) =
        contents.open(&mut medium, &name, kernel.machine.ram.iter().map(PhysRange::bytes).sum())?;
    let Companions { initrd, fdt, bootargs } = contents.companions(&medium, &name)?;
    // Read the payload's own FDT first: it may reserve memory that no segment may be placed over.
    let own = fdt.map(|fdt| own_tree(&mut medium, &fdt, &kernel.machine.ram)).transpose()?;
    let mut machine = kernel.machine.clone();
    machine.reserved.extend(own.iter().flat_map(|own| own.reserved.iter().cloned()));
    let mut keep_off: Vec<_> =
        machine.reserved.iter().map(|reserved| reserved.range.clone()).collect();
    keep_off.push(kernel.layout.control.clone());

    let mut chosen = Chosen { bootargs: bootargs.as_deref(), ..Chosen::default() };
    let entry = base(kernel, &keep_off, &fit, &header)?.saturating_add(header.text_offset);
    if let Some(initrd) = initrd {
        let (initrd, place) = placed(kernel, &keep_off, &fit, &header, entry, initrd)?;
        chosen.initrd = Some(place);
        fit.loadables.push(initrd);
    }
    let image = Image::load(&mut medium, &fit, &header, entry, Frames::in_place)?;
    log_loaded(&name, &image);
    drop(medium);

    chosen.seeds = seeds(kernel);
    let blob = chosen::write(own.as_ref().map_or(&kernel.blob, |own| &own.blob), &chosen)?;
    let plan = Plan::new(image, &blob, None, &machine, &kernel.layout.control)?;
    if let Some(own) = own {
        // The payload would not find a segment outside of the RAM that its own FDT names, or would
        // fail without a message.
        for segment in plan.segments() {
            if !own.ram.iter().any(|ram| ram.covers(&segment.destination)) {
                return Err(Error::NotItsRam(segment.name.into(), segment.destination));
            }
        }
    }
    // Beyond the segments' own pages we hold only the vectors of runs.
    let bytes: u64 = plan.segments().iter().map(|segment| segment.destination.bytes()).sum();
    let moved: u64 = plan.moved().iter().map(PhysRange::bytes).sum();
    let held = free_before - memory::free();
    info!(
        "the plan for \"{name}\" holds {held} bytes of memory for segments of {bytes} bytes, \
         {} of them in place",
        bytes - moved
    );
    Ok(plan)
}

/// Chooses the payload's base, a 2 MiB boundary: the lowest one, unless the command line asks for
/// another and the payload allows it.
///
/// A payload that may be placed anywhere avoids this kernel's image and heap if there is room
/// elsewhere. Then its destination is free, and it can be read directly into place.
fn base(
    kernel: &mut Kernel,
    keep_off: &[Range<PhysAddr>],
    fit: &Fit,
    header: &Header,
) -> Result<PhysAddr, Error> {
    let (ram, size) = (&kernel.machine.ram, header.text_offset + header.image_size);
    // A kernel without the "anywhere" flag cannot use the RAM below it, so place it lowest.
    let is_bound = header.flags & PLACE_ANYWHERE == 0;
    let lowest =
        |avoid: &[Range<PhysAddr>]| placement::lowest_block(ram, avoid, size, placement::SLOT);
    let slot = match kernel.cmdline.base {
        Base::Load => return load::base_in(fit, header),
        _ if is_bound => lowest(keep_off),
        Base::Random => placement::random_slot(&mut kernel.random, ram, keep_off, size),
        Base::Same => {
            let mut elsewhere = keep_off.to_vec();
            elsewhere.extend([kernel.parts.whole.clone(), kernel.layout.heap.clone()]);
            lowest(&elsewhere).or_else(|| lowest(keep_off))
        }
    };
    slot.ok_or(Error::NoSlot(size))
}

/// Chooses the initrd's place: the FIT's `load` address, or else the highest place in reach of the
/// kernel at `entry`.
///
/// The initrd avoids this kernel's heap if there is room elsewhere, since it can be read directly
/// into free frames.
fn placed(
    kernel: &Kernel,
    keep_off: &[Range<PhysAddr>],
    fit: &Fit,
    header: &Header,
    entry: PhysAddr,
    initrd: Payload,
) -> Result<(Payload, Range<PhysAddr>), Error> {
    let bytes = initrd.place.end - initrd.place.start;
    let image = entry..entry.saturating_add(header.image_size);
    let start = match initrd.load {
        Some(load) => load,
        None => {
            let mut avoid = keep_off.to_vec();
            avoid.push(image.clone());
            avoid.extend(fit.loadables.iter().filter_map(|payload| {
                payload.load?.range(payload.place.end - payload.place.start)
            }));
            let mut elsewhere = avoid.clone();
            elsewhere.push(kernel.layout.heap.clone());
            let highest = |avoid: &[Range<PhysAddr>]| {
                initrd_window::of(&image).into_iter().find_map(|initrd_window| {
                    let ram: Vec<_> = kernel
                        .machine
                        .ram
                        .iter()
                        .map(|ram| initrd_window::cut(ram, &initrd_window))
                        .collect();
                    placement::highest_block(&ram, avoid, bytes, PAGE_SIZE)
                })
            };
            highest(&elsewhere)
                .or_else(|| highest(&avoid))
                .ok_or_else(|| Error::NoRoom(bytes, image.clone()))?
        }
    };
    let place = start..start.saturating_add(bytes);
    if !initrd_window::holds(&image, &place) {
        return Err(Error::Window(place, image));
    }
    Ok((Payload { load: Some(start), ..initrd }, place))
}

/// The payload's own FDT.
struct OwnTree {
    /// The FDT, without those /chosen properties that were meant for another kernel.
    blob: Vec<u8>,
    ram: Vec<Range<PhysAddr>>,
    reserved: Vec<Reservation>,
}

/// Reads, verifies and parses an FDT from the medium. If it names no RAM, it gets `ram`: a
/// bootloader would fill it in as well.
fn own_tree(medium: &mut Medium, fdt: &Payload, ram: &[Range<PhysAddr>]) -> Result<OwnTree, Error> {
    let mut chosen = Chosen::default();
    let mut blob = chosen::write(&read(medium, fdt)?, &chosen)?;
    if Machine::read(&Tree::open(&blob)?) == Err(machine::Error::NoRam) {
        info!("\"{}\" names no RAM, and gets that of this machine's device tree", fdt.name);
        chosen.memory = Some(ram);
        blob = chosen::write(&blob, &chosen)?;
    }
    let Machine { ram, mut reserved, .. } = Machine::read(&Tree::open(&blob)?)?;
    reserved.iter_mut().for_each(|reserved| reserved.name += " of the payload's own device tree");
    Ok(OwnTree { blob, ram, reserved })
}

/// Reads the bytes of an FDT from the medium, verifies them, and unpacks them if they are packed.
fn read(medium: &mut Medium, fdt: &Payload) -> Result<Vec<u8>, Error> {
    let bytes = fdt.place.end - fdt.place.start;
    chosen::check_size(bytes)?;
    let mut blob = Vec::new();
    blob.try_reserve_exact(bytes as usize).map_err(|_| Error::Heap(bytes))?;
    blob.resize(bytes as usize, 0);
    medium.read(fdt.place.start, &mut blob)?;
    load::log_digest(fdt);
    fit::verify(fdt, [&blob[..]])?;
    if let Compression::Gzip { unpacked } = fdt.compression {
        blob = unpack::in_memory(fdt, &blob, unpacked, DTB_MAX_SIZE)?;
    }
    Ok(blob)
}

/// Returns random bytes for the payload alone, from the entropy device or else from the CPU.
fn seeds(kernel: &Kernel) -> Option<[u8; SEED_BYTES]> {
    const WHAT: &str = "kaslr-seed and rng-seed";
    let mut seeds = [0; SEED_BYTES];
    if kernel.devices.entropy(WHAT, &mut seeds).is_none() {
        if !from_cpu(&mut seeds) {
            warn!("no entropy device and no RNDR: no {WHAT}");
            return None;
        }
        info!("RNDR gives {WHAT}");
    }
    Some(seeds)
}

/// Fills `bytes` from RNDR. Returns `false` if the CPU lacks FEAT_RNG or has no number ready.
fn from_cpu(bytes: &mut [u8]) -> bool {
    let isar0: u64;
    // SAFETY: reading an ID register has no side effects.
    unsafe { asm!("mrs {}, id_aa64isar0_el1", out(reg) isar0, options(nomem, nostack)) };
    isar0 >> 60 != 0
        && bytes.chunks_mut(8).all(|chunk| {
            let (number, answered): (u64, u64);
            // S3_3_C2_C4_0 is RNDR. It sets Z if it has no number.
            // SAFETY: the CPU has the register, and reading it changes nothing but the flags, which
            // `asm!` assumes to be clobbered.
            unsafe {
                asm!(
                    "mrs {}, s3_3_c2_c4_0",
                    "cset {}, ne",
                    out(reg) number,
                    out(reg) answered,
                    options(nomem, nostack)
                );
            }
            chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
            answered != 0
        })
}
