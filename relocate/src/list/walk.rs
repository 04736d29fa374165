//! The list walked: what the relocation code does with it, in Rust, and whether it says what the segments say.
//!
//! *When:* before "Bye!". *On entry:* a list, sound or not. *Leaves behind:* nothing. *Refuses:* a list that is [`Damaged`], and
//! one that is [`Unfaithful`] to the segments.

use core::fmt;
use core::ops::Range;

use boot::phys::{PAGE_SIZE, PhysAddr};

use super::{Decoded, Entry};
use crate::segment::Segment;

/// What one [`SOURCE`](super::SOURCE) entry asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Move {
    /// Where the first page goes.
    pub destination: PhysAddr,
    /// Where the first page is.
    pub source: PhysAddr,
    /// How many there are, 1 to [`RUN_PAGES`](super::RUN_PAGES), contiguous in both.
    pub pages: u64,
}

/// What is wrong with a list; `at` is where the word stands, `None` for the head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Damaged {
    /// A word that is no entry.
    NotAnEntry { word: u64, at: Option<PhysAddr> },
    /// A source entry before any destination.
    NoDestination { word: u64, at: Option<PhysAddr> },
    /// A move that would go past the end of the 64-bit space.
    PastTheEnd { pages: Move },
    /// A head that is neither a link nor the end: nothing says where the list goes on.
    NoListPage { head: u64 },
    /// A list page with neither a link nor the end in its last place.
    NoLink { page: PhysAddr },
    /// A list that comes back to a page it has left.
    Loop { page: PhysAddr },
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |at: Option<PhysAddr>| {
            fmt::from_fn(move |f| match at {
                Some(at) => write!(f, "at {at}"),
                None => f.write_str("in the head"),
            })
        };
        f.write_str("the list is damaged: ")?;
        match *self {
            Self::NotAnEntry { word, at } => write!(f, "{word:#x} {} is no entry", place(at)),
            Self::NoDestination { word, at } => {
                write!(f, "the source {word:#x} {} has no destination", place(at))
            }
            Self::PastTheEnd { pages } => {
                write!(f, "the move {pages} goes past the end of the address space")
            }
            Self::NoListPage { head } => {
                write!(f, "the head {head:#x} is neither a link nor the end")
            }
            Self::NoLink { page } => {
                write!(f, "the list page {page} ends in neither a link nor the end")
            }
            Self::Loop { page } => write!(f, "it comes back to the list page {page}"),
        }?;
        f.write_str(": build it again")
    }
}

impl core::error::Error for Damaged {}

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

/// Walks the list from its head entry on and shows every move in order: what the relocation code does, in Rust.
///
/// `read` answers with the word at an address; where no list page lies it may answer with 0, which is no entry. Always comes
/// to an end, since a list that loops is found out (by R. P. Brent's landmark, moved at every power of two), though only
/// after moves have been shown again: who would act on them [`check`]s first.
///
/// # Errors
///
/// The first damage, once the moves before it have been shown.
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
                let bytes = run.end.0 - run.start.0;
                let pages = Move { destination: to, source: run.start, pages: bytes / PAGE_SIZE };
                destination = Some(to.checked_add(bytes).ok_or(Damaged::PastTheEnd { pages })?);
                visit(pages);
                after(at, head)?
            }
        };
        (word, at) = (read(next), Some(next));
    }
}

/// Where the entry after the one `at` this address stands. The head has none after it, nor has a list page's last place.
fn after(at: Option<PhysAddr>, head: u64) -> Result<PhysAddr, Damaged> {
    let at = at.ok_or(Damaged::NoListPage { head })?;
    let next = PhysAddr(at.0.wrapping_add(size_of::<u64>() as u64));
    if next.is_aligned(PAGE_SIZE) {
        Err(Damaged::NoLink { page: at.align_down(PAGE_SIZE) })
    } else {
        Ok(next)
    }
}

/// How a list fails to say what the segments say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unfaithful {
    /// It is damaged.
    Damaged(Damaged),
    /// The first page in which they differ, as a move of one page; `None` where one of them has come to its end.
    Differs {
        /// What the segments ask for.
        expected: Option<Move>,
        /// What the list says.
        found: Option<Move>,
    },
}

impl fmt::Display for Unfaithful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |page: Option<Move>| {
            fmt::from_fn(move |f| match page {
                Some(page) => write!(f, "a move {page}"),
                None => f.write_str("its end"),
            })
        };
        match *self {
            Self::Damaged(damaged) => damaged.fmt(f),
            Self::Differs { expected, found } => {
                write!(
                    f,
                    "the list has {} where the segments ask for {}: build it again",
                    side(found),
                    side(expected)
                )
            }
        }
    }
}

impl core::error::Error for Unfaithful {}

/// Walks the list and holds it against the segments: every page of theirs, in their order, and no other.
///
/// # Errors
///
/// The first difference, or the damage.
pub fn check(
    segments: &[Segment<'_>],
    head: u64,
    read: impl FnMut(PhysAddr) -> u64,
) -> Result<(), Unfaithful> {
    let mut asked = segments.iter().flat_map(pages);
    let mut difference = None;
    walk(head, read, |moved| {
        for (destination, source) in
            addresses(moved.destination, moved.pages).zip(addresses(moved.source, moved.pages))
        {
            let (expected, found) = (asked.next(), Some(Move { destination, source, pages: 1 }));
            if expected != found {
                difference = difference.or(Some(Unfaithful::Differs { expected, found }));
            }
        }
    })
    .map_err(Unfaithful::Damaged)?;
    let missing =
        asked.next().map(|page| Unfaithful::Differs { expected: Some(page), found: None });
    difference.or(missing).map_or(Ok(()), Err)
}

/// A segment's pages, one by one: no runs are made, so that [`check`] does not lean on what [`build`](super::build) leans on.
fn pages(segment: &Segment<'_>) -> impl Iterator<Item = Move> {
    let count = |range: &Range<PhysAddr>| range.end.0.saturating_sub(range.start.0) / PAGE_SIZE;
    let destinations = addresses(segment.destination.start, count(&segment.destination));
    let sources = segment.source.iter().flat_map(move |run| addresses(run.start, count(run)));
    destinations.zip(sources).map(|(destination, source)| Move { destination, source, pages: 1 })
}

/// The addresses of `pages` pages from `start` on.
fn addresses(start: PhysAddr, pages: u64) -> impl Iterator<Item = PhysAddr> {
    (0..pages).map(move |page| PhysAddr(start.0 + page * PAGE_SIZE))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BASE, page, run, scattered, walked, word};
    use super::super::{DONE, ENTRIES_PER_PAGE, INDIRECTION, build};
    use super::*;

    #[test]
    fn a_head_of_any_kind() {
        let done = [DONE];
        // A link to a page which begins with a link.
        let mut pages = [[0; ENTRIES_PER_PAGE]; 2];
        pages[0][0] = Entry::indirection(PhysAddr(BASE.0 + PAGE_SIZE)).0;
        pages[1][..3].copy_from_slice(&[0x1_0001, 0x10_0008, 4]);
        let moved = Move { destination: page(0x10), source: page(0x100), pages: 1 };
        assert_eq!(walked(Entry::indirection(BASE).0, pages.as_flattened()), (vec![moved], Ok(())));
        // Nothing says where the list goes on.
        assert_eq!(walked(0x1_0001, &done), (vec![], Err(Damaged::NoListPage { head: 0x1_0001 })));
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
            "the list is damaged: the source 0x100008 at 0x40000000 has no destination: build it again"
        );
    }

    #[test]
    fn a_word_that_is_no_entry_is_damage() {
        let damaged = Damaged::NotAnEntry { word: 0x1003, at: Some(PhysAddr(0x4000_0008)) };
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
        assert_eq!(walked(0x4000_0002, &words).1, Err(Damaged::NoLink { page: BASE }));
    }

    #[test]
    fn a_move_past_the_end_of_the_address_space_is_damage() {
        let destination = PhysAddr(0xffff_ffff_ffff_e000);
        let pages = Move { destination, source: page(0x100), pages: 2 };
        let words = [Entry::destination(destination).0, Entry::source(page(0x100), 2).0, DONE];
        assert_eq!(walked(0x4000_0002, &words), (vec![], Err(Damaged::PastTheEnd { pages })));
    }

    #[test]
    fn a_list_that_loops_is_found_out() {
        // Page n links to page n + 1; the last one back to any of them, the loop entered at once or later.
        for length in 1..if cfg!(miri) { 6 } else { 20 } {
            for back in 0..length {
                let mut pages = vec![[0; ENTRIES_PER_PAGE]; length];
                for (n, words) in pages.iter_mut().enumerate() {
                    let next = if n + 1 < length { n + 1 } else { back };
                    words[..3].copy_from_slice(&[
                        0x1_0001,
                        0x10_0008,
                        (BASE.0 + next as u64 * 0x1000) | INDIRECTION,
                    ]);
                }
                let (moves, end) = walked(0x4000_0002, pages.as_flattened());
                assert!(matches!(end, Err(Damaged::Loop { .. })), "{end:?}");
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
                words.get(((at.0 - BASE.0) / 8) as usize).copied().unwrap_or(0)
            })
        };
        let moved = |destination, source| {
            Some(Move { destination: page(destination), source: page(source), pages: 1 })
        };
        assert_eq!(judge(&[0x1_0001, 0x10_0018, DONE]), Ok(()));
        assert_eq!(judge(&[0x1_0001, 0x10_0008, 0x10_1008, DONE]), Ok(()));
        let short = Unfaithful::Differs { expected: moved(0x11, 0x101), found: None };
        assert_eq!(judge(&[0x1_0001, 0x10_0008, DONE]), Err(short));
        assert_eq!(
            short.to_string(),
            "the list has its end where the segments ask for a move of 1 page from 0x101000 to 0x11000: build it again"
        );
        let long = Unfaithful::Differs { expected: None, found: moved(0x12, 0x102) };
        assert_eq!(judge(&[0x1_0001, 0x10_0028, DONE]), Err(long));
        let other = Unfaithful::Differs { expected: moved(0x11, 0x101), found: moved(0x11, 0x102) };
        assert_eq!(judge(&[0x1_0001, 0x10_0008, 0x10_2008, DONE]), Err(other));
        // Of several differences the first.
        let first = Unfaithful::Differs { expected: moved(0x10, 0x100), found: moved(0x10, 0x200) };
        assert_eq!(judge(&[0x1_0001, 0x20_0028, DONE]), Err(first));
        let damaged = Damaged::NotAnEntry { word: 0, at: Some(PhysAddr(0x4000_0010)) };
        assert_eq!(judge(&[0x1_0001, 0x10_0018]), Err(Unfaithful::Damaged(damaged)));
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
        // Under miri, a few about the link.
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
