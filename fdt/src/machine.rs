//! Device tree reader: RAM, CPUs, devices, interrupts, console, PSCI, bootargs.
//!
//! - When: in the first lines of Rust, from the blob that the loader passed.
//! - Leaves: owned values; nothing points into the blob afterwards.
//! - Refuses: an invalid blob; a tree without RAM or without /chosen, which the next generation
//!   needs; a malformed `linux,uefi-mmap-*` or `linux,usable-memory-range`.
//! - Skips a node whose `reg`, `ranges` or `method` is malformed, and names it in
//!   [`Machine::skipped`]. Ignores a node without the registers that its role needs.
//!
//! The reader passes over the tree once, without recursion, and translates a device's `reg` through
//! the `ranges` of every bus above it.

use crate::blob::Blob;
use crate::console::{self, Console};
use crate::node::{self, Node, number, until, until_nul};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::{PhysAddr, PhysRange};
use bus::{Bus, within};
use core::ops::{Range, RangeInclusive};
use reader::{join, only};

mod bus;
mod reader;
mod timer;

/// Conduit of PSCI calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Conduit {
    /// SMC: the firmware is above EL2.
    Smc,
    /// HVC: the firmware is at EL2.
    Hvc,
}

/// A range of RAM that this kernel must not use.
#[derive(Clone, Debug, Eq, PartialEq)]
#[doc(alias = "reserved-memory")]
#[doc(alias = "memreserve")]
pub struct Reservation {
    /// The reserved range.
    pub range: Range<PhysAddr>,
    /// The node's name, or `/memreserve/`.
    pub name: String,
    /// The range must not even be mapped: a speculative access could do harm.
    pub no_map: bool,
}

/// The interrupt controller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Gic {
    /// GICv2: distributor and CPU interface, which every CPU sees at the same address.
    V2 {
        /// GICD.
        distributor: Range<PhysAddr>,
        /// GICC.
        cpu_interface: Range<PhysAddr>,
    },
    /// GICv3 or v4: distributor and redistributor regions. The CPU interface is system registers.
    V3 {
        /// GICD.
        distributor: Range<PhysAddr>,
        /// GICR.
        redistributors: Redistributors,
    },
}

/// GICv3's redistributors: one for each CPU, in the order of their registers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redistributors {
    /// The regions that hold them.
    pub regions: Vec<Range<PhysAddr>>,
    /// The bytes from one to the next, where that is more than its frames.
    pub stride: Option<u64>,
}

impl Gic {
    /// Returns the ranges of its registers.
    #[must_use]
    pub fn registers(&self) -> Vec<Range<PhysAddr>> {
        let (first, rest) = match self {
            Self::V2 { distributor, cpu_interface } => {
                (distributor, core::slice::from_ref(cpu_interface))
            }
            Self::V3 { distributor, redistributors } => (distributor, &redistributors.regions[..]),
        };
        core::iter::once(first).chain(rest).cloned().collect()
    }
}

/// The generic timer's interrupts as INTIDs (binding `arm,armv8-timer`).
///
/// A hypervisor gives its guest no timer of EL2, and some SoCs have a timer whose interrupts go to
/// another controller than a GIC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timer {
    /// EL1's virtual timer.
    pub virtual_el1: Option<u32>,
    /// EL2's physical timer.
    pub physical_el2: Option<u32>,
}

/// PSCI, as the device tree names it (binding `arm,psci`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Psci {
    /// The conduit of its calls.
    pub conduit: Conduit,
    /// The function IDs of PSCI 0.1, which has no standard ones. `None` since PSCI 0.2.
    pub functions: Option<Functions>,
}

impl Psci {
    /// Returns the conduit, if the functions are those of PSCI 0.2 or later.
    ///
    /// PSCI 0.1 has no AFFINITY_INFO, which says whether a CPU is off.
    #[must_use]
    pub fn conduit_of_0_2(&self) -> Option<Conduit> {
        self.functions.is_none().then_some(self.conduit)
    }
}

/// A watchdog: a timer that resets the machine unless somebody stops it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Watchdog {
    /// The path of its node.
    pub path: String,
    /// Its kind.
    pub kind: WatchdogKind,
    /// The registers that control it.
    pub control: Range<PhysAddr>,
}

/// A kind of watchdog.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WatchdogKind {
    /// Arm's SP805.
    Sp805,
    /// The generic watchdog of Arm's SBSA.
    Sbsa,
}

impl WatchdogKind {
    /// Returns the offset of the 32-bit register whose bit 0 says that the watchdog runs.
    #[must_use]
    pub const fn enable(self) -> u64 {
        match self {
            // WdogControl.INTEN (Arm DDI 0270).
            Self::Sp805 => 8,
            // WCS.EN (Arm's BSA, generic watchdog), in the control frame.
            Self::Sbsa => 0,
        }
    }
}

/// The function IDs of PSCI 0.1, those that the device tree gives.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Functions {
    /// CPU_SUSPEND.
    pub cpu_suspend: Option<u32>,
    /// CPU_OFF.
    pub cpu_off: Option<u32>,
    /// CPU_ON.
    pub cpu_on: Option<u32>,
    /// MIGRATE.
    pub migrate: Option<u32>,
}

/// A node that the reader skipped, by its path, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Skipped {
    /// A `reg` that is not pairs of numbers of at most 64 bits.
    #[error("{0}: `reg` is not pairs of at most 64 bits within the address space")]
    Reg(String),
    /// A device that we would drive, on a bus whose `ranges` do not lead to the CPU.
    #[error("{0}: no `ranges` of its buses gives it an address of the CPU's")]
    Address(String),
    /// A CPU whose `reg` is no affinity, or that of a CPU before it.
    #[error("{0}: `reg` is not the affinity of another CPU")]
    Cpu(String),
    /// A PSCI node whose `method` is neither "smc" nor "hvc".
    #[error("{0}: `method` is neither smc nor hvc")]
    Method(String),
    /// A node within more than [`MAX_DEPTH`] others.
    #[error("{0}: within more than {MAX_DEPTH} nodes")]
    TooDeep(String),
    /// More nodes than [`MAX_SKIPPED`]: this many are not named.
    #[error("{0} more")]
    More(usize),
}

/// Limit of nested nodes: as deep as Linux reads a tree.
const MAX_DEPTH: usize = 64;

/// The most nodes that [`Machine::skipped`] names.
const MAX_SKIPPED: usize = 16;

/// The layout of a PCI host's configuration space.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConfigSpace {
    /// 256 bytes for each function, `pci-host-cam-generic`.
    Cam,
    /// 4 KiB for each function, `pci-host-ecam-generic`.
    Ecam,
}

impl ConfigSpace {
    /// Returns the bytes that a bus of 256 functions has.
    #[must_use]
    pub const fn bus_bytes(self) -> u64 {
        match self {
            Self::Cam => 256 << 8,
            Self::Ecam => 256 << 12,
        }
    }
}

/// A PCI host with memory-mapped configuration space.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PciHost {
    /// Configuration space, from the first bus on.
    pub config: Range<PhysAddr>,
    /// Its layout.
    pub layout: ConfigSpace,
    /// The numbers of the buses, of which configuration space has all.
    pub buses: RangeInclusive<u8>,
    /// Memory windows for functions' BARs, with the same address on both sides of the host.
    pub windows: Vec<Range<PhysAddr>>,
    /// `linux,pci-domain`.
    pub domain: Option<u32>,
}

/// The machine, as the device tree describes it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[doc(alias = "devicetree")]
pub struct Machine {
    /// RAM that may be used, in ascending order, adjacent ranges joined. Empty if it is described
    /// by [`Self::firmware_map`], until [`Self::take_ram`].
    pub ram: Vec<Range<PhysAddr>>,
    /// UEFI's memory map, if that describes RAM and the memory nodes do not.
    pub firmware_map: Option<FirmwareMap>,
    /// Reserved ranges of RAM.
    pub reserved: Vec<Reservation>,
    /// The registers of every device. Consecutive ranges that touch are joined.
    pub devices: Vec<Range<PhysAddr>>,
    /// The console, if stdout-path names one that we know.
    pub console: Option<Console>,
    /// The reason why there is none, although stdout-path names one.
    pub console_error: Option<console::Error>,
    /// Every virtio-mmio slot.
    pub virtio: Vec<Range<PhysAddr>>,
    /// Every PCI host whose configuration space has a bus at least.
    pub pci: Vec<PciHost>,
    /// PSCI.
    pub psci: Option<Psci>,
    /// Affinity bits of every CPU's MPIDR_EL1, in the tree's order. The boot CPU may be missing.
    pub cpus: Vec<u64>,
    /// The interrupt controller.
    pub gic: Option<Gic>,
    /// GICv3's ITSs.
    pub its: Vec<Range<PhysAddr>>,
    /// The generic timer.
    pub timer: Option<Timer>,
    /// The watchdogs.
    pub watchdogs: Vec<Watchdog>,
    /// The nodes that could not be read.
    pub skipped: Vec<Skipped>,
}

/// UEFI's memory map, as Linux's EFI stub saves it and names it in /chosen.
///
/// Linux's kexec passes it on. It describes RAM, and Linux ignores memory nodes then.
#[derive(Clone, Debug, Eq, PartialEq)]
#[doc(alias = "memmap")]
pub struct FirmwareMap {
    /// The place of the map.
    pub range: Range<PhysAddr>,
    /// The bytes from one descriptor to the next.
    pub stride: usize,
    /// The only RAM that may be used, if `linux,usable-memory-range` names some.
    limits: Option<Vec<Range<PhysAddr>>>,
}

/// The /chosen properties that name UEFI's memory map: its place, its size, and the size of a
/// descriptor.
const FIRMWARE_MAP: [&str; 3] =
    ["linux,uefi-mmap-start", "linux,uefi-mmap-size", "linux,uefi-mmap-desc-size"];

/// A reason why this kernel cannot run with a device tree.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not a valid tree: the text of [`Blob::new`].
    #[error("device tree: {0}: the loader must hand over a valid blob in x0")]
    Damaged(String),
    /// No memory node with a range, or a memory map of UEFI without RAM.
    #[error("device tree: no memory node names any RAM, nor does a memory map of UEFI")]
    NoRam,
    /// /chosen names UEFI's memory map, and not all that is needed to read it.
    #[error(
        "device tree: /chosen has {0}, but {0}, {1} and {2} do not describe a readable memory map: \
         pass all three on as Linux's EFI stub wrote them",
        FIRMWARE_MAP[0], FIRMWARE_MAP[1], FIRMWARE_MAP[2]
    )]
    FirmwareMap,
    /// No /chosen.
    #[error("device tree: no /chosen node: nothing could be handed on in it")]
    NoChosen,
    /// A `linux,usable-memory-range` that is not pairs. RAM outside of it must not be used.
    #[error(
        "device tree: {USABLE_MEMORY_RANGE} is not pairs of an address and a size: all RAM but \
         that range is another kernel's"
    )]
    UsableMemory,
}

/// A /chosen property of a crash kernel: the RAM that it may use, of all RAM.
const USABLE_MEMORY_RANGE: &str = "linux,usable-memory-range";

/// A valid tree with its /chosen node.
#[derive(Clone, Debug)]
#[doc(alias = "fdt")]
#[doc(alias = "dtb")]
#[doc(alias = "devicetree")]
pub struct Tree<'a> {
    blob: Blob<'a>,
    root: Node<'a>,
    chosen: Node<'a>,
}

impl<'a> Tree<'a> {
    /// Opens a blob.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Damaged`] if the blob is no valid tree, or [`Error::NoChosen`].
    pub fn open(blob: &'a [u8]) -> Result<Self, Error> {
        let blob = Blob::new(blob).map_err(|error| Error::Damaged(error.to_string()))?;
        let root = Node::root(&blob).ok_or(Error::NoChosen)?;
        // Not `Node::child`, which would find a node like chosen@0 as well.
        let chosen = root.children().find(|node| node.name() == b"chosen");
        let chosen = chosen.ok_or(Error::NoChosen)?;
        Ok(Self { blob, root, chosen })
    }

    /// Returns /chosen/bootargs up to the first NUL or the end, or nothing.
    ///
    /// The loader may have written any bytes. kexec-tools pads them with up to three more NULs.
    #[must_use]
    #[doc(alias = "cmdline")]
    pub fn bootargs(&self) -> &'a [u8] {
        until_nul(self.chosen.property("bootargs").unwrap_or_default())
    }

    /// Returns a 64-bit property of /chosen.
    #[must_use]
    pub fn chosen_u64(&self, name: &str) -> Option<u64> {
        self.chosen.property(name)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// Returns the ranges of `linux,usable-memory-range`.
    fn usable_memory(&self) -> Result<Option<Vec<Range<PhysAddr>>>, Error> {
        let Some(usable) = self.chosen.property(USABLE_MEMORY_RANGE) else { return Ok(None) };
        let pairs = Bus::of(&self.root, None).cells.pairs(usable).ok_or(Error::UsableMemory)?;
        let ranges = pairs.map(|(start, bytes)| {
            let start = PhysAddr::new(start);
            start..start.saturating_add(bytes)
        });
        Ok(Some(ranges.collect()))
    }

    fn firmware_map(
        &self,
        limits: Option<Vec<Range<PhysAddr>>>,
    ) -> Result<Option<FirmwareMap>, Error> {
        let [start, bytes, stride] = FIRMWARE_MAP.map(|name| self.chosen.property(name));
        let Some(start) = start else { return Ok(None) };
        let number = |value: Option<&[u8]>| {
            value.filter(|value| matches!(value.len(), 4 | 8)).map(number).ok_or(Error::FirmwareMap)
        };
        let range = within(number(Some(start))?, number(bytes)?).filter(|range| !range.is_empty());
        let stride = number(stride)? as usize;
        Ok(Some(FirmwareMap { range: range.ok_or(Error::FirmwareMap)?, stride, limits }))
    }

    /// Returns linux,initrd-start to linux,initrd-end of /chosen, each one cell or two.
    #[must_use]
    #[doc(alias = "ramdisk")]
    pub fn initrd(&self) -> Option<Range<PhysAddr>> {
        let at = |name| {
            let cells = self.chosen.property(name)?;
            matches!(cells.len(), 4 | 8).then(|| PhysAddr::new(number(cells)))
        };
        Some(at("linux,initrd-start")?..at("linux,initrd-end")?)
    }

    /// Returns the path or alias in stdout-path, without options.
    fn stdout_path(&self) -> Option<&'a [u8]> {
        let path = ["stdout-path", "linux,stdout-path"].iter();
        let path =
            until(until_nul(path.clone().find_map(|name| self.chosen.property(name))?), b':');
        (!path.is_empty()).then_some(path)
    }

    /// Returns the node at a path, whose first name may be an alias.
    fn find(&self, path: &[u8]) -> Option<Node<'a>> {
        if path.starts_with(b"/") {
            return self.root.find(path);
        }
        let alias = until(path, b'/');
        let aliases = self.root.children().find(|node| node.name() == b"aliases")?;
        let is_it = |property: &node::Property<'_>| property.name == alias;
        let node = self.root.find(until_nul(aliases.properties().find(is_it)?.value))?;
        node.find(&path[alias.len()..])
    }
}

impl Machine {
    /// Reserves the registers that are inside RAM: a memory node may cover them.
    fn keep_registers(&mut self) {
        let in_ram = |device: &&Range<PhysAddr>| self.ram.iter().any(|ram| ram.overlaps(device));
        let devices: Vec<_> = self.devices.iter().filter(in_ram).cloned().collect();
        let reservation =
            |range| Reservation { range, name: "registers of a device".into(), no_map: true };
        self.reserved.extend(devices.into_iter().map(reservation));
    }

    /// Takes the RAM that UEFI's memory map describes.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NoRam`].
    pub fn take_ram(&mut self, ram: impl Iterator<Item = Range<PhysAddr>>) -> Result<(), Error> {
        ram.for_each(|range| join(&mut self.ram, range));
        if let Some(limits) = self.firmware_map.as_ref().and_then(|map| map.limits.as_ref()) {
            self.ram = only(&self.ram, limits);
        }
        self.keep_registers();
        if self.ram.is_empty() { Err(Error::NoRam) } else { Ok(()) }
    }
}

/// The affinity fields of MPIDR_EL1: the bits that a CPU's `reg` holds.
pub const AFFINITY: u64 = 0xff_00ff_ffff;

#[cfg(test)]
pub(crate) mod tests;
