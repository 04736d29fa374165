//! The heap and page frames: one buddy allocator over all free RAM.
//!
//! - [`Heap::begin`] starts it with an arena inside the image, which is enough for the page tables
//!   that map RAM. Then [`Heap::add`] adds the free RAM.
//! - Leaves a global allocator.
//! - [`Frames`] refuses if it cannot get enough frames, and frees those that it got.
#![expect(unsafe_code, reason = "hands memory to the allocator, and frames to the loader")]

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use buddy_system_allocator::LockedHeap;
use core::ops::Range;
use core::ptr;

/// The allocator's number of block sizes: 1 byte to 4 GiB.
const ORDERS: usize = 33;

#[global_allocator]
static HEAP: LockedHeap<ORDERS> = LockedHeap::empty();

/// The largest run of frames that is requested at once: 1 MiB, the most that one list entry moves.
const LARGEST_RUN: u64 = relocate::list::RUN_PAGES * PAGE_SIZE;

/// The bytes that [`Frames::in_place`] leaves free while it holds everything else.
const LEFT_FREE: u64 = 2 * LARGEST_RUN;

/// The memory of the first page tables and the first `Vec`s, in the image's bss.
#[repr(C, align(4096))]
struct Arena([u8; 32 * PAGE_SIZE as usize]);

static ARENA: spin::Mutex<Arena> = spin::Mutex::new(Arena([0; 32 * PAGE_SIZE as usize]));

/// Proof that the heap has been started.
pub struct Heap(());

impl Heap {
    /// Starts the heap with the arena.
    ///
    /// # Panics
    ///
    /// If it is called a second time.
    pub fn begin() -> Self {
        let arena = spin::MutexGuard::leak(ARENA.try_lock().expect("the heap begins once"));
        // SAFETY: `init` requires unused, writable memory that stays valid. The arena's lock is
        // never released, so nothing else reaches it.
        unsafe { HEAP.lock().init(arena.0.as_mut_ptr().expose_provenance(), arena.0.len()) };
        Self(())
    }

    /// Adds a range of RAM.
    ///
    /// # Safety
    ///
    /// The range must be RAM that is mapped writable, that nothing uses, and that was not added
    /// before.
    pub unsafe fn add(&self, range: Range<PhysAddr>) {
        if !range.is_empty() {
            // SAFETY: our caller guarantees what `add_to_heap` requires of the range.
            unsafe { HEAP.lock().add_to_heap(range.start.0 as usize, range.end.0 as usize) };
        }
    }
}

/// Returns how many bytes are free now.
pub fn free() -> u64 {
    let heap = HEAP.lock();
    (heap.stats_total_bytes() - heap.stats_alloc_actual()) as u64
}

/// Page frames in contiguous runs. Dropping them frees them.
#[derive(Debug, Default)]
pub struct Frames {
    runs: Vec<Range<PhysAddr>>,
}

impl Frames {
    /// Allocates frames for `bytes` bytes, rounded up to pages, none of them in `avoid`.
    ///
    /// Runs are powers of two of at most 1 MiB, so the buddy allocator never rounds up.
    ///
    /// # Errors
    ///
    /// The number of bytes that are missing. The frames allocated so far are freed.
    pub fn outside(bytes: u64, avoid: &[Range<PhysAddr>]) -> Result<Self, u64> {
        Self::take(bytes, LARGEST_RUN, avoid)
    }

    fn take(bytes: u64, largest_run: u64, avoid: &[Range<PhysAddr>]) -> Result<Self, u64> {
        let mut frames = Self::default();
        // Hold the frames in `avoid` until we have enough others, or the allocator would return
        // them again.
        let mut aside = Self::default();
        let mut left = bytes.next_multiple_of(PAGE_SIZE);
        let mut size = largest_run;
        while left > 0 {
            size = size.min(1 << left.ilog2());
            // The vectors grow in the same heap. `push` would panic if it is full; refuse instead.
            if frames.runs.try_reserve(1).and_then(|()| aside.runs.try_reserve(1)).is_err() {
                return Err(left);
            }
            // SAFETY: `alloc` requires a size other than zero; `size` is at least a page.
            let block = unsafe { alloc(layout(size)) };
            if block.is_null() {
                // No run of this size is free, but smaller ones may be.
                size /= 2;
                if size < PAGE_SIZE {
                    return Err(left);
                }
                continue;
            }
            let start = PhysAddr(block.expose_provenance() as u64);
            let run = start..PhysAddr(start.0 + size);
            if is_in_any(&run, avoid) {
                aside.runs.push(run);
            } else {
                left -= size;
                frames.runs.push(run);
            }
        }
        Ok(frames)
    }

    /// Allocates the frames of `destination` itself where whole runs of the largest size are free,
    /// and frames outside of all `destinations` for the rest.
    ///
    /// Frames that are already in place need no copy after the point of no return. The allocator
    /// cannot allocate by address, so this briefly allocates nearly everything.
    ///
    /// # Errors
    ///
    /// The number of bytes that are missing. The frames allocated so far are freed.
    pub fn in_place(
        destination: &Range<PhysAddr>,
        destinations: &[Range<PhysAddr>],
    ) -> Result<Self, u64> {
        // Sorted from the highest address to the lowest, so `pop` returns the lowest.
        let mut own = Self::default();
        let mut aside = Self::default();
        let most = (free() / LARGEST_RUN) as usize;
        if own
            .runs
            .try_reserve_exact(most)
            .and_then(|()| aside.runs.try_reserve_exact(most))
            .is_err()
        {
            return Err(destination.bytes());
        }
        while free() >= LEFT_FREE + LARGEST_RUN {
            // SAFETY: `alloc` requires a size other than zero; this one is 1 MiB.
            let block = unsafe { alloc(layout(LARGEST_RUN)) };
            if block.is_null() {
                break;
            }
            let start = PhysAddr(block.expose_provenance() as u64);
            let run = start..PhysAddr(start.0 + LARGEST_RUN);
            if destination.covers(&run) {
                let place = own.runs.partition_point(|other| other.start > start);
                own.runs.insert(place, run);
            } else {
                aside.runs.push(run);
            }
        }
        drop(aside);

        let mut frames = Self::default();
        let mut at = destination.start;
        loop {
            let end = own.runs.last().map_or(destination.end, |run| run.start);
            let mut between = Self::outside((at..end).bytes(), destinations)?;
            frames.runs.try_reserve(between.runs.len() + 1).map_err(|_| destination.bytes())?;
            frames.runs.append(&mut between.runs);
            let Some(run) = own.runs.pop() else { return Ok(frames) };
            at = run.end;
            frames.runs.push(run);
        }
    }

    /// Allocates one contiguous run of `bytes` bytes outside of `avoid`, rounded up to a power of
    /// two of pages.
    ///
    /// # Errors
    ///
    /// The number of bytes that are missing.
    pub fn contiguous(bytes: u64, avoid: &[Range<PhysAddr>]) -> Result<Self, u64> {
        let bytes = bytes.next_power_of_two().max(PAGE_SIZE);
        let frames = Self::take(bytes, bytes, avoid)?;
        if frames.runs.len() == 1 { Ok(frames) } else { Err(bytes) }
    }

    /// Returns the runs, in order.
    #[must_use]
    pub fn runs(&self) -> &[Range<PhysAddr>] {
        &self.runs
    }

    /// Returns the runs as readable memory, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: `from_raw_parts` requires valid, initialized memory without a writer. We own the
        // frames, they are mapped, any byte is valid, and the borrow of `self` keeps writers out.
        self.runs.iter().map(|run| unsafe {
            core::slice::from_raw_parts(pointer(run.start), run.bytes() as usize)
        })
    }

    /// Returns the runs as writable memory, in order.
    pub fn slices_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        // SAFETY: as in `slices`. `from_raw_parts_mut` also requires that nothing else refers to
        // the memory: the runs do not overlap, and the borrow of `self` is unique.
        self.runs.iter().map(|run| unsafe {
            core::slice::from_raw_parts_mut(pointer(run.start), run.bytes() as usize)
        })
    }

    /// Zeroes all bytes from offset `from` to the end. Not inlined: a test patches it.
    #[inline(never)]
    pub fn zero_from(&mut self, mut from: usize) {
        for slice in self.slices_mut() {
            let start = from.min(slice.len());
            slice[start..].fill(0);
            from -= start;
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        for run in &self.runs {
            // SAFETY: `dealloc` requires an allocation and its layout. Each run was allocated
            // with this layout, and `drop` runs once.
            unsafe { dealloc(pointer(run.start), layout(run.bytes())) };
        }
    }
}

/// Returns whether a run overlaps one of the ranges. Not inlined: a test patches it.
#[inline(never)]
fn is_in_any(run: &Range<PhysAddr>, ranges: &[Range<PhysAddr>]) -> bool {
    ranges.iter().any(|range| range.overlaps(run))
}

fn layout(bytes: u64) -> Layout {
    Layout::from_size_align(bytes as usize, PAGE_SIZE as usize).expect("a run of whole pages")
}

/// Returns a pointer to a physical address, which the idmap maps at the same virtual address.
///
/// The allocator exposes the provenance of the memory that it manages.
pub fn pointer(address: PhysAddr) -> *mut u8 {
    ptr::with_exposed_provenance_mut(address.0 as usize)
}
