//! The verb `check-loader`: each loader held against the boot protocol, rule by rule, in each mode.
//!
//! *When:* on request. A run has two generations, and each says what it was entered with: the first is the loader's, the second our own restart's. A
//! loader that is not here is left out, and named. The verdicts are the kernel's (`check` in bootargs); this is their table.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{
    config::Config,
    disk, kernel_build,
    loader::Loader,
    orders::{Orders, draw_seed},
    protocol::{Told, Verdict, reports},
    request::{Disk, Request},
    run::run,
    setup, verdict,
};

/// The machines, by the modes that they are named after.
const MACHINES: [&str; 3] = ["el1", "nvhe", "vhe"];

/// What the second generation is entered by.
const OURSELVES: &str = "kexec";

/// Hold each loader against the arm64 boot protocol, rule by rule, in each mode
#[derive(Args, Debug)]
#[command(after_help = "\
Prints rules × loaders, a sign for each of el1, nvhe, vhe: + kept, X broken, · cannot be seen from the kernel. Then each broken
rule with the value found.
`kexec` is this kernel's own restart.

Exit code: 0 if no rule is broken, 1 otherwise, 130 interrupted.

Examples:
  cargo xtask check-loader
  cargo xtask check-loader --loader qemu --machine vhe")]
pub struct CheckLoaderOptions {
    /// One of these alone; may be given more than once
    #[arg(long, value_enum)]
    loader: Vec<Loader>,
    /// One of these alone; may be given more than once
    #[arg(long, value_name = "M", value_parser = MACHINES)]
    machine: Vec<String>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// A loader on a machine, and what was told of it.
struct Column {
    name: &'static str,
    machine: &'static str,
    report: Vec<Told>,
}

impl CheckLoaderOptions {
    /// Does it; gives the exit code.
    pub fn perform(&self) -> Result<u8> {
        let config = Arc::new(Config::read(&crate::root())?);
        setup::ensure_target(self.yes)?;
        setup::ensure_qemu(self.yes)?;
        let kernel = Arc::new(kernel_build::build()?);
        let mut columns = Vec::new();
        for loader in [Loader::Qemu].into_iter().chain(Loader::OTHERS) {
            if !self.loader.is_empty() && !self.loader.contains(&loader) {
                continue;
            }
            if let Err(lacks) = loader.there() {
                println!("{} is left out: {lacks}", loader.name());
                continue;
            }
            for machine in MACHINES {
                if !self.machine.is_empty() && !self.machine.iter().any(|given| given == machine) {
                    continue;
                }
                let seed = draw_seed();
                let orders = Orders { generations: 2, seed, append: vec!["check".to_owned()], ..Orders::default() };
                let mut request = Request::new(&config, machine, &kernel)?;
                request.name = format!("check-{}-{machine}", loader.name());
                (request.loader, request.cpus, request.seed) = (loader, Some(2), seed);
                request.bootargs = orders.bootargs(&request.machine.bootargs, request.semihosting);
                request.disk = Disk::Bytes(Arc::new(disk::of(&kernel, false)));
                columns.extend(told(&request, loader.name(), machine)?);
            }
        }
        let (text, broken) = table(&columns);
        print!("{text}");
        Ok(u8::from(broken > 0))
    }
}

/// Makes the run; gives the loader's column and our own.
fn told(request: &Request, loader: &'static str, machine: &'static str) -> Result<[Column; 2]> {
    let outcome = run(request)?;
    let at = || format!("{loader} on {machine}; the console is in {}", outcome.folder.path().display());
    ensure!(outcome.verdict == verdict::Verdict::Success, "{}: {}", outcome.verdict.words(), at());
    let reports = reports(&outcome.console).with_context(at)?;
    let [first, second] = <[_; 2]>::try_from(reports)
        .map_err(|reports| anyhow::anyhow!("{} generations reported, and 2 live: {}", reports.len(), at()))?;
    Ok([(loader, first), (OURSELVES, second)].map(|(name, report)| Column { name, machine, report }))
}

/// Rules × loaders, a sign for each machine, and how many reports break a rule. Restarts after several loaders share a column: the worst is shown.
fn table(columns: &[Column]) -> (String, usize) {
    let Some(first) = columns.first() else { return (String::new(), 0) };
    let mut names: Vec<_> = columns.iter().map(|column| column.name).collect();
    // Ours last.
    names.sort_by_key(|&name| (name == OURSELVES, columns.iter().position(|column| column.name == name)));
    names.dedup();
    let mut text = format!("    {:72}", "rule");
    names.iter().for_each(|name| text += &format!(" {name:>12}"));
    let (mut broken, mut count) = (String::new(), 0);
    for (row, rule) in first.report.iter().enumerate() {
        text += &format!("\n{:3} {:72}", rule.rule, rule.text);
        for name in &names {
            let mut cell = String::new();
            for machine in MACHINES {
                let of = columns.iter().filter(|column| column.name == *name && column.machine == machine);
                let told: Vec<_> = of.filter_map(|column| column.report.get(row)).collect();
                for told in told.iter().filter(|told| told.verdict == Verdict::Broken) {
                    let Told { rule, text, value, place, .. } = told;
                    broken += &format!("{name} on {machine} breaks rule {rule}: {text}: {value} ({place})\n");
                    count += 1;
                }
                let any = |verdict| told.iter().any(|told| told.verdict == verdict);
                cell += match (told.is_empty(), any(Verdict::Broken), any(Verdict::Unseen)) {
                    (true, ..) => "",
                    (_, true, _) => "X",
                    (_, _, true) => "·",
                    _ => "+",
                };
            }
            text += &format!(" {cell:>12}");
        }
    }
    (format!("{text}\n\n{broken}{count} broken\n"), count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_rule_and_tells_what_is_broken() {
        let told = |rule, verdict| Told {
            rule,
            text: format!("text {rule}"),
            place: "2".to_owned(),
            value: "0x4".to_owned(),
            verdict,
        };
        let column =
            |name, machine, verdict| Column { name, machine, report: vec![told(1, verdict), told(2, Verdict::Unseen)] };
        let (text, broken) = table(&[
            column("qemu", "el1", Verdict::Kept),
            column(OURSELVES, "el1", Verdict::Broken),
            column("qemu", "vhe", Verdict::Broken),
            column("uefi", "el1", Verdict::Kept),
            column(OURSELVES, "el1", Verdict::Kept),
        ]);
        assert_eq!(broken, 2);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["rule", "qemu", "uefi", OURSELVES]);
        assert_eq!(words[1], ["1", "text", "1", "+X", "+", "X"]);
        assert_eq!(words[2], ["2", "text", "2", "··", "·", "·"]);
        assert!(text.contains("kexec on el1 breaks rule 1: text 1: 0x4 (2)"));
    }
}
