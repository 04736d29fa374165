//! Tests with other loaders: UEFI, U-Boot and Linux's kexec enter the same Image.
//!
//! - Each loader starts three generations in each mode. A loader that cannot be had is skipped.
//! - The entry record must show the CPU state that docs/boot-protocols.md lists for each loader.
//! - UEFI alone: memory that the firmware keeps, firmware without a device tree, and a failing
//!   ExitBootServices.

use std::{mem::offset_of, time::Duration};

use anyhow::{Result, ensure};
use boot::{
    image::BASE_ALIGNMENT,
    record::EntryRecord,
    sysreg::{current_el, sctlr, spsr},
};

use harness::{
    cmdline::{Base, Cmdline, Restart},
    invariants::{Modes, check, without_leftovers},
    loader::Loader,
    patch::Patched,
    request::Request,
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
    cases
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
