//! A run with the command line that `cargo xtask image` prints.
//!
//! It uses no semihosting, no monitor and no flag of qemu.toml, only the console and PSCI.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use boot::marker;

use harness::{
    console::{Stream, tail},
    disk,
    processes::Guarded,
    transcript,
};
use tools::image;

use super::case::Trial;

/// Time limit of the run; five generations take a second.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the command line until QEMU ends, and checks the generations and the success marker.
pub fn pass(trial: &mut Trial<'_>) -> Result<()> {
    let kernel = trial.kernel();
    let folder = tempfile::tempdir().context("cannot make a folder for the files")?;
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("Image"), &kernel.image)?;
    std::fs::write(file("disk.itb"), disk::of(kernel, false))?;
    let words = image::words(&file("Image"), &file("disk.itb"));

    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let qemu = Guarded::spawn(&mut command).with_context(|| format!("cannot start {command:?}"))?;
    let (_, stdout, _) = qemu.pipes();
    let stdout = stdout.context("QEMU has no standard output")?;
    let console = Stream::read(stdout, &file("console.log"), None, None, Instant::now())?;
    let status = qemu.wait(LIMIT)?;
    qemu.kill();
    let console = console.finish();

    let shown = || format!("{command:?}\n{}", tail(&console, 20));
    let status = status
        .with_context(|| format!("QEMU did not end within {} s: {}", LIMIT.as_secs(), shown()))?;
    ensure!(status.success(), "QEMU ended with {status}: {}", shown());
    let logs = transcript::logs(&console).with_context(shown)?;
    let [.., last] = logs.as_slice() else { anyhow::bail!("no generation: {}", shown()) };
    ensure!(
        logs.len() == 5 && last.number == 4,
        "{} generations, and should be 5: {}",
        logs.len(),
        shown()
    );
    ensure!(
        last.lines.last().is_some_and(|line| line == marker::SUCCESS),
        "no success: {}",
        shown()
    );
    // Without el2= the CPU decides, and this one has no VHE.
    ensure!(logs.iter().all(|gen_log| gen_log.mode == "nvhe"), "not all are in nvhe: {}", shown());
    Ok(())
}
