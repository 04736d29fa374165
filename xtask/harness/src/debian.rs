//! Debian's arm64 kernel, static busybox and kexec: fetched with apt once and kept.
//!
//! - Fetched before the first run that boots Linux; later runs use the kept files.
//! - apt works in a folder of ours, with this machine's sources and for arm64 only. It needs no
//!   root and does not touch the machine's own lists or packages.
//! - Without apt, or where apt knows no arm64 packages, the runs that need Linux are skipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Error, Result, bail};
use object::{
    LittleEndian,
    elf::{DT_NEEDED, FileHeader64},
    read::elf::{Dyn as _, FileHeader as _},
};

use crate::{console::tail, cpio::Archive, error::Skipped, setup};

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

    fn archive(&self, init: &str) -> Result<Archive> {
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
    /// Fetches the package of this suite, or of this machine's own, unless an earlier run did.
    pub fn get(suite: Option<&str>) -> Result<Self> {
        let folder = crate::paths::target_dir().join("ouroboros").join("boards");
        let folder = folder.join(suite.unwrap_or("own"));
        let trees = folder.join("trees");
        if let Ok(release) = fs::read_to_string(folder.join(RELEASE)) {
            return Ok(Self { folder: trees, release: release.trim().to_owned() });
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let work = tempfile::tempdir_in(&folder).context("cannot make a folder for apt")?;
        let apt = Apt::new(work.path(), suite)?;
        eprintln!("fetching Debian's arm64 kernel package into {}", folder.display());
        apt.run("apt-get", &["update"])?;
        let release = format!("linux-image-{}", apt.kernel_release()?);
        apt.run("apt-get", &["download", &release])?;
        let tree = work.path().join("tree");
        let package = files(work.path())
            .into_iter()
            .find(|path| path.extension().is_some_and(|end| end == "deb"));
        let package = package.context("apt downloaded no package")?;
        said(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&tree))?;
        let from = tree.join("usr/lib").join(&release);
        drop(fs::remove_dir_all(&trees));
        fs::rename(&from, &trees)
            .with_context(|| format!("{release} has no {}", from.display()))?;
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let version = name.split('_').nth(1).unwrap_or_default();
        let release = format!("Debian {release} {version}");
        fs::write(folder.join(RELEASE), format!("{release}\n"))?;
        Ok(Self { folder: trees, release })
    }
}

/// The folder in which apt puts what `install` downloads.
const ARCHIVES: &str = "archives";
const RELEASE: &str = "release";
/// apt's list of sources, where they are not this machine's.
const SOURCES: &str = "sources.list";
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
    let apt = Apt::new(work.path(), None)?;
    eprintln!("fetching Debian's arm64 kernel, busybox and kexec into {}", folder.display());
    apt.run("apt-get", &["update"])?;
    let release = apt.kernel_release()?;
    let kernel = format!("linux-image-{release}");
    apt.run("apt-get", &["download", &kernel, "busybox-static"])?;
    // The libraries that kexec is linked to differ between releases, so apt resolves them.
    apt.run(
        "apt-get",
        &["install", "--download-only", "--no-install-recommends", "-y", "kexec-tools"],
    )?;

    let tree = work.path().join("tree");
    let mut version = String::new();
    for file in
        [work.path().to_owned(), work.path().join(ARCHIVES)].iter().flat_map(|folder| files(folder))
    {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".deb") {
            said(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&tree))?;
            if name.starts_with("linux-image") {
                version = name.split('_').nth(1).unwrap_or_default().to_owned();
            }
        }
    }
    let there = files_below(&tree);
    let take = |name: &str, to: &str| -> Result<Vec<u8>> {
        // Compare whole path components: another folder's name may end in the name of a program.
        let from = there
            .iter()
            .find(|path| path.ends_with(name))
            .with_context(|| format!("none of the fetched packages contains {name}"))?;
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        fs::write(folder.join(to), &bytes).with_context(|| format!("cannot write {to}"))?;
        Ok(bytes)
    };
    take(&format!("boot/vmlinuz-{release}"), KERNEL)?;
    take("bin/busybox", "busybox")?;
    let mut linked = needed(&take("sbin/kexec", "kexec")?)?;
    let mut taken = Vec::new();
    while let Some(name) = linked.pop() {
        if !taken.contains(&name) {
            linked.extend(needed(&take(&name, &format!("{LIBRARIES}/{name}"))?)?);
            taken.push(name);
        }
    }
    for module in MODULES {
        take(&format!("{module}.ko"), &format!("{LIBRARIES}/{module}.ko"))?;
    }
    fs::write(folder.join(RELEASE), format!("Debian {release} {version}\n"))?;
    Ok(())
}

/// The reason to skip what needs the files.
fn skipped(mend: String) -> Error {
    Skipped { lacks: Debian::NAME.to_owned(), detail: None, mend }.into()
}

/// The shared libraries that an ELF is linked to.
fn needed(elf: &[u8]) -> Result<Vec<String>> {
    let header = FileHeader64::<LittleEndian>::parse(elf)?;
    let sections = header.sections(LittleEndian, elf)?;
    let Some((entries, link)) = sections.dynamic(LittleEndian, elf)? else { return Ok(Vec::new()) };
    let strings = sections.strings(LittleEndian, elf, link)?;
    let named = entries.iter().filter(|entry| entry.tag(LittleEndian) == DT_NEEDED);
    named
        .map(|entry| Ok(String::from_utf8_lossy(entry.string(LittleEndian, strings)?).into_owned()))
        .collect()
}

/// The entries of a folder; none if the folder cannot be listed.
fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// All files in a folder and in its subfolders; a link to a file counts, a link to a folder is not
/// followed.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let (folders, mut found): (Vec<_>, Vec<_>) =
        files(folder).into_iter().filter(|path| path.exists()).partition(|path| path.is_dir());
    found.extend(
        folders.iter().filter(|path| !path.is_symlink()).flat_map(|folder| files_below(folder)),
    );
    found
}

/// apt with its own lists, cache and package status.
struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Makes an apt with the sources of this machine, or those of one suite of Debian.
    fn new(folder: &Path, suite: Option<&str>) -> Result<Self> {
        for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
            if setup::found(tool).is_none() {
                return Err(skipped(format!("only apt can fetch it, and there is no {tool}")));
            }
        }
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
            ("Dir::Cache::archives", at(ARCHIVES)),
        ];
        let options = settings
            .into_iter()
            .flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]);
        let mut apt = Self { folder: folder.to_owned(), options: options.collect() };
        if let Some(suite) = suite {
            // The mirror that this machine's own sources name.
            let named = ["indextargets", "--no-release-info", "--format", "$(REPO_URI)"];
            let named = apt.run("apt-get", &named)?;
            let mirror = named.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
            let mirror = mirror
                .ok_or_else(|| skipped("apt's sources name no mirror of Debian".to_owned()))?;
            let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
            fs::write(at(SOURCES), format!("deb [signed-by={keys}] {mirror} {suite} main\n"))?;
            for setting in [
                format!("Dir::Etc::sourcelist={}", at(SOURCES)),
                "Dir::Etc::sourceparts=-".to_owned(),
            ] {
                apt.options.extend(["-o".to_owned(), setting]);
            }
        }
        Ok(apt)
    }

    /// Returns the release of the newest kernel: linux-image-arm64 depends on its package and on
    /// nothing else.
    fn kernel_release(&self) -> Result<String> {
        let depends = self.run("apt-cache", &["depends", "linux-image-arm64"]).unwrap_or_default();
        let release =
            depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        release
            .map(str::to_owned)
            .ok_or_else(|| skipped("apt's sources have no linux-image-arm64".to_owned()))
    }

    /// Runs one of apt's programs and returns its output. A failure is a reason to skip: the
    /// sources have no arm64 packages, or there is no network.
    fn run(&self, program: &str, words: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).args(["-q", "-q"]).args(&self.options).args(words);
        said(&mut command).map_err(|error| skipped(format!("apt cannot fetch it: {error:#}")))
    }
}

/// Runs a command that must succeed; returns its standard output. An error has the command's last
/// words.
fn said(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {program}"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.trim_end();
    if !output.status.success() {
        bail!("{program} ended with {}: {}", output.status, tail(words, 1));
    }
    // `apt-get update` succeeds with lists that it could not fetch.
    if let Some(line) = words.lines().find(|line| line.contains("Failed to fetch")) {
        bail!("{program}: {line}");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
