//! The boot trace: the previous kernel's breadcrumbs and our own, as phase times.
//!
//! - Runs once RAM is mapped.
//! - Expects that the page of breadcrumbs was kept out of the heap and not written.
//! - Afterwards the heap may have that page.
#![expect(unsafe_code, reason = "reads a page that another kernel wrote")]

use crate::clock;
use crate::memory::pointer;
use alloc::string::String;
use boot::breadcrumb::{NAMES, reached};
use boot::cache;
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::record::EntryRecord;
use core::fmt::Write;
use core::ops::Range;

/// Returns the time that each phase took, from "Bye!" to `main`, in nanoseconds.
///
/// Each phase's name follows the time that led to it, which is negative if the counter went back.
#[must_use]
pub fn read(record: &EntryRecord, breadcrumbs: Option<&Range<PhysAddr>>, main: u64) -> String {
    let mut line = String::new();
    let mut last = None;
    if let Some(page) = breadcrumbs {
        // The last breadcrumbs were written with the MMU off, past the caches. Discard lines that
        // speculation brought in before that, since they hold older data. [I6]
        cache::clean_and_invalidate(page);
        // SAFETY: `from_raw_parts` requires mapped memory without a writer. `MemoryLayout` checked that
        // this is a page of RAM and kept it out of the heap.
        let words = unsafe {
            core::slice::from_raw_parts(pointer(page.start).cast(), PAGE_SIZE as usize / 8)
        };
        for &(phase, stamp) in reached(words, &mut Default::default()) {
            append(&mut line, &mut last, NAMES[phase], stamp);
        }
    }
    let el2 = ("EL2 set up", record.el2_ready);
    for (name, stamp) in
        [("first instruction", record.entered), el2, ("MMU on", record.mmu_on), ("main", main)]
    {
        if stamp != 0 {
            append(&mut line, &mut last, name, stamp);
        }
    }
    line
}

fn append(line: &mut String, last: &mut Option<u64>, name: &str, stamp: u64) {
    // Writing to a String cannot fail.
    let _ = match last.replace(stamp) {
        None => write!(line, "{name}"),
        Some(before) if stamp < before => {
            write!(line, " -{} {name}", clock::nanoseconds(before - stamp))
        }
        Some(before) => write!(line, " +{} {name}", clock::nanoseconds(stamp - before)),
    };
}
