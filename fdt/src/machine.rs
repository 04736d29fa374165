//! Device tree reader: RAM, CPUs, devices, interrupts, console, PSCI, bootargs.
//!
//! - When: in the first lines of Rust, from the blob that the loader passed.
//! - Leaves: owned values; nothing points into the blob afterwards.
//! - Refuses: an invalid blob; a tree without RAM or without /chosen, which the next generation
//!   needs; a `reg` wider than 64 bits; buses nested more than [`MAX_DEPTH`] deep.
//!
//! The reader follows a bus only if its `ranges` is empty, which maps addresses 1:1. Other buses
//! hold no device that this kernel drives.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::PhysAddr;
use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use node::{Cells, Facts, number};

mod node;

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
        /// GICR regions.
        redistributors: Vec<Range<PhysAddr>>,
    },
}

impl Gic {
    /// Returns the ranges of its registers.
    #[must_use]
    pub fn registers(&self) -> Vec<Range<PhysAddr>> {
        let (first, rest) = match self {
            Self::V2 { distributor, cpu_interface } => {
                (distributor, core::slice::from_ref(cpu_interface))
            }
            Self::V3 { distributor, redistributors } => (distributor, &redistributors[..]),
        };
        core::iter::once(first).chain(rest).cloned().collect()
    }

    /// Shortens redistributor regions to what `cpus` CPUs need: some have room for hundreds.
    fn cut(&mut self, cpus: usize) {
        // At most four frames of 64 KiB each, on a GICv4.
        const REDISTRIBUTOR: u64 = 256 << 10;
        if let Self::V3 { redistributors, .. } = self {
            for region in redistributors {
                region.end = region
                    .end
                    .min(PhysAddr(region.start.0.saturating_add(REDISTRIBUTOR * cpus as u64)));
            }
        }
    }
}

/// The generic timer's interrupts as INTIDs (binding `arm,armv8-timer`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timer {
    /// EL1's virtual timer.
    pub virtual_el1: u32,
    /// EL2's physical timer.
    pub physical_el2: u32,
}

/// Limit of nested buses: as deep as Linux reads a tree, and shallow enough for the boot stack.
const MAX_DEPTH: usize = 64;

/// A PCI host with memory-mapped configuration space, `pci-host-ecam-generic`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PciHost {
    /// Configuration space, from the first bus on.
    pub ecam: Range<PhysAddr>,
    /// Memory windows for functions' BARs, with the same address on both sides of the host.
    pub windows: Vec<Range<PhysAddr>>,
}

/// The machine, as the device tree describes it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[doc(alias = "devicetree")]
pub struct Machine {
    /// RAM in ascending order, adjacent ranges joined.
    pub ram: Vec<Range<PhysAddr>>,
    /// Reserved ranges of RAM.
    pub reserved: Vec<Reservation>,
    /// The registers of every device.
    pub devices: Vec<Range<PhysAddr>>,
    /// The PL011 that stdout-path names, or the first one.
    pub uart: Option<Range<PhysAddr>>,
    /// Every virtio-mmio slot.
    pub virtio: Vec<Range<PhysAddr>>,
    /// Every PCI host with an ECAM.
    pub pci: Vec<PciHost>,
    /// PSCI's conduit, if there is a /psci.
    pub conduit: Option<Conduit>,
    /// Affinity bits of every CPU's MPIDR_EL1, in the tree's order.
    pub cpus: Vec<u64>,
    /// The interrupt controller.
    pub gic: Option<Gic>,
    /// GICv3's ITSs.
    pub its: Vec<Range<PhysAddr>>,
    /// The generic timer.
    pub timer: Option<Timer>,
}

/// A /chosen property that Linux's EFI stub writes, and that Linux's kexec passes on.
const FIRMWARE_MAP: &str = "linux,uefi-mmap-start";

/// A reason why this kernel cannot run with a device tree.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not a valid tree: dtoolkit's error text.
    #[error("device tree: {0}: the loader must hand over a valid blob in x0")]
    Damaged(String),
    /// No memory node with a range.
    #[error("device tree: no memory node names any RAM")]
    NoRam,
    /// Linux's mark that UEFI's memory map describes RAM, and the memory nodes do not.
    #[error(
        "device tree: {FIRMWARE_MAP} says that UEFI's memory map describes RAM, and this \
         kernel reads the memory nodes: start it from UEFI itself"
    )]
    FirmwareMap,
    /// No /chosen.
    #[error("device tree: no /chosen node: nothing could be handed on in it")]
    NoChosen,
    /// A node whose `reg` is malformed or wider than 64 bits.
    #[error("device tree: {0}: `reg` is not pairs of at most 64 bits")]
    Reg(String),
    /// A node behind more than [`MAX_DEPTH`] buses.
    #[error("device tree: {0} is behind more than {MAX_DEPTH} buses")]
    TooDeep(String),
}

/// A valid tree with its /chosen node.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "fdt")]
#[doc(alias = "dtb")]
#[doc(alias = "devicetree")]
pub struct Tree<'a> {
    fdt: Fdt<'a>,
    chosen: FdtNode<'a>,
}

impl<'a> Tree<'a> {
    /// Opens a blob.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Damaged`] if the blob is no valid tree, or [`Error::NoChosen`].
    pub fn open(blob: &'a [u8]) -> Result<Self, Error> {
        let fdt = Fdt::new(blob).map_err(|error| Error::Damaged(error.to_string()))?;
        // Not `find_node`, which would find a node like chosen@0 as well.
        let chosen = fdt.root().children().find(|node| node.name() == "chosen");
        let chosen = chosen.ok_or(Error::NoChosen)?;
        Ok(Self { fdt, chosen })
    }

    /// Returns /chosen/bootargs, or an empty string.
    #[must_use]
    #[doc(alias = "cmdline")]
    pub fn bootargs(&self) -> &'a str {
        self.chosen_text("bootargs").unwrap_or_default()
    }

    /// Returns a 64-bit property of /chosen.
    #[must_use]
    pub fn chosen_u64(&self, name: &str) -> Option<u64> {
        self.chosen.property(name)?.value_as().ok()
    }

    /// Returns linux,initrd-start to linux,initrd-end of /chosen, each one cell or two.
    #[must_use]
    #[doc(alias = "ramdisk")]
    pub fn initrd(&self) -> Option<Range<PhysAddr>> {
        let at = |name| {
            let cells: &[u8] = self.chosen.property(name)?.value_as().ok()?;
            matches!(cells.len(), 4 | 8).then(|| PhysAddr(number(cells)))
        };
        Some(at("linux,initrd-start")?..at("linux,initrd-end")?)
    }

    fn chosen_text(&self, name: &str) -> Option<&'a str> {
        // Stop at the first zero byte; kexec-tools pads bootargs with up to three more.
        self.chosen.property(name)?.value_as::<&str>().ok()?.split('\0').next()
    }

    /// Returns the name of the node that stdout-path names, by path or alias, without options.
    fn stdout(&self) -> Option<&'a str> {
        let path = self.chosen_text("stdout-path")?.split(':').next()?;
        let path = match self.fdt.find_node("/aliases").and_then(|aliases| aliases.property(path)) {
            Some(alias) => alias.value_as().ok()?,
            None => path,
        };
        path.rsplit('/').next()
    }
}

impl Machine {
    /// Reads the machine from the device tree.
    ///
    /// # Errors
    ///
    /// Returns [`Error::FirmwareMap`], [`Error::NoRam`], [`Error::Reg`] or
    /// [`Error::TooDeep`].
    pub fn read(tree: &Tree<'_>) -> Result<Self, Error> {
        if tree.chosen.property(FIRMWARE_MAP).is_some() {
            return Err(Error::FirmwareMap);
        }
        let mut machine = Self::default();
        for reservation in tree.fdt.memory_reservations() {
            if let Some(range) = PhysAddr(reservation.address()).range(reservation.size()) {
                machine.reserved.push(Reservation {
                    range,
                    name: "/memreserve/".into(),
                    no_map: false,
                });
            }
        }
        let root = tree.fdt.root();
        let cells = Facts::of(&root, Cells::DEFAULT).child_cells;
        let stdout = tree.stdout();
        for node in root.children() {
            match node.name_without_address() {
                "memory" => {
                    let facts = Facts::of(&node, cells);
                    let ranges = if facts.is_disabled { Vec::new() } else { facts.regs()? };
                    ranges.into_iter().for_each(|range| join(&mut machine.ram, range));
                }
                "reserved-memory" => {
                    let cells = Facts::of(&node, cells).child_cells;
                    for child in node.children() {
                        let no_map = child.property("no-map").is_some();
                        let ranges = Facts::of(&child, cells).regs()?.into_iter();
                        let reservation =
                            |range| Reservation { range, name: child.name().into(), no_map };
                        machine.reserved.extend(ranges.map(reservation));
                    }
                }
                "psci" => {
                    machine.conduit = match node
                        .property("method")
                        .and_then(|method| method.value_as::<&str>().ok())
                    {
                        Some("smc") => Some(Conduit::Smc),
                        Some("hvc") => Some(Conduit::Hvc),
                        _ => None,
                    };
                }
                "cpus" => machine.cpus = node::cpus(&node)?,
                "chosen" | "aliases" => {}
                _ => machine.add_device(&node, cells, stdout, 0)?,
            }
        }
        let count = machine.cpus.len().max(1);
        machine.gic.iter_mut().for_each(|gic| gic.cut(count));
        if machine.ram.is_empty() { Err(Error::NoRam) } else { Ok(machine) }
    }

    /// Adds a device behind `depth` buses, and, if it is a bus that maps 1:1, the devices behind
    /// it. `stdout` is the name of the console's node.
    fn add_device(
        &mut self,
        node: &FdtNode<'_>,
        cells: Cells,
        stdout: Option<&str>,
        depth: usize,
    ) -> Result<(), Error> {
        let facts = Facts::of(node, cells);
        if depth > MAX_DEPTH {
            return Err(Error::TooDeep(facts.name.into()));
        }
        let ranges = facts.regs()?;
        if facts.is_compatible("virtio,mmio") {
            self.virtio.extend(ranges.first().cloned());
        }
        if facts.is_compatible("arm,pl011") && (self.uart.is_none() || stdout == Some(facts.name)) {
            self.uart = ranges.first().cloned();
        }
        if let [distributor, rest @ ..] = &ranges[..] {
            let distributor = distributor.clone();
            if facts.is_compatible("arm,gic-v3") {
                // After the redistributor regions, `reg` may name a GICv2-compatible CPU interface.
                let regions = facts.redistributor_regions.min(rest.len());
                self.gic = Some(Gic::V3 { distributor, redistributors: rest[..regions].into() });
            } else if let [cpu_interface, ..] = rest
                && ["arm,gic-400", "arm,cortex-a15-gic"]
                    .iter()
                    .any(|model| facts.is_compatible(model))
            {
                self.gic = Some(Gic::V2 { distributor, cpu_interface: cpu_interface.clone() });
            } else if facts.is_compatible("arm,gic-v3-its") {
                self.its.push(distributor);
            }
        }
        if facts.is_compatible("arm,armv8-timer") {
            self.timer = facts.timer();
        }
        if facts.is_compatible("pci-host-ecam-generic")
            && let Some(ecam) = ranges.first().cloned()
        {
            self.pci.push(PciHost { ecam, windows: facts.windows() });
        }
        self.devices.extend(ranges);
        if facts.ranges.is_some_and(<[u8]>::is_empty) {
            for child in node.children() {
                self.add_device(&child, facts.child_cells, stdout, depth + 1)?;
            }
        }
        Ok(())
    }
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
