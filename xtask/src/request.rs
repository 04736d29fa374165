//! A run to be made: which machine, told what, from which disk, for how long.
//!
//! *When:* composed by `run`, by each case of the test matrix and by each measurement; the runs are made from it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Result;

use crate::{
    config::{Config, Gic, Machine, Virtio},
    kernel_build::Built,
    loader::Loader,
    qemu::{self, Choice},
    typist::Answer,
};

/// What the machine restarts from.
#[derive(Clone, Debug)]
pub enum Disk {
    /// These bytes; they are kept in the run's folder.
    Bytes(Arc<Vec<u8>>),
    /// A file, opened where it lies.
    File(PathBuf),
    /// The machine has no disk.
    None,
}

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Request {
    /// The machine's name, for people.
    pub name: String,
    /// qemu.toml.
    pub config: Arc<Config>,
    /// The machine's table.
    pub machine: Machine,
    /// In place of the machine's own.
    pub cpu: Option<String>,
    /// In place of the machine's own.
    pub memory: Option<String>,
    /// In place of the machine's own.
    pub cpus: Option<u32>,
    /// In place of the machine's own.
    pub gic: Option<Gic>,
    /// In place of the machine's own.
    pub virtio: Option<Virtio>,
    /// The whole of /chosen/bootargs.
    pub bootargs: String,
    /// May the guest call the host, and so set the exit code? For our own kernel only. Otherwise the console decides.
    pub semihosting: bool,
    /// The last generation goes to a payload, which ends the machine in its own way.
    pub payload: bool,
    /// What the bootargs' random choices are drawn from.
    pub seed: u64,
    /// The kernel as built: what is booted, and its symbols.
    pub kernel: Arc<Built>,
    /// Who starts it.
    pub loader: Loader,
    /// Booted in place of the kernel's own Image: a patched one.
    pub image: Option<Vec<u8>>,
    /// What it restarts from.
    pub disk: Disk,
    /// How the disk is opened, with `{disk}` for its path; [`qemu::DRIVE`] is the usual way.
    pub drive: String,
    /// A network device, and frames for it all the time.
    pub network: bool,
    /// The longest that the run may take.
    pub timeout: Duration,
    /// The longest that the console may be silent.
    pub silence: Option<Duration>,
    /// What is typed at the payload's prompt.
    pub answer: Option<Answer>,
    /// Counts the generations as they come up.
    pub seen: Option<Arc<AtomicU64>>,
    /// More words for QEMU; `{folder}` stands for the run's folder.
    pub args: Vec<String>,
    /// Show the command line and the console.
    pub echo: bool,
    /// Keep the folder of a success too.
    pub keep: bool,
    /// Start stopped, with a gdb stub for a person, and without a limit in time.
    pub gdb: bool,
    /// The line that makes this run again; without one it is the folder's `command`.
    pub again: Option<String>,
}

impl Request {
    /// A run of `kernel` on the machine `name`, quiet, without a disk.
    pub fn new(config: &Arc<Config>, name: &str, kernel: &Arc<Built>) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            config: Arc::clone(config),
            machine: config.machine(name)?.clone(),
            cpu: None,
            memory: None,
            cpus: None,
            gic: None,
            virtio: None,
            bootargs: String::new(),
            semihosting: true,
            payload: false,
            seed: 0,
            kernel: Arc::clone(kernel),
            loader: Loader::Qemu,
            image: None,
            disk: Disk::None,
            drive: qemu::DRIVE.to_owned(),
            network: false,
            timeout: Duration::from_secs(60),
            silence: None,
            answer: None,
            seen: None,
            args: Vec::new(),
            echo: false,
            keep: false,
            gdb: false,
            again: None,
        })
    }

    /// Where frames come in to the run with that folder. Not in the folder: a socket's name is at most some 100 bytes.
    pub fn socket(folder: &Path) -> PathBuf {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()))
    }

    /// What is typed on the console, if its loader waits for that.
    pub fn typed(&self) -> Option<String> {
        let disk = match &self.disk {
            Disk::Bytes(bytes) => bytes.len(),
            Disk::File(path) => std::fs::metadata(path).map_or(0, |file| file.len() as usize),
            Disk::None => 0,
        };
        self.loader.typed(&self.bootargs, disk)
    }

    /// QEMU's words without the sockets for questions: what anyone may type to repeat the run.
    pub fn words(&self, image: &Path, disk: Option<&Path>, folder: &Path) -> Vec<String> {
        let choice = Choice {
            machine: &self.machine,
            cpu: self.cpu.as_deref(),
            memory: self.memory.as_deref(),
            cpus: self.cpus,
            gic: self.gic,
            virtio: self.virtio,
            semihosting: self.semihosting,
        };
        let mut words = vec![qemu::QEMU.to_owned()];
        words.extend(choice.words(&self.config));
        words.extend(qemu::console());
        words.extend(
            disk.map(|disk| qemu::disk(disk, &self.drive, choice.virtio())).unwrap_or_default(),
        );
        if self.network {
            words.extend(qemu::network(&Self::socket(folder), choice.virtio()));
        }
        words.extend(self.loader.words(image, &self.bootargs));
        words.extend(
            self.args.iter().map(|arg| arg.replace("{folder}", &folder.display().to_string())),
        );
        words
    }
}
