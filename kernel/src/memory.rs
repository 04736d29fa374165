//! RAM as heap and frames: one buddy allocator over all that is nobody's.
//!
//! *When:* [`Heap::begin`] gives it an arena inside the image, enough for the page tables of the map that reaches the rest; then
//! [`Heap::add`] adds the rest. *Leaves:* a global allocator. *Refuses:* frames that there are not, by returning what it took.
#![expect(unsafe_code, reason = "hands memory to the allocator, and frames to the loader")]

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use buddy_system_allocator::LockedHeap;
use core::ops::Range;
use core::ptr;

/// Blocks of up to 4 GiB.
const ORDERS: usize = 33;

#[global_allocator]
static HEAP: LockedHeap<ORDERS> = LockedHeap::empty();

/// The largest run of frames that is asked for at once: 1 MiB, what one list entry moves.
const LARGEST_RUN: u64 = relocate::list::RUN_PAGES * PAGE_SIZE;

/// What is left to everybody else while frames are looked for that lie in one place.
const LEFT_FREE: u64 = 2 * LARGEST_RUN;

/// Where the first page tables and the first `Vec`s come from: memory of the image's own bss.
#[repr(C, align(4096))]
struct Arena([u8; 32 * PAGE_SIZE as usize]);

static ARENA: spin::Mutex<Arena> = spin::Mutex::new(Arena([0; 32 * PAGE_SIZE as usize]));

/// The kernel's heap: a proof that there is one.
pub struct Heap(());

impl Heap {
    /// Starts the heap with the arena.
    ///
    /// # Panics
    ///
    /// Called a second time.
    pub fn begin() -> Self {
        let arena = spin::MutexGuard::leak(ARENA.try_lock().expect("the heap begins once"));
        // SAFETY: the arena is ours for ever (its lock is never released), writable, and in no other allocator.
        unsafe { HEAP.lock().init(arena.0.as_mut_ptr().expose_provenance(), arena.0.len()) };
        Self(())
    }

    /// Adds a range of RAM.
    ///
    /// # Safety
    ///
    /// The range is RAM, mapped writable, and neither used by anyone nor added before.
    pub unsafe fn add(&self, range: Range<PhysAddr>) {
        if !range.is_empty() {
            // SAFETY: the caller stands for the range.
            unsafe { HEAP.lock().add_to_heap(range.start.0 as usize, range.end.0 as usize) };
        }
    }
}

/// Bytes that are free now.
pub fn free() -> u64 {
    let heap = HEAP.lock();
    (heap.stats_total_bytes() - heap.stats_alloc_actual()) as u64
}

/// Frames, in runs; given back when dropped.
#[derive(Debug, Default)]
pub struct Frames {
    runs: Vec<Range<PhysAddr>>,
}

impl Frames {
    /// Takes frames for `bytes` bytes, rounded up to pages, none of them in `avoid`. Runs are powers of two of at most
    /// 1 MiB, so that the buddy allocator rounds nothing up.
    ///
    /// # Errors
    ///
    /// How many bytes could not be had; what was taken has been given back.
    pub fn outside(bytes: u64, avoid: &[Range<PhysAddr>]) -> Result<Self, u64> {
        Self::take(bytes, LARGEST_RUN, avoid)
    }

    fn take(bytes: u64, largest_run: u64, avoid: &[Range<PhysAddr>]) -> Result<Self, u64> {
        let mut frames = Self::default();
        // Frames in `avoid` are held until the others are found, so that they are not found again.
        let mut aside = Self::default();
        let mut left = bytes.next_multiple_of(PAGE_SIZE);
        let mut size = largest_run;
        while left > 0 {
            size = size.min(1 << left.ilog2());
            // The lists grow in the same heap, and without room for one it would be a panic that says so.
            if frames.runs.try_reserve(1).and_then(|()| aside.runs.try_reserve(1)).is_err() {
                return Err(left);
            }
            // SAFETY: the layout's size is not zero.
            let block = unsafe { alloc(layout(size)) };
            if block.is_null() {
                // No run of this size: smaller ones may be left.
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

    /// Takes the very frames of `destination`, as far as whole runs of the largest size are free there, and for the rest frames outside of all
    /// `destinations`: what is in place already needs no copy behind the point of no return.
    ///
    /// The allocator gives no frames by their address. So all that it has is taken for a moment.
    ///
    /// # Errors
    ///
    /// How many bytes could not be had; what was taken has been given back.
    pub fn in_place(
        destination: &Range<PhysAddr>,
        destinations: &[Range<PhysAddr>],
    ) -> Result<Self, u64> {
        // From the last to the first.
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
            // SAFETY: the layout's size is not zero.
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

    /// Takes frames for `bytes` bytes that lie side by side, rounded up to a power of two of pages, none of them in `avoid`.
    ///
    /// # Errors
    ///
    /// How many bytes could not be had.
    pub fn contiguous(bytes: u64, avoid: &[Range<PhysAddr>]) -> Result<Self, u64> {
        let bytes = bytes.next_power_of_two().max(PAGE_SIZE);
        let frames = Self::take(bytes, bytes, avoid)?;
        if frames.runs.len() == 1 { Ok(frames) } else { Err(bytes) }
    }

    /// The runs, in order.
    #[must_use]
    pub fn runs(&self) -> &[Range<PhysAddr>] {
        &self.runs
    }

    /// The runs as memory, in order.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: the frames are ours, mapped, and were allocated as bytes; the borrow of self keeps writers out.
        self.runs.iter().map(|run| unsafe {
            core::slice::from_raw_parts(pointer(run.start), run.bytes() as usize)
        })
    }

    /// The runs as memory to write, in order.
    pub fn slices_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        // SAFETY: as for `slices`; the runs do not overlap, and the borrow of self is unique.
        self.runs.iter().map(|run| unsafe {
            core::slice::from_raw_parts_mut(pointer(run.start), run.bytes() as usize)
        })
    }

    /// Zeroes all bytes from `from` on.
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
            // SAFETY: each run was allocated by `take` with this layout, and is dropped once.
            unsafe { dealloc(pointer(run.start), layout(run.bytes())) };
        }
    }
}

/// Whether a run lies in one of the ranges, or a part of it.
#[inline(never)]
fn is_in_any(run: &Range<PhysAddr>, ranges: &[Range<PhysAddr>]) -> bool {
    ranges.iter().any(|range| range.overlaps(run))
}

fn layout(bytes: u64) -> Layout {
    Layout::from_size_align(bytes as usize, PAGE_SIZE as usize).expect("a run of whole pages")
}

/// Memory at a physical address: the map is 1:1, and its memory's provenance is exposed by the allocator that was given it.
pub fn pointer(address: PhysAddr) -> *mut u8 {
    ptr::with_exposed_provenance_mut(address.0 as usize)
}
