//! Devices: all that could write to memory behind the CPU's back, each in reset unless a driver holds it.
//!
//! *When:* found once in a life, as soon as there is a heap; driven in between; reset for good as the life's last act but one. *On entry:*
//! as firmware, a loader or a predecessor left them. *Leaves:* every virtio device in reset and read back as that, every PCI function
//! without bus mastering. *Refuses:* a device that is not in reset in time, by its place.
//!
//! A device's memory is given back once the device is in reset, and not before: what does not reset keeps it for ever.
#![expect(unsafe_code, reason = "implements virtio-drivers' Hal, and drops a driver by hand")]

mod device;
mod network;
mod pci;

use crate::map::LifeMap;
use crate::memory::{self, pointer};
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr};
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use device::Device;
pub use device::{Busy, Place};
use kernel::tree::Machine;
use log::{info, warn};
use network::{Receive, Receiver};
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::{DeviceType, SomeTransport};
use virtio_drivers::{BufferDirection, Error, Hal};

/// Why a driver has no device.
#[derive(Clone, Debug)]
pub enum Undriven {
    /// None of so many is of its kind.
    None(usize),
    /// It does not reset.
    Busy(Busy),
    /// It cannot be set up.
    Setup(Error),
}

impl fmt::Display for Undriven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None(devices) => {
                write!(f, "none of {devices} devices is one that can be driven: attach one")
            }
            Self::Busy(busy) => busy.fmt(f),
            Self::Setup(error) => write!(f, "it cannot be set up: {error}"),
        }
    }
}

/// A driver at work on a device. Dropped, it brings the device into reset first; where that fails its memory stays the device's.
pub struct Driven<D> {
    device: Device,
    driver: ManuallyDrop<D>,
    /// What the driver took from the heap.
    bytes: u64,
}

/// Bytes that were not given back, since a device may write to them for ever.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// How much memory devices that do not reset have kept so far.
pub fn kept() -> u64 {
    KEPT.load(Ordering::Relaxed)
}

impl<D> Deref for Driven<D> {
    type Target = D;
    fn deref(&self) -> &D {
        &self.driver
    }
}

impl<D> DerefMut for Driven<D> {
    fn deref_mut(&mut self) -> &mut D {
        &mut self.driver
    }
}

impl<D> Drop for Driven<D> {
    fn drop(&mut self) {
        // The transport's own drop would wait for a PCI device for ever, and not at all for another.
        if self.device.reset().is_ok() {
            // SAFETY: nothing uses the driver after this.
            unsafe { ManuallyDrop::drop(&mut self.driver) };
        } else {
            KEPT.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Every device of the machine.
pub struct Devices {
    all: Vec<Device>,
    /// Where a device was found that could write to memory, and the register that says so: Status, or a function's Command.
    pub running: Vec<(Place, u32)>,
    receiver: Option<Receiver>,
}

impl Devices {
    /// Finds every device, maps its registers, and brings it into reset: whoever drove it before could let it write to memory for ever. One
    /// that does not reset is refused when it matters, before the jump.
    pub fn find(machine: &Machine, map: &mut LifeMap) -> Self {
        let mut all: Vec<_> = machine.virtio.iter().filter_map(Device::in_slot).collect();
        let mut running: Vec<_> = all.iter().filter_map(Device::running).collect();
        machine.pci.iter().for_each(|host| pci::find(host, map, &mut all, &mut running));
        let devices = Self { all, running, receiver: None };
        let _ = devices.reset();
        devices
    }

    /// Lets `start` drive the first device of that kind: slots come before functions.
    ///
    /// # Errors
    ///
    /// [`Undriven`].
    pub fn drive<D>(
        &self,
        kind: DeviceType,
        start: impl FnOnce(SomeTransport<'static>) -> Result<D, Error>,
    ) -> Result<Driven<D>, Undriven> {
        let found = self.all.iter().find(|device| device.kind == Some(kind)).cloned();
        let device = found.ok_or(Undriven::None(self.all.len()))?;
        device.reset().map_err(Undriven::Busy)?;
        let free = memory::free();
        let driver =
            device.open().ok_or(Error::Unsupported).and_then(start).map_err(Undriven::Setup)?;
        let bytes = free - memory::free();
        Ok(Driven { device, driver: ManuallyDrop::new(driver), bytes })
    }

    /// Fills `bytes` from an entropy device, if there is one, and says what they are for.
    #[must_use]
    pub fn entropy(&self, what: &str, bytes: &mut [u8]) -> Option<()> {
        let mut source =
            self.drive(DeviceType::EntropySource, VirtIORng::<Identity, _>::new).ok()?;
        let mut filled = 0;
        while filled < bytes.len() {
            filled += source.request_entropy(&mut bytes[filled..]).ok().filter(|&more| more > 0)?;
        }
        info!("the entropy device at {} gives {what}", source.device.place);
        Some(())
    }

    /// Posts receive buffers on the network device, if there is one: from now on it writes to memory whenever a frame arrives.
    pub fn listen(&mut self) {
        self.receiver = None;
        match self.drive(DeviceType::Network, Receive::start) {
            Ok(receiver) => self.receiver = Some(receiver),
            Err(Undriven::None(_)) => {}
            Err(undriven) => warn!("no frames: {undriven}"),
        }
    }

    /// Brings every device into reset, for good: the last act but one.
    ///
    /// # Errors
    ///
    /// The first that does not reset, the others being in reset all the same.
    pub fn quiesce(&mut self) -> Result<(), Busy> {
        if let Some(receiver) = &mut self.receiver {
            let frames = receiver.poll();
            info!(
                "the network device at {} has written {frames} frames, and goes on until its reset",
                receiver.device.place
            );
        }
        self.reset()
    }

    fn reset(&self) -> Result<(), Busy> {
        self.all.iter().map(Device::reset).fold(Ok(()), Result::and)
    }
}

/// Memory for devices in an identity map, and coherent with them, which is an assumption.
pub struct Identity;

// SAFETY: memory comes from the allocator, page aligned and zeroed, is used by nothing else until it is given back, and lies at the
// same address for CPU and device.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (u64, NonNull<u8>) {
        // SAFETY: the layout's size is not zero: a queue has at least one page.
        let memory = unsafe { alloc_zeroed(layout(pages)) };
        let memory =
            NonNull::new(memory).unwrap_or_else(|| alloc::alloc::handle_alloc_error(layout(pages)));
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
    Layout::from_size_align(pages * PAGE_SIZE as usize, PAGE_SIZE as usize)
        .expect("a queue's memory")
}
