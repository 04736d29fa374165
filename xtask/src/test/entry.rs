//! The entry state, cold and warm: what the first instruction finds differs by the published list alone.
//!
//! *When:* a run for each cell of machines, modes and restarts, and one for each other CPU of a machine. Once all were made, the list itself is held against them, and
//! docs/entry-state.md. And a run whose kernel leaves something other than the list allows, which must be told.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    config::Config,
    entry_state::{self, AllCpus, Cell, PAGE, Row},
    proof::check,
    setup, transcript,
    verdict::Verdict,
};

use super::{
    case::{Case, Trial, case},
    debugger::debugged,
    page,
    patch::Patched,
};

/// `msr cntvoff_el2, xzr`, and the same from x9, which `el2_setup` has not emptied.
const CLEAR_OFFSET: u32 = 0xd51c_e07f;
const SET_OFFSET: u32 = 0xd51c_e069;

/// What was seen in each cell, in the order of the cells.
#[derive(Default)]
pub struct Seen(Mutex<Vec<(usize, Cell, Vec<Row>)>>);

/// All of them. What they see is kept for the page.
pub fn cases(config: &Config, seen: &Arc<Seen>) -> Vec<Case> {
    let cells = entry_state::cells(config, AllCpus::Yes).into_iter().enumerate();
    let mut cases: Vec<_> = cells
        .map(|(at, cell)| {
            let seen = Arc::clone(seen);
            case(format!("entry/{}", cell.name()), move |trial| {
                let rows = recorded(trial, &cell, None)?;
                let told = entry_state::broken(&rows);
                ensure!(told.is_empty(), "{}", told.join("\n"));
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

/// Makes the run, which must go well, of the cell or with another Image booted in it.
fn recorded(trial: &mut Trial<'_>, cell: &Cell, booted: Option<Vec<u8>>) -> Result<Vec<Row>> {
    let orders = cell.orders(trial.seed());
    let mut request = trial.request(&cell.machine, &orders)?;
    request.cpu = Some(cell.cpu.clone());
    request.image = booted;
    let mut states = Vec::new();
    let outcome = debugged(trial, request, |gdb| {
        states = entry_state::record(gdb)?;
        Ok(())
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    check(&transcript::lives(&outcome.console)?, &orders, cell.modes())?;
    Ok(entry_state::rows(&states))
}

/// The booted generation shifts EL1's view of the counter, and leaves it so: nothing in its life fails, nor in the next one's, which sets it right. The list tells.
fn offset_left(trial: &mut Trial<'_>) -> Result<()> {
    let cells = entry_state::cells(trial.config(), AllCpus::No);
    let cell = cells
        .into_iter()
        .find(|cell| cell.life() == "nvhe")
        .context("qemu.toml has no machine nvhe")?;
    let image = Patched::new(trial.kernel()).replace("el2_setup", CLEAR_OFFSET, SET_OFFSET)?.image;
    let told = entry_state::broken(&recorded(trial, &cell, Some(image))?);
    match told.as_slice() {
        [one] if one.starts_with("CNTVOFF_EL2 is 0x0, 0x3, 0x0 in turn") => Ok(()),
        _ => bail!("CNTVOFF_EL2 was left at 3, and this is told: {told:#?}"),
    }
}

impl Seen {
    /// Where every cell passed, holds the list against them, then the committed page, or writes it; says whether it was enough for that.
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
        let told = entry_state::too_much(runs.iter().flat_map(|(_, rows)| rows));
        ensure!(told.is_empty(), "xtask/src/entry_state/allowed.rs:\n{}", told.join("\n"));
        let qemu = setup::qemu_version().context("QEMU does not say its version")?;
        let written_with = entry_state::written_with(&qemu);
        let committed = fs::read_to_string(page::path(PAGE)).unwrap_or_default();
        if !bless && !committed.is_empty() && !committed.contains(&written_with) {
            println!("{PAGE} is of another QEMU than this one, {qemu}: not compared");
            return Ok(true);
        }
        page::hold(PAGE, &entry_state::page(&runs, &qemu), "entry/", bless).map(|()| true)
    }
}
