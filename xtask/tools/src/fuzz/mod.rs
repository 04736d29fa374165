//! The verb `fuzz`: runs the fuzz targets of `fuzz/`, each for a while.
//!
//! It runs on request, and for a few seconds in `check`. It needs neither nightly nor cargo-fuzz:
//! the workspace's pinned compiler can instrument coverage. Only libFuzzer needs a C++ compiler.
//! (`cargo +nightly fuzz run` builds the same targets, with AddressSanitizer too.) The seeds are in
//! `fuzz/corpus`; new inputs go beside the folders of the runs. Refuses a target that does not
//! exist, and a machine without a C++ compiler.

#[cfg(test)]
mod seeds;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use harness::{
    console::tail,
    error::Usage,
    processes::{Guarded, Interrupted, interrupted},
    qemu::shell_line,
};

/// Compiler flags for libFuzzer's coverage and comparison feedback, as cargo-fuzz sets them.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // Keep a separate branch for each condition.
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];

/// The time limit for one input: thousands of times what the slowest needs, because other programs
/// use the CPU too.
const INPUT_SECONDS: u64 = 30;

/// The extra time for a target to read its seeds and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The command that fails without a C++ compiler, and how to install one.
pub const COMPILER: (&str, &str) = (
    "c++ --version",
    "a C++ compiler, which libFuzzer is built with: `apt-get install -y g++`, \
     `dnf install -y gcc-c++`, or Xcode's",
);

/// Feed arbitrary input to the code that reads disks, device trees, bootargs and lists, and check
/// its promises
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 if every promise was kept, 1 otherwise, 2 for a target that does not exist.

Examples:
  cargo xtask fuzz                                 each target for a minute
  cargo xtask fuzz fit --seconds 600
  cargo xtask fuzz fit --input FILE                this input, once
  cargo +nightly fuzz run fit                      the same by cargo-fuzz, with AddressSanitizer")]
pub struct FuzzOptions {
    /// A file of fuzz/fuzz_targets, without its extension [default: all, in turn]
    target: Option<String>,
    /// Run time of each target, in seconds
    #[arg(
        long,
        value_name = "N",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    seconds: u64,
    /// Run the target on this file, once
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

impl FuzzOptions {
    /// Builds and runs the targets; returns the exit code.
    pub fn perform(&self) -> Result<u8> {
        let targets = chosen(targets()?, self.target.as_deref())?;
        let programs = build(&targets)?;
        if let Some(input) = &self.input {
            let status = Guarded::spawn(Command::new(&programs[0]).arg(input))?.wait(PATIENCE)?;
            ensure!(status.is_some(), "{} did not end within {} s", targets[0], PATIENCE.as_secs());
            return Ok(status.is_some_and(|status| !status.success()).into());
        }
        let mut failed = false;
        for (target, program) in targets.iter().zip(&programs) {
            let end = fuzz(target, program, self.seconds)?;
            let Counts { executions, coverage, features } = end.counts;
            let counts = format!(
                "{executions} executions, {coverage} edges and {features} features covered"
            );
            match end.broken {
                None => println!("  {target:<8} ok      {counts}"),
                Some(broken) => {
                    println!("  {target:<8} FAILED  {counts}\n{broken}");
                    failed = true;
                }
            }
        }
        Ok(failed.into())
    }
}

/// Returns the names of all targets, sorted.
fn targets() -> Result<Vec<String>> {
    let folder = harness::paths::root().join("fuzz").join("fuzz_targets");
    let files =
        std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for file in files {
        let path = file?.path();
        names.extend(
            path.file_stem()
                .filter(|_| path.extension().is_some_and(|end| end == "rs"))
                .map(|stem| stem.display().to_string()),
        );
    }
    names.sort();
    Ok(names)
}

fn chosen(targets: Vec<String>, wanted: Option<&str>) -> Result<Vec<String>> {
    let Some(wanted) = wanted else { return Ok(targets) };
    if !targets.iter().any(|target| target == wanted) {
        return Err(Usage(format!(
            "there is no fuzz target {wanted}: there are {}",
            targets.join(", ")
        ))
        .into());
    }
    Ok(vec![wanted.to_owned()])
}

/// Builds the targets and returns the paths of the programs.
fn build(targets: &[String]) -> Result<Vec<PathBuf>> {
    let (trial, mend) = COMPILER;
    let mut words = trial.split(' ');
    let mut compiler = Command::new(words.next().unwrap_or_default());
    compiler.args(words).stdout(Stdio::null()).stderr(Stdio::null());
    ensure!(
        compiler.status().is_ok_and(|status| status.success()),
        "`{trial}` fails; install {mend}"
    );

    let host = host()?;
    let mut command = Command::new(harness::paths::cargo());
    command
        .current_dir(harness::paths::root())
        .env("CARGO_TARGET_DIR", harness::paths::target_dir());
    command.args(["build", "--quiet", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
    // With `--target`, cargo does not apply the flags to build scripts and macros, so it shares
    // those with the kernel's build.
    command.args(["--target", &host]).args(targets.iter().flat_map(|target| ["--bin", target]));
    command
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", COVERAGE.join(" ") + " --cfg fuzzing");
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "the fuzz targets do not build: see cargo's output above");
    let folder = harness::paths::target_dir().join(host).join("release");
    Ok(targets.iter().map(|target| folder.join(target)).collect())
}

/// Returns the host's target triple.
fn host() -> Result<String> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let output = command
        .current_dir(harness::paths::root())
        .arg("-vV")
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = words
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not say what it runs on")?;
    Ok(host.to_owned())
}

/// Counters of a libFuzzer run.
#[derive(Debug, Default, Eq, PartialEq)]
struct Counts {
    executions: u64,
    coverage: u64,
    features: u64,
}

/// Result of one target.
struct End {
    counts: Counts,
    /// Report on an input that broke a promise.
    broken: Option<String>,
}

/// Runs one target.
fn fuzz(target: &str, program: &Path, seconds: u64) -> Result<End> {
    let folder = harness::paths::target_dir().join("ouroboros").join("fuzz").join(target);
    let found = folder.join("corpus");
    std::fs::create_dir_all(&found)
        .with_context(|| format!("cannot make the folder {}", found.display()))?;
    let log = folder.join("log");
    let file =
        std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(program);
    // libFuzzer adds new inputs to the first folder and only reads the second one, the seeds.
    command.arg(&found).arg(harness::paths::root().join("fuzz").join("corpus").join(target));
    command.arg(format!("-artifact_prefix={}/", folder.display()));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={INPUT_SECONDS}"));
    command.arg("-print_final_stats=1").stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let guarded = Guarded::spawn(&mut command)
        .with_context(|| format!("cannot start {}", program.display()))?;
    let status = guarded.wait(Duration::from_secs(seconds) + PATIENCE)?;
    guarded.kill();
    if interrupted() {
        return Err(Interrupted.into());
    }
    let words = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    match status {
        Some(status) if status.success() => Ok(End { counts: counts(&words), broken: None }),
        Some(_) => Ok(End { counts: counts(&words), broken: Some(broken(target, &words)) }),
        None => {
            bail!(
                "{target} did not end {} s after its time: its output is in {}",
                PATIENCE.as_secs(),
                log.display()
            )
        }
    }
}

/// Extracts libFuzzer's counters from its output.
fn counts(words: &str) -> Counts {
    let after = |line: &str, name: &str| {
        let rest = line.split_once(name)?.1;
        rest.split_whitespace().next()?.parse().ok()
    };
    let last = |name| words.lines().rev().find_map(|line| after(line, name)).unwrap_or(0);
    Counts {
        executions: last("stat::number_of_executed_units:"),
        coverage: last(" cov:"),
        features: last(" ft:"),
    }
}

/// Returns the report on the input that ended a target: the panic or libFuzzer's error, the file,
/// the command that repeats it.
fn broken(target: &str, words: &str) -> String {
    let lines: Vec<_> = words.lines().collect();
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let error = lines.iter().position(|line| line.contains("ERROR: libFuzzer"));
    let said = match panic.or(error) {
        Some(at) => {
            let panic = lines[at..].iter().take_while(|line| {
                !line.starts_with("stack backtrace") && !line.starts_with("note:")
            });
            panic.take(6).map(|line| format!("    {line}\n")).collect()
        }
        None => tail(words, 6),
    };
    let input = lines
        .iter()
        .find_map(|line| line.split_once("Test unit written to "))
        .map(|(_, input)| input);
    match input {
        Some(input) => {
            let again = shell_line(["cargo", "xtask", "fuzz", target, "--input", input]);
            format!("{said}\n    The input: {input}\n    Again:     {again}\n")
        }
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "\
#4096\tpulse  cov: 300 ft: 400 corp: 41/139b exec/s: 0
thread '<unnamed>' (7) panicked at src/list.rs:1:2:
attempt to add with overflow
stack backtrace:
   0: somewhere
#5000\tREDUCE cov: 309 ft: 463 corp: 41/139b exec/s: 0
==7== ERROR: libFuzzer: deadly signal
artifact_prefix='/x/'; Test unit written to /x/crash-1
stat::number_of_executed_units: 5001
";

    #[test]
    fn libfuzzers_counts_are_read() {
        assert_eq!(counts(WORDS), Counts { executions: 5001, coverage: 309, features: 463 });
        assert_eq!(counts(""), Counts::default());
    }

    #[test]
    fn what_broke_is_said_with_the_input_and_the_line_that_repeats_it() {
        let said = broken("list", WORDS);
        assert!(said.contains("src/list.rs:1:2:\n    attempt to add with overflow\n"), "{said}");
        assert!(
            said.ends_with("/x/crash-1\n    Again:     cargo xtask fuzz list --input /x/crash-1\n"),
            "{said}"
        );
        assert!(!said.contains("backtrace"), "{said}");
        let hung = broken(
            "list",
            "==7== ERROR: libFuzzer: timeout after 6 seconds\nTest unit written to /x/timeout-1\n",
        );
        assert!(
            hung.contains("timeout after 6 seconds") && hung.contains("--input /x/timeout-1"),
            "{hung}"
        );
    }

    #[test]
    fn every_target_has_seeds_and_one_that_does_not_exist_is_refused() {
        let there = targets().unwrap();
        for target in &there {
            assert!(harness::paths::root().join("fuzz/corpus").join(target).is_dir(), "{target}");
        }
        assert_eq!(chosen(there.clone(), Some("fit")).unwrap(), ["fit"]);
        let error = chosen(there, Some("fish")).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("fit, "), "{error}");
    }
}
