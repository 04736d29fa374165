//! One device: where it lies, what it is, whether it runs, and its reset.
//!
//! *When:* as it is found, whenever a driver takes it or gives it back, and as the life's last act but one. *Leaves:* a virtio device whose
//! Status reads 0, a function without bus mastering. *Refuses:* one that is not so in time, by its place.
#![expect(unsafe_code, reason = "touches registers that the device tree names")]

use super::pci;
use crate::clock;
use crate::memory::pointer;
use boot::phys::{PhysAddr, PhysRange};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::ReadPureWrite;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, SomeTransport};

/// How long a device may take to reset. QEMU's take no time, hardware's some milliseconds.
const TO_RESET: u64 = 1_000_000_000;

/// Where a slot's DeviceID and Status registers lie (virtio 1.2, 4.2.2).
const DEVICE_ID: u64 = 0x8;
const STATUS: u64 = 0x70;

/// Status: the driver is ready, and the device may use its queues (virtio 1.2, 2.1).
const DRIVER_OK: u32 = 1 << 2;

/// Where a device's registers are reached.
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

/// A device's Status register: what virtio-mmio and virtio-pci differ in.
#[derive(Clone, Copy, Debug)]
pub enum Status {
    /// Of 32 bits.
    Word(PhysAddr),
    /// Of 8.
    Byte(PhysAddr),
}

/// Writes 0 to a Status register, which resets the device (virtio 1.2, 2.1.2). By its name a test can leave it out.
#[inline(never)]
fn device_reset(register: u64, is_byte: bool) {
    if is_byte {
        register_at::<u8>(register).write(0)
    } else {
        register_at::<u32>(register).write(0)
    }
}

/// Reads a Status register. By its name a test can make a device that never resets.
#[inline(never)]
fn device_status(register: u64, is_byte: bool) -> u32 {
    if is_byte {
        register_at::<u8>(register).read().into()
    } else {
        register_at::<u32>(register).read()
    }
}

/// A register of a device that no driver uses meanwhile.
pub fn register_at<T>(address: u64) -> UniqueMmioPointer<'static, ReadPureWrite<T>> {
    let register =
        NonNull::new(pointer(PhysAddr(address)).cast()).expect("device registers at address 0");
    // SAFETY: the device tree, or a BAR of a function that it leads to, says that registers lie there; they are mapped as device memory,
    // and whoever drives the device waits for us.
    unsafe { UniqueMmioPointer::new(register) }
}

impl Status {
    fn parts(self) -> (u64, bool) {
        match self {
            Self::Word(at) => (at.0, false),
            Self::Byte(at) => (at.0, true),
        }
    }

    /// Resets the device, and waits until it says so.
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
#[derive(Clone, Debug)]
pub enum Busy {
    /// It does not reset: its place, and its Status.
    Status(Place, u32),
    /// The function keeps bus mastering on: its place, and its Command.
    BusMaster(Place, u16),
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(place, status) => {
                write!(f, "the virtio device at {place} is not in reset (Status {status:#x})")
            }
            Self::BusMaster(place, command) => {
                write!(f, "the function at {place} keeps bus mastering on (Command {command:#x})")
            }
        }?;
        f.write_str(": it could write to memory after the jump")
    }
}

/// A device, whether or not anybody here can drive it.
#[derive(Clone, Debug)]
pub struct Device {
    /// Where.
    pub place: Place,
    /// What, where it is a virtio device of a kind that virtio-drivers knows, with registers that can be reached.
    pub kind: Option<DeviceType>,
    /// None where it is a function without virtio's registers.
    pub status: Option<Status>,
}

impl Device {
    /// What lies in a slot, if anything does.
    pub fn in_slot(slot: &Range<PhysAddr>) -> Option<Self> {
        let id = register_at::<u32>(slot.start.0 + DEVICE_ID).read();
        let status = Some(Status::Word(PhysAddr(slot.start.0 + STATUS)));
        (id != 0).then(|| Self {
            place: Place::Mmio(slot.clone()),
            kind: DeviceType::try_from(id).ok(),
            status,
        })
    }

    /// Where it lies and what its Status is, if somebody drives it.
    pub fn running(&self) -> Option<(Place, u32)> {
        let (register, is_byte) = self.status?.parts();
        let status = device_status(register, is_byte);
        (status & DRIVER_OK != 0).then(|| (self.place.clone(), status))
    }

    /// Brings the device into reset and, where it is a function, off the bus.
    pub fn reset(&self) -> Result<(), Busy> {
        let reset = self.status.map_or(Ok(()), Status::reset);
        if let Place::Pci(function) = &self.place {
            let command = function.stop_mastering();
            command.map_err(|command| Busy::BusMaster(self.place.clone(), command))?;
        }
        reset.map_err(|status| Busy::Status(self.place.clone(), status))
    }

    /// Its transport, where it has what a driver needs.
    pub fn open(&self) -> Option<SomeTransport<'static>> {
        match &self.place {
            Place::Mmio(slot) => {
                let header = NonNull::new(pointer(slot.start).cast::<VirtIOHeader>())?;
                // SAFETY: the device tree says that a virtio-mmio slot of this size lies there, and the map holds it as device memory; one
                // transport for each slot at a time.
                unsafe { MmioTransport::new(header, slot.bytes() as usize) }.ok().map(Into::into)
            }
            Place::Pci(function) => function.transport().map(Into::into),
        }
    }
}
