//! What lives: a kernel that takes a machine over, loads a second copy of itself, and goes.
//!
//! *When:* between boot's last instruction and relocate's first. *On entry:* what `boot::entry` says. The story is [`kernel_main`]'s, and
//! each step to the point of no return consumes the last: `Image → Plan → Staged → !`. What was refused leaves this generation alive.
#![no_std]
#![no_main]

extern crate alloc;

mod checker;
mod clock;
mod console;
mod cpus;
mod devices;
mod disk;
mod end;
mod failure;
mod firmware;
mod gic;
mod image;
mod interrupts;
mod life;
mod load;
mod map;
mod memory;
mod payload;
mod plan;
mod probe;
mod refused;
mod selftest;
mod settle;
mod stage;
mod timer;
mod unpack;
mod way_here;

use crate::disk::Disk;
use crate::life::Life;
use crate::load::{Contents, Image};
use crate::memory::Frames;
use crate::plan::Plan;
use crate::refused::Refused;
use crate::stage::Staged;
use boot::marker;
use boot::phys::{PhysAddr, PhysRange};
use boot::record::EntryRecord;
// The Image is a UEFI application too: nothing here calls what is behind that entry point.
use efi as _;
use kernel::orders::{Base, RestartCpu, Selftest};
use log::{info, warn};
use relocate::placement;

/// The first line of Rust.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the name that boot calls")]
fn kernel_main(record: &'static EntryRecord) -> ! {
    let mut life = alloc::boxed::Box::new(Life::begin(record));
    introduce(&mut life);
    if let Some(why) = &life.disobeyed {
        warn!("{}{why}", marker::REFUSED);
        end::failure();
    }
    if let Some(sent_to) = life.sent_to
        && sent_to != life.parts.whole.start
    {
        warn!(
            "{}this generation was sent to {sent_to} and lies at {}",
            marker::REFUSED,
            life.parts.whole.start
        );
        end::failure();
    }
    life.cpus.start();
    if life.orders.check {
        checker::tell(record, &life);
    }
    if life.orders.selftest == Some(Selftest::Stub) {
        selftest::stub(&life);
    }
    let (this, up) = (cpus::Cpu::current(), life.cpus.up());
    let leader = match life.orders.restart_cpu {
        None => Some(this),
        Some(RestartCpu::Random) => Some(up[life.random.below(up.len() as u64) as usize]),
        Some(RestartCpu::Number(index)) => up.into_iter().find(|cpu| cpu.index == index),
    };
    let Some(leader) = leader else {
        let count = life.cpus.count();
        warn!(
            "{}restart-cpu: that CPU is not up, or none of the {count} that the device tree names",
            marker::REFUSED
        );
        end::failure();
    };
    let life = alloc::boxed::Box::leak(life);
    if core::ptr::eq(leader, this) { lead(life) } else { cpus::hand_over(leader, life) }
}

/// The story from here on, on the CPU that was ordered.
fn lead(life: &mut Life) -> ! {
    let last = life.generation + 1 >= life.orders.generations;
    if last && life.orders.payload.is_none() {
        end::success();
    }
    let make_plan = if last { payload::plan } else { plan_own };

    let (mut configuration, mut known) = (0, 0);
    loop {
        life.devices.listen();
        let (free, kept_before) = (memory::free(), devices::kept());
        let Err(refused) = make_plan(life, configuration, &mut known)
            .and_then(|plan| Staged::new(life, plan)?.restart());
        warn!("{}{refused}", marker::REFUSED);
        // A disk whose contents cannot be read has no next configuration either.
        let none_left = known == 0 || matches!(refused, Refused::NoConfiguration(_));
        drop(refused);
        life.cpus.resume();
        let (now, newly_kept) = (memory::free(), devices::kept() - kept_before);
        assert!(now + newly_kept == free, "a refusal gave back {now} of {free} bytes");
        match newly_kept {
            0 => info!("generation {} lives on, all its memory given back", life.generation),
            _ => info!(
                "generation {} lives on without {newly_kept} bytes that a device may write to",
                life.generation
            ),
        }
        configuration += 1;
        if !life.orders.continue_on_refusal || none_left {
            end::failure();
        }
    }
}

/// Plans to go to configuration number `configuration` of the disk's FIT, the disk being open no longer than it takes to load that. Gives in
/// `known` how many configurations there are, once that is read.
fn plan_own(life: &mut Life, configuration: usize, known: &mut usize) -> Result<Plan, Refused> {
    let mut disk = Disk::open(&life.devices)?;
    let contents = Contents::read(&mut disk)?;
    *known = contents.configurations.len();
    let name = contents
        .configurations
        .get(configuration)
        .ok_or(Refused::NoConfiguration(configuration))?;
    let ram = &life.machine.ram;
    let (fit, header) = contents.open(&mut disk, name, ram.iter().map(PhysRange::bytes).sum())?;
    let size = header.text_offset + header.image_size;
    let base = match life.orders.base {
        Base::Same => life.parts.whole.start,
        Base::Load => load::base_in(&fit, &header)?,
        Base::Random => {
            let avoid = life.not_to_land_on();
            placement::random_slot(&mut life.random, ram, &avoid, size)
                .ok_or(Refused::NoSlot(size))?
        }
    };
    let entry = PhysAddr(base.0.saturating_add(header.text_offset));
    let image = Image::load(&mut disk, &fit, &header, entry, |place, all| {
        Frames::outside(place.bytes(), all)
    })?;
    tell_loaded(name, &image, &disk);
    drop(disk);
    Plan::new(image, &life.blob, Some(&life.hand_on(base)), &life.machine, &life.control)
}

fn tell_loaded(name: &str, image: &Image, disk: &Disk) {
    let (hashed, waited) = (image.hashed, clock::nanoseconds(disk.waited()));
    info!(
        "loaded \"{name}\": {hashed} bytes hashed, {} requests, disk {waited} ns",
        disk.requests()
    );
}

/// What this generation is, for people and for the tests.
fn introduce(life: &mut Life) {
    let (parts, mode) = (&life.parts.whole, life.mode);
    info!(
        "{}{} of {}: {mode}, base {}",
        marker::GENERATION,
        life.generation,
        life.orders.generations,
        parts.start
    );
    // Told and forgotten: its length varies, and free memory is to be the same in every generation.
    info!("phases, ns: {}", core::mem::take(&mut life.way_here));
    info!("entered at {} ns of CNTVCT", clock::nanoseconds(life.entered));
    info!(
        "seed {:#x}, image {} bytes, control pages {}",
        life.seed,
        parts.bytes(),
        life.control.start
    );
    info!(
        "free memory {} bytes, device tree {} bytes (handed over with {})",
        memory::free(),
        life.blob.len(),
        life.blob_was
    );
    if let Some(note) = life.note {
        warn!("{note}");
    }
    if !life.found.is_quiet() {
        warn!("{}shared by all CPUs:{}", marker::FOUND, life.found);
    }
    if life.lpis.turned_off > 0 {
        warn!(
            "{}{} of the CPUs with LPIs on and tables in RAM; turned off",
            marker::FOUND,
            life.lpis.turned_off
        );
    }
    if life.lpis.restless > 0 {
        let restless = life.lpis.restless;
        warn!(
            "{}{restless} translation services that do not become quiescent: their tables are ours by now",
            marker::FOUND
        );
    }
}
