//! Tests of the copier: each edit by itself, and copies without any.

use super::*;
use crate::machine::tests::{cells, node, text, virt};
use dtoolkit::fdt::Fdt;
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use dtoolkit::{Node, Property};

/// Returns [`virt`], with a reservation and a property of /chosen's child.
fn tree() -> Vec<u8> {
    let mut tree = virt();
    tree.memory_reservations.push(MemoryReservation::new(0x4800_0000, 0x1000));
    let chosen = tree.find_node_mut("/chosen").unwrap();
    chosen.add_child(node("module@0", &[("bootargs", text("of a module"))]));
    let mut blob = tree.to_dtb();
    blob[28..32].copy_from_slice(&7_u32.to_be_bytes());
    blob
}

fn copied(blob: &[u8], edits: &Edits<'_>) -> Vec<u8> {
    let copied = to_vec(&Blob::new(blob).unwrap(), edits).unwrap();
    assert_eq!(blob::size(&copied), Some(copied.len()));
    assert_eq!(Blob::new(&copied).unwrap().boot_cpu(), 7);
    copied
}

/// Returns every event, with names and values, and every reservation.
fn said(blob: &[u8]) -> Vec<String> {
    let blob = Blob::new(blob).unwrap();
    let events = blob.events().map(|event| match event.kind {
        Kind::Begin => format!("{} {{", event.child.escape_ascii()),
        Kind::End => "}".to_owned(),
        Kind::Property { name, value } => {
            format!("{} = {}", name.escape_ascii(), value.escape_ascii())
        }
    });
    let reservations = blob.reservations().iter().map(|pair| format!("{pair:x?}"));
    events.chain(reservations).collect()
}

/// Returns what `after` says and `before` does not, and the reverse.
fn differences(before: &[u8], after: &[u8]) -> (Vec<String>, Vec<String>) {
    let (before, after) = (said(before), said(after));
    let lacks = |one: &[String], other: &[String]| {
        one.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    (lacks(&after, &before), lacks(&before, &after))
}

#[test]
fn a_copy_without_edits_says_the_same_in_the_same_order() {
    let blob = tree();
    assert_eq!(said(&copied(&blob, &Edits::default())), said(&blob));
}

#[test]
fn nops_and_padding_are_left_out() {
    let blob = tree();
    // NOPs in place of a property of the same size. Its name stays in the strings block.
    let damaged = Blob::new(&blob).unwrap();
    let property =
        damaged.events().find(|event| matches!(event.kind, Kind::Property { .. })).unwrap();
    let mut nops = blob.clone();
    nops[property.range.clone()].as_chunks_mut().0.fill(token::NOP.to_be_bytes());
    nops.resize(blob.len() + 64, 0);
    let copied = copied(&nops, &Edits::default());
    assert_eq!(copied.len(), blob.len() - property.range.len());
    assert_eq!(said(&copied), said(&nops));
}

#[test]
fn memory_is_one_node_at_the_end() {
    let ranges = |visit: &mut dyn FnMut(Range<PhysAddr>)| {
        visit(PhysAddr::new(0x4000_0000)..PhysAddr::new(0x4100_0000));
        visit(PhysAddr::new(0x1_0000_0000)..PhysAddr::new(0x1_0000_1000));
    };
    let blob = copied(&tree(), &Edits { memory: Some(&ranges), ..Edits::default() });
    let fdt = Fdt::new(&blob).unwrap();
    let nodes: Vec<_> = fdt.root().children().collect();
    assert_eq!(nodes.iter().filter(|node| node.name().starts_with("memory")).count(), 1);
    let memory = nodes.last().unwrap();
    let value = |name| memory.property(name).unwrap().value_as::<&[u8]>().unwrap().to_vec();
    assert_eq!(value("device_type"), text("memory"));
    assert_eq!(value("reg"), cells(&[0, 0x4000_0000, 0, 0x100_0000, 1, 0, 0, 0x1000]));
    let (new, old) = differences(&tree(), &blob);
    assert_eq!((new.len(), old.len()), (2, 4), "{new:?} {old:?}");
}

#[test]
fn only_the_roots_cells_count_and_only_for_memory() {
    let ram = PhysAddr::new(0x4000_0000)..PhysAddr::new(0x4100_0000);
    let ranges = |visit: &mut dyn FnMut(Range<PhysAddr>)| visit(ram.clone());
    let memory = || Edits { memory: Some(&ranges), ..Edits::default() };
    let to_vec = |tree: &DeviceTree, edits| to_vec(&Blob::new(&tree.to_dtb()).unwrap(), &edits);
    // A PCI bus has three address cells.
    let mut tree = DeviceTree::new();
    tree.root.add_child(node("pcie@0", &[("#address-cells", cells(&[3]))]));
    let blob = to_vec(&tree, memory()).unwrap();
    let reg = Fdt::new(&blob).unwrap().find_node("/memory").unwrap();
    let reg = reg.property("reg").unwrap().value_as::<&[u8]>().unwrap().to_vec();
    assert_eq!(reg, cells(&[0, 0x4000_0000, 0x100_0000]), "two and one, as the root has none");
    tree.root.add_property(DeviceTreeProperty::new("#address-cells", &cells(&[3])[..]).unwrap());
    let error = Error::Damaged("cells that are neither one nor two");
    assert_eq!(to_vec(&tree, memory()), Err(error));
    assert!(to_vec(&tree, Edits::default()).is_ok(), "no range is written");
}

#[test]
fn new_properties_come_first_and_replace_old_ones() {
    let new = [
        ("x", Value::Number(5)),
        ("bootargs", Value::Text(&"a=1 ä")),
        ("longer-name", Value::Bytes(&[1, 2, 3])),
    ];
    let chosen = Chosen { new: &new, is_stale: |_| false };
    let blob = copied(&tree(), &Edits { chosen: Some(chosen), ..Edits::default() });
    let fdt = Fdt::new(&blob).unwrap();
    let chosen = fdt.find_node("/chosen").unwrap();
    let found: Vec<_> = chosen
        .properties()
        .map(|p| (p.name().to_owned(), p.value_as::<&[u8]>().unwrap().to_vec()))
        .collect();
    assert_eq!(
        found,
        [
            ("x".to_owned(), cells(&[0, 5])),
            ("bootargs".to_owned(), text("a=1 ä")),
            ("longer-name".to_owned(), vec![1, 2, 3]),
            ("stdout-path".to_owned(), text("/pl011@9040000:115200n8")),
        ]
    );
    assert!(said(&blob).contains(&"bootargs = of a module\\x00".to_owned()));
    // A second copy finds all names in the strings block.
    let chosen = Chosen { new: &new, is_stale: |_| false };
    assert_eq!(copied(&blob, &Edits { chosen: Some(chosen), ..Edits::default() }), blob);
}

#[test]
fn a_string_that_only_begins_with_a_name_is_not_that_name() {
    let mut tree = DeviceTree::new();
    let longer = DeviceTreeProperty::new("kaslr-seed-2", b"1".as_slice()).unwrap();
    tree.root.add_property(longer);
    let new = [("kaslr-seed", Value::Bytes(b"5"))];
    let chosen = Some(Chosen { new: &new, is_stale: |_| false });
    let edits = Edits { chosen, ..Edits::default() };
    let blob = to_vec(&Blob::new(&tree.to_dtb()).unwrap(), &edits).unwrap();
    assert_eq!(said(&blob), [" {", "kaslr-seed-2 = 1", "chosen {", "kaslr-seed = 5", "}", "}"]);
}

#[test]
fn stale_properties_of_chosen_go() {
    let chosen = Chosen { new: &[], is_stale: |name| name == b"bootargs" };
    let blob = copied(&tree(), &Edits { chosen: Some(chosen), ..Edits::default() });
    let (new, old) = differences(&tree(), &blob);
    assert_eq!(new, [""; 0]);
    assert!(matches!(&old[..], [bootargs] if bootargs.starts_with("bootargs = ")), "{old:?}");
}

#[test]
fn a_chosen_is_made_only_for_edits_of_it() {
    let blob = DeviceTree::new().to_dtb();
    let copied = |edits| to_vec(&Blob::new(&blob).unwrap(), &edits).unwrap();
    assert_eq!(said(&copied(Edits::default())), said(&blob));
    let chosen = Chosen { new: &[], is_stale: |_| false };
    let blob = copied(Edits { chosen: Some(chosen), ..Edits::default() });
    assert_eq!(said(&blob), [" {", "chosen {", "}", "}"]);
}

#[test]
fn a_reservation_replaces_those_within_the_old_range() {
    let reserved = |old: Range<u64>, new| {
        let old = PhysAddr::new(old.start)..PhysAddr::new(old.end);
        let edits = Edits { reservations: Some(Reservations { old, new }), ..Edits::default() };
        let blob = copied(&tree(), &edits);
        let fdt = Fdt::new(&blob).unwrap();
        fdt.memory_reservations().map(|one| (one.address(), one.size())).collect::<Vec<_>>()
    };
    let kept = (0x4800_0000, 0x1000);
    assert_eq!(reserved(0x4800_0000..0x4800_1000, None), []);
    assert_eq!(reserved(0x4800_0001..0x4800_1000, None), [kept]);
    assert_eq!(reserved(0x4800_0000..0x4800_0fff, None), [kept]);
    let new = PhysAddr::new(0x5000_0000)..PhysAddr::new(0x5000_0003);
    assert_eq!(reserved(0..0, Some(new)), [kept, (0x5000_0000, 3)]);
}

#[test]
fn a_buffer_is_large_enough_or_too_small_by_its_size() {
    let (blob, edits) = (tree(), Edits::default());
    let blob = Blob::new(&blob).unwrap();
    let copied = to_vec(&blob, &edits).unwrap();
    let mut to = vec![0xee; copied.len()];
    assert_eq!(write(&blob, &edits, &mut to), Ok(copied.len()));
    assert_eq!(to, copied);
    let room = copied.len() - 1;
    assert_eq!(write(&blob, &edits, &mut to[..room]), Err(Error::TooLarge(room)));
}
