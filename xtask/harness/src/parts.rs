//! The user's own parts: options that replace QEMU, its accelerator, firmware, CPU and machines.
//!
//! - Every verb that starts a machine has them.
//! - A flag of qemu.toml that an option contradicts gives way; the printed command line shows it.
//! - The programs are chosen once, before the verb starts anything, and apply to the whole process.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::{
    config::{Config, Flag, Gic},
    error::Usage,
    firmware::Firmware,
    qemu,
};

/// The variable that names the emulator if `--qemu` does not.
const VARIABLE: &str = "OUROBOROS_QEMU";

const HEADING: &str = "Your own parts";

/// The user's programs and files.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = HEADING)]
pub struct Parts {
    /// The emulator [default: $OUROBOROS_QEMU, else qemu-system-aarch64 in PATH]
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// QEMU's accelerator; with kvm and hvf the CPU is `host`, unless --cpu says otherwise
    #[arg(long, value_enum)]
    pub accel: Option<Accel>,
    /// A firmware that replaces Debian's EDK2 or U-Boot, whichever of them it is; may be given
    /// more than once
    #[arg(long, value_name = "PATH")]
    pub firmware: Vec<PathBuf>,
    /// A device tree that QEMU hands over instead of its own
    #[arg(long, value_name = "FILE")]
    pub dtb: Option<PathBuf>,
    /// A file with more machines and loaders, in the format of qemu.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Arguments for QEMU; ours that they contradict give way
    #[arg(last = true, value_name = "QEMU ARGS")]
    pub qemu_args: Vec<String>,
}

/// The hardware of each machine, in place of qemu.toml's.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = HEADING)]
pub struct Hardware {
    /// A CPU model that QEMU knows [default: the machine's]
    #[arg(long, value_name = "C")]
    pub cpu: Option<String>,
    /// The number of CPUs [default: the machine's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    pub cpus: Option<u32>,
    /// The interrupt controller [default: the machine's]
    #[arg(long, value_enum)]
    pub gic: Option<Gic>,
    /// RAM as QEMU takes it: 512M, 3G; need not be a power of two [default: the machine's]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
}

/// An accelerator of QEMU.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Accel {
    /// Emulation, on any host
    Tcg,
    /// Linux's KVM, on an arm64 host
    Kvm,
    /// macOS' Hypervisor.framework, on an arm64 host
    Hvf,
}

impl Accel {
    fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
        }
    }

    /// Whether the guest runs on the host's own CPUs.
    fn is_hardware(self) -> bool {
        self != Self::Tcg
    }
}

/// The programs that this process starts.
struct Programs {
    qemu: PathBuf,
    firmware: Vec<(Option<&'static Firmware>, PathBuf)>,
}

static PROGRAMS: OnceLock<Programs> = OnceLock::new();

fn programs() -> &'static Programs {
    PROGRAMS.get_or_init(|| Programs { qemu: default_qemu(), firmware: Vec::new() })
}

fn default_qemu() -> PathBuf {
    let named = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    named.map_or_else(|| qemu::QEMU.into(), PathBuf::from)
}

/// The emulator: the path that the user gave, or a name to find in PATH.
pub fn qemu() -> &'static Path {
    &programs().qemu
}

/// The file that the user gave to replace this firmware.
pub fn firmware(replaced: &Firmware) -> Option<&'static Path> {
    let mut given = programs().firmware.iter();
    let path = given.find(|(kind, _)| kind.is_none_or(|kind| kind == replaced));
    path.map(|(_, path)| path.as_path())
}

impl Parts {
    /// Reads qemu.toml, changes it as the options say, and chooses this process's programs.
    ///
    /// A file that does not exist is a usage error.
    pub fn config(&self, hardware: &Hardware) -> Result<Config> {
        let mut config = Config::read(&crate::paths::root())?;
        if let Some(path) = &self.config {
            config.add(path)?;
        }
        if let Some(accel) = self.accel {
            let arg = format!("-accel {}", accel.name());
            config.common.flags.retain(|flag| !flag.arg.starts_with("-accel "));
            config.common.flags.push(Flag { arg, why: "--accel".to_owned() });
        }
        let host = || self.is_hardware().then(|| "host".to_owned());
        hardware.change(hardware.cpu.clone().or_else(host), &mut config);
        if let Some(path) = &self.dtb {
            config.args.extend(["-dtb".to_owned(), existing("--dtb", path)?.display().to_string()]);
        }
        config.args.extend(self.qemu_args.iter().cloned());
        let firmware = self.firmware.iter().map(|path| {
            let path = existing("--firmware", path)?;
            let bytes =
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((Firmware::of(&bytes), path))
        });
        let firmware = firmware.collect::<Result<_>>()?;
        let qemu = match &self.qemu {
            // A name without a folder is searched in PATH, as a shell does.
            Some(path) if path.components().count() > 1 => existing("--qemu", path)?,
            Some(name) => name.clone(),
            None => default_qemu(),
        };
        // A verb reads its options once; a second reader in the same process changes nothing.
        let _ = PROGRAMS.set(Programs { qemu, firmware });
        Ok(config)
    }

    /// Whether guests run on the host's own CPUs.
    pub fn is_hardware(&self) -> bool {
        self.accel.is_some_and(Accel::is_hardware)
    }

    /// The machine of a verb that has one, if none is named: KVM and HVF seldom give a guest EL2.
    pub fn default_machine(&self) -> &'static str {
        if self.is_hardware() { "el1" } else { "nvhe" }
    }

    /// QEMU's arguments as typed, after `--`, which must come last.
    pub fn args(&self) -> Vec<String> {
        let dashes = (!self.qemu_args.is_empty()).then(|| "--".to_owned());
        dashes.into_iter().chain(self.qemu_args.iter().cloned()).collect()
    }

    /// The options as typed, without QEMU's arguments.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        let path = |path: &PathBuf| path.display().to_string();
        self.qemu.iter().for_each(|qemu| option("qemu", path(qemu)));
        self.accel.iter().for_each(|accel| option("accel", accel.name().to_owned()));
        self.firmware.iter().for_each(|firmware| option("firmware", path(firmware)));
        self.dtb.iter().for_each(|dtb| option("dtb", path(dtb)));
        self.config.iter().for_each(|config| option("config", path(config)));
        words
    }
}

impl Hardware {
    /// Changes every machine that is not a board.
    fn change(&self, cpu: Option<String>, config: &mut Config) {
        for machine in config.machines.values_mut().filter(|machine| !machine.board) {
            if let Some(cpu) = &cpu {
                machine.cpu.clone_from(cpu);
                machine.cpus = vec![cpu.clone()];
            }
            machine.memory = self.memory.clone().unwrap_or_else(|| machine.memory.clone());
            machine.smp = self.cpus.unwrap_or(machine.smp);
            machine.gic = self.gic.unwrap_or(machine.gic);
        }
    }

    /// The options as typed.
    pub fn words(&self) -> Vec<String> {
        let Self { cpu, cpus, gic, memory } = self;
        let cpus = cpus.map(|cpus| cpus.to_string());
        let gic = gic.map(|gic| gic.to_string());
        let options = [("cpu", cpu), ("memory", memory), ("cpus", &cpus), ("gic", &gic)];
        let given = options.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        given.flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }
}

/// The file's absolute path.
fn existing(option: &str, path: &Path) -> Result<PathBuf> {
    path.canonicalize()
        .map_err(|error| Usage(format!("{option}: cannot use {}: {error}", path.display())).into())
}
