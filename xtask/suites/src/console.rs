//! Machines without a console: the exit code shows the run's end, the failure record its reason.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use boot::{
    failure_record::{Failure, FailureRecord, Reason, TEXT_SIZE},
    marker,
};

use harness::{
    disk,
    fit_edit::set,
    invariants::MODES,
    kernel_build::{self, Built},
    patch::{Patched, UNDEFINED},
    postmortem::Qmp,
    request::{Disk, Request},
    tree_edit::edit_tree,
    verdict::Verdict,
};

use super::{
    case::{Case, Trial, case},
    last_look::{has_ended, look_once, memory},
    memory::program_counter,
};

/// The base of the Image that QEMU loads.
const BASE: u64 = 0x4020_0000;

/// ESR of an UNDEFINED instruction.
const UNDEFINED_ESR: u64 = 0x200_0000;

/// `mov x20, x0`, which keeps the device tree's address, and `mov x20, xzr`.
const KEEP_TREE: u32 = 0xaa00_03f4;
const KEEP_NOTHING: u32 = 0xaa1f_03f4;

/// An address without memory or device.
const NO_UART: &str = "pl011,0xb000000";

/// A failure on a machine without a console.
#[derive(Clone, Copy)]
struct Failing {
    name: &'static str,
    machine: &'static str,
    /// Alters the request and the kernel.
    alter: fn(&mut Request, &Built) -> Result<()>,
    /// Whether the failing kernel ends the machine, by PSCI.
    ends: bool,
    reason: Reason,
    /// The instruction that the exception was taken at: a symbol and an offset.
    at: Option<(&'static str, u64)>,
    /// Texts in the record, in this order.
    text: &'static [&'static str],
}

const EXCEPTION: &[&str] = &[
    concat!(marker!(exception), "0000000000000004 esr=0000000002000000 elr=0000000040"),
    concat!(marker!(register), "000000000000001e value="),
    marker::STOPPED,
];

#[rustfmt::skip]
const FAILINGS: &[Failing] = &[
    Failing { name: "exception-early-el1", machine: "el1", ends: false, reason: Reason::Exception,
              alter: |request, kernel| {
                  patch(request, Patched::new(kernel).at("cpu_setup", 12, UNDEFINED)?)
              },
              at: Some(("cpu_setup", 12)), text: EXCEPTION },
    Failing { name: "exception-early-el2", machine: "nvhe", ends: false, reason: Reason::Exception,
              alter: |request, kernel| {
                  patch(request, Patched::new(kernel).at("el2_setup", 12, UNDEFINED)?)
              },
              at: Some(("el2_setup", 12)), text: EXCEPTION },
    // The printer's own UART aborts: the record keeps the first exception, and nothing is printed.
    Failing { name: "exception-in-the-printer", machine: "nvhe", ends: false,
              reason: Reason::Exception,
              alter: |request, kernel| {
                  let mut image = Patched::new(kernel).at("el2_setup", 12, UNDEFINED)?;
                  image.image = Built { image: image.image, ..kernel.clone() }
                      .with_earlycon(NO_UART)?.image;
                  patch(request, image)
              },
              at: Some(("el2_setup", 12)), text: &[] },
    Failing { name: "panic", machine: "nvhe", ends: false, reason: Reason::Panic,
              alter: |request, kernel| {
                  patch(request, Patched::new(kernel).replace("entry", KEEP_TREE, KEEP_NOTHING)?)
              },
              at: None,
              // The rules of the boot protocol fill the rest.
              text: &[marker::PANIC, "x0 = 0x48000000", " kept "] },
    Failing { name: "exception-in-rust", machine: "nvhe", ends: true, reason: Reason::Exception,
              alter: |request, kernel| {
                  patch(request, Patched::new(kernel).at("relocate_crc32c", 0, UNDEFINED)?)
              },
              at: Some(("relocate_crc32c", 0)),
              text: &[marker::EXCEPTION_NAME, marker::EXCEPTION, " x28=", marker::FAILURE] },
    // The stub of a kernel that runs Rust takes an exception: the assembly knows PSCI.
    Failing { name: "exception-in-the-stub", machine: "nvhe", ends: true, reason: Reason::Exception,
              alter: |request, _| {
                  request.bootargs += " selftest=stub";
                  Ok(())
              },
              at: None,
              text: &[marker::EXCEPTION, marker::REGISTER, marker::STOPPED] },
    Failing { name: "refused", machine: "nvhe", ends: true, reason: Reason::Refused,
              alter: |request, _| {
                  request.disk = Disk::None;
                  Ok(())
              },
              at: None, text: &["FIT"] },
];

fn patch(request: &mut Request, patched: Patched<'_>) -> Result<()> {
    request.image = Some(patched.image);
    Ok(())
}

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let ends = |machine, verdict, alter: fn(&mut Request)| {
        move |trial: &mut Trial<'_>| silent(trial, machine, verdict, alter)
    };
    let mut cases: Vec<_> = MODES
        .into_iter()
        .map(|machine| {
            // The exit code is 0; the harness misses the marker of success.
            case(format!("console/none-{machine}"), ends(machine, Verdict::Failed(0), |_| {}))
        })
        .collect();
    cases.push(case("console/of-another-kind", another_kind));
    cases.push(case("console/none-turns-off", turns_off));
    cases.push(case(
        "console/none-refused",
        ends("nvhe", Verdict::Failed(1), |request| request.disk = Disk::None),
    ));
    cases.extend(FAILINGS.iter().map(|failing| {
        case(format!("console/failure-{}", failing.name), |trial| failing.pass(trial))
    }));
    cases
}

/// Drives a PL011 as an 8250, which never shows room. The run must end in time, and well.
fn another_kind(trial: &mut Trial<'_>) -> Result<()> {
    let mut request = trial.request("nvhe", &trial.cmdline())?;
    edit_tree(&mut request, |tree| {
        let uart = tree.root.child_mut("pl011@9000000").context("QEMU's tree has no UART")?;
        set(uart, "compatible", b"snps,dw-apb-uart\0".to_vec())
    })?;
    trial.ends(&request, Verdict::Failed(0)).map(drop)
}

/// Without a console, a success turns the machine off, and does not reset it as a failure does.
fn turns_off(trial: &mut Trial<'_>) -> Result<()> {
    let mut request = trial.request_psci("nvhe", &trial.cmdline())?;
    without_console(trial, &mut request)?;
    let reason = |qmp: &mut Qmp| Ok(qmp.shutdown().map(str::to_owned));
    let (_, _, reason) = look_once(trial, request, has_ended, reason)?;
    ensure!(reason.as_deref() == Some("guest-shutdown"), "the machine ends by {reason:?}");
    Ok(())
}

/// Makes a request an Image that names no UART, on a machine whose device tree names none.
fn without_console(trial: &Trial<'_>, request: &mut Request) -> Result<Arc<Built>> {
    let kernel = kernel_build::read(&trial.kernel().elf)?;
    request.disk = Disk::Bytes(Arc::new(disk::of(&kernel, false)));
    request.kernel = Arc::new(kernel);
    edit_tree(request, |tree| {
        let uart = tree.root.child_mut("pl011@9000000").context("QEMU's tree has no UART")?;
        set(uart, "compatible", b"unknown-uart\0".to_vec())
    })?;
    Ok(Arc::clone(&request.kernel))
}

/// Runs a kernel without a console.
fn silent(
    trial: &mut Trial<'_>,
    machine: &str,
    verdict: Verdict,
    alter: fn(&mut Request),
) -> Result<()> {
    let mut request = trial.request(machine, &trial.cmdline())?;
    without_console(trial, &mut request)?;
    alter(&mut request);
    let outcome = trial.ends(&request, verdict)?;
    ensure!(outcome.console.is_empty(), "there is no console, and it says: {}", outcome.console);
    Ok(())
}

impl Failing {
    /// Runs the failing kernel, and reads its failure record from RAM.
    fn pass(&self, trial: &mut Trial<'_>) -> Result<()> {
        let mut request = trial.request_psci(self.machine, &trial.cmdline())?;
        let kernel = without_console(trial, &mut request)?;
        (self.alter)(&mut request, &kernel)?;
        let record = BASE + kernel.symbol("failure_record")?;
        let read = |qmp: &mut Qmp| memory(qmp, record, size_of::<FailureRecord>() as u64);
        let ends = self.ends;
        let silence = BASE + kernel.symbol("early_silence")?;
        let is_time = |qmp: &mut Qmp| {
            if ends {
                return has_ended(qmp);
            }
            // Both instructions of the loop, and the one behind a wfi that QEMU waits in.
            let is_parked = (silence..=silence + 8).contains(&program_counter(qmp)?);
            Ok(is_complete(&read(qmp)?, is_parked))
        };
        let look = |qmp: &mut Qmp| Ok((read(qmp)?, qmp.shutdown().map(str::to_owned)));
        let (verdict, console, (bytes, reason)) = look_once(trial, request, is_time, look)?;
        let expected = self.ends.then_some("guest-reset");
        ensure!(reason.as_deref() == expected, "the machine ends by {reason:?}, not {expected:?}");
        ensure!(verdict == Verdict::Failed(0), "{}", verdict.words());
        ensure!(console.is_empty(), "there is no console, and it says: {console}");
        let failure = Failure::read(&bytes).context("the record shows no failure")?;
        self.check(&failure, &kernel)
    }

    fn check(&self, failure: &Failure<'_>, kernel: &Built) -> Result<()> {
        let text = String::from_utf8_lossy(failure.text);
        ensure!(failure.reason == self.reason, "the reason is {:?}: {text}", failure.reason);
        if let Some((symbol, offset)) = self.at {
            let elr = BASE + kernel.symbol(symbol)? + offset;
            let found = (failure.esr, failure.elr);
            ensure!(found == (UNDEFINED_ESR, elr), "ESR and ELR are {found:#x?}, not {elr:#x}");
        }
        let mut rest = &*text;
        for words in self.text {
            let place = rest.find(words);
            rest = &rest[place.with_context(|| format!("no \"{words}\" in: {text}"))?..];
        }
        ensure!(!self.text.is_empty() || text.is_empty(), "the text is not empty: {text}");
        Ok(())
    }
}

/// Returns whether a kernel that does not end the machine has stored all of its record: its text is
/// full, or its assembly has parked the CPU.
fn is_complete(record: &[u8], is_parked: bool) -> bool {
    Failure::read(record).is_some_and(|failure| is_parked || failure.text.len() == TEXT_SIZE)
}
