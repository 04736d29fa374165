//! `ouroboros-check`: judges a loader, firmware, emulator or VMM by the arm64 boot protocol.
//!
//! It reads saved consoles, or starts a command. It needs neither QEMU nor Rust: the Image and the
//! disk come from a release, in whose folder it is.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use harness::{
    cmdline::{Cmdline, draw_seed},
    error::Usage,
    exec::{self, Exec},
    processes,
    verdict::judge,
};
use ouroboros_check::{
    judgement::Judgement,
    known::Known,
    options::JudgementOptions,
    report::{self, Loader, Report},
};

/// Judge how a loader entered an arm64 kernel, rule by rule of the boot protocol
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Start this folder's Image as you start Linux, with `check` in bootargs, and save its console:
  ouroboros-check boot.log

Or have it started. The command gets {image}, {disk} or {initrd}, {append}, {dtb} and {folder}:
  ouroboros-check --exec 'my-vmm --kernel {image} --disk {disk} --cmdline {append}'
  ouroboros-check --exec './flash.sh {image} {append}' --console /dev/ttyUSB0

Exit code: 0 if no rule is broken but known ones, 1 if one is or the run failed, 2 for a wrong
option, 124 out of time, 130 interrupted."
)]
struct Options {
    /// Saved consoles; - is standard input
    #[arg(value_name = "LOG", required_unless_present = "line", conflicts_with = "line")]
    logs: Vec<PathBuf>,
    #[command(flatten)]
    exec: Exec,
    /// A device tree for {dtb}
    #[arg(long, value_name = "FILE", requires = "line")]
    dtb: Option<PathBuf>,
    /// The folder with Image and disk.itb [default: the folder of this program]
    #[arg(long, value_name = "DIR", requires = "line")]
    release: Option<PathBuf>,
    /// More bootargs; may be given more than once
    #[arg(long, value_name = "WORDS", requires = "line")]
    append: Vec<String>,
    /// The time limit in seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout: u64,
    /// The loader's name, for reports and lists of known breaks
    #[arg(long, value_name = "NAME", default_value = "loader")]
    loader: String,
    /// Its version [default: as its banner says, if it is U-Boot, EDK2 or Linux]
    #[arg(long, value_name = "VERSION")]
    loader_version: Option<String>,
    #[command(flatten)]
    judgement: JudgementOptions,
}

/// A run's reports, or the reason why there are none, and an exit code of its own.
struct Seen {
    reports: Vec<Report>,
    failure: Option<(Loader, String)>,
    is_late: bool,
}

impl Options {
    fn perform(&self) -> Result<u8> {
        let strictness = self.judgement.strictness(Known::default())?;
        let seen = match &self.exec.line {
            Some(line) => vec![self.start(line)?],
            None => self.logs.iter().map(|log| self.read(log)).collect::<Result<_>>()?,
        };
        let is_late = seen.iter().any(|seen| seen.is_late);
        let (reports, failures): (Vec<_>, Vec<_>) =
            seen.into_iter().map(|seen| (seen.reports, seen.failure)).unzip();
        let (reports, failures) = (reports.concat(), failures.into_iter().flatten().collect());
        let judgement = Judgement::of(reports, failures, &strictness);
        let code = self.judgement.report(&judgement)?;
        Ok(if is_late { 124 } else { code })
    }

    /// Reads a saved console.
    fn read(&self, path: &Path) -> Result<Seen> {
        let mut bytes = Vec::new();
        let read = match path.to_str() {
            Some("-") => std::io::stdin().read_to_end(&mut bytes).map(drop),
            _ => std::fs::read(path).map(|read| bytes = read),
        };
        read.map_err(|error| Usage(format!("cannot read {}: {error}", path.display())))?;
        Ok(self.seen(&String::from_utf8_lossy(&bytes), None))
    }

    /// Starts the command and reads its console.
    fn start(&self, line: &str) -> Result<Seen> {
        let release = match &self.release {
            Some(folder) => folder.clone(),
            None => {
                let program = std::env::current_exe().context("cannot find this program")?;
                program.parent().unwrap_or(Path::new(".")).to_owned()
            }
        };
        let file = |name: &str| {
            let path = release.join(name);
            path.canonicalize().map_err(|error| {
                Usage(format!("cannot use {}: {error}; --release DIR", path.display()))
            })
        };
        let (image, takes_fit) = (file("Image")?, exec::takes_fit(line));
        let fit = takes_fit.then(|| file("disk.itb")).transpose()?;
        let append = [vec!["check".to_owned()], self.append.clone()].concat();
        let generations = if takes_fit { 2 } else { 1 };
        let cmdline = Cmdline { generations, seed: draw_seed(), append, ..Cmdline::default() };
        let folder = tempfile::tempdir().context("cannot make a folder for the run")?;
        let line = exec::fill(
            line,
            &exec::Values {
                image: &image,
                fit: fit.as_deref(),
                append: &cmdline.bootargs("", false),
                dtb: self.dtb.as_deref(),
                folder: folder.path(),
            },
        )?;
        println!("{line}");
        let followed = exec::follow(&exec::Start {
            line: &line,
            console: self.exec.console.as_deref(),
            folder: folder.path(),
            timeout: Duration::from_secs(self.timeout),
            silence: None,
            echo: false,
            seen: None,
        })?;
        let verdict = judge(followed.end, followed.code, false, false, &followed.events);
        let messages = harness::console::tail(&followed.messages, 5);
        let failure = (verdict.exit_code() == 124)
            .then(|| format!("out of time after {} s", self.timeout))
            .or_else(|| (!messages.is_empty()).then_some(messages));
        let mut seen = self.seen(&followed.console, failure.as_deref());
        seen.is_late = verdict.exit_code() == 124;
        Ok(seen)
    }

    /// Reads the reports on a console. `more` explains a failure.
    fn seen(&self, console: &str, more: Option<&str>) -> Seen {
        let version = self.loader_version.clone().or_else(|| report::version(console));
        let loader = Loader { name: self.loader.clone(), version, machine: None };
        let (reports, error) = match report::reports(console, &loader) {
            Ok(reports) => (reports, report::check_end(console).err()),
            Err(error) => (Vec::new(), Some(error)),
        };
        let why = |error: anyhow::Error| match more {
            Some(more) => format!("{error:#}: {more}"),
            None => format!("{error:#}"),
        };
        let failure = error.map(|error| (loader, why(error)));
        Seen { reports, failure, is_late: false }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match processes::end_with_us().and_then(|()| options.perform()) {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is::<processes::Interrupted>() => {
            ExitCode::from(processes::INTERRUPTED)
        }
        Err(error) => {
            eprintln!("ouroboros-check: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}
