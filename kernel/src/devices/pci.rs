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
use super::register::register_at;
use crate::map::KernelIdmap;
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::fmt;
use core::ops::Range;
use fdt::machine::PciHost;
use relocate::placement;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, HeaderType, MemoryBarType,
    PCI_CAP_ID_VNDR, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, virtio_device_type};

/// Offset of device_status in virtio's common configuration (virtio 1.2, 4.1.4.3).
pub const STATUS: u64 = 0x14;

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
        self.0.get()
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
                let range = PhysAddr::new(address).range(size)?;
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
        let low: Vec<_> =
            windows.iter().filter(|window| window.end.get() <= 1 << 32).cloned().collect();
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
                self.root().set_bar_64(self.at, bar.index, place.get());
            } else {
                self.root().set_bar_32(self.at, bar.index, place.get() as u32);
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

/// A function found on a host's first bus.
pub struct Found {
    /// The function.
    pub function: Function,
    /// The Command register, if bus mastering was on.
    pub was_mastering: Option<u16>,
    /// The virtio device type and the address of the Status register, if it is a virtio device
    /// whose registers are reachable.
    pub virtio: Option<(DeviceType, PhysAddr)>,
}

/// Finds every function of the host's first bus but host bridges, and passes each to `add`. Turns
/// bus mastering off, and maps the registers of virtio functions.
pub fn find(host: &PciHost, map: &mut KernelIdmap, mut add: impl FnMut(&Found)) {
    map.add_device(&host.ecam);
    let root = PciRoot::new(Ecam(host.ecam.start));
    let mut taken = Vec::new();
    let functions: Vec<_> = root
        .enumerate_bus(0)
        .filter(|(_, info)| (info.class, info.subclass) != HOST_BRIDGE)
        .map(|(at, info)| {
            let (vendor, device) = (info.vendor_id, info.device_id);
            let function = Function { ecam: host.ecam.start, at, vendor, device };
            let (_, command) = root.get_status_command(at);
            let was_mastering = command.contains(Command::BUS_MASTER).then(|| command.bits());
            // No function may write to memory while BARs are sized and moved.
            let _ = function.stop_mastering();
            if info.header_type == HeaderType::Standard {
                taken.extend(function.bars().into_iter().map(|bar| bar.range));
            }
            (function, info, was_mastering)
        })
        .collect();
    for (function, info, was_mastering) in functions {
        let virtio = virtio_device_type(&info)
            .filter(|_| function.assign(&host.windows, &mut taken))
            .and_then(|kind| Some((kind, function.status()?)));
        if virtio.is_some() {
            function.bars().iter().for_each(|bar| map.add_device(&bar.range.whole_pages()));
            function.command(Command::MEMORY_SPACE, Command::empty());
        }
        add(&Found { function, was_mastering, virtio });
    }
}
