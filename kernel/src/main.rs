//! The kernel: takes a machine over, loads the next kernel and kexecs it.
//!
//! In order:
//!
//! 1. `boot` enters the image, turns the MMU on and calls [`kernel_main`]. `boot::entry` documents
//!    the state at that point.
//! 2. [`init::init`] takes the machine over: mode, idmap, console, heap, interrupts, devices.
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
mod medium;
mod memory;
mod payload;
mod plan;
mod probe;
mod selftest;
mod stage;
mod state;
mod timer;
mod unpack;
mod watchdog;

use crate::cpus::Cpu;
use crate::error::Error;
use crate::init::{Found, Running};
use crate::interrupts::StaleLpis;
use crate::load::{Image, Selection};
use crate::memory::Frames;
use crate::plan::Plan;
use crate::stage::Staged;
use crate::state::Kernel;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use boot::failure_record;
use boot::marker;
use boot::phys::PhysRange;
use boot::record::EntryRecord;
use core::fmt;
// Links the UEFI entry point into the Image. The kernel itself never calls it.
use efi as _;
use log::{info, warn};
use protocol::cmdline::{Base, Check, RestartCpu, Selftest};
use protocol::record::{self, Generation, Hex, Record};
use relocate::placement;

/// Runs this generation until [`run`] takes over, possibly on another CPU. `boot` calls it.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the name that boot calls")]
fn kernel_main(record: &'static EntryRecord) -> ! {
    let Running { mut kernel, mut found } =
        init::init(record).unwrap_or_else(|why| panic!("{why}{}", checker::Early(record)));
    log_banner(&kernel, &mut found);

    // Refuse to run with a parameter that we cannot parse, or at another base than the previous
    // kernel chose.
    if let Some(why) = &found.cmdline_error {
        log_refusal(why);
        end::failure();
    }
    if let Some(expected_base) = found.expected_base
        && expected_base != kernel.parts.whole.start
    {
        let base = kernel.parts.whole.start;
        log_refusal(&format!(
            "the previous kernel chose base {expected_base} for this generation, which is at {base}"
        ));
        end::failure();
    }

    kernel.cpus.start();
    if let Some(check) = kernel.cmdline.check {
        let broken = checker::report(record, &kernel, found.initrd.clone());
        watchdog::report(&kernel.machine.watchdogs, &mut kernel.map);
        if check == Check::Strict && !broken.is_empty() {
            log_refusal(&format!("check=strict: broken rules: {broken:?}"));
            end::failure();
        }
    }
    if kernel.cmdline.selftest == Some(Selftest::Stub) {
        selftest::stub(&kernel);
    }

    let Some(cpu) = restart_cpu(&mut kernel) else {
        let count = kernel.cpus.count();
        log_refusal(&format!(
            "restart-cpu: that CPU is not up, or none of the {count} that the device tree names"
        ));
        end::failure();
    };
    let kernel = Box::leak(Box::new(kernel));
    if cpu.is_current() { run(kernel) } else { cpus::migrate(cpu, kernel) }
}

/// Returns the CPU that will kexec: this one, which was entered first, unless `restart-cpu` selects
/// another. Returns `None` if that CPU is not up.
fn restart_cpu(kernel: &mut Kernel) -> Option<&'static Cpu> {
    let up = kernel.cpus.up();
    match kernel.cmdline.restart_cpu {
        None => Some(Cpu::current()),
        Some(RestartCpu::Random) => Some(up[kernel.random.below(up.len() as u64) as usize]),
        Some(RestartCpu::Number(index)) => up.into_iter().find(|cpu| cpu.index == index),
    }
}

/// Runs on the CPU that will kexec: loads, plans, stages and jumps.
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

    for configuration in 0.. {
        if kernel.cmdline.selftest == Some(Selftest::Heap) {
            selftest::disturb();
        }
        // A network device may write received frames to memory until `Staged::kexec` resets it.
        kernel.devices.listen();
        // `kept` bytes stay reserved, because a device that did not reset may still write to them.
        let (free, kept_before) = (memory::free(), memory::kept());

        let payload = kernel.cmdline.payload.as_deref().filter(|_| last);
        let (error, is_last) = match Selection::open(kernel, payload, configuration) {
            // There is no such configuration, or no FIT to find the next one in.
            Err(error) => (error, true),
            Ok(selection) => {
                // The kexec. We get past this statement only if some step refused it.
                let Err(error) = make_plan(kernel, selection)
                    .and_then(|plan| Staged::new(kernel, plan)?.kexec());
                (error, false)
            }
        };

        log_refusal(&error);
        // Free the reason's own memory before we compare.
        drop(error);
        kernel.cpus.resume();
        let (now, newly_kept) = (memory::free(), memory::kept() - kept_before);
        assert!(now + newly_kept == free, "a refusal gave back {now} of {free} bytes");
        match newly_kept {
            0 => info!("generation {} continues, all its memory given back", kernel.generation),
            _ => info!(
                "generation {} continues without {newly_kept} bytes that a device may write to",
                kernel.generation
            ),
        }
        if is_last || !kernel.cmdline.continue_on_refusal {
            break;
        }
    }
    end::failure()
}

/// Plans the kexec of another generation of this kernel, from the selected configuration.
fn plan_own(kernel: &mut Kernel, selection: Selection) -> Result<Plan, Error> {
    let Selection { mut medium, contents, name, .. } = selection;
    let ram = &kernel.machine.ram;
    let (fit, header) =
        contents.open(&mut medium, &name, ram.iter().map(PhysRange::bytes).sum())?;
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
    let entry = base.saturating_add(header.text_offset);
    let image = Image::load(&mut medium, &fit, &header, entry, |place, all| {
        Frames::outside(place.bytes(), all)
    })?;
    log_loaded(&name, &image);
    drop(medium);
    Plan::new(
        image,
        &kernel.blob,
        Some(&kernel.next_handover(base)),
        &kernel.machine,
        &kernel.layout.control,
    )
}

/// Logs what was loaded: its name, the bytes hashed, and the time spent waiting for the disk.
fn log_loaded(name: &str, image: &Image) {
    let Image { hashed, disk_requests, disk_ns, .. } = image;
    info!("loaded \"{name}\": {hashed} bytes hashed, {disk_requests} requests, disk {disk_ns} ns");
}

/// Logs why a kexec, or the whole run, is refused.
fn log_refusal(why: &dyn fmt::Display) {
    warn!("{}{why}", marker::REFUSED);
    let (generation, reason) = (console::generation(), why.to_string());
    console::keep(&reason);
    console::record(&Record::Refusal(record::Refusal { generation, reason }));
}

/// Logs the banner: what this generation is and what it found.
fn log_banner(kernel: &Kernel, found: &mut Found) {
    let mut stale = Vec::new();
    if !found.stale_irqs.is_quiet() {
        stale.push(format!("shared by all CPUs:{}", found.stale_irqs));
    }
    let StaleLpis { turned_off, not_quiescent } = found.stale_lpis;
    if turned_off > 0 {
        stale.push(format!("{turned_off} of the CPUs with LPIs on and tables in RAM; turned off"));
    }
    if not_quiescent > 0 {
        stale.push(format!(
            "{not_quiescent} translation services that do not become quiescent: \
             we cannot find their tables, so we reserve none"
        ));
    }
    let facts = Generation {
        generation: kernel.generation,
        of: kernel.cmdline.generations,
        mode: kernel.mode.name().into(),
        base: Hex(kernel.parts.whole.start.get()),
        seed: Hex(kernel.seed),
        image_bytes: kernel.parts.whole.bytes(),
        control_pages: Hex(kernel.layout.control.start.get()),
        free_bytes: memory::free(),
        fdt_bytes: kernel.blob.len() as u64,
        fdt_entry_bytes: found.blob_was as u64,
        entered_ns: clock::nanoseconds(found.entered),
        // Take the trace, so that its memory is freed below.
        boot_trace: core::mem::take(&mut found.boot_trace),
        stale,
    };

    let Generation { generation, of, base, mode, .. } = &facts;
    info!("{}{generation} of {of}: {mode}, base {base:?}", marker::GENERATION);
    info!("boot trace, ns: {}", boot_trace::Line(&facts.boot_trace));
    info!("entered at {} ns of CNTVCT", facts.entered_ns);
    info!(
        "seed {:?}, image {} bytes, control pages {:?}, failure record {}",
        facts.seed,
        facts.image_bytes,
        facts.control_pages,
        failure_record::place().start
    );
    info!(
        "free memory {} bytes, device tree {} bytes ({} at entry)",
        facts.free_bytes, facts.fdt_bytes, facts.fdt_entry_bytes
    );
    if let Some(note) = found.note {
        warn!("{note}");
    }
    facts.stale.iter().for_each(|stale| warn!("{}{stale}", marker::STALE));
    console::record(&Record::Generation(facts));
}
