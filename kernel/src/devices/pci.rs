//! PCI functions on every bus of each host, reached through an ECAM or CAM.
//!
//! - When: discovery, once per generation; then on behalf of a device that is driven or reset.
//! - Leaves: virtio functions with BARs assigned and memory decoding on, behind bridges with bus
//!   numbers and windows. QEMU's `-kernel`, for one, assigns none of these.
//! - Leaves: bus mastering off, except on functions that a driver uses, and the bridges above them.

use super::Identity;
use super::register::register_at;
use crate::map::KernelIdmap;
use boot::phys::{PhysAddr, PhysRange};
use core::fmt;
use fdt::machine::PciHost;
use virtio::pci::{self, ConfigPlace, Host};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    Command, ConfigurationAccess, DeviceFunction, PCI_CAP_ID_VNDR, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, VIRTIO_PCI_CAP_COMMON_CFG, virtio_device_type};

/// Offset of device_status in virtio's common configuration (virtio 1.2, 4.1.4.3).
pub const STATUS: u64 = 0x14;

/// A function's place in configuration space, with its IDs.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    config: ConfigPlace,
    /// The host's number, on a machine with several hosts.
    domain: Option<u32>,
    at: DeviceFunction,
    vendor: u16,
    device: u16,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeviceFunction { bus, device, function } = self.at;
        f.write_str("PCI ")?;
        if let Some(domain) = self.domain {
            write!(f, "{domain:04x}:")?;
        }
        write!(f, "{bus:02x}:{device:02x}.{function} ({:04x}:{:04x})", self.vendor, self.device)
    }
}

/// Configuration space as memory. (virtio-drivers' `MmioCam` needs all 256 buses mapped; a machine
/// may have fewer.)
#[derive(Clone, Copy)]
struct Config(ConfigPlace);

impl Config {
    fn register(&self, at: DeviceFunction, offset: u8) -> u64 {
        self.0.register(at, offset).get()
    }
}

impl ConfigurationAccess for Config {
    fn read_word(&self, at: DeviceFunction, offset: u8) -> u32 {
        register_at::<u32>(self.register(at, offset)).read()
    }

    fn write_word(&mut self, at: DeviceFunction, offset: u8, data: u32) {
        register_at::<u32>(self.register(at, offset)).write(data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

impl Function {
    /// Turns bus mastering off.
    ///
    /// # Errors
    ///
    /// Returns Command if the function keeps the bit set.
    pub fn stop_mastering(&self) -> Result<(), u16> {
        let access = Config(self.config);
        let command = pci::command(access, self.at, Command::empty(), Command::BUS_MASTER);
        if command.contains(Command::BUS_MASTER) { Err(command.bits()) } else { Ok(()) }
    }

    /// Opens the function as a virtio transport and turns bus mastering on, upstream included.
    pub fn transport(&self) -> Option<PciTransport> {
        let transport = {
            let mut root = PciRoot::new(Config(self.config));
            PciTransport::new::<Identity, _>(&mut root, self.at).ok()?
        };
        pci::master(Config(self.config), self.config.first_bus, self.at);
        Some(transport)
    }
}

/// Returns the address of the Status register, if the function has virtio's structures (virtio
/// 1.2, 4.1.4) in a memory BAR.
fn status(access: Config, at: DeviceFunction, bars: &[pci::Bar]) -> Option<PhysAddr> {
    let common = PciRoot::new(access).capabilities(at).find(|capability| {
        capability.id == PCI_CAP_ID_VNDR
            && (capability.private_header >> 8) as u8 == VIRTIO_PCI_CAP_COMMON_CFG
    })?;
    let bar = access.read_word(at, common.offset + 4) as u8;
    let offset = access.read_word(at, common.offset + 8);
    let bar = bars.iter().find(|found| found.index == bar)?;
    bar.range
        .start
        .checked_add(u64::from(offset) + STATUS)
        .filter(|status| bar.range.contains(status))
}

/// A function found on one of a host's buses.
pub struct Found {
    /// The function.
    pub function: Function,
    /// The Command register, if bus mastering was on.
    pub was_mastering: Option<u16>,
    /// The virtio device type and the address of the Status register, if it is a virtio device
    /// whose registers are reachable.
    pub virtio: Option<(DeviceType, PhysAddr)>,
}

/// Finds every function of the host but host bridges, and passes each to `add`. Turns bus mastering
/// off, and maps the registers of virtio functions.
pub fn find(
    host: &PciHost,
    domain: Option<u32>,
    map: &mut KernelIdmap,
    mut add: impl FnMut(&Found),
) {
    let PciHost { config, layout, buses, windows, .. } = host;
    map.add_device(config);
    let (start, first_bus, bus_bytes) = (config.start, *buses.start(), layout.bus_bytes());
    let config = ConfigPlace { start, first_bus, bus_bytes };
    let access = Config(config);
    let found = Host::find(access, buses, windows);
    for function in &found.functions {
        let pci::Function { at, ref info, was_mastering, .. } = *function;
        let bars = found.bars(function);
        let virtio = virtio_device_type(info)
            .filter(|_| found.is_assigned(function))
            .and_then(|kind| Some((kind, status(access, at, &bars)?)));
        if virtio.is_some() {
            bars.iter().for_each(|bar| map.add_device(&bar.range.whole_pages()));
            found.decode(function);
        }
        let (vendor, device) = (info.vendor_id, info.device_id);
        let function = Function { config, domain, at, vendor, device };
        add(&Found { function, was_mastering, virtio });
    }
}
