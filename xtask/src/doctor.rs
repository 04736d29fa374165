//! The verb `doctor`: tries out what xtask needs and prints how to install the rest.
//!
//! It compiles for the bare-metal target, starts each machine of qemu.toml with each of its CPUs
//! and ends it before its first instruction, and queries each debugger for aarch64. Every trial has
//! a time limit.

use std::{
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    config::Config,
    console::tail,
    fuzz,
    kernel_build::TARGET,
    loader,
    processes::Guarded,
    qemu::{self, Choice, QEMU},
    setup,
};

/// The time limit of a trial. A QEMU that is stopped before its first instruction takes a tenth of
/// a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Debuggers that may know aarch64; those made for it come first.
const DEBUGGERS: [&str; 6] = [
    "gdb-multiarch",
    "aarch64-none-elf-gdb",
    "aarch64-elf-gdb",
    "aarch64-linux-gnu-gdb",
    "gdb",
    "lldb",
];

/// Makes every trial and prints the results; returns the exit code.
pub fn examine() -> Result<u8> {
    let config = Config::read(&crate::root())?;
    let mut sick = false;
    let mut tell = |what: &str,
                    trial: Result<String>,
                    mend: &dyn Fn() -> String,
                    required: bool| match trial {
        Ok(found) => println!("  ok       {what}: {found}"),
        Err(error) => {
            sick |= required;
            println!(
                "  {}  {what}: {error:#}\n           {}",
                if required { "MISSING" } else { "without" },
                mend()
            );
        }
    };

    println!("Required to build:");
    tell("Rust target", compile(), &|| format!("fix: {}", setup::target_line()), true);
    println!("Required to run:");
    let version = setup::qemu_version().context("does not start, or is not in PATH");
    let there = version.is_ok();
    tell(QEMU, version, &|| format!("fix: {}", setup::qemu_line()), true);
    let older = || format!("fix: install QEMU 8 or later: {}", setup::qemu_line());
    for (name, machine) in config.machines.iter().filter(|_| there) {
        println!("  machine {name}: {}", machine.description);
        for cpu in &machine.cpus {
            let choice = Choice { cpu: Some(cpu), ..Choice::plain(machine) };
            tell(&format!("machine {name}, {cpu}"), start(&config, &choice), &older, true);
        }
    }
    println!("Optional:");
    tell(
        "a debugger that knows aarch64, for `run --gdb`",
        debugger().map(str::to_owned),
        &debugger_mend,
        false,
    );
    tell(
        "a C++ compiler, for `fuzz`",
        compiler(),
        &|| format!("fix: install {}", fuzz::COMPILER.1),
        false,
    );
    for firmware in [loader::EDK2, loader::U_BOOT] {
        let found = firmware.found().map(|place| place.display().to_string());
        let absent = || format!("none of these files exists: {}", firmware.places());
        let what = format!("{}, for `run --loader`", firmware.name);
        tell(&what, found.with_context(absent), &|| format!("fix: {}", firmware.apt), false);
    }
    println!(
        "{}",
        if sick {
            "Something required is missing; see above."
        } else {
            "Everything required is here."
        }
    );
    Ok(sick.into())
}

/// Compiles an empty library for the bare-metal target.
fn compile() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = tempfile::tempdir().context("cannot make a folder for the trial")?;
    let mut command = Command::new(rustc);
    command.current_dir(crate::root()).arg("--out-dir").arg(out.path());
    command.args(["--target", TARGET, "--crate-type", "lib", "--crate-name", "trial", "-"]);
    let said = attempt(
        &mut command,
        "#![no_std]\npub fn trial() -> Option<u8> { core::hint::black_box(None) }\n",
    )?;
    ensure!(out.path().join("libtrial.rlib").exists(), "rustc left no library: {said}");
    Ok(format!("rustc compiles for {TARGET}"))
}

/// Starts a machine stopped, and ends it.
fn start(config: &Config, choice: &Choice<'_>) -> Result<String> {
    let mut command = Command::new(QEMU);
    command.args(choice.words(config)).args(["-S", "-serial", "none"]);
    // A monitor on our pipe, over which `quit` ends the machine.
    command.args(["-chardev", "stdio,id=quit", "-mon", "chardev=quit,mode=readline"]);
    attempt(&mut command, "quit\n")
        .map(|_| format!("starts with {}", choice.memory.unwrap_or(&choice.machine.memory)))
}

/// Runs the command to its end with `input`. Returns its output; on failure the error carries the
/// last lines of it.
fn attempt(command: &mut Command, input: &str) -> Result<String> {
    let program = command.get_program().display().to_string();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let guarded = Guarded::spawn(command).with_context(|| format!("cannot start {program}"))?;
    let (stdin, stdout, stderr) = guarded.pipes();
    if let Some(mut stdin) = stdin {
        // A program that has ended already does not read; its exit code says more than this error
        // would.
        let _ = stdin.write_all(input.as_bytes());
    }
    let (out, err) = (gather(stdout), gather(stderr));
    let status = guarded.wait(PATIENCE)?;
    guarded.kill();
    let said = [err, out].map(|reader| reader.join().unwrap_or_default()).concat();
    match status {
        Some(status) if status.success() => Ok(said),
        Some(_) => bail!("{}", tail(said.trim(), 3)),
        None => bail!("{program} did not end within {} s", PATIENCE.as_secs()),
    }
}

fn gather(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // After a read error, return what was read before it.
        let _ = from.map(|mut from| from.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Returns the C++ compiler's description of itself.
fn compiler() -> Result<String> {
    let mut words = fuzz::COMPILER.0.split(' ');
    let said = attempt(Command::new(words.next().unwrap_or_default()).args(words), "")?;
    said.lines().next().map(str::to_owned).context("it prints nothing")
}

/// Finds the first debugger that says that it knows aarch64.
fn debugger() -> Result<&'static str> {
    let knows = |program: &&&str| setup::found(program).is_some() && knows_aarch64(program);
    DEBUGGERS
        .iter()
        .find(knows)
        .copied()
        .with_context(|| format!("none of these is installed: {}", DEBUGGERS.join(", ")))
}

fn knows_aarch64(program: &str) -> bool {
    let mut command = Command::new(program);
    if program == "lldb" {
        // LLVM's debugger knows every architecture in all packages that we know of.
        return attempt(command.arg("--version"), "").is_ok();
    }
    command.args(["-nx", "-batch", "-ex", "set architecture aarch64", "-ex", "show architecture"]);
    // The exit code is no help: gdb 13 ends with 0 after a refused command.
    attempt(&mut command, "").is_ok_and(|said| accepted(&said))
}

/// Returns whether gdb accepted the architecture. A gdb that does not know it lists those that it
/// knows.
fn accepted(said: &str) -> bool {
    !said.contains("Undefined item") && said.contains("set to \"aarch64\"")
}

fn debugger_mend() -> String {
    match setup::manager() {
        Some(manager) => format!("fix: {}", manager.gdb),
        None => "install one with this machine's packages".to_owned(),
    }
}

/// The command line of a debugger that attaches to `stub`, with the kernel's symbols at the address
/// where QEMU loads it.
pub fn debugger_line(elf: &Path, stub: &str) -> String {
    // QEMU loads the Image 2 MiB above the start of RAM: it leaves the start for its own code, and
    // the header's text_offset (boot::image) is 0.
    const LOADED: &str = "0x40200000";
    let elf = elf.display().to_string();
    match debugger() {
        Ok("lldb") => {
            let slide = format!("target modules load --file {elf} --slide {LOADED}");
            qemu::shell_line(["lldb", &elf, "-o", &slide, "-o", &format!("gdb-remote {stub}")])
        }
        found => {
            // Without a debugger, show the line to type once one is installed.
            let program = found.unwrap_or(DEBUGGERS[0]);
            let (symbols, remote) =
                (format!("symbol-file {elf} -o {LOADED}"), format!("target remote {stub}"));
            qemu::shell_line([program, "-ex", &symbols, "-ex", &remote])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gdb_that_does_not_know_the_architecture_is_told_apart() {
        let knows = "The target architecture is set to \"aarch64\".\n\
                     The target architecture is set to \"aarch64\".\n";
        assert!(accepted(knows));
        let not = "Undefined item: \"aarch64\".\n\
                   The target architecture is set to \"auto\" (currently \"i386\").\n";
        assert!(!accepted(not));
    }

    #[test]
    fn a_trial_that_fails_shows_its_last_words() {
        let error =
            attempt(Command::new("sh").args(["-c", "cat; echo why >&2; exit 3"]), "heard\n")
                .unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
        assert_eq!(attempt(Command::new("cat").arg("-"), "heard\n").unwrap(), "heard\n");
    }
}
