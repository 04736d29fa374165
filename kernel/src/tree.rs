//! The device tree, read: RAM, reservations, devices, the console, the PSCI conduit, and the words for this generation.
//!
//! *When:* first thing in Rust, out of the blob as it was handed over. *Leaves:* owned ranges; nothing points into the blob afterwards.
//! *Refuses:* a blob that is no valid tree, a tree without RAM or without /chosen (nothing could be handed on), a `reg` wider than
//! 64 bits. Buses are followed where their `ranges` is empty, which maps one to one; others hold nothing that this kernel drives.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::PhysAddr;
use core::fmt;
use core::ops::Range;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

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
    /// /psci, where there is one.
    pub conduit: Option<Conduit>,
}

/// A tree that this kernel cannot live by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refused {
    /// Not a valid tree: dtoolkit's own words.
    Damaged(String),
    /// No memory node with a range.
    NoRam,
    /// No /chosen.
    NoChosen,
    /// A node whose `reg` is malformed or wider than 64 bits.
    Reg(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(why) => write!(f, "device tree: {why}: the loader must hand over a valid blob in x0"),
            Self::NoRam => f.write_str("device tree: no memory node names any RAM"),
            Self::NoChosen => f.write_str("device tree: no /chosen node: nothing could be handed on in it"),
            Self::Reg(node) => write!(f, "device tree: {node}: `reg` is not pairs of at most 64 bits"),
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

    fn chosen_text(&self, name: &str) -> Option<&'a str> {
        self.chosen.property(name)?.value_as().ok()
    }
}

impl Machine {
    /// Reads what the machine is.
    ///
    /// # Errors
    ///
    /// [`Refused::NoRam`], [`Refused::Reg`].
    pub fn read(tree: &Tree<'_>) -> Result<Self, Refused> {
        let mut machine = Self::default();
        for reservation in tree.fdt.memory_reservations() {
            if let Some(range) = PhysAddr(reservation.address()).range(reservation.size()) {
                machine.reserved.push(Reservation { range, name: "/memreserve/".into(), no_map: false });
            }
        }
        for node in tree.fdt.root().children() {
            match node.name_without_address() {
                "memory" => regs(&node)?.into_iter().for_each(|range| join(&mut machine.ram, range)),
                "reserved-memory" => {
                    for child in node.children() {
                        let no_map = child.property("no-map").is_some();
                        let name = child.name();
                        let ranges = regs(&child)?.into_iter();
                        machine.reserved.extend(ranges.map(|range| Reservation { range, name: name.into(), no_map }));
                    }
                }
                "psci" => {
                    machine.conduit = match node.property("method").and_then(|method| method.value_as::<&str>().ok()) {
                        Some("smc") => Some(Conduit::Smc),
                        Some("hvc") => Some(Conduit::Hvc),
                        _ => None,
                    };
                }
                _ => machine.add_device(&node)?,
            }
        }
        if machine.ram.is_empty() {
            return Err(Refused::NoRam);
        }
        if let Some(path) = tree.chosen_text("stdout-path") {
            let path = path.split(':').next().unwrap_or_default();
            if let Some(node) = tree.fdt.find_node(path).filter(|node| node.is_compatible("arm,pl011")) {
                machine.uart = regs(&node)?.into_iter().next();
            }
        }
        Ok(machine)
    }

    fn add_device(&mut self, node: &FdtNode<'_>) -> Result<(), Refused> {
        if matches!(node.name_without_address(), "cpus" | "chosen" | "aliases") {
            return Ok(());
        }
        if node.property("reg").is_some() {
            let ranges = regs(node)?;
            if node.is_compatible("virtio,mmio") {
                self.virtio.extend(ranges.first().cloned());
            }
            if node.is_compatible("arm,pl011") && self.uart.is_none() {
                self.uart = ranges.first().cloned();
            }
            self.devices.extend(ranges);
        }
        if node.property("ranges").is_some_and(|ranges| ranges.value().is_empty()) {
            for child in node.children() {
                self.add_device(&child)?;
            }
        }
        Ok(())
    }
}

/// The ranges of a node's `reg`, without empty ones.
fn regs(node: &FdtNode<'_>) -> Result<Vec<Range<PhysAddr>>, Refused> {
    let refused = || Refused::Reg(node.name().into());
    let mut ranges = Vec::new();
    let Some(regs) = node.reg().map_err(|_| refused())? else { return Ok(ranges) };
    for reg in regs {
        let (start, size): (u64, u64) = (reg.address().map_err(|_| refused())?, reg.size().map_err(|_| refused())?);
        ranges.extend(PhysAddr(start).range(size).filter(|range| !range.is_empty()));
    }
    Ok(ranges)
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
