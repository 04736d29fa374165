//! PCI functions on each host's first bus, reached through an ECAM.
//!
//! - When: discovery, once per generation; then on behalf of a device that is driven or reset.
//! - Leaves: virtio functions with BARs assigned and memory decoding on. QEMU's `-kernel`, for one,
//!   assigns no BARs.
//! - Leaves: bus mastering off, except on functions that a driver uses.
//!
//! Functions on further buses stay as they are. Each is behind a bridge on the first bus, and a
//! bridge without bus mastering forwards no writes upstream.

use super::Identity;
use super::device::{Device, Place, Status, register_at};
use crate::map::KernelIdmap;
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::fmt;
use core::ops::Range;
use fdt::machine::PciHost;
use relocate::placement;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, HeaderType,
    MemoryBarType, PCI_CAP_ID_VNDR, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, virtio_device_type};

/// Offset of device_status in virtio's common configuration (virtio 1.2, 4.1.4.3).
const STATUS: u64 = 0x14;

/// Class and subclass of a host bridge: it masters nothing by itself, and some cannot clear the
/// bit.
const HOST_BRIDGE: (u8, u8) = (6, 0);

/// A function's place in configuration space, with its IDs.
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

/// A memory BAR. Unassigned, its range starts at 0.
struct Bar {
    index: u8,
    is_wide: bool,
    range: Range<PhysAddr>,
}

/// Configuration space as memory. (virtio-drivers' `MmioCam` needs all 256 buses mapped; a machine
/// may have fewer.)
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

    /// Sets and clears bits of the Command register. Returns what the register reads afterwards.
    fn command(&self, set: Command, clear: Command) -> Command {
        let mut root = self.root();
        let (_, command) = root.get_status_command(self.at);
        root.set_command(self.at, (command | set) & !clear);
        root.get_status_command(self.at).1
    }

    /// Turns bus mastering off.
    ///
    /// # Errors
    ///
    /// Returns Command if the function keeps the bit set.
    pub fn stop_mastering(&self) -> Result<(), u16> {
        let command = self.command(Command::empty(), Command::BUS_MASTER);
        if command.contains(Command::BUS_MASTER) { Err(command.bits()) } else { Ok(()) }
    }

    /// Opens the function as a virtio transport and turns bus mastering on.
    pub fn transport(&self) -> Option<PciTransport> {
        let transport = PciTransport::new::<Identity, _>(&mut self.root(), self.at).ok()?;
        self.command(Command::BUS_MASTER, Command::empty());
        Some(transport)
    }

    /// Returns the function's memory BARs.
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

    /// Assigns an address to each memory BAR that is in no window, avoiding `taken`. Returns false
    /// if there is no room.
    fn assign(&self, windows: &[Range<PhysAddr>], taken: &mut Vec<Range<PhysAddr>>) -> bool {
        // Try windows below 4 GiB first: a 32-bit BAR reaches no higher, and a 64-bit BAR works
        // there too.
        let low: Vec<_> = windows
            .iter()
            .filter(|initrd_window| initrd_window.end.0 <= 1 << 32)
            .cloned()
            .collect();
        let is_assigned =
            |bar: &Bar| windows.iter().any(|initrd_window| initrd_window.covers(&bar.range));
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

    /// Returns the address of the Status register, if the function has virtio's structures (virtio
    /// 1.2, 4.1.4) in a memory BAR.
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

/// Adds every function of the host's first bus to `all` and maps the registers of virtio functions.
/// Adds to `running` those that were found with bus mastering on.
pub fn find(
    host: &PciHost,
    map: &mut KernelIdmap,
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
        // No function may write to memory while BARs are sized and moved.
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
