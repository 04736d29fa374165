//! The kernel: takes a machine over, loads the next kernel and kexecs it.
//!
//! The story, in order:
//!
//! 1. `boot` enters the image, turns the MMU on and calls [`kernel_main`]. `boot::entry` documents
//!    the state at that point.
//! 2. [`Life::begin`] takes the machine over: mode, idmap, heap, console, interrupts, devices.
//! 3. [`introduce`] logs what this generation found.
//! 4. `Cpus::start` brings the other CPUs up.
//! 5. [`lead`] continues on the CPU that will kexec. The last generation ends the run there, unless
//!    a payload follows it.
//! 6. [`plan_own`], or [`payload::plan`], loads and verifies the next image, and plans the move.
//! 7. [`Staged::new`] fills the control pages. [`Staged::restart`] stops devices, CPUs and
//!    interrupts, verifies everything once more and jumps into the relocation code.
//!
//! Steps 6 and 7 are typed: `Image → Plan → Staged → !`, and each step consumes the one before it.
//! A step that refuses drops what it holds, which frees that memory. This generation then prints
//! the reason, and tries the next configuration or ends the run.
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
// Links the UEFI entry point into the Image. The kernel itself never calls it.
use efi as _;
use kernel::orders::{Base, RestartCpu, Selftest};
use log::{info, warn};
use relocate::placement;

/// Runs this generation until [`lead`] takes over, possibly on another CPU. `boot` calls it.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the name that boot calls")]
fn kernel_main(record: &'static EntryRecord) -> ! {
    let mut life = alloc::boxed::Box::new(Life::begin(record));
    introduce(&mut life);

    // Refuse to run with a parameter that we cannot parse, or at another base than the previous
    // kernel chose.
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

    // Choose the CPU that will kexec: this one, which was entered first, unless `restart-cpu`
    // selects another.
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

/// Continues the story on the CPU that will kexec: loads, plans, stages and jumps.
///
/// Each pass of the loop tries one configuration of the FIT. If the kexec is refused, the pass
/// prints the reason and checks that all memory is free again. Then it ends the run or, with
/// `on-refusal=continue`, tries the next configuration.
fn lead(life: &mut Life) -> ! {
    let last = life.generation + 1 >= life.orders.generations;
    if last && life.orders.payload.is_none() {
        end::success();
    }
    let make_plan = if last { payload::plan } else { plan_own };

    let (mut configuration, mut known) = (0, 0);
    loop {
        // A network device may write received frames to memory until `restart` resets it.
        life.devices.listen();
        let (free, kept_before) = (memory::free(), devices::kept());

        // The kexec. We get past this statement only if some step refused it.
        let Err(refused) = make_plan(life, configuration, &mut known)
            .and_then(|plan| Staged::new(life, plan)?.restart());

        warn!("{}{refused}", marker::REFUSED);
        // `known` is still 0 if the FIT could not be read, or lacks the payload's configuration:
        // then there is no next configuration to try.
        let none_left = known == 0 || matches!(refused, Refused::NoConfiguration(_));
        // Free the reason's own memory before we compare.
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

/// Plans the kexec of configuration number `configuration` of the disk's FIT.
///
/// The disk is open only until the image is loaded. Stores the number of configurations in `known`
/// as soon as it has read the FIT.
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

/// Logs what was loaded: its name, the bytes hashed, and the time spent waiting for the disk.
fn tell_loaded(name: &str, image: &Image, disk: &Disk) {
    let (hashed, waited) = (image.hashed, clock::nanoseconds(disk.waited()));
    info!(
        "loaded \"{name}\": {hashed} bytes hashed, {} requests, disk {waited} ns",
        disk.requests()
    );
}

/// Logs the banner: what this generation is and what it found. People and the tests read it.
fn introduce(life: &mut Life) {
    let (parts, mode) = (&life.parts.whole, life.mode);
    info!(
        "{}{} of {}: {mode}, base {}",
        marker::GENERATION,
        life.generation,
        life.orders.generations,
        parts.start
    );
    // Take the string, so that it is freed: its length varies, and free memory must be the same in
    // every generation.
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
            "{}{restless} translation services that do not become quiescent: we cannot find their \
             tables, so we reserve none",
            marker::FOUND
        );
    }
}
