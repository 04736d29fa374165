//! What is refused in the last act: memory that changed since it was checked.
//!
//! *When:* a debugger stops the booted kernel where the checksum's routine returns. Its calls come in a fixed order: each run of frames of
//! each payload, the device tree, the relocation code, the list with the tables; then all of them once more, as the last act.

use anyhow::{Context, Result, bail, ensure};

use crate::{
    config::Gic,
    explain::Gdb,
    kernel_build::{Built, returns},
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
        debugger::{LOADED, debugged},
    },
    alive, disks,
};

/// No kernel has so many runs of frames.
const MOST_CALLS: usize = 64;

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
        .chain([case("refused/source-differs-and-another-cpu-leads", |trial| changed(trial, 3, CHANGES[3].2, Some(1)))])
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
    ensure!(lives[1..].iter().all(|life| life.refused.is_empty()), "a later generation refused as well");
    let up = lives[0].lines.iter().filter(|line| line.starts_with("CPUs: 3 of 3 up")).count();
    ensure!(leader.is_none() || up == 2, "all CPUs came up {up} times, and should once more after the refusal");
    Ok(())
}

/// Turns over the last byte of a range that the booted kernel has checksummed, before the second look.
pub fn damage(gdb: &mut Gdb, kernel: &Built, from_last: usize) -> Result<()> {
    let first = first_look(gdb, LOADED + returns(kernel, "relocate_crc32c")?)?;
    let at = first[first.len() - 1 - from_last] - 1;
    let byte = gdb.memory(at, 1)?[0];
    gdb.write(at, &[byte ^ 1])
}

/// Where each range ends that is checksummed, until the first one's turn comes again.
fn first_look(gdb: &mut Gdb, checksummed: u64) -> Result<Vec<u64>> {
    let mut ends: Vec<u64> = Vec::new();
    while ends.len() < MOST_CALLS {
        gdb.run_to(checksummed)?;
        let end = gdb.register(&["x2"])?.context("QEMU's gdb stub has no x2")?;
        if ends.first() == Some(&end) {
            return Ok(ends);
        }
        ends.push(end);
    }
    bail!("{MOST_CALLS} ranges were checksummed, and none of them twice")
}
