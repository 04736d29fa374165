//! The matrix: every mode, restart, base and way to attach devices, on CPUs and memory sizes that take turns.
//!
//! *When:* the bulk of the machines' cases. And each machine of qemu.toml with each of its CPUs once, whoever added it.

use anyhow::{Context, Result};

use crate::{
    config::{Config, Virtio},
    orders::{Base, Orders, Restart},
    proof::{self, Modes, check},
};

use super::case::{Case, Trial, case};

/// Sizes of RAM, most of them no power of two; the last is no multiple of 2 MiB.
const MEMORY: [&str; 5] = ["512M", "200M", "384M", "768M", "1537M"];

/// How many generations: two more than the first that is like all later ones.
const GENERATIONS: u32 = 6;

/// A mode, the machine that has it, and what its generations live in.
pub const MODES: [(&str, &str, Modes); 4] = [
    ("el1", "el1", Modes::All("el1")),
    ("nvhe", "nvhe", Modes::All("nvhe")),
    ("vhe", "vhe", Modes::All("vhe")),
    ("alternate", "vhe", Modes::Alternate),
];

/// What the kernel is told for these modes, beside what its machine says.
pub fn words_for(modes: Modes) -> Vec<String> {
    if modes == Modes::Alternate { vec!["alternate".to_owned()] } else { Vec::new() }
}

/// One point of the matrix.
#[derive(Clone, Debug)]
struct Point {
    machine: &'static str,
    modes: Modes,
    restart: Restart,
    base: Base,
    virtio: Virtio,
    cpu: String,
    memory: &'static str,
}

/// All of them.
pub fn cases(config: &Config) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut turn = 0;
    for (mode, machine, modes) in MODES {
        let Some(cpus) = config.machines.get(machine).map(|machine| &machine.cpus) else {
            continue;
        };
        for restart in [Restart::Hot, Restart::Cold] {
            for base in [Base::Same, Base::Random, Base::Load] {
                for virtio in Virtio::ALL {
                    let cpu = cpus[turn % cpus.len()].clone();
                    let memory = MEMORY[turn % MEMORY.len()];
                    turn += 1;
                    let point = Point { machine, modes, restart, base, virtio, cpu, memory };
                    let name = format!("matrix/{mode}-{restart}-{base}-{virtio}");
                    cases.push(case(name, move |trial| point.pass(trial)));
                }
            }
        }
    }
    for (name, machine) in &config.machines {
        for cpu in &machine.cpus {
            let (machine, cpu) = (name.clone(), cpu.clone());
            cases.push(case(format!("machines/{machine}-{cpu}"), move |trial| {
                plainly(trial, &machine, &cpu)
            }));
        }
    }
    cases
}

impl Point {
    fn pass(&self, trial: &mut Trial<'_>) -> Result<()> {
        let Self { machine, modes, restart, base, virtio, cpu, memory } = self.clone();
        let orders = Orders {
            generations: GENERATIONS,
            base,
            restart,
            append: words_for(modes),
            ..trial.orders()
        };
        let mut request = trial.request(machine, &orders)?;
        (request.cpu, request.memory, request.virtio) =
            (Some(cpu), Some(memory.to_owned()), Some(virtio));
        check(&trial.lives(&request)?, &orders, modes)
    }
}

/// Three generations of one mode, whichever the machine has, with nothing said that the machine does not say itself.
fn plainly(trial: &mut Trial<'_>, machine: &str, cpu: &str) -> Result<()> {
    let orders = trial.orders();
    let mut request = trial.request(machine, &orders)?;
    request.cpu = Some(cpu.to_owned());
    let lives = trial.lives(&request)?;
    let mode = lives.first().map_or("", |life| life.mode.as_str());
    let known = proof::MODES.into_iter().find(|known| *known == mode);
    check(&lives, &orders, Modes::All(known.with_context(|| format!("no mode: {mode}"))?))
}
