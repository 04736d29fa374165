//! Runs from a FIT in the initrd, on machines without a disk and beside one.
//!
//! Every generation must keep the initrd, hand it on, and read the next image from it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use harness::{
    cmdline::{Base, Cmdline, Restart},
    disk::{self, FOREIGN, Foreign, payload},
    fit_edit::position,
    invariants::{self, Modes, check},
    loader::Loader,
    request::{Disk, Medium, Request},
    transcript::{GenerationLog, logs, parted},
    verdict::Verdict,
};
use protocol::fit::writer as fit;

use super::{
    case::{Case, Trial, case},
    refused::{self, disks::two},
};

/// The address at which QEMU puts the initrd, with 512 MiB of RAM.
const INITRD: u64 = 0x4800_0000;

/// The size of the payload's own initrd.
const RAMDISK: usize = (3 << 20) + 1;

/// The reason for reading the initrd on a machine without a disk.
const NO_DISK: &str = "no disk: the FIT is the initrd, ";

/// Returns the cases of this suite.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in invariants::MODES {
        for restart in [Restart::Hot, Restart::Cold] {
            for base in [Base::Same, Base::Random] {
                let name = format!("initrd/{mode}-{restart}-{base}");
                cases.push(case(name, move |trial| generations(trial, mode, restart, base)));
            }
        }
    }
    cases.push(case("initrd/payload", from_the_initrd));
    cases.push(case("initrd/uefi", by_uefi).needing(Loader::Uefi.needs()));
    cases.push(case("initrd/beside-a-disk", beside_a_disk));
    cases.push(case("initrd/preferred-to-a-disk", preferred));
    cases.push(case("initrd/of-another-kind", another_kind));
    cases.push(case("initrd/damaged", damaged));
    cases.push(case("initrd/cut-short", cut_short));
    cases.push(case("initrd/over-itself", over_itself));
    cases.push(case("initrd/ordered-and-missing", missing));
    cases.push(case("initrd/ordered-and-no-fit", no_fit));
    cases
}

/// Runs twenty generations without a disk, in little RAM, so that random bases come close.
fn generations(
    trial: &mut Trial<'_>,
    mode: &'static str,
    restart: Restart,
    base: Base,
) -> Result<()> {
    let cmdline = Cmdline { generations: 20, base, restart, ..trial.cmdline() };
    let mut request = trial.request(mode, &cmdline)?;
    (request.fit, request.memory) = (Medium::Initrd, Some("96M".to_owned()));
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All(mode))?;
    let [gone @ .., _] = logs.as_slice() else { anyhow::bail!("no generation") };
    gone.iter().try_for_each(|gen_log| says(gen_log, NO_DISK))
}

/// Lets EDK2 offer the FIT by LoadFile2. The EFI stub must load it and name it in /chosen.
fn by_uefi(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { base: Base::Random, ..trial.cmdline() };
    let mut request = trial.request("vhe", &cmdline)?;
    (request.fit, request.loader) = (Medium::Initrd, Loader::Uefi);
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All("vhe"))?;
    says(&logs[0], NO_DISK)
}

fn says(gen_log: &GenerationLog, words: &str) -> Result<()> {
    ensure!(gen_log.says(words), "generation {} does not print \"{words}\"", gen_log.number);
    Ok(())
}

/// Starts a payload from the initrd. It must get its own initrd, and the memory of ours.
fn from_the_initrd(trial: &mut Trial<'_>) -> Result<()> {
    let mut cmdline = Cmdline { base: Base::Random, ..trial.cmdline() };
    cmdline.append.push(format!("payload={FOREIGN}"));
    let mut request = trial.request_psci("vhe", &cmdline)?;
    let words = format!("{} generations=1 seed=0x77 check", request.machine.bootargs);
    let foreign = Foreign {
        image: trial.kernel().image.clone(),
        initrd: Some(vec![0xa5; RAMDISK]),
        fdt: None,
        bootargs: Some(words.trim().to_owned()),
    };
    let fit = disk::with(trial.kernel(), false, foreign);
    let ours = fit.len() as i128;
    (request.disk, request.fit) = (Disk::Bytes(Arc::new(fit)), Medium::Initrd);
    let console = trial.ends(&request, Verdict::Success)?.console.clone();
    let (before, after) = parted(&console, cmdline.generations)?;
    let (before, after) = (logs(before)?, logs(after)?);
    check(&before, &cmdline, Modes::All("vhe"))?;
    before.iter().try_for_each(|gen_log| says(gen_log, NO_DISK))?;
    // The payload reserves its own initrd, and not ours. (Page tables depend on the base.)
    let gained = i128::from(after[0].free) - i128::from(before[0].free);
    let due = ours - RAMDISK as i128;
    ensure!(gained.abs_diff(due) < 64 << 10, "the payload has {gained} bytes more, not {due}");
    Ok(())
}

/// Makes a FIT whose only kernel has a flipped bit.
fn flipped(trial: &Trial<'_>) -> Result<Vec<u8>> {
    let mut fit = fit::write(&[payload("of-the-initrd", trial.kernel().image.clone(), None)]);
    let at = position(&fit, "of-the-initrd")? + 0x1_0000;
    fit[at] ^= 1;
    Ok(fit)
}

/// Attaches the initrd's file in addition to the request's own disk.
fn add_initrd(request: &mut Request, bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), bytes)?;
    request.args.extend(["-initrd".to_owned(), file.path().display().to_string()]);
    Ok(file)
}

/// Attaches a good disk and a damaged FIT as the initrd. The disk is the default.
fn beside_a_disk(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    let _file = add_initrd(&mut request, &flipped(trial)?)?;
    check(&trial.logs(&request)?, &cmdline, Modes::All("nvhe"))
}

/// Orders the initrd on a machine that also has a disk, whose kernel is damaged.
fn preferred(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { append: vec!["fit=initrd".to_owned()], ..trial.cmdline() };
    let mut request = trial.request("el1", &cmdline)?;
    request.disk = Disk::Bytes(Arc::new(flipped(trial)?));
    let _file = add_initrd(&mut request, &disk::of(trial.kernel(), false))?;
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All("el1"))?;
    logs[..logs.len() - 1]
        .iter()
        .try_for_each(|gen_log| says(gen_log, "fit=initrd: the FIT is the initrd, "))
}

/// Attaches an initrd that is no FIT beside the disk. Generation 0 leaves it alone, and the later
/// ones have its memory.
fn another_kind(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = trial.cmdline();
    let mut request = trial.request("vhe", &cmdline)?;
    let _file = add_initrd(&mut request, &vec![0xa5; RAMDISK])?;
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All("vhe"))?;
    let [first, second, ..] = logs.as_slice() else { anyhow::bail!("too few generations") };
    let more = second.free.checked_sub(first.free).context("generation 1 has less memory")?;
    ensure!(more.abs_diff(RAMDISK as u64) < 256 << 10, "generation 1 has {more} bytes more");
    Ok(())
}

/// Damages the first kernel in the initrd. Each generation must refuse it and start the second.
fn damaged(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { append: vec!["on-refusal=continue".to_owned()], ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    let mut fit = two(trial.kernel());
    let at = position(&fit, "first")? + 0x1_0000;
    fit[at] ^= 1;
    (request.disk, request.fit) = (Disk::Bytes(Arc::new(fit)), Medium::Initrd);
    let logs = trial.logs(&request)?;
    check(&logs, &cmdline, Modes::All("nvhe"))?;
    let [gone @ .., _] = logs.as_slice() else { anyhow::bail!("no generation") };
    let words = ["\"first\" is not what the FIT says: sha256 "];
    gone.iter().try_for_each(|gen_log| refused::alive(gen_log, &words))
}

/// Gives half of a FIT as the initrd. The refusal must not speak of a disk.
fn cut_short(trial: &mut Trial<'_>) -> Result<()> {
    let mut request = trial.request("nvhe", &trial.cmdline())?;
    let mut fit = disk::of(trial.kernel(), false);
    fit.truncate(fit.len() / 2);
    let says = format!("and the initrd ends at byte {}: ", fit.len());
    (request.disk, request.fit) = (Disk::Bytes(fit.into()), Medium::Initrd);
    refused::failed(trial, &request, &[&says])
}

/// Sends the next generation to where the FIT is.
fn over_itself(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { base: Base::Load, ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    let kernel = payload("kernel", trial.kernel().image.clone(), Some(INITRD));
    (request.disk, request.fit) = (Disk::Bytes(fit::write(&[kernel]).into()), Medium::Initrd);
    refused::failed(trial, &request, &["0x48000000", "the FIT in the initrd"])
}

/// Orders the initrd where the loader named none.
fn missing(trial: &mut Trial<'_>) -> Result<()> {
    let cmdline = Cmdline { append: vec!["fit=initrd".to_owned()], ..trial.cmdline() };
    let request = trial.request("nvhe", &cmdline)?;
    refused::failed(trial, &request, &["fit=initrd, but the device tree names no initrd"])
}

/// Gives an initrd that is no FIT, first to a machine without a disk, then with `fit=initrd`.
fn no_fit(trial: &mut Trial<'_>) -> Result<()> {
    let says = "the initrd at 0x48000000 begins with 0xa5a5a5a5, and a FIT with 0xd00dfeed";
    let cmdline = trial.cmdline();
    let mut request = trial.request("nvhe", &cmdline)?;
    let bytes = vec![0xa5; RAMDISK];
    (request.disk, request.fit) = (Disk::Bytes(Arc::new(bytes.clone())), Medium::Initrd);
    refused::failed(trial, &request, &["no disk: none of ", says])?;
    let cmdline = Cmdline { append: vec!["fit=initrd".to_owned()], ..cmdline };
    let mut request = trial.request("nvhe", &cmdline)?;
    let _file = add_initrd(&mut request, &bytes)?;
    refused::failed(trial, &request, &["fit=initrd, but ", says])
}
