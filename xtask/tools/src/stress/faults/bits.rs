//! Faults in memory: bits that flip while a kexec is under way.
//!
//! A bit flips at the first call of the second pass of checksums \[I8\]; a late bit, at the first
//! instruction of the relocation code.

use std::ops::Range;

use anyhow::{Result, bail, ensure};
use boot::marker;
use protocol::record;
use relocate::random::SplitMix64;

use harness::{
    checksums::Checksum,
    debugger::debugged,
    postmortem::Gdb,
    request::{Disk, Request},
    run::{self, Outcome},
};

use super::{BATCH, Cases, End, Run, Way, batch, disks};

/// The places where a bit flips, and the start of the refusal.
const PLACES: [(&str, &str); 5] = [
    ("source page", "the source of \""),
    ("device tree", record::NEXT_FDT),
    ("control page", record::RELOCATION_CODE),
    ("private vectors", record::RELOCATION_CODE),
    ("list and tables", record::LIST_AND_IDMAP),
];

/// Flips a batch of bits between load and jump, each in another attempt to kexec.
pub fn between(run: &Run<'_>) -> Result<Cases> {
    let mut random = run.job.random(run.setting.seed);
    let places: Vec<_> = (0..BATCH).map(|_| random.below(PLACES.len() as u64) as usize).collect();
    let names: Vec<_> = places.iter().map(|&place| PLACES[place].0).collect();
    let mut request = run.request()?;
    request.disk = Disk::Bytes(disks::kernels(run, BATCH + 1).into());
    let checksum = Checksum::of(&run.setting.kernel)?;
    injected(
        run,
        request,
        |mut gdb| {
            for &place in &places {
                let looked = checksum.first_look(&mut gdb)?;
                let (range, calls) = looked.place(place);
                turn(&mut gdb, &mut random, &range)?;
                // The last of these calls finds it; the call after that belongs to the next
                // attempt.
                gdb.run_to(checksum.ret)?;
                (1..calls).try_for_each(|_| checksum.call(&mut gdb).map(drop))?;
            }
            gdb.detach()
        },
        |way| {
            batch(way, &names, |at, words| {
                words.starts_with(PLACES[places[at]].1) && words.contains(record::CHANGED)
            })
        },
    )
}

/// Flips one bit of a source or of the device tree, after the last check before the jump.
pub fn late(run: &Run<'_>) -> Result<Cases> {
    const LATE: [(usize, &str); 2] = [(0, "source page, late"), (1, "device tree, late")];
    let mut random = run.job.random(run.setting.seed);
    let (place, name) = LATE[random.below(2) as usize];
    let checksum = Checksum::of(&run.setting.kernel)?;
    injected(
        run,
        run.request()?,
        |mut gdb| {
            let looked = checksum.first_look(&mut gdb)?;
            // The relocation code begins with its first instruction.
            gdb.run_to(looked.code().start)?;
            turn(&mut gdb, &mut random, &looked.place(place).0)?;
            gdb.detach()
        },
        |way| match way {
            Way::Stopped(words) => {
                ensure!(words.starts_with(marker::MISMATCH), "the relocation code printed {words}");
                Ok(vec![(name, End::Stopped)])
            }
            way => bail!("the relocation code should have stopped, but the run is {way}"),
        },
    )
}

/// Makes the run with a debugger attached. If the fault could not be injected, the run counts as
/// failed, but the campaign continues.
pub fn injected(
    of: &Run<'_>,
    request: Request,
    meddle: impl FnOnce(Gdb) -> Result<()> + Send,
    ends: impl FnOnce(Way) -> Result<Vec<(&'static str, End)>>,
) -> Result<Cases> {
    let mut meddled = Ok(());
    let outcome: Outcome = debugged(request, run::run, |gdb| {
        meddled = meddle(gdb);
        Ok(())
    })?;
    match meddled {
        Ok(()) => of.judge(outcome, ends),
        Err(error) => {
            let wrong = Some(format!("the fault could not be injected: {error:#}"));
            Ok(Cases { ends: Vec::new(), outcome, wrong })
        }
    }
}

/// Flips one random bit in `ranges`.
fn turn(gdb: &mut Gdb, random: &mut SplitMix64, ranges: &[Range<u64>]) -> Result<()> {
    let bytes = ranges.iter().map(|range| range.end - range.start).sum();
    let mut at = random.below(bytes);
    for range in ranges {
        let bytes = range.end - range.start;
        if at < bytes {
            let byte = gdb.memory(range.start + at, 1)?[0];
            return gdb.write(range.start + at, &[byte ^ 1 << random.below(8)]);
        }
        at -= bytes;
    }
    bail!("there is no memory to damage")
}
