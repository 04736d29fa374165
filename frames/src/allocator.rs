//! The frame allocator: frames out of a sorted list of free ranges, also at an address.
//!
//! - It serves the next image's sources and the next kernel's device tree. Every choice depends on
//!   the free ranges and on the request alone, so a seed leads to the same places on every host.
//! - Frames come from the highest free addresses: a payload goes to the lowest ones.
//! - Its list never grows beyond the capacity that it got at first. Giving frames back therefore
//!   needs no memory, and cannot fail.
//! - Refuses a request that the free frames, the list or the heap cannot meet, with the number of
//!   bytes that are missing. A refused request takes nothing.

use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::Range;
use relocate::placement;

/// A list of free ranges of page frames.
#[derive(Debug, Default)]
pub struct Allocator {
    /// Sorted and disjoint ranges of whole pages; no two of them touch.
    free: Vec<Range<PhysAddr>>,
    /// The number of runs that are handed out.
    runs: usize,
    /// The most that `free.len() + runs` may be.
    ///
    /// A run that comes back adds at most one range, so the list always has room for it.
    capacity: usize,
}

impl Allocator {
    /// Creates an allocator without frames.
    #[must_use]
    pub const fn empty() -> Self {
        Self { free: Vec::new(), runs: 0, capacity: 0 }
    }

    /// Creates an allocator of the whole pages in `ranges`.
    ///
    /// The ranges may touch, but must not overlap. At most `capacity` ranges and runs can exist at
    /// a time.
    ///
    /// # Panics
    ///
    /// If `capacity` is less than the number of ranges.
    #[must_use]
    pub fn new(ranges: &[Range<PhysAddr>], capacity: usize) -> Self {
        let mut allocator = Self { free: Vec::with_capacity(capacity), runs: 0, capacity };
        placement::subtract(ranges, &[], |range| allocator.insert(range));
        allocator
    }

    /// Returns the number of bytes that are free.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(PhysRange::bytes).sum()
    }

    /// Takes one run of `bytes` bytes, rounded up to pages: the highest one outside of `avoid`.
    ///
    /// # Errors
    ///
    /// The number of bytes, if there is no such run.
    pub fn contiguous(
        &mut self,
        bytes: u64,
        avoid: &[Range<PhysAddr>],
    ) -> Result<Range<PhysAddr>, u64> {
        let bytes = bytes.next_multiple_of(PAGE_SIZE);
        let mut limit = PhysAddr::new(u64::MAX);
        while let Some(piece) = self.highest_piece(limit, avoid) {
            if piece.bytes() >= bytes {
                let run = piece.end - bytes..piece.end;
                return self.take(core::slice::from_ref(&run), bytes).map(|()| run);
            }
            limit = piece.start;
        }
        Err(bytes)
    }

    /// Takes the highest frames outside of `avoid`, `bytes` bytes rounded up to pages.
    ///
    /// Returns them as runs, the highest one first.
    ///
    /// # Errors
    ///
    /// The number of bytes that are missing.
    pub fn outside(
        &mut self,
        bytes: u64,
        avoid: &[Range<PhysAddr>],
    ) -> Result<Vec<Range<PhysAddr>>, u64> {
        let mut runs = Vec::new();
        self.find(bytes, avoid, &mut PhysAddr::new(u64::MAX), &mut runs)?;
        self.take(&runs, bytes)?;
        Ok(runs)
    }

    /// Takes the free frames of `destination` itself, and frames outside of `avoid` for the rest.
    ///
    /// `destination` consists of whole pages, and is one of `avoid`. The runs come in the order of
    /// the bytes that they are for, so a run of the destination is in its own place.
    ///
    /// # Errors
    ///
    /// The number of bytes that are missing.
    pub fn in_place(
        &mut self,
        destination: &Range<PhysAddr>,
        avoid: &[Range<PhysAddr>],
    ) -> Result<Vec<Range<PhysAddr>>, u64> {
        let mut runs = Vec::new();
        let (mut at, mut limit) = (destination.start, PhysAddr::new(u64::MAX));
        for free in self.free.iter().filter(|free| free.overlaps(destination)) {
            let own = free.start.max(destination.start)..free.end.min(destination.end);
            self.find((at..own.start).bytes(), avoid, &mut limit, &mut runs)?;
            at = own.end;
            push(&mut runs, own)?;
        }
        self.find((at..destination.end).bytes(), avoid, &mut limit, &mut runs)?;
        self.take(&runs, destination.bytes())?;
        Ok(runs)
    }

    /// Gives a run back.
    ///
    /// # Panics
    ///
    /// If one of its frames is free already, or if no run is handed out.
    pub fn free(&mut self, run: Range<PhysAddr>) {
        self.runs = self.runs.checked_sub(1).expect("a run that was taken");
        self.insert(run);
    }

    /// Finds the highest frames below `limit` and outside of `avoid`, and appends them to `runs`.
    ///
    /// Lowers `limit` to the start of the last run.
    fn find(
        &self,
        bytes: u64,
        avoid: &[Range<PhysAddr>],
        limit: &mut PhysAddr,
        runs: &mut Vec<Range<PhysAddr>>,
    ) -> Result<(), u64> {
        let mut left = bytes.next_multiple_of(PAGE_SIZE);
        while left > 0 {
            let piece = self.highest_piece(*limit, avoid).ok_or(left)?;
            let run = piece.end - left.min(piece.bytes())..piece.end;
            left -= run.bytes();
            *limit = run.start;
            push(runs, run)?;
        }
        Ok(())
    }

    /// Returns the highest free piece below `limit` and outside of `avoid`.
    fn highest_piece(&self, limit: PhysAddr, avoid: &[Range<PhysAddr>]) -> Option<Range<PhysAddr>> {
        self.free.iter().rev().find_map(|free| {
            let mut piece = free.start..free.end.min(limit);
            while !piece.is_empty() && is_in_any(&piece, avoid) {
                let holes = avoid.iter().filter(|hole| hole.overlaps(&piece));
                let hole = holes.max_by_key(|hole| hole.end)?;
                let behind = hole.end.min(piece.end).align_up(PAGE_SIZE);
                if behind < piece.end {
                    piece.start = behind;
                } else {
                    piece.end = hole.start.align_down(PAGE_SIZE);
                }
            }
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// Removes free runs from the list.
    ///
    /// Refuses if the list could have no room for them when they come back: each run may split a
    /// range in two, and counts itself.
    fn take(&mut self, runs: &[Range<PhysAddr>], bytes: u64) -> Result<(), u64> {
        if self.free.len() + self.runs + 2 * runs.len() > self.capacity {
            return Err(bytes);
        }
        for run in runs {
            let at = self.free.partition_point(|free| free.end <= run.start);
            let free = self.free[at].clone();
            debug_assert!(free.covers(run), "a run of free frames");
            match (free.start == run.start, free.end == run.end) {
                (true, true) => _ = self.free.remove(at),
                (true, false) => self.free[at].start = run.end,
                (false, true) => self.free[at].end = run.start,
                (false, false) => {
                    self.free[at].end = run.start;
                    self.free.insert(at + 1, run.end..free.end);
                }
            }
        }
        self.runs += runs.len();
        Ok(())
    }

    /// Adds a range to the list, joined to those that it touches.
    fn insert(&mut self, mut range: Range<PhysAddr>) {
        let from = self.free.partition_point(|free| free.end < range.start);
        let to = self.free.partition_point(|free| free.start <= range.end);
        for free in &self.free[from..to] {
            assert!(!free.overlaps(&range), "{}..{} is free twice", range.start, range.end);
            range = range.start.min(free.start)..range.end.max(free.end);
        }
        self.free.drain(from..to);
        assert!(self.free.len() < self.capacity, "there are more free ranges than the capacity");
        self.free.insert(from, range);
    }
}

/// Appends a run, or refuses with its bytes if the heap is full.
fn push(runs: &mut Vec<Range<PhysAddr>>, run: Range<PhysAddr>) -> Result<(), u64> {
    runs.try_reserve(1).map_err(|_| run.bytes())?;
    runs.push(run);
    Ok(())
}

/// Returns whether a piece overlaps one of the ranges. Not inlined: a test patches it.
#[inline(never)]
fn is_in_any(piece: &Range<PhysAddr>, ranges: &[Range<PhysAddr>]) -> bool {
    ranges.iter().any(|range| range.overlaps(piece))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The pages of the address space that the tests use.
    const PAGES: u64 = 64;

    /// More ranges and runs than [`PAGES`] can make.
    const AMPLE: usize = 4 * PAGES as usize;

    fn pages(start: u64, end: u64) -> Range<PhysAddr> {
        PhysAddr::new(start * PAGE_SIZE)..PhysAddr::new(end * PAGE_SIZE)
    }

    fn page_numbers(range: &Range<PhysAddr>) -> Range<u64> {
        range.start.get() / PAGE_SIZE..range.end.get() / PAGE_SIZE
    }

    /// The free pages, one by one: the definition that the allocator is compared with.
    #[derive(Clone, Debug, Default, Eq, PartialEq)]
    struct Model(BTreeSet<u64>);

    impl Model {
        /// The maximal ranges of free pages.
        fn ranges(&self) -> Vec<Range<PhysAddr>> {
            let mut ranges: Vec<Range<PhysAddr>> = Vec::new();
            for page in self.0.iter().map(|&page| pages(page, page + 1)) {
                match ranges.last_mut() {
                    Some(last) if last.end == page.start => last.end = page.end,
                    _ => ranges.push(page),
                }
            }
            ranges
        }

        /// The free pages that are in none of `avoid`, from the highest to the lowest.
        fn outside(&self, avoid: &[Range<PhysAddr>]) -> Vec<u64> {
            let is_outside =
                |page: &&u64| !avoid.iter().any(|range| range.overlaps(&pages(**page, **page + 1)));
            self.0.iter().rev().filter(is_outside).copied().collect()
        }

        /// The highest `count` consecutive pages outside of `avoid`.
        fn contiguous(&self, count: u64, avoid: &[Range<PhysAddr>]) -> Option<Range<PhysAddr>> {
            let free: BTreeSet<u64> = self.outside(avoid).into_iter().collect();
            let fits = |start: &u64| (*start..start + count).all(|page| free.contains(&page));
            (0..PAGES).rev().find(fits).map(|start| pages(start, start + count))
        }

        fn take(&mut self, runs: &[Range<PhysAddr>]) {
            for page in runs.iter().flat_map(page_numbers) {
                assert!(self.0.remove(&page), "page {page} was handed out, and is not free");
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Request {
        Contiguous(u64, Vec<Range<PhysAddr>>),
        Outside(u64, Vec<Range<PhysAddr>>),
        InPlace(Range<PhysAddr>, Vec<Range<PhysAddr>>),
        /// Gives the runs of an earlier request back.
        Free(prop::sample::Index),
    }

    fn some_pages() -> impl Strategy<Value = Range<PhysAddr>> {
        (0..PAGES, 1..20_u64).prop_map(|(start, count)| pages(start, start + count))
    }

    /// A range that need not begin or end at a page, as a reservation may.
    fn some_bytes() -> impl Strategy<Value = Range<PhysAddr>> {
        (0..PAGES * PAGE_SIZE, 1..20 * PAGE_SIZE)
            .prop_map(|(start, bytes)| PhysAddr::new(start)..PhysAddr::new(start + bytes))
    }

    fn request() -> impl Strategy<Value = Request> {
        let avoid = || vec(some_bytes(), 0..4);
        prop_oneof![
            (1..20_u64, avoid()).prop_map(|(count, avoid)| Request::Contiguous(count, avoid)),
            (1..40_u64, avoid()).prop_map(|(count, avoid)| Request::Outside(count, avoid)),
            (some_pages(), avoid()).prop_map(|(place, mut avoid)| {
                avoid.push(place.clone());
                Request::InPlace(place, avoid)
            }),
            any::<prop::sample::Index>().prop_map(Request::Free),
        ]
    }

    fn start() -> impl Strategy<Value = Model> {
        prop::collection::btree_set(1..PAGES, 0..PAGES as usize).prop_map(Model)
    }

    /// Makes a request of both, and compares the answers. Returns the runs that were taken.
    fn compare(
        allocator: &mut Allocator,
        model: &Model,
        request: &Request,
    ) -> Option<Vec<Range<PhysAddr>>> {
        match request {
            Request::Contiguous(count, avoid) => {
                let run = allocator.contiguous(count * PAGE_SIZE - 1, avoid);
                let expected = model.contiguous(*count, avoid);
                assert_eq!(run, expected.ok_or(count * PAGE_SIZE));
                run.ok().map(|run| vec![run])
            }
            Request::Outside(count, avoid) => {
                let mut expected = model.outside(avoid);
                let missing = count.saturating_sub(expected.len() as u64);
                expected.truncate(*count as usize);
                let runs = allocator.outside(count * PAGE_SIZE - 1, avoid);
                if missing > 0 {
                    assert_eq!(runs, Err(missing * PAGE_SIZE));
                    return None;
                }
                let runs = runs.unwrap();
                let taken: Vec<u64> = runs.iter().flat_map(|run| page_numbers(run).rev()).collect();
                assert_eq!(taken, expected);
                Some(runs)
            }
            Request::InPlace(place, avoid) => {
                let mut outside = model.outside(avoid).into_iter();
                let runs = allocator.in_place(place, avoid);
                let mut at = page_numbers(place).start;
                let (mut own, mut elsewhere) = (0, Vec::new());
                for run in runs.iter().flatten() {
                    let run = page_numbers(run);
                    if run.start == at {
                        own += run.end - run.start;
                    } else {
                        elsewhere.extend(run.clone().rev());
                    }
                    at += run.end - run.start;
                }
                let free = page_numbers(place).filter(|page| model.0.contains(page)).count() as u64;
                let rest = page_numbers(place).count() as u64 - free;
                if rest > outside.len() as u64 {
                    assert!(runs.is_err());
                    return None;
                }
                assert_eq!((own, at), (free, page_numbers(place).end));
                assert_eq!(elsewhere, outside.by_ref().take(rest as usize).collect::<Vec<_>>());
                runs.ok()
            }
            Request::Free(_) => unreachable!("it is no request for frames"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 8 } else { 2_000 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// After any history the list is the one of a new allocator with the same free pages, so
        /// each answer depends on these pages and on the request alone.
        #[test]
        fn answers_depend_on_the_free_pages_alone(
            mut model in start(),
            requests in vec(request(), 1..40),
        ) {
            let mut allocator = Allocator::new(&model.ranges(), AMPLE);
            let mut held: Vec<Vec<Range<PhysAddr>>> = Vec::new();
            for request in requests {
                if let Request::Free(index) = request {
                    if !held.is_empty() {
                        for run in held.swap_remove(index.index(held.len())) {
                            model.0.extend(page_numbers(&run));
                            allocator.free(run);
                        }
                    }
                } else if let Some(runs) = compare(&mut allocator, &model, &request) {
                    model.take(&runs);
                    held.push(runs);
                }
                prop_assert_eq!(&allocator.free, &model.ranges());
                prop_assert_eq!(allocator.free_bytes(), model.0.len() as u64 * PAGE_SIZE);
            }
        }

        /// However small the list's capacity is, a refusal takes nothing, and all that was taken
        /// can be given back, in any order.
        #[test]
        fn giving_back_always_succeeds(
            model in start(),
            spare in 0..12_usize,
            requests in vec(request(), 1..40),
            order in any::<prop::sample::Index>(),
        ) {
            let ranges = model.ranges();
            let mut allocator = Allocator::new(&ranges, ranges.len() + spare);
            let allocated = allocator.free.capacity();
            let mut held = Vec::new();
            for request in requests {
                let before = allocator.free.clone();
                let runs = match request {
                    Request::Contiguous(count, avoid) => {
                        allocator.contiguous(count * PAGE_SIZE, &avoid).map(|run| vec![run])
                    }
                    Request::Outside(count, avoid) => allocator.outside(count * PAGE_SIZE, &avoid),
                    Request::InPlace(place, avoid) => allocator.in_place(&place, &avoid),
                    Request::Free(_) => continue,
                };
                match runs {
                    Ok(runs) => held.extend(runs),
                    Err(_) => prop_assert_eq!(&allocator.free, &before),
                }
            }
            while !held.is_empty() {
                allocator.free(held.swap_remove(order.index(held.len())));
            }
            prop_assert_eq!(&allocator.free, &ranges);
            prop_assert_eq!((allocator.free.capacity(), allocator.runs), (allocated, 0));
        }
    }

    #[test]
    fn ranges_that_touch_are_one_and_parts_of_pages_are_left_out() {
        let odd = PhysAddr::new(20 * PAGE_SIZE + 1)..PhysAddr::new(23 * PAGE_SIZE - 1);
        let allocator = Allocator::new(&[pages(9, 12), pages(4, 9), odd], 2);
        assert_eq!(allocator.free, [pages(4, 12), pages(21, 22)]);
        assert_eq!(Allocator::empty().contiguous(1, &[]), Err(PAGE_SIZE));
    }

    #[test]
    fn the_list_has_room_for_each_run_and_for_what_it_splits() {
        // One free range. A run counts itself, and may split the range in two.
        let with = |capacity| Allocator::new(&[pages(1, 20)], capacity);
        assert_eq!(with(2).contiguous(1, &[]), Err(PAGE_SIZE));
        let mut allocator = with(3);
        assert_eq!(allocator.contiguous(1, &[]), Ok(pages(19, 20)));
        assert_eq!(allocator.contiguous(1, &[]), Err(PAGE_SIZE), "one range, and one run");
        // Two holes make three runs, so that the list may need seven places.
        let avoid = [pages(9, 10), pages(5, 6)];
        let bytes = 17 * PAGE_SIZE;
        assert_eq!(with(6).outside(bytes, &avoid), Err(bytes));
        let runs = vec![pages(10, 20), pages(6, 9), pages(1, 5)];
        assert_eq!(with(7).outside(bytes, &avoid), Ok(runs));
    }

    #[test]
    #[should_panic(expected = "is free twice")]
    fn a_frame_that_comes_back_twice_is_a_mistake() {
        let mut allocator = Allocator::new(&[pages(1, 9)], 9);
        let run = allocator.contiguous(PAGE_SIZE, &[]).unwrap();
        let _ = allocator.contiguous(PAGE_SIZE, &[]).unwrap();
        allocator.free(run.clone());
        allocator.free(run);
    }

    #[test]
    #[should_panic(expected = "more free ranges than the capacity")]
    fn a_capacity_below_the_number_of_ranges_is_a_mistake() {
        let _ = Allocator::new(&[pages(1, 2), pages(3, 4)], 1);
    }
}
