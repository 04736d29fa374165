//! The heap, for small objects, and page frames, for what the next kernel gets.
//!
//! - [`Heap::begin`] starts the heap with an arena inside the image. It holds the tables for image,
//!   FDT, devices and the heap's own RAM, which [`Heap::extend`] adds. The tables for all other RAM
//!   come from there. The heap never grows after that.
//! - [`Frames::begin`] gives all other free RAM to the frame allocator. Frames are at the same
//!   places whatever the heap holds.
//! - Leaves a global allocator.
//! - [`Frames`] refuses if it cannot get enough frames, and then holds none.
#![expect(unsafe_code, reason = "hands memory to the allocator, and frames to the loader")]

use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use buddy_system_allocator::LockedHeap;
use core::ops::Range;
use core::ptr;
use frames::allocator::Allocator;

/// The allocator's number of block sizes: 1 byte to 4 GiB.
const ORDERS: usize = 33;

#[global_allocator]
static HEAP: LockedHeap<ORDERS> = LockedHeap::empty();

/// How many runs may be allocated at least: some tens for each segment.
const RUNS: usize = 512;

/// Memory that a device may still write to.
static KEPT: spin::Mutex<Kept> =
    spin::Mutex::new(Kept { range: PhysAddr::new(0)..PhysAddr::new(0), bytes: 0 });

/// Memory that a device which does not reset may still write to.
struct Kept {
    /// A range that holds all of it. No frame in it is given back.
    range: Range<PhysAddr>,
    /// The bytes of heap and frames that were not given back.
    bytes: u64,
}

static FRAMES: spin::Mutex<Allocator> = spin::Mutex::new(Allocator::empty());

/// The memory of the first page tables and the first `Vec`s, in the image's bss.
#[repr(C, align(4096))]
struct Arena([u8; 32 * PAGE_SIZE as usize]);

static ARENA: spin::Mutex<Arena> = spin::Mutex::new(Arena([0; 32 * PAGE_SIZE as usize]));

/// Proof that the heap has been started, and has nothing but the arena.
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

    /// Adds the heap's range of RAM.
    ///
    /// # Safety
    ///
    /// The range must be RAM that is mapped writable, and that nothing uses.
    pub unsafe fn extend(self, range: Range<PhysAddr>) {
        // SAFETY: our caller guarantees what `add_to_heap` requires of the range. It is added once,
        // since `self` is consumed.
        unsafe { HEAP.lock().add_to_heap(range.start.get() as usize, range.end.get() as usize) };
    }
}

/// Returns how many bytes are free now: of the heap, and of page frames.
pub fn free() -> u64 {
    let frames = FRAMES.lock().free_bytes();
    let heap = HEAP.lock();
    (heap.stats_total_bytes() - heap.stats_alloc_actual()) as u64 + frames
}

/// Keeps frames that a device may still write to: they will never be given back.
pub fn keep(buffer: &[u8]) {
    let start = buffer.as_ptr().expose_provenance() as u64;
    let new = PhysAddr::new(start)..PhysAddr::new(start + buffer.len() as u64);
    let range = &mut KEPT.lock().range;
    *range = match range.is_empty() {
        true => new,
        false => range.start.min(new.start)..range.end.max(new.end),
    };
}

/// Counts bytes of the heap that a device keeps.
pub fn count_kept(bytes: u64) {
    KEPT.lock().bytes += bytes;
}

/// Returns how many bytes were not given back, because a device may still write to them.
pub fn kept() -> u64 {
    KEPT.lock().bytes
}

/// Page frames in contiguous runs. Dropping them gives them back, except those that a device keeps.
#[derive(Debug)]
pub struct Frames {
    runs: Vec<Range<PhysAddr>>,
}

impl Frames {
    /// Gives RAM to the frame allocator.
    ///
    /// # Safety
    ///
    /// The ranges must be RAM that is mapped writable and that nothing uses.
    pub unsafe fn begin(ranges: &[Range<PhysAddr>]) {
        *FRAMES.lock() = Allocator::new(ranges, 4 * ranges.len() + RUNS);
    }

    /// Allocates frames for `bytes` bytes, rounded up to pages, none of them in `avoid`.
    ///
    /// # Errors
    ///
    /// The number of bytes that are missing.
    pub fn outside(bytes: u64, avoid: &[Range<PhysAddr>]) -> Result<Self, u64> {
        Ok(Self { runs: FRAMES.lock().outside(bytes, avoid)? })
    }

    /// Allocates the free frames of `destination` itself, and frames outside of all `destinations`
    /// for the rest.
    ///
    /// Frames that are already in place need no copy after the point of no return.
    ///
    /// # Errors
    ///
    /// The number of bytes that are missing.
    pub fn in_place(
        destination: &Range<PhysAddr>,
        destinations: &[Range<PhysAddr>],
    ) -> Result<Self, u64> {
        Ok(Self { runs: FRAMES.lock().in_place(destination, destinations)? })
    }

    /// Allocates one contiguous run of `bytes` bytes outside of `avoid`, rounded up to pages.
    ///
    /// # Errors
    ///
    /// The number of bytes, if no run is that long or the heap has no room for its range.
    pub fn contiguous(bytes: u64, avoid: &[Range<PhysAddr>]) -> Result<Self, u64> {
        let mut runs = Vec::new();
        runs.try_reserve_exact(1).map_err(|_| bytes)?;
        runs.push(FRAMES.lock().contiguous(bytes, avoid)?);
        Ok(Self { runs })
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
        let (mut frames, mut kept) = (FRAMES.lock(), KEPT.lock());
        for run in self.runs.drain(..) {
            if run.overlaps(&kept.range) {
                kept.bytes += run.bytes();
            } else {
                frames.free(run);
            }
        }
    }
}

/// Returns a pointer to a physical address, which the idmap maps at the same virtual address.
pub fn pointer(address: PhysAddr) -> *mut u8 {
    ptr::with_exposed_provenance_mut(address.get() as usize)
}
