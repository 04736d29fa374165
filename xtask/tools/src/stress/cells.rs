//! The cells of the stress matrix.
//!
//! The axes are machine and mode, CPUs, interrupt controller, transport, restart and placement.
//! The same qemu.toml and options always give the same cells in the same order. A cell's name
//! contains all of its values, so the name alone is enough to repeat it.

use clap::Args;

use anyhow::Result;

use harness::{
    cmdline::{Base, Restart, seed_of, word},
    config::{Config, Gic, Mode, Virtio},
    error::Usage,
    invariants::Modes,
};

/// One point of the matrix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cell {
    /// The machine of qemu.toml.
    pub machine: String,
    /// The mode of the generations.
    pub mode: Mode,
    /// The number of CPUs.
    pub cpus: u32,
    /// The interrupt controller.
    pub gic: Gic,
    /// The way in which virtio devices are attached.
    pub virtio: Virtio,
    /// When the copy is made.
    pub restart: Restart,
    /// The destination of each copy of the kernel.
    pub base: Base,
}

/// A selection of cells. An axis without a value has all the values of qemu.toml.
#[derive(Args, Clone, Debug, Default)]
pub struct Axes {
    /// Machines of qemu.toml [default: all]
    #[arg(long, value_name = "M,…", value_delimiter = ',')]
    machine: Vec<String>,
    /// Numbers of CPUs [default: those of qemu.toml]
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=512)
    )]
    cpus: Vec<u32>,
    /// Interrupt controllers [default: those of qemu.toml]
    #[arg(long, value_enum, value_delimiter = ',')]
    gic: Vec<Gic>,
    /// Ways to attach virtio devices [default: those of qemu.toml]
    #[arg(long, value_enum, value_delimiter = ',')]
    virtio: Vec<Virtio>,
    /// Hot or cold copies [default: both]
    #[arg(long, value_parser = word::<Restart>(), value_delimiter = ',')]
    restart: Vec<Restart>,
    /// Placements of the copies [default: all]
    #[arg(long, value_parser = word::<Base>(), value_delimiter = ',')]
    base: Vec<Base>,
    /// Only the cell with this name, or cells whose names contain it; may be given more than once
    #[arg(long, value_name = "CELL")]
    only: Vec<String>,
}

impl Cell {
    /// The cell's name.
    pub fn name(&self) -> String {
        let Self { cpus, gic, virtio, restart, base, .. } = self;
        format!("{}-{cpus}cpu-gicv{gic}-{virtio}-{restart}-{base}", self.gen_log())
    }

    /// The machine and the mode in one word.
    pub fn gen_log(&self) -> String {
        let alternate = if self.mode == Mode::Alternate { "-alternate" } else { "" };
        format!("{}{alternate}", self.machine)
    }

    /// The modes that its generations are checked against.
    pub fn modes(&self) -> Modes {
        self.mode.into()
    }
}

/// The selected cells, in the order of qemu.toml. An empty selection is a usage error.
pub fn cells(config: &Config, axes: &Axes) -> Result<Vec<Cell>> {
    axes.machine.iter().try_for_each(|name| config.machine(name).map(drop))?;
    fn or<'a, T>(asked: &'a [T], all: &'a [T]) -> &'a [T] {
        if asked.is_empty() { all } else { asked }
    }
    let mut cells = Vec::new();
    for (name, machine) in &config.machines {
        if !axes.machine.is_empty() && !axes.machine.contains(name) {
            continue;
        }
        for &mode in &machine.modes {
            let (all_cpus, all_gics) = match machine.board {
                true => (&[machine.smp][..], &[machine.gic][..]),
                false => (&config.stress.cpus[..], &config.stress.gic[..]),
            };
            for &cpus in or(&axes.cpus, all_cpus) {
                for &gic in or(&axes.gic, all_gics) {
                    for &virtio in or(&axes.virtio, &config.stress.virtio) {
                        for &restart in or(&axes.restart, &[Restart::Hot, Restart::Cold]) {
                            for &base in or(&axes.base, &[Base::Same, Base::Random, Base::Load]) {
                                cells.push(Cell {
                                    machine: name.clone(),
                                    mode,
                                    cpus,
                                    gic,
                                    virtio,
                                    restart,
                                    base,
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    // GICv2 addresses at most eight CPUs. A board is as it is.
    cells.retain(|cell| cell.gic != Gic::V2 || cell.cpus <= 8);
    cells.retain(|cell| {
        let machine = &config.machines[&cell.machine];
        let is_its_own = cell.cpus == machine.smp && cell.gic == machine.gic;
        !machine.board || is_its_own && cell.virtio != Virtio::Pci
    });
    let names: Vec<_> = cells.iter().map(Cell::name).collect();
    let chosen = |name: &String| {
        axes.only.is_empty()
            || axes
                .only
                .iter()
                .any(|only| name == only || (!names.contains(only) && name.contains(only.as_str())))
    };
    cells.retain(|cell| chosen(&cell.name()));
    if cells.is_empty() {
        return Err(Usage(
            "no cell matches these options; `cargo xtask stress --list` shows all cells".into(),
        )
        .into());
    }
    Ok(cells)
}

/// A part of the cells: part `index` of `count`, counted from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// Parses `2/3`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if 0 < index && index <= count => Ok(Self { index, count }),
            _ => Err(format!("`{text}` is not a shard: type I/N with I from 1 to N, as in 1/4")),
        }
    }

    /// The cells of this shard. Neighbours in the matrix are alike, so they are shuffled first. The
    /// names alone decide the order, so it is the same on every host.
    pub fn of(self, cells: &[Cell]) -> Vec<Cell> {
        let mut order: Vec<_> = cells.iter().collect();
        order.sort_by_cached_key(|cell| (seed_of(0, &cell.name()), cell.name()));
        let mine: Vec<_> = order.into_iter().skip(self.index - 1).step_by(self.count).collect();
        cells.iter().filter(|cell| mine.contains(cell)).cloned().collect()
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn config() -> Config {
        Config::read(&harness::paths::root()).unwrap()
    }

    fn all() -> Vec<Cell> {
        cells(&config(), &Axes::default()).unwrap()
    }

    #[test]
    fn no_two_cells_have_one_name_and_every_axis_is_there() {
        let names: BTreeSet<_> = all().iter().map(Cell::name).collect();
        assert_eq!(names.len(), all().len());
        for part in [
            "el1-",
            "nvhe-",
            "vhe-1",
            "vhe-alternate-",
            "-1cpu-",
            "-4cpu-",
            "-gicv2-",
            "-gicv3-",
            "-legacy-",
            "-modern-",
            "-pci-",
        ] {
            assert!(names.iter().any(|name| name.contains(part)), "{part}");
        }
        assert!(names.contains("vhe-alternate-4cpu-gicv3-modern-cold-random"));
    }

    #[test]
    fn a_whole_name_is_that_cell_and_a_part_is_all_that_have_it() {
        let only = |only: &str| Axes { only: vec![only.to_owned()], ..Axes::default() };
        assert_eq!(cells(&config(), &only("el1-1cpu-gicv2-legacy-hot-same")).unwrap().len(), 1);
        assert!(cells(&config(), &only("hot-same")).unwrap().len() > 1);
        assert!(cells(&config(), &only("pdp11")).unwrap_err().is::<Usage>());
        let axes = Axes {
            machine: vec!["nvhe".into()],
            cpus: vec![3],
            gic: vec![Gic::V3],
            ..Axes::default()
        };
        assert!(
            cells(&config(), &axes)
                .unwrap()
                .iter()
                .all(|cell| cell.name().starts_with("nvhe-3cpu-gicv3-"))
        );
        let axes = Axes { machine: vec!["pdp11".into()], ..Axes::default() };
        assert!(cells(&config(), &axes).unwrap_err().is::<Usage>());
    }

    #[test]
    fn shards_are_the_whole_and_share_nothing() {
        for count in [1, 2, 3, 7, 1000] {
            let mut names: Vec<_> = (1..=count)
                .flat_map(|index| Shard { index, count }.of(&all()))
                .map(|cell| cell.name())
                .collect();
            names.sort();
            let mut expected: Vec<_> = all().iter().map(Cell::name).collect();
            expected.sort();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn a_shard_has_some_of_every_mode() {
        let shard = Shard::parse("1/4").unwrap().of(&all());
        // The modes of el1, nvhe and vhe (two), and the board.
        assert_eq!(shard.iter().map(Cell::gen_log).collect::<BTreeSet<_>>().len(), 5);
        for wrong in ["0/2", "3/2", "1", "a/b", "1/0"] {
            assert!(Shard::parse(wrong).is_err(), "{wrong}");
        }
    }
}
