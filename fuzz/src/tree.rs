//! The target `tree`: any blob as the kernel's device tree.
//!
//! It checks that:
//!
//! - the description of the machine is in order;
//! - a shrunk blob has the same contents as the long one, node by node, and describes the same
//!   machine;
//! - numbers written into the blob are read back, and nothing else changes, not even its size;
//! - a second shrinking changes nothing.

use boot::breadcrumb;
use boot::phys::{PhysAddr, PhysRange};
use fdt::handover::{self, Handover, Shrink};
use fdt::machine::{Machine, Tree};
use protocol::cmdline::Cmdline;

use crate::chosen::STALE;
use crate::lines::{Line, lines, reservations};

/// The `/chosen` properties that pass numbers from one generation to the next.
const NUMBERS: [&str; 4] =
    ["ouroboros,generation", "ouroboros,seed", "ouroboros,base", breadcrumb::PROPERTY];

/// Checks a blob, and the same blob with its `totalsize` corrected: few mutations leave it right.
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
    let shrunk = handover::shrink(blob, Shrink::default());
    let tree = match Tree::open(blob) {
        Ok(tree) => tree,
        Err(error) => return assert!(error.to_string().starts_with("device tree: ")),
    };
    let _ = Cmdline::parse(tree.bootargs());
    let machine = Machine::read(&tree);
    match &machine {
        Ok(machine) => in_order(machine),
        Err(error) => assert!(error.to_string().starts_with("device tree: ")),
    }
    let Ok(mut shrunk) = shrunk else { return };
    let before = open(&shrunk);
    assert_eq!(others(blob), others(&shrunk));
    assert_eq!(reserved(blob), reserved(&shrunk));
    assert_eq!((Machine::read(&before), before.bootargs()), (machine, tree.bootargs()));
    let none =
        Handover { generation: 0, seed: 0, base: PhysAddr::new(0), breadcrumbs: PhysAddr::new(0) };
    assert_eq!(Handover::read(&before), Some(none));

    let said = others(&shrunk);
    let size = shrunk.len();
    let numbers = Handover {
        generation: u32::MAX,
        seed: 0x0102_0304_0506_0708,
        base: PhysAddr::new(!0),
        breadcrumbs: PhysAddr::new(1),
    };
    numbers.write(&mut shrunk).expect("shrinking made room");
    assert_eq!(Handover::read(&open(&shrunk)), Some(numbers));
    assert_eq!((others(&shrunk), shrunk.len()), (said.clone(), size));
    let again = handover::shrink(&shrunk, Shrink::default()).expect("a shrunk blob is a blob");
    assert_eq!((others(&again), Handover::read(&open(&again))), (said, Some(none)));
    assert!(again.len() <= size, "{} bytes became {}", size, again.len());
}

fn open(blob: &[u8]) -> Tree<'_> {
    Tree::open(blob).expect("what was written is a tree with /chosen")
}

/// Checks what the kernel relies on without checking it again.
fn in_order(machine: &Machine) {
    assert!(!machine.ram.is_empty());
    assert!(machine.ram.iter().chain(&machine.devices).all(|range| range.start < range.end));
    assert!(machine.ram.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", machine.ram);
    assert!(machine.reserved.iter().all(|reserved| !reserved.range.is_empty()));
    // Each can be rounded to pages.
    let ranges = machine.reserved.iter().map(|reserved| &reserved.range);
    let ranges = ranges.chain(&machine.ram).chain(&machine.devices);
    assert!(ranges.map(PhysRange::whole_pages).all(|pages| !pages.is_empty()));
    assert!(machine.console.is_none() || machine.console_error.is_none());
    let console = machine.console.iter();
    assert!(console.clone().all(|console| console.registers.contains(&console.base)));
    let consoles: Vec<_> = console.map(|console| console.registers.clone()).collect();
    let is_device = |range| machine.devices.iter().any(|device| PhysRange::covers(device, range));
    let gic: Vec<_> = machine.gic.iter().flat_map(|gic| gic.registers()).collect();
    let spaces = machine.pci.iter().map(|host| &host.config);
    let driven =
        machine.virtio.iter().chain(&consoles).chain(&machine.its).chain(&gic).chain(spaces);
    assert!(driven.into_iter().all(is_device), "{machine:?}");
    assert!(
        machine.pci.iter().flat_map(|host| &host.windows).all(|window| window.start <= window.end)
    );
    // A CPU's own timer raises a private interrupt (PPI).
    let intids = machine.timer.iter().flat_map(|timer| [timer.virtual_el1, timer.physical_el2]);
    assert!(intids.flatten().all(|intid| (16..32).contains(&intid)), "{:?}", machine.timer);
}

/// Returns all lines of a blob except the four numbers and the properties in `STALE`.
fn others(blob: &[u8]) -> Vec<Line> {
    let mut lines = lines(blob);
    let is_other = |(name, _): &(String, _)| {
        !NUMBERS.contains(&name.as_str()) && !STALE.contains(&name.as_str())
    };
    lines.retain(|line| line.property.as_ref().is_none_or(is_other));
    lines
}

fn reserved(blob: &[u8]) -> Vec<(u64, u64)> {
    reservations(blob)
}
