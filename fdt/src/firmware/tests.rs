//! Tests of the new device tree, against trees like those of QEMU's virt machine.

use super::*;
use crate::blob;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use proptest::prelude::*;

fn node(name: &str, properties: &[(&str, &[u8])]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new(name).unwrap();
    for (name, value) in properties {
        node.add_property(DeviceTreeProperty::new(*name, *value).unwrap());
    }
    node
}

/// Builds a tree like that of QEMU's virt machine, with two memory nodes.
fn virt(chosen: bool) -> DeviceTree {
    let mut tree = DeviceTree::new();
    let cells = 2_u32.to_be_bytes();
    tree.root =
        node("", &[("#address-cells", &cells), ("#size-cells", &cells), ("model", b"virt\0")]);
    tree.root
        .add_child(node("memory@80000000", &[("device_type", b"memory\0"), ("reg", &[1; 16])]));
    tree.root
        .add_child(node("memory@40000000", &[("device_type", b"memory\0"), ("reg", &[0; 16])]));
    if chosen {
        tree.root.add_child(node(
            "chosen",
            &[("stdout-path", b"/pl011\0"), ("bootargs", b"old\0"), ("x", &[1, 2, 3])],
        ));
    }
    let mut bus = node("bus", &[("reg", &[7; 4])]);
    bus.add_child(node("memory@1", &[("bootargs", b"not ours\0")]));
    tree.root.add_child(bus);
    tree
}

const RAM: [Range<PhysAddr>; 2] = [
    PhysAddr::new(0x4000_0000)..PhysAddr::new(0x5c00_0000),
    PhysAddr::new(0x1_0000_0000)..PhysAddr::new(0x1_0000_1000),
];

fn written(blob: &[u8], words: Option<&str>, room: usize) -> Result<Vec<u8>, Error> {
    let mut to = vec![0xee; room];
    let size = write(blob, RAM.into_iter(), None, words.map(str::chars), &mut to)?;
    to.truncate(size);
    Ok(to)
}

/// Returns the properties of the node at `path`, in order.
fn properties(blob: &[u8], path: &str) -> Vec<(String, Vec<u8>)> {
    let fdt = Fdt::new(blob).unwrap();
    let node = fdt.find_node(path).unwrap();
    node.properties()
        .map(|p| (p.name().to_owned(), p.value_as::<&[u8]>().unwrap().to_owned()))
        .collect()
}

fn value(blob: &[u8], path: &str, name: &str) -> Vec<u8> {
    let found: Vec<_> = properties(blob, path)
        .into_iter()
        .filter(|(of, _)| of == name)
        .map(|(_, value)| value)
        .collect();
    assert_eq!(found.len(), 1, "{path} {name}");
    found[0].clone()
}

fn children(blob: &[u8]) -> Vec<String> {
    Fdt::new(blob).unwrap().root().children().map(|child| child.name().to_owned()).collect()
}

#[test]
fn memory_is_what_the_map_leaves_and_nothing_else_changes() {
    let blob = written(&virt(true).to_dtb(), None, 4096).unwrap();
    assert_eq!(children(&blob), ["chosen", "bus", "memory"]);
    let numbers = [0x4000_0000_u64, 0x1c00_0000, 0x1_0000_0000, 0x1000];
    assert_eq!(value(&blob, "/memory", "reg"), numbers.map(u64::to_be_bytes).concat());
    assert_eq!(value(&blob, "/memory", "device_type"), b"memory\0");
    let before = virt(true).to_dtb();
    for path in ["/", "/chosen", "/bus", "/bus/memory@1"] {
        assert_eq!(properties(&blob, path), properties(&before, path), "{path}");
    }
}

#[test]
fn bootargs_are_replaced_where_there_are_new_ones() {
    let blob = written(&virt(true).to_dtb(), Some("a=1 ä"), 4096).unwrap();
    assert_eq!(value(&blob, "/chosen", "bootargs"), "a=1 ä\0".as_bytes());
    assert_eq!(value(&blob, "/chosen", "stdout-path"), b"/pl011\0");
    assert_eq!(value(&blob, "/bus/memory@1", "bootargs"), b"not ours\0");
}

#[test]
fn a_tree_without_chosen_gets_one_for_bootargs() {
    let blob = written(&virt(false).to_dtb(), Some("a"), 4096).unwrap();
    assert_eq!(value(&blob, "/chosen", "bootargs"), b"a\0");
    assert!(
        !children(&written(&virt(false).to_dtb(), None, 4096).unwrap())
            .contains(&"chosen".to_owned())
    );
}

#[test]
fn reservations_and_the_boot_cpu_stay() {
    let mut tree = virt(true);
    tree.memory_reservations
        .push(dtoolkit::memreserve::MemoryReservation::new(0x4800_0000, 0x1000));
    let mut blob = tree.to_dtb();
    blob[28..32].copy_from_slice(&7_u32.to_be_bytes());
    let blob = written(&blob, None, 4096).unwrap();
    let fdt = Fdt::new(&blob).unwrap();
    let found: Vec<_> =
        fdt.memory_reservations().map(|reserved| (reserved.address(), reserved.size())).collect();
    assert_eq!(found, [(0x4800_0000, 0x1000)]);
    assert_eq!(blob[28..32], 7_u32.to_be_bytes());
}

#[test]
fn padding_is_left_behind_and_a_second_writing_keeps_the_facts() {
    let mut padded = virt(true).to_dtb();
    let size: u32 = if cfg!(miri) { 1 << 12 } else { 1 << 20 };
    padded.resize(size as usize, 0);
    padded[4..8].copy_from_slice(&size.to_be_bytes());
    let once = written(&padded, Some("a"), 4096).unwrap();
    assert_eq!(once, written(&virt(true).to_dtb(), Some("a"), 4096).unwrap());
    let twice = written(&once, None, 4096).unwrap();
    assert_eq!(properties(&twice, "/memory"), properties(&once, "/memory"));
    assert_eq!(value(&twice, "/chosen", "bootargs"), b"a\0");
}

#[test]
fn no_room_is_too_large_however_little_is_missing() {
    let blob = virt(true).to_dtb();
    let size = written(&blob, Some("abc"), 4096).unwrap().len();
    assert_eq!(written(&blob, Some("abc"), size).unwrap().len(), size);
    for room in (0..size).step_by(if cfg!(miri) { 101 } else { 1 }) {
        assert_eq!(written(&blob, Some("abc"), room), Err(Error::TooLarge(room)));
    }
}

#[test]
fn an_initrd_replaces_that_of_the_tree() {
    let mut tree = virt(true);
    let chosen = tree.root.child_mut("chosen").unwrap();
    let old = DeviceTreeProperty::new("linux,initrd-start", 7_u64.to_be_bytes().as_slice());
    chosen.add_property(old.unwrap());
    let initrd = Some(PhysAddr::new(0x4400_0000)..PhysAddr::new(0x4401_2345));
    for words in [None, Some("a b")] {
        let mut to = vec![0; 4096];
        let words = words.map(str::chars);
        let size =
            write(&tree.to_dtb(), RAM.into_iter(), initrd.clone(), words.clone(), &mut to).unwrap();
        let number = |name| value(&to[..size], "/chosen", name);
        assert_eq!(number("linux,initrd-start"), 0x4400_0000_u64.to_be_bytes());
        assert_eq!(number("linux,initrd-end"), 0x4401_2345_u64.to_be_bytes());
        let bootargs = if words.is_some() { &b"a b\0"[..] } else { b"old\0" };
        assert_eq!(value(&to[..size], "/chosen", "bootargs"), bootargs);
    }
}

#[test]
fn one_cell_holds_what_it_can() {
    let mut tree = virt(true);
    let one = DeviceTreeProperty::new("#address-cells", 1_u32.to_be_bytes().as_slice()).unwrap();
    tree.root.remove_property("#address-cells");
    tree.root.add_property(one);
    assert_eq!(written(&tree.to_dtb(), None, 4096), Err(Error::Cells(0x1_0000_0000)));
    let mut to = vec![0; 4096];
    let size = write(
        &tree.to_dtb(),
        RAM[..1].iter().cloned(),
        None,
        None::<core::str::Chars<'_>>,
        &mut to,
    )
    .unwrap();
    assert_eq!(value(&to[..size], "/memory", "reg"), [0x40, 0, 0, 0, 0, 0, 0, 0, 0x1c, 0, 0, 0]);
}

#[test]
fn what_is_no_blob_is_refused() {
    let blob = virt(true).to_dtb();
    let spoilt = |at: usize, byte: u8| {
        let mut blob = blob.clone();
        blob[at] = byte;
        written(&blob, None, 4096)
    };
    assert_eq!(spoilt(0, 0), Err(Error::Damaged("no magic")));
    assert_eq!(spoilt(23, 16), Err(Error::Damaged("a version that is not known")));
    assert_eq!(spoilt(12, 1), Err(Error::Damaged("blocks past the end")));
    assert_eq!(spoilt(35, blob[35] - 1), Err(Error::Damaged("strings that do not end in NUL")));
    assert_eq!(written(&blob[..30], None, 4096), Err(Error::Damaged("no header")));
    assert_eq!(blob::size(&blob), Some(blob.len()));
    assert_eq!(blob::size(&[0; 8]), None);
}

proptest! {
    // Miri has no current directory to keep failures in.
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 512 })
    })]

    #[test]
    fn any_damage_is_written_or_refused(at in 0_usize..700, byte: u8, end in 0_usize..700) {
        let mut blob = virt(true).to_dtb();
        let place = at % blob.len();
        blob[place] = byte;
        blob.truncate(blob.len().max(end) - end.min(blob.len()) / 8);
        if let Ok(written) = written(&blob, Some("a"), 1 << 16) {
            prop_assert_eq!(blob::size(&written), Some(written.len()));
        }
    }
}
