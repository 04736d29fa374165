//! Installer of missing tools: QEMU, firmware, U-Boot's tools. rustup installs the Rust toolchain.
//!
//! - On a terminal it shows the command and asks.
//! - With `--yes`, or as root without a terminal, it installs without asking.
//! - Otherwise it fails, and the error shows the line to type.
//! - After an installation it checks again.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    io::{IsTerminal, Write, stderr, stdin},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    console::tail,
    firmware::{EDK2, U_BOOT},
    kernel_build::TARGET,
    parts,
    qemu::QEMU,
};

/// Software that this machine's package manager may have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Package {
    /// QEMU with 64-bit Arm.
    Qemu,
    /// A gdb that knows aarch64.
    Gdb,
    /// EDK2 for QEMU's `virt`.
    Edk2,
    /// U-Boot for QEMU's `virt`.
    UBoot,
    /// mkimage, dumpimage, and the dtc that mkimage calls.
    UBootTools,
}

/// A package manager: how to recognise it, and the commands to give it.
#[derive(Debug)]
pub struct Manager {
    /// The program. If it is in PATH, the machine has this package manager.
    program: &'static str,
    /// The command that fetches the package lists, if `install` does not.
    update: Option<&'static str>,
    /// The command that installs the packages named after it.
    install: &'static str,
    /// The package of QEMU.
    qemu: &'static str,
    /// The package of a gdb that knows aarch64.
    gdb: &'static str,
    /// The package of EDK2. `None` here and below: we know none that installs the expected file.
    edk2: Option<&'static str>,
    /// The package of U-Boot for QEMU.
    u_boot: Option<&'static str>,
    /// The packages of mkimage, dumpimage and dtc.
    u_boot_tools: &'static str,
    /// True if it needs root. Homebrew does not, and refuses it.
    root: bool,
}

/// The known package managers. A distribution's own comes before Homebrew, which may be installed
/// next to it.
const MANAGERS: [Manager; 6] = [
    Manager {
        program: "apt-get",
        // A fresh container has no package lists. Recommended packages would bring in a desktop's
        // libraries.
        update: Some("apt-get update"),
        install: "apt-get install -y --no-install-recommends",
        qemu: "qemu-system-arm",
        gdb: "gdb-multiarch",
        edk2: Some("qemu-efi-aarch64"),
        u_boot: Some("u-boot-qemu"),
        u_boot_tools: "u-boot-tools device-tree-compiler",
        root: true,
    },
    Manager {
        program: "dnf",
        update: None,
        install: "dnf install -y",
        qemu: "qemu-system-aarch64-core",
        gdb: "gdb",
        edk2: Some("edk2-aarch64"),
        u_boot: Some("uboot-images-armv8"),
        u_boot_tools: "uboot-tools dtc",
        root: true,
    },
    Manager {
        program: "pacman",
        update: None,
        // -y: a fresh container has no package lists.
        install: "pacman -Sy --needed --noconfirm",
        qemu: "qemu-system-aarch64",
        gdb: "aarch64-linux-gnu-gdb",
        edk2: Some("edk2-aarch64"),
        u_boot: None,
        u_boot_tools: "uboot-tools dtc",
        root: true,
    },
    Manager {
        program: "apk",
        update: None,
        install: "apk add --no-cache",
        qemu: "qemu-system-aarch64",
        gdb: "gdb-multiarch",
        edk2: None,
        u_boot: None,
        u_boot_tools: "u-boot-tools dtc",
        root: true,
    },
    Manager {
        program: "zypper",
        update: None,
        install: "zypper --non-interactive install --no-recommends",
        qemu: "qemu-arm",
        gdb: "gdb",
        edk2: None,
        u_boot: None,
        u_boot_tools: "u-boot-tools dtc",
        root: true,
    },
    Manager {
        program: "brew",
        update: None,
        install: "brew install",
        qemu: "qemu",
        gdb: "aarch64-elf-gdb",
        edk2: None,
        u_boot: None,
        u_boot_tools: "u-boot-tools dtc",
        root: false,
    },
];

impl Package {
    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => QEMU,
            Self::Gdb => "a gdb that knows aarch64",
            Self::Edk2 => EDK2.name,
            Self::UBoot => U_BOOT.name,
            Self::UBootTools => "mkimage, dumpimage and dtc",
        }
    }

    /// The advice where no package manager has it.
    pub fn by_hand(self) -> String {
        match self {
            Self::Qemu => format!("install {QEMU}, version 7 or later, by hand"),
            Self::Edk2 => format!("install it by hand, as one of {}", EDK2.places()),
            Self::UBoot => format!("install it by hand, as one of {}", U_BOOT.places()),
            Self::Gdb | Self::UBootTools => "install it by hand, in a folder of PATH".to_owned(),
        }
    }
}

impl Manager {
    /// The names of the packages that hold the software.
    fn names(&self, package: Package) -> Option<&'static str> {
        match package {
            Package::Qemu => Some(self.qemu),
            Package::Gdb => Some(self.gdb),
            Package::Edk2 => self.edk2,
            Package::UBoot => self.u_boot,
            Package::UBootTools => Some(self.u_boot_tools),
        }
    }

    /// The description of missing software, without that which this package manager lacks. `None`
    /// if it has none of it.
    fn lack(&self, packages: &[Package]) -> Option<Lack> {
        let had = || packages.iter().filter(|&&package| self.names(package).is_some());
        let what: Vec<_> = had().map(|package| package.name()).collect();
        let names: Vec<_> = had().filter_map(|&package| self.names(package)).collect();
        let install = format!("{} {}", self.install, names.join(" "));
        (!names.is_empty()).then(|| Lack {
            what: what.join("; "),
            lines: self.update.map(str::to_owned).into_iter().chain([install]).collect(),
            root: self.root,
        })
    }
}

/// This machine's package manager, if it is a known one.
fn manager() -> Option<&'static Manager> {
    manager_in(&path())
}

fn manager_in(path: &OsStr) -> Option<&'static Manager> {
    MANAGERS.iter().find(|manager| found_in(path, manager.program).is_some())
}

/// Searches PATH for the program.
pub fn found(program: &str) -> Option<PathBuf> {
    found_in(&path(), program)
}

fn found_in(path: &OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// How to install a missing part of the Rust toolchain.
pub const TOOLCHAIN: &str = "`rustup toolchain install` installs what rust-toolchain.toml names, \
    as rustup itself does when it starts cargo here, unless `cargo +…`, RUSTUP_TOOLCHAIN or \
    RUSTUP_AUTO_INSTALL=0 prevents that";

/// Something that is missing, and the lines that install it.
#[derive(Debug)]
pub struct Lack {
    /// The names of the missing things.
    what: String,
    /// The commands, split at spaces, without quotes.
    lines: Vec<String>,
    /// True if the commands need root.
    root: bool,
}

/// The circumstances of an installation.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// We are root.
    root: bool,
    /// There is a terminal, so we can ask.
    terminal: bool,
    /// `--yes` was given.
    yes: bool,
    /// sudo is installed.
    sudo: bool,
}

/// The decision on an installation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Show this line, ask, and run it if the answer is yes.
    Ask(String),
    /// Run this line.
    Go(String),
    /// Fail, with this line to type.
    Stop(String),
}

/// Decides how to install `lack`.
fn decide(lack: &Lack, situation: Situation) -> Decision {
    let Situation { root, terminal, yes, sudo } = situation;
    let become_root = lack.root && !root;
    let prefix = if become_root { "sudo " } else { "" };
    let line =
        lack.lines.iter().map(|line| format!("{prefix}{line}")).collect::<Vec<_>>().join(" && ");
    if become_root && !sudo {
        // Show the line without sudo, for a user who can become root in another way.
        return Decision::Stop(lack.lines.join(" && "));
    }
    if yes {
        return Decision::Go(line);
    }
    match (terminal, root) {
        (true, _) => Decision::Ask(line),
        // Only if root is needed: Homebrew refuses root, so its line would fail.
        (false, true) if lack.root => Decision::Go(line),
        (false, _) => Decision::Stop(line),
    }
}

/// Checks that the Rust target is installed.
pub fn check_target() -> Result<()> {
    ensure!(has_target()?, "the Rust target {TARGET} is missing; {TOOLCHAIN}");
    Ok(())
}

/// Checks that rustfmt and clippy are installed.
pub fn check_components() -> Result<()> {
    ensure!(has_components()?, "rustfmt or clippy is missing; {TOOLCHAIN}");
    Ok(())
}

/// Installs QEMU if it is missing.
pub fn ensure_qemu(yes: bool) -> Result<()> {
    if qemu_version().is_some() {
        return Ok(());
    }
    let qemu = parts::qemu();
    ensure!(qemu == QEMU, "{} does not start, or does not know --version", qemu.display());
    let lack = manager().and_then(|manager| manager.lack(&[Package::Qemu]));
    let Some(lack) = lack else { bail!("missing: {QEMU}; {}", line_for(Package::Qemu, &[])) };
    mend(&lack, yes)?;
    ensure!(
        qemu_version().is_some(),
        "{QEMU} was installed, but does not start: is its folder in PATH?"
    );
    Ok(())
}

/// Installs what the package manager has of these, all in one go, and returns which those are. The
/// package manager's output is shown only as the reason of a failure. The caller checks what is
/// there afterwards.
pub fn install(packages: &[Package], yes: bool) -> Result<Vec<Package>> {
    let Some(manager) = manager() else { return Ok(Vec::new()) };
    let Some(lack) = manager.lack(packages) else { return Ok(Vec::new()) };
    for command in agreed(&lack, yes)?.split(" && ") {
        let output =
            command_of(command).output().with_context(|| format!("cannot start `{command}`"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let last = tail(said.trim_end(), 1);
        ensure!(output.status.success(), "`{command}` ended with {}: {last}", output.status);
    }
    let had = |package: &Package| manager.names(*package).is_some();
    Ok(packages.iter().copied().filter(had).collect())
}

/// Returns whether rustc, as chosen for this workspace, has the target's core library.
fn has_target() -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    let output = command.current_dir(crate::paths::root()).args(["--print", "sysroot"]).output();
    let output = output.with_context(|| format!("cannot start {command:?}"))?;
    let sysroot = String::from_utf8_lossy(&output.stdout);
    Ok(PathBuf::from(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir())
}

/// Returns whether cargo, as chosen for this workspace, finds rustfmt and clippy.
fn has_components() -> Result<bool> {
    for verb in ["fmt", "clippy"] {
        let mut command = Command::new(crate::paths::cargo());
        let output = command.current_dir(crate::paths::root()).args([verb, "--version"]).output();
        if !output.with_context(|| format!("cannot start {command:?}"))?.status.success() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// QEMU's version number, such as 7.2.22, if QEMU starts.
pub fn qemu_number() -> Option<String> {
    let version = qemu_version()?;
    version
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

/// The first line of `--version`, if QEMU starts.
pub fn qemu_version() -> Option<String> {
    let output = Command::new(parts::qemu())
        .arg("--version")
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// The line that installs the software, together with `others` that are missing as well; or, if
/// the package manager lacks it, what to do by hand.
pub fn line_for(package: Package, others: &[Package]) -> String {
    line_in(manager(), package, others, Situation::now(false))
}

fn line_in(
    manager: Option<&Manager>,
    package: Package,
    others: &[Package],
    situation: Situation,
) -> String {
    let Some(manager) = manager else {
        let known = MANAGERS.map(|manager| manager.program).join(", ");
        return format!(
            "this machine has no known package manager ({known}): {}",
            package.by_hand()
        );
    };
    if manager.names(package).is_none() {
        return format!("{manager} has no package of it that we know: {}", package.by_hand());
    }
    let mut packages = others.to_owned();
    if !packages.contains(&package) {
        packages.push(package);
    }
    let lack = manager.lack(&packages).expect("at least this package is known");
    let (Decision::Ask(line) | Decision::Go(line) | Decision::Stop(line)) =
        decide(&lack, situation);
    line
}

/// Installs what is missing, or fails. The output of the commands is shown.
fn mend(lack: &Lack, yes: bool) -> Result<()> {
    agreed(lack, yes)?.split(" && ").try_for_each(|command| {
        let status =
            command_of(command).status().with_context(|| format!("cannot start `{command}`"))?;
        ensure!(status.success(), "`{command}` ended with {status}");
        Ok(())
    })
}

/// Returns the line that installs what is missing, once the user has agreed to it.
fn agreed(lack: &Lack, yes: bool) -> Result<String> {
    match decide(lack, Situation::now(yes)) {
        Decision::Go(line) => {
            eprintln!("Missing: {}. Installing it:\n  {line}", lack.what);
            Ok(line)
        }
        Decision::Ask(line) => {
            eprint!("Missing: {}. This installs it:\n  {line}\nRun it? [Y/n] ", lack.what);
            stderr().flush()?;
            let mut answer = String::new();
            let bytes = stdin().read_line(&mut answer)?;
            let agreed = bytes > 0
                && matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes");
            ensure!(agreed, "nothing was installed; missing: {}", lack.what);
            Ok(line)
        }
        Decision::Stop(line) => {
            bail!("missing: {}. Run this line, or xtask with --yes:\n  {line}", lack.what)
        }
    }
}

/// The command of a line without quotes.
fn command_of(line: &str) -> Command {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    // Run in the workspace, so that rustup adds the target to the pinned toolchain.
    command.args(words).current_dir(crate::paths::root()).stdin(Stdio::null());
    command
}

impl Situation {
    /// The circumstances of this process.
    fn now(yes: bool) -> Self {
        // The standard library has no call for the user id; every POSIX system has id(1).
        let id = Command::new("id").arg("-u").output();
        let root = id.is_ok_and(|output| output.stdout.trim_ascii() == b"0");
        let terminal = stdin().is_terminal() && stderr().is_terminal();
        Self { root, terminal, yes, sudo: found("sudo").is_some() }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Situation = Situation { root: false, terminal: false, yes: false, sudo: true };
    const ROOT: Situation = Situation { root: true, sudo: false, ..USER };

    fn apt() -> Lack {
        Lack {
            what: "qemu".to_owned(),
            lines: ["apt-get update", "apt-get install -y q"].map(str::to_owned).into(),
            root: true,
        }
    }

    fn brew() -> Lack {
        let lines = vec!["brew install q".to_owned()];
        Lack { what: "qemu".to_owned(), lines, root: false }
    }

    /// A PATH of one folder that holds these programs.
    fn path_with(programs: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        programs
            .iter()
            .for_each(|program| std::fs::write(folder.path().join(program), "").unwrap());
        folder
    }

    fn line_on(programs: &[&str], package: Package) -> String {
        let folder = path_with(programs);
        line_in(manager_in(folder.path().as_os_str()), package, &[], USER)
    }

    #[test]
    fn on_a_terminal_it_asks_and_shows_the_whole_line() {
        let sudo = "sudo apt-get update && sudo apt-get install -y q".to_owned();
        assert_eq!(decide(&apt(), Situation { terminal: true, ..USER }), Decision::Ask(sudo));
        let plain = "apt-get update && apt-get install -y q".to_owned();
        assert_eq!(decide(&apt(), Situation { terminal: true, ..ROOT }), Decision::Ask(plain));
        assert_eq!(
            decide(&brew(), Situation { terminal: true, ..USER }),
            Decision::Ask("brew install q".into())
        );
    }

    #[test]
    fn root_without_a_terminal_goes_ahead() {
        assert_eq!(
            decide(&apt(), ROOT),
            Decision::Go("apt-get update && apt-get install -y q".into())
        );
    }

    #[test]
    fn yes_goes_ahead_with_sudo_where_root_is_needed() {
        let yes = Situation { yes: true, ..USER };
        assert_eq!(
            decide(&apt(), yes),
            Decision::Go("sudo apt-get update && sudo apt-get install -y q".into())
        );
        assert_eq!(decide(&brew(), yes), Decision::Go("brew install q".into()));
        let terminal = Situation { terminal: true, ..yes };
        assert!(matches!(decide(&apt(), terminal), Decision::Go(_)));
    }

    #[test]
    fn otherwise_it_stops_with_the_line_to_type() {
        assert_eq!(
            decide(&apt(), USER),
            Decision::Stop("sudo apt-get update && sudo apt-get install -y q".into())
        );
        assert_eq!(decide(&brew(), USER), Decision::Stop("brew install q".into()));
        assert_eq!(
            decide(&brew(), ROOT),
            Decision::Stop("brew install q".into()),
            "Homebrew refuses root"
        );
    }

    #[test]
    fn without_sudo_even_yes_stops() {
        let plain = Decision::Stop("apt-get update && apt-get install -y q".into());
        for terminal in [false, true] {
            assert_eq!(
                decide(&apt(), Situation { sudo: false, yes: true, terminal, ..USER }),
                plain
            );
        }
    }

    #[test]
    fn each_tool_has_its_packages_on_each_manager() {
        let line = |program, package| line_on(&[program], package);
        let apt = "sudo apt-get update && sudo apt-get install -y --no-install-recommends ";
        for (package, names) in [
            (Package::Qemu, "qemu-system-arm"),
            (Package::Gdb, "gdb-multiarch"),
            (Package::Edk2, "qemu-efi-aarch64"),
            (Package::UBoot, "u-boot-qemu"),
            (Package::UBootTools, "u-boot-tools device-tree-compiler"),
        ] {
            assert_eq!(line("apt-get", package), format!("{apt}{names}"));
        }
        assert_eq!(line("dnf", Package::UBoot), "sudo dnf install -y uboot-images-armv8");
        assert_eq!(
            line("pacman", Package::UBootTools),
            "sudo pacman -Sy --needed --noconfirm uboot-tools dtc"
        );
        assert_eq!(line("brew", Package::UBootTools), "brew install u-boot-tools dtc");
        assert_eq!(
            line("brew", Package::UBoot),
            "brew has no package of it that we know: install it by hand, as one of \
             /usr/lib/u-boot/qemu_arm64/u-boot.bin, /usr/share/uboot/qemu_arm64/u-boot.bin"
        );
        assert!(line("zypper", Package::Edk2).contains("by hand, as one of /usr/share/qemu-efi"));
    }

    #[test]
    fn a_distributions_own_manager_comes_before_homebrew() {
        let folder = path_with(&["brew", "dnf", "ls"]);
        assert_eq!(manager_in(folder.path().as_os_str()).unwrap().program, "dnf");
    }

    #[test]
    fn without_a_known_manager_there_is_one_sentence() {
        for package in [Package::Qemu, Package::Edk2, Package::UBootTools] {
            let line = line_on(&["ls"], package);
            assert!(
                line.starts_with("this machine has no known package manager (apt-get, dnf, ")
                    && line.contains(" by hand, ")
                    || line.ends_with(" by hand"),
                "{line}"
            );
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn one_line_installs_everything_that_the_manager_has() {
        let line = |program, package, others: &[Package]| {
            let folder = path_with(&[program]);
            line_in(manager_in(folder.path().as_os_str()), package, others, USER)
        };
        let all = [Package::Edk2, Package::UBoot, Package::UBootTools];
        assert_eq!(
            line("dnf", Package::UBoot, &all),
            "sudo dnf install -y edk2-aarch64 uboot-images-armv8 uboot-tools dtc"
        );
        assert_eq!(line("brew", Package::UBootTools, &all), "brew install u-boot-tools dtc");
    }

    #[test]
    fn each_line_is_its_managers_own() {
        for manager in &MANAGERS {
            for package in [Package::Qemu, Package::Gdb, Package::UBootTools] {
                for line in manager.lack(&[package]).unwrap().lines {
                    assert!(line.starts_with(&format!("{manager} ")), "{line}");
                    assert!(
                        !line.contains("&&") && !line.contains('\'') && !line.contains("  "),
                        "{line}: split at spaces, nothing else"
                    );
                }
            }
        }
    }
}
