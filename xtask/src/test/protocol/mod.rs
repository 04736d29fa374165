//! The checker: QEMU and our own restart keep every rule that can be seen, and each bad loader breaks its own and no other.
//!
//! *When:* among the machines' cases. What no case breaks, and why: rules 16, 20 and 37 cannot be seen; 13 leaves nobody to report; a dtb
//! inside the Image (5, which an initrd breaks) stops the entry by an exception; FP, a GICv3's
//! registers and TCR2 (22, 23, 32) stop the kernel where it needs them, by an exception that names the instruction; HVC (21) is EL3's to take; QEMU has
//! no activity monitors, branch records, MOPS, permission indirection or control stacks to trap (29 to 31, 33, 34) before 8.

mod loader;

use anyhow::{Context, Result, bail, ensure};

use crate::{
    config::Virtio,
    fit_edit::set,
    orders::Orders,
    proof::{Modes, check},
    protocol::{Verdict, reports, with},
    request::Request,
    tree_edit::{child, edit_tree, reserve},
    verdict,
};

use super::case::{Case, Trial, case};

/// What nobody can see.
const NEVER_SEEN: [u32; 3] = [16, 20, 37];

/// How many rules there are.
const RULES: usize = 40;

/// A bad loader, and the rule that it breaks.
#[derive(Clone, Copy)]
struct Bad {
    name: &'static str,
    machine: &'static str,
    /// The section of loaders.S.
    loader: Option<&'static str>,
    /// How far behind it the kernel lies.
    distance: usize,
    breaks: u32,
    /// It leaves a kernel that can go on.
    lives: bool,
    alter: fn(&mut Request) -> Result<()>,
}

const BAD: Bad = Bad {
    name: "",
    machine: "el1",
    loader: None,
    distance: loader::NEXT_SLOT,
    breaks: 0,
    lives: true,
    alter: |_| Ok(()),
};

/// A loader by its section, at EL1.
const fn bad(name: &'static str, breaks: u32) -> Bad {
    Bad { name, loader: Some(name), breaks, ..BAD }
}

/// One that leaves a trap in place for EL1.
const fn trap(name: &'static str, breaks: u32) -> Bad {
    Bad { machine: "nvhe", alter: rich, ..bad(name, breaks) }
}

const ALL: [Bad; 25] = [
    Bad { lives: false, ..bad("dtb-unaligned", 1) },
    Bad { lives: false, ..bad("dtb-size", 2) },
    Bad { name: "misplaced", loader: Some("good"), distance: loader::NEXT_SLOT + 0x1_0000, breaks: 3, ..BAD },
    Bad { name: "reserved", breaks: 4, alter: reserved, ..BAD },
    Bad { name: "initrd-far", breaks: 6, alter: |request| initrd(request, 0x10_4000_0000), ..BAD },
    Bad { name: "initrd-inside", breaks: 5, alter: |request| initrd(request, 0x4020_0000), ..BAD },
    bad("device", 7),
    Bad { alter: on_pci, ..bad("bus-master", 7) },
    Bad { lives: false, ..bad("no-dtb", 8) },
    bad("x1", 9),
    bad("x2", 10),
    bad("x3", 11),
    bad("serror", 12),
    bad("mmu", 14),
    bad("dcache", 15),
    bad("cntfrq", 17),
    Bad { machine: "nvhe", ..bad("cntvoff", 18) },
    trap("trap-counter", 19),
    trap("trap-keys", 24),
    trap("trap-codes", 25),
    trap("trap-sve", 26),
    trap("trap-sme", 27),
    trap("trap-tags", 28),
    trap("trap-pmu", 35),
    trap("trap-debug", 36),
];

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for machine in ["el1", "nvhe", "vhe"] {
        cases.push(case(format!("protocol/qemu-{machine}"), move |trial| all_kept(trial, machine)));
    }
    cases.push(case("protocol/good-el1-below-el2", |trial| {
        let good = Bad { name: "good", loader: Some("good-el1"), ..trap("", 0) };
        breaks(trial, &good, &[])
    }));
    for bad in ALL {
        cases.push(case(format!("protocol/bad-{}", bad.name), move |trial| breaks(trial, &bad, &[bad.breaks])));
    }
    cases.push(case("protocol/bad-cpu-missing", |trial| {
        breaks(trial, &Bad { name: "cpu-missing", alter: missing_cpu, ..BAD }, &[38])
    }));
    cases.push(case("protocol/bad-other-level", |trial| {
        let bad = Bad { name: "other-level", machine: "nvhe", loader: Some("good-el1"), ..BAD };
        breaks(trial, &bad, &[39])
    }));
    cases
}

/// QEMU's own loader, and two restarts.
fn all_kept(trial: &mut Trial<'_>, machine: &'static str) -> Result<()> {
    let orders = Orders { append: vec!["check".to_owned()], ..trial.orders() };
    let mut request = trial.request(machine, &orders)?;
    (request.cpu, request.cpus) = (Some("max".to_owned()), Some(2));
    let lives = trial.lives(&request)?;
    check(&lives, &orders, Modes::All(machine))?;
    let reports = reports(&trial.last().context("it was just made")?.console)?;
    ensure!(reports.len() == lives.len(), "{} reports of {} generations", reports.len(), lives.len());
    for report in &reports {
        ensure!(report.len() == RULES, "{} rules", report.len());
        let broken = report.iter().find(|told| told.verdict == Verdict::Broken);
        ensure!(broken.is_none(), "{broken:?}");
        ensure!(with(report, Verdict::Unseen) == NEVER_SEEN, "unseen: {:?}", with(report, Verdict::Unseen));
    }
    Ok(())
}

/// That loader breaks those rules and no other.
fn breaks(trial: &mut Trial<'_>, bad: &Bad, rules: &[u32]) -> Result<()> {
    let orders = Orders { generations: 1, append: vec!["check".to_owned()], ..trial.orders() };
    let mut request = trial.request(bad.machine, &orders)?;
    // The rules about other CPUs are seen as well, but for a loader that enters them at another level.
    request.cpus = Some(if bad.machine == "nvhe" && bad.breaks != 18 && rules != [39] { 1 } else { 2 });
    (bad.alter)(&mut request)?;
    request.image = bad.loader.map(|name| loader::image(trial.kernel(), name, bad.distance)).transpose()?;
    let outcome = trial.run(&request)?;
    let expected = if bad.lives { verdict::Verdict::Success } else { verdict::Verdict::Stopped };
    ensure!(outcome.verdict == expected, "the end is \"{}\"", outcome.verdict.words());
    let [report] = <[_; 1]>::try_from(reports(&outcome.console)?).map_err(|_| anyhow::anyhow!("not one report"))?;
    ensure!(report.len() == RULES, "{} rules", report.len());
    let broken = with(&report, Verdict::Broken);
    if broken != rules {
        let told: Vec<_> = report.iter().filter(|told| told.verdict == Verdict::Broken).collect();
        bail!("broken are {broken:?}, and should be {rules:?}: {told:#?}");
    }
    Ok(())
}

/// A CPU with tags, and all else that QEMU has.
fn rich(request: &mut Request) -> Result<()> {
    request.cpu = Some("max".to_owned());
    request.machine.flags.iter_mut().for_each(|flag| flag.arg = flag.arg.replacen("virt,", "virt,mte=on,", 1));
    Ok(())
}

/// Devices as functions.
fn on_pci(request: &mut Request) -> Result<()> {
    request.virtio = Some(Virtio::Pci);
    Ok(())
}

/// The last page of the kernel's memory is not its own.
fn reserved(request: &mut Request) -> Result<()> {
    let end = crate::debugger::LOADED + request.kernel.symbol("_image_end")?;
    edit_tree(request, |tree| reserve(tree, "firmware", end - 0x1000, 0x1000, false))
}

/// An initrd of a page, which nobody reads.
fn initrd(request: &mut Request, start: u64) -> Result<()> {
    edit_tree(request, |tree| {
        let chosen = tree.root.child_mut("chosen").context("no /chosen")?;
        set(chosen, "linux,initrd-start", start)?;
        set(chosen, "linux,initrd-end", start + 0x1000)
    })
}

/// A CPU in the device tree that firmware does not know.
fn missing_cpu(request: &mut Request) -> Result<()> {
    edit_tree(request, |tree| {
        let mut cpu = child("cpu@7")?;
        set(&mut cpu, "device_type", "cpu")?;
        set(&mut cpu, "compatible", "arm,cortex-a72")?;
        set(&mut cpu, "enable-method", "psci")?;
        set(&mut cpu, "reg", 7_u32)?;
        tree.root.child_mut("cpus").context("no /cpus")?.add_child(cpu);
        Ok(())
    })
}
