//! Refusals just before the jump, of memory that changed since its first checksum.
//!
//! A debugger stops the booted kernel between the two checksums; see [`Checksum::first_look`].

use anyhow::{Result, ensure};

use harness::{
    checksums::Checksum,
    cmdline::Cmdline,
    config::Gic,
    invariants::{Modes, check},
    kernel_build::Built,
    postmortem::Gdb,
    request::Disk,
    transcript,
    verdict::Verdict,
};

use protocol::record;

use super::{
    super::{
        case::{Case, Trial, case, with_cpus},
        debugger::debugged,
    },
    alive, disks,
};

/// Changes between load and jump: name, position of the checksum call counted from the last, and
/// start of the refusal.
const CHANGES: [(&str, usize, &str); 4] = [
    ("list-differs", 0, record::LIST_AND_IDMAP),
    ("code-differs", 1, record::RELOCATION_CODE),
    ("tree-differs", 2, record::NEXT_FDT),
    ("source-differs", 3, "the source of \"first\""),
];

/// Returns the cases of this suite.
pub(super) fn cases() -> Vec<Case> {
    CHANGES
        .into_iter()
        .map(|(name, from_last, says)| {
            case(format!("refused/{name}"), move |trial| changed(trial, from_last, says, None))
        })
        // CPU 1 leads here; after the refusal it continues on its own stack, and starts CPU 0
        // again.
        .chain([case("refused/source-differs-and-another-cpu-leads", |trial| {
            changed(trial, 3, CHANGES[3].2, Some(1))
        })])
        .collect()
}

/// Flips a bit of memory that the booted kernel has checksummed, before it checks again. The kernel
/// must refuse, make the control pages writable again, and restart with the second configuration.
/// With a `leader` there are three CPUs, and that CPU performs the restart.
fn changed(trial: &mut Trial<'_>, from_last: usize, says: &str, leader: Option<u32>) -> Result<()> {
    let kernel = trial.kernel();
    let mut append = vec!["on-refusal=continue".to_owned()];
    append.extend(leader.map(|cpu| format!("restart-cpu={cpu}")));
    let cmdline = Cmdline { append, ..trial.cmdline() };
    let mut request = trial.request("nvhe", &cmdline)?;
    if leader.is_some() {
        with_cpus(&mut request, 3, Gic::V3);
    }
    request.disk = Disk::Bytes(disks::two(trial.kernel()).into());
    let outcome = debugged(trial, request, |mut gdb| {
        damage(&mut gdb, kernel, from_last)?;
        gdb.detach()
    })?;
    ensure!(outcome.verdict == Verdict::Success, "{}", outcome.verdict.words());
    let logs = transcript::logs(&outcome.console)?;
    check(&logs, &cmdline, Modes::All("nvhe"))?;
    alive(&logs[0], &[&format!("{says} {} (CRC-32C 0x", record::CHANGED)])?;
    ensure!(
        logs[1..].iter().all(|gen_log| gen_log.refused.is_empty()),
        "a later generation refused as well"
    );
    let up = logs[0].lines.iter().filter(|line| line.starts_with("CPUs: 3 of 3 up")).count();
    ensure!(
        leader.is_none() || up == 2,
        "all CPUs came up {up} times, and should once more after the refusal"
    );
    Ok(())
}

/// Flips a bit in the last byte of a range that the booted kernel has checksummed, before it checks
/// again.
pub fn damage(gdb: &mut Gdb, kernel: &Built, from_last: usize) -> Result<()> {
    let at = Checksum::of(kernel)?.first_look(gdb)?.last_but(from_last).end - 1;
    let byte = gdb.memory(at, 1)?[0];
    gdb.write(at, &[byte ^ 1])
}
