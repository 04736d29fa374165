//! The target `list`: segments checked, listed and walked, and arbitrary lists.
//!
//! It checks that:
//!
//! - [`segment::check`] refuses exactly the segments that break a rule, judged page by page in 128
//!   bits;
//! - for accepted segments, the list and its walk move pages as copies of a snapshot would;
//! - [`list::check`] accepts a damaged list only if its moves come to the same;
//! - a walk through any list ends.

use std::ops::Range;

use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use relocate::list::{self, ENTRIES_PER_PAGE, Move};
use relocate::segment::{self, MAX_SEGMENTS, Memory, Reserved, Segment};

use crate::choices::Choices;

/// The number of pages in the model's memory.
const PAGES: u64 = 64;

/// Start of that memory: as on QEMU's virt; 0; or such that it ends one page below the top of the
/// address space.
const BASES: [u64; 3] = [0x4000_0000, 0, u64::MAX - (PAGES + 1) * PAGE_SIZE + 1];

/// Address of the list: outside the model's memory, because the walk reads it through `word`.
const LIST: u64 = 0x10_0000_0000;

/// Checks an input: one of two cases, then choices for segments, or the words of a list.
pub fn hold(data: &[u8]) {
    let mut choices = Choices(data);
    if choices.one_in(2) {
        anything(&mut choices);
    } else {
        Model::choose(&mut choices).hold(&mut choices);
    }
}

/// A memory, and segments that may break any rule.
struct Model {
    base: u64,
    ram: Vec<Range<PhysAddr>>,
    devices: Vec<Range<PhysAddr>>,
    reserved: Vec<Range<PhysAddr>>,
    control: Range<PhysAddr>,
    parts: Vec<(Range<PhysAddr>, Vec<Range<PhysAddr>>)>,
}

impl Model {
    fn choose(choices: &mut Choices<'_>) -> Self {
        let base = choices.one_of(&BASES);
        let gap = choices.below(PAGES);
        let ram = [pages(base, 0, gap), pages(base, (gap + choices.below(3)).min(PAGES), PAGES)];
        let mut ram: Vec<_> = ram.into_iter().filter(|range| !range.is_empty()).collect();
        if let [first, second] = ram.as_slice()
            && first.end == second.start
        {
            ram = vec![first.start..second.end];
        }
        let control = choices.below(PAGES);
        let mut model = Self {
            base,
            ram,
            devices: Vec::new(),
            reserved: Vec::new(),
            control: pages(base, control, (control + choices.below(4)).min(PAGES)),
            parts: Vec::new(),
        };
        for _ in 0..choices.below(3) {
            model.devices.push(range(base, choices, 4));
        }
        for _ in 0..choices.below(3) {
            model.reserved.push(range(base, choices, 4));
        }
        let most = if choices.one_in(16) { MAX_SEGMENTS as u64 + 2 } else { 4 };
        for _ in 0..choices.below(most) {
            let destination = range(base, choices, 8);
            let mut source = Vec::new();
            let mut left = destination.bytes();
            for _ in 0..12 {
                if left == 0 {
                    break;
                }
                let mut run = range(base, choices, 8);
                // Some runs are in place, as far as they can be. Most are no longer than what is
                // left.
                if choices.one_in(4) {
                    run = destination.end - left..destination.end;
                }
                if run.bytes() > left && !choices.one_in(32) {
                    run.end = run.start + left;
                }
                left = left.saturating_sub(run.bytes());
                source.push(run);
            }
            model.parts.push((destination, source));
        }
        model
    }

    fn hold(&self, choices: &mut Choices<'_>) {
        let segments: Vec<_> = (self.parts.iter())
            .map(|(destination, source)| Segment {
                name: "part",
                destination: destination.clone(),
                source,
            })
            .collect();
        let reserved: Vec<_> = self
            .reserved
            .iter()
            .map(|range| Reserved { range: range.clone(), name: "reserved" })
            .collect();
        let memory = Memory {
            ram: &self.ram,
            reserved: &reserved,
            devices: &self.devices,
            control: self.control.clone(),
        };
        let verdict = segment::check(&segments, &memory);
        // An empty run moves nothing; `check` may refuse it or not.
        let plain =
            self.parts.iter().all(|(_, source)| source.iter().all(|run| run.start < run.end));
        assert!(
            !plain || verdict.is_ok() == self.keeps_every_rule(),
            "{verdict:?}: {:x?}",
            self.parts
        );
        if let Err(error) = verdict {
            return assert!(error.to_string().len() > 20);
        }
        assert!(self.keeps_every_rule(), "{:x?}", self.parts);

        let needed = list::pages_needed(&segments);
        let mut built = vec![[u64::MAX; ENTRIES_PER_PAGE]; needed];
        let head =
            list::build(&segments, &mut built, PhysAddr::new(LIST)).expect("as many as it needs");
        let mut words = built.as_flattened().to_vec();
        let moves = self.moves();
        assert_eq!(list::check(&segments, head, |at| word(&words, at)), Ok(()));
        assert_eq!(self.walked(head, &words), self.copied(&moves), "{:x?}", self.parts);

        let mut head = head;
        let used = words.iter().take_while(|&&word| word != 0).count() as u64;
        for _ in 0..=choices.below(4) {
            let flip = 1 << choices.below(64) | 1 << choices.below(64);
            match choices.below(used + 1) {
                0 => head ^= flip,
                at => words[at as usize - 1] ^= flip,
            }
        }
        if list::check(&segments, head, |at| word(&words, at)).is_ok() {
            assert_eq!(self.walked(head, &words), self.copied(&moves), "a damaged list was taken");
        }
    }

    /// Checks every rule for segments by its definition: byte ranges in 128 bits, pages one by one.
    fn keeps_every_rule(&self) -> bool {
        let overlap =
            |a: &Range<PhysAddr>, b: &Range<PhysAddr>| a.start.max(b.start) < a.end.min(b.end);
        let whole = |range: &Range<PhysAddr>| {
            range.start.get().is_multiple_of(PAGE_SIZE) && range.end.get().is_multiple_of(PAGE_SIZE)
        };
        let in_ram = |range: &Range<PhysAddr>| {
            self.ram.iter().any(|ram| {
                ram.start <= range.start && range.start <= range.end && range.end <= ram.end
            })
        };
        let bytes = |ranges: &[Range<PhysAddr>]| -> u128 {
            ranges
                .iter()
                .map(|range| u128::from(range.end.get()).saturating_sub(range.start.get().into()))
                .sum()
        };
        let limit = bytes(&self.ram) / 2;
        let destinations: Vec<_> =
            self.parts.iter().map(|(destination, _)| destination.clone()).collect();
        let taboo: Vec<_> =
            self.devices.iter().chain(&self.reserved).chain([&self.control]).collect();
        let each = destinations.iter().enumerate().all(|(number, destination)| {
            whole(destination)
                && destination.start < destination.end
                && in_ram(destination)
                && !taboo.iter().any(|range| overlap(range, destination))
                && !destinations[..number].iter().any(|other| overlap(other, destination))
        });
        let sources = self.parts.iter().all(|(destination, source)| {
            source.iter().all(|run| {
                whole(run) && (run.is_empty() || in_ram(run) && !overlap(run, &self.control))
            }) && bytes(source) == bytes(std::slice::from_ref(destination))
        });
        self.parts.len() <= MAX_SEGMENTS
            && each
            && bytes(&destinations) <= limit
            && sources
            && self.moves().iter().all(|(to, from)| {
                let page = PhysAddr::new(*from)..PhysAddr::new(from + PAGE_SIZE);
                to == from || !destinations.iter().any(|destination| overlap(destination, &page))
            })
    }

    /// Returns every page's destination and source; meaningful if both are whole pages of equal
    /// length.
    fn moves(&self) -> Vec<(u64, u64)> {
        let addresses = |range: &Range<PhysAddr>| {
            (range.start.get()..range.end.get()).step_by(PAGE_SIZE as usize)
        };
        let parts = self.parts.iter();
        parts.flat_map(|(to, from)| addresses(to).zip(from.iter().flat_map(addresses))).collect()
    }

    fn page(&self, address: u64) -> usize {
        assert!(address.is_multiple_of(PAGE_SIZE));
        (address.checked_sub(self.base).expect("an address of the model") / PAGE_SIZE) as usize
    }

    /// Returns the memory after copies from a snapshot; each page is one number.
    fn copied(&self, moves: &[(u64, u64)]) -> Vec<usize> {
        let mut memory: Vec<_> = (0..PAGES as usize).collect();
        for (to, from) in moves {
            memory[self.page(*to)] = self.page(*from);
        }
        memory
    }

    /// Returns the memory after the walk, which carries out each move at once.
    fn walked(&self, head: u64, words: &[u64]) -> Vec<usize> {
        let mut memory: Vec<_> = (0..PAGES as usize).collect();
        walk(head, words, |moved| {
            let (to, from) = (self.page(moved.destination.get()), self.page(moved.source.get()));
            for page in 0..moved.pages as usize {
                memory[to + page] = memory[from + page];
            }
        })
        .expect("a list that was found faithful is whole");
        memory
    }
}

/// Walks arbitrary words: mostly links and moves among few pages, so that walks get far.
fn anything(choices: &mut Choices<'_>) {
    let mut words = Vec::new();
    while !choices.0.is_empty() && words.len() < 4 * ENTRIES_PER_PAGE {
        words.push(match choices.below(8) {
            0 => u64::from_le_bytes(choices.bytes()),
            1 => (LIST + choices.below(5) * PAGE_SIZE) | list::INDIRECTION,
            2 => (choices.below(256) * PAGE_SIZE) | list::DESTINATION,
            3 => list::DONE,
            4 => {
                ((u64::MAX - PAGE_SIZE * choices.below(256)) & !(PAGE_SIZE - 1)) | list::DESTINATION
            }
            5 => words[..].last().copied().unwrap_or_default(),
            // Fill up to the start of the next list page.
            6 => {
                words.resize(
                    words.len().next_multiple_of(ENTRIES_PER_PAGE),
                    u64::from(choices.byte()) << 4 | list::SOURCE,
                );
                continue;
            }
            _ => {
                (choices.below(256) * PAGE_SIZE)
                    | (choices.below(256) << list::RUN_SHIFT)
                    | list::SOURCE
            }
        });
    }
    for head in [LIST | list::INDIRECTION, words.first().copied().unwrap_or_default()] {
        let judged = walk(head, &words, |moved| {
            assert!((1..=list::RUN_PAGES).contains(&moved.pages));
            let bytes = moved.pages * PAGE_SIZE;
            assert!(
                moved.destination.checked_add(bytes).is_some()
                    && moved.source.checked_add(bytes).is_some()
            );
        });
        judged.err().iter().for_each(|damaged| assert!(damaged.to_string().len() > 20));
        let _ = list::check(&[], head, |at| word(&words, at))
            .map_err(|unfaithful| unfaithful.to_string());
    }
}

/// Walks a list, and fails if it reads its pages more than a few times over.
fn walk(head: u64, words: &[u64], visit: impl FnMut(Move)) -> Result<(), list::Damaged> {
    let mut left = 8 * (words.len() + ENTRIES_PER_PAGE);
    let read = |at| {
        left = left.checked_sub(1).expect("the walk does not end");
        word(words, at)
    };
    list::walk(head, read, visit)
}

/// Returns one word of a list at [`LIST`], or 0 elsewhere.
fn word(words: &[u64], at: PhysAddr) -> u64 {
    assert!(at.is_aligned(8));
    words.get((at.get().wrapping_sub(LIST) / 8) as usize).copied().unwrap_or(0)
}

/// Returns the pages from number `first` up to `end`; empty if `end` is not above `first`.
fn pages(base: u64, first: u64, end: u64) -> Range<PhysAddr> {
    PhysAddr::new(base + first * PAGE_SIZE)..PhysAddr::new(base + end * PAGE_SIZE)
}

/// Returns up to `most` pages of the model. Now and then an end is not page-aligned, or is
/// anywhere.
fn range(base: u64, choices: &mut Choices<'_>, most: u64) -> Range<PhysAddr> {
    let first = choices.below(PAGES);
    let mut range = pages(base, first, (first + choices.below(most) + 1).min(PAGES));
    match choices.below(32) {
        31 => range.start = range.start + 8,
        30 => range.end = range.end - 1,
        29 => range.start = PhysAddr::new(u64::from_le_bytes(choices.bytes())),
        28 => range.end = PhysAddr::new(u64::from_le_bytes(choices.bytes())),
        27 => range.end = PhysAddr::new(u64::MAX - (PAGE_SIZE - 1)),
        26 => range.end = range.start,
        _ => {}
    }
    range
}
