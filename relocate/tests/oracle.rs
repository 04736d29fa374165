//! The list, built, walked and carried out in place, against a plain copy of a snapshot.
//!
//! A page of the model's memory is one number, and its list lies beside it. Every case comes from a stream of choices: from
//! SplitMix64 for the million, from proptest for those that can be shrunk.

use std::ops::Range;

use boot::phys::{PAGE_SIZE, PhysAddr};
use proptest::collection::vec;
use proptest::prelude::*;
use relocate::list::{self, ENTRIES_PER_PAGE, Move};
use relocate::random::SplitMix64;
use relocate::segment::{self, MAX_SEGMENTS, Memory, Refused, Segment};

/// Where the model's memory begins.
const RAM: u64 = 0x4000_0000;
/// Where its control pages are: the list lies there.
const CONTROL: u64 = 0x8000_0000;
/// The end of RAM: more than twice the largest model, so that no segment is above half of it.
const END: u64 = 0x9000_0000;

/// The largest model.
const LARGE: u64 = if cfg!(miri) { 600 } else { 4096 };
const _: () = assert!(RAM + LARGE * PAGE_SIZE <= CONTROL && 2 * LARGE * PAGE_SIZE <= END - RAM);

/// What the million cases start from; each has this seed and its own number.
const SEED: u64 = 0x0b0e_5000_0000;

/// A source of choices: a number below `n`, which is not 0.
type Choose<'a> = &'a mut dyn FnMut(u64) -> u64;

/// One segment of the model, in numbers of pages.
#[derive(Debug, Default)]
struct Part {
    destination: Range<u64>,
    source: Vec<Range<u64>>,
}

/// Segments in a memory of `pages` pages.
#[derive(Debug)]
struct Case {
    pages: u64,
    parts: Vec<Part>,
}

fn physical(pages: &Range<u64>) -> Range<PhysAddr> {
    PhysAddr(RAM + pages.start * PAGE_SIZE)..PhysAddr(RAM + pages.end * PAGE_SIZE)
}

fn number(page: PhysAddr) -> usize {
    ((page.0 - RAM) / PAGE_SIZE) as usize
}

impl Case {
    /// Segments that do not overlap, in any order; sources in place or out of the way, or, `anywhere`, in any pages at all.
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

    /// Which pages are some segment's destination.
    fn taken(&self) -> Vec<bool> {
        let mut taken = vec![false; self.pages as usize];
        for part in &self.parts {
            taken[part.destination.start as usize..part.destination.end as usize].fill(true);
        }
        taken
    }

    /// Every page's destination and source, in order.
    fn moves(&self) -> impl Iterator<Item = (usize, usize)> {
        self.parts.iter().flat_map(|part| {
            let sources = part.source.iter().cloned().flatten();
            part.destination.clone().zip(sources).map(|(to, from)| (to as usize, from as usize))
        })
    }

    /// The invariant, by its definition.
    fn is_safe(&self) -> bool {
        let taken = self.taken();
        self.moves().all(|(to, from)| to == from || !taken[from])
    }

    /// How many entries the list has, links and end not counted, by counting pages.
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

    /// Memory afterwards, by copies of what it was before.
    fn expected(&self, before: &[u64]) -> Vec<u64> {
        let mut after = before.to_vec();
        for (to, from) in self.moves() {
            after[to] = before[from];
        }
        after
    }
}

/// What has been seen: a test that never met what it is about has shown nothing.
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
        // The worst list: an entry for each page, and for each segment.
        let list = (pages as usize + MAX_SEGMENTS).div_ceil(ENTRIES_PER_PAGE - 1);
        Self {
            before: (0..pages).map(|page| 0xace0_0000 + page).collect(),
            list: vec![[0; ENTRIES_PER_PAGE]; list],
            runs: Vec::new(),
            moves: Vec::new(),
        }
    }

    /// Checks and builds; what [`segment::check`] says, and memory as the walk leaves it when carried out in place.
    fn relocate(&mut self, case: &Case) -> (Result<(), Refused<'static>>, Vec<u64>) {
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
        let control = PhysAddr(CONTROL)..PhysAddr(CONTROL + self.list.len() as u64 * PAGE_SIZE);
        let ram = [PhysAddr(RAM)..PhysAddr(END)];
        let memory = Memory { ram: &ram, reserved: &[], devices: &[], control };
        let verdict = segment::check(&segments, &memory).map_err(|refused| match refused {
            Refused::SourceIsDestination { page, .. } => {
                Refused::SourceIsDestination { segment: "part", page, target: "part" }
            }
            other => panic!("{other}"),
        });

        let needed = list::pages_needed(&segments);
        assert_eq!(needed, case.entries().div_ceil(ENTRIES_PER_PAGE - 1));
        let head = list::build(&segments, &mut self.list[..needed], PhysAddr(CONTROL))
            .expect("as many as it needs");
        let words = self.list[..needed].as_flattened();
        let read = |at: PhysAddr| words[((at.0 - CONTROL) / 8) as usize];
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

    /// Memory as the moves of the last walk leave it when they are made in the opposite order, each page by page downwards.
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

    /// Holds a safe case against the copy.
    fn hold(&mut self, case: &Case, seen: &mut Seen) {
        let (verdict, after) = self.relocate(case);
        assert_eq!(verdict, Ok(()));
        let expected = case.expected(&self.before);
        assert_eq!(after, expected);
        // Nobody's page is overwritten before it is read: so the order does not matter at all.
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

/// `cases` cases in a memory of `pages` pages; a failure says which one it was.
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

/// Sources anywhere: [`segment::check`] refuses exactly those that break the invariant, and with good reason.
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
            Err(refused) => {
                assert!(!case.is_safe(), "seed {seed:#x}: {refused} in {case:?}");
                let Refused::SourceIsDestination { page, .. } = refused else {
                    panic!("seed {seed:#x}: {refused}")
                };
                let named = |(to, from)| from == number(page) && to != from && case.taken()[from];
                assert!(case.moves().any(named), "seed {seed:#x}: {refused} in {case:?}");
                if as_copied { lucky += 1 } else { wrong += 1 }
            }
        }
    }
    println!("seed {SEED:#x}: {safe} safe; refused: {lucky} by luck as copied, {wrong} not");
    assert!(safe > 0 && wrong > 0, "{safe} safe, {lucky} lucky, {wrong} wrong");
    assert!(cfg!(miri) || wrong > 10_000, "{wrong}");
}

/// The smallest example of what the invariant is for: two pages that change places.
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
    let page = PhysAddr(RAM + PAGE_SIZE);
    assert_eq!(
        verdict,
        Err(Refused::SourceIsDestination { segment: "part", page, target: "part" })
    );
}

fn config() -> ProptestConfig {
    // No file of past failures: beside an integration test proptest finds no place for it, and under miri no file system.
    let cases = if cfg!(miri) { 2 } else { 2_000 };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Choices from a list that proptest can shrink; where it ends, zeros.
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
    fn shrinkable_memories_with_sources_anywhere(choices in vec(any::<u32>(), 0..400), pages in 8_u64..200) {
        let case = Case::choose(pages, true, &mut chosen(&choices));
        let mut model = Model::new(pages);
        let (verdict, after) = model.relocate(&case);
        prop_assert_eq!(verdict.is_ok(), case.is_safe());
        prop_assert!(verdict.is_err() || after == case.expected(&model.before));
    }

    /// Whatever lies in the list pages, a walk comes to an end and stays within them or is answered with 0.
    #[test]
    fn a_walk_through_anything_ends(words in vec((0_u64..6, any::<u8>(), 0_u64..16), 1024), head in any::<u64>()) {
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
                list.get((at.0.wrapping_sub(CONTROL) / 8) as usize).copied().unwrap_or(0)
            };
            let _ = list::walk(head, read, |moved| assert!((1..=256).contains(&moved.pages)));
            prop_assert!(reads <= 8 * list.len(), "{} reads", reads);
        }
    }
}
