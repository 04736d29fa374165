//! The target `tree`: any blob as the device tree that a loader hands over.
//!
//! *Holds:* what is read of a machine is in order; a shrunk blob says what the long one said, node by node, and reads as the same machine;
//! numbers written into it are read again, and nothing else has changed, not its size either; a second shrinking changes nothing.

use boot::breadcrumb;
use boot::phys::{PhysAddr, PhysRange};
use dtoolkit::fdt::Fdt;
use kernel::handover::{self, Handed};
use kernel::orders::Orders;
use kernel::tree::{Machine, Tree};

use crate::chosen::STALE;
use crate::lines::{Line, lines, reservations};

/// What the hand-over writes, all of it in /chosen.
const NUMBERS: [&str; 4] =
    ["ouroboros,generation", "ouroboros,seed", "ouroboros,base", breadcrumb::PROPERTY];

/// The input: a blob, and the same with its `totalsize` set right, which few mutations leave it.
pub fn hold(data: &[u8]) {
    blob(data);
    if let Ok(size) = u32::try_from(data.len())
        && data.len() >= 8
    {
        let mut sized = data.to_vec();
        sized[4..8].copy_from_slice(&size.to_be_bytes());
        blob(&sized);
    }
}

fn blob(blob: &[u8]) {
    let shrunk = handover::shrink(blob);
    let tree = match Tree::open(blob) {
        Ok(tree) => tree,
        Err(refused) => return assert!(refused.to_string().starts_with("device tree: ")),
    };
    let _ = Orders::parse(tree.bootargs());
    let machine = Machine::read(&tree);
    match &machine {
        Ok(machine) => in_order(machine),
        Err(refused) => assert!(refused.to_string().starts_with("device tree: ")),
    }
    let Ok(mut shrunk) = shrunk else { return };
    let before = open(&shrunk);
    assert_eq!(others(blob), others(&shrunk));
    assert_eq!(reserved(blob), reserved(&shrunk));
    assert_eq!((Machine::read(&before), before.bootargs()), (machine, tree.bootargs()));
    let none = Handed { generation: 0, seed: 0, base: PhysAddr(0), breadcrumbs: PhysAddr(0) };
    assert_eq!(Handed::read(&before), Some(none));

    let said = others(&shrunk);
    let size = shrunk.len();
    let numbers = Handed {
        generation: u32::MAX,
        seed: 0x0102_0304_0506_0708,
        base: PhysAddr(!0),
        breadcrumbs: PhysAddr(1),
    };
    numbers.write(&mut shrunk).expect("shrinking made room");
    assert_eq!(Handed::read(&open(&shrunk)), Some(numbers));
    assert_eq!((others(&shrunk), shrunk.len()), (said.clone(), size));
    let again = handover::shrink(&shrunk).expect("a shrunk blob is a blob");
    assert_eq!((others(&again), Handed::read(&open(&again))), (said, Some(none)));
    assert!(again.len() <= size, "{} bytes became {}", size, again.len());
}

fn open(blob: &[u8]) -> Tree<'_> {
    Tree::open(blob).expect("what was written is a tree with /chosen")
}

/// What the kernel relies on without asking again.
fn in_order(machine: &Machine) {
    assert!(!machine.ram.is_empty());
    assert!(machine.ram.iter().chain(&machine.devices).all(|range| range.start < range.end));
    assert!(machine.ram.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", machine.ram);
    assert!(machine.reserved.iter().all(|reserved| reserved.range.start <= reserved.range.end));
    let is_device = |range| machine.devices.iter().any(|device| PhysRange::covers(device, range));
    let gic: Vec<_> = machine.gic.iter().flat_map(|gic| gic.registers()).collect();
    let ecams = machine.pci.iter().map(|host| &host.ecam);
    let driven =
        machine.virtio.iter().chain(&machine.uart).chain(&machine.its).chain(&gic).chain(ecams);
    assert!(driven.into_iter().all(is_device), "{machine:?}");
    assert!(
        machine.pci.iter().flat_map(|host| &host.windows).all(|window| window.start <= window.end)
    );
    // A CPU's own timer asks by a private interrupt.
    let intids = machine.timer.iter().flat_map(|timer| [timer.virtual_el1, timer.physical_el2]);
    assert!(intids.into_iter().all(|intid| (16..32).contains(&intid)), "{:?}", machine.timer);
}

/// All that a blob says but the four numbers, and what the first /chosen says to one kernel alone.
fn others(blob: &[u8]) -> Vec<Line> {
    let mut lines = lines(&Fdt::new(blob).expect("opened before"));
    let is_other = |(name, _): &(String, _)| {
        !NUMBERS.contains(&name.as_str()) && !STALE.contains(&name.as_str())
    };
    lines.retain(|line| line.property.as_ref().is_none_or(is_other));
    lines
}

fn reserved(blob: &[u8]) -> Vec<(u64, u64)> {
    reservations(&Fdt::new(blob).expect("opened before"))
}
