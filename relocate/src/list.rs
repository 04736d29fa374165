//! The kimage list: which page to move where, in the format of Linux's kexec.
//!
//! - *When:* [`build`] runs while this kernel plans its successor, [`check`] and [`walk()`] before
//!   "Bye!". The relocation code walks the list after that.
//! - *Expects:* segments that have passed [`segment::check`](crate::segment::check).
//! - *Leaves:* list pages, which must be in no destination, and a head entry.
//! - *Refuses:* too few pages to build in; a list that is damaged or differs from the segments.
//!
//! An entry is 64 bits: the address of a page, and one flag in the low twelve bits.
//!
//! | flag | action |
//! |---|---|
//! | [`DESTINATION`] | set the destination to this address |
//! | [`INDIRECTION`] | continue with the first entry of the list page at this address |
//! | [`DONE`] | stop |
//! | [`SOURCE`] | move the page at this address to the destination, then advance that by a page |
//!
//! We extend Linux's format in one way: bits 11:4 of a [`SOURCE`] entry hold the number of
//! *further* contiguous pages. One entry thus moves 1 to [`RUN_PAGES`] pages; with zero there it is
//! Linux's.
//!
//! As in Linux, the list starts at a head entry outside the list pages. The head links to the first
//! list page, or is [`DONE`] if there is nothing to move. A list page holds 511 entries and, in its
//! last place, a link to the next page. If the entries fill the last page exactly, [`DONE`] takes
//! the place of that link.
//!
//! Pages already in place are listed too, because the relocation code cleans every listed
//! destination to the point of coherency.

mod walk;

use core::ops::Range;

use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};

use crate::segment::Segment;

pub use walk::{Damaged, ListMismatch, Move, check, walk};

/// Flag: the address is the destination of the next page.
pub const DESTINATION: u64 = 1 << 0;
/// Flag: the address is that of the next list page.
pub const INDIRECTION: u64 = 1 << 1;
/// Flag: the list ends here. The address is zero.
pub const DONE: u64 = 1 << 2;
/// Flag: the address is that of the first page to move.
pub const SOURCE: u64 = 1 << 3;
/// Mask of the address.
pub const ADDRESS: u64 = !(PAGE_SIZE - 1);
/// Position of the number of further pages in a [`SOURCE`] entry.
pub const RUN_SHIFT: u32 = 4;
/// Width of the number of further pages.
pub const RUN_BITS: u32 = 8;
/// The largest number of pages that one [`SOURCE`] entry can move.
pub const RUN_PAGES: u64 = 1 << RUN_BITS;
/// The number of 64-bit words in a list page: entries, and a link in the last place.
pub const ENTRIES_PER_PAGE: usize = PAGE_SIZE as usize / size_of::<u64>();

/// Index of the link in a list page.
const LINK: usize = ENTRIES_PER_PAGE - 1;
const FLAGS: u64 = DESTINATION | INDIRECTION | DONE | SOURCE;

/// One word of the list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(transparent)]
#[doc(alias = "kimage")]
#[doc(alias = "kimage_entry_t")]
pub struct Entry(pub u64);

/// A decoded entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decoded {
    /// Move the next page to this address.
    Destination(PhysAddr),
    /// Continue with the list page at this address.
    Indirection(PhysAddr),
    /// Stop.
    Done,
    /// Move these pages.
    Source(Range<PhysAddr>),
}

impl Entry {
    /// The end of the list.
    pub const DONE: Self = Self(DONE);

    /// Returns the entry that sets the destination to `page`.
    #[must_use]
    pub const fn destination(page: PhysAddr) -> Self {
        Self(page_address(page) | DESTINATION)
    }

    /// Returns the link to the list page at `page`.
    #[must_use]
    pub const fn indirection(page: PhysAddr) -> Self {
        Self(page_address(page) | INDIRECTION)
    }

    /// Returns the entry that moves `pages` pages, 1 to [`RUN_PAGES`], from `start` on.
    ///
    /// # Panics
    ///
    /// Panics if `pages` is out of that range.
    #[must_use]
    pub const fn source(start: PhysAddr, pages: u64) -> Self {
        assert!(0 < pages && pages <= RUN_PAGES, "an entry moves 1 to RUN_PAGES pages");
        Self(page_address(start) | (pages - 1) << RUN_SHIFT | SOURCE)
    }

    /// Decodes the entry, or returns `None` if it is invalid.
    ///
    /// These are invalid, though Linux, which tests single bits, does not notice:
    ///
    /// - no flag, or more than one;
    /// - a number of further pages without [`SOURCE`];
    /// - an address with [`DONE`];
    /// - a run past the end of the 64-bit space.
    #[must_use]
    pub const fn decode(self) -> Option<Decoded> {
        let page = PhysAddr::new(self.0).align_down(PAGE_SIZE);
        let run = (self.0 & (PAGE_SIZE - 1)) >> RUN_SHIFT;
        Some(match (self.0 & FLAGS, run) {
            (SOURCE, further) => match page.range((further + 1) * PAGE_SIZE) {
                Some(run) => Decoded::Source(run),
                None => return None,
            },
            (DESTINATION, 0) => Decoded::Destination(page),
            (INDIRECTION, 0) => Decoded::Indirection(page),
            (DONE, 0) if page.get() == 0 => Decoded::Done,
            _ => return None,
        })
    }
}

/// Returns the address of `page`, checked to leave the flag bits zero.
const fn page_address(page: PhysAddr) -> u64 {
    assert!(page.is_aligned(PAGE_SIZE), "an entry's address must be page-aligned");
    page.get()
}

/// The list needs more pages than the caller provides.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the list needs {needed} pages and was given {given}: load into longer runs of frames or \
     reserve more"
)]
pub struct TooFewPages {
    /// The number of pages needed.
    pub needed: usize,
    /// The number of pages provided.
    pub given: usize,
}

/// Returns exactly how many list pages [`build`] needs for these segments.
///
/// # Panics
///
/// Panics if a destination or a source run does not begin at a page boundary.
#[must_use]
pub fn pages_needed(segments: &[Segment<'_>]) -> usize {
    let mut count = 0_usize;
    each_entry(segments, |_| count += 1);
    count.div_ceil(LINK)
}

/// Builds the list in `pages`, which are at address `base`, and returns its head entry.
///
/// The list moves pages in the order of the segments. Adjacent source runs of a segment are merged,
/// up to [`RUN_PAGES`] per entry. Exactly [`pages_needed`] pages are written, each one completely;
/// words after [`DONE`] are 0, which is no valid entry.
///
/// # Errors
///
/// Returns [`TooFewPages`] if `pages` are too few; none is written then.
///
/// # Panics
///
/// Panics if `base`, a destination or a source run is not page-aligned.
/// [`segment::check`](crate::segment::check) refuses such segments.
#[doc(alias = "kimage")]
pub fn build(
    segments: &[Segment<'_>],
    pages: &mut [[u64; ENTRIES_PER_PAGE]],
    base: PhysAddr,
) -> Result<u64, TooFewPages> {
    let needed = pages_needed(segments);
    let given = pages.len();
    let pages = pages.get_mut(..needed).ok_or(TooFewPages { needed, given })?;
    for (page, next) in pages.iter_mut().zip(1..) {
        page.fill(0);
        if next < needed {
            page[LINK] = Entry::indirection(base + next as u64 * PAGE_SIZE).0;
        }
    }
    let mut index = 0;
    each_entry(segments, |entry| {
        pages[index / LINK][index % LINK] = entry.0;
        index += 1;
    });
    let Some(last) = pages.last_mut() else { return Ok(DONE) };
    // `DONE` follows the last entry, in the link's place if the last page is full.
    last[(index - 1) % LINK + 1] = DONE;
    Ok(Entry::indirection(base).0)
}

/// Emits the entries for `segments`, without links and `DONE`.
fn each_entry(segments: &[Segment<'_>], mut emit: impl FnMut(Entry)) {
    for segment in segments {
        emit(Entry::destination(segment.destination.start));
        let mut runs = segment.source.iter().filter(|run| !run.is_empty()).cloned().peekable();
        while let Some(mut run) = runs.next() {
            while let Some(next) = runs.next_if(|next| next.start == run.end) {
                run.end = next.end;
            }
            while !run.is_empty() {
                let pages = (run.bytes() / PAGE_SIZE).min(RUN_PAGES);
                emit(Entry::source(run.start, pages));
                run.start = run.start + pages * PAGE_SIZE;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const BASE: PhysAddr = PhysAddr::new(0x4000_0000);

    /// Returns the address of page number `n`.
    pub(super) fn page(n: u64) -> PhysAddr {
        PhysAddr::new(n * PAGE_SIZE)
    }

    /// Returns the range of `pages` pages from page number `first` on.
    pub(super) fn run(first: u64, pages: u64) -> Range<PhysAddr> {
        page(first)..page(first + pages)
    }

    /// Returns the word at address `at` of a list at [`BASE`], or 0 outside the list.
    pub(super) fn word(pages: &[[u64; ENTRIES_PER_PAGE]], at: PhysAddr) -> u64 {
        let index = (at.get().wrapping_sub(BASE.get()) / 8) as usize;
        pages.as_flattened().get(index).copied().unwrap_or(0)
    }

    /// Walks the list `words` at [`BASE`]; returns the moves and the result.
    pub(super) fn walked(head: u64, words: &[u64]) -> (Vec<Move>, Result<(), Damaged>) {
        let mut moves = Vec::new();
        let mut reads = 0;
        let read = |at: PhysAddr| {
            reads += 1;
            assert!(reads < 10_000, "the walk does not end");
            words.get((at.get().wrapping_sub(BASE.get()) / 8) as usize).copied().unwrap_or(0)
        };
        let end = walk(head, read, |pages| moves.push(pages));
        (moves, end)
    }

    /// Source runs of one page each, none adjacent to another: each needs its own entry.
    pub(super) fn scattered(pages: u64) -> Vec<Range<PhysAddr>> {
        (0..pages).map(|n| run(0x1000 + 2 * n, 1)).collect()
    }

    #[test]
    fn entries_are_linuxs_words() {
        assert_eq!(Entry::destination(PhysAddr::new(0x4020_0000)).0, 0x4020_0001);
        assert_eq!(Entry::indirection(PhysAddr::new(0x4020_1000)).0, 0x4020_1002);
        assert_eq!(Entry::DONE.0, 4);
        assert_eq!(Entry::source(PhysAddr::new(0x4020_2000), 1).0, 0x4020_2008);
        assert_eq!(Entry::source(PhysAddr::new(0x4020_2000), 2).0, 0x4020_2018);
        assert_eq!(Entry::source(PhysAddr::new(0x4020_2000), 256).0, 0x4020_2ff8);
        assert_eq!((ENTRIES_PER_PAGE, ADDRESS), (512, 0xffff_ffff_ffff_f000));
    }

    #[test]
    fn entries_say_what_they_were_made_of() {
        let top = PhysAddr::new(0xffff_ffff_ffff_e000);
        for page in
            [PhysAddr::new(0), PhysAddr::new(0x1000), PhysAddr::new(0x000f_ffff_ffff_f000), top]
        {
            assert_eq!(Entry::destination(page).decode(), Some(Decoded::Destination(page)));
            assert_eq!(Entry::indirection(page).decode(), Some(Decoded::Indirection(page)));
            assert_eq!(Entry::source(page, 1).decode(), Some(Decoded::Source(page..page + 0x1000)));
        }
        assert_eq!(Entry::DONE.decode(), Some(Decoded::Done));
        for pages in 1..=RUN_PAGES {
            assert_eq!(
                Entry::source(page(7), pages).decode(),
                Some(Decoded::Source(run(7, pages)))
            );
        }
    }

    #[test]
    fn what_is_no_entry_is_not_decoded() {
        // No flag or several; further pages or an address where neither is allowed; a run past the
        // end of the address space.
        for word in [
            0,
            0x1000,
            3,
            9,
            0x100c,
            6,
            0xf,
            0x11,
            0x22,
            0x44,
            0x1004,
            0xffff_ffff_ffff_e018,
            u64::MAX,
        ] {
            assert_eq!(Entry(word).decode(), None, "{word:#x}");
        }
    }

    #[test]
    #[should_panic(expected = "1 to RUN_PAGES pages")]
    fn a_run_of_257_pages_is_no_entry() {
        let _ = Entry::source(PhysAddr::new(0), 257);
    }

    #[test]
    #[should_panic(expected = "1 to RUN_PAGES pages")]
    fn a_run_of_no_pages_is_no_entry() {
        let _ = Entry::source(PhysAddr::new(0), 0);
    }

    #[test]
    #[should_panic(expected = "must be page-aligned")]
    fn a_misaligned_address_is_no_entry() {
        let _ = Entry::destination(PhysAddr::new(0x1008));
    }

    #[test]
    fn nothing_to_move_is_done_only() {
        assert_eq!(pages_needed(&[]), 0);
        assert_eq!(build(&[], &mut [], BASE), Ok(DONE));
        assert_eq!(walked(DONE, &[]), (vec![], Ok(())));
        assert_eq!(check(&[], DONE, |_| 0), Ok(()));
    }

    #[test]
    fn a_list_as_it_is_in_memory() {
        let kernel = [run(0x100, 2), run(0x102, 1), run(0x200, 1)];
        let dtb = [run(0x300, 1)];
        let segments = [
            Segment { name: "kernel", destination: run(0x10, 4), source: &kernel },
            Segment { name: "dtb", destination: run(0x300, 1), source: &dtb },
        ];
        let mut pages = [[u64::MAX; ENTRIES_PER_PAGE]; 2];
        assert_eq!(pages_needed(&segments), 1);
        assert_eq!(build(&segments, &mut pages, BASE), Ok(0x4000_0002));
        // The first two runs are merged; the dtb is in place but is listed all the same.
        assert_eq!(pages[0][..6], [0x1_0001, 0x10_0028, 0x20_0008, 0x30_0001, 0x30_0008, 4]);
        assert!(pages[0][6..].iter().all(|&word| word == 0));
        assert!(pages[1].iter().all(|&word| word == u64::MAX), "written beyond what was needed");
        assert_eq!(check(&segments, 0x4000_0002, |at| word(&pages, at)), Ok(()));
        let (moves, end) = walked(0x4000_0002, pages.as_flattened());
        let moved = |destination, source, pages| Move {
            destination: page(destination),
            source: page(source),
            pages,
        };
        assert_eq!(
            (moves, end),
            (vec![moved(0x10, 0x100, 3), moved(0x13, 0x200, 1), moved(0x300, 0x300, 1)], Ok(()))
        );
    }

    #[test]
    fn runs_are_cut_at_256_pages() {
        let cases = [(1, 1), (255, 1), (256, 1), (257, 2), (511, 2), (512, 2), (513, 3), (1024, 4)];
        for (pages, entries) in if cfg!(miri) { &cases[2..4] } else { &cases[..] }.iter().copied() {
            // One run and single pages must give the same list.
            let one = [run(0x1000, pages)];
            let many: Vec<Range<PhysAddr>> = (0..pages).map(|n| run(0x1000 + n, 1)).collect();
            let lists = [&one[..], &many[..]].map(|source| {
                let segments =
                    [Segment { name: "kernel", destination: run(0x8000, pages), source }];
                let mut list = [[0; ENTRIES_PER_PAGE]];
                let head = build(&segments, &mut list, BASE).expect("one page is enough");
                assert_eq!(check(&segments, head, |at| word(&list, at)), Ok(()));
                list
            });
            assert_eq!(lists[0], lists[1]);
            let sources: Vec<u64> =
                lists[0][0].into_iter().filter(|word| word & SOURCE != 0).collect();
            assert_eq!(sources.len(), entries, "{pages} pages");
            assert_eq!(sources[0], 0x100_0008 | (pages.min(256) - 1) << 4);
        }
    }

    #[test]
    fn runs_without_a_page_say_nothing() {
        let source = [
            run(0x300, 0),
            run(0x100, 1),
            run(0x200, 0),
            page(0x104)..page(0x101),
            run(0x101, 1),
            run(0x102, 0),
        ];
        let segments = [Segment { name: "kernel", destination: run(0x10, 2), source: &source }];
        let mut pages = [[0; ENTRIES_PER_PAGE]];
        let head = build(&segments, &mut pages, BASE).expect("one page is enough");
        assert_eq!(pages[0][..3], [0x1_0001, 0x10_0018, 4]);
        assert_eq!(check(&segments, head, |at| word(&pages, at)), Ok(()));
    }

    #[test]
    fn runs_of_two_segments_are_not_joined() {
        let (first, second) = ([run(0x100, 1)], [run(0x101, 1)]);
        let segments = [
            Segment { name: "kernel", destination: run(0x10, 1), source: &first },
            Segment { name: "dtb", destination: run(0x20, 1), source: &second },
        ];
        let mut pages = [[0; ENTRIES_PER_PAGE]];
        build(&segments, &mut pages, BASE).expect("one page is enough");
        assert_eq!(pages[0][..5], [0x1_0001, 0x10_0008, 0x2_0001, 0x10_1008, 4]);
    }

    #[test]
    fn lists_that_end_at_a_list_pages_boundary() {
        // Entries including DESTINATION, without links and DONE; pages needed; index of DONE.
        let cases = [
            (2, 1, 2),
            (509, 1, 509),
            (510, 1, 510),
            (511, 1, 511),
            (512, 2, 512 + 1),
            (513, 2, 512 + 2),
            (1021, 2, 512 + 510),
            (1022, 2, 512 + 511),
            (1023, 3, 1024 + 1),
            (1024, 3, 1024 + 2),
            (1533, 3, 1024 + 511),
            (1534, 4, 1536 + 1),
        ];
        for (entries, needed, done) in
            if cfg!(miri) { &cases[3..5] } else { &cases[..] }.iter().copied()
        {
            let source = scattered(entries - 1);
            let segments = [Segment {
                name: "kernel",
                destination: run(0x8000, entries - 1),
                source: &source,
            }];
            assert_eq!(pages_needed(&segments), needed, "{entries} entries");
            let mut pages = vec![[u64::MAX; ENTRIES_PER_PAGE]; needed + 1];

            let few = build(&segments, &mut pages[..needed - 1], BASE);
            let too_few = TooFewPages { needed, given: needed - 1 };
            assert_eq!(few, Err(too_few));
            assert_eq!(
                too_few.to_string(),
                format!(
                    "the list needs {needed} pages and was given {}: load into longer runs of \
                     frames or reserve more",
                    needed - 1
                )
            );
            assert!(
                pages.as_flattened().iter().all(|&word| word == u64::MAX),
                "written though it did not fit"
            );

            let head = build(&segments, &mut pages, BASE).expect("it was given what it needs");
            assert!(
                pages[needed].iter().all(|&word| word == u64::MAX),
                "written beyond what was needed"
            );
            let words = &pages.as_flattened()[..needed * ENTRIES_PER_PAGE];
            assert_eq!(
                words.iter().position(|&word| word == DONE),
                Some(done),
                "{entries} entries"
            );
            for link in 1..needed {
                assert_eq!(
                    words[link * 512 - 1],
                    (BASE.get() + link as u64 * 0x1000) | INDIRECTION
                );
            }
            assert!(words[done + 1..].iter().all(|&word| word == 0));
            let (moves, end) = walked(head, words);
            assert_eq!(end, Ok(()));
            let destinations = moves.iter().map(|moved| moved.destination);
            assert!(
                destinations.eq((0..entries - 1).map(|n| page(0x8000 + n))),
                "{entries} entries"
            );
            assert!(moves.iter().map(|moved| moved.source).eq(source.iter().map(|run| run.start)));
            assert_eq!(check(&segments, head, |at| word(&pages, at)), Ok(()));
        }
    }
}
