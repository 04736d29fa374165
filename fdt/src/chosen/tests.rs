//! Tests of a payload's device tree: what is written, what is left out, what is refused.

use super::*;
use crate::blob::word;
use crate::handover::{Handover, Shrink, shrink};
use crate::machine::tests::{cells, node, text, virt};
use crate::machine::{Machine, Tree};
use alloc::vec;
use dtoolkit::fdt::Fdt;
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeProperty};
use dtoolkit::{Node as _, Property as _};
use proptest::prelude::*;

const GIVEN: Chosen<'_> = Chosen {
    memory: None,
    bootargs: Some("console=ttyAMA0 quiet"),
    initrd: Some(PhysAddr::new(0x4800_0000)..PhysAddr::new(0x4812_3457)),
    seeds: Some([7; SEED_BYTES]),
};

/// Returns [`virt`] with these properties in /chosen as well.
fn with(properties: &[(&str, Vec<u8>)]) -> DeviceTree {
    let mut tree = virt();
    let chosen = tree.find_node_mut("/chosen").unwrap();
    for (name, value) in properties {
        chosen.add_property(DeviceTreeProperty::new(*name, value.clone()).unwrap());
    }
    tree
}

/// Returns the properties of a blob's only /chosen, ordered by name.
fn chosen(blob: &[u8]) -> Vec<(String, Vec<u8>)> {
    let tree = Fdt::new(blob).unwrap();
    let chosen = tree.root().children().filter(|node| node.name() == "chosen").collect::<Vec<_>>();
    assert_eq!(chosen.len(), 1);
    let properties = chosen[0].properties();
    let mut said: Vec<_> = properties
        .map(|property| (property.name().into(), property.value_as::<&[u8]>().unwrap().to_vec()))
        .collect();
    said.sort();
    said
}

fn expected() -> Vec<(String, Vec<u8>)> {
    let mut properties = vec![
        (BOOTARGS.into(), text("console=ttyAMA0 quiet")),
        (INITRD_START.into(), cells(&[0, 0x4800_0000])),
        (INITRD_END.into(), cells(&[0, 0x4812_3457])),
        (KASLR_SEED.into(), vec![7; 8]),
        (RNG_SEED.into(), vec![7; 32]),
        ("stdout-path".into(), text("/pl011@9040000:115200n8")),
    ];
    properties.sort();
    properties
}

fn reservations(blob: &[u8]) -> Vec<(u64, u64)> {
    Fdt::new(blob).unwrap().memory_reservations().map(|one| (one.address(), one.size())).collect()
}

#[test]
fn a_payload_gets_every_property_once() {
    let blob = virt().to_dtb();
    let written = write(&blob, &GIVEN).unwrap();
    assert_eq!(chosen(&written), expected());
    assert_eq!(reservations(&written), [(0x4800_0000, 0x12_3457)]);
    // All else is as before, except for the reservation.
    let [mut before, mut after] =
        [&blob, &written].map(|blob| Machine::read(&Tree::open(blob).unwrap()).unwrap());
    after.reserved.retain(|reserved| reserved.range.start != PhysAddr::new(0x4800_0000));
    before.reserved.sort_by_key(|reserved| reserved.range.start);
    after.reserved.sort_by_key(|reserved| reserved.range.start);
    assert_eq!(before, after);
}

#[test]
fn nothing_of_a_predecessors_is_left() {
    let mut old: Vec<_> = STALE.map(|name| (name, vec![1; 8])).into();
    old.extend(
        ["ouroboros,generation", "ouroboros,anything", "linux,uefi-system-table"]
            .map(|name| (name, vec![1; 8])),
    );
    old.push((BOOTARGS, text("generations=3 payload=conf-2")));
    let written = write(&with(&old).to_dtb(), &GIVEN).unwrap();
    assert_eq!(chosen(&written), expected());
    // Our own generations' properties are left out as well.
    let blob = shrink(&virt().to_dtb(), Shrink::default()).unwrap();
    assert!(Handover::read(&Tree::open(&blob).unwrap()).is_some());
    let written = write(&blob, &GIVEN).unwrap();
    assert_eq!(
        (chosen(&written), Handover::read(&Tree::open(&written).unwrap())),
        (expected(), None)
    );
}

#[test]
fn absent_properties_are_not_written_and_bootargs_stay() {
    let old = [(KASLR_SEED, vec![1; 8]), (RNG_SEED, vec![1; 32]), (INITRD_START, vec![1; 4])];
    let written = write(&with(&old).to_dtb(), &Chosen::default()).unwrap();
    // The old command line stays as it was, with the zero bytes that kexec-tools pads with.
    let cmdline = text("generations=3 base=random\0\0\0");
    assert_eq!(
        chosen(&written),
        [(BOOTARGS.into(), cmdline), ("stdout-path".into(), text("/pl011@9040000:115200n8"))]
    );
    assert_eq!(reservations(&written), reservations(&virt().to_dtb()));
}

#[test]
fn however_often_it_is_written_it_does_not_grow() {
    let once = write(&virt().to_dtb(), &GIVEN).unwrap();
    let other =
        Chosen { initrd: Some(PhysAddr::new(0x5000_0000)..PhysAddr::new(0x5000_0001)), ..GIVEN };
    let again = write(&write(&once, &other).unwrap(), &GIVEN).unwrap();
    assert_eq!(again, once);
}

#[test]
fn an_old_ramdisks_reservation_goes_and_others_stay() {
    for (start, end) in [(vec![0, 0, 0, 0, 0x48, 0, 0, 0], vec![0, 0, 0, 0, 0x48, 0x10, 0, 1]), {
        (vec![0x48, 0, 0, 0], vec![0x48, 0x10, 0, 1])
    }] {
        let mut tree = with(&[(INITRD_START, start), (INITRD_END, end)]);
        let entries = [
            (0x4000_0000, 0x1000),
            (0x4800_0000, 0x10_0001),
            (0x4800_0000, 0x10_1000),
            (0x4800_0000, 0x10_2000),
            (0x47ff_f000, 0x2000),
            (u64::MAX - 4095, 4095),
        ];
        tree.memory_reservations =
            entries.map(|(at, size)| MemoryReservation::new(at, size)).into();
        let written = write(&tree.to_dtb(), &GIVEN).unwrap();
        let kept = [entries[0], entries[3], entries[4], entries[5], (0x4800_0000, 0x12_3457)];
        assert_eq!(reservations(&written), kept);
        assert_eq!(reservations(&write(&tree.to_dtb(), &Chosen::default()).unwrap()), kept[..4]);
    }
}

#[test]
fn a_range_without_end_is_no_initrd() {
    let mut tree = with(&[(INITRD_START, vec![0xff; 8]), (INITRD_END, vec![0xff; 8])]);
    tree.memory_reservations = vec![MemoryReservation::new(0x4000_0000, u64::MAX)];
    let written = write(&tree.to_dtb(), &Chosen::default()).unwrap();
    assert_eq!(reservations(&written), [(0x4000_0000, u64::MAX)]);
}

#[test]
fn a_tree_without_chosen_gets_one() {
    let mut tree = virt();
    assert!(tree.root.remove_child("chosen").is_some());
    let mut expected = expected();
    expected.retain(|(name, _)| name != "stdout-path");
    assert_eq!(chosen(&write(&tree.to_dtb(), &GIVEN).unwrap()), expected);
    assert_eq!(chosen(&write(&DeviceTree::new().to_dtb(), &GIVEN).unwrap()), expected);
}

#[test]
fn a_tree_without_ram_gets_it() {
    let ram = [
        PhysAddr::new(0x4000_0000)..PhysAddr::new(0x4800_0000),
        PhysAddr::new(0x8_0000_0000)..PhysAddr::new(0x8_4000_0000),
    ];
    let machine = |blob: &[u8]| Machine::read(&Tree::open(blob).unwrap());
    for is_empty in [false, true] {
        let mut tree = virt();
        let names: Vec<String> = tree.root.children().map(|node| node.name().into()).collect();
        for name in names.iter().filter(|name| name.starts_with("memory")) {
            tree.root.remove_child(name);
        }
        if is_empty {
            let mut memory = node("memory", &[("device_type", text("memory"))]);
            memory.add_property(DeviceTreeProperty::new("reg", Vec::<u8>::new()).unwrap());
            tree.root.add_child(memory);
        }
        let without = write(&tree.to_dtb(), &GIVEN).unwrap();
        assert_eq!(machine(&without), Err(crate::machine::Error::NoRam));
        let written = write(&without, &Chosen { memory: Some(&ram), ..GIVEN }).unwrap();
        assert_eq!(machine(&written).unwrap().ram, ram);
        assert_eq!(chosen(&written), expected());
    }
}

#[test]
fn only_the_roots_own_chosen_is_meant() {
    let mut tree = virt();
    tree.root.add_child({
        let mut other = node("other", &[(KASLR_SEED, vec![3; 8])]);
        other.add_child(node("chosen", &[(KASLR_SEED, vec![3; 8]), (BOOTARGS, text("x"))]));
        other
    });
    tree.find_node_mut("/chosen").unwrap().add_child(node("module@0", &[(BOOTARGS, text("y"))]));
    let written = write(&tree.to_dtb(), &GIVEN).unwrap();
    assert_eq!(chosen(&written), expected());
    let tree = DeviceTree::from_fdt(&Fdt::new(&written).unwrap());
    let count = |node: &dtoolkit::model::DeviceTreeNode| node.properties().count();
    let other = tree.root.child("other").unwrap();
    assert_eq!([count(other), count(other.child("chosen").unwrap())], [1, 2]);
    assert_eq!(count(tree.root.child("chosen").unwrap().child("module@0").unwrap()), 1);
}

#[test]
fn what_is_no_tree_is_refused() {
    let blob = virt().to_dtb();
    let damaged = |blob: &[u8]| matches!(write(blob, &GIVEN), Err(Error::Damaged { .. }));
    assert!(damaged(&[]) && damaged(&blob[..39]) && damaged(&blob[..blob.len() - 1]));
    let changed = |at: usize, word: u32| {
        let mut blob = blob.clone();
        blob[at..at + 4].copy_from_slice(&word.to_be_bytes());
        blob
    };
    assert!(damaged(&changed(0, 0)), "the magic");
    assert!(damaged(&changed(8, 0x7fff_0000)), "the structure past the end");
    assert!(damaged(&changed(16, blob.len() as u32 - 8)), "reservations past the end");
    assert!(
        damaged(&changed(word(&blob, 8).unwrap(), 9)),
        "a structure that ends before it begins"
    );
}

#[test]
fn a_tree_above_2_mib_is_refused_by_its_size() {
    let large = |bytes: usize| with(&[("large", vec![0; bytes])]).to_dtb();
    let room = DTB_MAX_SIZE as usize - write(&large(0), &GIVEN).unwrap().len();
    let bytes = write(&large(room / 4 * 4), &GIVEN).unwrap().len() as u64;
    assert!((DTB_MAX_SIZE - 3..=DTB_MAX_SIZE).contains(&bytes), "{bytes}");
    let bytes = write(&large(room / 4 * 4 + 4), &GIVEN);
    assert!(matches!(bytes, Err(Error::TooLarge { bytes }) if bytes > DTB_MAX_SIZE), "{bytes:?}");
    assert_eq!(check_size(DTB_MAX_SIZE), Ok(()));
    let sentence = check_size(DTB_MAX_SIZE + 1).unwrap_err().to_string();
    assert!(sentence.contains("has 2097153 bytes, 2097152 are the most"), "{sentence}");
}

#[test]
fn a_payload_gets_40_random_bytes() {
    assert_eq!(SEED_BYTES, 40);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_is_refused_or_harmless(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut blob = shrink(
            &with(&[(INITRD_START, vec![1; 8]), (INITRD_END, vec![1; 8])]).to_dtb(),
            Shrink::default(),
        )
        .unwrap();
        for (index, byte) in changes {
            let at = index.index(blob.len());
            blob[at] = byte;
        }
        if let Ok(written) = write(&blob, &GIVEN) {
            // Each property is there once, and the result can be written again.
            let root = Node::root(&Blob::new(&written).unwrap()).unwrap();
            let chosen = root.children().find(|node| node.name() == b"chosen").unwrap();
            for (name, value) in expected().iter().filter(|(name, _)| name != "stdout-path") {
                let found: Vec<_> =
                    chosen.properties().filter(|one| one.name == name.as_bytes()).collect();
                prop_assert_eq!(found.len(), 1, "{}", name);
                prop_assert_eq!(found[0].value, &value[..]);
            }
            let again = write(&written, &GIVEN).unwrap();
            prop_assert!(again.len() <= written.len());
        }
    }
}
