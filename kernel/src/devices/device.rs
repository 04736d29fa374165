//! A single virtio device or PCI function: its registers, whether it runs, its reset.
//!
//! - When: at discovery, whenever a driver takes or returns the device, and shortly before the
//!   kexec.
//! - Leaves: Status 0 on a virtio device, no bus mastering on a PCI function.
//! - Refuses: a device that does not get there in time; the error names its place.
#![expect(unsafe_code, reason = "touches registers that the device tree names")]

use super::pci;
use super::register::register_at;
use crate::clock;
use crate::memory::pointer;
use boot::phys::{PhysAddr, PhysRange};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use virtio::transport::{CommonConfig, Strict};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, SomeTransport};

/// Time limit for a reset, in ns. QEMU's devices take no time, hardware takes some milliseconds.
const TO_RESET: u64 = 1_000_000_000;

/// Offsets of a slot's DeviceID and Status registers (virtio 1.2, 4.2.2).
const DEVICE_ID: u64 = 0x8;
const STATUS: u64 = 0x70;

/// Status bit DRIVER_OK: the device may use its queues (virtio 1.2, 2.1).
const DRIVER_OK: u32 = 1 << 2;

/// The place of a device's registers.
#[derive(Clone, Debug)]
pub enum Place {
    /// A virtio-mmio slot.
    Mmio(Range<PhysAddr>),
    /// A PCI function.
    Pci(pci::Function),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmio(slot) => slot.start.fmt(f),
            Self::Pci(function) => function.fmt(f),
        }
    }
}

/// A device's Status register; virtio-mmio and virtio-pci differ in its width.
#[derive(Clone, Copy, Debug)]
pub enum Status {
    /// 32 bits, virtio-mmio.
    Word(PhysAddr),
    /// 8 bits, virtio-pci.
    Byte(PhysAddr),
}

/// Writes 0 to a Status register, which resets the device (virtio 1.2, 2.1.2). A test finds this
/// function by name and leaves it out.
#[inline(never)]
fn device_reset(register: u64, is_byte: bool) {
    if is_byte {
        register_at::<u8>(register).write(0)
    } else {
        register_at::<u32>(register).write(0)
    }
}

/// Reads a Status register. A test finds this function by name and fakes a device that never
/// resets.
#[inline(never)]
fn device_status(register: u64, is_byte: bool) -> u32 {
    if is_byte {
        register_at::<u8>(register).read().into()
    } else {
        register_at::<u32>(register).read()
    }
}

impl Status {
    fn parts(self) -> (u64, bool) {
        match self {
            Self::Word(at) => (at.get(), false),
            Self::Byte(at) => (at.get(), true),
        }
    }

    /// Resets the device, and waits until Status reads 0. Returns Status if it does not in time.
    fn reset(self) -> Result<(), u32> {
        let (register, is_byte) = self.parts();
        device_reset(register, is_byte);
        let asked = clock::now();
        loop {
            match device_status(register, is_byte) {
                0 => return Ok(()),
                status if clock::nanoseconds(clock::now() - asked) > TO_RESET => {
                    return Err(status);
                }
                _ => core::hint::spin_loop(),
            }
        }
    }
}

/// A device that could write to memory after the jump.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Busy {
    /// The device does not reset: its place and its Status.
    #[error(
        "the virtio device at {0} is not in reset (Status {1:#x}): it could write to memory after \
         the jump"
    )]
    Status(Place, u32),
    /// The function keeps bus mastering on: its place and its Command register.
    #[error(
        "the function at {0} keeps bus mastering on (Command {1:#x}): it could write to memory \
         after the jump"
    )]
    BusMaster(Place, u16),
}

/// A device, with or without a driver in this kernel.
#[derive(Clone, Debug)]
pub struct Device {
    /// The place of its registers.
    pub place: Place,
    /// Virtio device type; `None` if virtio-drivers does not know it or its registers are
    /// unreachable.
    pub kind: Option<DeviceType>,
    /// Status register; `None` on a PCI function without virtio's registers.
    pub status: Option<Status>,
}

impl Device {
    /// Returns the device in a virtio-mmio slot, or `None` for an empty slot.
    pub fn in_slot(slot: &Range<PhysAddr>) -> Option<Self> {
        let id = register_at::<u32>(slot.start.get() + DEVICE_ID).read();
        let status = Some(Status::Word(slot.start + STATUS));
        (id != 0).then(|| Self {
            place: Place::Mmio(slot.clone()),
            kind: DeviceType::try_from(id).ok(),
            status,
        })
    }

    /// Returns the device that a PCI function is.
    pub fn of_function(found: &pci::Found) -> Self {
        Self {
            place: Place::Pci(found.function),
            kind: found.virtio.map(|(kind, _)| kind),
            status: found.virtio.map(|(_, status)| Status::Byte(status)),
        }
    }

    /// Returns the device's place and Status if a driver has it running.
    pub fn running(&self) -> Option<(Place, u32)> {
        let (register, is_byte) = self.status?.parts();
        let status = device_status(register, is_byte);
        (status & DRIVER_OK != 0).then(|| (self.place.clone(), status))
    }

    /// Resets the device and turns off a PCI function's bus mastering.
    pub fn reset(&self) -> Result<(), Busy> {
        let reset = self.status.map_or(Ok(()), Status::reset);
        if let Place::Pci(function) = &self.place {
            let command = function.stop_mastering();
            command.map_err(|command| Busy::BusMaster(self.place.clone(), command))?;
        }
        reset.map_err(|status| Busy::Status(self.place.clone(), status))
    }

    /// Opens the device's transport, if it has all that a driver needs.
    pub fn open(&self) -> Option<Opened> {
        match &self.place {
            Place::Mmio(slot) => {
                let header = NonNull::new(pointer(slot.start).cast::<VirtIOHeader>())?;
                // SAFETY: the device tree says that a virtio-mmio slot of this size is here, and
                // the kernel maps it as device memory. Each slot has one transport at a time.
                let transport = unsafe { MmioTransport::new(header, slot.bytes() as usize) };
                Some(Strict::new(transport.ok()?.into(), None))
            }
            Place::Pci(function) => {
                let (status, _) = self.status?.parts();
                let common = Common(status - pci::STATUS);
                Some(Strict::new(function.transport()?.into(), Some(common)))
            }
        }
    }
}

/// A transport for a driver.
pub type Opened = Strict<SomeTransport<'static>, Common>;

/// The address of a PCI device's common configuration.
pub struct Common(u64);

impl CommonConfig for Common {
    fn write_u16(&mut self, offset: u64, value: u16) {
        register_at(self.0 + offset).write(value);
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        register_at(self.0 + offset).write(value);
    }
}
