//! The verb `interop`: boots our kernel by every loader, and other kernels by ours.
//!
//! It runs on every machine; CI runs a short form. It prints three tables; each cell is a run:
//!
//! - three generations of ours from each loader;
//! - Linux from QEMU's own `-kernel`, then from us: after one generation and after ten, from a gzip
//!   file, with its own device tree, and on a machine without an entropy device;
//! - Linux after three generations that another loader started.
//!
//! Each Linux is compared with one that QEMU itself loads. A run whose needs cannot be installed or
//! fetched is skipped, with the reason.

mod first_message;
mod linux;
mod ways;

use std::{cell::OnceCell, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;

use harness::{
    cmdline::{Cmdline, draw_seed, parse_seed},
    config::Config,
    debian::Debian,
    disk::{self, FOREIGN, Foreign},
    error::Skipped,
    fit_edit::set,
    invariants::{self, Modes, check, without_leftovers},
    kernel_build::{self, Built},
    loader::Loader,
    processes::Interrupted,
    qemu,
    request::{Disk, Request},
    run::run,
    setup,
    transcript::{logs, parted},
    tree_edit::dumped,
    verdict::Verdict,
};

use self::{
    first_message::Times,
    linux::{ANSWER, Facts, WORDS, init},
    ways::{Form, MARK, PAYLOADS, REFERENCE, ROUND_TRIPS, Way, from_loader},
};

/// Boot by every loader, and other kernels from ours, on every machine; print the tables by mode
#[derive(Args, Debug)]
#[command(after_help = "\
Debian's arm64 kernel, busybox and kexec are fetched by apt, once, without root, into cargo's \
target directory. A run whose needs are missing is skipped, with the reason.

Exit code: 0 if each run succeeded or was skipped, 1 otherwise, 130 interrupted.

Examples:
  cargo xtask interop
  cargo xtask interop --short
  cargo xtask interop --cpus 2 --seed 0x2a")]
pub struct InteropOptions {
    /// Only the machine vhe, and the most informative rows
    #[arg(long)]
    short: bool,
    /// Number of CPUs of each machine
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=8)
    )]
    cpus: u32,
    /// Seed for the runs' random choices, decimal or 0x… [default: drawn anew and printed]
    #[arg(long, value_name = "S", value_parser = parse_seed)]
    seed: Option<u64>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// The longest that Linux may take, besides the generations. It takes some ten seconds under QEMU
/// on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);

/// The inputs and results of all runs.
struct Bench {
    config: Arc<Config>,
    kernel: Arc<Built>,
    /// Debian's kernel and its initrd, or the reason why there are none.
    linux: Result<(Vec<u8>, Vec<u8>), Skipped>,
    /// Loaders that could not be installed, and the reason.
    missing: Vec<(Loader, Skipped)>,
    /// The gzip file of that kernel, made when first needed.
    packed: OnceCell<Vec<u8>>,
    modes: Vec<&'static str>,
    is_short: bool,
    cpus: u32,
    seed: u64,
    /// Descriptions of failures.
    wrong: Vec<String>,
    /// Reasons for skipped runs.
    skipped: Vec<String>,
}

impl InteropOptions {
    /// Prepares and performs all runs; returns the exit code.
    pub fn perform(&self) -> Result<u8> {
        let config = Arc::new(Config::read(&harness::paths::root())?);
        setup::check_target()?;
        setup::ensure_qemu(self.yes)?;
        let debian = Skipped::part(Debian::get())?;
        let linux = match &debian {
            Ok(debian) => Ok((debian.image()?, debian.initrd(&init())?)),
            Err(why) => Err(why.clone()),
        };
        let mut missing = Vec::new();
        for loader in Loader::OTHERS {
            let lack = Skipped::part(loader.ensure(self.yes))?.err();
            missing.extend(lack.map(|lack| (loader, lack)));
        }
        let kernel = Arc::new(kernel_build::build_for(&config)?);
        let seed = self.seed.unwrap_or_else(draw_seed);
        let release = debian.map_or_else(|_| "no Linux".to_owned(), |debian| debian.release);
        println!("seed {seed:#018x}\n{release}, {} CPUs", self.cpus);
        let modes = if self.short { vec!["vhe"] } else { invariants::MODES.to_vec() };
        let (is_short, cpus) = (self.short, self.cpus);
        let (wrong, skipped) = (Vec::new(), Vec::new());
        Bench {
            config,
            kernel,
            linux,
            missing,
            packed: OnceCell::new(),
            modes,
            is_short,
            cpus,
            seed,
            wrong,
            skipped,
        }
        .tables()
    }
}

impl Bench {
    /// Makes every run, prints the tables as they grow, then the failures.
    fn tables(mut self) -> Result<u8> {
        self.heading("Three generations from");
        for loader in [Loader::Qemu].into_iter().chain(Loader::OTHERS) {
            self.row(from_loader(loader), &[])?;
        }
        self.heading("Linux from");
        let reference = self.row(REFERENCE, &[])?;
        for way in PAYLOADS {
            self.row(way, &reference)?;
        }
        self.heading("Round trips to Linux");
        for way in ROUND_TRIPS {
            self.row(way, &reference)?;
        }
        if self.linux.is_ok() {
            self.first_messages()?;
        }
        self.skipped.dedup();
        self.skipped.iter().for_each(|words| println!("\nskipped: {words}"));
        self.wrong.iter().for_each(|words| println!("\n{words}"));
        if self.wrong.is_empty() {
            println!(
                "\n{}",
                if self.skipped.is_empty() { "All ok." } else { "All other runs are ok." }
            );
        } else {
            let (cpus, seed) = (self.cpus.to_string(), format!("{:#018x}", self.seed));
            let again = ["cargo", "xtask", "interop", "--cpus", &cpus, "--seed", &seed];
            let again = again.into_iter().chain(self.is_short.then_some("--short"));
            println!(
                "\n{} failed. Make it again:\n  {}",
                self.wrong.len(),
                qemu::shell_line(again)
            );
        }
        Ok(u8::from(!self.wrong.is_empty()))
    }

    fn heading(&self, name: &str) {
        println!();
        line(name, self.modes.iter().copied());
    }

    /// Makes and prints one row, a run in each mode; returns the facts that Linux found in each.
    fn row(&mut self, way: Way, reference: &[Option<Facts>]) -> Result<Vec<Option<Facts>>> {
        if self.is_short && !way.short {
            return Ok(Vec::new());
        }
        let (mut cells, mut found) = (Vec::new(), Vec::new());
        for (at, &mode) in self.modes.clone().iter().enumerate() {
            let made = self
                .there(way)
                .and_then(|()| self.run(way, mode, reference.get(at).and_then(Option::as_ref)));
            let (cell, facts) = match made {
                Ok(facts) => {
                    (facts.as_ref().map_or("ok".to_owned(), |facts| format!("ok: {facts}")), facts)
                }
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) if error.is::<Skipped>() => {
                    self.skipped.push(format!("{}: {error}", way.name));
                    ("skipped".to_owned(), None)
                }
                Err(error) => {
                    self.wrong.push(format!("{}, {mode}: {error:#}", way.name));
                    ("FAILED".to_owned(), None)
                }
            };
            cells.push(cell);
            found.push(facts);
        }
        line(way.name, cells.iter().map(String::as_str));
        Ok(found)
    }

    /// Checks that the needs of this way are installed. An error is a [`Skipped`].
    fn there(&self, way: Way) -> Result<()> {
        let missing =
            self.missing.iter().find(|(loader, _)| *loader == way.loader).map(|(_, why)| why);
        let lacks = self.linux.as_ref().err().filter(|_| way.payload).or(missing);
        lacks.map_or(Ok(()), |lacks| Err(lacks.clone().into()))
    }

    /// Measures the times to Linux's first message, in each mode.
    ///
    /// With one CPU: others would be off at that time and only make the host busier.
    fn first_messages(&mut self) -> Result<()> {
        let rounds = if self.is_short { 3 } else { 7 };
        let mut times = Vec::new();
        for mode in self.modes.clone() {
            let request = |way| -> Result<Request> {
                let (request, _) = self.request(way, mode, first_message::WORDS)?;
                Ok(Request { cpus: Some(1), ..request })
            };
            let measured = request(REFERENCE)
                .and_then(|reference| Times::measure(&reference, &request(PAYLOADS[0])?, rounds))
                .map(|times| times.cells());
            times.push(match measured {
                Ok(cells) => cells,
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => {
                    self.wrong.push(format!("Linux's first message, {mode}: {error:#}"));
                    ["FAILED"; 3].map(str::to_owned)
                }
            });
        }
        self.heading("Linux's first message, ms");
        let names = [
            "QEMU -kernel, from the CPU's start",
            "one generation, from \"Bye!\"",
            "aim: 20 more at most",
        ];
        names
            .iter()
            .enumerate()
            .for_each(|(at, name)| line(name, times.iter().map(|cells| cells[at].as_str())));
        Ok(())
    }

    /// Builds a run's request, with `words` as Linux's command line, and the parameters of our
    /// generations.
    fn request(&self, way: Way, mode: &'static str, words: &str) -> Result<(Request, Cmdline)> {
        let (from_us, cpus) = (way.generations > 0, self.cpus);
        let mut cmdline = Cmdline {
            generations: way.generations.max(1),
            base: way.base,
            seed: self.seed,
            ..Cmdline::default()
        };
        if way.payload {
            cmdline.append.push(format!("payload={FOREIGN}"));
        }
        let mut request = Request::new(&self.config, mode, &self.kernel)?;
        request.name = format!("interop-{mode}");
        (request.cpus, request.seed, request.keep) = (Some(cpus), self.seed, true);
        (request.loader, request.payload, request.semihosting) =
            (way.loader, from_us && way.payload, false);
        request.timeout = PATIENCE + Duration::from_secs(u64::from(way.generations));
        if !way.has_entropy {
            Arc::make_mut(&mut request.config)
                .virtio
                .modern
                .retain(|flag| !flag.arg.contains("rng"));
        }
        if from_us {
            request.bootargs = cmdline.bootargs(&request.machine.bootargs, false);
        }
        if let (true, Ok((image, initrd))) = (way.payload, &self.linux) {
            request.answer = Some(ANSWER);
            if from_us {
                let packed = || self.packed.get_or_init(|| disk::packed(image)).clone();
                let image = if way.form == Form::Gzip { packed() } else { image.clone() };
                let fdt = (way.form == Form::OwnTree).then(|| marked(&request)).transpose()?;
                let (initrd, bootargs) = (Some(initrd.clone()), Some(words.to_owned()));
                let foreign = Foreign { image, initrd, fdt, bootargs };
                request.disk = Disk::Bytes(Arc::new(disk::with(&self.kernel, false, foreign)));
            } else {
                (request.image, request.bootargs) = (Some(image.clone()), words.to_owned());
                let debian =
                    Debian::fetched().context("Debian's kernel was fetched, but is missing now")?;
                let path = debian.write("ramdisk", initrd)?.display().to_string();
                request.args.extend(["-initrd".to_owned(), path]);
            }
        } else {
            request.disk = Disk::Bytes(Arc::new(disk::of(&self.kernel, false)));
        }
        Ok((request, cmdline))
    }

    /// Makes one run and checks it; returns the facts that Linux found.
    fn run(
        &self,
        way: Way,
        mode: &'static str,
        reference: Option<&Facts>,
    ) -> Result<Option<Facts>> {
        let (request, cmdline) = self.request(way, mode, WORDS)?;
        let from_us = way.generations > 0;
        let outcome = run(&request)?;
        let judged = || -> Result<Option<Facts>> {
            let (ours, linux) = match (from_us, way.payload) {
                (true, true) => parted(&outcome.console, way.generations)?,
                (true, false) => (outcome.console.as_str(), ""),
                (false, _) => ("", outcome.console.as_str()),
            };
            if from_us {
                ensure!(
                    outcome.verdict == Verdict::Success,
                    "our generations did not end with success"
                );
                let mut logs = logs(ours)?;
                without_leftovers(&mut logs, way.loader)?;
                check(&logs, &cmdline, Modes::All(mode))?;
            }
            if !way.payload {
                return Ok(None);
            }
            let facts = Facts::read(linux)?;
            let mark = if way.form == Form::OwnTree { MARK[1] } else { "" };
            facts.check(mode, self.cpus, way.has_entropy, mark)?;
            reference.map_or(Ok(()), |reference| facts.compare(reference))?;
            Ok(Some(facts))
        };
        let kept =
            || format!("{}; kept in {}", outcome.verdict.words(), outcome.folder.path().display());
        let facts = judged().with_context(kept)?;
        outcome.folder.discard()?;
        Ok(facts)
    }
}

/// Returns QEMU's device tree for this run, with a mark.
fn marked(request: &Request) -> Result<Vec<u8>> {
    let mut tree = dumped(request)?;
    set(&mut tree.root, MARK[0], MARK[1])?;
    Ok(tree.to_dtb())
}

fn line<'a>(name: &str, cells: impl Iterator<Item = &'a str>) {
    let cells: Vec<_> = cells.map(|cell| format!("{cell:<38}")).collect();
    println!("{}", format!("{name:<34} {}", cells.join(" ")).trim_end());
}
