//! Debian's arm64 kernel and its static busybox, fetched by apt and kept.
//!
//! *When:* before the first run of `protocols`; what is there is taken. apt works in a folder of ours, with this machine's sources and for
//! arm64 alone: no root, nothing of the machine's own lists or packages is touched. *Refuses:* to go on where there is no apt, or none that knows
//! arm64's packages; what needs them is then skipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cpio::Archive, setup, test::Skipped};

/// What is taken out of the packages.
#[derive(Clone, Debug)]
pub struct Debian {
    /// The kernel's package, with its version.
    pub release: String,
    /// The kernel: an arm64 Image.
    pub image: Vec<u8>,
    busybox: Vec<u8>,
}

impl Debian {
    /// What was fetched before, or is now.
    pub fn get() -> Result<Self> {
        let folder = folder();
        let read = |name: &str| fs::read(folder.join(name));
        let there = || -> std::io::Result<Self> {
            let release = String::from_utf8_lossy(&read("release")?).trim().to_owned();
            Ok(Self { release, image: read("vmlinuz")?, busybox: read("busybox")? })
        };
        if let Ok(debian) = there() {
            return Ok(debian);
        }
        fetch(&folder)?;
        there().with_context(|| format!("{} lacks what was just fetched", folder.display()))
    }

    /// Keeps a file beside what was fetched; gives its path.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = folder().join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// A ramdisk whose `/init` is this shell script.
    pub fn ramdisk(&self, init: &str) -> Vec<u8> {
        let mut archive = Archive::default();
        ["bin", "dev", "proc", "sys"].iter().for_each(|name| archive.folder(name));
        archive.device("dev/console", [5, 1]);
        archive.program("bin/busybox", &self.busybox);
        archive.program("init", format!("#!/bin/busybox sh\n{init}").as_bytes());
        archive.close()
    }
}

fn folder() -> PathBuf {
    crate::target_dir().join("ouroboros").join("debian")
}

fn fetch(folder: &Path) -> Result<()> {
    for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
        if setup::found(tool).is_none() {
            return Err(Skipped(format!("there is no {tool}, which fetches Debian's kernel")).into());
        }
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // Beside what it becomes: moved there when it is whole.
    let work = tempfile::tempdir_in(folder).context("cannot make a folder for apt")?;
    let apt = Apt::new(work.path())?;
    eprintln!("fetching Debian's arm64 kernel and busybox into {}", folder.display());
    apt.run("apt-get", &["update"])?;
    // The package of this name has nothing but the newest kernel's for a dependency.
    let depends = apt.run("apt-cache", &["depends", "linux-image-arm64"]).unwrap_or_default();
    let Some(release) = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-")) else {
        return Err(Skipped("apt knows no linux-image-arm64: its sources have no packages for arm64".to_owned()).into());
    };
    let kernel = format!("linux-image-{release}");
    apt.run("apt-get", &["download", &kernel, "busybox-static"])?;

    let tree = work.path().join("tree");
    let mut version = String::new();
    for file in
        fs::read_dir(work.path())?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?
    {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".deb") {
            said(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&tree))?;
            if name.starts_with("linux-image") {
                version = name.split('_').nth(1).unwrap_or_default().to_owned();
            }
        }
    }
    let programs = ["bin/busybox", "usr/bin/busybox"].map(|name| tree.join(name));
    let busybox = programs.iter().find(|program| program.is_file()).context("busybox-static holds no busybox")?;
    fs::rename(busybox, folder.join("busybox"))?;
    fs::rename(tree.join(format!("boot/vmlinuz-{release}")), folder.join("vmlinuz"))?;
    fs::write(folder.join("release"), format!("Debian {release} {version}\n"))?;
    Ok(())
}

/// apt with a state of its own.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        for name in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(name)).context("cannot make a folder for apt")?;
        }
        let at = |name: &str| folder.join(name).display().to_string();
        fs::write(at("status"), "").context("cannot write for apt")?;
        let settings = [
            ("APT::Architecture", "arm64".to_owned()),
            ("APT::Architectures", "arm64".to_owned()),
            ("APT::Sandbox::User", String::new()),
            ("Acquire::Languages", "none".to_owned()),
            ("Dir::State::Lists", at("lists")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("")),
            ("Dir::Cache::archives", at("archives")),
        ];
        let options = settings.into_iter().flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]);
        Ok(Self { folder: folder.to_owned(), options: options.collect() })
    }

    /// What one of apt's programs says.
    fn run(&self, program: &str, words: &[&str]) -> Result<String> {
        said(Command::new(program).current_dir(&self.folder).args(["-q", "-q"]).args(&self.options).args(words))
    }
}

/// What a command says that ends well.
fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, words.trim());
    }
    ensure!(!words.contains("Failed to fetch"), "{command:?}: {}", words.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
