//! The verb `bench`: measures what the project promises in figures, beside the promises.
//!
//! It reports and fails no commit. Instruction counts come from `-icount shift=0,sleep=off`, where
//! one nanosecond of guest time is one instruction, so they repeat on any host. Wall times depend
//! on the host at that moment. One QEMU runs at a time, so that measurements do not disturb each
//! other.

mod generations;
mod relocation;
mod size;
mod span;
pub mod statistics;
mod table;
mod wall;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::table::Table;
use harness::{
    cmdline::{Cmdline, Restart},
    config::Config,
    disk,
    kernel_build::{self, Built},
    processes::Interrupted,
    report,
    request::{Disk, Request},
    run::run,
    setup,
    transcript::{GenerationLog, logs},
    verdict::Verdict,
};

/// Measure what the project promises in figures, and show both
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 if everything was measured, kept or missed; 1 if something could not be measured.

Examples:
  cargo xtask bench                                   everything; takes about five minutes
  cargo xtask bench --quick                           fewer generations and smaller payloads
  cargo xtask bench --only size
  cargo xtask bench --machine vhe --only relocation
  cargo xtask bench --json figures.json")]
pub struct BenchOptions {
    /// Fewer generations and smaller payloads
    #[arg(long)]
    quick: bool,
    /// Write the tables to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A machine of qemu.toml; may be given more than once [default: all of them]
    #[arg(long, value_name = "M")]
    machine: Vec<String>,
    /// Measure only this part; may be given more than once
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Vec<Part>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// One part of the bench, for `--only`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    /// Bytes of the Image and lines of code
    Size,
    /// Instructions of a generation, its phases, and drift over many
    Generations,
    /// Instructions per MiB that is relocated
    Relocation,
    /// Wall time of a generation and of QEMU's own reset
    Wall,
}

/// A part that is measured per machine: its name, its empty tables, and the function that fills
/// them.
type Measurement = (Part, fn() -> Vec<Table>, fn(&Setting, &str, &mut [Table]) -> Result<()>);

const MEASUREMENTS: [Measurement; 3] = [
    (Part::Generations, generations::tables, generations::measure),
    (Part::Relocation, relocation::tables, relocation::measure),
    (Part::Wall, wall::tables, wall::measure),
];

/// The configuration and the kernel that every measurement uses.
struct Setting {
    config: Arc<Config>,
    kernel: Arc<Built>,
    quick: bool,
}

/// The parameters of a run whose console is measured.
struct Measured {
    generations: u32,
    restart: Restart,
    /// RAM size instead of the machine's own.
    memory: Option<&'static str>,
    disk: Vec<u8>,
    timeout: Duration,
}

impl BenchOptions {
    /// Measures, prints the tables, and returns the exit code.
    pub fn perform(&self) -> Result<u8> {
        let config = Arc::new(Config::read(&harness::paths::root())?);
        self.machine.iter().try_for_each(|name| config.machine(name).map(drop))?;
        let machines = if self.machine.is_empty() {
            config.machines.keys().cloned().collect()
        } else {
            self.machine.clone()
        };
        setup::check_target()?;
        setup::ensure_qemu(self.yes)?;
        let kernel = Arc::new(kernel_build::build_for(&config)?);
        let setting = Setting { config, kernel, quick: self.quick };
        let wanted = |part: Part| self.only.is_empty() || self.only.contains(&part);

        let (mut tables, mut lacks) = (Vec::new(), Vec::new());
        let qemu = setup::qemu_version().unwrap_or_default();
        println!("{qemu}; kernel {}\n", setting.kernel.build_id);
        if wanted(Part::Size) {
            let table = size::table(&setting.kernel)?;
            println!("{table}");
            tables.push(table);
        }
        for (part, empty, measure) in MEASUREMENTS {
            if !wanted(part) {
                continue;
            }
            let mut filled = empty();
            for machine in &machines {
                match measure(&setting, machine, &mut filled) {
                    Ok(()) => {}
                    Err(error) if error.is::<Interrupted>() => return Err(error),
                    Err(error) => {
                        lacks.push(format!("{machine}: {part:?} not measured: {error:#}"))
                    }
                }
            }
            filled.iter().for_each(|table| println!("{table}"));
            tables.extend(filled);
        }
        if let Some(path) = &self.json {
            let tables: Vec<_> = tables.iter().map(Table::json).collect();
            let all = serde_json::json!({
                "qemu": qemu,
                "kernel": setting.kernel.build_id,
                "quick": self.quick,
                "tables": tables,
                "not_measured": lacks,
            });
            std::fs::write(path, format!("{all:#}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        lacks.iter().for_each(|lack| eprintln!("{lack}"));
        Ok(if lacks.is_empty() { 0 } else { 1 })
    }
}

impl Setting {
    /// Returns a disk image that holds the kernel alone.
    fn plain_disk(&self) -> Vec<u8> {
        disk::of(&self.kernel, false)
    }

    /// Builds the request for a run on `machine`; the caller runs it.
    fn request(&self, machine: &str, generations: u32, restart: Restart) -> Result<Request> {
        let mut request = Request::new(&self.config, machine, &self.kernel)?;
        // The run draws nothing from its seed. A fixed seed gives the same bootargs, and so the
        // same device tree size, each time.
        let cmdline = Cmdline { generations, restart, seed: 0, ..Cmdline::default() };
        request.bootargs = cmdline.bootargs(&request.machine.bootargs, request.semihosting);
        Ok(request)
    }

    /// Runs QEMU with guest time that counts instructions, and returns the generations.
    fn counted(&self, machine: &str, measured: Measured) -> Result<Vec<GenerationLog>> {
        let Measured { generations, restart, memory, disk, timeout } = measured;
        eprintln!(
            "{machine}: {generations} generations, {restart}, disk of {} KiB",
            disk.len() >> 10
        );
        let mut request = self.request(machine, generations, restart)?;
        request.memory = memory.map(str::to_owned);
        request.disk = Disk::Bytes(Arc::new(disk));
        request.args = ["-icount", "shift=0,sleep=off"].map(str::to_owned).into();
        request.timeout = timeout;
        let outcome = run(&request)?;
        if outcome.verdict != Verdict::Success {
            bail!("{}", report::words(&request, &outcome));
        }
        logs(&outcome.console)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_has_columns_and_a_title_of_its_own() {
        let tables: Vec<_> = MEASUREMENTS
            .iter()
            .flat_map(|(_, tables, _)| tables())
            .map(|table| table.to_string())
            .collect();
        let titles: std::collections::BTreeSet<_> =
            tables.iter().filter_map(|table| table.lines().next()).collect();
        assert_eq!(titles.len(), tables.len());
        assert!(tables.iter().all(|table| table.contains("| machine ")));
    }
}
