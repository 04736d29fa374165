//! One node of the device tree: addresses, compatible strings, interrupts, child cells.
//!
//! - When: for each node that [`Machine::read`](super::Machine::read) visits.
//! - Refuses: a `reg` that does not fit the parent's cell counts, or is wider than 64 bits.

use super::{Error, Timer};
use alloc::vec::Vec;
use boot::phys::PhysAddr;
use core::ops::Range;
use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};

/// Returns the affinities of /cpus, without CPUs whose `status` is "fail".
pub fn cpus(node: &FdtNode<'_>) -> Result<Vec<u64>, Error> {
    let address = Facts::of(node, Cells::DEFAULT).child_cells.address;
    let cells = Cells { address, size: 0 };
    let mut cpus = Vec::new();
    for cpu in node.children().filter(|child| child.name_without_address() == "cpu") {
        let facts = Facts::of(&cpu, cells);
        if !(1..=2).contains(&address) || facts.reg.len() != 4 * address {
            return Err(Error::Reg(facts.name.into()));
        }
        let failed = cpu.property("status").and_then(|status| status.value_as::<&str>().ok());
        if !failed.is_some_and(|status| status.starts_with("fail")) {
            cpus.push(number(facts.reg));
        }
    }
    Ok(cpus)
}

/// Reads big-endian cells as one number.
pub fn number(cells: &[u8]) -> u64 {
    cells.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Numbers of 32-bit cells in an address and in a size.
#[derive(Clone, Copy)]
pub struct Cells {
    address: usize,
    size: usize,
}

impl Cells {
    /// Defaults for a parent without these properties (Devicetree specification 2.3.5).
    pub const DEFAULT: Self = Self { address: 2, size: 1 };
}

/// Properties of a node, collected in one pass; each look-up by name would take a pass of its own.
pub struct Facts<'a> {
    pub name: &'a str,
    reg: &'a [u8],
    compatible: &'a [u8],
    interrupts: &'a [u8],
    pub redistributor_regions: usize,
    pub ranges: Option<&'a [u8]>,
    cells: Cells,
    pub child_cells: Cells,
    pub is_disabled: bool,
}

impl<'a> Facts<'a> {
    /// Collects the properties of `node`, whose parent has these cells.
    pub fn of(node: &FdtNode<'a>, cells: Cells) -> Self {
        let child_cells = Cells::DEFAULT;
        let name = node.name();
        let nothing: &[u8] = &[];
        let (reg, compatible, interrupts, ranges) = (nothing, nothing, nothing, None);
        let (redistributor_regions, is_disabled) = (1, false);
        let mut facts = Self {
            name,
            reg,
            compatible,
            interrupts,
            redistributor_regions,
            ranges,
            cells,
            child_cells,
            is_disabled,
        };
        for property in node.properties() {
            let value = property.value_as::<&[u8]>().unwrap_or_default();
            let cell = || value.last().copied().map_or(0, usize::from);
            match property.name() {
                "reg" => facts.reg = value,
                "compatible" => facts.compatible = value,
                "interrupts" => facts.interrupts = value,
                "#redistributor-regions" => facts.redistributor_regions = cell(),
                "#address-cells" => facts.child_cells.address = cell(),
                "#size-cells" => facts.child_cells.size = cell(),
                "ranges" => facts.ranges = Some(value),
                "status" => facts.is_disabled = !value.starts_with(b"ok"),
                _ => {}
            }
        }
        facts
    }

    /// Returns whether the node is enabled and compatible with `model`.
    pub fn is_compatible(&self, model: &str) -> bool {
        !self.is_disabled
            && self.compatible.split(|&byte| byte == 0).any(|word| word == model.as_bytes())
    }

    /// Returns the generic timer's interrupts. Each is three cells: first 1 for a PPI, then its
    /// number.
    pub fn timer(&self) -> Option<Timer> {
        let intid = |nth: usize| match number(self.interrupts.get(12 * nth..12 * nth + 8)?) {
            ppi @ 0x1_0000_0000..0x1_0000_0010 => Some(16 + (ppi as u32)),
            _ => None,
        };
        Some(Timer { virtual_el1: intid(2)?, physical_el2: intid(3)? })
    }

    /// Returns the ranges of `reg`, without empty ones.
    pub fn regs(&self) -> Result<Vec<Range<PhysAddr>>, Error> {
        let Cells { address, size } = self.cells;
        let (wide, whole) = (address > 2 || size > 2, 4 * (address + size));
        let mut ranges = Vec::new();
        if self.reg.is_empty() || size == 0 {
            // `reg` is no address: the number of a CPU, or of a device on its bus.
            return Ok(ranges);
        }
        if wide || !self.reg.len().is_multiple_of(whole) {
            return Err(Error::Reg(self.name.into()));
        }
        for entry in self.reg.chunks_exact(whole) {
            let (start, bytes) = entry.split_at(4 * address);
            ranges.extend(
                PhysAddr(number(start)).range(number(bytes)).filter(|range| !range.is_empty()),
            );
        }
        Ok(ranges)
    }

    /// Returns the memory windows of a PCI host's `ranges` that have the same address on both
    /// sides. Bits 25:24 of the first of three cells are the space (PCI Bus Binding, 2.2.1.1).
    pub fn windows(&self) -> Vec<Range<PhysAddr>> {
        const MEMORY: u64 = 2;
        let Cells { address, .. } = self.cells;
        let (wide, whole) = (address > 2, 4 * (3 + address + 2));
        let entries = self.ranges.filter(|_| !wide).unwrap_or_default().chunks_exact(whole);
        let windows = entries.filter_map(|entry| {
            let (space, at) = (number(&entry[..4]) >> 24 & 3, number(&entry[4..12]));
            let (start, bytes) = entry[12..].split_at(4 * address);
            (space & MEMORY != 0 && at == number(start))
                .then(|| PhysAddr(at).range(number(bytes)))
                .flatten()
        });
        windows.collect()
    }
}
