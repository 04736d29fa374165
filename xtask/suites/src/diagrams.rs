//! Tests of the diagrams in docs/diagrams and of the byte dumps in docs/boot-protocols.md.
//!
//! A debugger follows each entry path and each kexec path. The diagram drawn from that run must
//! equal the committed one, byte for byte; with `--bless` it replaces it. An earlier run finds out
//! where the loader puts the Image. A case whose loader cannot be had is skipped.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

use harness::{
    disk,
    loader::Loader,
    request::Request,
    setup,
    transcript::{self, hex},
    verdict::Verdict,
};
use tools::diagrams::{self, Recording, Scouted, WAYS, Way};

use super::{
    case::{Case, Trial, case},
    debugger::{LOADED, debugged},
    page,
};

/// The page with the byte dumps.
const PAGE: &str = "docs/boot-protocols.md";

/// The files that the cases made.
#[derive(Default)]
pub struct Seen(Mutex<Vec<Made>>);

/// A file as a case generated it.
struct Made {
    path: String,
    text: String,
    /// A line with the versions. A committed file without it comes from another loader or QEMU.
    recorded_on: Option<String>,
}

/// Returns one case for each way, and one for the byte dumps.
pub fn cases(seen: &Arc<Seen>) -> Vec<Case> {
    let mut cases: Vec<_> = WAYS
        .map(|way| {
            let seen = Arc::clone(seen);
            let draw = move |trial: &mut Trial<'_>| {
                let recording = recorded(trial, way)?;
                let qemu = setup::qemu_version().context("QEMU does not say its version")?;
                let cpu = &trial.config().machine(way.machine)?.cpu;
                let recorded_on = way.recorded_on(&qemu, cpu);
                let text = diagrams::drawing(&recording, &recorded_on)?;
                seen.add(Made { path: way.path(), text, recorded_on: Some(recorded_on) });
                Ok(())
            };
            case(format!("diagrams/{}", way.name), draw).needing(way.loader.needs())
        })
        .into();
    let seen = Arc::clone(seen);
    cases.push(case("diagrams/bytes", move |trial| {
        let committed =
            fs::read_to_string(page::path(PAGE)).with_context(|| format!("cannot read {PAGE}"))?;
        let disk = disk::of(trial.kernel(), false);
        let text = diagrams::with_blocks(&committed, trial.kernel(), &disk).context(PAGE)?;
        seen.add(Made { path: PAGE.to_owned(), text, recorded_on: None });
        Ok(())
    }));
    cases
}

/// Records a path in a run that must succeed.
fn recorded(trial: &mut Trial<'_>, way: Way) -> Result<Recording> {
    let mut request = trial.request(way.machine, &way.cmdline(trial.seed()))?;
    request.loader = way.loader;
    let scouted = scouted(trial, &request)?;
    let (kernel, disk) = (Arc::clone(trial.kernel()), disk::of(trial.kernel(), false));
    let mut recording = None;
    let outcome = debugged(trial, request, |gdb| {
        recording = Some(diagrams::record(gdb, way, &kernel, &disk, scouted)?);
        Ok(())
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    recording.context("the debugger recorded nothing")
}

/// Finds out where the loader puts the Image.
fn scouted(trial: &mut Trial<'_>, request: &Request) -> Result<Scouted> {
    if request.loader == Loader::Qemu {
        return Ok(Scouted { base: LOADED, loaded: None, purgatory: None });
    }
    let outcome = trial.run(request)?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    let logs = transcript::logs(&outcome.console)?;
    let base = logs.first().context("no generation started")?.base;
    let line = outcome.console.lines().find(|line| line.contains("EFI stub: loaded at "));
    let loaded = line.map(|line| hex(line, "loaded at ")).transpose()?;
    let mut purgatory = None;
    if request.loader.is_linux() {
        debugged(trial, request.clone(), |gdb| {
            purgatory = Some(diagrams::purgatory(gdb, base)?);
            Ok(())
        })?;
    }
    Ok(Scouted { base, loaded, purgatory })
}

impl Seen {
    fn add(&self, made: Made) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(made);
    }

    /// Compares each committed file with the generated one, or writes it if `bless`. Returns
    /// whether there was any.
    pub fn close(&self, bless: bool) -> Result<bool> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.sort_by(|made, other| made.path.cmp(&other.path));
        for Made { path, text, recorded_on } in seen.iter() {
            let committed = fs::read_to_string(page::path(path)).unwrap_or_default();
            match recorded_on {
                Some(line) if !bless && !committed.is_empty() && !committed.contains(line) => {
                    println!(
                        "{path} was generated with another loader or QEMU than {line}: not compared"
                    );
                }
                _ => page::hold(path, text, "diagrams/", bless)?,
            }
        }
        Ok(!seen.is_empty())
    }
}
