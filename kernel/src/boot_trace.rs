//! The boot trace: the previous kernel's breadcrumbs and our own, and the times between them.
//!
//! - Runs once RAM is mapped.
//! - Expects that the page of breadcrumbs was kept out of the heap and not written.
//! - Afterwards the page may be handed out as a frame.
#![expect(unsafe_code, reason = "reads a page that another kernel wrote")]

use crate::clock;
use crate::memory::pointer;
use alloc::vec::Vec;
use boot::breadcrumb::{NAMES, reached};
use boot::cache;
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::record::EntryRecord;
use core::fmt;
use core::ops::Range;
use protocol::record::Text;

/// Returns the breadcrumbs from "Bye!" to `main`, each with the nanoseconds since the previous one,
/// which are negative if the counter went back.
#[must_use]
pub fn read(
    record: &EntryRecord,
    breadcrumbs: Option<&Range<PhysAddr>>,
    main: u64,
) -> Vec<(Text, i64)> {
    let mut stamps: Vec<(&'static str, u64)> = Vec::new();
    if let Some(page) = breadcrumbs {
        // The last breadcrumbs were written with the MMU off, past the caches. Discard lines that
        // speculation brought in before that, since they hold older data. [I6]
        cache::clean_and_invalidate(page);
        // SAFETY: `from_raw_parts` requires mapped memory without a writer. `MemoryLayout` checked
        // that this is a page of RAM and kept it out of the heap.
        let words = unsafe {
            core::slice::from_raw_parts(pointer(page.start).cast(), PAGE_SIZE as usize / 8)
        };
        for &(number, stamp) in reached(words, &mut Default::default()) {
            stamps.push((NAMES[number], stamp));
        }
    }
    let ours = [
        ("first instruction", record.entered),
        ("EL2 set up", record.el2_ready),
        ("MMU on", record.mmu_on),
        ("main", main),
    ];
    stamps.extend(ours.into_iter().filter(|&(_, stamp)| stamp != 0));
    let mut last = stamps.first().map_or(0, |&(_, stamp)| stamp);
    let since_last = |(name, stamp): (&'static str, u64)| {
        let before = core::mem::replace(&mut last, stamp);
        let ns = clock::nanoseconds(stamp.abs_diff(before)) as i64;
        (Text::Borrowed(name), if stamp < before { -ns } else { ns })
    };
    stamps.into_iter().map(since_last).collect()
}

/// A boot trace as one line: `Bye! +12 copied +3 main`.
pub struct Line<'a>(pub &'a [(Text, i64)]);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, (name, ns))| match index {
            0 => f.write_str(name),
            _ => write!(f, " {ns:+} {name}"),
        })
    }
}
