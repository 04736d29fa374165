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
use crate::node::{self, Node, Text, number, strings, until, until_nul};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::{PhysAddr, PhysRange};
use bus::{Bus, Cells, LAST_PAGE, NoAddress, within};
use core::ops::{Range, RangeInclusive};

mod bus;
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
            // WdogControl.INTEN (DDI 0270, 3.3.3).
            Self::Sp805 => 8,
            // WCS.EN (BSA, B.2.1), in the control frame.
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

/// A device that this kernel drives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    GicV2,
    GicV3,
    Its,
    Virtio,
    Pci(ConfigSpace),
    Timer,
    Psci,
    Watchdog(WatchdogKind),
}

/// The `compatible` strings of what this kernel drives. The GICs are those of Linux's irq-gic.c and
/// irq-gic-v3.c.
const ROLES: [(&str, Role); 21] = [
    ("virtio,mmio", Role::Virtio),
    ("arm,gic-v3", Role::GicV3),
    ("arm,gic-v3-its", Role::Its),
    ("arm,gic-400", Role::GicV2),
    ("arm,arm11mp-gic", Role::GicV2),
    ("arm,arm1176jzf-devchip-gic", Role::GicV2),
    ("arm,cortex-a15-gic", Role::GicV2),
    ("arm,cortex-a9-gic", Role::GicV2),
    ("arm,cortex-a7-gic", Role::GicV2),
    ("qcom,msm-8660-qgic", Role::GicV2),
    ("qcom,msm-qgic2", Role::GicV2),
    ("arm,pl390", Role::GicV2),
    ("pci-host-cam-generic", Role::Pci(ConfigSpace::Cam)),
    ("pci-host-ecam-generic", Role::Pci(ConfigSpace::Ecam)),
    ("arm,armv8-timer", Role::Timer),
    ("arm,armv7-timer", Role::Timer),
    ("arm,psci-1.0", Role::Psci),
    ("arm,psci-0.2", Role::Psci),
    (PSCI_0_1, Role::Psci),
    ("arm,sp805", Role::Watchdog(WatchdogKind::Sp805)),
    ("arm,sbsa-gwdt", Role::Watchdog(WatchdogKind::Sbsa)),
];

/// PSCI 0.1. Its successors may be named beside it.
const PSCI_0_1: &str = "arm,psci";

impl Role {
    /// Returns the role of the first known string of a `compatible`.
    fn of(compatible: &[u8]) -> Option<Self> {
        strings(compatible).find_map(|one| {
            ROLES.iter().find(|(known, _)| known.as_bytes() == one).map(|&(_, role)| role)
        })
    }
}

/// The part of the tree below a child of the root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Memory,
    Reserved,
    Cpus,
    Devices,
    Nothing,
}

impl Part {
    fn of(child: &Node<'_>) -> Self {
        match child.base_name() {
            b"memory" => Self::Memory,
            b"reserved-memory" => Self::Reserved,
            b"cpus" => Self::Cpus,
            b"chosen" | b"aliases" => Self::Nothing,
            _ => Self::Devices,
        }
    }
}

impl Machine {
    /// Reads the machine from the device tree.
    ///
    /// # Errors
    ///
    /// Returns [`Error::FirmwareMap`], [`Error::UsableMemory`] or [`Error::NoRam`].
    pub fn read(tree: &Tree<'_>) -> Result<Self, Error> {
        let mut reader = Reader {
            root: tree.root.clone(),
            buses: Vec::from([Bus::of(&tree.root, None)]),
            console: None,
            machine: Self::default(),
        };
        for pair in tree.blob.reservations() {
            let (start, bytes) = pair.split_at(8);
            reader.reserve(number(start), number(bytes), "/memreserve/", false);
        }
        if let Some(path) = tree.stdout_path() {
            reader.console = tree.find(path);
            let path = || Text(path).to_string();
            reader.machine.console_error = Some(match reader.console {
                Some(_) => console::Error::NoAddress(path()),
                None => console::Error::NoNode(path()),
            });
        }
        reader.read();
        let mut machine = reader.machine;
        let limits = tree.usable_memory()?;
        machine.firmware_map = tree.firmware_map(limits.clone())?;
        if machine.firmware_map.is_some() {
            machine.ram.clear();
            return Ok(machine);
        }
        if let Some(limits) = limits {
            machine.ram = only(&machine.ram, &limits);
        }
        machine.keep_registers();
        if machine.ram.is_empty() { Err(Error::NoRam) } else { Ok(machine) }
    }

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

/// The reader on its way through the tree.
struct Reader<'a> {
    root: Node<'a>,
    /// The nodes that the reader is in, from the root on.
    buses: Vec<Bus<'a>>,
    /// The node that stdout-path names.
    console: Option<Node<'a>>,
    machine: Machine,
}

impl<'a> Reader<'a> {
    fn read(&mut self) {
        let mut part = Part::Nothing;
        for node in self.root.clone().descendants() {
            let depth = node.depth() - 1;
            if depth == 1 {
                part = Part::of(&node);
            }
            if depth > MAX_DEPTH {
                if depth == MAX_DEPTH + 1 {
                    self.skip(&node, Skipped::TooDeep);
                }
                continue;
            }
            self.buses.truncate(depth);
            let bus = Bus::of(&node, self.buses.last());
            match (part, depth) {
                (Part::Memory, 1) => self.add_memory(&node, &bus),
                (Part::Reserved, 2) => self.add_reservation(&node, &bus),
                (Part::Cpus, 2) => self.add_cpu(&node, &bus),
                (Part::Devices, _) => self.add_device(&node, &bus),
                _ => {}
            }
            self.buses.push(bus);
        }
    }

    /// Names a node that could not be read.
    fn skip(&mut self, node: &Node<'_>, why: fn(String) -> Skipped) {
        let skipped = &mut self.machine.skipped;
        if let Some(Skipped::More(count)) = skipped.last_mut() {
            *count += 1;
        } else if skipped.len() == MAX_SKIPPED {
            skipped.push(Skipped::More(1));
        } else {
            skipped.push(why(path(&self.buses, node)));
        }
    }

    /// Returns the cells of the node that the reader is in.
    fn cells(&self) -> Cells {
        self.buses[self.buses.len() - 1].cells
    }

    fn add_memory(&mut self, node: &Node<'_>, bus: &Bus<'_>) {
        let reg = node.property("linux,usable-memory").or(bus.reg).filter(|_| bus.is_available);
        let Some(pairs) = self.cells().pairs(reg.unwrap_or_default()) else {
            return self.skip(node, Skipped::Reg);
        };
        for (start, bytes) in pairs.filter(|(_, bytes)| *bytes > 0) {
            match within(start, bytes) {
                Some(range) => join(&mut self.machine.ram, range),
                None => self.skip(node, Skipped::Reg),
            }
        }
    }

    fn add_reservation(&mut self, node: &Node<'_>, bus: &Bus<'_>) {
        let Some(reg) = bus.reg.filter(|_| bus.is_available) else { return };
        let no_map = node.property("no-map").is_some();
        match self.cells().pairs(reg) {
            Some(pairs) => pairs.for_each(|(start, bytes)| {
                self.reserve(start, bytes, &node.to_string(), no_map);
            }),
            None => self.skip(node, Skipped::Reg),
        }
    }

    /// Adds a reservation, as much of it as is before the last page of the 64-bit space.
    fn reserve(&mut self, start: u64, bytes: u64, name: &str, no_map: bool) {
        let end = PhysAddr::new(start).saturating_add(bytes).min(LAST_PAGE);
        let range = PhysAddr::new(start)..end;
        if !range.is_empty() {
            self.machine.reserved.push(Reservation { range, name: name.into(), no_map });
        }
    }

    fn add_cpu(&mut self, node: &Node<'_>, bus: &Bus<'_>) {
        if node.base_name() != b"cpu" && !node.has_string("device_type", "cpu") {
            return;
        }
        let failed = node.property("status").is_some_and(|status| status.starts_with(b"fail"));
        if failed {
            return;
        }
        // A CPU with several threads has an affinity for each; the first is the CPU's own.
        let reg = bus.reg.unwrap_or_default();
        let affinity = match self.cells().address {
            cells @ (1 | 2) => reg.get(..4 * cells).map(number),
            _ => None,
        };
        match affinity {
            Some(affinity)
                if affinity & !AFFINITY == 0 && !self.machine.cpus.contains(&affinity) =>
            {
                self.machine.cpus.push(affinity);
            }
            _ => self.skip(node, Skipped::Cpu),
        }
    }

    fn add_device(&mut self, node: &Node<'a>, bus: &Bus<'_>) {
        let role = Role::of(bus.compatible).filter(|_| bus.is_available);
        let is_console = self.console.as_ref().is_some_and(|console| console.is(node));
        let mut registers = Vec::new();
        if let Some(reg) = bus.reg.filter(|reg| !reg.is_empty()) {
            match bus::registers(&self.buses, reg) {
                Ok(found) => registers = found,
                Err(NoAddress::Malformed) => self.skip(node, Skipped::Reg),
                Err(NoAddress::Elsewhere) if role.is_some() => self.skip(node, Skipped::Address),
                Err(NoAddress::Elsewhere) => {}
            }
        }
        if is_console {
            self.set_console(node, bus, registers.first().cloned());
        }
        if let Some(role) = role {
            self.add_driven(role, node, bus, &registers);
        }
        let devices = &mut self.machine.devices;
        for range in registers {
            match devices.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => devices.push(range),
            }
        }
    }

    fn set_console(&mut self, node: &Node<'_>, bus: &Bus<'_>, registers: Option<Range<PhysAddr>>) {
        let path = path(&self.buses, node);
        let machine = &mut self.machine;
        match Console::of(node, path, bus.is_available, registers) {
            Ok(console) => {
                (machine.console, machine.console_error) = (Some(console), None);
            }
            Err(error) => machine.console_error = Some(error),
        }
    }

    fn add_driven(
        &mut self,
        role: Role,
        node: &Node<'a>,
        bus: &Bus<'_>,
        registers: &[Range<PhysAddr>],
    ) {
        let machine = &mut self.machine;
        match (role, registers) {
            (Role::GicV2, [distributor, cpu_interface, ..]) if machine.gic.is_none() => {
                let (distributor, cpu_interface) = (distributor.clone(), cpu_interface.clone());
                machine.gic = Some(Gic::V2 { distributor, cpu_interface });
            }
            (Role::GicV3, [distributor, rest @ ..]) if machine.gic.is_none() => {
                // After the redistributor regions, `reg` may name a GICv2-compatible CPU interface.
                let regions = node.cell("#redistributor-regions").unwrap_or(1) as usize;
                let stride = node.property("redistributor-stride").map(number);
                let regions = rest[..regions.min(rest.len())].into();
                let redistributors =
                    Redistributors { regions, stride: stride.filter(|&stride| stride > 0) };
                machine.gic = Some(Gic::V3 { distributor: distributor.clone(), redistributors });
            }
            (Role::Its, [its, ..]) => machine.its.push(its.clone()),
            (Role::Virtio, [slot, ..]) => machine.virtio.push(slot.clone()),
            (Role::Pci(layout), [config, ..]) => {
                let windows = self.windows(bus.ranges.unwrap_or_default());
                let (config, buses) = (config.clone(), buses(node, layout, config));
                let host = buses.map(|buses| PciHost { config, layout, buses, windows });
                self.machine.pci.extend(host);
            }
            (Role::Timer, _) if machine.timer.is_none() => {
                machine.timer = Some(timer::read(&self.root, node, bus));
            }
            (Role::Psci, _) if machine.psci.is_none() => self.set_psci(node),
            (Role::Watchdog(kind), [control, ..]) => {
                let (path, control) = (path(&self.buses, node), control.clone());
                machine.watchdogs.push(Watchdog { path, kind, control });
            }
            _ => {}
        }
    }

    fn set_psci(&mut self, node: &Node<'_>) {
        let conduit = match node.property("method").map(until_nul) {
            Some(b"smc") => Conduit::Smc,
            Some(b"hvc") => Conduit::Hvc,
            _ => return self.skip(node, Skipped::Method),
        };
        let is_0_1 = strings(node.property("compatible").unwrap_or_default())
            .all(|one| one == PSCI_0_1.as_bytes() || Role::of(one) != Some(Role::Psci));
        let functions = is_0_1.then(|| Functions {
            cpu_suspend: node.cell("cpu_suspend"),
            cpu_off: node.cell("cpu_off"),
            cpu_on: node.cell("cpu_on"),
            migrate: node.cell("migrate"),
        });
        self.machine.psci = Some(Psci { conduit, functions });
    }

    /// Returns the memory windows of a PCI host's `ranges` that have the same address on both
    /// sides. Bits 25:24 of the first of three cells are the space (PCI Bus Binding, 2.2.1.1).
    fn windows(&self, ranges: &[u8]) -> Vec<Range<PhysAddr>> {
        const MEMORY: u64 = 2;
        let address = self.cells().address;
        let entries = ranges.chunks_exact(4 * (3 + address + 2));
        let windows = entries.filter_map(|entry| {
            let (space, at) = (number(&entry[..4]) >> 24 & 3, number(&entry[4..12]));
            let (start, bytes) = entry[12..].split_at(4 * address);
            let start = bus::translate(&self.buses, number(start))?;
            (space & MEMORY != 0 && at == start).then(|| within(at, number(bytes)))?
        });
        windows.collect()
    }
}

/// The affinity fields of MPIDR_EL1: the bits that a CPU's `reg` holds.
pub const AFFINITY: u64 = 0xff_00ff_ffff;

/// Returns the bus numbers of a PCI host: its `bus-range`, cut to what configuration space holds
/// from the first one on. Linux reads both in the same way.
fn buses(
    node: &Node<'_>,
    layout: ConfigSpace,
    config: &Range<PhysAddr>,
) -> Option<RangeInclusive<u8>> {
    let given = node.property("bus-range").filter(|range| range.len() == 8);
    let (first, last) = given.map_or((0, 255), |range| {
        let (first, last) = range.split_at(4);
        (number(first), number(last))
    });
    let held = first + (config.bytes() / layout.bus_bytes()).checked_sub(1)?;
    let last = u8::try_from(last.min(held).min(255)).ok()?;
    let first = u8::try_from(first).ok()?;
    (first <= last).then_some(first..=last)
}

/// Returns the path of a node within these.
fn path(buses: &[Bus<'_>], node: &Node<'_>) -> String {
    let mut path = String::new();
    let names = buses.iter().skip(1).map(|bus| bus.name);
    for name in names.chain([node.name()]) {
        path += &alloc::format!("/{}", Text(name));
    }
    path
}

/// Returns the parts of `ranges` that are within `limits`.
fn only(ranges: &[Range<PhysAddr>], limits: &[Range<PhysAddr>]) -> Vec<Range<PhysAddr>> {
    let mut left = Vec::new();
    for limit in limits {
        let parts =
            ranges.iter().map(|range| range.start.max(limit.start)..range.end.min(limit.end));
        parts.filter(|part| part.bytes() > 0).for_each(|part| join(&mut left, part));
    }
    left
}

/// Adds a range to ordered ranges, merging those that touch.
fn join(ranges: &mut Vec<Range<PhysAddr>>, mut range: Range<PhysAddr>) {
    ranges.retain(|other| {
        let touch = other.start <= range.end && range.start <= other.end;
        if touch {
            range = range.start.min(other.start)..range.end.max(other.end);
        }
        !touch
    });
    let before = ranges.iter().take_while(|other| other.start < range.start).count();
    ranges.insert(before, range);
}

#[cfg(test)]
pub(crate) mod tests;
