//! The state that the first instruction finds: after a cold boot, and after a self-kexec, side by side.
//!
//! *When:* by the verb `diff-entry` and by the cases `entry/*`. A debugger stops the guest at `_start` once in each generation: the first was sent by
//! QEMU's loader, the others by a generation of ours. With `base=same` that is one physical address. QEMU keeps a breakpoint in the CPU, not as an instruction in
//! memory, so the copy that overwrites `_start` does not take it away; what is stopped at is the copy. *Refuses* a register that differs and is not on the
//! list of `allowed.rs`, and a bit of one that is.

mod allowed;
mod compare;
mod page;
mod registers;
mod verb;

use anyhow::Result;

use crate::{
    config::{Config, Machine, Mode},
    debugger::LOADED,
    explain::Gdb,
    orders::{Base, Orders, Restart},
    proof::Modes,
};

pub use self::{
    compare::{Row, broken, rows, too_much},
    page::{PAGE, page, written_with},
    registers::Registers,
    verb::DiffEntryOptions,
};

/// The cold boot, one that a first generation sent, and one that was itself sent: in an alternate run they come from nvhe and from vhe.
pub const GENERATIONS: u32 = 3;

/// One run: a machine, what its generations live in, how they leave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cell {
    /// Of qemu.toml.
    pub machine: String,
    /// What its generations live in.
    pub mode: Mode,
    /// How they leave.
    pub restart: Restart,
    /// As QEMU knows it.
    pub cpu: String,
}

impl Cell {
    /// Machine and mode in a word.
    pub fn life(&self) -> String {
        let alternate = if self.mode == Mode::Alternate { "-alternate" } else { "" };
        format!("{}{alternate}", self.machine)
    }

    /// What it is called.
    pub fn name(&self) -> String {
        format!("{}-{}-{}", self.life(), self.restart, self.cpu)
    }

    /// What its generations are told.
    pub fn orders(&self, seed: u64) -> Orders {
        let append =
            if self.mode == Mode::Alternate { vec!["alternate".to_owned()] } else { Vec::new() };
        Orders { generations: GENERATIONS, base: Base::Same, restart: self.restart, seed, append }
    }

    /// What they are proved against.
    pub fn modes(&self) -> Modes {
        self.mode.into()
    }
}

/// Every machine with its own CPU in all its modes and both restarts; with `all_cpus`, its other CPUs as well, hot.
pub fn cells(config: &Config, all_cpus: AllCpus) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (name, machine) in &config.machines {
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

/// Are the CPUs of a machine wanted that it has besides its own?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AllCpus {
    /// They are.
    Yes,
    /// Its own is enough.
    No,
}

fn others(machine: &Machine) -> impl Iterator<Item = &String> {
    machine.cpus.iter().filter(|&cpu| *cpu != machine.cpu)
}

/// What the first instruction of each generation finds. The guest is stopped before its first instruction, and goes on in the end.
pub fn record(mut gdb: Gdb) -> Result<Vec<Registers>> {
    let mut found = Vec::new();
    for _ in 0..GENERATIONS {
        gdb.run_to(LOADED)?;
        found.push(Registers::read(&mut gdb)?);
    }
    gdb.detach()?;
    Ok(found)
}
