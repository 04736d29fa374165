//! An oracle test: the walked list against a plain copy of a snapshot.
//!
//! In the model, one number represents one page of memory; the list is kept outside that memory.
//! Every case comes from a stream of choices: from SplitMix64 for the million cases, from proptest
//! for those that must shrink.

use std::ops::Range;

use boot::phys::{PAGE_SIZE, PhysAddr};
use proptest::collection::vec;
use proptest::prelude::*;
use relocate::list::{self, ENTRIES_PER_PAGE, Move};
use relocate::random::SplitMix64;
use relocate::segment::{self, Error, MAX_SEGMENTS, Memory, Segment};

/// Start of the model's memory.
const RAM: u64 = 0x4000_0000;
/// Start of the model's control pages, which hold the list.
const CONTROL: u64 = 0x8000_0000;
/// End of RAM: more than twice the largest model, so that no segment exceeds half of RAM.
const END: u64 = 0x9000_0000;

/// Pages in the largest model.
const LARGE: u64 = if cfg!(miri) { 600 } else { 4096 };
const _: () = assert!(RAM + LARGE * PAGE_SIZE <= CONTROL && 2 * LARGE * PAGE_SIZE <= END - RAM);

/// Seed of the first of the million cases; each case adds its number.
const SEED: u64 = 0x0b0e_5000_0000;

/// A source of choices: returns a number below `n`, which is not 0.
type Choose<'a> = &'a mut dyn FnMut(u64) -> u64;

/// One segment of the model, in page numbers.
#[derive(Debug, Default)]
struct Part {
    destination: Range<u64>,
    source: Vec<Range<u64>>,
}

/// The segments of a case, in a memory of `pages` pages.
#[derive(Debug)]
struct Case {
    pages: u64,
    parts: Vec<Part>,
}

fn physical(pages: &Range<u64>) -> Range<PhysAddr> {
    PhysAddr::new(RAM + pages.start * PAGE_SIZE)..PhysAddr::new(RAM + pages.end * PAGE_SIZE)
}

fn number(page: PhysAddr) -> usize {
    ((page.get() - RAM) / PAGE_SIZE) as usize
}

impl Case {
    /// Chooses segments that do not overlap, in any order.
    ///
    /// Their sources are in place or in no destination; with `anywhere` they may be any pages.
    fn choose(pages: u64, anywhere: bool, choose: Choose<'_>) -> Self {
        let most = if choose(8) == 0 { MAX_SEGMENTS as u64 } else { 4 };
        let count = choose(most + 1);
        let longest = [1, 3, pages / 4, pages][choose(4) as usize];
        let mut parts = Vec::new();
        let mut at = choose(pages / 4);
        for _ in 0..count {
            let end = at + 1 + choose(longest);
            if end > pages {
                break;
            }
            parts.push(Part { destination: at..end, source: Vec::new() });
            at = end + choose(2) * choose(pages / 8);
        }
        for last in (1..parts.len()).rev() {
            parts.swap(last, choose(last as u64 + 1) as usize);
        }
        let mut case = Self { pages, parts };
        let taken = case.taken();
        let open: Vec<u64> = (0..pages).filter(|&page| anywhere || !taken[page as usize]).collect();
        let longest_run = [1, 2, 8, pages][choose(4) as usize];
        let often_in_place = 1 + choose(5);
        for part in &mut case.parts {
            let mut at = part.destination.start;
            while at < part.destination.end {
                let most = 1 + choose(longest_run.min(part.destination.end - at));
                let run = if open.is_empty() || choose(often_in_place) == 0 {
                    at..at + most
                } else {
                    let first = choose(open.len() as u64) as usize;
                    let contiguous = open[first..].iter().zip(open[first]..).take(most as usize);
                    let length =
                        contiguous.take_while(|&(&page, expected)| page == expected).count();
                    open[first]..open[first] + length as u64
                };
                at += run.end - run.start;
                if choose(3) == 0 {
                    part.source.extend(run.map(|page| page..page + 1));
                } else {
                    part.source.push(run);
                }
            }
        }
        case
    }

    /// Returns for each page whether it is in a destination.
    fn taken(&self) -> Vec<bool> {
        let mut taken = vec![false; self.pages as usize];
        for part in &self.parts {
            taken[part.destination.start as usize..part.destination.end as usize].fill(true);
        }
        taken
    }

    /// Returns the destination and source of every page, in order.
    fn moves(&self) -> impl Iterator<Item = (usize, usize)> {
        self.parts.iter().flat_map(|part| {
            let sources = part.source.iter().cloned().flatten();
            part.destination.clone().zip(sources).map(|(to, from)| (to as usize, from as usize))
        })
    }

    /// Returns whether the case keeps invariant I7, by its definition.
    fn is_safe(&self) -> bool {
        let taken = self.taken();
        self.moves().all(|(to, from)| to == from || !taken[from])
    }

    /// Counts the list's entries page by page, without links and `DONE`.
    fn entries(&self) -> usize {
        let mut entries = 0;
        for part in &self.parts {
            entries += 1;
            let (mut length, mut expected) = (0, u64::MAX);
            for page in part.source.iter().cloned().flatten() {
                length = if page == expected && length < 256 { length + 1 } else { 1 };
                entries += usize::from(length == 1);
                expected = page + 1;
            }
        }
        entries
    }

    /// Returns the memory that results from copying out of a snapshot.
    fn expected(&self, before: &[u64]) -> Vec<u64> {
        let mut after = before.to_vec();
        for (to, from) in self.moves() {
            after[to] = before[from];
        }
        after
    }
}

/// Counts of what the cases covered; the tests require a minimum, or they would prove nothing.
#[derive(Debug, Default)]
struct Seen {
    done_only: usize,
    sixteen_segments: usize,
    in_place: usize,
    moved: usize,
    long_runs: usize,
    several_list_pages: usize,
    full_list_pages: usize,
}

/// The model: memory, and pages for the list.
struct Model {
    before: Vec<u64>,
    list: Vec<[u64; ENTRIES_PER_PAGE]>,
    runs: Vec<Vec<Range<PhysAddr>>>,
    moves: Vec<Move>,
}

impl Model {
    fn new(pages: u64) -> Self {
        // The longest list has an entry for each page and for each segment.
        let list = (pages as usize + MAX_SEGMENTS).div_ceil(ENTRIES_PER_PAGE - 1);
        Self {
            before: (0..pages).map(|page| 0xace0_0000 + page).collect(),
            list: vec![[0; ENTRIES_PER_PAGE]; list],
            runs: Vec::new(),
            moves: Vec::new(),
        }
    }

    /// Checks the segments, builds the list and walks it in place.
    ///
    /// Returns the result of [`segment::check`], and the memory after the walk.
    fn relocate(&mut self, case: &Case) -> (Result<(), Error<'static>>, Vec<u64>) {
        self.runs.clear();
        self.runs.extend(
            case.parts.iter().map(|part| part.source.iter().map(physical).collect::<Vec<_>>()),
        );
        let segments: Vec<Segment<'_>> = (case.parts.iter().zip(&self.runs))
            .map(|(part, source)| Segment {
                name: "part",
                destination: physical(&part.destination),
                source,
            })
            .collect();
        let control =
            PhysAddr::new(CONTROL)..PhysAddr::new(CONTROL + self.list.len() as u64 * PAGE_SIZE);
        let ram = [PhysAddr::new(RAM)..PhysAddr::new(END)];
        let memory = Memory { ram: &ram, reserved: &[], devices: &[], control };
        let verdict = segment::check(&segments, &memory).map_err(|error| match error {
            Error::SourceIsDestination { page, .. } => {
                Error::SourceIsDestination { segment: "part", page, target: "part" }
            }
            other => panic!("{other}"),
        });

        let needed = list::pages_needed(&segments);
        assert_eq!(needed, case.entries().div_ceil(ENTRIES_PER_PAGE - 1));
        let head = list::build(&segments, &mut self.list[..needed], PhysAddr::new(CONTROL))
            .expect("as many as it needs");
        let words = self.list[..needed].as_flattened();
        let read = |at: PhysAddr| words[((at.get() - CONTROL) / 8) as usize];
        assert_eq!(list::check(&segments, head, read), Ok(()));

        let mut memory = self.before.clone();
        self.moves.clear();
        list::walk(head, read, |moved| {
            self.moves.push(moved);
            let (to, from) = (number(moved.destination), number(moved.source));
            for page in 0..moved.pages as usize {
                memory[to + page] = memory[from + page];
            }
        })
        .expect("a list just built is whole");
        (verdict, memory)
    }

    /// Makes the moves of the last walk in the opposite order, each page by page downwards, and
    /// returns the memory after them.
    fn backwards(&self) -> Vec<u64> {
        let mut memory = self.before.clone();
        for moved in self.moves.iter().rev() {
            let (to, from) = (number(moved.destination), number(moved.source));
            for page in (0..moved.pages as usize).rev() {
                memory[to + page] = memory[from + page];
            }
        }
        memory
    }

    /// Checks that a safe case gives the same memory as the plain copy.
    fn hold(&mut self, case: &Case, seen: &mut Seen) {
        let (verdict, after) = self.relocate(case);
        assert_eq!(verdict, Ok(()));
        let expected = case.expected(&self.before);
        assert_eq!(after, expected);
        // No page is overwritten before it is read, so the order of the moves does not matter.
        assert_eq!(self.backwards(), expected);

        let entries = case.entries();
        seen.done_only += usize::from(entries == 0);
        seen.sixteen_segments += usize::from(case.parts.len() == MAX_SEGMENTS);
        seen.in_place += usize::from(case.moves().any(|(to, from)| to == from));
        seen.moved += usize::from(case.moves().any(|(to, from)| to != from));
        seen.long_runs += usize::from(self.moves.iter().any(|moved| moved.pages == 256));
        seen.several_list_pages += usize::from(entries > 511);
        seen.full_list_pages += usize::from(entries > 0 && entries.is_multiple_of(511));
    }
}

/// Runs `cases` cases in a memory of `pages` pages; a failure names the seed.
fn hold_many(pages: u64, cases: u64) -> Seen {
    let mut model = Model::new(pages);
    let mut seen = Seen::default();
    for seed in SEED..SEED + cases {
        let mut random = SplitMix64::new(seed);
        let case = Case::choose(pages, false, &mut |n| random.below(n));
        let held =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.hold(&case, &mut seen)));
        assert!(held.is_ok(), "seed {seed:#x}, {pages} pages: {case:?}");
    }
    seen
}

#[test]
fn a_million_small_memories() {
    let seen = hold_many(64, if cfg!(miri) { 15 } else { 1_000_000 });
    println!("seed {SEED:#x}: {seen:?}");
    if !cfg!(miri) {
        assert!(seen.done_only > 10_000 && seen.sixteen_segments > 1_000, "{seen:?}");
        assert!(seen.in_place > 100_000 && seen.moved > 100_000, "{seen:?}");
    }
}

#[test]
fn large_memories_with_long_runs_and_several_list_pages() {
    let seen = hold_many(LARGE, if cfg!(miri) { 1 } else { 5_000 });
    println!("seed {SEED:#x}: {seen:?}");
    if !cfg!(miri) {
        assert!(
            seen.long_runs > 100 && seen.several_list_pages > 100 && seen.full_list_pages > 0,
            "{seen:?}"
        );
    }
}

/// With sources anywhere, [`segment::check`] refuses exactly the cases that break the invariant.
///
/// Many of those cases really give a wrong result.
#[test]
fn where_the_invariant_is_broken_check_refuses() {
    let mut model = Model::new(64);
    let (mut safe, mut lucky, mut wrong) = (0, 0, 0);
    for seed in SEED..SEED + if cfg!(miri) { 15 } else { 100_000 } {
        let mut random = SplitMix64::new(seed);
        let case = Case::choose(64, true, &mut |n| random.below(n));
        let (verdict, after) = model.relocate(&case);
        let as_copied = after == case.expected(&model.before);
        match verdict {
            Ok(()) => {
                assert!(case.is_safe(), "seed {seed:#x}: let through: {case:?}");
                assert!(as_copied, "seed {seed:#x}: {case:?}");
                safe += 1;
            }
            Err(error) => {
                assert!(!case.is_safe(), "seed {seed:#x}: {error} in {case:?}");
                let Error::SourceIsDestination { page, .. } = error else {
                    panic!("seed {seed:#x}: {error}")
                };
                let named = |(to, from)| from == number(page) && to != from && case.taken()[from];
                assert!(case.moves().any(named), "seed {seed:#x}: {error} in {case:?}");
                if as_copied { lucky += 1 } else { wrong += 1 }
            }
        }
    }
    println!("seed {SEED:#x}: {safe} safe; refused: {lucky} by luck as copied, {wrong} not");
    assert!(safe > 0 && wrong > 0, "{safe} safe, {lucky} lucky, {wrong} wrong");
    assert!(cfg!(miri) || wrong > 10_000, "{wrong}");
}

/// The smallest violation of the invariant: two pages that change places.
#[test]
fn two_pages_that_change_places_come_out_wrong_and_are_refused() {
    let parts = [(0, 1), (1, 0)].map(|(to, from)| Part {
        destination: to..to + 1,
        source: std::iter::once(from..from + 1).collect(),
    });
    let case = Case { pages: 2, parts: parts.into() };
    let mut model = Model::new(2);
    let (verdict, after) = model.relocate(&case);
    assert_eq!(case.expected(&model.before), [0xace0_0001, 0xace0_0000]);
    assert_eq!(after, [0xace0_0001, 0xace0_0001]);
    let page = PhysAddr::new(RAM + PAGE_SIZE);
    assert_eq!(verdict, Err(Error::SourceIsDestination { segment: "part", page, target: "part" }));
}

fn config() -> ProptestConfig {
    // Keep no file of past failures: proptest finds no place for it in an integration test, and
    // Miri has no file system.
    let cases = if cfg!(miri) { 2 } else { 2_000 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Returns choices from a list that proptest can shrink; zeros after its end.
fn chosen(choices: &[u32]) -> impl FnMut(u64) -> u64 {
    let mut choices = choices.iter();
    move |n| choices.next().map_or(0, |&choice| u64::from(choice) % n)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn shrinkable_memories(choices in vec(any::<u32>(), 0..400), pages in 8_u64..200) {
        let case = Case::choose(pages, false, &mut chosen(&choices));
        prop_assert!(case.is_safe());
        Model::new(pages).hold(&case, &mut Seen::default());
    }

    #[test]
    fn shrinkable_memories_with_sources_anywhere(
        choices in vec(any::<u32>(), 0..400),
        pages in 8_u64..200,
    ) {
        let case = Case::choose(pages, true, &mut chosen(&choices));
        let mut model = Model::new(pages);
        let (verdict, after) = model.relocate(&case);
        prop_assert_eq!(verdict.is_ok(), case.is_safe());
        prop_assert!(verdict.is_err() || after == case.expected(&model.before));
    }

    /// Over arbitrary list pages, a walk ends. Reads outside the list pages return 0.
    #[test]
    fn a_walk_through_anything_ends(
        words in vec((0_u64..6, any::<u8>(), 0_u64..16), 1024),
        head in any::<u64>(),
    ) {
        // Mostly links and moves among few pages, so that walks get far.
        let list: Vec<u64> = words.iter().map(|&(page, run, flag)| {
            let flag = [2, 1, 8, 8, 8, 1, 8, 8, 8, 8, 1, 8, 4, 8, 8, 2][flag as usize];
            let further = if flag == list::SOURCE { u64::from(run) << list::RUN_SHIFT } else { 0 };
            (CONTROL + page * PAGE_SIZE) | further | flag
        }).collect();
        for head in [head, CONTROL | list::INDIRECTION, (CONTROL + PAGE_SIZE) | list::INDIRECTION] {
            let mut reads = 0;
            let read = |at: PhysAddr| {
                reads += 1;
                list.get((at.get().wrapping_sub(CONTROL) / 8) as usize).copied().unwrap_or(0)
            };
            let _ = list::walk(head, read, |moved| assert!((1..=256).contains(&moved.pages)));
            prop_assert!(reads <= 8 * list.len(), "{} reads", reads);
        }
    }
}
