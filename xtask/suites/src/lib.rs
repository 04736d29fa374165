//! The `test` verb: host tests, then cases that run QEMU.
//!
//! A case is a name and a check; a suite is a file that lists cases. Host tests are cases too, and
//! run one after the other. Cases that start QEMU run several at a time. The runner does nothing
//! for a case that the filter leaves out, so a case's name is enough to repeat it.
//!
//! The needs of the chosen cases are installed or fetched first. A case is skipped if one of them
//! cannot be had.

mod boards;
mod case;
mod console;
mod controls;
mod cpus;
mod debugger;
mod devices;
mod diagrams;
mod dist;
mod entry;
mod exceptions;
mod failing;
mod guests;
mod hang;
mod host;
mod initrd;
mod kvm;
mod last_look;
mod loaders;
mod map;
mod matrix;
mod memory;
mod model;
mod own;
mod page;
mod payload;
mod plain;
mod protocol;
mod refused;
mod runner;
mod seed;
mod stress;
mod stub;
mod trees;
mod xen;

use std::sync::Arc;

use anyhow::{Result, anyhow};
use clap::Args;

use harness::{
    cmdline::{draw_seed, parse_seed},
    config::Config,
    error::Usage,
    kernel_build, needs,
    parts::{Hardware, Parts},
    setup,
};

use self::case::{Case, TestContext};

/// Test everything: the crates on this host, then the kernel on every machine
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 if all passed, 1 if one failed, 2 if the filter names none, 130 interrupted.

Examples:
  cargo xtask test
  cargo xtask test --list
  cargo xtask test host                           the crates' own tests
  cargo xtask test refused                        every case with `refused` in its name
  cargo xtask test matrix/nvhe-hot-same-modern    the one case of that name
  cargo xtask test controls                       the effect of leaving out each safety step
  cargo xtask test entry/                         the entry registers, after a boot and a kexec
  cargo xtask test diagrams/                     the diagrams of every entry and exit
  cargo xtask test kvm/                           as a guest under KVM, which takes minutes
  cargo xtask test dist/                          a release, made twice, which takes minutes")]
pub struct TestOptions {
    /// The name of a case, or a part that several names share
    filter: Option<String>,
    /// List the names of the cases, and run none
    #[arg(long)]
    list: bool,
    /// Seed of the cases' random choices, decimal or 0x… [default: a new one, which is printed]
    #[arg(long, value_name = "S", value_parser = parse_seed)]
    seed: Option<u64>,
    /// Rewrite the generated files under docs/ from what `controls`, `entry` and `diagrams` saw,
    /// instead of comparing the two
    #[arg(long)]
    bless: bool,
    /// Install missing tools without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    hardware: Hardware,
    #[command(flatten)]
    parts: Parts,
}

impl TestOptions {
    /// Runs the chosen cases and returns the exit code.
    pub fn perform(&self) -> Result<u8> {
        let config = Arc::new(self.parts.config(&self.hardware)?);
        let seen = Seen::default();
        let mut chosen = choose(cases(&config, &seen), self.filter.as_deref())?;
        if self.list {
            chosen.iter().for_each(|case| println!("{}", case.name));
            return Ok(0);
        }
        if self.filter.is_none() {
            let long = chosen.extract_if(.., |case| case.is_long);
            let names: Vec<_> = long.map(|case| case.name).collect();
            println!("left out, since they take minutes, unless named: {}", names.join(", "));
        }
        // Check for tools before the host tests take their minute.
        if chosen.iter().any(|case| !case.on_host) {
            setup::check_target()?;
            setup::ensure_qemu(self.yes)?;
        }
        let missing =
            needs::get(&chosen.iter().flat_map(|case| case.needs.clone()).collect(), self.yes)?;
        chosen.iter_mut().for_each(|case| case.skip_without(&missing));
        let (on_host, on_machines): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|case| case.on_host);
        let seed = self.seed.unwrap_or_else(draw_seed);
        println!("seed {seed:#018x}");
        let mut tally = runner::Tally::new(seed);
        runner::one_by_one(&on_host, &mut tally)?;
        if !on_machines.is_empty() {
            let context = TestContext {
                config: Arc::clone(&config),
                kernel: Arc::new(kernel_build::build_for(&config)?),
                seed,
            };
            runner::side_by_side(&on_machines, &context, &mut tally)?;
            seen.close(&config, self.bless, &mut tally);
        }
        Ok(tally.close())
    }
}

/// Observations of the cases from which files under docs/ are generated.
#[derive(Default)]
struct Seen {
    controls: Arc<controls::Seen>,
    entry: Arc<entry::Seen>,
    diagrams: Arc<diagrams::Seen>,
}

impl Seen {
    /// Compares the generated files with the observations. With `bless`, writes each file for which
    /// enough cases ran.
    fn close(&self, config: &Config, bless: bool, tally: &mut runner::Tally) {
        let controls = self.controls.close(bless);
        let entry = self.entry.close(config, bless);
        let diagrams = self.diagrams.close(bless);
        if bless && matches!((&controls, &entry, &diagrams), (Ok(false), Ok(false), Ok(false))) {
            tally.hold(
                "--bless",
                Err(anyhow!(
                    "no file is generated from these cases; choose from `controls`, `entry` and \
                     `diagrams`"
                )),
            );
        }
        tally.hold("controls", controls.map(drop));
        tally.hold("entry", entry.map(drop));
        tally.hold("diagrams", diagrams.map(drop));
    }
}

/// Returns every case. Cases that mostly wait come first among those that run QEMU, so that others
/// run meanwhile.
fn cases(config: &Config, seen: &Seen) -> Vec<Case> {
    let mut cases = host::cases();
    cases.extend(kvm::cases());
    cases.extend(dist::cases());
    cases.extend(xen::cases());
    cases.extend(boards::cases());
    cases.extend(hang::cases());
    cases.extend(stress::cases());
    cases.extend(failing::cases());
    cases.extend(matrix::cases(config));
    cases.extend(loaders::cases());
    cases.extend(devices::cases());
    cases.extend(guests::cases());
    cases.extend(trees::cases());
    cases.extend(console::cases());
    cases.extend(initrd::cases());
    cases.extend(own::cases());
    cases.extend(seed::cases());
    cases.extend(payload::cases());
    cases.extend(stub::cases());
    cases.extend(cpus::cases());
    cases.extend(exceptions::cases());
    cases.extend(map::cases());
    cases.extend(memory::cases());
    cases.extend(protocol::cases());
    cases.extend(entry::cases(config, &seen.entry));
    cases.extend(diagrams::cases(&seen.diagrams));
    cases.extend(controls::cases(&seen.controls));
    cases.extend(model::cases());
    cases.extend(refused::cases());
    cases
}

/// Returns the one case of that name, or else all cases whose names contain it.
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
    use harness::{loader::Loader, needs::Need};

    fn names(filter: &str) -> Vec<String> {
        let config = Config::read(&harness::paths::root()).unwrap();
        choose(cases(&config, &Seen::default()), Some(filter))
            .unwrap()
            .into_iter()
            .map(|case| case.name)
            .collect()
    }

    #[test]
    fn no_two_cases_have_one_name_and_each_has_a_suite() {
        let config = Config::read(&harness::paths::root()).unwrap();
        let cases = cases(&config, &Seen::default());
        let names: BTreeSet<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(names.iter().all(|name| name.split('/').count() == 2), "{names:?}");
    }

    #[test]
    fn each_step_that_another_case_shows_names_one() {
        let config = Config::read(&harness::paths::root()).unwrap();
        let cases = cases(&config, &Seen::default());
        for name in controls::elsewhere() {
            assert!(cases.iter().any(|case| case.name == name), "{name}");
        }
    }

    #[test]
    fn a_whole_name_is_that_case_and_a_part_is_all_that_have_it() {
        assert_eq!(names("matrix/nvhe-hot-same-modern"), ["matrix/nvhe-hot-same-modern"]);
        assert!(names("nvhe-hot").len() > 1);
        assert_eq!(names("host/").len(), 15);
    }

    #[test]
    fn each_case_with_a_loader_in_its_name_has_its_need() {
        let config = Config::read(&harness::paths::root()).unwrap();
        for mut case in cases(&config, &Seen::default()) {
            // The loaders of other packages are no variants of `Loader`.
            case.needs.retain(|need| !matches!(need, Need::Packages(_) | Need::DeviceTrees));
            if case.name.starts_with("kvm/") {
                assert_eq!(case.needs, [Need::Debian], "{}", case.name);
                continue;
            }
            let is_manager = ["loaders/grub", "loaders/systemd-boot", "loaders/systemd-stub"];
            if is_manager.contains(&case.name.as_str()) {
                assert_eq!(case.needs, [Need::Edk2], "{}", case.name);
                continue;
            }
            if case.name == "dist/judges" {
                assert_eq!(case.needs, [Need::Edk2, Need::UBoot]);
                continue;
            }
            if case.name == "loaders/u-boot-bootflow" {
                assert_eq!(case.needs, [Need::UBoot], "{}", case.name);
                continue;
            }
            let of_loaders =
                ["loaders/", "diagrams/", "initrd/"].iter().any(|it| case.name.starts_with(it));
            let mut needs = Vec::new();
            for loader in Loader::OTHERS.into_iter().filter(|_| of_loaders) {
                needs.extend(loader.needs().filter(|_| case.name.contains(loader.name())));
            }
            needs.extend(case.name.contains("mkimage").then_some(Need::UBootTools));
            needs.sort();
            needs.dedup();
            assert_eq!(case.needs, needs, "{}", case.name);
        }
    }

    #[test]
    fn a_filter_that_names_nothing_is_a_usage_error() {
        let config = Config::read(&harness::paths::root()).unwrap();
        let error = choose(cases(&config, &Seen::default()), Some("matrix/pdp11")).err().unwrap();
        assert!(error.is::<Usage>() && error.to_string().contains("matrix/pdp11"));
    }
}
