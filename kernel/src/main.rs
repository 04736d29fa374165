//! The kernel: takes a machine over, loads the next kernel and kexecs it.
//!
//! The story, in order:
//!
//! 1. `boot` enters the image, turns the MMU on and calls [`kernel_main`]. `boot::entry` documents
//!    the state at that point.
//! 2. [`Kernel::init`] takes the machine over: mode, idmap, heap, console, interrupts, devices.
//! 3. [`log_banner`] logs what this generation found.
//! 4. `Cpus::start` brings the other CPUs up.
//! 5. [`run`] continues on the CPU that will kexec. The last generation ends the run there, unless
//!    a payload follows it.
//! 6. [`plan_own`], or [`payload::plan`], loads and verifies the next image, and plans the move.
//! 7. [`Staged::new`] fills the control pages. [`Staged::kexec`] stops devices, CPUs and
//!    interrupts, verifies everything once more and jumps into the relocation code.
//!
//! Steps 6 and 7 are typed: `Image → Plan → Staged → !`, and each step consumes the one before it.
//! A step that refuses drops what it holds, which frees that memory. This generation then prints
//! the reason, and tries the next configuration or ends the run.
#![no_std]
#![no_main]

extern crate alloc;

mod boot_trace;
mod checker;
mod clock;
mod console;
mod cpus;
mod devices;
mod disk;
mod end;
mod enter_mode;
mod error;
mod failure;
mod firmware;
mod init;
mod interrupts;
mod layout;
mod load;
mod map;
mod memory;
mod payload;
mod plan;
mod probe;
mod selftest;
mod stage;
mod timer;
mod unpack;

use crate::disk::Disk;
use crate::error::Error;
use crate::init::Kernel;
use crate::load::{Contents, Image};
use crate::memory::Frames;
use crate::plan::Plan;
use crate::stage::Staged;
use boot::marker;
use boot::phys::{PhysAddr, PhysRange};
use boot::record::EntryRecord;
// Links the UEFI entry point into the Image. The kernel itself never calls it.
use efi as _;
use log::{info, warn};
use protocol::cmdline::{Base, RestartCpu, Selftest};
use relocate::placement;

/// Runs this generation until [`run`] takes over, possibly on another CPU. `boot` calls it.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the name that boot calls")]
fn kernel_main(record: &'static EntryRecord) -> ! {
    let mut kernel = alloc::boxed::Box::new(Kernel::init(record));
    log_banner(&mut kernel);

    // Refuse to run with a parameter that we cannot parse, or at another base than the previous
    // kernel chose.
    if let Some(why) = &kernel.cmdline_error {
        warn!("{}{why}", marker::REFUSED);
        end::failure();
    }
    if let Some(expected_base) = kernel.expected_base
        && expected_base != kernel.parts.whole.start
    {
        warn!(
            "{}this generation was sent to {expected_base} and lies at {}",
            marker::REFUSED,
            kernel.parts.whole.start
        );
        end::failure();
    }

    kernel.cpus.start();
    if kernel.cmdline.check {
        checker::report(record, &kernel);
    }
    if kernel.cmdline.selftest == Some(Selftest::Stub) {
        selftest::stub(&kernel);
    }

    // Choose the CPU that will kexec: this one, which was entered first, unless `restart-cpu`
    // selects another.
    let (this, up) = (cpus::Cpu::current(), kernel.cpus.up());
    let leader = match kernel.cmdline.restart_cpu {
        None => Some(this),
        Some(RestartCpu::Random) => Some(up[kernel.random.below(up.len() as u64) as usize]),
        Some(RestartCpu::Number(index)) => up.into_iter().find(|cpu| cpu.index == index),
    };
    let Some(leader) = leader else {
        let count = kernel.cpus.count();
        warn!(
            "{}restart-cpu: that CPU is not up, or none of the {count} that the device tree names",
            marker::REFUSED
        );
        end::failure();
    };
    let kernel = alloc::boxed::Box::leak(kernel);
    if core::ptr::eq(leader, this) { run(kernel) } else { cpus::migrate(leader, kernel) }
}

/// Continues the story on the CPU that will kexec: loads, plans, stages and jumps.
///
/// Each pass of the loop tries one configuration of the FIT. If the kexec is refused, the pass
/// prints the reason and checks that all memory is free again. Then it ends the run or, with
/// `on-refusal=continue`, tries the next configuration.
fn run(kernel: &mut Kernel) -> ! {
    let last = kernel.generation + 1 >= kernel.cmdline.generations;
    if last && kernel.cmdline.payload.is_none() {
        end::success();
    }
    let make_plan = if last { payload::plan } else { plan_own };

    let (mut configuration, mut known) = (0, 0);
    loop {
        // A network device may write received frames to memory until `restart` resets it.
        kernel.devices.listen();
        let (free, kept_before) = (memory::free(), devices::kept());

        // The kexec. We get past this statement only if some step refused it.
        let Err(error) = make_plan(kernel, configuration, &mut known)
            .and_then(|plan| Staged::new(kernel, plan)?.kexec());

        warn!("{}{error}", marker::REFUSED);
        // `known` is still 0 if the FIT could not be read, or lacks the payload's configuration:
        // then there is no next configuration to try.
        let none_left = known == 0 || matches!(error, Error::NoConfiguration(_));
        // Free the reason's own memory before we compare.
        drop(error);
        kernel.cpus.resume();
        let (now, newly_kept) = (memory::free(), devices::kept() - kept_before);
        assert!(now + newly_kept == free, "a refusal gave back {now} of {free} bytes");
        match newly_kept {
            0 => info!("generation {} lives on, all its memory given back", kernel.generation),
            _ => info!(
                "generation {} lives on without {newly_kept} bytes that a device may write to",
                kernel.generation
            ),
        }
        configuration += 1;
        if !kernel.cmdline.continue_on_refusal || none_left {
            end::failure();
        }
    }
}

/// Plans the kexec of configuration number `configuration` of the disk's FIT.
///
/// The disk is open only until the image is loaded. Stores the number of configurations in `known`
/// as soon as it has read the FIT.
fn plan_own(kernel: &mut Kernel, configuration: usize, known: &mut usize) -> Result<Plan, Error> {
    let mut disk = Disk::open(&kernel.devices)?;
    let contents = Contents::read(&mut disk)?;
    *known = contents.configurations.len();
    let name =
        contents.configurations.get(configuration).ok_or(Error::NoConfiguration(configuration))?;
    let ram = &kernel.machine.ram;
    let (fit, header) = contents.open(&mut disk, name, ram.iter().map(PhysRange::bytes).sum())?;
    let size = header.text_offset + header.image_size;
    let base = match kernel.cmdline.base {
        Base::Same => kernel.parts.whole.start,
        Base::Load => load::base_in(&fit, &header)?,
        Base::Random => {
            let avoid = kernel.reserved_ranges();
            placement::random_slot(&mut kernel.random, ram, &avoid, size)
                .ok_or(Error::NoSlot(size))?
        }
    };
    let entry = PhysAddr(base.0.saturating_add(header.text_offset));
    let image = Image::load(&mut disk, &fit, &header, entry, |place, all| {
        Frames::outside(place.bytes(), all)
    })?;
    log_loaded(name, &image, &disk);
    drop(disk);
    Plan::new(
        image,
        &kernel.blob,
        Some(&kernel.next_handover(base)),
        &kernel.machine,
        &kernel.control,
    )
}

/// Logs what was loaded: its name, the bytes hashed, and the time spent waiting for the disk.
fn log_loaded(name: &str, image: &Image, disk: &Disk) {
    let (hashed, waited) = (image.hashed, clock::nanoseconds(disk.waited()));
    info!(
        "loaded \"{name}\": {hashed} bytes hashed, {} requests, disk {waited} ns",
        disk.requests()
    );
}

/// Logs the banner: what this generation is and what it found. People and the tests read it.
fn log_banner(kernel: &mut Kernel) {
    let (parts, mode) = (&kernel.parts.whole, kernel.mode);
    info!(
        "{}{} of {}: {mode}, base {}",
        marker::GENERATION,
        kernel.generation,
        kernel.cmdline.generations,
        parts.start
    );
    // Take the string, so that it is freed: its length varies, and free memory must be the same in
    // every generation.
    info!("boot trace, ns: {}", core::mem::take(&mut kernel.boot_trace));
    info!("entered at {} ns of CNTVCT", clock::nanoseconds(kernel.entered));
    info!(
        "seed {:#x}, image {} bytes, control pages {}",
        kernel.seed,
        parts.bytes(),
        kernel.control.start
    );
    info!(
        "free memory {} bytes, device tree {} bytes (handed over with {})",
        memory::free(),
        kernel.blob.len(),
        kernel.blob_was
    );
    if let Some(note) = kernel.note {
        warn!("{note}");
    }
    if !kernel.stale_irqs.is_quiet() {
        warn!("{}shared by all CPUs:{}", marker::STALE, kernel.stale_irqs);
    }
    if kernel.stale_lpis.turned_off > 0 {
        warn!(
            "{}{} of the CPUs with LPIs on and tables in RAM; turned off",
            marker::STALE,
            kernel.stale_lpis.turned_off
        );
    }
    if kernel.stale_lpis.not_quiescent > 0 {
        let not_quiescent = kernel.stale_lpis.not_quiescent;
        warn!(
            "{}{not_quiescent} translation services that do not become quiescent: we cannot find their \
             tables, so we reserve none",
            marker::STALE
        );
    }
}
