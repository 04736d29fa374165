//! Unit tests of the crates, on this host.
//!
//! They run first. One cargo command builds the test programs of all crates, so that each
//! dependency is built once; a case runs the programs of one crate. The kernel is not among them:
//! it builds for the bare-metal target only.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use harness::{console::tail, needs::Need, paths, processes::Guarded};

use super::case::{Case, case};

/// Time limit for building all programs, and for running one.
const PATIENCE: Duration = Duration::from_secs(1800);

/// The folders of the crates with tests; the last part is the crate's name.
const CRATES: [&str; 14] = [
    "boot",
    "efi",
    "relocate",
    "model",
    "fdt",
    "frames",
    "gic",
    "protocol",
    "virtio",
    "xtask/harness",
    "xtask/ouroboros-check",
    "xtask/suites",
    "xtask/tools",
    "xtask",
];

/// The test programs of each crate, by the crate's folder.
type Programs = BTreeMap<PathBuf, Vec<PathBuf>>;

/// Returns one case for each crate, and one for the tests that need U-Boot's tools.
pub fn cases() -> Vec<Case> {
    let built = Arc::new(OnceLock::new());
    let case = |name: &str, folders: Vec<&'static str>, words: &'static [&'static str]| {
        let built = Arc::clone(&built);
        let check = move || {
            let programs =
                built.get_or_init(build).as_ref().map_err(|error| anyhow!("{error:#}"))?;
            folders.iter().try_for_each(|folder| test(programs, folder, words))
        };
        Case { on_host: true, ..case(format!("host/{name}"), move |_| check()) }
    };
    let name = |folder: &'static str| folder.rsplit('/').next().unwrap_or(folder);
    let crates = CRATES.map(|folder| case(name(folder), vec![folder], &[]));
    // `cargo test` leaves these out, because they start mkimage and dumpimage.
    let mkimage = case("mkimage", vec!["protocol", "xtask/harness"], &["--ignored"]);
    crates.into_iter().chain([mkimage.needing([Need::UBootTools])]).collect()
}

/// Builds the test programs of all crates.
fn build() -> Result<Programs> {
    let mut cargo = Command::new(paths::cargo());
    cargo.args(["test", "--quiet", "--no-run", "--message-format", "json-render-diagnostics"]);
    cargo.current_dir(paths::root()).env("CARGO_TARGET_DIR", paths::target_dir());
    let (messages, errors) = output_of(&mut cargo)?;
    programs(&messages).with_context(|| format!("cargo's last lines:\n{}", tail(&errors, 60)))
}

/// Reads the test programs out of cargo's messages.
fn programs(messages: &str) -> Result<Programs> {
    let mut programs = Programs::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message is not JSON")?;
        if let Some(program) = message["executable"].as_str()
            && message["profile"]["test"] == true
        {
            let manifest = message["manifest_path"].as_str().context("a program has no crate")?;
            let folder = Path::new(manifest).parent().context("a crate has no folder")?;
            programs.entry(folder.to_owned()).or_default().push(program.into());
        }
    }
    Ok(programs)
}

/// Runs the test programs of the crate in this folder.
fn test(programs: &Programs, folder: &str, words: &[&str]) -> Result<()> {
    let folder = paths::root().join(folder);
    let mut passed = 0;
    for program in programs.get(&folder).into_iter().flatten() {
        let mut command = Command::new(program);
        // As cargo runs them.
        command.args(words).current_dir(&folder).env("CARGO_MANIFEST_DIR", &folder);
        passed += tests_passed(&output_of(&mut command)?.0);
    }
    ensure!(passed > 0, "no test ran in {}", folder.display());
    Ok(())
}

/// Runs a command to its end; returns both of its streams, or an error with their last lines.
fn output_of(command: &mut Command) -> Result<(String, String)> {
    let folder = tempfile::tempdir().context("cannot make a folder for a command's output")?;
    let streams = ["output", "errors"].map(|name| folder.path().join(name));
    let create = |path| File::create(path).context("cannot make a file for a command's output");
    command.stdin(Stdio::null()).stdout(create(&streams[0])?).stderr(create(&streams[1])?);
    let guarded = Guarded::spawn(command).with_context(|| format!("cannot start {command:?}"))?;
    let status = guarded.wait(PATIENCE)?;
    let read =
        |path| Ok::<_, std::io::Error>(String::from_utf8_lossy(&std::fs::read(path)?).into());
    let (output, errors): (String, String) = (read(&streams[0])?, read(&streams[1])?);
    match status {
        Some(status) if status.success() => Ok((output, errors)),
        status => {
            let limit = format!("did not end within {} s", PATIENCE.as_secs());
            let end = status.map_or(limit, |status| format!("ended with {status}"));
            // Cargo prints its messages for people among the errors.
            let words: Vec<_> = output.lines().filter(|line| !line.starts_with('{')).collect();
            let last = [words.join("\n"), errors].map(|stream| tail(&stream, 60)).join("\n");
            bail!("{} {end}; its last lines:\n{last}", command.get_program().display())
        }
    }
}

/// The number of tests that passed, by the summaries of the test programs.
fn tests_passed(said: &str) -> usize {
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
        assert_eq!(tests_passed(said), 42);
        assert_eq!(tests_passed("running 0 tests\n\ntest result: ok. 0 passed; 0 failed\n"), 0);
    }

    #[test]
    fn test_programs_are_found_in_cargos_messages_by_crate() {
        let message = |folder: &str, test: bool, executable: Value| {
            serde_json::json!({
                "reason": "compiler-artifact",
                "manifest_path": format!("/house/{folder}/Cargo.toml"),
                "profile": { "test": test },
                "executable": executable,
            })
            .to_string()
        };
        let messages = [
            message("boot", false, Value::Null),
            message("boot", true, "/target/boot-1".into()),
            message("xtask", false, "/target/xtask".into()),
            message("boot", true, "/target/registers-2".into()),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let programs = programs(&messages.join("\n")).unwrap();
        let boot = ["/target/boot-1", "/target/registers-2"].map(PathBuf::from).to_vec();
        assert_eq!(programs, Programs::from([("/house/boot".into(), boot)]));
        assert!(self::programs("Compiling boot").is_err());
    }

    #[test]
    fn a_command_that_fails_shows_its_last_lines() {
        let shell = |script| output_of(Command::new("sh").args(["-c", script]));
        assert_eq!(shell("echo a; echo b >&2").unwrap(), ("a\n".to_owned(), "b\n".to_owned()));
        let error = shell("echo a; echo b >&2; exit 3").unwrap_err().to_string();
        assert!(
            error.contains("exit status: 3; its last lines:\na\n") && error.contains("b"),
            "{error}"
        );
    }
}
