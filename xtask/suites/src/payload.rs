//! Tests of `payload=`, with this kernel as the payload.
//!
//! This kernel checks what it receives, and needs no download. `cargo xtask interop` does the
//! same with other kernels. The payload starts as after any other loader: its first generation is
//! number 0, and its parameters come from the FIT configuration.

use std::{ops::Range, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use boot::marker;

use harness::{
    checksums::Checksum,
    cmdline::{Base, Cmdline, Restart},
    debugger::LOADED,
    disk::{self, FOREIGN, Foreign, LOAD},
    fit_edit::{edited, node, set},
    invariants::{Modes, check},
    request::{Disk, Request},
    transcript::{GenerationLog, logs, parted},
    tree_edit::{child, dumped, reserve},
    verdict::Verdict,
};
use protocol::fit::writer::{self as fit, Kind};

use super::{
    case::{Case, Trial, case},
    debugger::debugged,
};

/// Size of the initrd: a whole number of pages, and one byte.
const RAMDISK: usize = (3 << 20) + 1;

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (machine, restart) in
        [("el1", Restart::Hot), ("nvhe", Restart::Cold), ("vhe", Restart::Hot)]
    {
        for base in [Base::Same, Base::Random, Base::Load] {
            cases.push(case(format!("payload/{machine}-{base}"), move |trial| {
                let cmdline = Cmdline { base, restart, ..trial.cmdline() };
                let (request, cmdline) = request(trial, machine, cmdline)?;
                ourselves(trial, &request, machine, &cmdline)
            }));
        }
    }
    for (name, is_stated) in [("gzip", true), ("gzip-of-unknown-size", false)] {
        cases.push(case(format!("payload/{name}"), move |trial| packed(trial, is_stated)));
    }
    cases.push(case("payload/large-ramdisk", large_ramdisk));
    cases.push(case("payload/own-tree", own_tree));
    cases.push(case("payload/tree-without-ram", tree_without_ram));
    cases.push(case("payload/psci-0.1", psci_0_1));
    cases.push(case("payload/tree-in-gzip", tree_in_gzip));
    cases.push(case("payload/make-image-fit", make_image_fit));
    cases.push(case("payload/damaged-kernel-while-it-moves", |trial| {
        damaged(trial, LOADED, None, |sources| sources.first())
    }));
    cases.push(case("payload/damaged-ramdisk-while-it-moves", |trial| {
        damaged(trial, LOAD, Some(LOADED), |sources| sources.last())
    }));
    for (name, cpu, says) in [
        ("rndr", "max", "RNDR gives kaslr-seed and rng-seed"),
        ("no-seeds", "cortex-a72", "no entropy device and no RNDR: no kaslr-seed and rng-seed"),
    ] {
        cases.push(case(format!("payload/{name}"), move |trial| {
            without_entropy_device(trial, cpu, says)
        }));
    }
    cases
}

/// Returns a request whose last generation starts this same kernel as the payload, with parameters
/// for two more generations.
fn request(
    trial: &Trial<'_>,
    machine: &'static str,
    mut cmdline: Cmdline,
) -> Result<(Request, Cmdline)> {
    cmdline.append.push(format!("payload={FOREIGN}"));
    let mut request = trial.request_psci(machine, &cmdline)?;
    let foreign = ourselves_as_payload(trial, &request);
    request.disk =
        Disk::Bytes(Arc::new(disk::with(trial.kernel(), cmdline.base == Base::Load, foreign)));
    Ok((request, cmdline))
}

fn ourselves_as_payload(trial: &Trial<'_>, request: &Request) -> Foreign {
    let bootargs =
        format!("{} generations=2 seed=0x77", request.machine.bootargs).trim().to_owned();
    let image = trial.kernel().image.clone();
    Foreign { image, initrd: Some(vec![0xa5; RAMDISK]), fdt: None, bootargs: Some(bootargs) }
}

/// Flips a bit of a source page after the kernel's last check. The control page must report it,
/// since it verifies what it has moved: the payload that is sent to the running kernel's place.
fn damaged(
    trial: &mut Trial<'_>,
    load: u64,
    initrd_load: Option<u64>,
    choose: impl Fn(&[Range<u64>]) -> Option<&Range<u64>> + Send + Sync,
) -> Result<()> {
    // Less than the running kernel, so that no frame of it is free.
    const INITRD: usize = 512 << 10;
    let cmdline = Cmdline { generations: 1, base: Base::Load, ..trial.cmdline() };
    let (mut request, _) = request(trial, "el1", cmdline)?;
    let foreign =
        Foreign { initrd: Some(vec![0xa5; INITRD]), ..ourselves_as_payload(trial, &request) };
    let mut payloads = disk::both(trial.kernel(), true, foreign);
    for payload in &mut payloads {
        match &mut payload.kind {
            Kind::KernelNoload { load: place } => *place = Some(load),
            Kind::Initrd { load: place } => *place = initrd_load,
            _ => {}
        }
    }
    request.disk = Disk::Bytes(fit::write(&payloads).into());
    let checksum = Checksum::of(trial.kernel())?;
    let outcome = debugged(trial, request, |mut gdb| {
        let looked = checksum.first_look(&mut gdb)?;
        gdb.run_to(looked.code().start)?;
        let (sources, _) = looked.place(0);
        let at = choose(&sources).context("no source")?.start;
        let byte = gdb.memory(at, 1)?[0];
        gdb.write(at, &[byte ^ 1])?;
        gdb.detach()
    })?;
    ensure!(outcome.verdict == Verdict::Stopped, "the end is \"{}\"", outcome.verdict.words());
    ensure!(
        outcome.console.contains(marker::MISMATCH),
        "the control page does not report the damage"
    );
    Ok(())
}

/// Runs the request, checks all generations, and returns those before the payload and those of the
/// payload.
fn both(
    trial: &mut Trial<'_>,
    request: &Request,
    modes: Modes,
    first: &Cmdline,
    then: &Cmdline,
) -> Result<[Vec<GenerationLog>; 2]> {
    let console = trial.ends(request, Verdict::Success)?.console.clone();
    let (ours, payload) = parted(&console, first.generations)?;
    let (before, after) = (logs(ours)?, logs(payload)?);
    check(&before, first, modes).context("before the payload")?;
    check(&after, then, modes).context("the payload")?;
    Ok([before, after])
}

fn ourselves(
    trial: &mut Trial<'_>,
    request: &Request,
    machine: &'static str,
    cmdline: &Cmdline,
) -> Result<()> {
    let then = Cmdline { generations: 2, seed: 0x77, append: Vec::new(), ..Cmdline::default() };
    let [before, after] = both(trial, request, Modes::All(machine), cmdline, &then)?;
    let (last, first) = (before.last().context("no generation")?, &after[0]);
    let bye = last.bye.as_ref().context("no Bye!")?;
    ensure!(
        first.base == bye.entry,
        "the payload was sent to {:#x}, and is at {:#x}",
        bye.entry,
        first.base
    );
    ensure!(
        first.breadcrumbs()[0] == "first instruction",
        "the payload received breadcrumbs: {:?}",
        first.breadcrumbs()
    );
    match cmdline.base {
        Base::Same => ensure!(
            first.base == 0x4000_0000,
            "the payload is at {:#x}, not at the lowest free address",
            first.base
        ),
        Base::Load => ensure!(
            first.base == disk::LOAD,
            "the payload is at {:#x}, not at its load address in the FIT",
            first.base
        ),
        Base::Random => {}
    }
    // The initrd is reserved. (The number of page tables depends on the kernel's address.)
    let missing = before[0].free - first.free;
    ensure!(
        missing.abs_diff(RAMDISK as u64) < 64 << 10,
        "{missing} bytes are reserved, for an initrd of {RAMDISK}"
    );
    ensure!(last.says("gives kaslr-seed and rng-seed"), "no generation supplies seeds");
    Ok(())
}

/// Runs a gzip-compressed payload. The FIT states its uncompressed size only if `is_stated`.
fn packed(trial: &mut Trial<'_>, is_stated: bool) -> Result<()> {
    let (mut request, cmdline) = request(trial, "nvhe", trial.cmdline())?;
    let foreign = ourselves_as_payload(trial, &request);
    let foreign = Foreign { image: disk::packed(&foreign.image), ..foreign };
    let mut bytes = disk::with(trial.kernel(), false, foreign);
    if !is_stated {
        bytes = edited(&bytes, |tree| {
            node(tree, "/images/payload")?.remove_property("uncomp-size");
            Ok(())
        })?;
    }
    request.disk = Disk::Bytes(Arc::new(bytes));
    ourselves(trial, &request, "nvhe", &cmdline)
}

/// Loads an initrd of 512 MiB on 2 GiB of RAM. The kernel must hold at most 0.5 % more memory than
/// the segments need, and read them directly to their destinations.
fn large_ramdisk(trial: &mut Trial<'_>) -> Result<()> {
    const LARGE: usize = 512 << 20;
    let (mut request, cmdline) =
        request(trial, "nvhe", Cmdline { generations: 1, ..trial.cmdline() })?;
    let foreign =
        Foreign { initrd: Some(vec![0xa5; LARGE]), ..ourselves_as_payload(trial, &request) };
    request.disk = Disk::Bytes(Arc::new(disk::with(trial.kernel(), false, foreign)));
    (request.memory, request.timeout) = (Some("2G".to_owned()), Duration::from_secs(300));
    let then = Cmdline { generations: 2, seed: 0x77, append: Vec::new(), ..Cmdline::default() };
    let [before, after] = both(trial, &request, Modes::All("nvhe"), &cmdline, &then)?;
    let missing = before[0].free - after[0].free;
    ensure!(
        missing.abs_diff(LARGE as u64) < 64 << 10,
        "{missing} bytes are reserved, for an initrd of {LARGE}"
    );

    let line = before[0]
        .lines
        .iter()
        .find_map(|line| line.split_once(" holds "))
        .context("no line about the memory held")?;
    let numbers: Vec<u64> = line.1.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [held, segments, in_place] = numbers[..] else {
        anyhow::bail!("{numbers:?} are not three numbers")
    };
    ensure!(segments > LARGE as u64, "segments of {segments} bytes");
    ensure!(
        held >= segments && (held - segments) * 200 <= segments,
        "{held} bytes are held for {segments}"
    );
    ensure!(segments == in_place, "{in_place} of {segments} bytes are in place");
    Ok(())
}

/// Gives the payload its own device tree, which must arrive with the initrd in it. The tree
/// reserves both ends of RAM, where the kernel and the initrd would be placed otherwise.
fn own_tree(trial: &mut Trial<'_>) -> Result<()> {
    const LOW: Range<u64> = 0x4000_0000..0x4020_0000;
    const HIGH: Range<u64> = 0x5f00_0000..0x6000_0000;
    let (mut request, cmdline) = request(trial, "vhe", trial.cmdline())?;
    let mut tree = dumped(&request)?;
    reserve(&mut tree, "low", LOW.start, LOW.end - LOW.start, false)?;
    reserve(&mut tree, "high", HIGH.start, HIGH.end - HIGH.start, false)?;
    let foreign = Foreign { fdt: Some(tree.to_dtb()), ..ourselves_as_payload(trial, &request) };
    request.disk = Disk::Bytes(Arc::new(disk::with(trial.kernel(), false, foreign)));
    let then = Cmdline { generations: 2, seed: 0x77, append: Vec::new(), ..Cmdline::default() };
    let [before, after] = both(trial, &request, Modes::All("vhe"), &cmdline, &then)?;
    ensure!(
        !LOW.contains(&after[0].base),
        "the payload is at {:#x}, which its device tree reserves",
        after[0].base
    );
    // If the initrd were in a reserved range, the difference would be smaller.
    let (missing, due) = (
        before[0].free - after[0].free,
        RAMDISK as u64 + LOW.end - LOW.start + HIGH.end - HIGH.start,
    );
    ensure!(missing.abs_diff(due) < 64 << 10, "{missing} bytes are reserved, and should be {due}");
    Ok(())
}

/// Gives the payload its own device tree in a gzip file, as Linux's `make image.fit` does.
fn tree_in_gzip(trial: &mut Trial<'_>) -> Result<()> {
    let (mut request, cmdline) = request(trial, "el1", trial.cmdline())?;
    let mut tree = dumped(&request)?;
    tree.root.add_child(child("only-in-this-tree")?);
    let packed = disk::packed(&tree.to_dtb());
    let foreign = Foreign { fdt: Some(packed), ..ourselves_as_payload(trial, &request) };
    request.disk = Disk::Bytes(Arc::new(disk::with(trial.kernel(), false, foreign)));
    ourselves(trial, &request, "el1", &cmdline)
}

/// Starts a payload from a FIT in the shape of Linux's `make image.fit`: kernel and device tree are
/// gzip files, no image has a digest or a stated size, and no configuration is the default.
fn make_image_fit(trial: &mut Trial<'_>) -> Result<()> {
    let append = vec!["unverified".to_owned()];
    let cmdline = Cmdline { generations: 1, append, ..trial.cmdline() };
    let (mut request, _) = request(trial, "nvhe", cmdline)?;
    let tree = dumped(&request)?.to_dtb();
    let foreign = ourselves_as_payload(trial, &request);
    let image = disk::packed(&foreign.image);
    let foreign = Foreign { image, fdt: Some(disk::packed(&tree)), initrd: None, ..foreign };
    let bytes = edited(&disk::with(trial.kernel(), false, foreign), |tree| {
        node(tree, "/configurations")?.remove_property("default");
        for image in ["payload", "fdt"] {
            let image = node(tree, &format!("/images/{image}"))?;
            image.remove_child("hash-1").context("no digest")?;
            image.remove_property("uncomp-size");
        }
        Ok(())
    })?;
    request.disk = Disk::Bytes(Arc::new(bytes));
    // The payload restarts from a FIT without a default, so it must not restart.
    let console = trial.run(&request)?.console.clone();
    let (before, after) = parted(&console, 1)?;
    let (before, after) = (logs(before)?, logs(after)?);
    for name in ["payload", "fdt"] {
        let says = format!("unverified: \"{name}\" has no digest");
        ensure!(before[0].says(&says), "generation 0 does not print \"{says}\"");
    }
    ensure!(
        after[0].refused.iter().any(|why| why.contains("\"default\"")),
        "{:?}",
        after[0].refused
    );
    Ok(())
}

/// Gives the payload a device tree with PSCI 0.1, on three CPUs. PSCI 0.1 has no AFFINITY_INFO, so
/// the payload must start no CPU that it could not stop. QEMU would replace this node in a tree
/// that it boots with.
fn psci_0_1(trial: &mut Trial<'_>) -> Result<()> {
    let (mut request, cmdline) = request(trial, "nvhe", trial.cmdline())?;
    request.cpus = Some(3);
    let mut tree = dumped(&request)?;
    set(node(&mut tree, "/psci")?, "compatible", b"arm,psci\0".to_vec())?;
    let mut foreign = ourselves_as_payload(trial, &request);
    foreign.fdt = Some(tree.to_dtb());
    // PSCI 0.1 has no SYSTEM_OFF either.
    foreign.bootargs.as_mut().context("no bootargs")?.push_str(" semihosting");
    request.semihosting = true;
    request.disk = Disk::Bytes(Arc::new(disk::with(trial.kernel(), false, foreign)));
    let outcome = trial.ends(&request, Verdict::Success)?;
    let (before, after) = parted(&outcome.console, cmdline.generations)?;
    let (before, after) = (logs(before)?, logs(after)?);
    let why = "was not started: PSCI 0.1 cannot say whether a CPU is off";
    ensure!(before.iter().all(|gen_log| gen_log.cpus == (3, 3)), "not 3 of 3 up before");
    ensure!(
        after.len() == 2 && after.iter().all(|gen_log| gen_log.cpus == (1, 3) && gen_log.says(why)),
        "a generation started another CPU, or does not say why not"
    );
    Ok(())
}

/// Gives the payload a device tree of its own without RAM, as boards' sources have it. It must get
/// this machine's.
fn tree_without_ram(trial: &mut Trial<'_>) -> Result<()> {
    let (mut request, cmdline) = request(trial, "vhe", trial.cmdline())?;
    let mut tree = dumped(&request)?;
    tree.root.remove_child("memory@40000000").context("QEMU's tree has no memory node")?;
    let foreign = Foreign { fdt: Some(tree.to_dtb()), ..ourselves_as_payload(trial, &request) };
    request.disk = Disk::Bytes(Arc::new(disk::with(trial.kernel(), false, foreign)));
    let then = Cmdline { generations: 2, seed: 0x77, append: Vec::new(), ..Cmdline::default() };
    let [before, _] = both(trial, &request, Modes::All("vhe"), &cmdline, &then)?;
    let says = |last: &GenerationLog| last.says("\"fdt\" names no RAM, and gets that of");
    ensure!(before.last().is_some_and(says), "the kernel does not say that it fills RAM in");
    Ok(())
}

/// Checks that without an entropy device the kernel takes seeds from RNDR, if the CPU has it.
fn without_entropy_device(trial: &mut Trial<'_>, cpu: &str, says: &str) -> Result<()> {
    let (mut request, cmdline) = request(trial, "el1", trial.cmdline())?;
    request.cpu = Some(cpu.to_owned());
    Arc::make_mut(&mut request.config).virtio.modern.retain(|flag| !flag.arg.contains("rng"));
    let then = Cmdline { generations: 2, seed: 0x77, append: Vec::new(), ..Cmdline::default() };
    let [before, _] = both(trial, &request, Modes::All("el1"), &cmdline, &then)?;
    ensure!(before.last().is_some_and(|last| last.says(says)), "no line says \"{says}\"");
    Ok(())
}
