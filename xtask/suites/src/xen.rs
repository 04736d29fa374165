//! Runs as Xen's first domain, and as a domain that Xen starts without a first one (dom0less).
//!
//! Xen prints what a domain writes to its UART, each line after its own prefix, and cuts lines that
//! are too long. We put them together again.

use std::{io::Write as _, path::Path, time::Duration};

use anyhow::{Result, bail, ensure};

use harness::{
    cmdline::{Base, Cmdline},
    config::Gic,
    disk,
    fit_edit::set,
    invariants::{Modes, prove},
    needs::Need,
    packages::{Packages, XEN},
    request::{Disk, Request},
    transcript::{GenerationLog, logs},
    tree_edit::{child, edit_tree},
    verdict::Verdict,
};

use super::case::{Case, Trial, case, with_cpus};

/// Xen's parameters besides those of its domains.
const WORDS: &str = "console=dtuart dtuart=/pl011@9000000 guest_loglvl=all";

/// The number of the first domain's CPUs.
const CPUS: u32 = 4;

/// The addresses of a domain's Image and initrd. Xen copies them from there.
const MODULES: [u64; 2] = [0x6000_0000, 0x6400_0000];

/// The number of characters after which Xen cuts a line.
const CUT: usize = 126;

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for gic in [Gic::V2, Gic::V3] {
        let first = move |trial: &mut Trial<'_>| first_domain(trial, gic);
        cases.push(case(format!("xen/dom0-gicv{gic}"), first));
    }
    cases.push(case("xen/dom0-check", checked));
    cases.push(case("xen/domu-from-the-initrd", other_domain));
    cases.into_iter().map(|case| case.needing([Need::Packages(Packages::Xen)])).collect()
}

/// A machine that starts Xen with these parameters, and this file for its domain.
struct Host {
    request: Request,
    files: Vec<tempfile::NamedTempFile>,
}

impl Host {
    fn new(trial: &Trial<'_>, cmdline: &Cmdline, words: &str) -> Result<Self> {
        let mut request = trial.request("nvhe", cmdline)?;
        request.bootargs = words.to_owned();
        request.image = Some(Packages::Xen.read(XEN)?);
        request.memory = Some("1G".to_owned());
        // Xen takes some seconds, and each of the domain's characters a trap.
        request.timeout = Duration::from_secs(300);
        Ok(Self { request, files: Vec::new() })
    }

    /// Writes a file for the machine.
    fn file(&mut self, bytes: &[u8]) -> Result<String> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(bytes)?;
        let path = escaped(file.path());
        self.files.push(file);
        Ok(path)
    }

    /// Adds a device to the machine.
    fn device(&mut self, device: String) {
        self.request.args.extend(["-device".to_owned(), device]);
    }

    /// Runs the machine. The domain must end with success; returns its generations.
    fn logs(&self, trial: &mut Trial<'_>, domain: u32) -> Result<Vec<GenerationLog>> {
        // The success marker is behind Xen's prefix, where the runner does not look for it.
        let outcome = trial.ends(&self.request, Verdict::Failed(0))?;
        let logs = logs(&console_of(domain, &outcome.console))?;
        let end = logs.last().and_then(|gen_log| gen_log.end);
        ensure!(end == Some(true), "the domain does not end with success");
        Ok(logs)
    }
}

/// Escapes a path for use as a value in QEMU's comma-separated lists.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Returns what the domain wrote to its UART.
fn console_of(domain: u32, console: &str) -> String {
    let prefix = format!("(XEN) DOM{domain}: ");
    let mut whole = String::new();
    for line in console.lines().filter_map(|line| line.strip_prefix(&prefix)) {
        whole.push_str(line);
        if line.chars().count() < CUT {
            whole.push('\n');
        }
    }
    whole
}

/// Runs as the first domain, which Xen gives the machine's devices.
fn as_first(trial: &mut Trial<'_>, cmdline: &Cmdline, gic: Gic) -> Result<Vec<GenerationLog>> {
    let words = format!("{WORDS} dom0_mem=256M dom0_max_vcpus={CPUS}");
    let mut host = Host::new(trial, cmdline, &words)?;
    with_cpus(&mut host.request, CPUS, gic);
    let kernel = host.file(&trial.kernel().image)?;
    let bootargs = cmdline.bootargs("", true).replace(',', ",,");
    host.device(format!("guest-loader,addr={:#x},kernel={kernel},bootargs={bootargs}", MODULES[0]));
    host.logs(trial, 0)
}

fn first_domain(trial: &mut Trial<'_>, gic: Gic) -> Result<()> {
    let cmdline = Cmdline { generations: 20, base: Base::Random, ..trial.cmdline() };
    let logs = as_first(trial, &cmdline, gic)?;
    for GenerationLog { number, has_interrupts, .. } in &logs {
        ensure!(has_interrupts, "generation {number} takes no interrupts");
    }
    Ok(prove(&logs, &cmdline, Modes::All("el1"), Some(CPUS))?)
}

/// Checks the rules of the boot protocol. Xen 4.17 starts each CPU with debug exceptions unmasked,
/// which breaks rule 12 for the first CPU, and rule 40 for the others.
fn checked(trial: &mut Trial<'_>) -> Result<()> {
    let append = vec!["check".to_owned()];
    let cmdline = Cmdline { generations: 2, append, ..trial.cmdline() };
    let logs = as_first(trial, &cmdline, Gic::V3)?;
    let [first, second] = logs.as_slice() else { bail!("not two generations") };
    for (gen_log, rules) in [(first, &["12", "40"][..]), (second, &["40"][..])] {
        let lines = gen_log.lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let broken = lines.filter(|words| words.get(1) == Some(&"broken"));
        let broken: Vec<_> = broken.map(|words| words[0]).collect();
        ensure!(broken == rules, "generation {} breaks the rules {broken:?}", gen_log.number);
    }
    let dispatched = first.says("PSCI by HVC");
    ensure!(dispatched, "PSCI is not called by HVC");
    Ok(())
}

/// Runs as a domain without a disk. Its UART is Arm's generic one, which its tree does not name in
/// `stdout-path`, and the FIT is its initrd.
fn other_domain(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline {
        generations: 20,
        base: Base::Random,
        append: vec!["earlycon=sbsa-uart,0x22000000".to_owned()],
        ..trial.cmdline()
    };
    let mut host = Host::new(trial, &cmdline, "")?;
    host.request.disk = Disk::None;
    // No early console: a PL011 is not where `virt` has it.
    let kernel = trial.kernel().image.clone();
    let initrd = disk::of(trial.kernel(), false);
    let sizes = [kernel.len(), initrd.len()];
    for (address, bytes) in MODULES.into_iter().zip([kernel, initrd]) {
        let file = host.file(&bytes)?;
        host.device(format!("loader,addr={address:#x},file={file},force-raw=on"));
    }
    let bootargs = cmdline.bootargs("", true);
    edit_tree(&mut host.request, |tree| {
        let chosen = tree.root.child_mut("chosen").expect("QEMU's tree has /chosen");
        set(chosen, "#address-cells", 2_u32)?;
        set(chosen, "#size-cells", 2_u32)?;
        set(chosen, "xen,xen-bootargs", WORDS)?;
        let mut domain = child("domU1")?;
        set(&mut domain, "compatible", "xen,domain")?;
        set(&mut domain, "#address-cells", 2_u32)?;
        set(&mut domain, "#size-cells", 2_u32)?;
        // In KiB.
        set(&mut domain, "memory", vec![0_u32, 128 << 10])?;
        set(&mut domain, "cpus", 1_u32)?;
        set(&mut domain, "vpl011", [0_u8; 0])?;
        for ((address, size), kind) in MODULES.into_iter().zip(sizes).zip(["kernel", "ramdisk"]) {
            let mut module = child(&format!("module@{address:x}"))?;
            let kinds = format!("multiboot,{kind}\0multiboot,module");
            set(&mut module, "compatible", kinds.as_str())?;
            set(&mut module, "reg", vec![0, u32::try_from(address)?, 0, u32::try_from(size)?])?;
            if kind == "kernel" {
                set(&mut module, "bootargs", bootargs.as_str())?;
            }
            domain.add_child(module);
        }
        chosen.add_child(domain);
        Ok(())
    })?;
    let logs = host.logs(trial, 1)?;
    let [gone @ .., _] = logs.as_slice() else { bail!("no generation") };
    let reads = |gen_log: &GenerationLog| gen_log.says("no disk: the FIT is the initrd, ");
    ensure!(gone.iter().all(reads), "a generation does not read the initrd");
    Ok(prove(&logs, &cmdline, Modes::All("el1"), Some(1))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_lines_are_put_together() {
        let long = "x".repeat(126);
        let console = format!(
            "(XEN) Brought up\n(XEN) DOM0: [0] a\n(XEN) DOM0: {long}\n(XEN) d0v0: noise\n\
             (XEN) DOM0: end\n(XEN) DOM1: [0] b\n"
        );
        assert_eq!(console_of(0, &console), format!("[0] a\n{long}end\n"));
        assert_eq!(console_of(1, &console), "[0] b\n");
        let short = console.replace(&long, &long[1..]);
        assert_eq!(console_of(0, &short), format!("[0] a\n{}\nend\n", &long[1..]));
    }
}
