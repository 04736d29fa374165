//! The verb `check-loader`: checks each loader against the boot protocol, rule by rule.
//!
//! - Each loader starts a run of two generations with `check` in bootargs, in each mode. The first
//!   generation reports the state that the loader left, the second the state that our own kexec
//!   left.
//! - `--exec` starts the user's own command instead, and `--console` alone reads a saved console.
//! - The kernel gives the verdicts; `ouroboros_check` judges and prints them.
//! - A loader that is not installed is left out, and named.
//! - A run that does not get as far as its report fails, and quotes the kernel's last words.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use clap::Args;

use harness::{
    cmdline::{Cmdline, draw_seed},
    config::{Config, OwnLoader},
    console::tail,
    disk,
    error::Usage,
    exec::{self, Exec},
    firmware::Firmware,
    invariants,
    kernel_build::{self, Built},
    loader::Loader,
    parts::{Hardware, Parts},
    request::{Disk, Medium, Request},
    run::{Outcome, run},
    setup,
    verdict::Verdict,
};
use ouroboros_check::{
    judgement::Judgement,
    known::Known,
    options::JudgementOptions,
    report::{self, Report},
};

/// The breaks of the loaders below.
const KNOWN: &str = include_str!("../../known.toml");

/// The name of a command of `--exec` that no table names.
const OWN: &str = "exec";

/// The time limit of the user's own command.
const PATIENCE: Duration = Duration::from_secs(60);

/// Check each loader against the arm64 boot protocol, rule by rule, in each mode
#[derive(Args, Debug)]
#[command(after_help = "\
Prints rules × loaders, with one sign for each of el1, nvhe, vhe: + kept, X broken, - absent on
this CPU or machine, · cannot be seen by the kernel. Then prints each broken rule with the value
found, and the reason if known. `kexec` is the kexec of this kernel itself.

Exit code: 0 if the loaders break only what they are known to break (xtask/known.toml, --known), 1
if one breaks another rule or a run fails, 2 for a wrong option, 130 interrupted.

Examples:
  cargo xtask check-loader
  cargo xtask check-loader --short
  cargo xtask check-loader --loader qemu --machine vhe
  cargo xtask check-loader --firmware my-u-boot.bin --known known.toml --junit out.xml
  cargo xtask check-loader --qemu ~/qemu/build/qemu-system-aarch64 --loader qemu --cpu max
  cargo xtask check-loader --exec './start.sh {image} {disk} {append}'
  cargo xtask check-loader --console boot.log")]
pub struct CheckLoaderOptions {
    /// Check only this loader, or one of --config; may be given more than once
    #[arg(long, value_name = "L")]
    loader: Vec<String>,
    /// Use only this machine; may be given more than once [default: el1, nvhe, vhe]
    #[arg(long, value_name = "M")]
    machine: Vec<String>,
    /// Leave out the loaders that take more than a few seconds: EDK2's shell and Linux's kexec
    #[arg(long)]
    short: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    judgement: JudgementOptions,
    #[command(flatten)]
    exec: Exec,
    #[command(flatten)]
    hardware: Hardware,
    #[command(flatten)]
    parts: Parts,
}

/// Loaders of ours, and the user's own by name.
type Chosen = (Vec<Loader>, Vec<(String, OwnLoader)>);

/// The reports of all runs, and the runs that failed.
#[derive(Default)]
struct Seen {
    reports: Vec<Report>,
    failures: Vec<(report::Loader, String)>,
}

impl CheckLoaderOptions {
    /// Runs the verb; returns its exit code.
    pub fn perform(&self) -> Result<u8> {
        let strictness = self.judgement.strictness(Known::parse(KNOWN)?)?;
        let seen = match (&self.exec.line, &self.exec.console) {
            (None, Some(log)) => self.saved(log)?,
            _ => self.runs()?,
        };
        self.judgement.report(&Judgement::of(seen.reports, seen.failures, &strictness))
    }

    /// Reads a saved console.
    fn saved(&self, log: &Path) -> Result<Seen> {
        let bytes = std::fs::read(log)
            .map_err(|error| Usage(format!("--console: cannot read {}: {error}", log.display())))?;
        let name = match &self.loader[..] {
            [] => OWN.to_owned(),
            [name] => name.clone(),
            _ => return Err(Usage("--console: name one loader".to_owned()).into()),
        };
        let mut seen = Seen::default();
        let console = String::from_utf8_lossy(&bytes);
        seen.add(&console, report::Loader { name, ..report::Loader::default() });
        Ok(seen)
    }

    /// Makes the runs that the options select.
    fn runs(&self) -> Result<Seen> {
        let config = Arc::new(self.parts.config(&self.hardware)?);
        let (known, own) = self.chosen(&config)?;
        self.machine.iter().try_for_each(|name| config.machine(name).map(drop))?;
        setup::check_target()?;
        if !known.is_empty() {
            setup::ensure_qemu(self.yes)?;
        }
        let kernel = Arc::new(kernel_build::build_for(&config)?);
        let mut seen = Seen::default();
        for loader in known {
            let name = loader.name();
            if let Some(need) = loader.needs().find(|need| need.found().is_none()) {
                println!("{name} is left out: it {}", need.skipped(&[]));
                continue;
            }
            for machine in self.machines() {
                let mut request = request(&config, machine, &kernel, name)?;
                request.loader = loader;
                request.cpus = self.hardware.cpus.or((!request.machine.board).then_some(2));
                seen.run(&request, name, Some(machine))?;
            }
        }
        // The machine of a command is the user's: we know nothing of it.
        let plain = Arc::new(kernel_build::read(&kernel.elf)?);
        for (name, OwnLoader { exec, console, version }) in own {
            let mut request = request(&config, self.parts.default_machine(), &plain, &name)?;
            request.kernel = Arc::clone(&plain);
            (request.semihosting, request.timeout) = (false, PATIENCE);
            if exec.contains("{initrd}") {
                request.fit = Medium::Initrd;
            }
            let generations = if exec::takes_fit(&exec) { 2 } else { 1 };
            request.bootargs = cmdline(request.seed, generations).bootargs("", false);
            request.exec = Some(Exec { line: Some(exec), console });
            seen.run(&request, &name, None)?;
            let entered = seen.reports.iter_mut().filter(|it| it.loader.name == name);
            entered.for_each(|report| {
                report.loader.version = version.clone().or(report.loader.version.take());
            });
        }
        Ok(seen)
    }

    /// The machines to run our own loaders on.
    fn machines(&self) -> impl Iterator<Item = &str> {
        let all = match self.machine.is_empty() {
            // A host's own CPUs seldom give a guest EL2.
            true if self.parts.is_hardware() => vec![self.parts.default_machine()],
            true => invariants::MODES.to_vec(),
            false => self.machine.iter().map(String::as_str).collect(),
        };
        all.into_iter()
    }

    /// The selected loaders: ours, and the user's by name.
    fn chosen(&self, config: &Config) -> Result<Chosen> {
        if let Some(line) = &self.exec.line {
            let (exec, console) = (line.clone(), self.exec.console.clone());
            let name = self.loader.first().cloned().unwrap_or_else(|| OWN.to_owned());
            return Ok((Vec::new(), vec![(name, OwnLoader { exec, console, version: None })]));
        }
        for name in &self.loader {
            Loader::named(name, &config.loaders)?;
        }
        let is_named = |name: &str| self.loader.iter().any(|given| given == name);
        // With firmware of the user's own and no name, its loaders alone are of interest.
        let replaced = |firmware: &Firmware| harness::parts::firmware(firmware).is_some();
        let known = [Loader::Qemu].into_iter().chain(Loader::OTHERS).filter(|loader| {
            let is_slow = *loader == Loader::UefiShell || loader.is_linux();
            let is_asked = match (self.loader.is_empty(), self.parts.firmware.is_empty()) {
                (false, _) => is_named(loader.name()),
                (true, false) => loader.firmware().is_some_and(replaced),
                // A file of the user's own with loaders: those alone.
                (true, true) => config.loaders.is_empty(),
            };
            is_asked && !(self.short && is_slow)
        });
        let own = config.loaders.iter().filter(|(name, _)| {
            is_named(name) || self.loader.is_empty() && self.parts.firmware.is_empty()
        });
        Ok((known.collect(), own.map(|(name, own)| (name.clone(), own.clone())).collect()))
    }
}

fn cmdline(seed: u64, generations: u32) -> Cmdline {
    Cmdline { generations, seed, append: vec!["check".to_owned()], ..Cmdline::default() }
}

fn request(
    config: &Arc<Config>,
    machine: &str,
    kernel: &Arc<Built>,
    loader: &str,
) -> Result<Request> {
    let mut request = Request::new(config, machine, kernel)?;
    request.name = format!("check-{loader}-{machine}");
    request.seed = draw_seed();
    request.bootargs =
        cmdline(request.seed, 2).bootargs(&request.machine.bootargs, request.semihosting);
    request.disk = Disk::Bytes(Arc::new(disk::of(&request.kernel, false)));
    Ok(request)
}

impl Seen {
    /// Makes a run and reads its console.
    fn run(&mut self, request: &Request, name: &str, machine: Option<&str>) -> Result<()> {
        let Outcome { verdict, console, qemu, folder, .. } = run(request)?;
        let machine = machine.map(str::to_owned);
        let loader = report::Loader { name: name.to_owned(), version: None, machine };
        let failed = self.failures.len();
        self.add(&console, loader.clone());
        let place = folder.path().display();
        let messages = tail(&qemu, 5);
        let more = format!("{}; the console is in {place}\n{messages}", verdict.words());
        match self.failures.get_mut(failed) {
            Some((_, reason)) => reason.push_str(&format!(" ({})", more.trim_end())),
            // The kernel did its part, and the machine did not end.
            None if verdict == Verdict::TimedOut => self.failures.push((loader, more)),
            None => {}
        }
        Ok(())
    }

    /// Reads a console.
    fn add(&mut self, console: &str, mut loader: report::Loader) {
        loader.version = report::version(console);
        match report::reports(console, &loader) {
            Ok(reports) => {
                self.reports.extend(reports);
                if let Err(error) = report::check_end(console) {
                    self.failures.push((loader, format!("{error:#}")));
                }
            }
            Err(error) => self.failures.push((loader, format!("{error:#}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: CheckLoaderOptions,
    }

    /// The names of the loaders that a line selects.
    fn chosen(line: &str, config: &Config) -> Result<String> {
        let Line { options } = Line::try_parse_from(line.split(' '))?;
        let (known, own) = options.chosen(config)?;
        let known = known.into_iter().map(|loader| loader.name().to_owned());
        Ok(known.chain(own.into_iter().map(|(name, _)| name)).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn the_list_of_known_breaks_is_one() {
        Known::parse(KNOWN).unwrap();
    }

    #[test]
    fn loaders_are_chosen_by_name_or_all() {
        let mut config = Config::read(&harness::paths::root()).unwrap();
        let all = chosen("x", &config).unwrap();
        assert!(all.starts_with("qemu uefi uefi-shell ") && all.ends_with(" uefi-linux-kexec"));
        assert_eq!(chosen("x --short", &config).unwrap(), "qemu uefi u-boot-booti u-boot-bootm");
        assert_eq!(chosen("x --loader uefi --loader qemu", &config).unwrap(), "qemu uefi");
        assert_eq!(chosen("x --exec true", &config).unwrap(), OWN);
        assert_eq!(chosen("x --exec true --loader vmm", &config).unwrap(), "vmm");
        let error = chosen("x --loader fish", &config).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("qemu, uefi"), "{error}");
        let own = OwnLoader { exec: "vmm".into(), console: None, version: None };
        config.loaders.insert("vmm".into(), own);
        assert_eq!(chosen("x", &config).unwrap(), "vmm", "a file of loaders means those");
        assert_eq!(chosen("x --loader vmm --loader qemu", &config).unwrap(), "qemu vmm");
    }

    #[test]
    fn a_saved_console_is_read_without_a_machine() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("boot.log");
        std::fs::write(&log, "U-Boot 2026.01 (x)\nStarting kernel ...\n").unwrap();
        let line = format!("x --loader board --console {}", log.display());
        let Line { options } = Line::try_parse_from(line.split(' ')).unwrap();
        let seen = options.saved(&log).unwrap();
        let (loader, reason) = &seen.failures[0];
        assert_eq!((loader.name.as_str(), loader.version.as_deref()), ("board", Some("2026.01")));
        assert!(reason.contains("not entered"), "{reason}");
        assert!(options.saved(Path::new("/nowhere")).is_err_and(|error| error.is::<Usage>()));
    }
}
