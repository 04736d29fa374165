//! The device tree, read: CPUs, RAM, reservations, devices, interrupts, the console, the PSCI conduit, and the words for this generation.
//!
//! *When:* first thing in Rust, out of the blob as it was handed over. *Leaves:* owned ranges; nothing points into the blob afterwards.
//! *Refuses:* a blob that is no valid tree, a tree without RAM or without /chosen (nothing could be handed on), a `reg` wider than
//! 64 bits, buses within buses without end. Buses are followed where their `ranges` is empty, which maps one to one; others hold nothing that this kernel drives.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::PhysAddr;
use core::fmt;
use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use node::{Cells, Facts, number};

mod node;

/// How PSCI is called.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Conduit {
    /// By SMC: the firmware is above EL2.
    Smc,
    /// By HVC: it stands at EL2.
    Hvc,
}

/// A range of RAM that is not ours, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reservation {
    /// Where.
    pub range: Range<PhysAddr>,
    /// The node's name, or /memreserve/.
    pub name: String,
    /// Not even to be mapped: speculation alone could do harm.
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
    /// GICv3 or v4: distributor and regions of redistributors; the CPU interface is system registers.
    V3 {
        /// GICD.
        distributor: Range<PhysAddr>,
        /// GICR, in regions.
        redistributors: Vec<Range<PhysAddr>>,
    },
}

impl Gic {
    /// Its registers.
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

    /// Cuts regions of redistributors to what so many CPUs need: there may be room for hundreds.
    fn cut(&mut self, cpus: usize) {
        // GICv4's four frames of 64 KiB, which is the most.
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

/// The generic timer's interrupts as INTIDs, in the order of the binding `arm,armv8-timer`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timer {
    /// EL1's virtual timer.
    pub virtual_el1: u32,
    /// EL2's physical timer.
    pub physical_el2: u32,
}

/// How deep buses may lie within each other: as deep as Linux reads a tree, and no deeper than the boot stack.
const MAX_DEPTH: usize = 64;

/// A PCI host whose configuration space is memory, `pci-host-ecam-generic`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PciHost {
    /// Configuration space, from the first bus on.
    pub ecam: Range<PhysAddr>,
    /// Where the memory of its functions may lie: windows that have the same address on the bus.
    pub windows: Vec<Range<PhysAddr>>,
}

/// What the machine is, as the tree says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Machine {
    /// RAM, in order, joined where it touches.
    pub ram: Vec<Range<PhysAddr>>,
    /// What of it is reserved.
    pub reserved: Vec<Reservation>,
    /// The registers of every device.
    pub devices: Vec<Range<PhysAddr>>,
    /// The PL011 that stdout-path names, or the first one.
    pub uart: Option<Range<PhysAddr>>,
    /// Every virtio-mmio slot.
    pub virtio: Vec<Range<PhysAddr>>,
    /// Every PCI host with an ECAM.
    pub pci: Vec<PciHost>,
    /// /psci, where there is one.
    pub conduit: Option<Conduit>,
    /// MPIDR_EL1's affinity of every CPU, in the tree's order.
    pub cpus: Vec<u64>,
    /// The interrupt controller.
    pub gic: Option<Gic>,
    /// GICv3's interrupt translation services.
    pub its: Vec<Range<PhysAddr>>,
    /// The generic timer.
    pub timer: Option<Timer>,
}

/// What Linux's own EFI stub writes to /chosen, and its kexec hands on.
const FIRMWARE_MAP: &str = "linux,uefi-mmap-start";

/// A tree that this kernel cannot live by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Not a valid tree: dtoolkit's own words.
    Damaged(String),
    /// No memory node with a range.
    NoRam,
    /// Linux's word that UEFI's memory map counts and not the memory nodes.
    FirmwareMap,
    /// No /chosen.
    NoChosen,
    /// A node whose `reg` is malformed or wider than 64 bits.
    Reg(String),
    /// A node that lies behind more than [`MAX_DEPTH`] buses.
    TooDeep(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(why) => {
                write!(f, "device tree: {why}: the loader must hand over a valid blob in x0")
            }
            Self::NoRam => f.write_str("device tree: no memory node names any RAM"),
            Self::FirmwareMap => write!(
                f,
                "device tree: {FIRMWARE_MAP} says that UEFI's memory map tells RAM from what the firmware keeps, and this kernel reads the \
                 memory nodes: start it from UEFI itself"
            ),
            Self::NoChosen => {
                f.write_str("device tree: no /chosen node: nothing could be handed on in it")
            }
            Self::Reg(node) => {
                write!(f, "device tree: {node}: `reg` is not pairs of at most 64 bits")
            }
            Self::TooDeep(node) => {
                write!(f, "device tree: {node} lies behind more than {MAX_DEPTH} buses")
            }
        }
    }
}

impl core::error::Error for Refused {}

/// A valid tree, and its /chosen.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    fdt: Fdt<'a>,
    chosen: FdtNode<'a>,
}

impl<'a> Tree<'a> {
    /// Opens a blob.
    ///
    /// # Errors
    ///
    /// [`Refused::Damaged`] where it is no valid tree, [`Refused::NoChosen`].
    pub fn open(blob: &'a [u8]) -> Result<Self, Refused> {
        let fdt = Fdt::new(blob).map_err(|error| Refused::Damaged(error.to_string()))?;
        let chosen = fdt.find_node("/chosen").ok_or(Refused::NoChosen)?;
        Ok(Self { fdt, chosen })
    }

    /// /chosen/bootargs, or nothing.
    #[must_use]
    pub fn bootargs(&self) -> &'a str {
        self.chosen_text("bootargs").unwrap_or_default()
    }

    /// A 64-bit property of /chosen.
    #[must_use]
    pub fn chosen_u64(&self, name: &str) -> Option<u64> {
        self.chosen.property(name)?.value_as().ok()
    }

    /// linux,initrd-start to linux,initrd-end of /chosen, each of one cell or two.
    #[must_use]
    pub fn initrd(&self) -> Option<Range<PhysAddr>> {
        let at = |name| {
            let cells: &[u8] = self.chosen.property(name)?.value_as().ok()?;
            matches!(cells.len(), 4 | 8).then(|| PhysAddr(number(cells)))
        };
        Some(at("linux,initrd-start")?..at("linux,initrd-end")?)
    }

    fn chosen_text(&self, name: &str) -> Option<&'a str> {
        // It ends with its first zero byte; kexec-tools pads it with up to three more.
        self.chosen.property(name)?.value_as::<&str>().ok()?.split('\0').next()
    }

    /// The name of the node that stdout-path names, by a path or by an alias, options left out.
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
    /// Reads what the machine is.
    ///
    /// # Errors
    ///
    /// [`Refused::FirmwareMap`], [`Refused::NoRam`], [`Refused::Reg`], [`Refused::TooDeep`].
    pub fn read(tree: &Tree<'_>) -> Result<Self, Refused> {
        if tree.chosen.property(FIRMWARE_MAP).is_some() {
            return Err(Refused::FirmwareMap);
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
        if machine.ram.is_empty() { Err(Refused::NoRam) } else { Ok(machine) }
    }

    /// Adds a device that lies behind `depth` buses and, where its own maps one to one, those behind it. `stdout` is the name of the
    /// console's node.
    fn add_device(
        &mut self,
        node: &FdtNode<'_>,
        cells: Cells,
        stdout: Option<&str>,
        depth: usize,
    ) -> Result<(), Refused> {
        let facts = Facts::of(node, cells);
        if depth > MAX_DEPTH {
            return Err(Refused::TooDeep(facts.name.into()));
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
                // Behind the regions of redistributors a GICv2-compatible CPU interface may be named.
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

/// Adds a range to ranges that are in order, making one of those that touch.
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
