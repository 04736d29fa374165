//! The moment between load and jump, found by the checksum's calls.
//!
//! *When:* by the cases and the faults that damage what a restart depends on: a debugger stops the booted kernel where a checksum begins. The calls
//! come in a fixed order: each run of frames of each payload, the device tree, the relocation code, the list with the tables, as they are made;
//! then all of them once more, as the last act. So the second call with the first one's range is that moment \[I8\].

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use relocate::control::CODE_PAGES;

use crate::{
    debugger::LOADED,
    explain::Gdb,
    kernel_build::{Built, returns},
};

/// No kernel has so many runs of frames.
const MOST_CALLS: usize = 64;

/// The checksum's routine in the booted kernel.
pub struct Checksum {
    /// Its first instruction, which is its loop's as well.
    entry: u64,
    /// Its last.
    pub ret: u64,
}

impl Checksum {
    /// By its symbol.
    pub fn of(kernel: &Built) -> Result<Self> {
        const NAME: &str = "relocate_crc32c";
        Ok(Self { entry: LOADED + kernel.symbol(NAME)?, ret: LOADED + returns(kernel, NAME)? })
    }

    /// Goes on to the next call's first instruction; gives its range.
    fn begin(&self, gdb: &mut Gdb) -> Result<Range<u64>> {
        gdb.run_to(self.entry)?;
        let mut register = |name: &str| {
            gdb.register(&[name])?.with_context(|| format!("QEMU's gdb stub has no {name}"))
        };
        Ok(register("x1")?..register("x2")?)
    }

    /// Goes through the next call; gives its range.
    pub fn call(&self, gdb: &mut Gdb) -> Result<Range<u64>> {
        let range = self.begin(gdb)?;
        gdb.run_to(self.ret)?;
        Ok(range)
    }

    /// Goes on to the first instruction of the second look's first call.
    pub fn first_look(&self, gdb: &mut Gdb) -> Result<Looked> {
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
pub struct Looked(Vec<Range<u64>>);

impl Looked {
    /// The relocation code.
    pub fn code(&self) -> &Range<u64> {
        self.last_but(1)
    }

    /// The one that so many others follow: 0 the list with the tables, 1 the code, 2 the device tree, 3 the last source.
    pub fn last_but(&self, others: usize) -> &Range<u64> {
        &self.0[self.0.len() - 1 - others]
    }

    /// Where a place lies, and with which call of the second look a change of it is found: 0 the sources, 1 the device tree, 2 the control page,
    /// 3 the private vectors, 4 the list with the tables.
    pub fn place(&self, place: usize) -> (Vec<Range<u64>>, usize) {
        let [sources @ .., tree, code, rest] = self.0.as_slice() else {
            unreachable!("four at least")
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_found_by_the_call_that_looks_at_it() {
        let range = |start: u64, pages: u64| start..start + pages * 4096;
        let looked =
            [range(0, 1), range(0x2000, 1), range(0x5000, 1), range(0x8000, 2), range(0xb000, 2)];
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
