//! Reader of qemu.toml: machines, QEMU flags with reasons, the stress matrix.
//!
//! Every verb that starts QEMU reads it first. No code here knows the name of a machine: a new
//! machine is a new table. The reader refuses unknown keys and a flag without a reason. An unknown
//! machine is a usage error that lists the known ones.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Deserialize;

use crate::error::Usage;

/// The whole of qemu.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Flags of every run, whatever the machine.
    pub common: Common,
    /// Flags by the way in which virtio devices are attached.
    pub virtio: VirtioFlags,
    /// Flags by interrupt controller.
    pub gic: GicFlags,
    /// The axes that the stress harness multiplies the machines by.
    pub stress: Stress,
    /// The machines by name.
    #[serde(rename = "machine")]
    pub machines: BTreeMap<String, Machine>,
    /// Loaders of the user's own, by name.
    #[serde(rename = "loader", default)]
    pub loaders: BTreeMap<String, OwnLoader>,
    /// Arguments of the user's own, for each QEMU.
    #[serde(skip)]
    pub args: Vec<String>,
}

/// A loader of the user's own: a command, as `--exec` and `--console` take it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnLoader {
    /// The command that starts the Image.
    pub exec: String,
    /// The console, if it is not the command's standard output.
    #[serde(default)]
    pub console: Option<PathBuf>,
    /// The version, for known breaks and reports.
    #[serde(default)]
    pub version: Option<String>,
}

/// A file of the user's own, with the part of [`Config`] that he may add to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    #[serde(rename = "machine", default)]
    machines: BTreeMap<String, Machine>,
    #[serde(rename = "loader", default)]
    loaders: BTreeMap<String, OwnLoader>,
}

/// Flags that do not depend on the machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// Flags of every run.
    pub flags: Vec<Flag>,
    /// Flags for runs of our own kernel only.
    pub semihosting: Vec<Flag>,
    /// The UART that the early console uses, as Linux's `earlycon=` describes it.
    pub earlycon: String,
}

/// Flags by the way in which virtio devices are attached.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtioFlags {
    /// virtio-mmio, version 2 of its registers.
    pub modern: Vec<Flag>,
    /// virtio-mmio, version 1.
    pub legacy: Vec<Flag>,
    /// virtio-pci.
    pub pci: Vec<Flag>,
}

/// Flags by interrupt controller.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GicFlags {
    /// GICv2.
    pub v2: Vec<Flag>,
    /// GICv3.
    pub v3: Vec<Flag>,
}

/// The axes of the stress matrix, and the RAM sizes that its runs draw from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stress {
    /// Numbers of CPUs.
    pub cpus: Vec<u32>,
    /// Interrupt controllers.
    pub gic: Vec<Gic>,
    /// Ways in which virtio devices are attached.
    pub virtio: Vec<Virtio>,
    /// Sizes of RAM, as QEMU's `-m` takes them; each run draws one.
    pub memory: Vec<String>,
}

/// One machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// One line of description.
    pub description: String,
    /// The CPU of a plain run.
    pub cpu: String,
    /// Every CPU that the tests run this machine with.
    pub cpus: Vec<String>,
    /// The RAM of a plain run, as QEMU's `-m` takes it.
    pub memory: String,
    /// The number of CPUs of a plain run.
    pub smp: u32,
    /// The interrupt controller of a plain run.
    pub gic: Gic,
    /// The way in which a plain run's virtio devices are attached.
    pub virtio: Virtio,
    /// QEMU's flags for this machine.
    pub flags: Vec<Flag>,
    /// Parameters that every kernel on this machine gets.
    pub bootargs: String,
    /// The modes that the stress harness runs this machine's generations in.
    pub modes: Vec<Mode>,
    /// QEMU models a board: its GIC and its CPUs are as `gic` and `smp` say, and no flag changes
    /// them. It has no PCI host that we know.
    #[serde(default)]
    pub board: bool,
    /// Overrides [`Common::earlycon`].
    #[serde(default)]
    pub earlycon: Option<String>,
}

/// The mode that a run's generations run in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The kernel at EL1, on a machine without EL2.
    El1,
    /// The kernel at EL1, above its own hyp-stub at EL2.
    Nvhe,
    /// The kernel at EL2, with HCR_EL2.E2H set.
    Vhe,
    /// nvhe and vhe in turn.
    Alternate,
}

/// One QEMU flag with its value and its reason.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flag {
    /// The flag as typed; it is split at spaces.
    pub arg: String,
    /// The reason, for the reader of qemu.toml; must not be empty.
    pub why: String,
}

/// A way to attach virtio devices.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Virtio {
    /// virtio-mmio, register version 2: virtio 1.0 and later
    Modern,
    /// virtio-mmio, register version 1: older than the virtio standard
    Legacy,
    /// virtio-pci, found through the ECAM
    Pci,
}

/// An interrupt controller of `virt`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
#[serde(try_from = "u32")]
pub enum Gic {
    /// GICv2.
    #[value(name = "2")]
    V2,
    /// GICv3.
    #[value(name = "3")]
    V3,
}

impl TryFrom<u32> for Gic {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, String> {
        match version {
            2 => Ok(Self::V2),
            3 => Ok(Self::V3),
            other => Err(format!("there is no GICv{other} here: 2 or 3")),
        }
    }
}

impl fmt::Display for Gic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "2",
            Self::V3 => "3",
        })
    }
}

impl fmt::Display for Virtio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Modern => "modern",
            Self::Legacy => "legacy",
            Self::Pci => "pci",
        })
    }
}

impl Virtio {
    /// Every way to attach devices.
    pub const ALL: [Self; 3] = [Self::Legacy, Self::Modern, Self::Pci];

    /// QEMU's name for the virtio device `kind` when it is attached in this way.
    pub fn device(self, kind: &str) -> String {
        match self {
            Self::Modern | Self::Legacy => format!("virtio-{kind}-device"),
            Self::Pci => format!("virtio-{kind}-pci"),
        }
    }
}

impl Flag {
    /// The flag, split into arguments for QEMU.
    pub fn words(&self) -> impl Iterator<Item = String> {
        self.arg.split_whitespace().map(str::to_owned)
    }
}

impl Config {
    /// Reads `qemu.toml` in the directory `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join("qemu.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| {
            format!("{} does not have the format that its first lines describe", path.display())
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        let machines = config.machines.values().flat_map(|machine| &machine.flags);
        let common = config.common.flags.iter().chain(&config.common.semihosting);
        let virtio =
            config.virtio.modern.iter().chain(&config.virtio.legacy).chain(&config.virtio.pci);
        let gic = config.gic.v2.iter().chain(&config.gic.v3);
        reasons(machines.chain(common).chain(virtio).chain(gic))?;
        Ok(config)
    }

    /// Adds the machines and loaders of the user's file. A machine of the same name is replaced.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Usage(format!("--config: cannot read {}: {error}", path.display())))?;
        let own: Own = toml::from_str(&text)
            .with_context(|| format!("{} is not tables of machines and loaders", path.display()))?;
        reasons(own.machines.values().flat_map(|machine| &machine.flags))
            .with_context(|| path.display().to_string())?;
        self.machines.extend(own.machines);
        self.loaders.extend(own.loaders);
        Ok(())
    }

    /// The machine called `name`. An unknown name is a usage error that lists the known ones.
    pub fn machine(&self, name: &str) -> Result<&Machine> {
        self.machines.get(name).ok_or_else(|| {
            let known: Vec<_> = self.machines.keys().map(String::as_str).collect();
            Usage(format!(
                "there is no machine `{name}` in qemu.toml; there are: {}",
                known.join(", ")
            ))
            .into()
        })
    }
}

/// Checks that each flag has a reason.
fn reasons<'a>(flags: impl Iterator<Item = &'a Flag>) -> Result<()> {
    for flag in flags {
        anyhow::ensure!(
            !flag.why.trim().is_empty(),
            "the flag `{}` has no reason: fill in its `why`",
            flag.arg
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_ones_own_adds_machines_and_loaders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my.toml");
        let machine = "[machine.big]\ndescription = \"\"\ncpu = \"max\"\ncpus = [\"max\"]\n\
                       memory = \"8G\"\nsmp = 64\ngic = 3\nvirtio = \"pci\"\nbootargs = \"\"\n\
                       modes = [\"nvhe\"]\nflags = [{ arg = \"-machine virt\", why = \"WHY\" }]\n\
                       [loader.vmm]\nexec = \"vmm {image}\"\n";
        let mut config = Config::read(&crate::paths::root()).unwrap();
        std::fs::write(&path, machine).unwrap();
        config.add(&path).unwrap();
        assert_eq!(config.machine("big").unwrap().smp, 64);
        assert_eq!(config.loaders["vmm"].exec, "vmm {image}");
        assert!(config.machine("nvhe").is_ok());
        for wrong in [machine.replace("WHY", ""), machine.replace("smp", "smq"), "[common]".into()]
        {
            std::fs::write(&path, wrong).unwrap();
            assert!(config.add(&path).is_err());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(config.add(&path).unwrap_err().is::<Usage>());
    }

    #[test]
    fn the_file_of_the_tree_is_read_and_has_the_three_modes() {
        let config = Config::read(&crate::paths::root()).unwrap();
        for name in ["el1", "nvhe", "vhe"] {
            let machine = config.machine(name).unwrap();
            assert!(
                machine.cpus.contains(&machine.cpu),
                "{name}: the plain CPU is one of those that are tested"
            );
        }
        assert_eq!(config.machine("nvhe").unwrap().bootargs, "el2=nvhe");
        assert_eq!(config.machine("vhe").unwrap().bootargs, "el2=vhe");
    }

    #[test]
    fn an_unknown_machine_is_a_usage_error_that_names_the_others() {
        let error = Config::read(&crate::paths::root()).unwrap().machine("pdp11").unwrap_err();
        assert!(error.is::<Usage>());
        let words = error.to_string();
        assert!(words.contains("pdp11") && words.contains("nvhe"), "{words}");
    }

    #[test]
    fn a_flag_needs_a_reason_and_a_key_must_be_known() {
        let text = |why: &str, more: &str| {
            format!(
                "[common]\nflags = [{{ arg = \"-x\", why = \"{why}\" }}]\n\
                 semihosting = []\nearlycon = \"\"\n{more}\n\
                 [virtio]\nmodern = []\nlegacy = []\npci = []\n[gic]\nv2 = []\nv3 = []\n\
                 [stress]\ncpus = []\ngic = [2]\nvirtio = []\nmemory = []\n[machine]\n"
            )
        };
        assert!(Config::parse(&text("because", "")).is_ok());
        assert!(Config::parse(&text(" ", "")).unwrap_err().to_string().contains("`-x`"));
        assert!(Config::parse(&text("because", "flgas = 1")).is_err());
    }
}
