//! Devices that write to memory by themselves: driven on each transport, at work while the kernel goes, and quiet before it is gone.
//!
//! *When:* beside the matrix, which has the disk on each transport. Frames arrive all the time (`traffic`); a debugger leaves on what firmware may
//! leave on; patches of the booted kernel leave the reset out, or make devices that never reset. What happens without a reset is
//! shown as well: frames in memory that is the next generation's.

use std::{cmp::Reverse, collections::BTreeSet, ops::Range, sync::Arc};

use anyhow::{Context, Result, ensure};

use crate::{
    config::Virtio,
    disk,
    explain::{Gdb, Qmp},
    fit::{self, Kind, Payload},
    orders::{Base, Orders, Restart},
    proof::{self, Modes, check},
    request::{Disk, Request},
    traffic::frame,
    transcript::{self, Life},
    verdict::Verdict,
};

use super::{
    case::{Case, Trial, case},
    debugger::{LOADED, debugged, entropy_device},
    last_look::{last_look, memory},
    patch::{Patched, RET},
};

/// `mov w0, #0`: the Status of a device in reset.
const IN_RESET: u32 = 0x5280_0000;
/// `mov w0, #0x40`: DEVICE_NEEDS_RESET, and it stays.
const NEEDS_RESET: u32 = 0x5280_0800;

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in proof::MODES {
        for (virtio, restart) in [
            (Virtio::Legacy, Restart::Hot),
            (Virtio::Modern, Restart::Cold),
            (Virtio::Pci, Restart::Hot),
        ] {
            let name = format!("devices/traffic-{mode}-{virtio}");
            cases.push(case(name, move |trial| traffic(trial, mode, virtio, restart)));
        }
    }
    for virtio in [Virtio::Modern, Virtio::Pci] {
        cases.push(case(format!("devices/seed-{virtio}"), move |trial| seed(trial, virtio)));
        cases.push(case(format!("devices/reset-left-out-{virtio}"), move |trial| {
            reset_left_out(trial, virtio)
        }));
        cases.push(case(format!("devices/never-resets-{virtio}"), move |trial| {
            never_resets(trial, virtio)
        }));
    }
    cases.push(case("devices/no-entropy", no_entropy));
    cases.push(case("devices/two-disks", two_disks));
    cases.push(case("devices/quiet-before-the-jump", quiet));
    cases.push(case("devices/without-reset", |trial| without_reset(trial, Virtio::Modern)));
    cases
        .push(case("devices/without-reset-off-the-bus", |trial| without_reset(trial, Virtio::Pci)));
    cases
}

/// Twenty generations while frames arrive, in most of them.
fn traffic(
    trial: &mut Trial<'_>,
    mode: &'static str,
    virtio: Virtio,
    restart: Restart,
) -> Result<()> {
    let orders = Orders { generations: 20, base: Base::Random, restart, ..trial.orders() };
    let mut request = trial.request(mode, &orders)?;
    (request.virtio, request.network) = (Some(virtio), true);
    let lives = trial.lives(&request)?;
    check(&lives, &orders, Modes::All(mode))?;
    let [gone @ .., _] = lives.as_slice() else { anyhow::bail!("no generation") };
    // A busy host may not let the sender send for as long as one of them takes.
    let arrived = gone.iter().map(frames).collect::<Result<Vec<_>>>()?;
    let under_fire = arrived.iter().filter(|frames| **frames > 0).count();
    ensure!(
        under_fire * 2 > gone.len(),
        "frames arrived in {under_fire} of {} generations: {arrived:?}",
        gone.len()
    );
    Ok(())
}

/// How many frames arrived.
fn frames(life: &Life) -> Result<u64> {
    let line = life.lines.iter().find(|line| line.starts_with("the network device at "));
    let line =
        line.with_context(|| format!("generation {} does not tell of frames", life.number))?;
    let count =
        line.split_once(" has written ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    count.with_context(|| format!("no count in \"{line}\""))
}

/// Without `seed=` the entropy device gives one, another each time; with that seed the run is the same again.
fn seed(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    let orders = Orders { generations: 5, base: Base::Random, ..trial.orders() };
    let mut request = trial.request("vhe", &orders)?;
    request.virtio = Some(virtio);
    let given = format!(" seed={:#018x}", orders.seed);
    ensure!(request.bootargs.contains(&given), "no{given} in \"{}\"", request.bootargs);
    let with = request.bootargs.clone();
    request.bootargs = with.replace(&given, "");
    let mut drawn = BTreeSet::new();
    let mut last = Vec::new();
    for _ in 0..2 {
        last = trial.lives(&request)?;
        ensure!(
            last[0].says("the entropy device at ") && last[0].says(" gives the seed"),
            "nobody gave the seed"
        );
        ensure!(
            last[1..].iter().all(|life| !life.says("entropy device")),
            "a later generation drew again"
        );
        let orders = Orders { seed: last[0].seed, ..orders.clone() };
        check(&last, &orders, Modes::All("vhe"))?;
        drawn.insert(last[0].seed);
    }
    ensure!(drawn.len() == 2, "two runs drew the same seed, {drawn:#x?}");
    request.bootargs = with.replace(&given, &format!(" seed={:#018x}", last[0].seed));
    let places =
        |lives: &[Life]| lives.iter().map(|life| (life.base, life.control)).collect::<Vec<_>>();
    let again = trial.lives(&request)?;
    ensure!(places(&again) == places(&last), "the same seed, given, led to {:x?}", places(&again));
    Ok(())
}

/// Without an entropy device the counter gives the seed.
fn no_entropy(trial: &mut Trial<'_>) -> Result<()> {
    let orders = trial.orders();
    let mut request = trial.request("nvhe", &orders)?;
    let mut config = (*request.config).clone();
    config.virtio.legacy.clear();
    (request.config, request.virtio) = (Arc::new(config), Some(Virtio::Legacy));
    request.bootargs = request.bootargs.replace(&format!(" seed={:#018x}", orders.seed), "");
    let lives = trial.lives(&request)?;
    ensure!(!lives[0].says("entropy device"), "an entropy device gave the seed, and there is none");
    check(&lives, &Orders { seed: lives[0].seed, ..orders }, Modes::All("nvhe"))
}

/// A disk in a slot and one on the bus: the one in the slot is read. The other, which holds nothing, is found, and left in reset.
fn two_disks(trial: &mut Trial<'_>) -> Result<()> {
    let orders = trial.orders();
    let mut request = trial.request("nvhe", &orders)?;
    request.args.extend(
        ["-drive", "if=none,id=d1,driver=null-co,size=1M", "-device", "virtio-blk-pci,drive=d1"]
            .map(str::to_owned),
    );
    check(&trial.lives(&request)?, &orders, Modes::All("nvhe"))
}

/// `virt`'s configuration space, and a function's Command in it; device 1 is the first that the command line adds.
const ECAM: u64 = 0x40_1000_0000;
const COMMAND: u64 = ECAM + (1 << 15) + 4;
const BUS_MASTER: u8 = 1 << 2;

/// What firmware, and then somebody during the kernel's life, left on is off when the control page is entered: the Status of a device that
/// nobody drives, and a function's bus mastering.
fn quiet(trial: &mut Trial<'_>) -> Result<()> {
    let kernel = trial.kernel();
    let [crc, enter, page] = ["relocate_crc32c", "relocate_enter", "relocate_page_start"]
        .map(|name| kernel.symbol(name));
    let (crc, enter, page) = (crc?, enter?, page?);
    let args = ["-device", "e1000e,romfile="].map(str::to_owned);
    // A run of one generation tells where the control pages are.
    let mut request = trial.request("nvhe", &Orders { generations: 1, ..trial.orders() })?;
    request.args.extend(args.clone());
    let control = trial.lives(&request)?.first().context("no generation")?.control;

    let orders = trial.orders();
    let mut request = trial.request("nvhe", &orders)?;
    request.args.extend(args);
    let outcome = debugged(trial, request, |mut gdb| {
        let status = entropy_device(&mut gdb)?;
        // Status is read as it must be, by the word.
        let is_on = |gdb: &mut Gdb| {
            Ok::<_, anyhow::Error>((
                gdb.memory(status, 4)?[0],
                gdb.memory(COMMAND, 1)?[0] & BUS_MASTER,
            ))
        };
        let leave_on = |gdb: &mut Gdb| -> Result<()> {
            gdb.write(status, &[1, 0, 0, 0])?;
            gdb.write(COMMAND, &[BUS_MASTER, 0])?;
            let found = is_on(gdb)?;
            ensure!(found == (1, BUS_MASTER), "Status and Command cannot be set: {found:?}");
            Ok(())
        };
        leave_on(&mut gdb)?;
        // Sources are checksummed for the first time: every device has been found and brought into reset.
        gdb.run_to(LOADED + crc)?;
        let found = is_on(&mut gdb)?;
        ensure!(
            found == (0, 0),
            "what was left on is on in the middle of a life: Status, bus mastering {found:?}"
        );
        leave_on(&mut gdb)?;
        gdb.run_to(control + (enter - page))?;
        let found = is_on(&mut gdb)?;
        ensure!(
            found == (0, 0),
            "what was left on is on at the jump: Status, bus mastering {found:?}"
        );
        gdb.detach()
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    check(&transcript::lives(&outcome.console)?, &orders, Modes::All("nvhe"))
}

/// Where the disk is, for people: the second device that the command line adds.
fn place(virtio: Virtio) -> &'static str {
    match virtio {
        Virtio::Modern | Virtio::Legacy => "the virtio device at 0xa003c00",
        Virtio::Pci => "the virtio device at PCI 00:02.0 (1af4:1001)",
    }
}

/// The booted kernel does not reset its disk: that is seen, and the generation lives on without what the disk could write to.
fn reset_left_out(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    let patched =
        Patched::new(trial.kernel()).at("kernel::devices::device::device_reset", 0, RET)?;
    let life = refused(trial, virtio, patched.image)?;
    // A function that may not write any more is no longer DRIVER_OK to QEMU.
    let status = if virtio == Virtio::Pci { 0xb } else { 0xf };
    let says = format!(
        "{} is not in reset (Status {status:#x}): it could write to memory after the jump",
        place(virtio)
    );
    ensure!(life.refused == [says], "it refused with {:?}", life.refused);
    let kept = life.lines.iter().any(|line| {
        line.starts_with("generation 0 lives on without ")
            && line.ends_with(" bytes that a device may write to")
    });
    ensure!(kept, "it does not say that it keeps the disk's memory");
    Ok(())
}

/// No device resets, whatever is written to it: the first that is needed is named.
fn never_resets(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    let patched = Patched::new(trial.kernel())
        .at("kernel::devices::device::device_status", 0, NEEDS_RESET)?
        .at("kernel::devices::device::device_status", 4, RET)?;
    let life = refused(trial, virtio, patched.image)?;
    let says =
        format!("no disk: {} is not in reset (Status 0x40): it could write to", place(virtio));
    ensure!(
        life.refused.len() == 1 && life.refused[0].starts_with(&says),
        "it refused with {:?}",
        life.refused
    );
    ensure!(
        life.says("generation 0 lives on, all its memory given back"),
        "it does not say that it lives on"
    );
    Ok(())
}

/// The generation that is booted from `image` refuses, and ends its run in order.
fn refused(trial: &mut Trial<'_>, virtio: Virtio, image: Vec<u8>) -> Result<Life> {
    let mut request = trial.request("vhe", &trial.orders())?;
    (request.virtio, request.image) = (Some(virtio), Some(image));
    let outcome = trial.ends(&request, Verdict::Failed(1))?;
    let mut lives = transcript::lives(&outcome.console)?;
    ensure!(lives.len() == 1 && lives[0].bye.is_none(), "it went");
    Ok(lives.remove(0))
}

/// RAM of the machines that are searched for frames.
const RAM: Range<u64> = 0x4000_0000..0x4c80_0000;

/// A payload that takes so long to hash that every receive buffer has had a frame before it is done: where it is sent, and its bytes.
const LONG: (u64, usize) = (0x4a00_0000, 4 << 20);

/// As many ranges of memory as there can be segments beside kernel and device tree.
const MOST_RANGES: usize = 14;

/// How often the damage may fail to show.
const TRIES: usize = 5;

/// The booted kernel goes without a reset and believes that there was one. In a slot, frames arrive in memory that is the next
/// generation's: the control page finds that what arrived is not what was loaded, or they lie there in the end. On the bus none does: the
/// function may not write any more. With the reset there is none in either case.
fn without_reset(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    let orders = Orders { generations: 2, base: Base::Load, ..trial.orders() };
    let request = |trial: &Trial<'_>, disk| -> Result<Request> {
        let mut request = trial.request("nvhe", &orders)?;
        (request.virtio, request.network, request.memory) =
            (Some(virtio), true, Some("200M".to_owned()));
        request.semihosting = false;
        request.bootargs = orders.bootargs(&request.machine.bootargs, false);
        request.disk = Disk::Bytes(disk);
        Ok(request)
    };
    let kernel = disk::payload("kernel", trial.kernel().image.clone(), Some(disk::LOAD));
    let loadable = |name: String, load, size| Payload {
        kind: Kind::Loadable { load },
        ..disk::payload(&name, vec![0xa5; size], None)
    };
    // Where the first generation's receive buffers are: the same orders lead to the same places.
    let long = Arc::new(fit::write(&[kernel.clone(), loadable("long".to_owned(), LONG.0, LONG.1)]));
    let (_, ram) =
        last_look(trial, request(trial, long)?, |qmp| memory(qmp, RAM.start, RAM.end - RAM.start))?;
    let found = found_in(&ram);
    let mut buffers: Vec<_> =
        found.chunk_by(|one, next| next - one <= 2 * 4096).map(pages).collect();
    buffers.sort_by_key(|range| Reverse(range.end - range.start));
    buffers.truncate(MOST_RANGES);
    ensure!(found.len() >= 32 && !buffers.is_empty(), "{} frames are in memory", found.len());

    // Now something is loaded over them.
    let over = (0..).zip(&buffers).map(|(number, range): (u32, &Range<u64>)| {
        loadable(format!("over-{number}"), range.start, (range.end - range.start) as usize)
    });
    let disk = Arc::new(fit::write(&[kernel].into_iter().chain(over).collect::<Vec<_>>()));
    let look = |trial: &mut Trial<'_>, image: Option<Vec<u8>>| -> Result<bool> {
        let mut request = request(trial, Arc::clone(&disk))?;
        request.image = image;
        let look = |qmp: &mut Qmp| {
            let each =
                buffers.iter().map(|range| memory(qmp, range.start, range.end - range.start));
            each.collect::<Result<Vec<_>>>()
        };
        match last_look(trial, request, look) {
            Ok((_, memory)) => Ok(memory.iter().any(|memory| !found_in(memory).is_empty())),
            Err(_) if trial.last_run().contains("!! what arrived is not what was loaded: ") => {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    };
    ensure!(!look(trial, None)?, "a frame was written after the reset");
    let patched =
        Patched::new(trial.kernel()).at("kernel::devices::device::device_reset", 0, RET)?;
    let patched = patched.at("kernel::devices::device::device_status", 0, IN_RESET)?.at(
        "kernel::devices::device::device_status",
        4,
        RET,
    )?;
    // How many frames arrive between copy and next reset is this host's business.
    let mut damaged = false;
    for _ in 0..TRIES {
        damaged = damaged || look(trial, Some(patched.image.clone()))?;
    }
    ensure!(
        damaged == (virtio != Virtio::Pci),
        "without a reset, on {virtio}, {TRIES} times: damage is {damaged}"
    );
    Ok(())
}

/// The pages of frames that begin there.
fn pages(near: &[usize]) -> Range<u64> {
    let (first, last) =
        (near[0] & !0xfff, (near[near.len() - 1] + frame().len()).next_multiple_of(4096));
    RAM.start + first as u64..RAM.start + last as u64
}

/// Where frames begin.
fn found_in(memory: &[u8]) -> Vec<usize> {
    let frame = frame();
    let start = &frame[..40];
    let words = (0..memory.len().saturating_sub(start.len())).step_by(2);
    words.filter(|&at| memory[at] == 0xff && memory[at..].starts_with(start)).collect()
}
