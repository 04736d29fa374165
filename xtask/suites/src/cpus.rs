//! Tests of secondary CPUs and of interrupts, on both GICs.
//!
//! Each generation must bring all CPUs up, and take them off, with no interrupt left, before the
//! next one starts. Other cases cover a CPU that does not start or does not stop.
//!
//! - `restart-cpu=random` makes another CPU perform each kexec.
//! - `selftest=interrupts` provokes interrupts just before the jump: an SPI active and never ended,
//!   an SGI pending, the timer expired. The next generation prints every interrupt that it finds.

use anyhow::{Context, Result, ensure};
use boot::{image::Header, marker};
use dtoolkit::model::DeviceTree;

use harness::{
    cmdline::{Base, Cmdline, Restart},
    config::Gic,
    disk,
    fit_edit::set,
    invariants::{self, Modes, check},
    kernel_build::{Built, first},
    patch::{HANG, Patched, UNDEFINED},
    request::{Disk, Request},
    transcript,
    tree_edit::{child, edit_tree, reserve},
    verdict::Verdict,
};

use super::{
    case::{Case, Trial, case, with_cpus},
    debugger::{LOADED, debugged},
    matrix::{MODES, words_for},
    refused::disks,
};

/// A patch of a kernel.
type Patch = for<'a> fn(Patched<'a>) -> Result<Patched<'a>>;

/// Numbers of CPUs, in turn.
const COUNTS: [u32; 4] = [2, 3, 4, 8];

/// Additional parameters, in turn.
const WORDS: [&str; 3] =
    ["restart-cpu=random", "selftest=interrupts", "restart-cpu=random selftest=interrupts"];

/// `mov w1, #2` of CPU_OFF's function number, and `mov w1, #5` of MIGRATE's, which QEMU refuses.
const CPU_OFF: u32 = 0x5280_0041;
const MIGRATE: u32 = 0x5280_00a1;

/// Offset in `secondary_entry` of the instruction after its two calls: MMU off, at EL1.
const BEHIND_SETUP: usize = 14 * 4;

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut turn = 0;
    for (mode, machine, modes) in MODES {
        for gic in [Gic::V2, Gic::V3] {
            for restart in [Restart::Hot, Restart::Cold] {
                let (cpus, words) = (COUNTS[turn % COUNTS.len()], WORDS[turn % WORDS.len()]);
                let base = if turn % 4 < 2 { Base::Random } else { Base::Same };
                turn += 1;
                cases.push(case(format!("cpus/{mode}-gicv{gic}-{restart}-{cpus}"), move |trial| {
                    let mut append = words_for(modes);
                    append.push(words.to_owned());
                    let cmdline =
                        Cmdline { generations: 6, restart, base, append, ..trial.cmdline() };
                    let mut request = trial.request(machine, &cmdline)?;
                    with_cpus(&mut request, cpus, gic);
                    let logs = trial.logs(&request)?;
                    check(&logs, &cmdline, modes)?;
                    ensure!(logs.iter().all(|gen_log| gen_log.cpus.1 == cpus), "not {cpus} CPUs");
                    let provoked = logs.iter().filter(|gen_log| gen_log.says("provoked: ")).count();
                    let expected = if words.contains("interrupts") { logs.len() - 1 } else { 0 };
                    ensure!(
                        provoked == expected,
                        "{provoked} generations provoked interrupts, and should be {expected}"
                    );
                    Ok(())
                }));
            }
        }
    }
    for machine in invariants::MODES {
        cases.push(case(format!("cpus/lpis-{machine}"), move |trial| lpis(trial, machine)));
    }
    cases.extend([
        case("cpus/one-will-not-stop", |trial| {
            stays(
                trial,
                |kernel| kernel.at("kernel::cpus::work::leave", 0, HANG),
                "CPU 1 (MPIDR 0x1) does not stop",
            )
        }),
        case("cpus/one-is-denied", |trial| {
            stays(
                trial,
                |kernel| kernel.replace("kernel::cpus::work::turn_off", CPU_OFF, MIGRATE),
                "CPU 1 (MPIDR 0x1) was denied PSCI CPU_OFF",
            )
        }),
        case("cpus/one-of-two-is-denied", one_denied),
        case("cpus/forced", forced),
        case("cpus/storm-gicv2", |trial| storm(trial, Gic::V2)),
        case("cpus/storm-gicv3", |trial| storm(trial, Gic::V3)),
        case("cpus/no-memory-for-stacks", no_memory),
        case("cpus/one-will-not-start", |trial| {
            let logs = edited(trial, "", |tree| {
                let mut cpu = child("cpu@7")?;
                set(&mut cpu, "device_type", "cpu")?;
                set(&mut cpu, "enable-method", "psci")?;
                set(&mut cpu, "reg", 7_u32)?;
                tree.find_node_mut("/cpus").context("no /cpus")?.add_child(cpu);
                Ok(())
            })?;
            ensure!(
                logs.iter().all(|gen_log| gen_log.cpus == (3, 4)
                    && gen_log.says("CPU 3 (MPIDR 0x7) was not started: ")),
                "no generation names the CPU that does not exist"
            );
            Ok(())
        }),
        // A generation continues without a timer that ticks, but says so.
        case("cpus/no-tick", |trial| {
            let mut request = wrong(trial, "", |kernel| kernel.skip("kernel::timer::Timer::arm"))?;
            with_cpus(&mut request, 1, Gic::V3);
            let outcome = trial.ends(&request, Verdict::Success)?;
            let [first, second] = &transcript::logs(&outcome.console)?[..] else {
                anyhow::bail!("not two generations")
            };
            let says = |gen_log: &transcript::GenerationLog| {
                gen_log.says("this CPU's timer does not tick")
            };
            ensure!(says(first) && !says(second), "not generation 0 alone says so");
            Ok(())
        }),
        // TF-A on a Raspberry Pi 4 takes more than two seconds.
        case("cpus/one-comes-late", |trial| late(trial, 3, (2, 2))),
        // It comes after the kernel has continued without it, and before the restart.
        case("cpus/one-comes-too-late", |trial| late(trial, 11, (1, 2))),
        case("cpus/one-never-works", |trial| {
            stays(
                trial,
                |kernel| kernel.at("kernel_secondary", 0, HANG),
                "CPU 1 (MPIDR 0x1) does not stop",
            )
        }),
        // QEMU virt has no watchdog: registers of its clock serve, one with bit 0 set.
        case("cpus/watchdogs", |trial| {
            let logs = edited(trial, "check", |tree| {
                for (name, register) in [("runs@c", 0x0901_000c_u64), ("stands@10", 0x0901_0010)] {
                    let mut watchdog = child(name)?;
                    set(&mut watchdog, "compatible", b"arm,sbsa-gwdt\0".to_vec())?;
                    set(&mut watchdog, "reg", [register, 4].map(u64::to_be_bytes).concat())?;
                    tree.root.add_child(watchdog);
                }
                Ok(())
            })?;
            ensure!(
                logs.iter().all(|gen_log| {
                    gen_log.says("watchdog /runs@c runs") && !gen_log.says("/stands@10")
                }),
                "not the one watchdog that runs is named"
            );
            Ok(())
        }),
        // The GIC is taken over, and left quiet, all the same.
        case("cpus/no-timer", |trial| {
            let logs = edited(trial, "restart-cpu=random", |tree| {
                let timer = tree.root.child_mut("timer").context("QEMU's tree has no timer")?;
                set(timer, "compatible", b"unknown-timer\0".to_vec())
            })?;
            ensure!(
                logs.iter().all(|gen_log| gen_log.cpus == (3, 3)
                    && gen_log.says("GICv3, no timer that we drive")),
                "not 3 of 3 up with a GIC"
            );
            Ok(())
        }),
        case("cpus/no-gic", |trial| {
            let logs = edited(trial, "restart-cpu=random", |tree| {
                tree.root.remove_child("intc@8000000").context("no GIC")?;
                Ok(())
            })?;
            ensure!(
                logs.iter()
                    .all(|gen_log| gen_log.cpus == (3, 3) && gen_log.says("; no interrupts: ")),
                "not 3 of 3 up"
            );
            Ok(())
        }),
        case("cpus/exception-on-a-secondary", |trial| {
            let line = fails(trial, |kernel| kernel.at("kernel_secondary", 0, UNDEFINED))?;
            ensure!(
                line.contains("esr=0000000002000000") && !line.contains("mpidr=0000000080000000"),
                "the report is \"{line}\""
            );
            Ok(())
        }),
        case("cpus/exception-in-a-secondary-s-first-instructions", |trial| {
            let line =
                fails(trial, |kernel| kernel.at("secondary_entry", BEHIND_SETUP, UNDEFINED))?;
            ensure!(line.contains("esr=0000000002000000"), "the report is \"{line}\"");
            ensure!(
                !line.contains("mpidr=0000000080000000"),
                "the report names the first CPU: \"{line}\""
            );
            Ok(())
        }),
        case("cpus/restart-by-one-that-is-none", |trial| {
            let cmdline = Cmdline { append: vec!["restart-cpu=3".to_owned()], ..trial.cmdline() };
            let mut request = trial.request("nvhe", &cmdline)?;
            with_cpus(&mut request, 3, Gic::V3);
            let outcome = trial.ends(&request, Verdict::Failed(1))?;
            ensure!(
                outcome.console.contains(
                    "restart-cpu: that CPU is not up, or none of the 3 that the device tree names"
                ),
                "the kernel refused for another reason"
            );
            Ok(())
        }),
    ]);
    cases
}

/// Each generation but the last leaves LPIs on, with tables in RAM, as Linux does. Each but the
/// first must find them and turn them off.
fn lpis(trial: &mut Trial<'_>, machine: &str) -> Result<()> {
    let append = vec!["selftest=lpis restart-cpu=random".to_owned()];
    let cmdline = Cmdline { generations: 4, base: Base::Random, append, ..trial.cmdline() };
    let mut request = trial.request(machine, &cmdline)?;
    with_cpus(&mut request, 3, Gic::V3);
    let logs = trial.logs(&request)?;
    let found: Vec<_> = logs.iter().map(|gen_log| gen_log.found.join("; ")).collect();
    let stopped = "1 of the CPUs with LPIs on and tables in RAM; turned off";
    ensure!(found == ["", stopped, stopped, stopped], "found at entry: {found:?}");
    Ok(())
}

/// Returns a request that boots a patched kernel on three CPUs. The disk holds the good kernel.
fn wrong(trial: &Trial<'_>, words: &str, patch: Patch) -> Result<Request> {
    let kernel = trial.kernel();
    let append = words.split_whitespace().map(str::to_owned).collect();
    let cmdline = Cmdline { generations: 2, base: Base::Random, append, ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    request.image = Some(patch(Patched::new(kernel))?.image);
    request.disk = Disk::Bytes(std::sync::Arc::new(disk::of(kernel, false)));
    with_cpus(&mut request, 3, Gic::V3);
    Ok(request)
}

/// Boots a patched kernel that must refuse to restart, for the reason `says`, and continue.
fn stays(trial: &mut Trial<'_>, patch: Patch, says: &str) -> Result<()> {
    let request = wrong(trial, "", patch)?;
    let outcome = trial.ends(&request, Verdict::Failed(1))?;
    let logs = transcript::logs(&outcome.console)?;
    let [gen_log] = &logs[..] else {
        anyhow::bail!("{} generations, and should be one", logs.len())
    };
    ensure!(
        gen_log.refused.len() == 1 && gen_log.refused[0].starts_with(says),
        "refused: {:?}",
        gen_log.refused
    );
    ensure!(
        gen_log.says("continues, all its memory given back") && gen_log.bye.is_none(),
        "the generation does not continue"
    );
    Ok(())
}

/// Boots a kernel whose second CPU begins `seconds` late. The kernel must have these CPUs in
/// generation 0, and restart all the same.
fn late(trial: &mut Trial<'_>, seconds: u16, cpus: (u32, u32)) -> Result<()> {
    let mut request = wrong(trial, "", |kernel| Ok(kernel))?;
    // The loader is not UEFI, whose entry this kernel therefore never uses.
    let patched = Patched::new(trial.kernel()).late("secondary_entry", "efi_entry", seconds)?;
    request.image = Some(patched.image);
    with_cpus(&mut request, 2, Gic::V3);
    let logs = trial.logs(&request)?;
    let [first, second] = &logs[..] else {
        anyhow::bail!("{} generations, and should be two", logs.len())
    };
    ensure!(
        (first.cpus, second.cpus) == (cpus, (2, 2)),
        "{:?} CPUs, then {:?}",
        first.cpus,
        second.cpus
    );
    ensure!(first.refused.is_empty(), "refused: {:?}", first.refused);
    let is_named = first.says("CPU 1 (MPIDR 0x1) was started and does not work: ");
    ensure!(is_named == (cpus.0 < cpus.1), "CPU 1 is named as late: {is_named}");
    Ok(())
}

/// Makes PSCI deny CPU_OFF to the first CPU that calls it. The kernel must refuse the restart and
/// name that CPU, bring the other one up again, and succeed with the next attempt.
fn one_denied(trial: &mut Trial<'_>) -> Result<()> {
    let kernel = trial.kernel();
    let cmdline = Cmdline { append: vec!["on-refusal=continue".to_owned()], ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    request.disk = Disk::Bytes(disks::two(kernel).into());
    with_cpus(&mut request, 3, Gic::V3);
    let number = LOADED + first(kernel, "kernel::cpus::work::turn_off", CPU_OFF)?;
    let outcome = debugged(trial, request, |mut gdb| {
        gdb.run_to(number + 4)?;
        let mut registers = gdb.general()?;
        ensure!(registers[1] == 2, "x1 is {:#x}, and should be CPU_OFF's 2", registers[1]);
        registers[1] = 5;
        gdb.set_general(&registers)?;
        gdb.detach()
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    let logs = transcript::logs(&outcome.console)?;
    check(&logs, &cmdline, Modes::All("nvhe"))?;
    let first = &logs[0];
    let denied = |words: &String| words.contains(" was denied PSCI CPU_OFF: ");
    ensure!(first.refused.len() == 1 && denied(&first.refused[0]), "refused: {:?}", first.refused);
    ensure!(first.says("continues, all its memory given back"), "the generation does not continue");
    let up = first.lines.iter().filter(|line| line.starts_with("CPUs: 3 of 3 up")).count();
    ensure!(up == 2, "all CPUs came up {up} times, and should once more after the refusal");
    Ok(())
}

/// Sends interrupts without an owner while one CPU stops the others. The next generation must still
/// find none.
fn storm(trial: &mut Trial<'_>, gic: Gic) -> Result<()> {
    let cmdline =
        Cmdline { append: vec!["selftest=storm restart-cpu=random".to_owned()], ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    with_cpus(&mut request, 3, gic);
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All("nvhe"))?;
    let taken: Vec<_> = logs.iter().map(|gen_log| gen_log.strays).collect();
    ensure!(
        taken[..2].iter().all(|&strays| strays >= 32) && taken[2] == 0,
        "storms of {taken:?} interrupts"
    );
    Ok(())
}

/// Leaves RAM for the first CPU, the control pages and one or two more stacks. The kernel must name
/// the CPUs that stay off.
fn no_memory(trial: &mut Trial<'_>) -> Result<()> {
    const RAM: u64 = 0x4000_0000;
    const PAGE: u64 = 4096;
    let image = Header::parse(&trial.kernel().image)?.image_size;
    let cmdline = Cmdline { generations: 1, ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    request.memory = Some("512M".to_owned());
    with_cpus(&mut request, 4, Gic::V3);
    // The Image; the control pages and their alignment; and at most two of three stack blocks.
    let free = image.next_multiple_of(PAGE) + (64 + 16) * PAGE + 16 * PAGE;
    // QEMU puts the device tree at this address.
    let tree = RAM + (128 << 20);
    edit_tree(&mut request, |tree_of| {
        reserve(tree_of, "below", RAM, LOADED - RAM, false)?;
        reserve(tree_of, "behind", LOADED + free, tree - LOADED - free, false)?;
        reserve(tree_of, "beyond", tree + (64 << 10), (384 << 20) - (64 << 10), false)
    })?;
    let logs = trial.logs(&request)?;
    let [gen_log] = &logs[..] else {
        anyhow::bail!("{} generations, and should be one", logs.len())
    };
    let left = gen_log
        .lines
        .iter()
        .filter(|line| line.contains(" was not started: RAM holds no "))
        .count();
    let (up, all) = gen_log.cpus;
    ensure!(
        all == 4 && (1..4).contains(&up) && left == (all - up) as usize,
        "{up} of {all} up, {left} named"
    );
    Ok(())
}

/// Restarts with `force` although a CPU does not stop. The kernel must print the risk, and the next
/// generation must name the CPUs that it could not start.
fn forced(trial: &mut Trial<'_>) -> Result<()> {
    let mut request =
        wrong(trial, "force", |kernel| kernel.at("kernel::cpus::work::leave", 0, HANG))?;
    // The next kernel hangs there as well. If the seed sends it to the same base, its code replaces
    // the code that the CPUs run, and they would leave.
    let image = request.image.clone().context("the kernel is not patched")?;
    let next = Built { image, ..Built::clone(trial.kernel()) };
    request.disk = Disk::Bytes(std::sync::Arc::new(disk::of(&next, false)));
    let logs = trial.logs(&request)?;
    let [first, second] = &logs[..] else {
        anyhow::bail!("{} generations, and should be two", logs.len())
    };
    let risk = "it would run on in memory that is overwritten: continuing, as `force` orders";
    ensure!(first.says(risk) && first.bye.is_some(), "the kernel does not print the risk");
    ensure!(
        second.cpus == (1, 3) && second.says("was not started: "),
        "the next generation has {:?} CPUs",
        second.cpus
    );
    Ok(())
}

/// Runs three generations on three CPUs with an edited device tree.
fn edited(
    trial: &mut Trial<'_>,
    words: &str,
    edit: impl FnOnce(&mut DeviceTree) -> Result<()>,
) -> Result<Vec<transcript::GenerationLog>> {
    let append = words.split_whitespace().map(str::to_owned).collect();
    let cmdline = Cmdline { append, ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    with_cpus(&mut request, 3, Gic::V3);
    edit_tree(&mut request, edit)?;
    let logs = trial.logs(&request)?;
    ensure!(
        logs.len() == 3 && logs.iter().all(|gen_log| gen_log.found.is_empty()),
        "there are not three generations without a stale interrupt"
    );
    Ok(logs)
}

/// Boots a kernel whose secondary CPU takes an exception, and returns the line that reports it.
fn fails(trial: &mut Trial<'_>, patch: Patch) -> Result<String> {
    let mut request = wrong(trial, "", patch)?;
    // One secondary: two that fail at the same time share one UART.
    with_cpus(&mut request, 2, Gic::V3);
    let outcome = trial.run(&request)?;
    ensure!(outcome.verdict != Verdict::Success, "the run did not fail");
    let line = outcome.console.lines().find(|line| line.starts_with(marker::EXCEPTION));
    Ok(line.context("no exception was reported")?.to_owned())
}
