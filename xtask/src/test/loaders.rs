//! Other people's loaders: each enters the one Image, in each mode, and three generations follow.
//!
//! *When:* among the machines' cases; one whose firmware is not installed is skipped. The state that each leaves the CPU in is read from
//! the entry record of a generation that does nothing else, and is what docs/boot-protocols.md says. And what is particular to UEFI: what the
//! firmware keeps, and a firmware without a device tree.

use std::{mem::offset_of, time::Duration};

use anyhow::{Result, ensure};
use boot::{
    image::BASE_ALIGNMENT,
    record::EntryRecord,
    sysreg::{current_el, sctlr, spsr},
};

use crate::{
    loader::Loader,
    orders::{Base, Orders, Restart},
    proof::{Modes, check, without_leftovers},
    request::Request,
    transcript::lives,
    verdict::Verdict,
};

use super::{
    case::{Case, Trial, case},
    last_look::{last_look, memory},
    matrix::{MODES, words_for},
    memory::{program_counter, same},
    patch::Patched,
};

/// DAIF's mask of SErrors.
const A: u64 = 1 << 8;

/// How many generations.
const GENERATIONS: u32 = 3;

/// The RAM of these machines, in bytes.
const MEMORY: u64 = 512 << 20;

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for loader in Loader::OTHERS {
        for (mode, machine, modes) in MODES {
            let name = format!("loaders/{}-{mode}", loader.name());
            cases.push(case(name, move |trial| enters(trial, loader, machine, modes)));
        }
    }
    for loader in [Loader::Qemu].into_iter().chain(Loader::OTHERS) {
        for (machine, level) in [("el1", current_el::EL1), ("nvhe", current_el::EL2)] {
            let name = format!("loaders/{}-leaves-{machine}", loader.name());
            cases.push(case(name, move |trial| leaves(trial, loader, machine, level)));
        }
    }
    cases.push(case("loaders/linux-kexec-leaves-vhe", |trial| {
        leaves(trial, Loader::LinuxKexec, "vhe", current_el::EL2)
    }));
    cases.push(case("loaders/linux-kexec-vhe-to-nvhe", vhe_to_nvhe));
    cases.push(case("loaders/linux-kexec-with-frames", with_frames));
    cases.push(case("loaders/uefi-four-cpus-anywhere", four_cpus));
    cases.push(case("loaders/uefi-keeps-its-own", keeps_its_own));
    cases.push(case("loaders/uefi-without-a-device-tree", without_a_tree));
    cases.push(case("loaders/uefi-does-not-let-go", does_not_let_go));
    cases
}

/// A run that this loader starts, or a skip.
fn started(trial: &Trial<'_>, loader: Loader, machine: &str, orders: &Orders) -> Result<Request> {
    loader.there()?;
    let mut request = trial.request(machine, orders)?;
    request.loader = loader;
    Ok(request)
}

fn enters(trial: &mut Trial<'_>, loader: Loader, machine: &str, modes: Modes) -> Result<()> {
    let orders = Orders { generations: GENERATIONS, append: words_for(modes), ..trial.orders() };
    let request = started(trial, loader, machine, &orders)?;
    let mut lives = trial.lives(&request)?;
    without_leftovers(&mut lives, loader)?;
    check(&lives, &orders, modes)
}

/// The state that the first instruction was entered in, and the Image as it lies in memory then: byte for byte that of the disk, relocated
/// once for where it lies.
fn leaves(trial: &mut Trial<'_>, loader: Loader, machine: &str, level: u64) -> Result<()> {
    let kernel = trial.kernel();
    let orders = Orders { generations: 1, ..trial.orders() };
    let mut request = started(trial, loader, machine, &orders)?;
    request.semihosting = false;
    request.bootargs = orders.bootargs(&request.machine.bootargs, false);
    let (image_end, rodata_end) = (kernel.symbol("_image_end")?, kernel.symbol("rodata_end")?);
    let record = usize::try_from(kernel.symbol("entry_record")?)?;
    let (_, (base, found)) = last_look(trial, request, |qmp| {
        let base = program_counter(qmp)? & !(BASE_ALIGNMENT - 1);
        Ok((base, memory(qmp, base, image_end)?))
    })?;
    same(kernel, &found, base, 0..rodata_end)?;

    let field =
        |at: usize| u64::from_le_bytes(found[record + at..][..8].try_into().expect("eight bytes"));
    // U-Boot takes SErrors, and leaves them unmasked.
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
            "it was entered with {what} = {found:#x}, and should be with {expected:#x}"
        );
    }
    Ok(())
}

/// Linux's network is up and takes frames when it goes, and they go on arriving. The checker looks before our own reset: the devices are in reset.
fn with_frames(trial: &mut Trial<'_>) -> Result<()> {
    let orders =
        Orders { generations: GENERATIONS, append: vec!["check".to_owned()], ..trial.orders() };
    let mut request = started(trial, Loader::LinuxKexec, "nvhe", &orders)?;
    request.network = true;
    let outcome = trial.ends(&request, Verdict::Success)?;
    // Bytes, then frames.
    let device = outcome
        .console
        .lines()
        .find_map(|line| line.trim().strip_prefix("eth0:"))
        .unwrap_or_default();
    let frames: u64 =
        device.split_whitespace().nth(1).and_then(|frames| frames.parse().ok()).unwrap_or_default();
    ensure!(frames > 0, "Linux took no frames");
    let mut lives = lives(&outcome.console)?;
    let rule = |line: &&String| line.contains(" no device can write to memory: ");
    let found = lives[0].lines.iter().find(rule).map_or("nothing of the rule", |line| line.trim());
    ensure!(found.contains(" kept "), "generation 0 found: {found}");
    without_leftovers(&mut lives, Loader::LinuxKexec)?;
    check(&lives, &orders, Modes::All("nvhe"))
}

/// Linux in vhe ticks by EL2's physical timer, which a kernel at EL1 cannot turn off any more: the entry does.
fn vhe_to_nvhe(trial: &mut Trial<'_>) -> Result<()> {
    let orders =
        Orders { generations: GENERATIONS, append: vec!["el2=nvhe".to_owned()], ..trial.orders() };
    let mut request = started(trial, Loader::LinuxKexec, "vhe", &orders)?;
    request.cpus = Some(4);
    let mut lives = trial.lives(&request)?;
    without_leftovers(&mut lives, Loader::LinuxKexec)?;
    check(&lives, &orders, Modes::All("nvhe"))
}

fn four_cpus(trial: &mut Trial<'_>) -> Result<()> {
    let orders =
        Orders { generations: 6, base: Base::Random, restart: Restart::Cold, ..trial.orders() };
    let mut request = started(trial, Loader::Uefi, "vhe", &orders)?;
    (request.cpu, request.cpus) = (Some("max".to_owned()), Some(4));
    let lives = trial.lives(&request)?;
    ensure!(lives.iter().all(|life| life.cpus == (4, 4)), "not all CPUs are up");
    check(&lives, &orders, Modes::All("vhe"))
}

/// EDK2 keeps some MiB for its runtime services: the kernel has less RAM than from QEMU, and it is still RAM enough.
fn keeps_its_own(trial: &mut Trial<'_>) -> Result<()> {
    let orders = Orders { generations: 2, ..trial.orders() };
    let request = started(trial, Loader::Uefi, "nvhe", &orders)?;
    let free =
        |lives: &[crate::transcript::Life]| lives.iter().map(|life| life.free).collect::<Vec<_>>();
    let uefi = free(&trial.lives(&request)?);
    let qemu = free(&trial.lives(&Request { loader: Loader::Qemu, ..request })?);
    for (uefi, qemu) in uefi.iter().zip(&qemu) {
        let kept = qemu.saturating_sub(*uefi);
        ensure!(
            (1 << 20..MEMORY / 8).contains(&kept),
            "{uefi} bytes free, and {qemu} where QEMU is the loader"
        );
    }
    Ok(())
}

/// With ACPI tables EDK2 has no device tree to give: the application says so, and the firmware goes on.
fn without_a_tree(trial: &mut Trial<'_>) -> Result<()> {
    let orders = Orders { generations: 2, ..trial.orders() };
    let mut request = started(trial, Loader::Uefi, "nvhe", &orders)?;
    request.args = ["-machine", "acpi=on"].map(str::to_owned).into();
    (request.timeout, request.silence) = (Duration::from_secs(60), Some(Duration::from_secs(12)));
    let outcome = trial.ends(&request, Verdict::TimedOut)?;
    let said = outcome.console.find("EFI stub: Refused: the firmware has no device tree");
    let on = outcome.console.find("BdsDxe: failed to load");
    ensure!(
        said.is_some() && said < on,
        "it does not say so, or the firmware does not go on after it"
    );
    ensure!(!outcome.console.contains("Generation "), "a generation lives");
    Ok(())
}

/// Boot services that are left by half can be asked for nothing: the machine is off, and nothing was said on the way.
fn does_not_let_go(trial: &mut Trial<'_>) -> Result<()> {
    let orders = Orders { generations: 2, ..trial.orders() };
    let mut request = started(trial, Loader::Uefi, "nvhe", &orders)?;
    // Err, with whatever status.
    let patched =
        Patched::new(trial.kernel()).answer("efi::stub::Firmware::exit_boot_services", 1)?;
    request.image = Some(patched.image);
    let outcome = trial.ends(&request, Verdict::Failed(0))?;
    let last = outcome.console.lines().last().unwrap_or_default();
    ensure!(last.contains("EFI stub: loaded at"), "the last line is \"{last}\"");
    Ok(())
}
