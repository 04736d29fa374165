//! The verb `doctor`: tries out what xtask needs and prints how to install the rest.
//!
//! It compiles for the bare-metal target, starts each machine of qemu.toml with each of its CPUs
//! and ends it before its first instruction, and queries each debugger for aarch64. Every trial has
//! a time limit.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::fuzz;
use harness::{
    config::Config,
    host_debugger,
    kernel_build::TARGET,
    needs::Need,
    parts,
    processes::attempt,
    qemu::{Choice, QEMU},
    setup::{self, Package},
};

/// Makes every trial and prints the results; returns the exit code.
pub fn examine() -> Result<u8> {
    let config = Config::read(&harness::paths::root())?;
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
    tell("Rust target", compile(), &|| format!("fix: {}", setup::TOOLCHAIN), true);
    println!("Required to run:");
    let qemu = parts::qemu();
    let place = setup::found(&qemu.display().to_string()).unwrap_or_else(|| qemu.to_owned());
    let version = setup::qemu_version()
        .map(|version| format!("{}: {version}", place.display()))
        .with_context(|| format!("{} does not start, or is not in PATH", place.display()));
    let there = version.is_ok();
    let qemu_line = setup::line_for(Package::Qemu, &[]);
    tell(QEMU, version, &|| format!("fix: {qemu_line}"), true);
    let older = || format!("fix: install QEMU 8 or later: {qemu_line}");
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
        host_debugger::found().map(str::to_owned),
        &|| format!("fix: {}", setup::line_for(Package::Gdb, &[])),
        false,
    );
    tell(
        "a C++ compiler, for `fuzz`",
        compiler(),
        &|| format!("fix: install {}", fuzz::COMPILER.1),
        false,
    );
    for need in Need::ALL {
        let what = format!("{}, for other loaders and their tests", need.name());
        let absent = || need.skipped(&[]);
        let tried = || format!("missing{}", need.tried());
        let found = need.found().with_context(tried);
        tell(&what, found, &|| format!("fix: {}", absent().mend), false);
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
    command.current_dir(harness::paths::root()).arg("--out-dir").arg(out.path());
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
    let mut command = Command::new(parts::qemu());
    command.args(choice.words(config)).args(["-S", "-serial", "none"]);
    // A monitor on our pipe, over which `quit` ends the machine.
    command.args(["-chardev", "stdio,id=quit", "-mon", "chardev=quit,mode=readline"]);
    attempt(&mut command, "quit\n")
        .map(|_| format!("starts with {}", choice.memory.unwrap_or(&choice.machine.memory)))
}

/// Returns the C++ compiler's description of itself.
fn compiler() -> Result<String> {
    let mut words = fuzz::COMPILER.0.split(' ');
    let said = attempt(Command::new(words.next().unwrap_or_default()).args(words), "")?;
    said.lines().next().map(str::to_owned).context("it prints nothing")
}
