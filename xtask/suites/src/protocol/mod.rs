//! Tests of the boot-protocol checker, with good loaders and with loaders that break one rule each.
//!
//! - QEMU's loader and our own kexec must keep every rule that the kernel can check.
//! - Each bad loader must break its own rule and no other.
//! - No case breaks rules 16, 20 and 37, which the kernel cannot check, nor 29, 30, 46 and 48:
//!   no QEMU has activity monitors, branch records, a PMU of v3p9 or 64-byte accesses.
//! - A case that needs a later QEMU's CPU is skipped on an earlier one.

mod loader;

use anyhow::{Context, Result, bail, ensure};
use boot::marker;
use protocol::rules::Verdict;

use harness::{
    cmdline::Cmdline,
    config::Virtio,
    error::Skipped,
    fit_edit::set,
    invariants::{self, Modes, check},
    request::Request,
    rules::{reports, with},
    setup,
    tree_edit::{child, edit_tree, reserve},
    verdict,
};

use super::case::{Case, Trial, case};

/// Rules that the kernel cannot check.
const NEVER_SEEN: [u32; 3] = [16, 20, 37];

/// The value of a rule about a feature that the CPU lacks.
const LACKS: &str = "the CPU has none";

/// Number of rules.
const RULES: usize = 49;

/// Rule: guarded control stacks are off. In nvhe the EL2 set-up clears the register that shows it.
const CONTROL_STACKS_OFF: u32 = 47;

/// The output that a kernel can still produce after a bad loader.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Leaves {
    /// The kernel runs, and prints the full report.
    Alive,
    /// The kernel stops, after a full report from the entry record.
    LastWords,
    /// The kernel stops, after one line that names the rule.
    OneLine,
}

/// A bad loader, and the rule that it breaks.
#[derive(Clone, Copy)]
struct Bad {
    name: &'static str,
    machine: &'static str,
    /// The section of loaders.S.
    loader: Option<&'static str>,
    /// Offset of the kernel from the loader.
    distance: usize,
    breaks: u32,
    /// Another rule, about the feature with which the loader breaks this one; 0 for none.
    by: u32,
    leaves: Leaves,
    alter: fn(&mut Request) -> Result<()>,
}

const BAD: Bad = Bad {
    name: "",
    machine: "el1",
    loader: None,
    distance: loader::NEXT_SLOT,
    breaks: 0,
    by: 0,
    leaves: Leaves::Alive,
    alter: |_| Ok(()),
};

/// Returns a loader at EL1, named like its section.
const fn bad(name: &'static str, breaks: u32) -> Bad {
    Bad { name, loader: Some(name), breaks, ..BAD }
}

/// Returns a loader at EL2 that leaves a trap in place for EL1.
const fn trap(name: &'static str, breaks: u32) -> Bad {
    Bad { machine: "nvhe", alter: rich, ..bad(name, breaks) }
}

/// Returns a loader at EL3.
const fn firmware(name: &'static str, breaks: u32) -> Bad {
    Bad { machine: "nvhe", alter: at_el3, leaves: Leaves::OneLine, ..bad(name, breaks) }
}

const ALL: [Bad; 47] = [
    Bad { leaves: Leaves::LastWords, ..bad("dtb-unaligned", 1) },
    Bad { leaves: Leaves::LastWords, ..bad("dtb-size", 2) },
    Bad {
        name: "misplaced",
        loader: Some("good"),
        distance: loader::NEXT_SLOT + 0x1_0000,
        breaks: 3,
        ..BAD
    },
    Bad {
        name: "off-its-page",
        loader: Some("good"),
        distance: loader::NEXT_SLOT + 0x800,
        breaks: 3,
        leaves: Leaves::OneLine,
        ..BAD
    },
    Bad { name: "reserved", breaks: 4, alter: reserved, ..BAD },
    Bad { name: "initrd-far", breaks: 6, alter: |request| initrd(request, 0x10_4000_0000), ..BAD },
    Bad { name: "initrd-inside", breaks: 5, alter: |request| initrd(request, 0x4020_0000), ..BAD },
    bad("device", 7),
    Bad { alter: on_pci, ..bad("bus-master", 7) },
    Bad { leaves: Leaves::LastWords, ..bad("no-dtb", 8) },
    Bad { leaves: Leaves::LastWords, ..bad("dtb-inside", 5) },
    Bad { leaves: Leaves::LastWords, ..bad("dtb-reaching-in", 5) },
    bad("x1", 9),
    bad("x2", 10),
    bad("x3", 11),
    bad("serror", 12),
    bad("mmu", 14),
    bad("dcache", 15),
    bad("cntfrq", 17),
    Bad { machine: "nvhe", ..bad("cntvoff", 18) },
    firmware("firmware-stays", 13),
    firmware("firmware-hvc", 21),
    Bad {
        name: "firmware-hvc-vhe",
        machine: "vhe",
        loader: Some("firmware-hvc"),
        ..firmware("", 21)
    },
    firmware("firmware-fp", 23),
    trap("trap-counter", 19),
    Bad { leaves: Leaves::OneLine, ..trap("trap-gic", 22) },
    Bad { leaves: Leaves::OneLine, ..trap("trap-fp", 23) },
    trap("trap-keys", 24),
    trap("trap-codes", 25),
    trap("trap-sve", 26),
    trap("trap-sme", 27),
    trap("trap-tags", 28),
    trap("trap-copies", 31),
    Bad { leaves: Leaves::OneLine, ..trap("trap-tcr2", 32) },
    trap("trap-permissions", 33),
    trap("trap-control-stacks", 34),
    trap("trap-pmu", 35),
    trap("trap-debug", 36),
    Bad { machine: "nvhe", ..bad("others-dcache", 40) },
    Bad { machine: "nvhe", ..bad("others-serror", 40) },
    firmware("firmware-hcx", 41),
    firmware("firmware-fgt", 42),
    Bad { machine: "vhe", leaves: Leaves::Alive, ..firmware("firmware-fgt2", 43) },
    Bad { leaves: Leaves::Alive, ..firmware("firmware-thread-pointer", 44) },
    Bad { by: 42, ..trap("trap-priorities", 45) },
    Bad { alter: rich, ..bad("control-stacks", 47) },
    Bad { name: "console", breaks: 49, alter: other_console, ..BAD },
];

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for machine in invariants::MODES {
        cases.push(case(format!("protocol/qemu-{machine}"), move |trial| all_kept(trial, machine)));
    }
    cases.push(case("protocol/good-el1-below-el2", |trial| {
        let good = Bad { name: "good", loader: Some("good-el1"), ..trap("", 0) };
        breaks(trial, &good, &[])
    }));
    for machine in ["nvhe", "vhe"] {
        cases.push(case(format!("protocol/firmware-{machine}"), move |trial| {
            let good = Bad {
                name: "firmware",
                loader: Some("firmware"),
                machine,
                leaves: Leaves::Alive,
                ..firmware("", 0)
            };
            breaks(trial, &good, &[])
        }));
    }
    for bad in ALL {
        cases.push(case(format!("protocol/bad-{}", bad.name), move |trial| {
            breaks(trial, &bad, &[bad.breaks])
        }));
    }
    cases.push(case("protocol/strict", strict));
    cases.push(case("protocol/bad-cpu-missing", |trial| {
        breaks(trial, &Bad { name: "cpu-missing", alter: missing_cpu, ..BAD }, &[38])
    }));
    cases.push(case("protocol/bad-other-level", |trial| {
        let bad = Bad { name: "other-level", machine: "nvhe", loader: Some("good-el1"), ..BAD };
        breaks(trial, &bad, &[39])
    }));
    cases
}

/// Boots with QEMU's own loader and restarts twice; every rule must be kept each time.
fn all_kept(trial: &mut Trial<'_>, machine: &'static str) -> Result<()> {
    let cmdline = Cmdline { append: vec!["check".to_owned()], ..trial.cmdline() };
    let mut request = trial.request(machine, &cmdline)?;
    (request.cpu, request.cpus) = (Some("max".to_owned()), Some(2));
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All(machine))?;
    let reports = reports(&trial.last().context("no run was made")?.console)?;
    ensure!(reports.len() == logs.len(), "{} reports of {} generations", reports.len(), logs.len());
    for report in &reports {
        ensure!(report.len() == RULES, "{} rules", report.len());
        let broken = report.iter().find(|rule| rule.verdict == Verdict::Broken);
        ensure!(broken.is_none(), "{broken:?}");
        let mut unseen = with(report, Verdict::Unseen);
        unseen.retain(|rule| machine != "nvhe" || *rule != CONTROL_STACKS_OFF);
        ensure!(unseen == NEVER_SEEN, "unseen: {unseen:?}");
    }
    Ok(())
}

/// Boots with the loader `bad`; the report must name `rules` as broken, and no other rule.
fn breaks(trial: &mut Trial<'_>, bad: &Bad, rules: &[u32]) -> Result<()> {
    let cmdline = Cmdline { generations: 1, append: vec!["check".to_owned()], ..trial.cmdline() };
    let mut request = trial.request(bad.machine, &cmdline)?;
    // With two CPUs the rules about secondaries are checked as well. A loader that lowers the
    // exception level gets one CPU: secondaries would start at another level and break rule 39.
    request.cpus =
        Some(if bad.machine == "el1" || matches!(rules, [18 | 39 | 40]) { 2 } else { 1 });
    (bad.alter)(&mut request)?;
    request.image =
        bad.loader.map(|name| loader::image(trial.kernel(), name, bad.distance)).transpose()?;
    let outcome = trial.run(&request)?;
    if bad.leaves == Leaves::OneLine && outcome.verdict != verdict::Verdict::Success {
        let said = outcome.console.lines().filter_map(|line| line.strip_prefix(marker::BROKEN));
        let said: Vec<_> =
            said.map(|said| said.split_once(':').map_or(said, |(number, _)| number)).collect();
        ensure!(
            said == [rules[0].to_string()],
            "the last lines name {said:?}, and should name {rules:?}"
        );
        return Ok(());
    }
    let expected = if bad.leaves == Leaves::LastWords {
        verdict::Verdict::Stopped
    } else {
        verdict::Verdict::Success
    };
    ensure!(outcome.verdict == expected, "the end is \"{}\"", outcome.verdict.words());
    let [report] = <[_; 1]>::try_from(reports(&outcome.console)?)
        .map_err(|_| anyhow::anyhow!("not one report"))?;
    ensure!(report.len() == RULES, "{} rules", report.len());
    let lacks = report.iter().filter(|rule| rules.contains(&rule.rule) || rule.rule == bad.by);
    let lacks = lacks.map(|rule| (rule.rule, &rule.value)).find(|(_, value)| *value == LACKS);
    if let Some((rule, _)) = lacks {
        let qemu = setup::qemu_number().context("QEMU does not say its version")?;
        return Err(Skipped {
            lacks: format!("a CPU feature that QEMU {qemu} does not emulate"),
            detail: Some(format!("rule {rule}")),
            mend: "install a later QEMU (11.1.3 has all but rule 43's)".to_owned(),
        }
        .into());
    }
    let broken = with(&report, Verdict::Broken);
    if broken != rules {
        let entries: Vec<_> =
            report.iter().filter(|rule| rule.verdict == Verdict::Broken).collect();
        bail!("broken are {broken:?}, and should be {rules:?}: {entries:#?}");
    }
    Ok(())
}

/// With `check=strict` a loader that breaks a rule makes the run fail, and a good one does not.
fn strict(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { append: vec!["check=strict".to_owned()], ..trial.cmdline() };
    let of_rule = |rule| ALL.iter().find(|bad| bad.breaks == rule);
    for (bad, expected) in
        [(None, verdict::Verdict::Success), (of_rule(9), verdict::Verdict::Failed(1))]
    {
        let mut request = trial.request("el1", &cmdline)?;
        request.cpus = Some(2);
        if let Some(bad) = bad {
            let name = bad.loader.context("that bad loader has no code")?;
            request.image = Some(loader::image(trial.kernel(), name, bad.distance)?);
        }
        let console = &trial.ends(&request, expected)?.console;
        let refused = console.lines().any(|line| {
            line.contains(marker::REFUSED) && line.contains("check=strict: broken rules: [")
        });
        ensure!(refused == bad.is_some(), "the refusal: {refused}");
    }
    Ok(())
}

/// Uses a CPU with MTE and all other features of this QEMU.
fn rich(request: &mut Request) -> Result<()> {
    request.cpu = Some("max".to_owned());
    request
        .machine
        .flags
        .iter_mut()
        .for_each(|flag| flag.arg = flag.arg.replacen("virt,", "virt,mte=on,", 1));
    Ok(())
}

/// Uses a machine with EL3, whose reset starts at the loader.
fn at_el3(request: &mut Request) -> Result<()> {
    rich(request)?;
    request
        .machine
        .flags
        .iter_mut()
        .for_each(|flag| flag.arg = flag.arg.replacen("virt,", "virt,secure=on,", 1));
    request.args.extend([
        "-device".to_owned(),
        format!("loader,addr={:#x},cpu-num=0", harness::debugger::LOADED),
    ]);
    Ok(())
}

/// Attaches the devices on PCI.
fn on_pci(request: &mut Request) -> Result<()> {
    request.virtio = Some(Virtio::Pci);
    Ok(())
}

/// Reserves the last page of the kernel's memory.
fn reserved(request: &mut Request) -> Result<()> {
    let end = harness::debugger::LOADED + request.kernel.symbol("_image_end")?;
    edit_tree(request, |tree| reserve(tree, "firmware", end - 0x1000, 0x1000, false))
}

/// Announces an initrd of one page at `start`, which no program reads.
fn initrd(request: &mut Request, start: u64) -> Result<()> {
    edit_tree(request, |tree| {
        let chosen = tree.root.child_mut("chosen").context("no /chosen")?;
        set(chosen, "linux,initrd-start", start)?;
        set(chosen, "linux,initrd-end", start + 0x1000)
    })
}

/// Makes the console one that the kernel does not know. The kernel prints on the Image's own UART.
fn other_console(request: &mut Request) -> Result<()> {
    edit_tree(request, |tree| {
        let uart = tree.root.child_mut("pl011@9000000").context("QEMU's tree has no UART")?;
        set(uart, "compatible", b"unknown-uart\0".to_vec())
    })
}

/// Adds a CPU to the device tree that firmware does not know.
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
