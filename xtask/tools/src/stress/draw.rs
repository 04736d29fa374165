//! The random choices of a run: CPU model, RAM size, its own seed, more parameters.
//!
//! They depend only on the campaign's seed, the cell's name and the round. A run is therefore the
//! same on every host, whatever ran before it. [`Job::again`] is the line that repeats one.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use relocate::random::SplitMix64;

use harness::{
    cmdline::{Base, Cmdline, seed_of},
    config::{Config, Mode},
    disk, qemu,
    request::{Disk, Medium, Request},
};

use super::{cells::Cell, faults::kind::Kind, setting::Setting};

/// The fewest generations of a run. From the third on, each generation is like the one before.
pub const FEWEST: u32 = 3;

/// Parameters that a run may draw: kexec from a random CPU; leave stale interrupts for the next
/// kernel.
const WORDS: [&str; 2] = ["restart-cpu=random", "selftest=interrupts"];

/// The default limit on a console's silence. On an idle host a generation takes a hundredth of it.
pub const SILENCE: Duration = Duration::from_secs(20);

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Job {
    /// The cell.
    pub cell: Cell,
    /// The index of this run among those of its cell, from 0.
    pub round: u32,
    /// The number of generations.
    pub generations: u32,
    /// The fault to inject, if any.
    pub fault: Option<Kind>,
}

/// The random choices for a run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drawn {
    /// The run's own seed, from which its kernels draw.
    pub seed: u64,
    /// The CPU model.
    pub cpu: String,
    /// The size of RAM.
    pub memory: String,
    /// More parameters for the kernel.
    pub words: Vec<String>,
    /// True if the machine has a network device on which frames arrive all the time.
    pub network: bool,
    /// The way in which the machine gets the FIT. Faults, and FITs with a load address, which the
    /// initrd may cover, are on a disk.
    pub fit: Medium,
}

impl Job {
    /// Draws the choices of this run.
    pub fn drawn(&self, seed: u64, config: &Config) -> Result<Drawn> {
        let mut random = self.random(seed);
        let machine = config.machine(&self.cell.machine)?;
        let (seed, cpu) = (random.next_u64(), one_of(&mut random, &machine.cpus).clone());
        let drawn = one_of(&mut random, &config.stress.memory);
        let memory = if machine.board { &machine.memory } else { drawn }.clone();
        let mut words: Vec<_> =
            WORDS.iter().filter(|_| random.below(2) == 1).map(|word| (*word).to_owned()).collect();
        // With EL3, QEMU 7.2 ignores non-secure writes to ICC_AP1R0_EL1: there, an interrupt that
        // was never ended blocks all others.
        words.retain(|word| !machine.board || word != "selftest=interrupts");
        let network = random.below(2) == 1;
        let is_free = self.fault.is_none() && self.cell.base != Base::Load;
        let fit = if random.below(4) == 0 && is_free { Medium::Initrd } else { Medium::Disk };
        Ok(Drawn { seed, cpu, memory, words, network, fit })
    }

    /// The random number generator of this run.
    pub fn random(&self, seed: u64) -> SplitMix64 {
        let fault = self.fault.map_or(String::new(), Kind::name);
        SplitMix64::new(seed_of(seed, &format!("{} {} {fault}", self.cell.name(), self.round)))
    }

    /// The kernel's parameters.
    pub fn cmdline(&self, drawn: &Drawn) -> Cmdline {
        Cmdline {
            generations: self.generations,
            base: self.cell.base,
            restart: self.cell.restart,
            seed: drawn.seed,
            append: (self.cell.mode == Mode::Alternate)
                .then(|| "alternate".to_owned())
                .into_iter()
                .chain(drawn.words.iter().cloned())
                .collect(),
        }
    }

    /// Composes the run.
    pub fn request(&self, drawn: &Drawn, cmdline: &Cmdline, setting: &Setting) -> Result<Request> {
        let Setting { config, kernel, silence, .. } = setting;
        let mut request = Request::new(config, &self.cell.machine, kernel)?;
        request.name = self.cell.name();
        (request.cpu, request.memory) = (Some(drawn.cpu.clone()), Some(drawn.memory.clone()));
        request.cpus = Some(self.cell.cpus);
        request.gic = Some(self.cell.gic);
        request.virtio = Some(self.cell.virtio);
        (request.network, request.fit) = (drawn.network, drawn.fit);
        request.seed = drawn.seed;
        request.bootargs = cmdline.bootargs(&request.machine.bootargs, request.semihosting);
        request.disk =
            Disk::Bytes(Arc::new(disk::of(&request.kernel, self.cell.base == Base::Load)));
        // The limit on silence ends a run that hangs; this one ends a run that prints without end.
        request.timeout = Duration::from_secs(60) + Duration::from_secs(2) * cmdline.generations;
        request.silence = Some(*silence);
        Ok(request)
    }

    /// The line that repeats this run and no other.
    pub fn again(&self, setting: &Setting) -> String {
        let Self { cell, round, generations, fault } = self;
        let mut words: Vec<String> = ["cargo", "xtask", "stress"].map(str::to_owned).into();
        if let Some(fault) = fault {
            words.extend(["--faults".to_owned(), "--fault".to_owned(), fault.name()]);
        }
        words.extend([
            "--seed".to_owned(),
            format!("{:#018x}", setting.seed),
            "--only".to_owned(),
            cell.name(),
        ]);
        // Always name the number of CPUs: one that qemu.toml does not list is not in the default
        // matrix.
        words.extend([
            "--cpus".to_owned(),
            cell.cpus.to_string(),
            "--round".to_owned(),
            round.to_string(),
        ]);
        words.extend(["--generations".to_owned(), generations.to_string()]);
        if setting.silence != SILENCE {
            words.extend(["--silence".to_owned(), setting.silence.as_secs().to_string()]);
        }
        words.extend(setting.parts.iter().cloned());
        qemu::shell_line(words)
    }
}

fn one_of<'a, T>(random: &mut SplitMix64, all: &'a [T]) -> &'a T {
    &all[random.below(all.len() as u64) as usize]
}

/// Shuffles `items`.
pub fn shuffle<T>(random: &mut SplitMix64, items: &mut [T]) {
    for end in (1..items.len()).rev() {
        items.swap(end, random.below(end as u64 + 1) as usize);
    }
}

/// Divides `generations` evenly among `cells`, but gives no cell fewer than [`FEWEST`]. If there
/// are not enough for all cells, a random selection of them gets a share.
pub fn shares(seed: u64, generations: u64, cells: &[Cell]) -> Vec<Job> {
    let fit = (generations / u64::from(FEWEST)).clamp(1, cells.len() as u64) as usize;
    let mut drawn: Vec<_> = cells.iter().collect();
    shuffle(&mut SplitMix64::new(seed_of(seed, "shares")), &mut drawn);
    drawn.truncate(fit);
    let generations = generations.max(u64::from(FEWEST));
    let (each, rest) = (generations / fit as u64, generations % fit as u64);
    let share =
        |place: usize| u32::try_from(each + u64::from((place as u64) < rest)).unwrap_or(u32::MAX);
    drawn
        .into_iter()
        .enumerate()
        .map(|(place, cell)| Job {
            cell: cell.clone(),
            round: 0,
            generations: share(place),
            fault: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::stress::cells::{Axes, cells};

    fn all() -> (Config, Vec<Cell>) {
        let config = Config::read(&harness::paths::root()).unwrap();
        let cells = cells(&config, &Axes::default()).unwrap();
        (config, cells)
    }

    #[test]
    fn every_generation_has_its_cell() {
        let (_, cells) = all();
        for generations in [1, 3, 100, 1000, 5000, 12_345] {
            let jobs = shares(1, generations, &cells);
            let sum: u64 = jobs.iter().map(|job| u64::from(job.generations)).sum();
            assert_eq!(sum, generations.max(3));
            assert!(jobs.iter().all(|job| job.generations >= FEWEST));
            let names: BTreeSet<_> = jobs.iter().map(|job| job.cell.name()).collect();
            assert_eq!(names.len(), jobs.len());
        }
        assert_eq!(shares(1, 5000, &cells).len(), cells.len());
    }

    #[test]
    fn a_run_is_drawn_from_seed_cell_and_round_alone() {
        let (config, cells) = all();
        let job =
            |at: usize, round| Job { cell: cells[at].clone(), round, generations: 3, fault: None };
        let drawn = job(0, 0).drawn(1, &config).unwrap();
        assert_eq!(Job { generations: 9, ..job(0, 0) }.drawn(1, &config).unwrap(), drawn);
        assert_ne!(job(0, 1).drawn(1, &config).unwrap().seed, drawn.seed);
        assert_ne!(job(1, 0).drawn(1, &config).unwrap().seed, drawn.seed);
        assert_ne!(job(0, 0).drawn(2, &config).unwrap().seed, drawn.seed);
        let of = |value: fn(Drawn) -> String| {
            (0..100)
                .map(|round| value(job(0, round).drawn(1, &config).unwrap()))
                .collect::<BTreeSet<_>>()
                .len()
        };
        assert_eq!(of(|drawn| drawn.memory), config.stress.memory.len());
        assert!(of(|drawn| drawn.cpu) > 1);
        assert_eq!(of(|drawn| drawn.words.join(" ")), 4);
        assert_eq!(of(|drawn| drawn.network.to_string()), 2);
        let fits: BTreeSet<_> = cells
            .iter()
            .enumerate()
            .flat_map(|(at, cell)| (0..20).map(move |round| (at, cell.base == Base::Load, round)))
            .map(|(at, is_load, round)| (is_load, job(at, round).drawn(1, &config).unwrap().fit))
            .collect();
        let due = [(false, Medium::Disk), (false, Medium::Initrd), (true, Medium::Disk)];
        assert_eq!(fits, BTreeSet::from(due));
    }
}
