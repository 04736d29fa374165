//! Runs on QEMU's models of real boards, with the device trees that Debian's kernel has for them.
//!
//! No board has virtio: the FIT is the initrd. Its tree's `stdout-path` chooses the console, and
//! before that the UART in the Image.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use harness::{
    cmdline::{Base, Cmdline},
    config::{Config, Flag, Gic, Machine},
    debian::DeviceTrees,
    disk,
    error::Skipped,
    invariants::{Modes, prove},
    needs::Need,
    parts,
    request::{Disk, Medium, Request},
    transcript::{GenerationLog, logs},
    verdict::Verdict,
};

use super::case::{Case, Trial, case};

/// A board.
#[derive(Clone, Copy)]
struct Board {
    /// QEMU's name.
    name: &'static str,
    cpu: &'static str,
    memory: &'static str,
    /// The path of its tree in Debian's kernel package; QEMU's own if empty.
    tree: &'static str,
    earlycon: &'static str,
    /// QEMU's number of the serial port that is the console.
    port: usize,
    mode: &'static str,
    /// The number of CPUs that come up, and of all.
    cpus: (u32, u32),
    has_interrupts: bool,
}

const BOARDS: [Board; 4] = [
    Board {
        name: "raspi3b",
        cpu: "cortex-a53",
        memory: "1G",
        tree: "broadcom/bcm2837-rpi-3-b.dtb",
        earlycon: "uart8250,mmio32,0x3f215040",
        port: 1,
        mode: "nvhe",
        // The others are in a spin table, and its interrupt controller is no GIC.
        cpus: (1, 4),
        has_interrupts: false,
    },
    Board {
        name: "raspi4b",
        cpu: "cortex-a72",
        memory: "2G",
        tree: "broadcom/bcm2711-rpi-4-b.dtb",
        earlycon: "uart8250,mmio32,0xfe215040",
        port: 1,
        mode: "nvhe",
        cpus: (1, 4),
        has_interrupts: true,
    },
    Board {
        name: "xlnx-zcu102",
        cpu: "cortex-a53",
        // With more, QEMU's tree has RAM up to 4 GiB, where there is none: it is at 0x8_0000_0000.
        memory: "2G",
        tree: "xilinx/zynqmp-zcu102-rev1.0.dtb",
        earlycon: "cdns,0xff000000",
        port: 0,
        // QEMU gives this board no EL2 by default.
        mode: "el1",
        cpus: (4, 4),
        has_interrupts: true,
    },
    Board {
        name: "imx8mp-evk",
        cpu: "cortex-a53",
        memory: "6G",
        tree: "freescale/imx8mp-evk.dtb",
        earlycon: "ec_imx6q,0x30890000",
        port: 1,
        mode: "nvhe",
        cpus: (4, 4),
        has_interrupts: true,
    },
];

/// SBSA's reference board: its tree names CPUs and memory only, as everything else is in ACPI's
/// tables.
const SBSA: Board = Board {
    name: "sbsa-ref",
    cpu: "neoverse-n1",
    memory: "1G",
    tree: "",
    earlycon: "sbsa-uart,0x60000000",
    port: 0,
    mode: "vhe",
    cpus: (1, 4),
    has_interrupts: false,
};

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for board in BOARDS {
        let runs = move |trial: &mut Trial<'_>| runs(trial, board);
        cases.push(case(format!("boards/{}", board.name), runs));
    }
    cases.push(case("boards/sbsa-ref", without_a_machine));
    cases.into_iter().map(|case| case.needing([Need::DeviceTrees])).collect()
}

/// Returns a reason to skip if the installed QEMU does not have the board.
fn there(board: &Board) -> Result<()> {
    let output = Command::new(parts::qemu()).args(["-machine", "help"]).output()?;
    let list = String::from_utf8_lossy(&output.stdout);
    if list.lines().any(|line| line.split_whitespace().next() == Some(board.name)) {
        return Ok(());
    }
    let lacks = "a QEMU with a board that this one lacks".to_owned();
    let mend = "QEMU 9.0 has raspi4b, and QEMU 10.0 has imx8mp-evk".to_owned();
    Err(Skipped { lacks, detail: Some(board.name.to_owned()), mend }.into())
}

/// Returns a run on the board.
fn request(trial: &Trial<'_>, board: &Board, cmdline: &Cmdline) -> Result<Request> {
    there(board)?;
    let mut request = trial.request(board.mode, cmdline)?;
    let plain = |arg: String| Flag { arg, why: "the board".to_owned() };
    let mut flags = vec![plain(format!("-machine {}", board.name))];
    if !board.tree.is_empty() {
        let path = DeviceTrees::get(None)?.folder.join(board.tree);
        ensure!(path.is_file(), "Debian's kernel package has no {}", board.tree);
        flags.push(plain(format!("-dtb {}", path.display())));
    }
    // QEMU 10.0 gives imx8mp-evk one CPU by default.
    flags.push(plain(format!("-smp {}", board.cpus.1)));
    flags.extend((0..board.port).map(|_| plain("-serial null".to_owned())));
    request.machine = Machine {
        description: board.name.to_owned(),
        cpu: board.cpu.to_owned(),
        memory: board.memory.to_owned(),
        smp: board.cpus.1,
        gic: Gic::V2,
        flags,
        board: true,
        ..request.machine
    };
    // There is nothing to attach virtio devices to.
    let mut config = Config::clone(trial.config());
    config.virtio.modern.clear();
    request.config = Arc::new(config);
    let kernel = trial.kernel().as_ref().clone().with_earlycon(board.earlycon)?;
    request.kernel = Arc::new(kernel);
    request.disk = Disk::Bytes(Arc::new(disk::of(&request.kernel, false)));
    request.fit = Medium::Initrd;
    request.timeout = Duration::from_secs(300);
    Ok(request)
}

/// Runs twenty generations from the initrd.
fn runs(trial: &mut Trial<'_>, board: Board) -> Result<()> {
    let cmdline = Cmdline { generations: 20, base: Base::Random, ..trial.cmdline() };
    let request = request(trial, &board, &cmdline)?;
    let outcome = trial.run(&request)?;
    let verdict = outcome.verdict;
    ensure!(verdict == Verdict::Success, "{}", verdict.words());
    let mut logs = logs(&outcome.console)?;
    let [gone @ .., _] = logs.as_slice() else { bail!("no generation") };
    let reads = |gen_log: &GenerationLog| gen_log.says("no disk: the FIT is the initrd, ");
    ensure!(gone.iter().all(reads), "a generation does not read the initrd");
    for gen_log in &mut logs {
        let number = gen_log.number;
        ensure!(gen_log.cpus == board.cpus, "generation {number} has {:?} CPUs", gen_log.cpus);
        ensure!(
            gen_log.has_interrupts == board.has_interrupts,
            "generation {number} has interrupts: {}",
            gen_log.has_interrupts
        );
        // The rules ask for all CPUs, and these are all that come up.
        gen_log.cpus = (board.cpus.0, board.cpus.0);
        gen_log.ticks.truncate(board.cpus.0 as usize);
    }
    Ok(prove(&logs, &cmdline, Modes::All(board.mode), Some(board.cpus.0))?)
}

/// Starts on a machine that describes itself by ACPI. The kernel must say what it lacks.
fn without_a_machine(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = request(trial, &SBSA, &cmdline)?;
    // QEMU wants ROMs for devices that we do not use, and Debian packages them separately.
    let roms = tempfile::tempdir().context("cannot make a folder for ROMs")?;
    for name in ["vgabios-stdvga.bin", "vgabios-bochs-display.bin", "efi-e1000e.rom"] {
        std::fs::write(roms.path().join(name), [0; 512])?;
    }
    request.args.extend(["-L".to_owned(), roms.path().display().to_string()]);
    let outcome = trial.run(&request)?;
    let logs = logs(&outcome.console)?;
    let [first, ..] = logs.as_slice() else { bail!("no generation") };
    for words in [
        "CPUs: 1 of 4 up; no interrupts: the device tree names no GIC that is known",
        "CPU 1 (MPIDR 0x1) was not started: the device tree names no PSCI: continuing without it",
    ] {
        ensure!(first.says(words), "generation 0 does not print \"{words}\"");
    }
    // QEMU 7.2 writes the initrd's address with 32 bits, and the RAM is at 1 TiB.
    let truncated =
        first.refused.iter().any(|why| why.contains(" outside of RAM, in no-map memory"));
    let expected = if truncated { Verdict::Failed(1) } else { Verdict::Success };
    ensure!(outcome.verdict == expected, "{}", outcome.verdict.words());
    Ok(())
}
