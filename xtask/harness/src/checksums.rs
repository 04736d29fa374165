//! Finder of the moment between load and jump, by the calls of the checksum routine.
//!
//! The tests and the injected faults use it to damage memory that a kexec depends on. The debugger
//! stops the booted kernel where a checksum begins. The kernel makes the calls in a fixed order,
//! twice:
//!
//! 1. as it loads: each run of frames of each payload, the device tree, the relocation code, the
//!    kimage list with the tables;
//! 2. as its last act before it leaves: all of these once more.
//!
//! So the first repetition of the first call's range marks the start of the second pass \[I8\].

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use relocate::control::CODE_PAGES;

use crate::{
    debugger::LOADED,
    kernel_build::{Built, returns},
    postmortem::Gdb,
};

/// The limit on calls in one pass; no kernel has so many runs of frames.
const MOST_CALLS: usize = 64;

/// The checksum routine of the booted kernel.
pub struct Checksum {
    /// The address of the routine's first instruction, which is also the head of its loop.
    entry: u64,
    /// The address of the routine's `ret`.
    pub ret: u64,
}

impl Checksum {
    /// Finds the routine by its symbol.
    pub fn of(kernel: &Built) -> Result<Self> {
        const NAME: &str = "relocate_crc32c";
        Ok(Self { entry: LOADED + kernel.symbol(NAME)?, ret: LOADED + returns(kernel, NAME)? })
    }

    /// Continues to the first instruction of the next call; returns the range that it checksums.
    fn begin(&self, gdb: &mut Gdb) -> Result<Range<u64>> {
        gdb.run_to(self.entry)?;
        let mut register = |name: &str| {
            gdb.register(&[name])?.with_context(|| format!("QEMU's gdb stub has no {name}"))
        };
        Ok(register("x1")?..register("x2")?)
    }

    /// Continues to the end of the next call; returns the range that it checksummed.
    pub fn call(&self, gdb: &mut Gdb) -> Result<Range<u64>> {
        let range = self.begin(gdb)?;
        gdb.run_to(self.ret)?;
        Ok(range)
    }

    /// Continues to the first instruction of the second pass, recording the ranges of the first
    /// pass.
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
                    "the relocation code is {CODE_PAGES} pages, \
                     but {bytes:#x} bytes were checksummed"
                );
                return Ok(looked);
            }
            gdb.run_to(self.ret)?;
            ranges.push(range);
        }
        bail!("{MOST_CALLS} ranges were checksummed, and none of them twice")
    }
}

/// The ranges that one pass checksums, in order.
pub struct Looked(Vec<Range<u64>>);

impl Looked {
    /// The range of the relocation code.
    pub fn code(&self) -> &Range<u64> {
        self.last_but(1)
    }

    /// The range that is followed by `others` more: 0 the list with the tables, 1 the relocation
    /// code, 2 the device tree, 3 the last source.
    pub fn last_but(&self, others: usize) -> &Range<u64> {
        &self.0[self.0.len() - 1 - others]
    }

    /// The ranges of a place, and the index of the call in the second pass that finds a change
    /// there. The places are 0 the sources, 1 the device tree, 2 the relocation code, 3 the private
    /// vectors, 4 the list with the tables.
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
