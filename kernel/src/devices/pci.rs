//! PCI: the functions of each host's first bus, behind an ECAM.
//!
//! *When:* found once in a life. *Leaves:* virtio functions with BARs, which whoever booted us may not have assigned (QEMU's `-kernel` does
//! not), and with their memory decoded; no function with bus mastering but those that a driver holds.
//!
//! Functions on further buses are left alone: each lies behind a bridge on the first one, and a bridge without bus mastering
//! forwards nothing up.

use super::Identity;
use super::device::{Device, Place, Status, register_at};
use crate::map::LifeMap;
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::fmt;
use core::ops::Range;
use kernel::tree::PciHost;
use relocate::placement;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, HeaderType,
    MemoryBarType, PCI_CAP_ID_VNDR, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, virtio_device_type};

/// Where device_status lies in virtio's common configuration (virtio 1.2, 4.1.4.3).
const STATUS: u64 = 0x14;

/// Class and subclass of a host bridge: it masters nothing by itself, and some cannot clear the bit.
const HOST_BRIDGE: (u8, u8) = (6, 0);

/// A function's place in configuration space, and its name.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    ecam: PhysAddr,
    at: DeviceFunction,
    vendor: u16,
    device: u16,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeviceFunction { bus, device, function } = self.at;
        write!(f, "PCI {bus:02x}:{device:02x}.{function} ({:04x}:{:04x})", self.vendor, self.device)
    }
}

/// A memory BAR: where it lies, or would with an address of 0.
struct Bar {
    index: u8,
    is_wide: bool,
    range: Range<PhysAddr>,
}

/// Configuration space as memory. (virtio-drivers' `MmioCam` wants 256 buses mapped; a machine may have fewer.)
struct Ecam(PhysAddr);

impl Ecam {
    fn register(&self, at: DeviceFunction, offset: u8) -> u64 {
        let DeviceFunction { bus, device, function } = at;
        self.0.0
            + (u64::from(bus) << 20
                | u64::from(device) << 15
                | u64::from(function) << 12
                | u64::from(offset & !3))
    }
}

impl ConfigurationAccess for Ecam {
    fn read_word(&self, at: DeviceFunction, offset: u8) -> u32 {
        register_at::<u32>(self.register(at, offset)).read()
    }

    fn write_word(&mut self, at: DeviceFunction, offset: u8, data: u32) {
        register_at::<u32>(self.register(at, offset)).write(data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self(self.0)
    }
}

impl Function {
    fn root(&self) -> PciRoot<Ecam> {
        PciRoot::new(Ecam(self.ecam))
    }

    /// Sets and clears bits of Command; returns what it reads then.
    fn command(&self, set: Command, clear: Command) -> Command {
        let mut root = self.root();
        let (_, command) = root.get_status_command(self.at);
        root.set_command(self.at, (command | set) & !clear);
        root.get_status_command(self.at).1
    }

    /// Takes bus mastering away.
    ///
    /// # Errors
    ///
    /// Command, where it keeps the bit.
    pub fn stop_mastering(&self) -> Result<(), u16> {
        let command = self.command(Command::empty(), Command::BUS_MASTER);
        if command.contains(Command::BUS_MASTER) { Err(command.bits()) } else { Ok(()) }
    }

    /// The function as a virtio transport, its bus mastering on.
    pub fn transport(&self) -> Option<PciTransport> {
        let transport = PciTransport::new::<Identity, _>(&mut self.root(), self.at).ok()?;
        self.command(Command::BUS_MASTER, Command::empty());
        Some(transport)
    }

    /// Its memory BARs.
    fn bars(&self) -> Vec<Bar> {
        let bars = self.root().bars(self.at).unwrap_or_default();
        let memory = (0..).zip(bars).filter_map(|(index, bar)| match bar? {
            BarInfo::Memory { address_type, address, size, .. } => {
                let range = PhysAddr(address).range(size)?;
                Some(Bar { index, is_wide: address_type == MemoryBarType::Width64, range })
            }
            BarInfo::IO { .. } => None,
        });
        memory.collect()
    }

    /// Gives an address to each memory BAR that lies in no window, outside of what is taken. Returns false where there is no room.
    fn assign(&self, windows: &[Range<PhysAddr>], taken: &mut Vec<Range<PhysAddr>>) -> bool {
        // A narrow BAR reaches 4 GiB, and a wide one is as well off there.
        let low: Vec<_> =
            windows.iter().filter(|window| window.end.0 <= 1 << 32).cloned().collect();
        let is_assigned = |bar: &Bar| windows.iter().any(|window| window.covers(&bar.range));
        self.bars().into_iter().filter(|bar| !is_assigned(bar)).all(|bar| {
            let size = bar.range.bytes().max(PAGE_SIZE);
            let wide = if bar.is_wide { windows } else { &[] };
            let place = [&low, wide]
                .into_iter()
                .find_map(|from| placement::highest_block(from, taken, size, size));
            let Some(place) = place else { return false };
            taken.extend(place.range(size));
            if bar.is_wide {
                self.root().set_bar_64(self.at, bar.index, place.0);
            } else {
                self.root().set_bar_32(self.at, bar.index, place.0 as u32);
            }
            true
        })
    }

    /// Where the function's Status register lies, if it has virtio's structures (virtio 1.2, 4.1.4) and a memory that can be decoded.
    fn status(&self) -> Option<PhysAddr> {
        let (root, ecam) = (self.root(), Ecam(self.ecam));
        let common = root.capabilities(self.at).find(|capability| {
            capability.id == PCI_CAP_ID_VNDR
                && (capability.private_header >> 8) as u8 == VIRTIO_PCI_CAP_COMMON_CFG
        })?;
        let bar = ecam.read_word(self.at, common.offset + 4) as u8;
        let offset = ecam.read_word(self.at, common.offset + 8);
        let bar = self.bars().into_iter().find(|found| found.index == bar)?;
        bar.range
            .start
            .checked_add(u64::from(offset) + STATUS)
            .filter(|status| bar.range.contains(status))
    }
}

/// Adds every function of the host's first bus to `all`, with the registers of virtio's mapped; and to `running` those that were found with
/// bus mastering on.
pub fn find(
    host: &PciHost,
    map: &mut LifeMap,
    all: &mut Vec<Device>,
    running: &mut Vec<(Place, u32)>,
) {
    map.add_device(&host.ecam);
    let root = PciRoot::new(Ecam(host.ecam.start));
    let found: Vec<(Function, DeviceFunctionInfo)> = root
        .enumerate_bus(0)
        .filter(|(_, info)| (info.class, info.subclass) != HOST_BRIDGE)
        .map(|(at, info)| {
            (
                Function {
                    ecam: host.ecam.start,
                    at,
                    vendor: info.vendor_id,
                    device: info.device_id,
                },
                info,
            )
        })
        .collect();
    let mut taken = Vec::new();
    for (function, info) in &found {
        let (_, command) = root.get_status_command(function.at);
        if command.contains(Command::BUS_MASTER) {
            running.push((Place::Pci(*function), command.bits().into()));
        }
        // Nobody writes to memory while BARs are sized and moved.
        let _ = function.stop_mastering();
        if info.header_type == HeaderType::Standard {
            taken.extend(function.bars().into_iter().map(|bar| bar.range));
        }
    }
    for (function, info) in found {
        let mut device = Device { place: Place::Pci(function), kind: None, status: None };
        if let Some(kind) = virtio_device_type(&info)
            && function.assign(&host.windows, &mut taken)
            && let Some(status) = function.status()
        {
            function.bars().iter().for_each(|bar| map.add_device(&bar.range.whole_pages()));
            function.command(Command::MEMORY_SPACE, Command::empty());
            (device.kind, device.status) = (Some(kind), Some(Status::Byte(status)));
        }
        all.push(device);
    }
}
