//! The verb `protocols`: other kernels entered by ours, each held against what it finds when QEMU itself loads it.
//!
//! *When:* on request. For each machine a row of runs, one after the other: Linux from QEMU's own `-kernel`, then from us, after one generation
//! and after ten, and on a machine without any entropy. *Skips,* saying so, what cannot be fetched here.

mod debian;
mod linux;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    config::Config,
    disk::{self, FOREIGN, Foreign},
    kernel_build::{self, Built},
    orders::{Base, Orders, draw_seed, parse_seed},
    processes::Interrupted,
    proof::{Modes, check},
    qemu,
    request::{Disk, Request},
    run::run,
    setup,
    test::Skipped,
    transcript::{lives, parted},
};

use self::{
    debian::Debian,
    linux::{Facts, INIT, WORDS},
};

/// Boot other kernels from ours on every machine, and print the table payloads × modes
#[derive(Args, Debug)]
#[command(after_help = "\
Debian's arm64 kernel and busybox are fetched by apt, once, without root and into cargo's target directory.

Exit code: 0 if all went well or was skipped, 1 if one did not, 130 interrupted.

Examples:
  cargo xtask protocols
  cargo xtask protocols --cpus 2 --seed 0x2a")]
pub struct ProtocolsOptions {
    /// How many CPUs each machine has
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=8))]
    cpus: u32,
    /// What the runs' random choices are drawn from, decimal or 0x… [default: drawn anew and printed]
    #[arg(long, value_name = "S", value_parser = parse_seed)]
    seed: Option<u64>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// The machines' names, which are also what their generations live in.
const MODES: [&str; 3] = ["el1", "nvhe", "vhe"];

/// How long Linux may take, beside the generations: some ten seconds, under QEMU on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);

/// A way to a payload.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    /// How many generations come before it; none: QEMU loads it.
    generations: u32,
    base: Base,
    /// The machine has an entropy device.
    has_entropy: bool,
}

const PLAIN: Way = Way { name: "", generations: 1, base: Base::Same, has_entropy: true };

/// What each is held against.
const REFERENCE: Way = Way { name: "QEMU -kernel", generations: 0, ..PLAIN };

const WAYS: [Way; 3] = [
    Way { name: "one generation", ..PLAIN },
    Way { name: "ten generations, placed at random", generations: 10, base: Base::Random, ..PLAIN },
    Way { name: "no entropy device", has_entropy: false, ..PLAIN },
];

/// What all runs are made with.
struct Bench {
    config: Arc<Config>,
    kernel: Arc<Built>,
    debian: Debian,
    ramdisk: Vec<u8>,
    cpus: u32,
    seed: u64,
}

impl ProtocolsOptions {
    /// Does it; gives the exit code.
    pub fn perform(&self) -> Result<u8> {
        let config = Arc::new(Config::read(&crate::root())?);
        setup::ensure_target(self.yes)?;
        setup::ensure_qemu(self.yes)?;
        let debian = match Debian::get() {
            Ok(debian) => debian,
            Err(error) if error.is::<Skipped>() => {
                println!("skipped: {error}");
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        let kernel = Arc::new(kernel_build::build()?);
        let seed = self.seed.unwrap_or_else(draw_seed);
        println!("seed {seed:#018x}\n{}, {} CPUs\n", debian.release, self.cpus);
        let ramdisk = debian.ramdisk(INIT);
        Bench { config, kernel, debian, ramdisk, cpus: self.cpus, seed }.table()
    }
}

impl Bench {
    /// Makes every run, and prints the table as it grows, then what went wrong.
    fn table(&self) -> Result<u8> {
        let row = |name: &str, cells: &[String]| {
            let cells: Vec<_> = cells.iter().map(|cell| format!("{cell:<36}")).collect();
            println!("{}", format!("{name:<34} {}", cells.join(" ")).trim_end());
        };
        row("Linux from", &MODES.map(str::to_owned));
        let mut wrong = Vec::new();
        let mut made = |way: Way, reference: &[Option<Facts>]| -> Result<Vec<Option<Facts>>> {
            let (mut cells, mut found) = (Vec::new(), Vec::new());
            for (at, mode) in MODES.into_iter().enumerate() {
                let facts = match self.run(way, mode, reference.get(at).and_then(Option::as_ref)) {
                    Err(error) if error.is::<Interrupted>() => return Err(error),
                    facts => facts,
                };
                cells.push(facts.as_ref().map_or_else(|_| "FAILED".to_owned(), Facts::to_string));
                found.push(facts.map_err(|error| wrong.push(format!("{}, {mode}: {error:#}", way.name))).ok());
            }
            row(way.name, &cells);
            Ok(found)
        };
        let reference = made(REFERENCE, &[])?;
        for way in WAYS {
            made(way, &reference)?;
        }
        wrong.iter().for_each(|words| println!("\n{words}"));
        println!(
            "\n{}",
            if wrong.is_empty() { "All as from QEMU.".to_owned() } else { format!("{} failed", wrong.len()) }
        );
        if !wrong.is_empty() {
            let (cpus, seed) = (self.cpus.to_string(), format!("{:#018x}", self.seed));
            let again = ["cargo", "xtask", "protocols", "--cpus", &cpus, "--seed", &seed];
            println!("Make it again:\n  {}", qemu::shell_line(again));
        }
        Ok(u8::from(!wrong.is_empty()))
    }

    /// One run; what Linux found in it, all of it as it should be.
    fn run(&self, way: Way, mode: &'static str, reference: Option<&Facts>) -> Result<Facts> {
        let from_us = way.generations > 0;
        let mut orders =
            Orders { generations: way.generations.max(1), base: way.base, seed: self.seed, ..Orders::default() };
        orders.append.push(format!("payload={FOREIGN}"));
        let mut request = Request::new(&self.config, mode, &self.kernel)?;
        request.name = format!("protocols-{mode}");
        (request.cpus, request.seed, request.keep) = (Some(self.cpus), self.seed, true);
        (request.payload, request.semihosting) = (from_us, false);
        request.timeout = PATIENCE + Duration::from_secs(u64::from(way.generations));
        if !way.has_entropy {
            Arc::make_mut(&mut request.config).virtio.modern.retain(|flag| !flag.arg.contains("rng"));
        }
        let (image, ramdisk) = (self.debian.image.clone(), self.ramdisk.clone());
        if from_us {
            request.bootargs = orders.bootargs(&request.machine.bootargs, false);
            let foreign = Foreign { image, ramdisk: Some(ramdisk), fdt: None, bootargs: Some(WORDS.to_owned()) };
            request.disk = Disk::Bytes(Arc::new(disk::with(&self.kernel, false, foreign)));
        } else {
            (request.image, request.bootargs) = (Some(image), WORDS.to_owned());
            request.args.extend(["-initrd".to_owned(), self.debian.write("ramdisk", &ramdisk)?.display().to_string()]);
        }
        let outcome = run(&request)?;
        let judged = || -> Result<Facts> {
            let linux = if from_us {
                let (ours, linux) = parted(&outcome.console, way.generations)?;
                check(&lives(ours)?, &orders, Modes::All(mode))?;
                linux
            } else {
                &outcome.console
            };
            let facts = Facts::read(linux)?;
            facts.check(mode, self.cpus, way.has_entropy)?;
            reference.map_or(Ok(()), |reference| facts.compare(reference))?;
            Ok(facts)
        };
        let kept = || format!("{}; kept in {}", outcome.verdict.words(), outcome.folder.path().display());
        let facts = judged().with_context(kept)?;
        outcome.folder.discard()?;
        Ok(facts)
    }
}
