//! The generic timer's interrupts, as its node and its interrupt controller describe them.

use super::reader::Role;
use super::{Timer, bus::Bus};
use crate::node::{Node, number, strings};

/// Place and name of the two interrupts among those of the node (binding `arm,armv8-timer`).
const VIRTUAL_EL1: (usize, &[u8]) = (2, b"virt");
const PHYSICAL_EL2: (usize, &[u8]) = (3, b"hyp-phys");

/// Reads the timer's node. `bus` has the same node's properties.
pub fn read(root: &Node<'_>, node: &Node<'_>, bus: &Bus<'_>) -> Timer {
    let names = node.property("interrupt-names");
    let intid = |(nth, name): (usize, &[u8])| {
        let nth = match names {
            Some(names) => strings(names).position(|one| one == name)?,
            None => nth,
        };
        match node.property("interrupts-extended") {
            Some(list) => nth_extended(root, list, nth),
            None => nth_plain(root, bus.interrupt_parent, node.property("interrupts")?, nth),
        }
    };
    Timer { virtual_el1: intid(VIRTUAL_EL1), physical_el2: intid(PHYSICAL_EL2) }
}

/// Returns the INTID of an interrupt in `interrupts`. They all have one parent.
fn nth_plain(root: &Node<'_>, parent: Option<u32>, interrupts: &[u8], nth: usize) -> Option<u32> {
    let parent = match parent {
        Some(phandle) => by_phandle(root, phandle)?,
        // No node names a parent: the tree has one controller.
        None => root.descendants().find(is_gic)?,
    };
    let bytes = bytes_of_each(&parent)?;
    ppi(&parent, interrupts.get(nth.checked_mul(bytes)?..)?.get(..bytes)?)
}

/// Returns the INTID of an interrupt in `interrupts-extended`. Before each is its parent.
fn nth_extended(root: &Node<'_>, mut list: &[u8], nth: usize) -> Option<u32> {
    for before in (0..=nth).rev() {
        let (phandle, rest) = list.split_first_chunk()?;
        let parent = by_phandle(root, u32::from_be_bytes(*phandle))?;
        let (interrupt, rest) = rest.split_at_checked(bytes_of_each(&parent)?)?;
        if before == 0 {
            return ppi(&parent, interrupt);
        }
        list = rest;
    }
    None
}

fn by_phandle<'a>(root: &Node<'a>, phandle: u32) -> Option<Node<'a>> {
    root.descendants().find(|node| node.cell("phandle") == Some(phandle))
}

fn bytes_of_each(parent: &Node<'_>) -> Option<usize> {
    Some(4 * parent.cell("#interrupt-cells")?.min(16) as usize)
}

fn is_gic(node: &Node<'_>) -> bool {
    let role = node.property("compatible").and_then(Role::of);
    matches!(role, Some(Role::GicV2 | Role::GicV3)) && node.is_available()
}

/// Returns the INTID of an interrupt of a GIC: first 1 for a PPI, then its number.
fn ppi(parent: &Node<'_>, cells: &[u8]) -> Option<u32> {
    match number(cells.get(..8).filter(|_| is_gic(parent))?) {
        ppi @ 0x1_0000_0000..0x1_0000_0010 => Some(16 + (ppi as u32)),
        _ => None,
    }
}
