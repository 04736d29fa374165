//! Installer of missing tools: QEMU and firmware. rustup itself installs the Rust toolchain.
//!
//! - On a terminal it shows the command and asks.
//! - With `--yes`, or as root without a terminal, it installs without asking.
//! - Otherwise it fails, and the error shows the line to type.
//! - After an installation it checks again.

use std::{
    fmt,
    io::{IsTerminal, Write, stderr, stdin},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{firmware::Firmware, kernel_build::TARGET, qemu::QEMU};

/// A package manager: how to recognise it, and the commands to give it.
#[derive(Debug)]
pub struct Manager {
    /// The program. If it is in PATH, the machine has this package manager.
    pub program: &'static str,
    /// The lines that install QEMU.
    qemu: &'static [&'static str],
    /// The line that installs a gdb which knows aarch64.
    pub gdb: &'static str,
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
        qemu: &["apt-get update", "apt-get install -y --no-install-recommends qemu-system-arm"],
        gdb: "apt-get install -y --no-install-recommends gdb-multiarch",
        root: true,
    },
    Manager {
        program: "dnf",
        qemu: &["dnf install -y qemu-system-aarch64-core"],
        gdb: "dnf install -y gdb",
        root: true,
    },
    Manager {
        program: "pacman",
        // -y: a fresh container has no package lists.
        qemu: &["pacman -Sy --needed --noconfirm qemu-system-aarch64"],
        gdb: "pacman -Sy --needed --noconfirm aarch64-linux-gnu-gdb",
        root: true,
    },
    Manager {
        program: "apk",
        qemu: &["apk add --no-cache qemu-system-aarch64"],
        gdb: "apk add --no-cache gdb-multiarch",
        root: true,
    },
    Manager {
        program: "zypper",
        qemu: &["zypper --non-interactive install --no-recommends qemu-arm"],
        gdb: "zypper --non-interactive install --no-recommends gdb",
        root: true,
    },
    Manager {
        program: "brew",
        qemu: &["brew install qemu"],
        gdb: "brew install aarch64-elf-gdb",
        root: false,
    },
];

/// This machine's package manager, if it is a known one.
pub fn manager() -> Option<&'static Manager> {
    MANAGERS.iter().find(|manager| found(manager.program).is_some())
}

/// Searches PATH for the program.
pub fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// How to install a missing part of the Rust toolchain.
pub const TOOLCHAIN: &str = "`rustup toolchain install` installs what rust-toolchain.toml names, \
    as rustup itself does when it starts cargo here, unless `cargo +…`, RUSTUP_TOOLCHAIN or \
    RUSTUP_AUTO_INSTALL=0 prevents that";

/// Something that is missing, and the lines that install it.
#[derive(Debug)]
pub struct Lack {
    /// The name of the missing thing.
    what: &'static str,
    /// The commands, split at spaces, without quotes.
    lines: Vec<&'static str>,
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
    let Some(lack) = qemu() else { bail!("{QEMU} is missing; {}", no_manager()) };
    mend(&lack, yes)?;
    ensure!(
        qemu_version().is_some(),
        "{QEMU} was installed, but does not start: is its folder in PATH?"
    );
    Ok(())
}

/// Installs a firmware if it is missing and the package manager is apt-get, whose package we know.
pub fn ensure_firmware(firmware: &Firmware, yes: bool) -> Result<()> {
    if firmware.found().is_some() {
        return Ok(());
    }
    let (name, places) = (firmware.name, firmware.places());
    let Some(apt) = manager().filter(|manager| manager.program == "apt-get") else {
        bail!("{name} is missing: install it by hand, as one of these files: {places}");
    };
    let lines = vec!["apt-get update", firmware.apt];
    mend(&Lack { what: name, lines, root: apt.root }, yes)?;
    ensure!(
        firmware.found().is_some(),
        "{name} was installed, but none of these files exists: {places}"
    );
    Ok(())
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

/// The first line of `--version`, if QEMU starts.
pub fn qemu_version() -> Option<String> {
    let output = Command::new(QEMU)
        .arg("--version")
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// The description of a missing QEMU, if a known package manager can install it.
fn qemu() -> Option<Lack> {
    manager().map(|manager| Lack { what: QEMU, lines: manager.qemu.to_vec(), root: manager.root })
}

/// The line that installs QEMU, or the reason why there is none.
pub fn qemu_line() -> String {
    qemu().map_or_else(no_manager, |lack| line_of(&decide(&lack, Situation::now(false))))
}

fn line_of(decision: &Decision) -> String {
    let (Decision::Ask(line) | Decision::Go(line) | Decision::Stop(line)) = decision;
    line.clone()
}

fn no_manager() -> String {
    let known: Vec<_> = MANAGERS.iter().map(|manager| manager.program).collect();
    format!(
        "this machine has no known package manager ({}): \
         install {QEMU}, version 7 or later, by hand",
        known.join(", ")
    )
}

/// Installs what is missing, or fails.
fn mend(lack: &Lack, yes: bool) -> Result<()> {
    let line = match decide(lack, Situation::now(yes)) {
        Decision::Go(line) => {
            eprintln!("{} is missing; installing it:\n  {line}", lack.what);
            line
        }
        Decision::Ask(line) => {
            eprint!("{} is missing. This installs it:\n  {line}\nRun it? [Y/n] ", lack.what);
            stderr().flush()?;
            let mut answer = String::new();
            let bytes = stdin().read_line(&mut answer)?;
            let agreed = bytes > 0
                && matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes");
            ensure!(agreed, "{} is missing: nothing was installed", lack.what);
            line
        }
        Decision::Stop(line) => {
            bail!("{} is missing. Run this line, or xtask with --yes:\n  {line}", lack.what)
        }
    };
    for command in line.split(" && ") {
        let words: Vec<_> = command.split(' ').collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        let status =
            command.status().with_context(|| format!("cannot start `{}`", words.join(" ")))?;
        ensure!(status.success(), "`{}` ended with {status}", words.join(" "));
    }
    Ok(())
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
        Lack { what: "qemu", lines: vec!["apt-get update", "apt-get install -y q"], root: true }
    }

    fn brew() -> Lack {
        Lack { what: "qemu", lines: vec!["brew install q"], root: false }
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
    fn each_line_is_its_managers_own() {
        for manager in &MANAGERS {
            for line in manager.qemu.iter().chain([&manager.gdb]) {
                assert!(line.starts_with(&format!("{manager} ")), "{line}");
                assert!(
                    !line.contains("&&") && !line.contains('\''),
                    "{line}: split at spaces, nothing else"
                );
            }
        }
    }
}
