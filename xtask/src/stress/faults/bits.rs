//! Bits of memory, turned over while a restart is under way.
//!
//! *When:* a debugger stops the booted kernel where a checksum begins. The calls come in a fixed order: each run of frames of the payload, the
//! device tree, the relocation code, the list with the tables, as they are made; then all of them once more, as the last act. So the second
//! call with the first one's range is the moment between load and jump \[I8\]. A late bit waits for the control page's first instruction.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use relocate::{control::CODE_PAGES, random::SplitMix64};

use crate::{
    debugger::{LOADED, debugged},
    explain::Gdb,
    kernel_build::{Built, returns},
    request::{Disk, Request},
    run::{self, Outcome},
};

use super::{BATCH, Cases, End, Run, Way, batch, disks};

/// No kernel has so many runs of frames.
const MOST_CALLS: usize = 64;

/// What a bit is turned over in, and the words that it is refused with.
const PLACES: [(&str, &str); 5] = [
    ("source page", "the source of \""),
    ("device tree", "the device tree changed between load and jump"),
    ("control page", "the relocation code changed between load and jump"),
    ("private vectors", "the relocation code changed between load and jump"),
    ("list and tables", "the list or the copy's tables changed between load and jump"),
];

/// A batch of bits between load and jump, each in another attempt.
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
                // The last of these finds it: the next call after that is the next attempt's.
                gdb.run_to(checksum.ret)?;
                (1..calls).try_for_each(|_| checksum.call(&mut gdb).map(drop))?;
            }
            gdb.detach()
        },
        |way| {
            batch(way, &names, |at, words| {
                words.contains(PLACES[places[at]].1) && words.contains(" changed between load and jump ")
            })
        },
    )
}

/// One bit of a source or of the tree, with the last check behind it.
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
            // The control page's first instruction is its first byte.
            gdb.run_to(looked.code().start)?;
            turn(&mut gdb, &mut random, &looked.place(place).0)?;
            gdb.detach()
        },
        |way| match way {
            Way::Stopped(words) => {
                ensure!(words.starts_with("!! what arrived is not what was loaded: "), "the control page said {words}");
                Ok(vec![(name, End::Stopped)])
            }
            way => bail!("the control page should have stopped, and the run is {way}"),
        },
    )
}

/// Makes the run with a debugger at its side. A fault that could not be injected is a failure of the run, and not of ours.
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

/// The checksum's routine in the booted kernel.
struct Checksum {
    /// Its first instruction, which is its loop's as well.
    entry: u64,
    /// Its last.
    ret: u64,
}

impl Checksum {
    fn of(kernel: &Built) -> Result<Self> {
        const NAME: &str = "relocate_crc32c";
        Ok(Self { entry: LOADED + kernel.symbol(NAME)?, ret: LOADED + returns(kernel, NAME)? })
    }

    /// Goes on to the next call's first instruction; gives its range.
    fn begin(&self, gdb: &mut Gdb) -> Result<Range<u64>> {
        gdb.run_to(self.entry)?;
        let mut register =
            |name: &str| gdb.register(&[name])?.with_context(|| format!("QEMU's gdb stub has no {name}"));
        Ok(register("x1")?..register("x2")?)
    }

    /// Goes through the next call; gives its range.
    fn call(&self, gdb: &mut Gdb) -> Result<Range<u64>> {
        let range = self.begin(gdb)?;
        gdb.run_to(self.ret)?;
        Ok(range)
    }

    /// Goes on to the first instruction of the second look's first call.
    fn first_look(&self, gdb: &mut Gdb) -> Result<Looked> {
        let mut ranges = vec![self.call(gdb)?];
        while ranges.len() < MOST_CALLS {
            let range = self.begin(gdb)?;
            if range == ranges[0] {
                ensure!(ranges.len() >= 4, "{} ranges were checksummed: {ranges:x?}", ranges.len());
                let looked = Looked(ranges);
                let bytes = looked.code().end - looked.code().start;
                ensure!(
                    bytes == CODE_PAGES * 4096,
                    "the relocation code is {CODE_PAGES} pages, and {bytes:#x} bytes were checksummed"
                );
                return Ok(looked);
            }
            gdb.run_to(self.ret)?;
            ranges.push(range);
        }
        bail!("{MOST_CALLS} ranges were checksummed, and none of them twice")
    }
}

/// The ranges of a restart, in the order in which they are looked at.
struct Looked(Vec<Range<u64>>);

impl Looked {
    fn code(&self) -> &Range<u64> {
        &self.0[self.0.len() - 2]
    }

    /// Where a place of [`PLACES`] lies, and with which call of the second look a change of it is found.
    fn place(&self, place: usize) -> (Vec<Range<u64>>, usize) {
        let [sources @ .., tree, code, rest] = self.0.as_slice() else { unreachable!("four at least") };
        let (page, vectors) = (code.start..code.start + 4096, code.start + 4096..code.end);
        let own = |range: &Range<u64>, after: usize| (vec![range.clone()], sources.len() + after);
        match place {
            0 => (sources.to_vec(), sources.len()),
            1 => own(tree, 1),
            2 => own(&page, 2),
            3 => own(&vectors, 2),
            _ => own(rest, 3),
        }
    }
}

/// Turns over one bit of `ranges`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_found_by_the_call_that_looks_at_it() {
        let range = |start: u64, pages: u64| start..start + pages * 4096;
        let looked = [range(0, 1), range(0x2000, 1), range(0x5000, 1), range(0x8000, 2), range(0xb000, 2)];
        let looked = Looked(looked.to_vec());
        let found = |place| {
            let (ranges, call) = looked.place(place);
            (ranges.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(), call)
        };
        assert_eq!(found(0), (vec![(0, 0x1000), (0x2000, 0x3000)], 2));
        assert_eq!(found(1), (vec![(0x5000, 0x6000)], 3));
        assert_eq!(found(2), (vec![(0x8000, 0x9000)], 4));
        assert_eq!(found(3), (vec![(0x9000, 0xa000)], 4));
        assert_eq!(found(4), (vec![(0xb000, 0xd000)], 5));
    }
}
