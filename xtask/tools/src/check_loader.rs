//! The verb `check-loader`: checks each loader against the boot protocol, rule by rule.
//!
//! Each loader starts a run of two generations with `check` in bootargs, in each mode. The first
//! generation reports the state that the loader left, the second the state that our own kexec left.
//! The kernel gives the verdicts. This verb prints them as a table and compares them with
//! [`KNOWN`]: one broken rule more or one less fails.
//!
//! - A loader that is not installed is left out, and named.
//! - A run that does not get as far as its report is an error, which quotes the rule that the
//!   kernel's last words name.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use boot::marker;
use clap::Args;
use protocol::{record::Rule, rules::Verdict};

use harness::{
    cmdline::{Cmdline, draw_seed},
    config::Config,
    disk, invariants, kernel_build,
    loader::Loader,
    request::{Disk, Request},
    rules::reports,
    run::run,
    setup, verdict,
};

/// The rules that a loader is known to break, on every machine, and why.
const KNOWN: [(Loader, u32, &str); 3] = [
    (
        Loader::UefiShell,
        7,
        "EDK2 leaves the bus mastering of the controller on that it read the Image from",
    ),
    (
        Loader::UBootBooti,
        12,
        "U-Boot takes SErrors itself, and enters the Image with them unmasked",
    ),
    (Loader::UBootBootm, 12, "as booti"),
];

/// The name of our own kexec, which enters the second generation.
const OURSELVES: &str = "kexec";

/// Check each loader against the arm64 boot protocol, rule by rule, in each mode
#[derive(Args, Debug)]
#[command(after_help = "\
Prints rules × loaders, with one sign for each of el1, nvhe, vhe: + kept, X broken, - absent on
this CPU or machine, · cannot be observed by the kernel. Then prints each broken rule with the value
found, and the reason if known.
`kexec` is the kexec of this kernel itself.

Exit code: 0 if the loaders break exactly the rules that they are known to break (the list KNOWN in
xtask/tools/src/check_loader.rs), 1 if they break one rule more or one less, 130 interrupted.

Examples:
  cargo xtask check-loader
  cargo xtask check-loader --short
  cargo xtask check-loader --loader qemu --machine vhe")]
pub struct CheckLoaderOptions {
    /// Check only this loader; may be given more than once
    #[arg(long, value_enum)]
    loader: Vec<Loader>,
    /// Use only this machine; may be given more than once
    #[arg(long, value_name = "M", value_parser = invariants::MODES)]
    machine: Vec<String>,
    /// Leave out the loaders that take more than a few seconds: EDK2's shell and Linux's kexec
    #[arg(long)]
    short: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// The report on one loader on one machine.
struct Column {
    name: &'static str,
    machine: &'static str,
    report: Vec<Rule>,
}

impl CheckLoaderOptions {
    /// Runs the verb; returns its exit code.
    pub fn perform(&self) -> Result<u8> {
        let config = Arc::new(Config::read(&harness::paths::root())?);
        setup::check_target()?;
        setup::ensure_qemu(self.yes)?;
        let kernel = Arc::new(kernel_build::build_for(&config)?);
        let mut columns = Vec::new();
        for loader in [Loader::Qemu].into_iter().chain(Loader::OTHERS) {
            let is_slow = loader == Loader::UefiShell || loader.is_linux();
            if !self.loader.is_empty() && !self.loader.contains(&loader) || self.short && is_slow {
                continue;
            }
            if let Some(need) = loader.needs().find(|need| need.found().is_none()) {
                println!("{} is left out: it {}", loader.name(), need.skipped(&[]));
                continue;
            }
            for machine in invariants::MODES {
                if !self.machine.is_empty() && !self.machine.iter().any(|given| given == machine) {
                    continue;
                }
                let seed = draw_seed();
                let cmdline = Cmdline {
                    generations: 2,
                    seed,
                    append: vec!["check".to_owned()],
                    ..Cmdline::default()
                };
                let mut request = Request::new(&config, machine, &kernel)?;
                request.name = format!("check-{}-{machine}", loader.name());
                (request.loader, request.cpus, request.seed) = (loader, Some(2), seed);
                request.bootargs = cmdline.bootargs(&request.machine.bootargs, request.semihosting);
                request.disk = Disk::Bytes(Arc::new(disk::of(&kernel, false)));
                columns.extend(report(&request, loader.name(), machine)?);
            }
        }
        print!("{}", table(&columns));
        let (known, news) = broken(&columns);
        known.iter().chain(&news).for_each(|line| println!("{line}"));
        println!("{} known violations, {} deviations from KNOWN", known.len(), news.len());
        Ok(u8::from(!news.is_empty()))
    }
}

/// Runs the loader; returns its own column and that of our kexec.
fn report(request: &Request, loader: &'static str, machine: &'static str) -> Result<[Column; 2]> {
    let outcome = run(request)?;
    let at =
        || format!("{loader} on {machine}; the console is in {}", outcome.folder.path().display());
    if outcome.verdict != verdict::Verdict::Success {
        let said = outcome
            .console
            .lines()
            .find(|line| line.starts_with(marker::BROKEN))
            .unwrap_or_default();
        bail!("{}: {}\n{said}", outcome.verdict.words(), at());
    }
    let reports = reports(&outcome.console).with_context(at)?;
    let [first, second] = <[_; 2]>::try_from(reports).map_err(|reports| {
        anyhow::anyhow!("{} generations reported, not 2: {}", reports.len(), at())
    })?;
    Ok([(loader, first), (OURSELVES, second)].map(|(name, report)| Column {
        name,
        machine,
        report,
    }))
}

/// The table of rules × loaders, with one sign for each machine. All kexecs of ours share a column,
/// which shows the worst verdict.
fn table(columns: &[Column]) -> String {
    let Some(first) = columns.first() else { return String::new() };
    let mut names: Vec<_> = columns.iter().map(|column| column.name).collect();
    // Our own kexec comes last.
    names.sort_by_key(|&name| {
        (name == OURSELVES, columns.iter().position(|column| column.name == name))
    });
    names.dedup();
    let mut text = format!("    {:72}", "rule");
    names.iter().for_each(|name| text += &format!(" {name:>12}"));
    for (row, rule) in first.report.iter().enumerate() {
        text += &format!("\n{:3} {:72}", rule.rule, rule.text);
        for name in &names {
            let mut cell = String::new();
            for machine in invariants::MODES {
                let of = columns
                    .iter()
                    .filter(|column| column.name == *name && column.machine == machine);
                let rules: Vec<_> = of.filter_map(|column| column.report.get(row)).collect();
                let any = |verdict| rules.iter().any(|rule| rule.verdict == verdict);
                cell += match (rules.is_empty(), any(Verdict::Broken), any(Verdict::Unseen)) {
                    (true, ..) => "",
                    (_, true, _) => "X",
                    (_, _, true) => "·",
                    _ if any(Verdict::Absent) => "-",
                    _ => "+",
                };
            }
            text += &format!(" {cell:>12}");
        }
    }
    text + "\n\n"
}

/// Two lists of messages: rules broken as [`KNOWN`] says, and deviations from it.
fn broken(columns: &[Column]) -> (Vec<String>, Vec<String>) {
    let (mut known, mut news) = (Vec::new(), Vec::new());
    for Column { name, machine, report } in columns {
        for Rule { rule, text, value, place, verdict, .. } in report {
            let why =
                KNOWN.iter().find(|(loader, number, _)| loader.name() == *name && number == rule);
            match (verdict, why) {
                (Verdict::Broken, Some((.., why))) => {
                    known.push(format!(
                        "{name} on {machine} breaks rule {rule}: {text}: {value} ({place}): {why}"
                    ));
                }
                (Verdict::Broken, None) => {
                    news.push(format!(
                        "{name} on {machine} breaks rule {rule}: {text}: {value} ({place})"
                    ));
                }
                (_, Some(_)) => news.push(format!(
                    "{name} on {machine} is known to break rule {rule}, but does not: {value}"
                )),
                _ => {}
            }
        }
    }
    (known, news)
}

#[cfg(test)]
mod tests {
    use protocol::record::Hex;

    use super::*;

    fn sample(rule: u32, verdict: Verdict) -> Rule {
        Rule {
            generation: Some(0),
            mode: Some("vhe".into()),
            midr: Hex(0x41),
            rule,
            text: format!("text {rule}").into(),
            place: "2".into(),
            value: "0x4".to_owned(),
            verdict,
        }
    }

    #[test]
    fn a_loader_breaks_what_it_is_known_to_break_and_nothing_else() {
        let count = |name, report: &[Rule]| {
            let (known, news) = broken(&[Column { name, machine: "vhe", report: report.to_vec() }]);
            (known.len(), news.len())
        };
        let [seven, twelve] = [7, 12].map(|rule| sample(rule, Verdict::Broken));
        assert_eq!(count("u-boot-booti", &[sample(7, Verdict::Kept), twelve.clone()]), (1, 0));
        assert_eq!(
            count("u-boot-booti", &[sample(7, Verdict::Kept), sample(12, Verdict::Kept)]),
            (0, 1)
        );
        assert_eq!(
            count("u-boot-booti", &[sample(7, Verdict::Kept), sample(12, Verdict::Unseen)]),
            (0, 1)
        );
        assert_eq!(count("u-boot-booti", &[seven.clone(), twelve.clone()]), (1, 1));
        assert_eq!(count("uefi-shell", &[seven, sample(12, Verdict::Kept)]), (1, 0));
        assert_eq!(count(OURSELVES, &[twelve]), (0, 1), "ours is known to break nothing");
    }

    #[test]
    fn the_table_has_a_row_for_each_rule_and_names_the_broken_ones() {
        let column = |name, machine, verdict| Column {
            name,
            machine,
            report: vec![sample(1, verdict), sample(2, Verdict::Unseen)],
        };
        let columns = [
            column("qemu", "el1", Verdict::Kept),
            column(OURSELVES, "el1", Verdict::Broken),
            column("qemu", "vhe", Verdict::Broken),
            column("uefi", "el1", Verdict::Kept),
            column(OURSELVES, "el1", Verdict::Kept),
        ];
        let text = table(&columns);
        let words: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["rule", "qemu", "uefi", OURSELVES]);
        assert_eq!(words[1], ["1", "text", "1", "+X", "+", "X"]);
        assert_eq!(words[2], ["2", "text", "2", "··", "·", "·"]);
        let (known, news) = broken(&columns);
        assert!(known.is_empty(), "{known:?}");
        assert_eq!(
            news,
            [
                "kexec on el1 breaks rule 1: text 1: 0x4 (2)",
                "qemu on vhe breaks rule 1: text 1: 0x4 (2)"
            ]
        );
    }
}
