//! A run to be made: machine, parameters, disk, limits.
//!
//! The verb `run`, every test and every measurement composes one.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    config::{Config, Gic, Machine, Virtio},
    exec::{self, Exec},
    kernel_build::Built,
    loader::Loader,
    parts,
    qemu::{self, Choice},
    serial_input::Answer,
};

/// The disk that the kernel restarts from.
#[derive(Clone, Debug)]
pub enum Disk {
    /// These bytes; the run's folder keeps them.
    Bytes(Arc<Vec<u8>>),
    /// A file, opened at its own path.
    File(PathBuf),
    /// No disk.
    None,
}

/// The way in which the machine gets the FIT.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub enum Medium {
    /// On a virtio-blk device
    #[default]
    Disk,
    /// As the initrd, on a machine without a disk; only with the loader qemu
    Initrd,
}

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name of the run's folder and of its report.
    pub name: String,
    /// The content of qemu.toml.
    pub config: Arc<Config>,
    /// The machine's table.
    pub machine: Machine,
    /// Overrides the machine's own.
    pub cpu: Option<String>,
    /// Overrides the machine's own.
    pub memory: Option<String>,
    /// Overrides the machine's own.
    pub cpus: Option<u32>,
    /// Overrides the machine's own.
    pub gic: Option<Gic>,
    /// Overrides the machine's own.
    pub virtio: Option<Virtio>,
    /// The whole of /chosen/bootargs.
    pub bootargs: String,
    /// Lets the guest call the host by semihosting and so set the exit code; for our own kernel
    /// only. Otherwise the console alone decides.
    pub semihosting: bool,
    /// The last generation kexecs a payload, which ends the machine in its own way.
    pub payload: bool,
    /// The seed in the bootargs.
    pub seed: u64,
    /// The kernel as built: its Image and its symbols.
    pub kernel: Arc<Built>,
    /// The loader of generation 0.
    pub loader: Loader,
    /// A command that starts the Image, instead of QEMU and its loader.
    pub exec: Option<Exec>,
    /// An Image to boot instead of the kernel's own, such as a patched one.
    pub image: Option<Vec<u8>>,
    /// The disk that the kernel restarts from.
    pub disk: Disk,
    /// The way in which the machine gets that disk.
    pub fit: Medium,
    /// The `-drive` of the disk, with `{disk}` for its path; usually [`qemu::DRIVE`].
    pub drive: String,
    /// Adds a network device on which frames arrive all the time.
    pub network: bool,
    /// The longest that the run may take.
    pub timeout: Duration,
    /// The longest that the console may be silent.
    pub silence: Option<Duration>,
    /// The text to type at the payload's prompt.
    pub answer: Option<Answer>,
    /// A counter that counts the generations as they start.
    pub seen: Option<Arc<AtomicU64>>,
    /// More arguments for QEMU; `{folder}` stands for the run's folder.
    pub args: Vec<String>,
    /// Files that the guest sees on a FAT volume: the path of each, and its content.
    pub volume: Vec<(String, Vec<u8>)>,
    /// Show the command line and the console.
    pub echo: bool,
    /// Keep the folder of a success too.
    pub keep: bool,
    /// Start stopped, with a gdb stub on a TCP port, and without a time limit.
    pub gdb: bool,
    /// The line that repeats this run; by default the folder's `command`.
    pub again: Option<String>,
}

impl Request {
    /// A quiet run of `kernel` on the machine `name`, without a disk. The request's `kernel` names
    /// that machine's UART; a disk should hold the same.
    pub fn new(config: &Arc<Config>, name: &str, kernel: &Arc<Built>) -> Result<Self> {
        let machine = config.machine(name)?.clone();
        let kernel = match &machine.earlycon {
            Some(earlycon) => Arc::new(Built::clone(kernel).with_earlycon(earlycon)?),
            None => Arc::clone(kernel),
        };
        Ok(Self {
            name: name.to_owned(),
            config: Arc::clone(config),
            machine,
            cpu: None,
            memory: None,
            cpus: None,
            gic: None,
            virtio: None,
            bootargs: String::new(),
            semihosting: true,
            payload: false,
            seed: 0,
            kernel,
            loader: Loader::Qemu,
            exec: None,
            image: None,
            disk: Disk::None,
            fit: Medium::default(),
            drive: qemu::DRIVE.to_owned(),
            network: false,
            timeout: Duration::from_secs(60),
            silence: None,
            answer: None,
            seen: None,
            args: Vec::new(),
            volume: Vec::new(),
            echo: false,
            keep: false,
            gdb: false,
            again: None,
        })
    }

    /// The socket on which the run with that folder receives frames. It is outside the folder,
    /// since a socket's path is limited to about 100 bytes.
    pub fn socket(folder: &Path) -> PathBuf {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()))
    }

    /// The text to type on the console, if the loader waits for input.
    pub fn typed(&self) -> Option<String> {
        let disk = match &self.disk {
            Disk::Bytes(bytes) => bytes.len(),
            Disk::File(path) => std::fs::metadata(path).map_or(0, |file| file.len() as usize),
            Disk::None => 0,
        };
        self.loader.typed(&self.bootargs, disk)
    }

    /// The command that makes the run: a shell's for `exec`, else QEMU's.
    pub fn command(&self, image: &Path, disk: Option<&Path>, folder: &Path) -> Result<Vec<String>> {
        let Some(Exec { line: Some(line), .. }) = &self.exec else {
            return Ok(self.words(image, disk, folder));
        };
        let dtb = self.config.args.iter().position(|word| word == "-dtb");
        let dtb = dtb.and_then(|at| self.config.args.get(at + 1)).map(Path::new);
        let values = exec::Values { image, fit: disk, append: &self.bootargs, dtb, folder };
        Ok(vec!["sh".to_owned(), "-c".to_owned(), exec::fill(line, &values)?])
    }

    /// QEMU's arguments without the monitor and gdb sockets: those that a person needs to repeat
    /// the run.
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
        let mut words = vec![parts::qemu().display().to_string()];
        words.extend(choice.own_words(&self.config));
        words.extend(qemu::console());
        words.extend(disk.map_or_else(Vec::new, |disk| match self.fit {
            Medium::Disk => qemu::disk(disk, &self.drive, choice.virtio()),
            Medium::Initrd => vec!["-initrd".to_owned(), disk.display().to_string()],
        }));
        if self.network {
            words.extend(qemu::network(&Self::socket(folder), choice.virtio()));
        }
        words.extend(self.loader.words(image, &self.bootargs));
        let folder = folder.display().to_string();
        let args = self.config.args.iter().chain(&self.args);
        let args: Vec<_> = args.map(|arg| arg.replace("{folder}", &folder)).collect();
        qemu::giving_way(words, &args)
    }
}
