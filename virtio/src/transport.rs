//! The transport of a strict device: what the specification says, in its order and width.
//!
//! - [`begin`] and [`finish`] set one status bit at a time (virtio 1.2, 3.1.1). Firecracker's and
//!   libkrun's virtio-mmio ignore a driver that sets two at once.
//! - [`Strict`] writes a PCI device's queue addresses as 32-bit halves (4.1.3.1). Firecracker's
//!   PCI ignores 64-bit accesses.
//! - [`Strict`] never waits, and dropping it does not touch the device. The transports of
//!   `virtio-drivers` wait without a limit when they are dropped and when a queue is taken down.

use crate::Error;
use core::mem::ManuallyDrop;
use virtio_drivers::PhysAddr;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// VIRTIO_F_VERSION_1: a driver must accept it if it is offered (virtio 1.2, 6.1).
const VERSION_1: u64 = 1 << 32;

/// The page size in which a legacy device counts queue addresses.
const PAGE_SIZE: u32 = 4096;

/// Takes a device that is in reset up to FEATURES_OK. Accepts those of the features `wanted` that
/// the device offers, and returns all features that are accepted.
///
/// # Errors
///
/// [`Error::Features`].
pub fn begin(transport: &mut impl Transport, wanted: u64) -> Result<u64, Error> {
    let mut status = DeviceStatus::ACKNOWLEDGE;
    transport.set_status(status);
    status |= DeviceStatus::DRIVER;
    transport.set_status(status);
    let features = transport.read_device_features() & (wanted | VERSION_1);
    transport.write_driver_features(features);
    // A device older than the standard does not know the bit.
    if features & VERSION_1 != 0 {
        transport.set_status(status | DeviceStatus::FEATURES_OK);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(Error::Features(features));
        }
    }
    transport.set_guest_page_size(PAGE_SIZE);
    Ok(features)
}

/// Sets DRIVER_OK, which lets the device use its queues.
pub fn finish(transport: &mut impl Transport, features: u64) {
    let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::DRIVER_OK;
    status.set(DeviceStatus::FEATURES_OK, features & VERSION_1 != 0);
    transport.set_status(status);
}

/// Offsets in a PCI device's common configuration (virtio 1.2, 4.1.4.3).
mod offset {
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
}

/// The common configuration of a PCI device, as registers.
pub trait CommonConfig {
    /// Writes 16 bits at an offset.
    fn write_u16(&mut self, offset: u64, value: u16);
    /// Writes 32 bits at an offset.
    fn write_u32(&mut self, offset: u64, value: u32);
}

/// A transport whose device may be strict.
pub struct Strict<T, C> {
    inner: ManuallyDrop<T>,
    /// The common configuration, if it is a PCI device.
    pci: Option<C>,
}

impl<T, C> Strict<T, C> {
    /// Wraps a transport whose device is in reset.
    pub fn new(inner: T, pci: Option<C>) -> Self {
        Self { inner: ManuallyDrop::new(inner), pci }
    }
}

impl<T: Transport, C: CommonConfig> Transport for Strict<T, C> {
    fn device_type(&self) -> DeviceType {
        self.inner.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.inner.read_device_features()
    }

    fn write_driver_features(&mut self, features: u64) {
        self.inner.write_driver_features(features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.inner.max_queue_size(queue)
    }

    fn notify(&mut self, queue: u16) {
        self.inner.notify(queue);
    }

    fn get_status(&self) -> DeviceStatus {
        self.inner.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.inner.set_status(status);
    }

    fn set_guest_page_size(&mut self, bytes: u32) {
        self.inner.set_guest_page_size(bytes);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.inner.requires_legacy_layout()
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        let Some(pci) = &mut self.pci else {
            return self.inner.queue_set(queue, size, descriptors, driver_area, device_area);
        };
        pci.write_u16(offset::QUEUE_SELECT, queue);
        pci.write_u16(offset::QUEUE_SIZE, size as u16);
        for (offset, address) in [
            (offset::QUEUE_DESC, descriptors),
            (offset::QUEUE_DRIVER, driver_area),
            (offset::QUEUE_DEVICE, device_area),
        ] {
            pci.write_u32(offset, address as u32);
            pci.write_u32(offset + 4, (address >> 32) as u32);
        }
        pci.write_u16(offset::QUEUE_ENABLE, 1);
    }

    /// Does nothing: the caller resets the device before it frees a queue.
    fn queue_unset(&mut self, _: u16) {}

    fn queue_used(&mut self, queue: u16) -> bool {
        self.inner.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.inner.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.inner.read_config_generation()
    }

    fn read_config_space<V: FromBytes + IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<V> {
        self.inner.read_config_space(offset)
    }

    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: V,
    ) -> virtio_drivers::Result<()> {
        self.inner.write_config_space(offset, value)
    }
}
