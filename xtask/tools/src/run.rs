//! The verb `run`: makes one run as its options say, and reports the result.
//!
//! It checks the options before it installs or builds anything, and refuses a machine, a disk or a
//! payload that does not exist.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;

use harness::{
    cmdline::{Base, Cmdline, El2, Restart, draw_seed, parse_seed, word},
    config::{Config, Virtio},
    disk::{self, Foreign},
    error::Usage,
    exec::Exec,
    kernel_build,
    loader::Loader,
    parts::{Hardware, Parts},
    qemu, report,
    request::{Disk, Medium, Request},
    rules,
    run::run,
    setup,
};
use protocol::rules::Verdict;

/// The time limit for a payload in seconds: under QEMU on a busy host, Linux and its init need some
/// ten.
const FOR_A_PAYLOAD: u64 = 120;

/// Build the kernel and run it on one machine, kexec after kexec
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 success, 1 failure or, with `--append check`, a broken rule of the boot protocol, 2
requested something that does not exist, 124 out of time, 130 interrupted.

Examples:
  cargo xtask run
  cargo xtask run --machine el1 --generations 1000 --base random --restart cold
  cargo xtask run --machine nvhe --cpu max --memory 300M --virtio legacy
  cargo xtask run --machine vhe --alternate --seed 0x2a
  cargo xtask run --virtio pci --network --generations 20
  cargo xtask run --machine el1 --cpus 4 --gic 2
  cargo xtask run --loader uefi
  cargo xtask run --fit initrd
  cargo xtask run --payload vmlinuz --initrd initrd.gz --append \"console=ttyAMA0 quiet\"
  cargo xtask run --gdb
  cargo xtask run --accel kvm --gic 3
  cargo xtask run --exec './start.sh {image} {disk} {append}'
  cargo xtask run -- -d int,guest_errors -D qemu-trace.log")]
pub struct RunOptions {
    /// A machine of qemu.toml, or of --config [default: nvhe; el1 with --accel kvm or hvf]
    #[arg(long, value_name = "M")]
    machine: Option<String>,
    /// The number of generations
    #[arg(
        long,
        value_name = "N",
        default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    generations: u32,
    /// The destination of each copy: the running kernel, which is overwritten completely (same);
    /// any 2 MiB slot of RAM that fits, drawn from the seed (random); the address on the disk
    /// (load)
    #[arg(long, value_parser = word::<Base>(), default_value_t = Base::Same)]
    base: Base,
    /// Copy with the MMU on (hot), or after turning it off (cold)
    #[arg(long, value_parser = word::<Restart>(), default_value_t = Restart::Hot)]
    restart: Restart,
    /// The mode at EL2: at EL1 above the kernel's own hyp-stub (nvhe), or at EL2 with E2H set
    /// (vhe); overrides the machine's own parameter
    #[arg(long, value_parser = word::<El2>())]
    el2: Option<El2>,
    /// nvhe in even generations, vhe in odd ones
    #[arg(long)]
    alternate: bool,
    /// The seed of all random choices, decimal or 0x… [default: drawn anew and printed]
    #[arg(long, value_name = "S", value_parser = parse_seed)]
    seed: Option<u64>,
    /// The loader of the first generation: one of ours, or of --config
    #[arg(long, value_name = "L", default_value = Loader::Qemu.name())]
    loader: String,
    /// The way to attach virtio devices [default: the machine's]
    #[arg(long, value_enum)]
    virtio: Option<Virtio>,
    /// The way in which the machine gets the FIT: on a disk, or as the initrd
    #[arg(long, value_enum, default_value_t)]
    fit: Medium,
    /// Add a network device on which frames arrive all the time
    #[arg(long)]
    network: bool,
    /// An arm64 Image, such as Linux, that the last generation kexecs
    #[arg(long, value_name = "IMAGE", conflicts_with = "disk")]
    payload: Option<PathBuf>,
    /// The payload's initrd
    #[arg(long, value_name = "FILE", requires = "payload")]
    initrd: Option<PathBuf>,
    /// A device tree for the payload [default: the machine's]
    #[arg(long, value_name = "FILE", requires = "payload")]
    payload_dtb: Option<PathBuf>,
    /// More parameters for the kernel; with --payload, the bootargs of the payload instead. May be
    /// given more than once
    #[arg(long, value_name = "WORDS")]
    append: Vec<String>,
    /// Restart from this file instead of the disk that is made from the kernel
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// The time limit in seconds [default: 20 (120 with a payload), and one more for each
    /// generation]
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Start stopped, with a gdb stub and without a time limit; prints the command line for gdb
    #[arg(long)]
    gdb: bool,
    /// Keep the run's folder even if the run succeeds
    #[arg(long)]
    keep: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    exec: Exec,
    #[command(flatten)]
    hardware: Hardware,
    #[command(flatten)]
    parts: Parts,
}

impl RunOptions {
    /// Runs the verb; returns its exit code.
    pub fn perform(&self) -> Result<u8> {
        let config = Arc::new(self.parts.config(&self.hardware)?);
        config.machine(self.machine())?;
        let (loader, exec) = self.loader(&config)?;
        let takes_initrd = matches!(loader, Loader::Qemu | Loader::Uefi);
        if self.fit == Medium::Initrd && !takes_initrd {
            let loader = loader.name();
            return Err(
                Usage(format!("--fit initrd: the loader is qemu or uefi, not {loader}")).into()
            );
        }
        let disk = self.disk.as_deref().map(existing).transpose()?;
        let payload = self.payload()?;
        setup::check_target()?;
        let is_own = exec.is_some();
        let kernel = if is_own {
            // We do not know the machine of a command, nor its UART.
            kernel_build::build()?
        } else {
            setup::ensure_qemu(self.yes)?;
            loader.ensure(self.yes).with_context(|| format!("--loader {}", loader.name()))?;
            kernel_build::build_for(&config)?
        };
        let kernel = Arc::new(kernel);
        let seed = self.seed.unwrap_or_else(draw_seed);
        let mut request = Request::new(&config, self.machine(), &kernel)?;
        if is_own {
            request.kernel = Arc::clone(&kernel);
            request.name = "exec".to_owned();
        }
        request.virtio = self.virtio;
        (request.network, request.fit) = (self.network, self.fit);
        (request.loader, request.exec) = (loader, exec);
        request.seed = seed;
        let patience = if payload.is_some() { FOR_A_PAYLOAD } else { 20 };
        // No semihosting with a payload: it could call the host as well.
        request.payload = payload.is_some();
        request.semihosting = payload.is_none() && !is_own;
        let of_machine = if is_own { "" } else { &request.machine.bootargs };
        request.bootargs = self.cmdline(seed).bootargs(of_machine, request.semihosting);
        let load = self.base == Base::Load;
        request.disk = match (disk, payload) {
            (Some(path), _) => Disk::File(path),
            (None, Some(payload)) => Disk::Bytes(Arc::new(disk::with(&kernel, load, payload))),
            (None, None) => Disk::Bytes(Arc::new(disk::of(&request.kernel, load))),
        };
        request.timeout =
            Duration::from_secs(self.timeout.unwrap_or(patience + u64::from(self.generations)));
        (request.echo, request.keep, request.gdb) = (true, self.keep, self.gdb);
        request.again = Some(self.line(seed));
        println!("seed {seed:#018x}");
        let outcome = run(&request)?;
        let mut words = report::words(&request, &outcome);
        let mut code = outcome.verdict.exit_code();
        let broken: BTreeSet<_> = rules::reports(&outcome.console)
            .map(|reports| reports.iter().flat_map(|it| rules::with(it, Verdict::Broken)).collect())
            .unwrap_or_default();
        if code == 0 && !broken.is_empty() {
            code = 1;
            words = format!("{words}\nbroken rules of the boot protocol: {broken:?}");
        }
        if code == 0 {
            println!("{words}")
        } else {
            eprintln!("\n{words}")
        }
        Ok(code)
    }

    fn machine(&self) -> &str {
        self.machine.as_deref().unwrap_or(self.parts.default_machine())
    }

    /// The loader, and the user's own command that takes its place.
    fn loader(&self, config: &Config) -> Result<(Loader, Option<Exec>)> {
        // With --exec, the loader is only a name.
        let ours = match self.exec.line {
            Some(_) => None,
            None => Loader::named(&self.loader, &config.loaders)?,
        };
        let exec = match (&self.exec.line, config.loaders.get(&self.loader)) {
            (Some(_), _) => Some(self.exec.clone()),
            (None, Some(own)) => {
                Some(Exec { line: Some(own.exec.clone()), console: own.console.clone() })
            }
            (None, None) => None,
        };
        if exec.is_some() && self.gdb {
            return Err(Usage("--gdb: only QEMU has a gdb stub that we know".to_owned()).into());
        }
        if exec.is_none() && self.exec.console.is_some() {
            return Err(Usage("--console: there is no --exec that starts it".to_owned()).into());
        }
        Ok((ours.unwrap_or_default(), exec))
    }

    /// Reads the payload and the files that go with it, if a payload was given.
    fn payload(&self) -> Result<Option<Foreign>> {
        let read = |path: &PathBuf| -> Result<Vec<u8>> {
            std::fs::read(path)
                .map_err(|error| Usage(format!("cannot read {}: {error}", path.display())).into())
        };
        let [image, initrd, fdt] = [&self.payload, &self.initrd, &self.payload_dtb]
            .map(|path| path.as_ref().map(read).transpose());
        let words = self.append.join(" ");
        let bootargs = (!words.is_empty()).then_some(words);
        let (initrd, fdt) = (initrd?, fdt?);
        Ok(image?.map(|image| Foreign { image, initrd, fdt, bootargs }))
    }

    fn cmdline(&self, seed: u64) -> Cmdline {
        let Self { generations, base, restart, .. } = *self;
        let el2 = self.el2.map(|el2| format!("el2={el2}"));
        let alternate = self.alternate.then(|| "alternate".to_owned());
        let words = match self.payload {
            Some(_) => vec![format!("payload={}", disk::FOREIGN)],
            None => self.append.clone(),
        };
        let append = el2.into_iter().chain(alternate).chain(words).collect();
        Cmdline { generations, base, restart, seed, append }
    }

    /// The command line that repeats this run, with the same random choices.
    fn line(&self, seed: u64) -> String {
        let mut words: Vec<String> = ["cargo", "xtask", "run"].map(str::to_owned).into();
        let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        option("machine", self.machine().to_owned());
        option("generations", self.generations.to_string());
        option("base", self.base.to_string());
        option("restart", self.restart.to_string());
        option("seed", format!("{seed:#018x}"));
        let el2 = self.el2.map(|el2| el2.to_string());
        let virtio = self.virtio.map(|virtio| virtio.to_string());
        let timeout = self.timeout.map(|seconds| seconds.to_string());
        let [disk, payload, initrd, dtb] =
            [&self.disk, &self.payload, &self.initrd, &self.payload_dtb]
                .map(|path| path.as_ref().map(|path| path.display().to_string()));
        let console = self.exec.console.as_ref().map(|path| path.display().to_string());
        let chosen = [
            ("el2", &el2),
            ("virtio", &virtio),
            ("disk", &disk),
            ("payload", &payload),
            ("initrd", &initrd),
            ("payload-dtb", &dtb),
            ("exec", &self.exec.line),
            ("console", &console),
            ("timeout", &timeout),
        ];
        for (name, value) in chosen {
            value.iter().for_each(|value| option(name, value.clone()));
        }
        self.append.iter().for_each(|value| option("append", value.clone()));
        if self.loader != Loader::Qemu.name() {
            option("loader", self.loader.clone());
        }
        words.extend(self.hardware.words());
        words.extend(self.parts.words());
        if self.fit == Medium::Initrd {
            words.extend(["--fit", "initrd"].map(str::to_owned));
        }
        if self.network {
            words.push("--network".to_owned());
        }
        if self.alternate {
            words.push("--alternate".to_owned());
        }
        words.extend(self.parts.args());
        qemu::shell_line(words)
    }
}

/// The file's absolute path, so that the run's `command` works from any directory.
fn existing(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|error| {
        Usage(format!("cannot use {} as the disk: {error}", path.display())).into()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    /// The part of the command line that the verb reads.
    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunOptions,
    }

    fn options(line: &str) -> RunOptions {
        read(line).unwrap()
    }

    fn read(line: &str) -> Result<RunOptions, clap::Error> {
        let words = line.strip_prefix("xtask ").unwrap().split(' ');
        Line::try_parse_from(words).map(|line| line.run)
    }

    #[test]
    fn run_alone_is_the_main_job() {
        let run = options("xtask run");
        assert_eq!(run.machine(), "nvhe");
        assert_eq!(options("xtask run --accel kvm").machine(), "el1");
        assert_eq!(
            run.cmdline(1).bootargs("el2=nvhe", true),
            "el2=nvhe generations=3 base=same restart=hot seed=0x0000000000000001 semihosting"
        );
    }

    #[test]
    fn the_line_that_repeats_a_run_repeats_it() {
        let typed = "xtask run --machine vhe --cpu max --base load --restart cold \
                     --append a=1 --append b --cpus 4 --gic 2 --virtio pci --network \
                     --qemu /q --accel tcg --firmware /f --dtb /d --config /c \
                     --el2 nvhe --alternate --disk /tmp/d --timeout 9 --loader uefi --fit initrd \
                     -- -d int";
        let line = options(typed).line(7);
        let again = options(line.strip_prefix("cargo ").unwrap());
        assert_eq!(again.seed, Some(7));
        assert_eq!(again.line(7), line);
        assert!(
            line.ends_with(
                "--timeout 9 --append a=1 --append b --loader uefi --cpu max --cpus 4 --gic 2 \
                 --qemu /q --accel tcg --firmware /f --dtb /d --config /c --fit initrd --network \
                 --alternate -- -d int"
            ),
            "{line}"
        );
        assert!(
            again
                .cmdline(7)
                .bootargs("el2=vhe", true)
                .ends_with(" semihosting el2=nvhe alternate a=1 b")
        );
    }

    #[test]
    fn a_payload_takes_the_words_and_the_last_generation_goes_to_it() {
        let typed = "xtask run --payload /tmp/p --initrd /tmp/i --payload-dtb /tmp/t \
                     --append a=1 --append b --base load";
        let line = options(typed).line(7);
        let again = options(line.strip_prefix("cargo ").unwrap());
        assert_eq!(again.line(7), line);
        assert!(
            line.ends_with(
                "--payload /tmp/p --initrd /tmp/i --payload-dtb /tmp/t --append a=1 --append b"
            ),
            "{line}"
        );
        assert!(
            again
                .cmdline(7)
                .bootargs("", false)
                .ends_with(" seed=0x0000000000000007 payload=conf-2")
        );
    }

    #[test]
    fn what_is_not_there_is_no_payload() {
        let error = options("xtask run --payload /nowhere/vmlinuz").payload().unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("/nowhere/vmlinuz"), "{error}");
        assert!(options("xtask run").payload().unwrap().is_none());
    }

    #[test]
    fn what_clap_can_refuse_it_refuses() {
        for line in [
            "xtask run --initrd /tmp/i",
            "xtask run --payload-dtb /tmp/t",
            "xtask run --payload /tmp/p --disk /tmp/d",
            "xtask run --seed fish",
            "xtask run --base up",
            "xtask run --generations 0",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
