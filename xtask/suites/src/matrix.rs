//! The test matrix: every mode, restart, base and virtio transport.
//!
//! CPUs and memory sizes take turns over the points. In addition, each machine of qemu.toml runs
//! once with each of its CPUs.

use anyhow::{Context, Result};

use harness::{
    cmdline::{Base, Cmdline, Restart},
    config::{Config, Virtio},
    invariants::{self, Modes, check},
};

use super::case::{Case, Trial, case};

/// Sizes of RAM. Most are not powers of two; the last is not a multiple of 2 MiB.
const MEMORY: [&str; 5] = ["512M", "200M", "384M", "768M", "1537M"];

/// Number of generations. Generation 2 is the first that equals all later ones; three follow it.
const GENERATIONS: u32 = 6;

/// Each mode's name, its machine, and the modes of its generations.
pub const MODES: [(&str, &str, Modes); 4] = [
    ("el1", "el1", Modes::All("el1")),
    ("nvhe", "nvhe", Modes::All("nvhe")),
    ("vhe", "vhe", Modes::All("vhe")),
    ("alternate", "vhe", Modes::Alternate),
];

/// Returns the parameters for these modes, in addition to those of the machine.
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

/// Returns the cases of this suite.
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
    for restart in [Restart::Hot, Restart::Cold] {
        for base in [Base::Same, Base::Random, Base::Load] {
            for virtio in [Virtio::Legacy, Virtio::Modern] {
                let name = format!("matrix/versal-{restart}-{base}-{virtio}");
                cases.push(case(name, move |trial| versal(trial, restart, base, virtio)));
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

/// Runs on QEMU's board, whose CPU and RAM are the machine's own.
fn versal(trial: &mut Trial<'_>, restart: Restart, base: Base, virtio: Virtio) -> Result<()> {
    let cmdline = Cmdline { generations: GENERATIONS, restart, base, ..trial.cmdline() };
    let mut request = trial.request("versal", &cmdline)?;
    request.virtio = Some(virtio);
    check(&trial.logs(&request)?, &cmdline, Modes::All("nvhe"))
}

impl Point {
    fn pass(&self, trial: &mut Trial<'_>) -> Result<()> {
        let Self { machine, modes, restart, base, virtio, cpu, memory } = self.clone();
        let cmdline = Cmdline {
            generations: GENERATIONS,
            base,
            restart,
            append: words_for(modes),
            ..trial.cmdline()
        };
        let mut request = trial.request(machine, &cmdline)?;
        (request.cpu, request.memory, request.virtio) =
            (Some(cpu), Some(memory.to_owned()), Some(virtio));
        check(&trial.logs(&request)?, &cmdline, modes)
    }
}

/// Runs three generations in the machine's own mode, with no parameters but the machine's and the
/// default ones.
fn plainly(trial: &mut Trial<'_>, machine: &str, cpu: &str) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = trial.request(machine, &cmdline)?;
    request.cpu = Some(cpu.to_owned());
    let logs = trial.logs(&request)?;
    let mode = logs.first().map_or("", |gen_log| gen_log.mode.as_str());
    let known = invariants::MODES.into_iter().find(|known| *known == mode);
    check(&logs, &cmdline, Modes::All(known.with_context(|| format!("no mode: {mode}"))?))
}
