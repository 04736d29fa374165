//! Entry-state tests: after a boot and a kexec, registers differ only as docs/entry-state.md lists.
//!
//! - One run for each cell of machines, modes and restarts, and one for each other CPU of a
//!   machine.
//! - After all of them, a check of the list itself and of docs/entry-state.md against the runs.
//! - One run whose kernel leaves a difference that is not on the list; the check must report it.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};

use harness::{
    config::Config, invariants::check, patch::Patched, setup, transcript, verdict::Verdict,
};
use tools::entry_state::{self, AllCpus, Cell, PAGE, Row};

use super::{
    case::{Case, Trial, case},
    debugger::debugged,
    page,
};

/// `msr cntvoff_el2, xzr`, and `msr cntvoff_el2, x9`; `el2_setup` leaves x9 nonzero there.
const CLEAR_OFFSET: u32 = 0xd51c_e07f;
const SET_OFFSET: u32 = 0xd51c_e069;

/// Observations of each cell, with the cell's position.
#[derive(Default)]
pub struct Seen(Mutex<Vec<(usize, Cell, Vec<Row>)>>);

/// Returns the cases of this suite. They add their observations to `seen`, for the page.
pub fn cases(config: &Config, seen: &Arc<Seen>) -> Vec<Case> {
    let cells = entry_state::cells(config, AllCpus::Yes).into_iter().enumerate();
    let mut cases: Vec<_> = cells
        .map(|(at, cell)| {
            let seen = Arc::clone(seen);
            case(format!("entry/{}", cell.name()), move |trial| {
                let rows = recorded(trial, &cell, None)?;
                let unlisted = entry_state::broken(&rows);
                ensure!(unlisted.is_empty(), "{}", unlisted.join("\n"));
                seen.0.lock().unwrap_or_else(PoisonError::into_inner).push((
                    at,
                    cell.clone(),
                    rows,
                ));
                Ok(())
            })
        })
        .collect();
    cases.push(case("entry/offset-left-in-the-counter", offset_left));
    cases
}

/// Runs a cell, which must succeed, and returns its rows. Boots `booted` instead of the kernel, if
/// given.
fn recorded(trial: &mut Trial<'_>, cell: &Cell, booted: Option<Vec<u8>>) -> Result<Vec<Row>> {
    let cmdline = cell.cmdline(trial.seed());
    let mut request = trial.request(&cell.machine, &cmdline)?;
    request.cpu = Some(cell.cpu.clone());
    request.image = booted;
    let mut states = Vec::new();
    let outcome = debugged(trial, request, |gdb| {
        states = entry_state::record(gdb)?;
        Ok(())
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    check(&transcript::logs(&outcome.console)?, &cmdline, cell.modes())?;
    Ok(entry_state::rows(&states))
}

/// Boots a kernel that leaves CNTVOFF_EL2 nonzero. No generation fails, since the next kernel
/// clears it; only the comparison of entry states can report it.
fn offset_left(trial: &mut Trial<'_>) -> Result<()> {
    let cells = entry_state::cells(trial.config(), AllCpus::No);
    let cell = cells
        .into_iter()
        .find(|cell| cell.gen_log() == "nvhe")
        .context("qemu.toml has no machine nvhe")?;
    let image = Patched::new(trial.kernel()).replace("el2_setup", CLEAR_OFFSET, SET_OFFSET)?.image;
    let unlisted = entry_state::broken(&recorded(trial, &cell, Some(image))?);
    match unlisted.as_slice() {
        [one] if one.starts_with("CNTVOFF_EL2 is 0x0, 0x3, 0x0 in turn") => Ok(()),
        _ => bail!("CNTVOFF_EL2 was left at 3, and the report is {unlisted:#?}"),
    }
}

impl Seen {
    /// If every cell passed, checks the list against the cells, and compares or writes the page.
    /// Returns whether it did so.
    pub fn close(&self, config: &Config, bless: bool) -> Result<bool> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < entry_state::cells(config, AllCpus::Yes).len() {
            ensure!(
                !bless || seen.is_empty(),
                "{PAGE} is written from a run in which every cell passed"
            );
            return Ok(false);
        }
        seen.sort_by_key(|&(at, ..)| at);
        let runs: Vec<_> =
            seen.iter().map(|(_, cell, rows)| (cell.clone(), rows.clone())).collect();
        let unlisted = entry_state::too_much(runs.iter().flat_map(|(_, rows)| rows));
        ensure!(
            unlisted.is_empty(),
            "xtask/tools/src/entry_state/allowed.rs:\n{}",
            unlisted.join("\n")
        );
        let qemu = setup::qemu_version().context("QEMU does not say its version")?;
        let written_with = entry_state::written_with(&qemu);
        let committed = fs::read_to_string(page::path(PAGE)).unwrap_or_default();
        if !bless && !committed.is_empty() && !committed.contains(&written_with) {
            println!("{PAGE} was generated with a QEMU other than {qemu}: not compared");
            return Ok(true);
        }
        page::hold(PAGE, &entry_state::page(&runs, &qemu), "entry/", bless).map(|()| true)
    }
}
