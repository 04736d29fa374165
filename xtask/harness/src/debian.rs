//! Debian's arm64 kernel, static busybox and kexec: fetched with apt once and kept.
//!
//! - Fetched before the first run that boots Linux; later runs use the kept files.
//! - Without apt, or where apt knows no arm64 packages, the runs that need Linux are skipped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    apt::{Apt, Tree},
    cpio::Archive,
};

/// The modules of Linux's virtio drivers, each before those that depend on it.
pub const MODULES: [&str; 6] =
    ["virtio_mmio", "virtio_blk", "virtio-rng", "failover", "net_failover", "virtio_net"];

/// The files that were taken out of the packages.
#[derive(Clone, Debug)]
pub struct Debian {
    /// The kernel package's name and version.
    pub release: String,
    folder: PathBuf,
}

impl Debian {
    /// The name for messages.
    pub const NAME: &str = "Debian's arm64 kernel, busybox and kexec";

    /// The files that an earlier run fetched, if they are complete.
    pub fn fetched() -> Option<Self> {
        let folder = folder();
        // The release file is written last, so its presence means that all the others are there.
        let release = fs::read_to_string(folder.join(RELEASE)).ok()?.trim().to_owned();
        Some(Self { release, folder })
    }

    /// Fetches the files unless an earlier run did.
    pub fn get() -> Result<Self> {
        if let Some(debian) = Self::fetched() {
            return Ok(debian);
        }
        fetch(&folder())?;
        Self::fetched().context("the files that were just fetched are missing: try again")
    }

    /// The path of the kernel, an arm64 Image.
    pub fn kernel() -> PathBuf {
        folder().join(KERNEL)
    }

    /// The bytes of the kernel.
    pub fn image(&self) -> Result<Vec<u8>> {
        self.read(KERNEL)
    }

    /// Writes a file next to the fetched ones; returns its path.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// An initrd whose `/init` is this shell script.
    pub fn initrd(&self, init: &str) -> Result<Vec<u8>> {
        Ok(self.archive(init)?.close())
    }

    /// An initrd with the script, kexec, [`MODULES`], and these files in its root.
    pub fn ramdisk_with_kexec(&self, init: &str, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
        let mut archive = self.archive(init)?;
        archive.folder("lib");
        let listed = fs::read_dir(self.folder.join(LIBRARIES))
            .context("cannot list the libraries that kexec needs")?;
        for entry in listed {
            let name = entry?.file_name().to_string_lossy().into_owned();
            archive.program(&format!("lib/{name}"), &self.read(&format!("{LIBRARIES}/{name}"))?);
        }
        archive.program("bin/kexec", &self.read("kexec")?);
        files.iter().for_each(|(name, data)| archive.program(name, data));
        Ok(archive.close())
    }

    /// The start of an initrd whose `/init` is this shell script.
    pub fn archive(&self, init: &str) -> Result<Archive> {
        let mut archive = Archive::default();
        ["bin", "dev", "proc", "sys"].iter().for_each(|name| archive.folder(name));
        archive.device("dev/console", [5, 1]);
        archive.program("bin/busybox", &self.read("busybox")?);
        archive.program("init", format!("#!/bin/busybox sh\n{init}").as_bytes());
        Ok(archive)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(name);
        fs::read(&path).with_context(|| {
            format!("cannot read {}; delete its folder to fetch it again", path.display())
        })
    }
}

/// The device trees of all boards in Debian's arm64 kernel package.
#[derive(Clone, Debug)]
pub struct DeviceTrees {
    /// The folder that they are in, some below it.
    pub folder: PathBuf,
    /// The kernel package's name and version.
    pub release: String,
}

impl DeviceTrees {
    /// The name for messages.
    pub const NAME: &str = "the device trees of Debian's arm64 kernel";

    fn folder(suite: Option<&str>) -> PathBuf {
        let folder = crate::paths::target_dir().join("ouroboros").join("boards");
        folder.join(suite.unwrap_or("own"))
    }

    /// The trees of this suite, or of this machine's own, if an earlier run fetched them.
    pub fn fetched(suite: Option<&str>) -> Option<Self> {
        let folder = Self::folder(suite);
        let release = fs::read_to_string(folder.join(RELEASE)).ok()?.trim().to_owned();
        Some(Self { folder: folder.join("trees"), release })
    }

    /// Fetches the package of this suite, or of this machine's own, unless an earlier run did.
    pub fn get(suite: Option<&str>) -> Result<Self> {
        if let Some(fetched) = Self::fetched(suite) {
            return Ok(fetched);
        }
        let folder = Self::folder(suite);
        let trees = folder.join("trees");
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let work = tempfile::tempdir_in(&folder).context("cannot make a folder for apt")?;
        eprintln!("fetching Debian's arm64 kernel package into {}", folder.display());
        let apt = Apt::new(work.path(), Self::NAME, ARCHITECTURE, suite)?;
        let release = format!("linux-image-{}", apt.kernel_release()?);
        apt.download(&[&release])?;
        let tree = work.path().join("tree");
        let unpacked = apt.unpack(&tree)?;
        let (_, version) = unpacked.first().context("apt downloaded no package")?;
        let from = tree.join("usr/lib").join(&release);
        drop(fs::remove_dir_all(&trees));
        fs::rename(&from, &trees)
            .with_context(|| format!("{release} has no {}", from.display()))?;
        let release = format!("Debian {release} {version}");
        fs::write(folder.join(RELEASE), format!("{release}\n"))?;
        Ok(Self { folder: trees, release })
    }
}

/// Debian's name of the packages' architecture.
const ARCHITECTURE: &str = "arm64";
const RELEASE: &str = "release";
const KERNEL: &str = "vmlinuz";
/// The folder of the libraries that kexec is linked to, and of the modules.
const LIBRARIES: &str = "lib";

fn folder() -> PathBuf {
    crate::paths::target_dir().join("ouroboros").join("debian")
}

fn fetch(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join(LIBRARIES))
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    // apt's downloads. Dropping `work` removes them, also after an error.
    let work = tempfile::tempdir_in(folder).context("cannot make a folder for apt")?;
    eprintln!("fetching Debian's arm64 kernel, busybox and kexec into {}", folder.display());
    let apt = Apt::new(work.path(), Debian::NAME, ARCHITECTURE, None)?;
    let release = apt.kernel_release()?;
    let kernel = format!("linux-image-{release}");
    apt.download(&[&kernel, "busybox-static"])?;
    // The libraries that kexec is linked to differ between releases, so apt resolves them.
    apt.download_with_dependencies(&["kexec-tools"])?;

    let tree = work.path().join("tree");
    let unpacked = apt.unpack(&tree)?;
    let version = unpacked.iter().find(|(name, _)| *name == kernel);
    let version = version.map(|(_, version)| version.clone()).unwrap_or_default();
    let tree = Tree::below(&tree);
    let write = |to: &str, bytes: &[u8]| {
        fs::write(folder.join(to), bytes).with_context(|| format!("cannot write {to}"))
    };
    write(KERNEL, &tree.read(&format!("boot/vmlinuz-{release}"))?)?;
    write("busybox", &tree.read("bin/busybox")?)?;
    let kexec = tree.read("sbin/kexec")?;
    write("kexec", &kexec)?;
    for (name, bytes) in tree.libraries(&kexec)? {
        write(&format!("{LIBRARIES}/{name}"), &bytes)?;
    }
    for module in MODULES {
        write(&format!("{LIBRARIES}/{module}.ko"), &tree.read(&format!("{module}.ko"))?)?;
    }
    fs::write(folder.join(RELEASE), format!("Debian {release} {version}\n"))?;
    Ok(())
}
