//! apt with its own lists, cache and package status, for one architecture.
//!
//! It works in a folder of ours, with this machine's sources or those of one suite of Debian. It
//! needs no root and does not touch the machine's own lists or packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use object::{
    LittleEndian,
    elf::{DT_NEEDED, FileHeader64},
    read::elf::{Dyn as _, FileHeader as _},
};

use crate::{console::tail, error::Skipped, setup};

/// The folder in which apt puts what `install` downloads.
const ARCHIVES: &str = "archives";
/// apt's list of sources, where they are not this machine's.
const SOURCES: &str = "sources.list";

/// apt, set up in a folder.
pub struct Apt {
    folder: PathBuf,
    /// The thing that is fetched, for the reason to skip.
    lacks: &'static str,
    options: Vec<String>,
}

impl Apt {
    /// Makes an apt with the sources of this machine, or those of one suite of Debian. An error
    /// says that the run lacks `lacks`.
    pub fn new(
        folder: &Path,
        lacks: &'static str,
        architecture: &str,
        suite: Option<&str>,
    ) -> Result<Self> {
        let mut apt = Self { folder: folder.to_owned(), lacks, options: Vec::new() };
        for tool in ["apt-get", "apt-cache", "dpkg-deb"] {
            if setup::found(tool).is_none() {
                return Err(apt.skipped(format!("only apt can fetch it, and there is no {tool}")));
            }
        }
        for name in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(name)).context("cannot make a folder for apt")?;
        }
        let at = |name: &str| folder.join(name).display().to_string();
        fs::write(at("status"), "").context("cannot write for apt")?;
        let settings = [
            ("APT::Architecture", architecture.to_owned()),
            ("APT::Architectures", architecture.to_owned()),
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
        apt.options = options.collect();
        if let Some(suite) = suite {
            // The mirror that this machine's own sources name.
            let named = ["indextargets", "--no-release-info", "--format", "$(REPO_URI)"];
            let named = apt.run("apt-get", &named)?;
            let mirror = named.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
            let mirror = mirror
                .ok_or_else(|| apt.skipped("apt's sources name no mirror of Debian".to_owned()))?;
            let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
            fs::write(at(SOURCES), format!("deb [signed-by={keys}] {mirror} {suite} main\n"))?;
            for setting in [
                format!("Dir::Etc::sourcelist={}", at(SOURCES)),
                "Dir::Etc::sourceparts=-".to_owned(),
            ] {
                apt.options.extend(["-o".to_owned(), setting]);
            }
        }
        apt.run("apt-get", &["update"])?;
        Ok(apt)
    }

    /// Returns the release of the newest kernel: linux-image-arm64 depends on its package and on
    /// nothing else.
    pub fn kernel_release(&self) -> Result<String> {
        self.dependency("linux-image-arm64", "linux-image-")
    }

    /// Returns the rest of the name of the first package that `package` depends on and whose name
    /// begins with `start`.
    pub fn dependency(&self, package: &str, start: &str) -> Result<String> {
        let depends = self.run("apt-cache", &["depends", package]).unwrap_or_default();
        let named = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let rest = named.filter_map(|name| name.strip_prefix(start)).next();
        rest.map(str::to_owned)
            .ok_or_else(|| self.skipped(format!("apt's sources have no {package}")))
    }

    /// Downloads these packages alone.
    pub fn download(&self, packages: &[&str]) -> Result<()> {
        self.run("apt-get", &[&["download"], packages].concat()).map(drop)
    }

    /// Downloads these packages and all that they depend on.
    pub fn download_with_dependencies(&self, packages: &[&str]) -> Result<()> {
        let install = ["install", "--download-only", "--no-install-recommends", "-y"];
        self.run("apt-get", &[&install, packages].concat()).map(drop)
    }

    /// Unpacks all packages that were downloaded into the folder `to`. Returns the name and the
    /// version of each.
    pub fn unpack(&self, to: &Path) -> Result<Vec<(String, String)>> {
        let mut unpacked = Vec::new();
        let folders = [self.folder.clone(), self.folder.join(ARCHIVES)];
        for file in folders.iter().flat_map(|folder| files(folder)) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.ends_with(".deb") {
                continue;
            }
            said(Command::new("dpkg-deb").arg("-x").arg(&file).arg(to))?;
            let mut words = name.split('_').map(str::to_owned);
            unpacked.push((words.next().unwrap_or_default(), words.next().unwrap_or_default()));
        }
        Ok(unpacked)
    }

    /// Runs one of apt's programs and returns its output. A failure is a reason to skip: the
    /// sources have no packages of this architecture, or there is no network.
    fn run(&self, program: &str, words: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).args(["-q", "-q"]).args(&self.options).args(words);
        said(&mut command).map_err(|error| self.skipped(format!("apt cannot fetch it: {error:#}")))
    }

    /// The reason to skip what needs the packages.
    fn skipped(&self, mend: String) -> anyhow::Error {
        Skipped { lacks: self.lacks.to_owned(), detail: None, mend }.into()
    }
}

/// Files of unpacked packages.
pub struct Tree(Vec<PathBuf>);

impl Tree {
    /// Lists the files in the folder and below.
    pub fn below(folder: &Path) -> Self {
        Self(files_below(folder))
    }

    /// Returns the path of the file whose path ends in `name`.
    pub fn find(&self, name: &str) -> Result<&Path> {
        // Compare whole path components: another folder's name may end in the name of a program.
        let found = self.0.iter().find(|path| path.ends_with(name));
        found
            .map(PathBuf::as_path)
            .with_context(|| format!("none of the fetched packages contains {name}"))
    }

    /// Returns the file whose path ends in `name`.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.find(name)?;
        fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Returns the shared libraries that a program is linked to, and those that they are linked to,
    /// by their names.
    pub fn libraries(&self, program: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut taken: Vec<(String, Vec<u8>)> = Vec::new();
        let mut linked = needed(program)?;
        while let Some(name) = linked.pop() {
            if taken.iter().all(|(other, _)| *other != name) {
                let bytes = self.read(&name)?;
                linked.extend(needed(&bytes)?);
                taken.push((name, bytes));
            }
        }
        Ok(taken)
    }
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
