//! Tests with other loaders: UEFI, U-Boot and Linux's kexec enter the same Image.
//!
//! - Each loader starts three generations in each mode. A loader that cannot be had is skipped.
//! - The entry record must show the CPU state that docs/boot-protocols.md lists for each loader.
//! - UEFI's boot managers (GRUB, systemd-boot, systemd-stub) and U-Boot's search for a bootable
//!   file start it from a FAT volume.
//! - UEFI alone: memory that the firmware keeps, firmware without a device tree, and a failing
//!   ExitBootServices.

use std::{mem::offset_of, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use boot::{
    image::BASE_ALIGNMENT,
    record::EntryRecord,
    sysreg::{current_el, sctlr, spsr},
};

use harness::{
    cmdline::{Base, Cmdline, Restart},
    firmware::U_BOOT,
    invariants::{Modes, check, without_leftovers},
    loader::{self, Loader},
    needs::Need,
    packages::{self, Packages},
    patch::Patched,
    request::Request,
    serial_input::Answer,
    transcript::logs,
    verdict::Verdict,
};

use super::{
    case::{Case, Trial, case},
    last_look::{last_look, memory},
    matrix::{MODES, words_for},
    memory::{program_counter, same},
};

/// The SError mask bit of DAIF.
const A: u64 = 1 << 8;

/// Number of generations.
const GENERATIONS: u32 = 3;

/// RAM of these machines in bytes.
const MEMORY: u64 = 512 << 20;

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for loader in Loader::OTHERS {
        for (mode, machine, modes) in MODES {
            if loader == Loader::UefiLinuxKexec && mode != "nvhe" {
                continue;
            }
            let name = format!("loaders/{}-{mode}", loader.name());
            let enters = move |trial: &mut Trial<'_>| enters(trial, loader, machine, modes);
            cases.push(case(name, enters).needing(loader.needs()));
        }
    }
    for loader in [Loader::Qemu].into_iter().chain(Loader::OTHERS) {
        for (machine, level) in [("el1", current_el::EL1), ("nvhe", current_el::EL2)] {
            if loader == Loader::UefiLinuxKexec && machine == "el1" {
                continue;
            }
            let name = format!("loaders/{}-leaves-{machine}", loader.name());
            let leaves = move |trial: &mut Trial<'_>| leaves(trial, loader, machine, level);
            cases.push(case(name, leaves).needing(loader.needs()));
        }
    }
    let mut add = |name: &str, loader: Loader, check: fn(&mut Trial<'_>) -> Result<()>| {
        cases.push(case(format!("loaders/{name}"), check).needing(loader.needs()));
    };
    add("linux-kexec-leaves-vhe", Loader::LinuxKexec, |trial| {
        leaves(trial, Loader::LinuxKexec, "vhe", current_el::EL2)
    });
    add("linux-kexec-vhe-to-nvhe", Loader::LinuxKexec, vhe_to_nvhe);
    add("linux-kexec-with-frames", Loader::LinuxKexec, with_frames);
    add("uefi-four-cpus-anywhere", Loader::Uefi, four_cpus);
    add("uefi-keeps-its-own", Loader::Uefi, keeps_its_own);
    add("uefi-without-a-device-tree", Loader::Uefi, without_a_tree);
    add("uefi-keeps-boot-services", Loader::Uefi, keeps_boot_services);
    for (name, files) in [
        ("grub", grub as fn(&mut Request) -> Result<()>),
        ("systemd-boot", systemd_boot),
        ("systemd-stub", systemd_stub),
    ] {
        let starts = move |trial: &mut Trial<'_>| by_manager(trial, files);
        let case = case(format!("loaders/{name}"), starts);
        cases.push(case.needing([Need::Edk2, Need::Packages(Packages::BootManagers)]));
    }
    cases.push(case("loaders/u-boot-bootflow", bootflow).needing([Need::UBoot]));
    cases
}

/// The file that UEFI firmware starts from a volume that it does not know.
const REMOVABLE: &str = "EFI/BOOT/BOOTAA64.EFI";

/// The Image as the boot managers' files name it.
const IMAGE: &str = "Image.efi";

/// Lets EDK2 start a boot manager from the FAT volume, and that this kernel.
fn by_manager(trial: &mut Trial<'_>, files: fn(&mut Request) -> Result<()>) -> Result<()> {
    let cmdline = Cmdline { generations: GENERATIONS, base: Base::Random, ..trial.cmdline() };
    let mut request = started(trial, Loader::UefiShell, "vhe", &cmdline)?;
    files(&mut request)?;
    let logs = trial.logs(&request)?;
    // If the manager fails, the firmware starts its shell, and that would start the Image.
    let console = trial.last().map_or("", |outcome| &outcome.console);
    ensure!(!console.contains("UEFI Interactive Shell"), "the firmware's shell started");
    check(&logs, &cmdline, Modes::All("vhe"))
}

fn grub(request: &mut Request) -> Result<()> {
    let config = format!("linux /{IMAGE} {}\nboot\n", request.bootargs);
    request.volume = vec![
        (REMOVABLE.to_owned(), Packages::BootManagers.read(packages::GRUB)?),
        ("EFI/debian/grub.cfg".to_owned(), config.into_bytes()),
    ];
    Ok(())
}

fn systemd_boot(request: &mut Request) -> Result<()> {
    let entry = format!("title Ouroboros\nefi /{IMAGE}\noptions {}\n", request.bootargs);
    request.volume = vec![
        (REMOVABLE.to_owned(), Packages::BootManagers.read(packages::SYSTEMD_BOOT)?),
        ("loader/loader.conf".to_owned(), b"timeout 0\ndefault ouroboros.conf\n".to_vec()),
        ("loader/entries/ouroboros.conf".to_owned(), entry.into_bytes()),
    ];
    Ok(())
}

/// Makes a unified kernel image of systemd's stub, the bootargs and the Image.
fn systemd_stub(request: &mut Request) -> Result<()> {
    let image = request.kernel.image.clone();
    let stub = Packages::BootManagers.read(packages::SYSTEMD_STUB)?;
    let bytes = with_sections(
        stub,
        &[
            (b".osrel\0\0", b"ID=ouroboros\n"),
            (b".cmdline", request.bootargs.as_bytes()),
            (b".linux\0\0", &image),
        ],
    )?;
    request.volume = vec![(REMOVABLE.to_owned(), bytes)];
    Ok(())
}

/// Offset in a file of the position of its PE header.
const PE_OFFSET: usize = 0x3c;
/// Offsets in a PE header of the number of sections, of the optional header's size, and of fields
/// of that header.
const SECTIONS: usize = 6;
const OPTIONAL_SIZE: usize = 20;
const OPTIONAL: usize = 24;
const SECTION_ALIGNMENT: usize = OPTIONAL + 32;
const SIZE_OF_IMAGE: usize = OPTIONAL + 56;
/// The size of a section's header.
const SECTION_BYTES: usize = 40;
/// The alignment of a section in the file.
const FILE_ALIGNMENT: usize = 0x200;

/// Adds sections to a PE/COFF file, as objcopy does for a unified kernel image.
fn with_sections(mut file: Vec<u8>, sections: &[(&[u8; 8], &[u8])]) -> Result<Vec<u8>> {
    let word = |file: &[u8], at: usize| -> Result<usize> {
        let bytes = file.get(at..at + 4).context("the file is too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let half = |file: &[u8], at: usize| Ok::<_, anyhow::Error>(word(file, at)? & 0xffff);
    let pe = word(&file, PE_OFFSET)?;
    let alignment = word(&file, pe + SECTION_ALIGNMENT)?;
    let table = pe + OPTIONAL + half(&file, pe + OPTIONAL_SIZE)?;
    for (name, data) in sections {
        let count = half(&file, pe + SECTIONS)?;
        let address = word(&file, pe + SIZE_OF_IMAGE)?.next_multiple_of(alignment);
        file.resize(file.len().next_multiple_of(FILE_ALIGNMENT), 0);
        let position = file.len();
        file.extend_from_slice(data);
        file.resize(file.len().next_multiple_of(FILE_ALIGNMENT), 0);
        // Initialised data that can be read.
        let flags = 0x4000_0040;
        let stored = file.len() - position;
        let mut header = name.to_vec();
        for field in [data.len(), address, stored, position, 0, 0, 0, flags] {
            header.extend(u32::try_from(field)?.to_le_bytes());
        }
        let at = table + SECTION_BYTES * count;
        file[at..at + SECTION_BYTES].copy_from_slice(&header);
        file[pe + SECTIONS] = u8::try_from(count + 1)?;
        let end = u32::try_from((address + data.len()).next_multiple_of(alignment))?;
        file[pe + SIZE_OF_IMAGE..][..4].copy_from_slice(&end.to_le_bytes());
    }
    Ok(file)
}

/// Lets U-Boot search an NVMe drive for something to boot; it finds the Image under the name that
/// UEFI firmware looks for. U-Boot takes the bootargs from fw_cfg.
fn bootflow(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { generations: GENERATIONS, base: Base::Random, ..trial.cmdline() };
    let mut request = started(trial, Loader::Qemu, "nvhe", &cmdline)?;
    request.volume = vec![(REMOVABLE.to_owned(), request.kernel.image.clone())];
    let firmware = U_BOOT.found().context("U-Boot is not installed")?;
    request.args.extend(["-bios".to_owned(), firmware.display().to_string()]);
    request.args.extend(loader::volume(Path::new("{folder}/Image")));
    request.answer = Some(Answer {
        prompt: "Hit any key to stop autoboot",
        typed: "\nqfw load $kernel_addr_r $ramdisk_addr_r\nrun bootcmd_nvme0\n",
    });
    let logs = trial.logs(&request)?;
    let console = trial.last().map_or("", |outcome| &outcome.console);
    let found = console.to_lowercase().contains("found efi removable media binary");
    ensure!(found, "U-Boot does not find the Image");
    check(&logs, &cmdline, Modes::All("nvhe"))
}

/// Returns a request that `loader` starts.
fn started(trial: &Trial<'_>, loader: Loader, machine: &str, cmdline: &Cmdline) -> Result<Request> {
    let mut request = trial.request(machine, cmdline)?;
    request.loader = loader;
    Ok(request)
}

fn enters(trial: &mut Trial<'_>, loader: Loader, machine: &str, modes: Modes) -> Result<()> {
    let cmdline = Cmdline { generations: GENERATIONS, append: words_for(modes), ..trial.cmdline() };
    let request = started(trial, loader, machine, &cmdline)?;
    let mut logs = trial.logs(&request)?;
    without_leftovers(&mut logs, loader)?;
    let is_map_read = logs[0].says("UEFI's memory map at ");
    ensure!(
        is_map_read == (loader == Loader::UefiLinuxKexec),
        "generation 0 must read UEFI's memory map after Linux's kexec under UEFI, and only then"
    );
    check(&logs, &cmdline, modes)
}

/// Checks the CPU state at the first instruction. The Image in memory must equal the one on the
/// disk, relocated once for its address.
fn leaves(trial: &mut Trial<'_>, loader: Loader, machine: &str, level: u64) -> Result<()> {
    let kernel = trial.kernel();
    let cmdline = Cmdline { generations: 1, ..trial.cmdline() };
    let mut request = started(trial, loader, machine, &cmdline)?;
    request.semihosting = false;
    request.bootargs = cmdline.bootargs(&request.machine.bootargs, false);
    let (image_end, rodata_end) = (kernel.symbol("_image_end")?, kernel.symbol("rodata_end")?);
    let record = usize::try_from(kernel.symbol("entry_record")?)?;
    let (_, (base, found)) = last_look(trial, request, |qmp| {
        let base = program_counter(qmp)? & !(BASE_ALIGNMENT - 1);
        Ok((base, memory(qmp, base, image_end)?))
    })?;
    same(kernel, &found, base, 0..rodata_end)?;

    let field =
        |at: usize| u64::from_le_bytes(found[record + at..][..8].try_into().expect("eight bytes"));
    // U-Boot handles SErrors and leaves them unmasked.
    let u_boot = matches!(loader, Loader::UBootBooti | Loader::UBootBootm);
    let daif = spsr::DAIF & if u_boot { !A } else { !0 };
    let expected = [
        ("x0 modulo 8", field(offset_of!(EntryRecord, x0)) % 8, 0),
        ("x1", field(offset_of!(EntryRecord, x1)), 0),
        ("x2", field(offset_of!(EntryRecord, x2)), 0),
        ("x3", field(offset_of!(EntryRecord, x3)), 0),
        ("its load address", field(offset_of!(EntryRecord, load_address)), base),
        ("CurrentEL", field(offset_of!(EntryRecord, current_el)), level),
        ("DAIF", field(offset_of!(EntryRecord, daif)), daif),
        ("SPSel", field(offset_of!(EntryRecord, sp_sel)), 1),
        ("M and C of SCTLR_ELx", field(offset_of!(EntryRecord, sctlr)) & (sctlr::M | sctlr::C), 0),
        ("CNTVOFF_EL2", field(offset_of!(EntryRecord, cntvoff_el2)), 0),
    ];
    for (what, found, expected) in expected {
        ensure!(
            found == expected,
            "the Image was entered with {what} = {found:#x}, and should be with {expected:#x}"
        );
    }
    Ok(())
}

/// Runs Linux's kexec while network frames arrive. The checker reads the devices before this kernel
/// resets them; they must be in reset already.
fn with_frames(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline =
        Cmdline { generations: GENERATIONS, append: vec!["check".to_owned()], ..trial.cmdline() };
    let mut request = started(trial, Loader::LinuxKexec, "nvhe", &cmdline)?;
    request.network = true;
    let outcome = trial.ends(&request, Verdict::Success)?;
    // The columns are bytes, then frames.
    let device = outcome
        .console
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"))
        .unwrap_or_default();
    let frames: u64 =
        device.split_whitespace().nth(1).and_then(|frames| frames.parse().ok()).unwrap_or_default();
    ensure!(frames > 0, "Linux took no frames");
    let mut logs = logs(&outcome.console)?;
    let rule = |line: &&String| line.contains(" no device can write to memory: ");
    let found = logs[0].lines.iter().find(rule).map_or("nothing of the rule", |line| line.trim());
    ensure!(found.contains(" kept "), "generation 0 found: {found}");
    without_leftovers(&mut logs, Loader::LinuxKexec)?;
    check(&logs, &cmdline, Modes::All("nvhe"))
}

/// Starts this kernel in nvhe from a VHE Linux. Linux ticks by EL2's physical timer. A kernel at
/// EL1 cannot turn that timer off, so the entry code must.
fn vhe_to_nvhe(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline {
        generations: GENERATIONS,
        append: vec!["el2=nvhe".to_owned()],
        ..trial.cmdline()
    };
    let mut request = started(trial, Loader::LinuxKexec, "vhe", &cmdline)?;
    request.cpus = Some(4);
    let mut logs = trial.logs(&request)?;
    without_leftovers(&mut logs, Loader::LinuxKexec)?;
    check(&logs, &cmdline, Modes::All("nvhe"))
}

fn four_cpus(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline =
        Cmdline { generations: 6, base: Base::Random, restart: Restart::Cold, ..trial.cmdline() };
    let mut request = started(trial, Loader::Uefi, "vhe", &cmdline)?;
    (request.cpu, request.cpus) = (Some("max".to_owned()), Some(4));
    let logs = trial.logs(&request)?;
    ensure!(logs.iter().all(|gen_log| gen_log.cpus == (4, 4)), "not all CPUs are up");
    check(&logs, &cmdline, Modes::All("vhe"))
}

/// Checks that EDK2's runtime services keep between 1 MiB and an eighth of RAM: this kernel has
/// that much less than with QEMU's loader.
fn keeps_its_own(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { generations: 2, ..trial.cmdline() };
    let request = started(trial, Loader::Uefi, "nvhe", &cmdline)?;
    let free = |logs: &[harness::transcript::GenerationLog]| {
        logs.iter().map(|gen_log| gen_log.free).collect::<Vec<_>>()
    };
    let uefi = free(&trial.logs(&request)?);
    let qemu = free(&trial.logs(&Request { loader: Loader::Qemu, ..request })?);
    for (uefi, qemu) in uefi.iter().zip(&qemu) {
        let kept = qemu.saturating_sub(*uefi);
        ensure!(
            (1 << 20..MEMORY / 8).contains(&kept),
            "{uefi} bytes free, and {qemu} where QEMU is the loader"
        );
    }
    Ok(())
}

/// Runs EDK2 with ACPI tables, where it has no device tree. The stub must report that and return to
/// the firmware.
fn without_a_tree(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { generations: 2, ..trial.cmdline() };
    let mut request = started(trial, Loader::Uefi, "nvhe", &cmdline)?;
    request.args = ["-machine", "acpi=on"].map(str::to_owned).into();
    (request.timeout, request.silence) = (Duration::from_secs(60), Some(Duration::from_secs(12)));
    let outcome = trial.ends(&request, Verdict::TimedOut)?;
    let said = outcome.console.find("EFI stub: Refused: the firmware has no device tree");
    let on = outcome.console.find("BdsDxe: failed to load");
    ensure!(
        said.is_some() && said < on,
        "the stub does not report it, or the firmware does not continue after that"
    );
    ensure!(!outcome.console.contains("Generation "), "a generation started");
    Ok(())
}

/// Makes ExitBootServices fail. No firmware service may be called after that, so the stub must
/// power the machine off without a message.
fn keeps_boot_services(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { generations: 2, ..trial.cmdline() };
    let mut request = started(trial, Loader::Uefi, "nvhe", &cmdline)?;
    // 1 is Err, with an arbitrary status.
    let patched =
        Patched::new(trial.kernel()).answer("efi::stub::Firmware::exit_boot_services", 1)?;
    request.image = Some(patched.image);
    let outcome = trial.ends(&request, Verdict::Failed(0))?;
    let last = outcome.console.lines().last().unwrap_or_default();
    ensure!(last.contains("EFI stub: loaded at"), "the last line is \"{last}\"");
    Ok(())
}
