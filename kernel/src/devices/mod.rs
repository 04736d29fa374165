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

use crate::clock;
use crate::map::KernelIdmap;
use crate::memory::{self, pointer};
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr};
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use device::Device;
pub use device::{Busy, Opened, Place};
use fdt::machine::Machine;
use log::{info, warn};
use network::{Receive, Receiver};
pub use register::register_at;
use virtio::Error;
use virtio::entropy::Entropy;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::{BufferDirection, Hal};

/// Time limit for an answer, in ns. QEMU's devices take some milliseconds, a disk that starts to
/// spin some seconds.
const TO_ANSWER: u64 = 10_000_000_000;

/// Returns a function that says whether the time limit for an answer is over, from now on.
pub fn deadline() -> impl FnMut() -> bool {
    let asked = clock::now();
    move || clock::nanoseconds(clock::now() - asked) > TO_ANSWER
}

/// A reason why a driver has no device.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DriverError {
    /// None of the devices, whose number this is, has the required type.
    #[error("none of {0} devices is one that can be driven: attach one")]
    None(usize),
    /// The device does not reset.
    #[error(transparent)]
    Busy(Busy),
    /// The device at this place cannot be set up.
    #[error("the virtio device at {0} cannot be set up: {1}")]
    Setup(Place, Error),
}

/// A driver and its device. Drop resets the device first; if that fails, the device keeps its
/// memory.
pub struct Driven<D> {
    device: Device,
    driver: ManuallyDrop<D>,
    /// Bytes that the driver allocated from the heap.
    bytes: u64,
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

impl<D> Driven<D> {
    /// Resets the device before the driver is dropped. The driver is then of no use.
    ///
    /// # Errors
    ///
    /// [`Busy`]: the device may still write to memory.
    pub fn stop(&self) -> Result<(), Busy> {
        self.device.reset()
    }

    /// Returns the place of the device.
    pub fn place(&self) -> &Place {
        &self.device.place
    }
}

impl<D> Drop for Driven<D> {
    fn drop(&mut self) {
        // The driver's own drop leaves the device alone.
        if self.device.reset().is_ok() {
            // SAFETY: nothing uses the driver after this drop.
            unsafe { ManuallyDrop::drop(&mut self.driver) };
        } else {
            memory::count_kept(self.bytes);
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
        for (nth, host) in (0..).zip(&machine.pci) {
            // As in Linux, hosts without numbers of their own count from 0 on.
            let domain = (machine.pci.len() > 1).then(|| host.domain.unwrap_or(nth));
            pci::find(host, domain, map, |found| {
                let device = Device::of_function(found);
                running.extend(found.was_mastering.map(|it| (device.place.clone(), it.into())));
                all.push(device);
            });
        }
        let devices = Self { all, running, receiver: None };
        let _ = devices.reset();
        devices
    }

    /// Returns the number of devices of type `kind`.
    pub fn count(&self, kind: DeviceType) -> usize {
        self.all.iter().filter(|device| device.kind == Some(kind)).count()
    }

    /// Lets `start` drive device number `nth` of type `kind`; virtio-mmio slots come before PCI
    /// functions.
    ///
    /// # Errors
    ///
    /// Returns [`DriverError`] if there is no such device, or it cannot be reset or set up.
    pub fn drive<D>(
        &self,
        kind: DeviceType,
        nth: usize,
        start: impl FnOnce(Opened) -> Result<D, Error>,
    ) -> Result<Driven<D>, DriverError> {
        let found = self.all.iter().filter(|device| device.kind == Some(kind)).nth(nth).cloned();
        let device = found.ok_or(DriverError::None(self.all.len()))?;
        device.reset().map_err(DriverError::Busy)?;
        let free = memory::free();
        let opened = device.open().ok_or(Error::Queue(virtio_drivers::Error::Unsupported));
        let driver = opened.and_then(start).map_err(|error| {
            // Leave the device off. If that fails, `quiesce` will refuse the restart.
            let _ = device.reset();
            DriverError::Setup(device.place.clone(), error)
        })?;
        let bytes = free - memory::free();
        Ok(Driven { device, driver: ManuallyDrop::new(driver), bytes })
    }

    /// Fills `bytes` from an entropy device, if there is one that answers, and logs `what` they are
    /// for.
    #[must_use]
    pub fn entropy(&self, what: &str, bytes: &mut [u8]) -> Option<()> {
        let source = self.drive(DeviceType::EntropySource, 0, Entropy::<Identity, _>::new);
        let mut source = match source {
            Ok(source) => source,
            Err(DriverError::None(_)) => return None,
            Err(why) => {
                warn!("no entropy for {what}: {why}");
                return None;
            }
        };
        match source.fill(bytes, deadline()) {
            Ok(()) => info!("the entropy device at {} gives {what}", source.device.place),
            Err(why) => {
                let place = &source.device.place;
                warn!("the entropy device at {place} was asked for {what}: {why}");
                return None;
            }
        }
        Some(())
    }

    /// Posts receive buffers on the network device, if there is one. From then on it writes to
    /// memory whenever a frame arrives.
    pub fn listen(&mut self) {
        self.receiver = None;
        match self.drive(DeviceType::Network, 0, Receive::start) {
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
        NonNull::new(pointer(PhysAddr::new(address))).expect("device registers at address 0")
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
