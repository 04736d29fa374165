//! The verb `test`: the host's tests, then the machines.
//!
//! *When:* on request, in CI, before a commit. A case is a name and a check; a suite is a file that lists cases. The host's tests are
//! cases as well, made one after the other; those that start QEMU are made several at a time. Nothing is made for a case that the
//! filter leaves out, so one case is repeated by its name alone.

mod case;
mod controls;
mod cpus;
mod debugger;
mod devices;
mod entry;
mod exceptions;
mod failing;
mod guests;
mod hand_over;
mod hang;
mod host;
mod last_look;
mod loaders;
mod map;
mod matrix;
mod memory;
mod model;
mod page;
pub mod patch;
mod payload;
mod plain;
mod protocol;
mod refused;
mod runner;
mod stress;
mod stub;

use std::sync::Arc;

use anyhow::{Result, anyhow};
use clap::Args;

use crate::{
    Usage,
    config::Config,
    kernel_build,
    orders::{draw_seed, parse_seed},
    setup,
};

pub use self::case::Skipped;
use self::case::{Case, Lab};

/// Test everything: the crates on this host, then the kernel on every machine
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 if all passed, 1 if one failed, 2 if the filter names none, 130 interrupted.

Examples:
  cargo xtask test
  cargo xtask test --list
  cargo xtask test host                           the crates' own tests
  cargo xtask test refused                        every case whose name has that in it
  cargo xtask test matrix/nvhe-hot-same-modern    the one case of that name
  cargo xtask test controls                       each safety step, left out: what is seen then
  cargo xtask test entry/                         the registers at the first instruction, cold and warm
  cargo xtask test hand-over/                     the drawings of each way in and out, made again from runs")]
pub struct TestOptions {
    /// The name of a case, or a part of the names of some
    filter: Option<String>,
    /// Name the cases, and make none
    #[arg(long)]
    list: bool,
    /// What the cases' random choices are drawn from, decimal or 0x… [default: drawn anew and printed]
    #[arg(long, value_name = "S", value_parser = parse_seed)]
    seed: Option<u64>,
    /// Write what under docs/ is written from runs from what `controls`, `entry` and `hand-over` saw, instead of holding it against that
    #[arg(long)]
    bless: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

impl TestOptions {
    /// Does it; gives the exit code.
    pub fn perform(&self) -> Result<u8> {
        let config = Arc::new(Config::read(&crate::root())?);
        let seen = Seen::default();
        let chosen = choose(cases(&config, &seen), self.filter.as_deref())?;
        if self.list {
            chosen.iter().for_each(|case| println!("{}", case.name));
            return Ok(0);
        }
        let (on_host, on_machines): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|case| case.on_host);
        if !on_machines.is_empty() {
            // Before the host's tests take their minute.
            setup::ensure_target(self.yes)?;
            setup::ensure_qemu(self.yes)?;
        }
        let seed = self.seed.unwrap_or_else(draw_seed);
        println!("seed {seed:#018x}");
        let mut tally = runner::Tally::new(seed);
        runner::one_by_one(&on_host, &mut tally)?;
        if !on_machines.is_empty() {
            let lab =
                Lab { config: Arc::clone(&config), kernel: Arc::new(kernel_build::build()?), seed };
            runner::side_by_side(&on_machines, &lab, &mut tally)?;
            seen.close(&config, self.bless, &mut tally);
        }
        Ok(tally.close())
    }
}

/// What the cases saw of which a page under docs/ tells.
#[derive(Default)]
struct Seen {
    controls: Arc<controls::Seen>,
    entry: Arc<entry::Seen>,
    hand_over: Arc<hand_over::Seen>,
}

impl Seen {
    /// Holds the pages against it, or writes those that it is enough for.
    fn close(&self, config: &Config, bless: bool, tally: &mut runner::Tally) {
        let controls = self.controls.close(bless);
        let entry = self.entry.close(config, bless);
        let hand_over = self.hand_over.close(bless);
        if bless && matches!((&controls, &entry, &hand_over), (Ok(false), Ok(false), Ok(false))) {
            tally.hold(
                "--bless",
                Err(anyhow!("no page is written from these cases: `controls`, `entry` and `hand-over` have some")),
            );
        }
        tally.hold("controls", controls.map(drop));
        tally.hold("entry", entry.map(drop));
        tally.hold("hand-over", hand_over.map(drop));
    }
}

/// Every case. Those that mostly wait come first among the machines', so that the others fill the time.
fn cases(config: &Config, seen: &Seen) -> Vec<Case> {
    let mut cases = host::cases();
    cases.extend(hang::cases());
    cases.extend(stress::cases());
    cases.extend(failing::cases());
    cases.extend(matrix::cases(config));
    cases.extend(loaders::cases());
    cases.extend(devices::cases());
    cases.extend(guests::cases());
    cases.extend(payload::cases());
    cases.extend(stub::cases());
    cases.extend(cpus::cases());
    cases.extend(exceptions::cases());
    cases.extend(map::cases());
    cases.extend(memory::cases());
    cases.extend(protocol::cases());
    cases.extend(entry::cases(config, &seen.entry));
    cases.extend(hand_over::cases(&seen.hand_over));
    cases.extend(controls::cases(&seen.controls));
    cases.extend(model::cases());
    cases.extend(refused::cases());
    cases
}

/// The one case of that name, or those that have it in their names.
fn choose(mut cases: Vec<Case>, filter: Option<&str>) -> Result<Vec<Case>> {
    let Some(filter) = filter else { return Ok(cases) };
    if cases.iter().any(|case| case.name == filter) {
        cases.retain(|case| case.name == filter);
    } else {
        cases.retain(|case| case.name.contains(filter));
    }
    if cases.is_empty() {
        return Err(Usage(format!(
            "no case has `{filter}` in its name; `cargo xtask test --list` names them"
        ))
        .into());
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(filter: &str) -> Vec<String> {
        let config = Config::read(&crate::root()).unwrap();
        choose(cases(&config, &Seen::default()), Some(filter))
            .unwrap()
            .into_iter()
            .map(|case| case.name)
            .collect()
    }

    #[test]
    fn no_two_cases_have_one_name_and_each_has_a_suite() {
        let config = Config::read(&crate::root()).unwrap();
        let cases = cases(&config, &Seen::default());
        let names: BTreeSet<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(names.iter().all(|name| name.split('/').count() == 2), "{names:?}");
    }

    #[test]
    fn each_step_that_another_case_shows_names_one() {
        let config = Config::read(&crate::root()).unwrap();
        let cases = cases(&config, &Seen::default());
        for name in controls::elsewhere() {
            assert!(cases.iter().any(|case| case.name == name), "{name}");
        }
    }

    #[test]
    fn a_whole_name_is_that_case_and_a_part_is_all_that_have_it() {
        assert_eq!(names("matrix/nvhe-hot-same-modern"), ["matrix/nvhe-hot-same-modern"]);
        assert!(names("nvhe-hot").len() > 1);
        assert_eq!(names("host/").len(), 6);
    }

    #[test]
    fn a_filter_that_names_nothing_is_a_usage_error() {
        let config = Config::read(&crate::root()).unwrap();
        let error = choose(cases(&config, &Seen::default()), Some("matrix/pdp11")).err().unwrap();
        assert!(error.is::<Usage>() && error.to_string().contains("matrix/pdp11"));
    }
}
