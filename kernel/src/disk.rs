//! The disk: the first virtio-blk device behind any virtio-mmio slot of the device tree.
//!
//! *When:* opened to load, dropped before the plan is staged. *Leaves,* dropped: the device reset, its queue's memory given back; [`busy`]
//! reads back that every slot is. *Refuses:* a machine without one, a read past the end, a read error.
#![expect(unsafe_code, reason = "implements virtio-drivers' Hal, and claims the transports' registers")]

use crate::clock;
use crate::memory::pointer;
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::ReadPureWrite;
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Error, Hal};

/// Where a slot's Status register lies (virtio 1.2, 4.2.2).
const STATUS: u64 = 0x70;

/// How much is read by way of a bounce buffer at a time, where data does not begin on a block.
const BOUNCE: usize = 1 << 20;

/// A disk that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refused {
    /// None of so many slots holds a block device.
    NoDisk(usize),
    /// The device cannot be set up.
    Setup(Error),
    /// A read failed.
    Read {
        /// The first block, of 512 bytes.
        block: u64,
        /// What the driver says.
        error: Error,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk(slots) => {
                write!(f, "no disk: none of {slots} virtio-mmio slots holds a block device: attach one")
            }
            Self::Setup(error) => write!(f, "the disk cannot be set up: {error}"),
            Self::Read { block, error } => write!(f, "the disk fails to read block {block}: {error}"),
        }
    }
}

/// An open disk.
pub struct Disk {
    device: VirtIOBlk<Identity, MmioTransport<'static>>,
    requests: u64,
    /// Counter ticks from each request to its answer.
    waited: u64,
}

impl Disk {
    /// Opens the first block device.
    ///
    /// # Errors
    ///
    /// [`Refused::NoDisk`], [`Refused::Setup`].
    pub fn open(slots: &[Range<PhysAddr>]) -> Result<Self, Refused> {
        // Whoever drove a device before us, it stops: it could write to memory for ever.
        slots.iter().for_each(|slot| status(slot).write(0));
        for slot in slots {
            let Some(header) = NonNull::new(pointer(slot.start).cast::<VirtIOHeader>()) else { continue };
            // SAFETY: the device tree says that a virtio-mmio slot of this size lies there, and the map holds it as device memory; one
            // transport for each slot at a time.
            let transport = unsafe { MmioTransport::new(header, slot.bytes() as usize) };
            // An empty slot, or another device, which its drop has reset.
            let Ok(transport) = transport else { continue };
            if transport.device_type() == DeviceType::Block {
                let device = VirtIOBlk::new(transport).map_err(Refused::Setup)?;
                return Ok(Self { device, requests: 0, waited: 0 });
            }
        }
        Err(Refused::NoDisk(slots.len()))
    }

    /// The disk's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.device.capacity() * SECTOR_SIZE as u64
    }

    /// Counter ticks from requests to their answers, all together.
    #[must_use]
    pub fn waited(&self) -> u64 {
        self.waited
    }

    /// How many requests were made.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Reads `buffer.len()` bytes from byte `from` on: in one request where `from` is a block's beginning, but for a last part block.
    ///
    /// # Errors
    ///
    /// [`Refused::Read`].
    pub fn read(&mut self, from: u64, buffer: &mut [u8]) -> Result<(), Refused> {
        let sector = SECTOR_SIZE as u64;
        if from.is_multiple_of(sector) {
            let (whole, rest) = buffer.split_at_mut(buffer.len() / SECTOR_SIZE * SECTOR_SIZE);
            if !whole.is_empty() {
                self.read_blocks(from / sector, whole)?;
            }
            let mut last = [0; SECTOR_SIZE];
            if !rest.is_empty() {
                self.read_blocks((from + whole.len() as u64) / sector, &mut last)?;
                rest.copy_from_slice(&last[..rest.len()]);
            }
            return Ok(());
        }
        let mut bounce = vec![0; BOUNCE];
        let mut at = from;
        for piece in buffer.chunks_mut(BOUNCE - SECTOR_SIZE) {
            let skip = (at % sector) as usize;
            let blocks = (skip + piece.len()).next_multiple_of(SECTOR_SIZE);
            self.read_blocks(at / sector, &mut bounce[..blocks])?;
            piece.copy_from_slice(&bounce[skip..skip + piece.len()]);
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn read_blocks(&mut self, block: u64, buffer: &mut [u8]) -> Result<(), Refused> {
        self.requests += 1;
        let asked = clock::now();
        let answer = self.device.read_blocks(block as usize, buffer);
        self.waited += clock::now() - asked;
        answer.map_err(|error| Refused::Read { block, error })
    }
}

/// The first slot whose device is not in reset, and its Status.
#[must_use]
pub fn busy(slots: &[Range<PhysAddr>]) -> Option<(PhysAddr, u32)> {
    slots.iter().map(|slot| (slot.start, status(slot).read())).find(|&(_, status)| status != 0)
}

/// A slot's Status register; writing 0 resets the device.
fn status(slot: &Range<PhysAddr>) -> UniqueMmioPointer<'static, ReadPureWrite<u32>> {
    let register =
        NonNull::new(pointer(PhysAddr(slot.start.0 + STATUS)).cast()).expect("device registers at address 0");
    // SAFETY: the device tree says that a slot's registers lie there, at least 0x100 bytes; they are mapped as device memory. No driver
    // holds the slot while this is used.
    unsafe { UniqueMmioPointer::new(register) }
}

/// Memory for devices in an identity map, and coherent with them, which is an assumption.
struct Identity;

// SAFETY: memory comes from the allocator, page aligned and zeroed, is used by nothing else until it is given back, and lies at the
// same address for CPU and device.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (u64, NonNull<u8>) {
        // SAFETY: the layout's size is not zero: a queue has at least one page.
        let memory = unsafe { alloc_zeroed(layout(pages)) };
        let memory = NonNull::new(memory).unwrap_or_else(|| alloc::alloc::handle_alloc_error(layout(pages)));
        (memory.as_ptr().expose_provenance() as u64, memory)
    }

    unsafe fn dma_dealloc(_: u64, memory: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the driver gives back what dma_alloc gave it.
        unsafe { dealloc(memory.as_ptr(), layout(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(address: u64, _: usize) -> NonNull<u8> {
        NonNull::new(pointer(PhysAddr(address))).expect("device registers at address 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> u64 {
        buffer.cast::<u8>().as_ptr().expose_provenance() as u64
    }

    unsafe fn unshare(_: u64, _: NonNull<[u8]>, _: BufferDirection) {}
}

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE as usize, PAGE_SIZE as usize).expect("a queue's memory")
}
