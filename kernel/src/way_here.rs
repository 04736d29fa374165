//! The way here: the predecessor's breadcrumbs and the entry's own stations, as phase times.
//!
//! *When:* once RAM is mapped. *On entry:* the page was kept out of the heap and nobody has touched it. *Leaves:* the page to
//! the heap.
#![expect(unsafe_code, reason = "reads a page that another kernel wrote")]

use crate::clock;
use crate::memory::pointer;
use alloc::string::String;
use boot::breadcrumb::{PHASES, reached};
use boot::cache;
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::record::EntryRecord;
use core::fmt::Write;
use core::ops::Range;

/// How long each phase took, from "Bye!" to `main`, in nanoseconds: each name after the time that led to it, which is negative where the counter
/// went back.
#[must_use]
pub fn read(record: &EntryRecord, breadcrumbs: Option<&Range<PhysAddr>>, main: u64) -> String {
    let mut line = String::new();
    let mut last = None;
    if let Some(page) = breadcrumbs {
        // The last of them were written past the caches: what speculation brought in since is older. [I6]
        cache::clean_and_invalidate(page);
        // SAFETY: a page of RAM, as `Division` has seen to, mapped, kept out of the heap, and written by nobody any more.
        let words = unsafe {
            core::slice::from_raw_parts(pointer(page.start).cast(), PAGE_SIZE as usize / 8)
        };
        for &(phase, stamp) in reached(words, &mut Default::default()) {
            station(&mut line, &mut last, PHASES[phase], stamp);
        }
    }
    let el2 = ("EL2 set up", record.el2_ready);
    for (name, stamp) in
        [("first instruction", record.entered), el2, ("MMU on", record.mmu_on), ("main", main)]
    {
        if stamp != 0 {
            station(&mut line, &mut last, name, stamp);
        }
    }
    line
}

fn station(line: &mut String, last: &mut Option<u64>, name: &str, stamp: u64) {
    // Writing to a String cannot fail.
    let _ = match last.replace(stamp) {
        None => write!(line, "{name}"),
        Some(before) if stamp < before => {
            write!(line, " -{} {name}", clock::nanoseconds(before - stamp))
        }
        Some(before) => write!(line, " +{} {name}", clock::nanoseconds(stamp - before)),
    };
}
