//! What is refused in the last act: memory that changed since it was checked.
//!
//! *When:* a debugger stops the booted kernel at the last act, [`Checksum::first_look`].

use anyhow::{Result, ensure};

use crate::{
    checksums::Checksum,
    config::Gic,
    explain::Gdb,
    kernel_build::Built,
    orders::Orders,
    proof::{Modes, check},
    request::Disk,
    transcript,
    verdict::Verdict,
};

use super::{
    super::{
        case::{Case, Trial, case},
        cpus::with_cpus,
        debugger::debugged,
    },
    alive, disks,
};

/// What is changed between load and jump: the how manieth call from the last, and what the refusal says of it.
const CHANGES: [(&str, usize, &str); 4] = [
    ("list-differs", 0, "the list or the copy's tables changed between load and jump (CRC-32C 0x"),
    ("code-differs", 1, "the relocation code changed between load and jump (CRC-32C 0x"),
    ("tree-differs", 2, "the device tree changed between load and jump (CRC-32C 0x"),
    ("source-differs", 3, "the source of \"first\" changed between load and jump (CRC-32C 0x"),
];

/// All of them.
pub(super) fn cases() -> Vec<Case> {
    CHANGES
        .into_iter()
        .map(|(name, from_last, says)| {
            case(format!("refused/{name}"), move |trial| changed(trial, from_last, says, None))
        })
        // Whoever leads goes on with its own stack, and starts the one that it was entered on once more.
        .chain([case("refused/source-differs-and-another-cpu-leads", |trial| {
            changed(trial, 3, CHANGES[3].2, Some(1))
        })])
        .collect()
}

/// A byte of what the booted kernel has checksummed is turned over before the second look. It then goes on with the second
/// configuration: the control block has become writable again. Where a `leader` is named there are three CPUs, and it is the one that goes.
fn changed(trial: &mut Trial<'_>, from_last: usize, says: &str, leader: Option<u32>) -> Result<()> {
    let kernel = trial.kernel();
    let mut append = vec!["on-refusal=continue".to_owned()];
    append.extend(leader.map(|cpu| format!("restart-cpu={cpu}")));
    let orders = Orders { append, ..trial.orders() };
    let mut request = trial.request("nvhe", &orders)?;
    if leader.is_some() {
        with_cpus(&mut request, 3, Gic::V3);
    }
    request.disk = Disk::Bytes(disks::two(trial.kernel()).into());
    let outcome = debugged(trial, request, |mut gdb| {
        damage(&mut gdb, kernel, from_last)?;
        gdb.detach()
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    let lives = transcript::lives(&outcome.console)?;
    check(&lives, &orders, Modes::All("nvhe"))?;
    alive(&lives[0], &[says])?;
    ensure!(
        lives[1..].iter().all(|life| life.refused.is_empty()),
        "a later generation refused as well"
    );
    let up = lives[0].lines.iter().filter(|line| line.starts_with("CPUs: 3 of 3 up")).count();
    ensure!(
        leader.is_none() || up == 2,
        "all CPUs came up {up} times, and should once more after the refusal"
    );
    Ok(())
}

/// Turns over the last byte of a range that the booted kernel has checksummed, before the second look.
pub fn damage(gdb: &mut Gdb, kernel: &Built, from_last: usize) -> Result<()> {
    let at = Checksum::of(kernel)?.first_look(gdb)?.last_but(from_last).end - 1;
    let byte = gdb.memory(at, 1)?[0];
    gdb.write(at, &[byte ^ 1])
}
