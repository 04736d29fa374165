//! Unit tests of the crates, on this host.
//!
//! They run first, one crate after the other. The host can test only the library of the kernel.

use std::{
    fs::File,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use harness::{console::tail, needs::Need, processes::Guarded};

use super::case::{Case, case};

/// Time limit for one crate, including its compilation.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Returns one case for each crate.
pub fn cases() -> Vec<Case> {
    let crates: [(&str, &[&str]); 13] = [
        ("boot", &[]),
        ("efi", &[]),
        ("relocate", &[]),
        ("model", &[]),
        ("fdt", &[]),
        ("frames", &[]),
        ("gic", &[]),
        ("protocol", &[]),
        ("virtio", &[]),
        ("harness", &[]),
        ("suites", &[]),
        ("tools", &[]),
        ("xtask", &[]),
    ];
    // The tests that `cargo test` leaves out, because they start mkimage and dumpimage.
    let tools = || cargo_test("protocol", &["--package", "harness", "--", "--ignored"]);
    let tools = Case { on_host: true, ..case("host/mkimage", move |_| tools()) };
    let host = |(name, words): (&'static str, &'static [&'static str])| Case {
        on_host: true,
        ..case(format!("host/{name}"), move |_| cargo_test(name, words))
    };
    crates.into_iter().map(host).chain([tools.needing([Need::UBootTools])]).collect()
}

fn cargo_test(package: &str, words: &[&str]) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder for cargo's output")?;
    let said = folder.path().join("said");
    let log = File::create(&said).with_context(|| format!("cannot write {}", said.display()))?;
    let mut command = Command::new(harness::paths::cargo());
    command
        .current_dir(harness::paths::root())
        .env("CARGO_TARGET_DIR", harness::paths::target_dir());
    command.args(["test", "--quiet", "--package", package]).args(words);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let cargo =
        Guarded::spawn(&mut command).with_context(|| format!("cannot start {command:?}"))?;
    let status = cargo.wait(PATIENCE)?;
    let said = String::from_utf8_lossy(&std::fs::read(&said)?).into_owned();
    match status {
        Some(status) if status.success() => {
            ensure!(
                passed(&said) > 0,
                "cargo test ran no test; its last lines:\n{}",
                tail(&said, 60)
            );
            Ok(())
        }
        Some(status) => {
            bail!("cargo test ended with {status}; its last lines:\n{}", tail(&said, 60))
        }
        None => bail!(
            "cargo test did not end within {} s; its last lines:\n{}",
            PATIENCE.as_secs(),
            tail(&said, 60)
        ),
    }
}

/// The number of tests that passed, by the summaries of the test programs.
fn passed(said: &str) -> usize {
    let summaries = said.lines().filter_map(|line| line.strip_prefix("test result: ok. "));
    summaries.filter_map(|summary| summary.split(' ').next()?.parse::<usize>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_passed_are_counted_over_all_programs() {
        let said = "\nrunning 2 tests\n..\n\
                    test result: ok. 2 passed; 0 failed; 0 ignored; finished in 0.01s\n\
                    test result: ok. 40 passed; 0 failed; 1 ignored; finished in 0.01s\n";
        assert_eq!(passed(said), 42);
        assert_eq!(passed("running 0 tests\n\ntest result: ok. 0 passed; 0 failed\n"), 0);
    }
}
