//! Buses: cells of addresses and sizes, and their translation to the CPU's addresses.
//!
//! - When: for each node that [`Machine::read`](super::Machine::read) visits.
//! - Translates a `reg` through the `ranges` of every bus between a device and the root.
//! - Gives a device behind a bus without `ranges`, as of I2C, no address: the CPU cannot use one.

use crate::node::{Node, is_okay, number};
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr};
use core::ops::Range;

/// Numbers of 32-bit cells in an address and in a size.
#[derive(Clone, Copy)]
pub struct Cells {
    pub address: usize,
    pub size: usize,
}

impl Cells {
    /// Defaults for a parent without these properties (Devicetree specification 2.3.5).
    const DEFAULT: Self = Self { address: 2, size: 1 };

    /// The most cells of a number of 64 bits.
    const MOST: usize = 2;

    /// Returns whether `reg` holds addresses and sizes of at most 64 bits.
    const fn are_addresses(self) -> bool {
        let (address, size) = (self.address, self.size);
        address > 0 && address <= Self::MOST && size > 0 && size <= Self::MOST
    }

    /// Returns the pairs of `reg`, or `None` if it is not made of whole pairs.
    pub fn pairs(self, reg: &[u8]) -> Option<impl Iterator<Item = (u64, u64)>> {
        let whole = 4 * (self.address + self.size);
        let is_whole = self.are_addresses() && reg.len().is_multiple_of(whole);
        is_whole.then(|| {
            reg.chunks_exact(whole).map(move |pair| {
                let (start, bytes) = pair.split_at(4 * self.address);
                (number(start), number(bytes))
            })
        })
    }
}

/// A node as its children see it, and the properties that every device may have.
#[derive(Clone)]
pub struct Bus<'a> {
    pub name: &'a [u8],
    pub compatible: &'a [u8],
    pub reg: Option<&'a [u8]>,
    pub ranges: Option<&'a [u8]>,
    /// The cells of its children's `reg`.
    pub cells: Cells,
    pub interrupt_parent: Option<u32>,
    /// It and every bus before it may be used.
    pub is_available: bool,
}

impl<'a> Bus<'a> {
    /// Collects the properties of `node` in one pass; a look-up of each would take a pass of its
    /// own.
    pub fn of(node: &Node<'a>, parent: Option<&Self>) -> Self {
        let mut bus = Self {
            name: node.name(),
            compatible: &[],
            reg: None,
            ranges: None,
            cells: Cells::DEFAULT,
            interrupt_parent: parent.and_then(|bus| bus.interrupt_parent),
            is_available: parent.is_none_or(|bus| bus.is_available),
        };
        for property in node.properties() {
            let value = property.value;
            let cell = || value.try_into().ok().map(u32::from_be_bytes);
            // A count that cannot be is as good as any other above two.
            let count = || cell().map_or(255, |count| count.min(255) as usize);
            match property.name {
                b"compatible" => bus.compatible = value,
                b"reg" => bus.reg = Some(value),
                b"ranges" => bus.ranges = Some(value),
                b"status" => bus.is_available &= is_okay(value),
                b"interrupt-parent" => bus.interrupt_parent = cell(),
                b"#address-cells" => bus.cells.address = count(),
                b"#size-cells" => bus.cells.size = count(),
                _ => {}
            }
        }
        bus
    }

    /// Returns the address in the parent's space of an address in this bus's space.
    fn translate(&self, parent: Cells, at: u64) -> Option<u64> {
        let ranges = self.ranges?;
        if ranges.is_empty() {
            return Some(at);
        }
        let Cells { address, size } = self.cells;
        let whole = 4 * (address + parent.address + size);
        ranges.chunks_exact(whole).find_map(|window| {
            let (child, rest) = window.split_at(4 * address);
            let (start, bytes) = rest.split_at(4 * parent.address);
            let offset = at.checked_sub(number(child))?;
            (offset < number(bytes)).then(|| number(start).checked_add(offset))?
        })
    }
}

/// Returns the CPU's address of an address in the space of the last of these buses, whose first is
/// the root.
pub fn translate(buses: &[Bus<'_>], at: u64) -> Option<u64> {
    let (bus, before) = buses.split_last()?;
    let Some(parent) = before.last() else { return Some(at) };
    let (cells, parent) = (bus.cells, parent.cells);
    if !cells.are_addresses() || !(1..=Cells::MOST).contains(&parent.address) {
        return None;
    }
    translate(before, bus.translate(parent, at)?)
}

/// The reason why a device has no addresses.
pub enum NoAddress {
    /// `reg` is not made of whole pairs of at most 64 bits.
    Malformed,
    /// The device is not where the CPU could access it.
    Elsewhere,
}

/// Returns the CPU's addresses of a device's `reg`, without empty ranges. Its buses are given from
/// the root on.
pub fn registers(buses: &[Bus<'_>], reg: &[u8]) -> Result<Vec<Range<PhysAddr>>, NoAddress> {
    let Some(bus) = buses.last() else { return Ok(Vec::new()) };
    // PCI's functions have addresses of three cells, and devices of buses like I2C no sizes.
    if !bus.cells.are_addresses() || buses.iter().skip(1).any(|bus| bus.ranges.is_none()) {
        return Err(NoAddress::Elsewhere);
    }
    let pairs = bus.cells.pairs(reg).ok_or(NoAddress::Malformed)?;
    let mut ranges = Vec::new();
    for (at, bytes) in pairs.filter(|(_, bytes)| *bytes > 0) {
        let start = translate(buses, at).ok_or(NoAddress::Elsewhere)?;
        ranges.push(within(start, bytes).ok_or(NoAddress::Malformed)?);
    }
    Ok(ranges)
}

/// Returns a range, or `None` if it reaches into the last page of the 64-bit space. No machine has
/// a memory or device there, and the range could not be rounded to pages.
pub fn within(start: u64, bytes: u64) -> Option<Range<PhysAddr>> {
    PhysAddr::new(start).range(bytes).filter(|range| range.end <= LAST_PAGE)
}

/// The last page of the 64-bit space.
pub const LAST_PAGE: PhysAddr = PhysAddr::new(PAGE_SIZE.wrapping_neg());
