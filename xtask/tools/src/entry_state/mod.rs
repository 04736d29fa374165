//! Registers at the first instruction, after a cold boot and after a self-kexec, side by side.
//!
//! The verb `diff-entry` and the cases `entry/*` use it. A debugger stops the guest at `_start`
//! once in each generation: QEMU's loader entered the first, the previous generation each later
//! one. With `base=same`, `_start` is always at one physical address. QEMU keeps the breakpoint in
//! the CPU, not as an instruction in memory, so the copy over `_start` does not remove it.
//!
//! Refuses a register that differs and is not on the list in `allowed.rs`, or that differs in
//! another bit.

mod allowed;
mod compare;
mod page;
mod registers;
mod verb;

use anyhow::Result;

use harness::{
    cmdline::{Base, Cmdline, Restart},
    config::{Config, Machine, Mode},
    debugger::LOADED,
    invariants::Modes,
    postmortem::Gdb,
};

pub use self::{
    compare::{Row, broken, rows, too_much},
    page::{PAGE, page, written_with},
    registers::Registers,
    verb::DiffEntryOptions,
};

/// Generations per run: one entered by the loader, one entered by that, and one entered by a kernel
/// that was itself entered by kexec. With `alternate` the last two are entered from nvhe and from
/// vhe.
pub const GENERATIONS: u32 = 3;

/// One run: machine, mode, kind of restart, CPU.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cell {
    /// The machine's name in qemu.toml.
    pub machine: String,
    /// The mode of its generations.
    pub mode: Mode,
    /// The kind of restart.
    pub restart: Restart,
    /// QEMU's name of the CPU model.
    pub cpu: String,
}

impl Cell {
    /// Returns machine and mode as one word: the name of a column on the page.
    pub fn gen_log(&self) -> String {
        let alternate = if self.mode == Mode::Alternate { "-alternate" } else { "" };
        format!("{}{alternate}", self.machine)
    }

    /// Returns the name of the run's case.
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.gen_log(), self.restart, self.cpu)
    }

    /// Returns the parameters for its generations.
    pub fn cmdline(&self, seed: u64) -> Cmdline {
        let append =
            if self.mode == Mode::Alternate { vec!["alternate".to_owned()] } else { Vec::new() };
        Cmdline { generations: GENERATIONS, base: Base::Same, restart: self.restart, seed, append }
    }

    /// Returns the modes that the console must show.
    pub fn modes(&self) -> Modes {
        self.mode.into()
    }
}

/// Returns every machine with its default CPU in all its modes and both restarts; with `all_cpus`
/// also its other CPUs, hot only.
pub fn cells(config: &Config, all_cpus: AllCpus) -> Vec<Cell> {
    let mut cells = Vec::new();
    // A board's registers are its own firmware's.
    for (name, machine) in config.machines.iter().filter(|(_, machine)| !machine.board) {
        for &mode in &machine.modes {
            let cell = |restart, cpu: &String| Cell {
                machine: name.clone(),
                mode,
                restart,
                cpu: cpu.clone(),
            };
            cells.extend([Restart::Hot, Restart::Cold].map(|restart| cell(restart, &machine.cpu)));
            if all_cpus == AllCpus::Yes {
                cells.extend(others(machine).map(|cpu| cell(Restart::Hot, cpu)));
            }
        }
    }
    cells
}

/// The choice between all CPU models of a machine and its default.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AllCpus {
    /// All models.
    Yes,
    /// The default only.
    No,
}

fn others(machine: &Machine) -> impl Iterator<Item = &String> {
    machine.cpus.iter().filter(|&cpu| *cpu != machine.cpu)
}

/// Records the registers at the first instruction of each generation.
///
/// The guest must be stopped before its first instruction; afterwards it continues without the
/// debugger.
pub fn record(mut gdb: Gdb) -> Result<Vec<Registers>> {
    let mut found = Vec::new();
    for _ in 0..GENERATIONS {
        gdb.run_to(LOADED)?;
        found.push(Registers::read(&mut gdb)?);
    }
    gdb.detach()?;
    Ok(found)
}
