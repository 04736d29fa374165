//! Unusual machines, disks and command lines, all of which must run.
//!
//! The matrix varies what qemu.toml offers; this suite covers what other users may have.

use std::{path::Path, process::Command, sync::Arc};

use anyhow::{Context, Result, ensure};

use harness::{
    cmdline::{Base, Cmdline},
    config::{Flag, Gic},
    disk::{self, payload},
    fit_edit::{edited, node, set, shifted},
    invariants::{self, Modes, check},
    kernel_build::Built,
    needs::Need,
    request::{Disk, Request},
    transcript::{self, GenerationLog},
    tree_edit::{edit_tree, reserve},
};
use protocol::fit::{
    Algorithm,
    writer::{self as fit, Kind, Payload},
};

use super::{
    case::{Case, Trial, case},
    debugger::{debugged, leave_entropy_device_on},
    last_look::{last_look, memory},
    plain,
};

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        case("guests/vhe-asked-of-a-cpu-without", |trial| {
            noted(
                trial,
                "nvhe",
                "el2=vhe",
                "this CPU has no VHE (ID_AA64MMFR1_EL1.VH = 0): continuing as nvhe",
            )
        }),
        case("guests/nvhe-asked-at-el1", |trial| {
            noted(trial, "el1", "el2=nvhe", "the image was entered at EL1: continuing as el1")
        }),
        case("guests/plain-line", plain::pass),
        case("guests/psci-off", |trial| runs(trial, "vhe", |request| request.bootargs.clear())),
        case("guests/disk-behind-others", |trial| {
            runs(trial, "nvhe", |request| request.args.extend(others()))
        }),
        case("guests/disk-before-others", |trial| {
            runs(trial, "nvhe", |request| flag(request, &others().join(" ")))
        }),
        case("guests/four-cpus", |trial| runs(trial, "nvhe", |request| request.cpus = Some(4))),
        case("guests/five-gib", |trial| {
            let cmdline = Cmdline { generations: 8, base: Base::Random, ..trial.cmdline() };
            let mut request = trial.request("vhe", &cmdline)?;
            request.memory = Some("5G".to_owned());
            check(&trial.logs(&request)?, &cmdline, Modes::All("vhe"))
        }),
        case("guests/device-left-on", device_left_on),
        case("guests/reservations", reservations),
        case("guests/same-seed-same-run", same_seed),
        case("guests/many-holes", many_holes),
        case("guests/unaligned-data", |trial| {
            let disk = shifted(
                &fit::write(&[payload("kernel", trial.kernel().image.clone(), None)]),
                100,
                &["kernel"],
            )?;
            from_disk(trial, disk).map(drop)
        }),
        case("guests/many-loadables", |trial| {
            let disk = many_loadables(trial.kernel());
            from_disk(trial, disk).map(drop)
        }),
        case("guests/loadables-in-gzip", packed_loadables),
    ];
    for machine in invariants::MODES {
        cases.push(case(format!("guests/gicv2-{machine}"), move |trial| {
            runs(trial, machine, |request| request.gic = Some(Gic::V2))
        }));
    }
    for machine in ["nvhe", "vhe"] {
        cases.push(case(format!("guests/mte-{machine}"), move |trial| {
            runs(trial, machine, |request| {
                request.cpu = Some("max".to_owned());
                other_machine(request, "virt,", "virt,mte=on,");
            })
        }));
    }
    for (name, words) in [
        ("mkimage", ["-E"].as_slice()),
        ("mkimage-aligned", &["-E", "-B", "0x1000"]),
        ("mkimage-data-in-the-tree", &[]),
    ] {
        let boots = move |trial: &mut Trial<'_>| {
            let disk = mkimage(trial.kernel(), &["sha256"], words)?;
            from_disk(trial, disk).map(drop)
        };
        cases.push(case(format!("guests/{name}"), boots).needing([Need::UBootTools]));
    }
    for (algorithm, ..) in Algorithm::ALL {
        let boots = move |trial: &mut Trial<'_>| {
            let disk = mkimage(trial.kernel(), &[&algorithm.to_string()], &["-E"])?;
            let logs = from_disk(trial, disk)?;
            let says = format!("\"kernel-1\" is verified by {algorithm}");
            ensure!(
                logs[0].says(&says) == (algorithm != Algorithm::Sha256),
                "not the right digest is named"
            );
            Ok(())
        };
        let name = format!("guests/mkimage-{algorithm}");
        cases.push(case(name, boots).needing([Need::UBootTools]));
    }
    cases.push(case("guests/mkimage-unverified", unverified).needing([Need::UBootTools]));
    cases
}

/// Runs three generations on an altered machine. If `alter` clears the bootargs, runs only one,
/// which ends by PSCI SYSTEM_OFF.
fn runs(trial: &mut Trial<'_>, machine: &'static str, alter: fn(&mut Request)) -> Result<()> {
    let mut cmdline = trial.cmdline();
    let mut request = trial.request(machine, &cmdline)?;
    alter(&mut request);
    if request.bootargs.is_empty() {
        request.semihosting = false;
        request.bootargs = format!("seed={:#x}", cmdline.seed);
        cmdline.generations = 1;
    }
    check(&trial.logs(&request)?, &cmdline, Modes::All(machine))
}

/// Runs three generations from `disk`.
fn from_disk(trial: &mut Trial<'_>, disk: Vec<u8>) -> Result<Vec<GenerationLog>> {
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    request.disk = Disk::Bytes(Arc::new(disk));
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All("nvhe"))?;
    Ok(logs)
}

fn flag(request: &mut Request, arg: &str) {
    request
        .machine
        .flags
        .push(Flag { arg: arg.to_owned(), why: "the subject of this case".to_owned() });
}

/// Replaces `was` by `is` in the machine's flags.
fn other_machine(request: &mut Request, was: &str, is: &str) {
    request.machine.flags.iter_mut().for_each(|flag| flag.arg = flag.arg.replacen(was, is, 1));
}

/// Returns QEMU arguments for devices that the kernel does not drive. It probes them or passes over
/// them, and reads them back as reset.
fn others() -> Vec<String> {
    let devices = ["virtio-rng-device", "virtio-balloon-device", "virtio-serial-device"];
    devices.iter().flat_map(|device| ["-device", device]).map(str::to_owned).collect()
}

/// Requests a mode that the machine lacks. Every generation must print `note` and run in the mode
/// of its machine.
fn noted(trial: &mut Trial<'_>, machine: &'static str, word: &str, note: &str) -> Result<()> {
    let cmdline = Cmdline { append: vec![word.to_owned()], ..trial.cmdline() };
    let request = trial.request(machine, &cmdline)?;
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All(machine))?;
    let silent = logs.iter().find(|gen_log| !gen_log.says(note));
    ensure!(
        silent.is_none(),
        "generation {:?} does not say \"{note}\"",
        silent.map(|gen_log| gen_log.number)
    );
    Ok(())
}

/// Leaves a device on, as an earlier program may have; the kernel must reset it.
fn device_left_on(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    // A device before the disk on the command line comes after it in the device tree.
    flag(&mut request, "-device virtio-rng-device");
    let outcome = debugged(trial, request, |mut gdb| {
        leave_entropy_device_on(&mut gdb)?;
        gdb.detach()
    })?;
    check(&transcript::logs(&outcome.console)?, &cmdline, Modes::All("nvhe"))
}

/// Punches holes into RAM, which take more page tables than the image has room for.
fn many_holes(trial: &mut Trial<'_>) -> Result<()> {
    const HOLES: u64 = 60;
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    edit_tree(&mut request, |tree| {
        (0..HOLES).try_for_each(|nth| {
            let start = 0x4400_0000 + nth * (4 << 20);
            reserve(tree, &format!("hole-{nth}"), start, 64 << 10, true)
        })
    })?;
    check(&trial.logs(&request)?, &cmdline, Modes::All("nvhe"))
}

/// Reserves memory in three places. Neither a generation nor its control pages may overlap it.
fn reservations(trial: &mut Trial<'_>) -> Result<()> {
    const RESERVED: [(&str, u64, u64, bool); 3] = [
        ("low", 0x4060_0000, 0x400_0000, false),
        ("high", 0x4a12_3000, 0x20_1000, true),
        ("top", 0x4c7f_f000, 0x1000, false),
    ];
    let cmdline = Cmdline { generations: 12, base: Base::Random, ..trial.cmdline() };
    let mut request = trial.request("vhe", &cmdline)?;
    request.memory = Some("200M".to_owned());
    edit_tree(&mut request, |tree| {
        RESERVED
            .into_iter()
            .try_for_each(|(name, start, size, no_map)| reserve(tree, name, start, size, no_map))
    })?;
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All("vhe"))?;
    for GenerationLog { number, base, image, control, .. } in &logs {
        for (name, start, size, _) in RESERVED {
            let free_of = |at: u64, bytes: u64| at + bytes <= start || start + size <= at;
            ensure!(
                free_of(*base, *image),
                "generation {number} at {base:#x} overlaps the reservation \"{name}\""
            );
            ensure!(
                free_of(*control, 1),
                "generation {number}'s control pages at {control:#x} are in \"{name}\""
            );
        }
    }
    Ok(())
}

/// Runs the same parameters twice; both runs must choose the same addresses.
fn same_seed(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { generations: 8, base: Base::Random, ..trial.cmdline() };
    let request = trial.request("nvhe", &cmdline)?;
    let mut places = || -> Result<Vec<_>> {
        Ok(trial
            .logs(&request)?
            .into_iter()
            .map(|gen_log| (gen_log.base, gen_log.control, gen_log.free))
            .collect())
    };
    let (first, second) = (places()?, places()?);
    ensure!(first == second, "the same seed led to {first:x?} and then to {second:x?}");
    Ok(())
}

/// Returns a disk with the most segments allowed: kernel, device tree and fourteen loadables.
fn many_loadables(kernel: &Built) -> Vec<u8> {
    let mut payloads = vec![payload("kernel", kernel.image.clone(), None)];
    payloads.extend((0_u64..14).map(|number| Payload {
        kind: Kind::Loadable { load: 0x4800_0000 + number * 0x1_0000 },
        ..payload(&format!("loadable-{number}"), vec![0xa5; 5000], None)
    }));
    fit::write(&payloads)
}

/// Restarts with two loadables in gzip files, of which one states its size. Both must be unpacked
/// at their load addresses.
fn packed_loadables(trial: &mut Trial<'_>) -> Result<()> {
    const PLACES: [(&str, u64); 2] = [("stated", 0x4800_0000), ("not-stated", 0x4900_0000)];
    let content: Vec<u8> = (0..100_000_u32).map(|at| (at / 7) as u8).collect();
    let cmdline = Cmdline { generations: 2, ..trial.cmdline() };
    let mut request = trial.request_psci("nvhe", &cmdline)?;
    let mut payloads = vec![payload("kernel", trial.kernel().image.clone(), None)];
    payloads.extend(PLACES.map(|(name, load)| Payload {
        kind: Kind::Loadable { load },
        ..payload(name, disk::packed(&content), None)
    }));
    let packed = edited(&fit::write(&payloads), |tree| {
        for (name, _) in PLACES {
            set(node(tree, &format!("/images/{name}"))?, "compression", "gzip")?;
        }
        set(node(tree, "/images/stated")?, "uncomp-size", content.len() as u32)
    })?;
    request.disk = Disk::Bytes(Arc::new(packed));
    let (logs, found) = last_look(trial, request, |qmp| {
        PLACES
            .into_iter()
            .map(|(_, load)| memory(qmp, load, content.len() as u64))
            .collect::<Result<Vec<_>>>()
    })?;
    check(&logs, &cmdline, Modes::All("nvhe"))?;
    for ((name, load), found) in PLACES.into_iter().zip(found) {
        ensure!(found == content, "{name} at {load:#x} is not what was packed");
    }
    Ok(())
}

/// Runs from a FIT without a digest, as `unverified` permits. Each restart must say so.
fn unverified(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { append: vec!["unverified".to_owned()], ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    request.disk = Disk::Bytes(Arc::new(mkimage(trial.kernel(), &[], &["-E"])?));
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All("nvhe"))?;
    let [restarted @ .., _] = logs.as_slice() else { anyhow::bail!("no generation") };
    let says = "unverified: \"kernel-1\" has no digest";
    let silent = restarted.iter().find(|gen_log| !gen_log.says(says));
    ensure!(silent.is_none(), "generation {:?} is silent", silent.map(|gen_log| gen_log.number));
    Ok(())
}

/// Returns a FIT made by U-Boot's own `mkimage`, with digests by these algorithms.
fn mkimage(kernel: &Built, algorithms: &[&str], words: &[&str]) -> Result<Vec<u8>> {
    let hashes: String = (1..)
        .zip(algorithms)
        .map(|(number, algorithm)| format!("hash-{number} {{ algo = \"{algorithm}\"; }};"))
        .collect();
    let source = format!(
        r#"/dts-v1/;
/ {{
    description = "made by mkimage";
    #address-cells = <1>;
    images {{
        kernel-1 {{
            data = /incbin/("Image");
            type = "kernel_noload"; arch = "arm64"; os = "linux";
            compression = "none"; load = <0>; entry = <0>;
            {hashes}
        }};
    }};
    configurations {{ default = "first"; first {{ kernel = "kernel-1"; }}; }};
}};
"#
    );
    let folder = tempfile::tempdir().context("cannot make a folder for mkimage")?;
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
    write("Image", &kernel.image)?;
    write("its", source.as_bytes())?;
    let mut command = Command::new("mkimage");
    let output =
        command.current_dir(folder.path()).args(["-f", "its"]).args(words).arg("itb").output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let mut disk = std::fs::read(Path::new(folder.path()).join("itb"))?;
    disk.resize(disk.len().next_multiple_of(fit::SECTOR), 0);
    Ok(disk)
}
