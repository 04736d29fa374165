//! A command of the user's own, as `--exec` takes it, in place of QEMU.
//!
//! The command starts QEMU all the same, but the harness does not know that: it gets no monitor, no
//! exit code from the guest, and may get the console at another place.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};

use harness::{
    cmdline::{Base, Cmdline},
    exec::Exec,
    invariants::{Modes, check},
    qemu::shell_line,
    request::Request,
    transcript::logs,
    verdict::Verdict,
};

use super::case::{Case, Trial, case};

/// Returns the cases.
pub fn cases() -> Vec<Case> {
    vec![
        case("own/exec", |trial| restarts(trial, "{qemu}", None)),
        case("own/console-file", |trial| restarts(trial, "{qemu}", Some("file:{console}"))),
        case("own/console-socket", |trial| {
            restarts(trial, "{qemu}", Some("unix:{console},server=on,wait=on"))
        }),
        // The command has ended before the machine has.
        case("own/starter", |trial| restarts(trial, "{qemu} &", Some("file:{console}"))),
        // A board runs on after its last word.
        case("own/does-not-end", |trial| restarts(trial, "{qemu}; sleep 600", None)),
        case("own/fails", fails),
        case("own/silent", silent),
    ]
}

/// Runs three generations by a command with `{qemu}` in it. The console is the standard output, or
/// `serial`, in which `{console}` is a path.
fn restarts(trial: &mut Trial<'_>, line: &str, serial: Option<&str>) -> Result<()> {
    let cmdline = Cmdline { base: Base::Random, ..trial.cmdline() };
    let mut request = trial.request_psci("nvhe", &cmdline)?;
    let folder = tempfile::tempdir()?;
    let console = folder.path().join("console");
    let serial = serial.map(|serial| serial.replace("{console}", &console.display().to_string()));
    let line = line.replace("{qemu}", &command(&request, serial.as_deref().unwrap_or("stdio")));
    request.exec = Some(Exec { line: Some(line), console: serial.map(|_| console) });
    let outcome = trial.ends(&request, Verdict::Success)?;
    check(&logs(&outcome.console)?, &cmdline, Modes::All("nvhe"))
}

/// The line that starts this request's QEMU, with the placeholders of `--exec`.
fn command(request: &Request, serial: &str) -> String {
    let request = Request { bootargs: "{append}".to_owned(), ..request.clone() };
    let [image, disk, folder] = ["{image}", "{disk}", "{folder}"].map(Path::new);
    let mut words = request.words(image, Some(disk), folder);
    let console = words.iter_mut().skip_while(|word| *word != "-chardev").nth(1);
    console.into_iter().for_each(|console| *console = "null,id=console".to_owned());
    words.extend(["-serial", serial].map(str::to_owned));
    let at = words.iter().position(|word| word == "chardev:console").unwrap_or(1) - 1;
    words.drain(at..at + 2);
    // The placeholder is filled in with quotes.
    shell_line(words).replace("'{append}'", "{append}")
}

/// A command that fails is a failure at once, with its own words, wherever the console is.
fn fails(trial: &mut Trial<'_>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    for console in [None, Some(folder.path().join("console"))] {
        let mut request = trial.request_psci("nvhe", &trial.cmdline())?;
        request.timeout = Duration::from_secs(600);
        let line = Some("echo no such machine >&2; exit 3".to_owned());
        request.exec = Some(Exec { line, console });
        let outcome = trial.ends(&request, Verdict::Failed(3))?;
        ensure!(outcome.qemu.contains("no such machine"), "its words are lost: {}", outcome.qemu);
    }
    Ok(())
}

/// A command that prints nothing is out of time, and leaves no process behind.
fn silent(trial: &mut Trial<'_>) -> Result<()> {
    let mut request = trial.request_psci("nvhe", &trial.cmdline())?;
    request.timeout = Duration::from_secs(1);
    let line = Some("sleep 600 & echo $! > {folder}/child; wait".to_owned());
    request.exec = Some(Exec { line, console: None });
    let outcome = trial.ends(&request, Verdict::TimedOut)?;
    let child = std::fs::read_to_string(outcome.folder.path().join("child"))?;
    let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    ensure!(state.is_empty() || state.contains(") Z "), "process {child} still runs: {state}");
    Ok(())
}
