//! The verb `diff-entry`: entry registers side by side, as a table and as JSON.
//!
//! The table shows identification registers only if they differ; the JSON always has them.

use std::{fmt::Write, fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use harness::{
    cmdline::{Restart, draw_seed, word},
    config::Config,
    debugger::debugged,
    disk, invariants,
    kernel_build::{self, Built},
    parts::{Hardware, Parts},
    report,
    request::{Disk, Request},
    run::run,
    setup, transcript,
    verdict::Verdict,
};

use super::{AllCpus, Cell, Row, broken, cells, record, rows};

/// Show every register at the first instruction, after a cold boot and after each self-kexec, side
/// by side
#[derive(Args, Debug)]
#[command(after_help = "\
A line begins with
  =  if all values are the same
  ~  if they differ as docs/entry-state.md allows
  !  if they differ otherwise

Exit code: 0 if only registers differ that may, 1 if others do, 2 for a machine that does not \
exist, 130 interrupted.

Examples:
  cargo xtask diff-entry
  cargo xtask diff-entry --machine vhe --restart cold
  cargo xtask diff-entry --json entry.json")]
pub struct DiffEntryOptions {
    /// A machine of qemu.toml [default: each of them]
    #[arg(long, value_name = "M")]
    machine: Option<String>,
    /// The kind of restart [default: both]
    #[arg(long, value_parser = word::<Restart>())]
    restart: Option<Restart>,
    /// Write all values to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    hardware: Hardware,
    #[command(flatten)]
    parts: Parts,
}

impl DiffEntryOptions {
    /// Runs the cells, prints their tables, and returns the exit code.
    pub fn perform(&self) -> Result<u8> {
        let config = Arc::new(self.parts.config(&self.hardware)?);
        self.machine.as_ref().map_or(Ok(()), |name| config.machine(name).map(drop))?;
        setup::check_target()?;
        setup::ensure_qemu(self.yes)?;
        let kernel = Arc::new(kernel_build::build_for(&config)?);
        let (mut all, mut unlisted) = (Vec::new(), Vec::new());
        for cell in cells(&config, AllCpus::No) {
            let asked = self.machine.as_ref().is_none_or(|name| *name == cell.machine)
                && self.restart.is_none_or(|restart| restart == cell.restart);
            if asked {
                let rows = made(&config, &kernel, &cell).with_context(|| cell.name())?;
                println!("{}", table(&cell, &rows));
                unlisted.extend(
                    broken(&rows)
                        .into_iter()
                        .map(|sentence| format!("{}: {sentence}", cell.name())),
                );
                all.push(document(&cell, &rows));
            }
        }
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&all)?;
            fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if unlisted.is_empty() {
            println!("All differences are on the list: docs/entry-state.md");
            return Ok(0);
        }
        eprintln!("Differences that are not on the list (xtask/tools/src/entry_state/allowed.rs):");
        unlisted.iter().for_each(|sentence| eprintln!("  {sentence}"));
        Ok(1)
    }
}

/// Runs the cell, which must succeed, and returns its rows.
fn made(config: &Arc<Config>, kernel: &Arc<Built>, cell: &Cell) -> Result<Vec<Row>> {
    let cmdline = cell.cmdline(draw_seed());
    let mut request = Request::new(config, &cell.machine, kernel)?;
    request.cpu = Some(cell.cpu.clone());
    request.seed = cmdline.seed;
    request.bootargs = cmdline.bootargs(&request.machine.bootargs, request.semihosting);
    request.disk = Disk::Bytes(Arc::new(disk::of(kernel, false)));
    let mut states = Vec::new();
    let outcome = debugged(request.clone(), run, |gdb| {
        states = record(gdb)?;
        Ok(())
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", report::words(&request, &outcome));
    invariants::check(&transcript::logs(&outcome.console)?, &cmdline, cell.modes())?;
    Ok(rows(&states))
}

fn table(cell: &Cell, rows: &[Row]) -> String {
    let shown: Vec<_> =
        rows.iter().filter(|row| row.differs() != 0 || !row.is_identification()).collect();
    let width = shown
        .iter()
        .flat_map(|row| &row.values)
        .map(|value| format!("{value:#x}").len())
        .max()
        .unwrap_or(0);
    let mut text = format!(
        "{}: QEMU's loader entered generation 0, each generation the next one\n",
        cell.name()
    );
    let generations = rows.first().map_or(0, |row| row.values.len());
    let heads: String =
        (0..generations).map(|number| format!("{:>width$}  ", format!("[{number}]"))).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  {:18}{heads}", "");
    for row in &shown {
        let (mark, reason) = match (row.differs(), row.beyond(), row.allowed) {
            (0, ..) => ('=', ""),
            (_, 0, Some(allowed)) => ('~', allowed.reason),
            (..) => ('!', "not on the list"),
        };
        let values: String =
            row.values.iter().map(|value| format!("{value:>#width$x}  ")).collect();
        let _ = writeln!(text, "{}", format!("{mark} {:18}{values}{reason}", row.name).trim_end());
    }
    let differ = rows.iter().filter(|row| row.differs() != 0).count();
    let left_out = rows.len() - shown.len();
    let _ = writeln!(
        text,
        "{} registers, {differ} differ; {left_out} more identify the CPU and are the same",
        shown.len()
    );
    text
}

fn document(cell: &Cell, rows: &[Row]) -> Value {
    let hex = |value: u64| format!("{value:#x}");
    let registers: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "values": row.values.iter().copied().map(hex).collect::<Vec<_>>(),
                "differs": hex(row.differs()),
                "allowed": hex(row.allowed.map_or(0, |allowed| allowed.bits)),
                "reason": row.allowed.map(|allowed| allowed.reason),
                "identification": row.is_identification(),
            })
        })
        .collect();
    json!({
        "machine": cell.machine,
        "column": cell.gen_log(),
        "restart": cell.restart.to_string(),
        "cpu": cell.cpu,
        "registers": registers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use harness::config::Mode;

    #[test]
    fn a_line_says_whether_it_differs_and_may() {
        let cell =
            Cell { machine: "el1".into(), mode: Mode::El1, restart: Restart::Hot, cpu: "c".into() };
        let state = |values: [(&str, u64); 5]| {
            super::super::Registers(values.map(|(name, value)| (name.to_owned(), value)).into())
        };
        let names =
            |a, b, c| [("DAIF", 0x3c0), ("ID_A", 1), ("VBAR_EL1", a), ("SCTLR_EL1", b), ("x1", c)];
        let rows = rows(&[state(names(0, 0, 0)), state(names(0x800, 1, 0))]);
        let text = table(&cell, &rows);
        let begins = |mark: &str| text.lines().filter(|line| line.starts_with(mark)).count();
        assert_eq!(
            (begins("= "), begins("~ VBAR_EL1 "), begins("! SCTLR_EL1 ")),
            (2, 1, 1),
            "{text}"
        );
        assert!(
            text.ends_with("4 registers, 2 differ; 1 more identify the CPU and are the same\n"),
            "{text}"
        );
        let document = document(&cell, &rows);
        assert_eq!(document["registers"][1]["identification"], true);
        assert_eq!(document["registers"][3]["differs"], "0x800");
    }
}
