//! Discovery and reset of every device that could write to memory by DMA.
//!
//! - When: found once per generation, as soon as there is a heap; driven in between; reset shortly
//!   before the kexec.
//! - Expects: devices as firmware, a loader or a predecessor left them.
//! - Leaves: every virtio device reset, with Status read back as 0; every PCI function without bus
//!   mastering.
//! - Refuses: a restart while a device does not reset in time; the error names its place.
//!
//! A device's memory returns to the heap only after the device is reset. A device that does not
//! reset keeps its memory permanently.
#![expect(unsafe_code, reason = "implements virtio-drivers' Hal, and drops a driver by hand")]

mod device;
mod network;
mod pci;
mod register;

use crate::map::KernelIdmap;
use crate::memory::{self, pointer};
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr};
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use device::Device;
pub use device::{Busy, Place};
use fdt::machine::Machine;
use log::{info, warn};
use network::{Receive, Receiver};
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::{DeviceType, SomeTransport};
use virtio_drivers::{BufferDirection, Error, Hal};

/// A reason why a driver has no device.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DriverError {
    /// None of the devices, whose number this is, has the required type.
    #[error("none of {0} devices is one that can be driven: attach one")]
    None(usize),
    /// The device does not reset.
    #[error(transparent)]
    Busy(Busy),
    /// The device cannot be set up.
    #[error("it cannot be set up: {0}")]
    Setup(Error),
}

/// A driver and its device. Drop resets the device first; if that fails, the device keeps its
/// memory.
pub struct Driven<D> {
    device: Device,
    driver: ManuallyDrop<D>,
    /// Bytes that the driver allocated from the heap.
    bytes: u64,
}

/// Bytes that stay allocated because a device may still write to them.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Returns the number of bytes that devices which do not reset have kept so far.
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
        // Reset here, not in the transport's drop: that waits without limit for a PCI device, and
        // does not wait for a virtio-mmio device.
        if self.device.reset().is_ok() {
            // SAFETY: nothing uses the driver after this drop.
            unsafe { ManuallyDrop::drop(&mut self.driver) };
        } else {
            KEPT.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

/// Every device of the machine.
pub struct Devices {
    all: Vec<Device>,
    /// Devices found able to write to memory, each with the register that shows it: Status, or a
    /// PCI function's Command.
    pub running: Vec<(Place, u32)>,
    receiver: Option<Receiver>,
}

impl Devices {
    /// Finds every device, maps its registers and resets it: a driver of a predecessor may have
    /// left it writing to memory. Keeps a device that does not reset: [`Self::quiesce`] will refuse
    /// the restart.
    pub fn find(machine: &Machine, map: &mut KernelIdmap) -> Self {
        let mut all: Vec<_> = machine.virtio.iter().filter_map(Device::in_slot).collect();
        let mut running: Vec<_> = all.iter().filter_map(Device::running).collect();
        for host in &machine.pci {
            pci::find(host, map, |found| {
                let device = Device::of_function(found);
                running.extend(found.was_mastering.map(|it| (device.place.clone(), it.into())));
                all.push(device);
            });
        }
        let devices = Self { all, running, receiver: None };
        let _ = devices.reset();
        devices
    }

    /// Lets `start` drive the first device of type `kind`; virtio-mmio slots come before PCI
    /// functions.
    ///
    /// # Errors
    ///
    /// Returns [`DriverError`] if there is no such device, or it cannot be reset or set up.
    pub fn drive<D>(
        &self,
        kind: DeviceType,
        start: impl FnOnce(SomeTransport<'static>) -> Result<D, Error>,
    ) -> Result<Driven<D>, DriverError> {
        let found = self.all.iter().find(|device| device.kind == Some(kind)).cloned();
        let device = found.ok_or(DriverError::None(self.all.len()))?;
        device.reset().map_err(DriverError::Busy)?;
        let free = memory::free();
        let driver =
            device.open().ok_or(Error::Unsupported).and_then(start).map_err(DriverError::Setup)?;
        let bytes = free - memory::free();
        Ok(Driven { device, driver: ManuallyDrop::new(driver), bytes })
    }

    /// Fills `bytes` from an entropy device, if there is one, and logs `what` they are for.
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

    /// Posts receive buffers on the network device, if there is one. From then on it writes to
    /// memory whenever a frame arrives.
    pub fn listen(&mut self) {
        self.receiver = None;
        match self.drive(DeviceType::Network, Receive::start) {
            Ok(receiver) => self.receiver = Some(receiver),
            Err(DriverError::None(_)) => {}
            Err(undriven) => warn!("no frames: {undriven}"),
        }
    }

    /// Resets every device, shortly before the kexec; no driver runs after this.
    ///
    /// # Errors
    ///
    /// Returns the first device that does not reset. All other devices are reset nevertheless.
    pub fn quiesce(&mut self) -> Result<(), Busy> {
        if let Some(receiver) = &mut self.receiver {
            let frames = receiver.poll();
            info!(
                "the network device at {} has written {frames} frames, \
                 and continues until its reset",
                receiver.device.place
            );
        }
        self.reset()
    }

    fn reset(&self) -> Result<(), Busy> {
        self.all.iter().map(Device::reset).fold(Ok(()), Result::and)
    }
}

/// DMA memory in an identity map. Assumes that devices are cache-coherent.
pub struct Identity;

// SAFETY: the memory comes from the allocator, page aligned and zeroed. Nothing else uses it until
// it is freed. CPU and device use the same address for it.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (u64, NonNull<u8>) {
        // SAFETY: the layout's size is not zero: a queue has at least one page.
        let memory = unsafe { alloc_zeroed(layout(pages)) };
        let memory =
            NonNull::new(memory).unwrap_or_else(|| alloc::alloc::handle_alloc_error(layout(pages)));
        (memory.as_ptr().expose_provenance() as u64, memory)
    }

    unsafe fn dma_dealloc(_: u64, memory: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the driver returns memory from `dma_alloc`, with the same number of pages.
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
