//! The walk through the kimage list in Rust, and its check against the segments.
//!
//! - *When:* before "Bye!".
//! - *Expects:* a list, sound or damaged.
//! - *Leaves:* nothing.
//! - *Refuses:* a list that is [`Damaged`] or [`ListMismatch`] to the segments.

use core::fmt;
use core::ops::Range;

use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};

use super::{Decoded, Entry};
use crate::segment::Segment;

/// One [`SOURCE`](super::SOURCE) entry, with the destination that it applies to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Move {
    /// Destination of the first page.
    pub destination: PhysAddr,
    /// Address of the first page now.
    pub source: PhysAddr,
    /// Number of pages, 1 to [`RUN_PAGES`](super::RUN_PAGES), contiguous in both places.
    pub pages: u64,
}

/// A fault in the list itself; `at` is the address of the word, or `None` for the head.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Damaged {
    /// The word is no valid entry.
    #[error("the list is damaged: {word:#x} {} is no entry: build it again", place(*at))]
    NotAnEntry { word: u64, at: Option<PhysAddr> },
    /// A source entry comes before any destination.
    #[error(
        "the list is damaged: the source {word:#x} {} has no destination: build it again",
        place(*at)
    )]
    NoDestination { word: u64, at: Option<PhysAddr> },
    /// The move would go past the end of the 64-bit space.
    #[error(
        "the list is damaged: the move {pages} goes past the end of the address space: build it \
         again"
    )]
    PastTheEnd { pages: Move },
    /// The head is neither a link nor [`DONE`](super::DONE).
    #[error(
        "the list is damaged: the head {head:#x} is neither a link nor the end: build it again"
    )]
    NoListPage { head: u64 },
    /// The list page has neither a link nor [`DONE`](super::DONE) in its last place.
    #[error(
        "the list is damaged: the list page {page} ends in neither a link nor the end: \
         build it again"
    )]
    NoLink { page: PhysAddr },
    /// The list returns to a page that it has left.
    #[error("the list is damaged: it comes back to the list page {page}: build it again")]
    Loop { page: PhysAddr },
}

/// Prints where a word of the list is.
fn place(at: Option<PhysAddr>) -> impl fmt::Display {
    fmt::from_fn(move |f| match at {
        Some(at) => write!(f, "at {at}"),
        None => f.write_str("in the head"),
    })
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destination, source, pages } = self;
        write!(
            f,
            "of {pages} {} from {source} to {destination}",
            if *pages == 1 { "page" } else { "pages" }
        )
    }
}

/// Walks the list from its head entry and visits every move in order, as the relocation code does.
///
/// `read` returns the word at an address. Outside the list pages it may return 0, which is no valid
/// entry. The walk always ends: R. P. Brent's algorithm, with a landmark moved at every power of
/// two, detects loops. It visits some moves again before it does, so a caller that acts on moves
/// must [`check`] the list first.
///
/// # Errors
///
/// Returns the first damage, after visiting the moves before it.
pub fn walk<R, V>(head: u64, mut read: R, mut visit: V) -> Result<(), Damaged>
where
    R: FnMut(PhysAddr) -> u64,
    V: FnMut(Move),
{
    let (mut word, mut at) = (head, None);
    let mut destination = None;
    let (mut links, mut landmark) = (0_u64, None);
    loop {
        let next = match Entry(word).decode().ok_or(Damaged::NotAnEntry { word, at })? {
            Decoded::Done => return Ok(()),
            Decoded::Indirection(page) => {
                if landmark == Some(page) {
                    return Err(Damaged::Loop { page });
                }
                links += 1;
                if links.is_power_of_two() {
                    landmark = Some(page);
                }
                page
            }
            Decoded::Destination(page) => {
                destination = Some(page);
                after(at, head)?
            }
            Decoded::Source(run) => {
                let to = destination.ok_or(Damaged::NoDestination { word, at })?;
                let bytes = run.bytes();
                let pages = Move { destination: to, source: run.start, pages: bytes / PAGE_SIZE };
                destination = Some(to.checked_add(bytes).ok_or(Damaged::PastTheEnd { pages })?);
                visit(pages);
                after(at, head)?
            }
        };
        (word, at) = (read(next), Some(next));
    }
}

/// Returns the address of the entry after the one at `at`.
///
/// # Errors
///
/// The head is followed by no entry, nor is the last place of a list page.
fn after(at: Option<PhysAddr>, head: u64) -> Result<PhysAddr, Damaged> {
    let at = at.ok_or(Damaged::NoListPage { head })?;
    let next = PhysAddr::new(at.get().wrapping_add(size_of::<u64>() as u64));
    if next.is_aligned(PAGE_SIZE) {
        Err(Damaged::NoLink { page: at.align_down(PAGE_SIZE) })
    } else {
        Ok(next)
    }
}

/// A difference between the list and the segments.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ListMismatch {
    /// The list is damaged.
    #[error(transparent)]
    Damaged(Damaged),
    /// The list and the segments differ. Both fields describe the first page that differs, as a
    /// move of one page.
    #[error(
        "the list has {} where the segments ask for {}: build it again",
        side(*found),
        side(*expected)
    )]
    Differs {
        /// The segments' next move; `None` if they have ended.
        expected: Option<Move>,
        /// The list's next move; `None` if it has ended.
        found: Option<Move>,
    },
}

/// Walks the list and compares it with the segments: the same pages in the same order, and no
/// other.
///
/// # Errors
///
/// Returns the first difference, or the damage.
pub fn check(
    segments: &[Segment<'_>],
    head: u64,
    read: impl FnMut(PhysAddr) -> u64,
) -> Result<(), ListMismatch> {
    let mut asked = segments.iter().flat_map(pages);
    let mut difference = None;
    walk(head, read, |moved| {
        for (destination, source) in
            addresses(moved.destination, moved.pages).zip(addresses(moved.source, moved.pages))
        {
            let (expected, found) = (asked.next(), Some(Move { destination, source, pages: 1 }));
            if expected != found {
                difference = difference.or(Some(ListMismatch::Differs { expected, found }));
            }
        }
    })
    .map_err(ListMismatch::Damaged)?;
    let missing =
        asked.next().map(|page| ListMismatch::Differs { expected: Some(page), found: None });
    difference.or(missing).map_or(Ok(()), Err)
}

/// Returns a segment's moves page by page. Unlike [`build`](super::build) it merges no runs, so
/// that [`check`] does not share its logic.
fn pages(segment: &Segment<'_>) -> impl Iterator<Item = Move> {
    let count = |range: &Range<PhysAddr>| range.bytes() / PAGE_SIZE;
    let destinations = addresses(segment.destination.start, count(&segment.destination));
    let sources = segment.source.iter().flat_map(move |run| addresses(run.start, count(run)));
    destinations.zip(sources).map(|(destination, source)| Move { destination, source, pages: 1 })
}

/// Returns the addresses of `pages` pages from `start` on.
fn addresses(start: PhysAddr, pages: u64) -> impl Iterator<Item = PhysAddr> {
    (0..pages).map(move |page| start + page * PAGE_SIZE)
}

/// Prints one of the two moves that differ.
fn side(page: Option<Move>) -> impl fmt::Display {
    fmt::from_fn(move |f| match page {
        Some(page) => write!(f, "a move {page}"),
        None => f.write_str("its end"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BASE, page, run, scattered, walked, word};
    use super::super::{DONE, ENTRIES_PER_PAGE, INDIRECTION, build};
    use super::*;

    #[test]
    fn a_head_of_any_kind() {
        let done = [DONE];
        // The head links to a page that begins with a link.
        let mut pages = [[0; ENTRIES_PER_PAGE]; 2];
        pages[0][0] = Entry::indirection(BASE + PAGE_SIZE).0;
        pages[1][..3].copy_from_slice(&[0x1_0001, 0x10_0008, 4]);
        let moved = Move { destination: page(0x10), source: page(0x100), pages: 1 };
        assert_eq!(walked(Entry::indirection(BASE).0, pages.as_flattened()), (vec![moved], Ok(())));
        // The head is neither a link nor `DONE`.
        let damaged = Damaged::NoListPage { head: 0x1_0001 };
        assert_eq!(walked(0x1_0001, &done), (vec![], Err(damaged)));
        assert_eq!(
            damaged.to_string(),
            "the list is damaged: the head 0x10001 is neither a link nor the end: build it again"
        );
        assert_eq!(
            walked(0x1_0008, &done),
            (vec![], Err(Damaged::NoDestination { word: 0x1_0008, at: None }))
        );
        assert_eq!(walked(0, &done), (vec![], Err(Damaged::NotAnEntry { word: 0, at: None })));
    }

    #[test]
    fn a_source_before_any_destination_is_damage() {
        let words = [0x10_0008, 0x1_0001, DONE];
        let damaged = Damaged::NoDestination { word: 0x10_0008, at: Some(BASE) };
        assert_eq!(walked(0x4000_0002, &words), (vec![], Err(damaged)));
        assert_eq!(
            damaged.to_string(),
            "the list is damaged: the source 0x100008 at 0x40000000 has no destination: build it \
             again"
        );
    }

    #[test]
    fn a_word_that_is_no_entry_is_damage() {
        let damaged = Damaged::NotAnEntry { word: 0x1003, at: Some(PhysAddr::new(0x4000_0008)) };
        assert_eq!(walked(0x4000_0002, &[0x1_0001, 0x1003]).1, Err(damaged));
        assert_eq!(
            damaged.to_string(),
            "the list is damaged: 0x1003 at 0x40000008 is no entry: build it again"
        );
        assert_eq!(
            Damaged::NotAnEntry { word: 0, at: None }.to_string(),
            "the list is damaged: 0x0 in the head is no entry: build it again"
        );
    }

    #[test]
    fn a_list_page_without_a_link_is_damage() {
        let mut words = [0x1_0001; 2 * ENTRIES_PER_PAGE];
        words[ENTRIES_PER_PAGE] = DONE;
        let damaged = Damaged::NoLink { page: BASE };
        assert_eq!(walked(0x4000_0002, &words).1, Err(damaged));
        assert_eq!(
            damaged.to_string(),
            "the list is damaged: the list page 0x40000000 ends in neither a link nor the end: \
             build it again"
        );
    }

    #[test]
    fn a_move_past_the_end_of_the_address_space_is_damage() {
        let destination = PhysAddr::new(0xffff_ffff_ffff_e000);
        let pages = Move { destination, source: page(0x100), pages: 2 };
        let words = [Entry::destination(destination).0, Entry::source(page(0x100), 2).0, DONE];
        let damaged = Damaged::PastTheEnd { pages };
        assert_eq!(walked(0x4000_0002, &words), (vec![], Err(damaged)));
        assert_eq!(
            damaged.to_string(),
            "the list is damaged: the move of 2 pages from 0x100000 to 0xffffffffffffe000 goes \
             past the end of the address space: build it again"
        );
    }

    #[test]
    fn a_list_that_loops_is_found_out() {
        // Page n links to page n + 1. The last page links back to some page, so that the walk
        // enters the loop at once or later.
        for length in 1..if cfg!(miri) { 6 } else { 20 } {
            for back in 0..length {
                let mut pages = vec![[0; ENTRIES_PER_PAGE]; length];
                for (n, words) in pages.iter_mut().enumerate() {
                    let next = if n + 1 < length { n + 1 } else { back };
                    words[..3].copy_from_slice(&[
                        0x1_0001,
                        0x10_0008,
                        (BASE.get() + next as u64 * 0x1000) | INDIRECTION,
                    ]);
                }
                let (moves, end) = walked(0x4000_0002, pages.as_flattened());
                let Err(damaged @ Damaged::Loop { page }) = end else { panic!("{end:?}") };
                assert_eq!(
                    damaged.to_string(),
                    format!(
                        "the list is damaged: it comes back to the list page {page}: build it again"
                    )
                );
                assert!(moves.len() <= 4 * length, "{} moves in {length} pages", moves.len());
            }
        }
    }

    #[test]
    fn a_list_that_says_something_else_is_unfaithful() {
        let source = [run(0x100, 2)];
        let segments = [Segment { name: "kernel", destination: run(0x10, 2), source: &source }];
        let judge = |words: &[u64]| {
            check(&segments, 0x4000_0002, |at| {
                words.get(((at.get() - BASE.get()) / 8) as usize).copied().unwrap_or(0)
            })
        };
        let moved = |destination, source| {
            Some(Move { destination: page(destination), source: page(source), pages: 1 })
        };
        assert_eq!(judge(&[0x1_0001, 0x10_0018, DONE]), Ok(()));
        assert_eq!(judge(&[0x1_0001, 0x10_0008, 0x10_1008, DONE]), Ok(()));
        let short = ListMismatch::Differs { expected: moved(0x11, 0x101), found: None };
        assert_eq!(judge(&[0x1_0001, 0x10_0008, DONE]), Err(short));
        assert_eq!(
            short.to_string(),
            "the list has its end where the segments ask for a move of 1 page from 0x101000 to \
             0x11000: build it again"
        );
        let long = ListMismatch::Differs { expected: None, found: moved(0x12, 0x102) };
        assert_eq!(judge(&[0x1_0001, 0x10_0028, DONE]), Err(long));
        let other =
            ListMismatch::Differs { expected: moved(0x11, 0x101), found: moved(0x11, 0x102) };
        assert_eq!(judge(&[0x1_0001, 0x10_0008, 0x10_2008, DONE]), Err(other));
        // Several differences: the first is reported.
        let first =
            ListMismatch::Differs { expected: moved(0x10, 0x100), found: moved(0x10, 0x200) };
        assert_eq!(judge(&[0x1_0001, 0x20_0028, DONE]), Err(first));
        let damaged = Damaged::NotAnEntry { word: 0, at: Some(PhysAddr::new(0x4000_0010)) };
        assert_eq!(judge(&[0x1_0001, 0x10_0018]), Err(ListMismatch::Damaged(damaged)));
        assert_eq!(ListMismatch::Damaged(damaged).to_string(), damaged.to_string());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let kernel = scattered(509);
        let (ramdisk, dtb) = ([run(0x4000, 300)], [run(0x7000, 1)]);
        let segments = [
            Segment { name: "kernel", destination: run(0x8000, 509), source: &kernel },
            Segment { name: "ramdisk", destination: run(0x9000, 300), source: &ramdisk },
            Segment { name: "dtb", destination: run(0x7000, 1), source: &dtb },
        ];
        let mut pages = [[0; ENTRIES_PER_PAGE]; 2];
        let head = build(&segments, &mut pages, BASE).expect("two pages are enough");
        assert_eq!(check(&segments, head, |at| word(&pages, at)), Ok(()));
        for bit in 0..64 {
            assert!(
                check(&segments, head ^ 1 << bit, |at| word(&pages, at)).is_err(),
                "bit {bit} of the head"
            );
        }
        let used =
            pages.as_flattened().iter().position(|&word| word == DONE).expect("a list ends") + 1;
        assert!(used > ENTRIES_PER_PAGE);
        // Under Miri, test only a few words around the link.
        let (indices, bits) = if cfg!(miri) { (510..513, 29) } else { (0..used, 1) };
        for index in indices {
            for bit in (0..64).step_by(bits) {
                pages.as_flattened_mut()[index] ^= 1 << bit;
                assert!(
                    check(&segments, head, |at| word(&pages, at)).is_err(),
                    "bit {bit} of word {index}"
                );
                pages.as_flattened_mut()[index] ^= 1 << bit;
            }
        }
    }
}
