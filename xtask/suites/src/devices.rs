//! Tests of devices that write to memory: each must be quiet before the jump.
//!
//! The matrix covers the disk on each transport. Here:
//!
//! - network frames arrive throughout the run (`frame_source`);
//! - a debugger leaves devices on, as firmware may;
//! - patches of the booted kernel leave the reset out, or make devices that never reset;
//! - a kernel that skips the reset shows the damage: frames in memory of the next generation.

use std::{cmp::Reverse, collections::BTreeSet, ops::Range, sync::Arc};

use anyhow::{Context, Result, ensure};
use boot::marker;
use dtoolkit::Node as _;

use harness::{
    cmdline::{Base, Cmdline, Restart},
    config::{Config, Flag, Virtio},
    disk,
    fit_edit::{node, set, shifted},
    frame_source::frame,
    invariants::{self, Modes, check},
    patch::{Patched, RET},
    postmortem::{Gdb, Qmp},
    request::{Disk, Request},
    transcript::{self, GenerationLog},
    tree_edit::{child, edit_tree},
    verdict::Verdict,
};
use protocol::fit::writer::{self as fit, Kind, Payload};

use super::{
    case::{Case, Trial, case},
    debugger::{LOADED, debugged, entropy_device},
    last_look::{last_look, memory},
};

/// `mov w0, #0`, the Status of a device in reset.
const IN_RESET: u32 = 0x5280_0000;
/// `mov w0, #0x40`, a Status that stays at DEVICE_NEEDS_RESET.
const NEEDS_RESET: u32 = 0x5280_0800;

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in invariants::MODES {
        for (virtio, restart) in [
            (Virtio::Legacy, Restart::Hot),
            (Virtio::Modern, Restart::Cold),
            (Virtio::Pci, Restart::Hot),
        ] {
            let name = format!("devices/traffic-{mode}-{virtio}");
            cases.push(case(name, move |trial| frame_source(trial, mode, virtio, restart)));
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
    for virtio in [Virtio::Modern, Virtio::Legacy, Virtio::Pci] {
        cases.push(case(format!("devices/never-answers-{virtio}"), move |trial| {
            never_answers(trial, virtio)
        }));
        cases.push(case(format!("devices/blocks-of-4096-{virtio}"), move |trial| {
            blocks_of_4096(trial, virtio)
        }));
        cases.push(case(format!("devices/small-queue-{virtio}"), move |trial| {
            altered_disk(trial, virtio, "queue-size=4")
        }));
    }
    cases.push(case("devices/never-answers-nor-resets", never_answers_nor_resets));
    cases.push(case("devices/entropy-never-answers", entropy_never_answers));
    cases.push(case("devices/no-entropy", no_entropy));
    cases.push(case("devices/two-disks", two_disks));
    cases.push(case("devices/fit-on-the-last-disk", fit_on_the_last_disk));
    cases.push(case("devices/fit-on-no-disk", fit_on_no_disk));
    cases.push(case("devices/behind-a-root-port", |trial| {
        behind(trial, &["pcie-root-port,id=rp"], "bus=rp")
    }));
    cases.push(case("devices/behind-a-bridge", |trial| {
        let others = ["pcie-root-port,id=empty,chassis=1", "pcie-root-port,id=rp,chassis=2"];
        let bridge = "pcie-pci-bridge,id=bridge,bus=rp";
        let network = "e1000e,romfile=,bus=bridge,addr=1";
        behind(trial, &[others[0], others[1], bridge, network], "bus=bridge,addr=2")
    }));
    cases.push(case("devices/behind-an-expander", |trial| {
        behind(trial, &[EXPANDER, "pcie-root-port,id=rp,bus=pxb,chassis=9"], "bus=rp")
    }));
    cases.push(case("devices/two-pci-hosts", two_hosts));
    cases.push(case("devices/quiet-before-the-jump", quiet));
    cases.push(case("devices/quiet-behind-a-root-port", quiet_behind_a_port));
    cases.push(case("devices/without-reset", |trial| without_reset(trial, Virtio::Modern)));
    cases
        .push(case("devices/without-reset-off-the-bus", |trial| without_reset(trial, Virtio::Pci)));
    cases
}

/// Runs twenty generations while frames arrive.
fn frame_source(
    trial: &mut Trial<'_>,
    mode: &'static str,
    virtio: Virtio,
    restart: Restart,
) -> Result<()> {
    let cmdline = Cmdline { generations: 20, base: Base::Random, restart, ..trial.cmdline() };
    let mut request = trial.request(mode, &cmdline)?;
    (request.virtio, request.network) = (Some(virtio), true);
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All(mode))?;
    let [gone @ .., _] = logs.as_slice() else { anyhow::bail!("no generation") };
    // On a busy host the sender may not run during a whole generation.
    let arrived = gone.iter().map(frames).collect::<Result<Vec<_>>>()?;
    let under_fire = arrived.iter().filter(|frames| **frames > 0).count();
    ensure!(
        under_fire * 2 > gone.len(),
        "frames arrived in {under_fire} of {} generations: {arrived:?}",
        gone.len()
    );
    Ok(())
}

/// Returns the number of frames that arrived in a generation.
fn frames(gen_log: &GenerationLog) -> Result<u64> {
    let line = gen_log.lines.iter().find(|line| line.starts_with("the network device at "));
    let line =
        line.with_context(|| format!("generation {} prints no count of frames", gen_log.number))?;
    let count =
        line.split_once(" has written ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    count.with_context(|| format!("no count in \"{line}\""))
}

/// Checks that without `seed=` the entropy device supplies a seed, another one for each run. A run
/// with that seed given must choose the same addresses again.
fn seed(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    let cmdline = Cmdline { generations: 5, base: Base::Random, ..trial.cmdline() };
    let mut request = trial.request("vhe", &cmdline)?;
    request.virtio = Some(virtio);
    let given = format!(" seed={:#018x}", cmdline.seed);
    ensure!(request.bootargs.contains(&given), "no{given} in \"{}\"", request.bootargs);
    let with = request.bootargs.clone();
    request.bootargs = with.replace(&given, "");
    let mut drawn = BTreeSet::new();
    let mut last = Vec::new();
    for _ in 0..2 {
        last = trial.logs(&request)?;
        ensure!(
            last[0].says("the entropy device at ") && last[0].says(" gives the seed"),
            "the entropy device did not supply the seed"
        );
        ensure!(
            last[1..].iter().all(|gen_log| !gen_log.says("entropy device")),
            "a later generation drew again"
        );
        let cmdline = Cmdline { seed: last[0].seed, ..cmdline.clone() };
        check(&last, &cmdline, Modes::All("vhe"))?;
        drawn.insert(last[0].seed);
    }
    ensure!(drawn.len() == 2, "two runs drew the same seed, {drawn:#x?}");
    request.bootargs = with.replace(&given, &format!(" seed={:#018x}", last[0].seed));
    let places = |logs: &[GenerationLog]| {
        logs.iter().map(|gen_log| (gen_log.base, gen_log.control)).collect::<Vec<_>>()
    };
    let again = trial.logs(&request)?;
    ensure!(places(&again) == places(&last), "the same seed, given, led to {:x?}", places(&again));
    Ok(())
}

/// Checks that the counter supplies the seed if there is no entropy device.
fn no_entropy(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    let mut config = (*request.config).clone();
    config.virtio.legacy.clear();
    (request.config, request.virtio) = (Arc::new(config), Some(Virtio::Legacy));
    request.bootargs = request.bootargs.replace(&format!(" seed={:#018x}", cmdline.seed), "");
    let logs = trial.logs(&request)?;
    ensure!(
        !logs[0].says("entropy device"),
        "the kernel names an entropy device, and the machine has none"
    );
    check(&logs, &Cmdline { seed: logs[0].seed, ..cmdline }, Modes::All("nvhe"))
}

/// Attaches a second, empty disk on PCI. The kernel must read the virtio-mmio disk, and leave the
/// other in reset.
fn two_disks(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    request.args.extend(
        ["-drive", "if=none,id=d1,driver=null-co,size=1M", "-device", "virtio-blk-pci,drive=d1"]
            .map(str::to_owned),
    );
    check(&trial.logs(&request)?, &cmdline, Modes::All("nvhe"))
}

/// Returns the arguments of an empty disk on PCI, number `number`.
fn empty_disk(number: u32) -> Vec<String> {
    let drive = format!("if=none,id=e{number},driver=null-co,size=1M,read-zeroes=on");
    let device = format!("virtio-blk-pci,drive=e{number}");
    ["-drive", &drive, "-device", &device].map(str::to_owned).into()
}

/// Attaches two empty disks before the one with the FIT. The kernel must find the third, and leave
/// the others in reset.
fn fit_on_the_last_disk(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    request.virtio = Some(Virtio::Pci);
    let empty = [empty_disk(0), empty_disk(1)].concat();
    Arc::make_mut(&mut request.config).virtio.pci.extend(
        empty.chunks(2).map(|words| Flag { arg: words.join(" "), why: "an empty disk".to_owned() }),
    );
    check(&trial.logs(&request)?, &cmdline, Modes::All("nvhe"))
}

/// Attaches two disks without a FIT. The refusal is about the first.
fn fit_on_no_disk(trial: &mut Trial<'_>) -> Result<()> {
    let mut request = trial.request("nvhe", &trial.cmdline())?;
    request.disk = Disk::Bytes(Arc::new(vec![0x5a; 64 << 10]));
    request.args.extend(empty_disk(0));
    let outcome = trial.ends(&request, Verdict::Failed(1))?;
    let logs = transcript::logs(&outcome.console)?;
    let says = "the disk does not start with a FIT: 0x5a5a5a5a";
    ensure!(
        logs.len() == 1 && logs[0].refused.len() == 1 && logs[0].refused[0].starts_with(says),
        "the kernel refused with {:?}",
        logs.iter().flat_map(|gen_log| &gen_log.refused).collect::<Vec<_>>()
    );
    Ok(())
}

/// Runs three generations from a disk with 4096-byte blocks, whose payloads are at odd places.
fn blocks_of_4096(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    const BLOCK: usize = 4096;
    let mut disk = shifted(&disk::of(trial.kernel(), false), 100, &["kernel"])?;
    disk.resize(disk.len().next_multiple_of(BLOCK), 0);
    for disk in [None, Some(disk)] {
        let cmdline = Cmdline { base: Base::Random, ..trial.cmdline() };
        let mut request = trial.request("vhe", &cmdline)?;
        let mut bytes = disk.unwrap_or_else(|| disk::of(trial.kernel(), false));
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        (request.virtio, request.disk) = (Some(virtio), Disk::Bytes(Arc::new(bytes)));
        alter_disk(&mut request, virtio, "logical_block_size=4096,physical_block_size=4096");
        check(&trial.logs(&request)?, &cmdline, Modes::All("vhe"))?;
    }
    Ok(())
}

/// Runs three generations from a disk with one more property.
fn altered_disk(trial: &mut Trial<'_>, virtio: Virtio, property: &str) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    request.virtio = Some(virtio);
    alter_disk(&mut request, virtio, property);
    check(&trial.logs(&request)?, &cmdline, Modes::All("nvhe"))
}

/// Gives the disk a property, by QEMU's default for all devices of its kind.
fn alter_disk(request: &mut Request, virtio: Virtio, properties: &str) {
    for property in properties.split(',') {
        let kind = virtio.device("blk");
        request.args.extend(["-global".to_owned(), format!("{kind}.{property}")]);
    }
}

/// A limit of one byte a second: QEMU lets the first request through, and then waits.
const ONE_BYTE_A_SECOND: &str = ",throttling.bps-total=1";

/// Attaches a disk that answers the first requests and then no more. The kernel must name it and
/// what it asked, give all memory back, and end the run by itself.
fn never_answers(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    let mut request = trial.request("vhe", &trial.cmdline())?;
    request.virtio = Some(virtio);
    request.drive += ONE_BYTE_A_SECOND;
    let gen_log = unanswered(trial, &request, virtio)?;
    ensure!(
        gen_log.says("generation 0 continues, all its memory given back"),
        "the kernel does not print that it continues"
    );
    Ok(())
}

/// Boots a kernel that cannot reset such a disk. It must keep the memory that the disk may still
/// write to.
fn never_answers_nor_resets(trial: &mut Trial<'_>) -> Result<()> {
    let patched =
        Patched::new(trial.kernel()).at("kernel::devices::device::device_reset", 0, RET)?;
    let mut request = trial.request("vhe", &trial.cmdline())?;
    request.image = Some(patched.image);
    request.drive += ONE_BYTE_A_SECOND;
    let gen_log = unanswered(trial, &request, Virtio::Modern)?;
    let line =
        gen_log.lines.iter().find(|line| line.starts_with("generation 0 continues without "));
    let line = line.context("the kernel does not print that it keeps memory")?;
    let kept: Option<u64> = line.split(' ').nth(4).and_then(|number| number.parse().ok());
    let kept = kept.with_context(|| format!("no number in \"{line}\""))?;
    // The bounce buffer and the queue are some 80 KiB.
    ensure!(kept >= 64 << 10, "the kernel keeps {kept} bytes");
    Ok(())
}

/// Runs the request, whose disk does not answer, and returns its one generation.
fn unanswered(trial: &mut Trial<'_>, request: &Request, virtio: Virtio) -> Result<GenerationLog> {
    let outcome = trial.ends(request, Verdict::Failed(1))?;
    let mut logs = transcript::logs(&outcome.console)?;
    ensure!(logs.len() == 1 && logs[0].bye.is_none(), "the kernel restarted");
    let gen_log = logs.remove(0);
    let [refused] = gen_log.refused.as_slice() else {
        anyhow::bail!("the kernel refused with {:?}", gen_log.refused)
    };
    for says in ["the disk fails to read block ", ": it does not answer in time (", place(virtio)] {
        ensure!(refused.contains(says), "\"{says}\" is not in the refusal: {refused}");
    }
    Ok(gen_log)
}

/// Attaches an entropy device that gives one byte and then no more. The kernel must name it, and
/// take the seed from the counter.
fn entropy_never_answers(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    for flag in &mut Arc::make_mut(&mut request.config).virtio.modern {
        if flag.arg.contains("rng") {
            flag.arg += ",max-bytes=1,period=100000000";
        }
    }
    request.bootargs = request.bootargs.replace(&format!(" seed={:#018x}", cmdline.seed), "");
    let logs = trial.logs(&request)?;
    let says = " was asked for the seed: it does not answer in time";
    ensure!(
        logs[0].says("the entropy device at ") && logs[0].says(says),
        "no line says \"{says}\""
    );
    check(&logs, &Cmdline { seed: logs[0].seed, ..cmdline }, Modes::All("nvhe"))
}

/// `virt`'s PCI configuration space, and the Command register of device 1, which is the first that
/// the command line adds.
const ECAM: u64 = 0x40_1000_0000;
const COMMAND: u64 = ECAM + (1 << 15) + 4;
const BUS_MASTER: u8 = 1 << 2;

/// Turns on a device without a driver and the bus mastering of a PCI function, before the boot and
/// again while the kernel runs. Both must be off at the entry of the control pages.
fn quiet(trial: &mut Trial<'_>) -> Result<()> {
    let kernel = trial.kernel();
    let [crc, enter, page] = ["relocate_crc32c", "relocate_new_kernel", "relocate_page_start"]
        .map(|name| kernel.symbol(name));
    let (crc, enter, page) = (crc?, enter?, page?);
    let args = ["-device", "e1000e,romfile="].map(str::to_owned);
    // A run of one generation prints where the control pages are.
    let mut request = trial.request("nvhe", &Cmdline { generations: 1, ..trial.cmdline() })?;
    request.args.extend(args.clone());
    let control = trial.logs(&request)?.first().context("no generation")?.control;

    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    request.args.extend(args);
    let outcome = debugged(trial, request, |mut gdb| {
        let status = entropy_device(&mut gdb)?;
        // Status must be read as a 32-bit word.
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
        // At the first checksum of a source, the kernel has found and reset every device.
        gdb.run_to(LOADED + crc)?;
        let found = is_on(&mut gdb)?;
        ensure!(
            found == (0, 0),
            "a device that was left on is still on after the probe: Status, bus mastering {found:?}"
        );
        leave_on(&mut gdb)?;
        gdb.run_to(control + (enter - page))?;
        let found = is_on(&mut gdb)?;
        ensure!(
            found == (0, 0),
            "a device that was left on is still on at the jump: Status, bus mastering {found:?}"
        );
        gdb.detach()
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    check(&transcript::logs(&outcome.console)?, &cmdline, Modes::All("nvhe"))
}

/// Runs six generations from a disk that is behind bridges. The first one numbers the buses and
/// assigns windows, and the others find them.
fn behind(trial: &mut Trial<'_>, bridges: &[&str], bus: &str) -> Result<()> {
    let cmdline = Cmdline { generations: 6, base: Base::Random, ..trial.cmdline() };
    let mut request = trial.request("vhe", &cmdline)?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), disk::of(trial.kernel(), false))?;
    request.disk = Disk::None;
    request.args.extend(bridges.iter().flat_map(|it| ["-device".to_owned(), (*it).to_owned()]));
    request.args.extend([
        "-drive".to_owned(),
        format!("if=none,id=b0,format=raw,file={}", file.path().display()),
        "-device".to_owned(),
        format!("virtio-blk-pci,drive=b0,{bus}"),
    ]);
    check(&trial.logs(&request)?, &cmdline, Modes::All("vhe"))
}

/// A second root, bus 128 of the same configuration space.
const EXPANDER: &str = "pxb-pcie,id=pxb,bus_nr=128,bus=pcie.0";

/// Splits the buses among two PCI hosts. The name of a function behind the second one must have
/// that host's number.
fn two_hosts(trial: &mut Trial<'_>) -> Result<()> {
    const HALF: u64 = 128 << 20;
    let cmdline = trial.cmdline();
    let mut request = trial.request("vhe", &cmdline)?;
    // The only entropy device is behind the second host, and gives the seed.
    let mut config = Config::clone(trial.config());
    config.virtio.modern.retain(|flag| !flag.arg.contains("virtio-rng"));
    request.config = Arc::new(config);
    request.bootargs = request.bootargs.replace(&format!(" seed={:#018x}", cmdline.seed), "");
    edit_tree(&mut request, |tree| {
        let first = node(tree, "/pcie@10000000")?;
        let mut second = child("pcie@20000000")?;
        first.properties().for_each(|property| second.add_property(property.clone()));
        for (host, half) in [(&mut *first, 0_u64), (&mut second, 1)] {
            let reg = [ECAM + half * HALF, HALF].map(u64::to_be_bytes).concat();
            let (bus, start) = (half as u32 * 128, 0x1000_0000 + half as u32 * 0x1000_0000);
            set(host, "reg", reg)?;
            set(host, "bus-range", vec![bus, bus + 127])?;
            set(host, "ranges", vec![0x0200_0000, 0, start, 0, start, 0, 0x1000_0000])?;
        }
        set(&mut second, "linux,pci-domain", 7_u32)?;
        tree.root.add_child(second);
        Ok(())
    })?;
    let port = "pcie-root-port,id=rp,bus=pxb,chassis=9";
    for device in [EXPANDER, port, "virtio-rng-pci,bus=rp"] {
        request.args.extend(["-device", device].map(str::to_owned));
    }
    let logs = trial.logs(&request)?;
    let says = "the entropy device at PCI 0007:81:00.0 (1af4:1044) gives ";
    ensure!(logs[0].says(says), "no line says \"{says}\"");
    check(&logs, &Cmdline { seed: logs[0].seed, ..cmdline }, Modes::All("vhe"))
}

/// Turns on the bus mastering of a function behind a root port and of the port, while the kernel
/// runs. Both must be off at the entry of the control pages.
fn quiet_behind_a_port(trial: &mut Trial<'_>) -> Result<()> {
    const BEHIND: u64 = ECAM + (1 << 20) + 4;
    let kernel = trial.kernel();
    let [crc, enter, page] = ["relocate_crc32c", "relocate_new_kernel", "relocate_page_start"]
        .map(|name| kernel.symbol(name));
    let (crc, enter, page) = (crc?, enter?, page?);
    let args = ["-device", "pcie-root-port,id=rp", "-device", "e1000e,romfile=,bus=rp"];
    // A run of one generation prints where the control pages are.
    let mut request = trial.request("nvhe", &Cmdline { generations: 1, ..trial.cmdline() })?;
    request.args.extend(args.map(str::to_owned));
    let control = trial.logs(&request)?.first().context("no generation")?.control;

    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    request.args.extend(args.map(str::to_owned));
    let outcome = debugged(trial, request, |mut gdb| {
        // At the first checksum of a source, the kernel has found and reset every device.
        gdb.run_to(LOADED + crc)?;
        for register in [COMMAND, BEHIND] {
            gdb.write(register, &[BUS_MASTER, 0])?;
            let found = gdb.memory(register, 1)?[0];
            ensure!(found == BUS_MASTER, "Command at {register:#x} cannot be set: {found:#x}");
        }
        gdb.run_to(control + (enter - page))?;
        for register in [COMMAND, BEHIND] {
            let found = gdb.memory(register, 1)?[0] & BUS_MASTER;
            ensure!(found == 0, "bus mastering at {register:#x} is on at the jump");
        }
        gdb.detach()
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    check(&transcript::logs(&outcome.console)?, &cmdline, Modes::All("nvhe"))
}

/// Returns the kernel's name for the disk, which is the second device that the command line adds.
fn place(virtio: Virtio) -> &'static str {
    match virtio {
        Virtio::Modern | Virtio::Legacy => "the virtio device at 0xa003c00",
        Virtio::Pci => "the virtio device at PCI 00:02.0 (1af4:1001)",
    }
}

/// Boots a kernel that does not reset its disk. Its read-back must refuse the restart, and the
/// generation must continue without the memory that the disk could write to.
fn reset_left_out(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    let patched =
        Patched::new(trial.kernel()).at("kernel::devices::device::device_reset", 0, RET)?;
    let gen_log = refused(trial, virtio, patched.image)?;
    // QEMU clears DRIVER_OK of a PCI device when its bus mastering is turned off.
    let status = if virtio == Virtio::Pci { 0xb } else { 0xf };
    let says = format!(
        "{} is not in reset (Status {status:#x}): it could write to memory after the jump",
        place(virtio)
    );
    ensure!(gen_log.refused == [says], "the kernel refused with {:?}", gen_log.refused);
    let kept = gen_log.lines.iter().any(|line| {
        line.starts_with("generation 0 continues without ")
            && line.ends_with(" bytes that a device may write to")
    });
    ensure!(kept, "the kernel does not print that it keeps the disk's memory");
    Ok(())
}

/// Boots a kernel to which no device appears to reset. It must name the first device that it needs.
fn never_resets(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    let patched = Patched::new(trial.kernel())
        .at("kernel::devices::device::device_status", 0, NEEDS_RESET)?
        .at("kernel::devices::device::device_status", 4, RET)?;
    let gen_log = refused(trial, virtio, patched.image)?;
    let says =
        format!("no disk: {} is not in reset (Status 0x40): it could write to", place(virtio));
    ensure!(
        gen_log.refused.len() == 1 && gen_log.refused[0].starts_with(&says),
        "the kernel refused with {:?}",
        gen_log.refused
    );
    ensure!(
        gen_log.says("generation 0 continues, all its memory given back"),
        "the kernel does not print that it continues"
    );
    Ok(())
}

/// Boots `image`, which must refuse to restart and end the run by itself. Returns its one
/// generation.
fn refused(trial: &mut Trial<'_>, virtio: Virtio, image: Vec<u8>) -> Result<GenerationLog> {
    let mut request = trial.request("vhe", &trial.cmdline())?;
    (request.virtio, request.image) = (Some(virtio), Some(image));
    let outcome = trial.ends(&request, Verdict::Failed(1))?;
    let mut logs = transcript::logs(&outcome.console)?;
    ensure!(logs.len() == 1 && logs[0].bye.is_none(), "the kernel restarted");
    Ok(logs.remove(0))
}

/// RAM of the machines whose memory is searched for frames.
const RAM: Range<u64> = 0x4000_0000..0x4c80_0000;

/// Address and size of a loadable that takes long to hash: meanwhile every receive buffer gets a
/// frame.
const LONG: (u64, usize) = (0x4a00_0000, 4 << 20);

/// The most segments in addition to kernel and device tree.
const MOST_RANGES: usize = 14;

/// Number of attempts to see the damage.
const TRIES: usize = 5;

/// Boots a kernel that restarts without resetting the network device, and believes that it did.
///
/// - As a virtio-mmio device, it writes frames into memory of the next generation. Either the
///   control page reports a checksum mismatch, or the frames are in memory at the end.
/// - On PCI it writes none, since its bus mastering is off.
/// - With the reset it writes none in either case.
fn without_reset(trial: &mut Trial<'_>, virtio: Virtio) -> Result<()> {
    let cmdline = Cmdline { generations: 2, base: Base::Load, ..trial.cmdline() };
    let request = |trial: &Trial<'_>, disk| -> Result<Request> {
        let mut request = trial.request("nvhe", &cmdline)?;
        (request.virtio, request.network, request.memory) =
            (Some(virtio), true, Some("200M".to_owned()));
        request.semihosting = false;
        request.bootargs = cmdline.bootargs(&request.machine.bootargs, false);
        request.disk = Disk::Bytes(disk);
        Ok(request)
    };
    let kernel = disk::payload("kernel", trial.kernel().image.clone(), Some(disk::LOAD));
    let loadable = |name: String, load, size| Payload {
        kind: Kind::Loadable { load },
        ..disk::payload(&name, vec![0xa5; size], None)
    };
    // Find the first generation's receive buffers. The same parameters lead to the same addresses.
    let long = Arc::new(fit::write(&[kernel.clone(), loadable("long".to_owned(), LONG.0, LONG.1)]));
    let (_, ram) =
        last_look(trial, request(trial, long)?, |qmp| memory(qmp, RAM.start, RAM.end - RAM.start))?;
    let found = found_in(&ram);
    let mut buffers: Vec<_> =
        found.chunk_by(|one, next| next - one <= 2 * 4096).map(pages).collect();
    buffers.sort_by_key(|range| Reverse(range.end - range.start));
    buffers.truncate(MOST_RANGES);
    ensure!(found.len() >= 32 && !buffers.is_empty(), "{} frames are in memory", found.len());

    // Now send loadables to those addresses.
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
            Err(_) if trial.last_run().contains(marker::MISMATCH) => Ok(true),
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
    // The number of frames between the copy and the next kernel's reset depends on this host.
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

/// Returns the pages that hold the frames that start at the offsets `near`.
fn pages(near: &[usize]) -> Range<u64> {
    let (first, last) =
        (near[0] & !0xfff, (near[near.len() - 1] + frame().len()).next_multiple_of(4096));
    RAM.start + first as u64..RAM.start + last as u64
}

/// Returns the offsets in `memory` at which frames start.
fn found_in(memory: &[u8]) -> Vec<usize> {
    let frame = frame();
    let start = &frame[..40];
    let words = (0..memory.len().saturating_sub(start.len())).step_by(2);
    words.filter(|&at| memory[at] == 0xff && memory[at..].starts_with(start)).collect()
}
