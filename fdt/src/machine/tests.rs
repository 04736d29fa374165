//! Tests of the device tree reader, on trees like QEMU virt's and on malformed ones.

use super::*;
use alloc::vec;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

/// Makes a node with properties. Names may be of any length.
pub(crate) fn node(name: &str, properties: &[(&str, Vec<u8>)]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new_unchecked(name);
    for (name, value) in properties {
        node.add_property(DeviceTreeProperty::new_unchecked(*name, value.clone()));
    }
    node
}

/// Makes a property value from cells.
pub(crate) fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

/// Makes a property value from a string.
pub(crate) fn text(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

/// The GIC's phandle.
pub(crate) const GIC: u32 = 0x8001;

/// Makes the tree of a machine like QEMU virt.
pub(crate) fn virt() -> DeviceTree {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    root.add_property(DeviceTreeProperty::new("#address-cells", 2_u32).unwrap());
    root.add_property(DeviceTreeProperty::new("#size-cells", 2_u32).unwrap());
    root.add_child(node(
        "memory@40000000",
        &[("device_type", text("memory")), ("reg", cells(&[0, 0x4000_0000, 0, 0x800_0000]))],
    ));
    root.add_child(node(
        "memory@48000000",
        &[("device_type", text("memory")), ("reg", cells(&[0, 0x4800_0000, 0, 0x1800_0000]))],
    ));
    root.add_child(node(
        "psci",
        &[("compatible", text("arm,psci-1.0\0arm,psci-0.2\0arm,psci")), ("method", text("smc"))],
    ));
    let mut cpus = node("cpus", &[("#address-cells", cells(&[1])), ("#size-cells", cells(&[0]))]);
    for affinity in [0, 1, 0x100] {
        cpus.add_child(node(&alloc::format!("cpu@{affinity:x}"), &[("reg", cells(&[affinity]))]));
    }
    cpus.add_child(node("cpu@101", &[("reg", cells(&[0x101])), ("status", text("fail"))]));
    cpus.add_child(node("cpu-map", &[]));
    root.add_child(cpus);
    let redistributors =
        &[0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0xf6_0000, 0, 0x0c00_0000, 0, 0x1_0000];
    let mut intc =
        node("intc@8000000", &[("compatible", text("arm,gic-v3")), ("reg", cells(redistributors))]);
    for (name, value) in [
        ("#address-cells", cells(&[2])),
        ("#size-cells", cells(&[2])),
        ("ranges", vec![]),
        ("#interrupt-cells", cells(&[3])),
        ("phandle", cells(&[GIC])),
    ] {
        intc.add_property(DeviceTreeProperty::new(name, value).unwrap());
    }
    intc.add_child(node(
        "its@8080000",
        &[("compatible", text("arm,gic-v3-its")), ("reg", cells(&[0, 0x0808_0000, 0, 0x2_0000]))],
    ));
    root.add_child(intc);
    let compatible = b"arm,armv8-timer\0arm,armv7-timer\0".to_vec();
    let interrupts = cells(&[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
    root.add_child(node("timer", &[("compatible", compatible), ("interrupts", interrupts)]));
    for slot in [0x0a00_3e00, 0x0a00_0000] {
        let name = alloc::format!("virtio_mmio@{slot:x}");
        root.add_child(node(
            &name,
            &[("compatible", text("virtio,mmio")), ("reg", cells(&[0, slot, 0, 0x200]))],
        ));
    }
    for uart in [0x0900_0000, 0x0904_0000] {
        let name = alloc::format!("pl011@{uart:x}");
        let compatible = b"arm,pl011\0arm,primecell\0".to_vec();
        root.add_child(node(
            &name,
            &[("compatible", compatible), ("reg", cells(&[0, uart, 0, 0x1000]))],
        ));
    }
    root.add_child(node(
        "pcie@10000000",
        &[
            ("compatible", text("pci-host-ecam-generic")),
            ("#address-cells", cells(&[3])),
            ("#size-cells", cells(&[2])),
            ("reg", cells(&[0x40, 0x1000_0000, 0, 0x1000_0000])),
            // I/O, 32-bit memory, 64-bit memory, and memory at another address on the bus.
            (
                "ranges",
                cells(&[
                    0x0100_0000,
                    0,
                    0,
                    0,
                    0x3eff_0000,
                    0,
                    0x1_0000, //
                    0x0200_0000,
                    0,
                    0x1000_0000,
                    0,
                    0x1000_0000,
                    0,
                    0x2eff_0000, //
                    0x0300_0000,
                    0x80,
                    0,
                    0x80,
                    0,
                    0x80,
                    0, //
                    0x0200_0000,
                    0,
                    0,
                    0x90,
                    0,
                    0,
                    0x1000,
                ]),
            ),
        ],
    ));
    let mut reserved = node(
        "reserved-memory",
        &[("#address-cells", cells(&[2])), ("#size-cells", cells(&[2])), ("ranges", vec![])],
    );
    reserved.add_child(node(
        "secure@50000000",
        &[("reg", cells(&[0, 0x5000_0000, 0, 0x1_0000])), ("no-map", vec![])],
    ));
    reserved.add_child(node("log@51000000", &[("reg", cells(&[0, 0x5100_0000, 0, 0x1000]))]));
    root.add_child(reserved);
    let mut bus = node(
        "soc",
        &[("#address-cells", cells(&[1])), ("#size-cells", cells(&[1])), ("ranges", vec![])],
    );
    bus.add_child(node("timer@8000000", &[("reg", cells(&[0x0800_0000, 0x1000]))]));
    root.add_child(bus);
    let mut far = node(
        "far",
        &[
            ("#address-cells", cells(&[1])),
            ("#size-cells", cells(&[1])),
            ("ranges", cells(&[0, 1, 0, 0x1000])),
        ],
    );
    far.add_child(node("moved@10", &[("reg", cells(&[0x10, 0x20]))]));
    root.add_child(far);
    root.add_child(node(
        "chosen",
        &[
            ("bootargs", text("generations=3 base=random\0\0\0")),
            ("stdout-path", text("/pl011@9040000:115200n8")),
        ],
    ));
    tree
}

fn range(start: u64, bytes: u64) -> Range<PhysAddr> {
    PhysAddr::new(start)..PhysAddr::new(start + bytes)
}

/// Returns the console's registers.
fn registers(machine: &Machine) -> Option<Range<PhysAddr>> {
    machine.console.as_ref().map(|console| console.registers.clone())
}

/// Makes virt's tree as Linux's EFI stub leaves it, with these cells for the map's place, size and
/// descriptor size.
fn uefi(place: &[u32], bytes: &[u32], stride: &[u32]) -> DeviceTree {
    let mut tree = virt();
    let chosen = tree.find_node_mut("/chosen").unwrap();
    for (name, value) in FIRMWARE_MAP.into_iter().zip([place, bytes, stride]) {
        if !value.is_empty() {
            chosen.add_property(DeviceTreeProperty::new(name, cells(value)).unwrap());
        }
    }
    tree
}

#[test]
fn a_memory_map_of_uefi_describes_ram_and_memory_nodes_do_not() {
    let mut tree = uefi(&[0, 0x5f00_0010], &[0x120], &[48]);
    let read = |tree: &DeviceTree| Machine::read(&Tree::open(&tree.to_dtb()).unwrap());
    let address = PhysAddr::new;
    let found =
        [address(0x8000_0000)..address(0x8100_0000), address(0x4000_0000)..address(0x5000_0000)];

    let mut machine = read(&tree).unwrap();
    let map = machine.firmware_map.clone().unwrap();
    assert_eq!(map.range, address(0x5f00_0010)..address(0x5f00_0130));
    assert_eq!((map.stride, machine.ram.len()), (48, 0));
    assert_eq!(machine.clone().take_ram([].into_iter()), Err(Error::NoRam));
    machine.take_ram(found.clone().into_iter()).unwrap();
    assert_eq!(machine.ram, [found[1].clone(), found[0].clone()]);

    // A crash kernel may use a part of it.
    let limits = cells(&[0, 0x4800_0000, 0, 0x100_0000]);
    let chosen = tree.find_node_mut("/chosen").unwrap();
    chosen.add_property(DeviceTreeProperty::new(USABLE_MEMORY_RANGE, limits).unwrap());
    let mut machine = read(&tree).unwrap();
    machine.take_ram(found.into_iter()).unwrap();
    assert_eq!(machine.ram, [address(0x4800_0000)..address(0x4900_0000)]);

    // The next generation reads memory nodes again.
    let shrunk = crate::handover::shrink(
        &tree.to_dtb(),
        crate::handover::Shrink { keeps_initrd: false, ram: Some(&machine.ram) },
    );
    let shrunk = shrunk.unwrap();
    let next = Machine::read(&Tree::open(&shrunk).unwrap()).unwrap();
    assert_eq!((next.firmware_map, next.ram), (None, machine.ram));
}

#[test]
fn a_memory_map_of_uefi_without_a_place_or_a_size_is_refused() {
    for (place, bytes, stride) in [
        (&[0, 0x5f00_0000][..], &[][..], &[48][..]),
        (&[0, 0x5f00_0000], &[0x120], &[]),
        (&[0, 0x5f00_0000], &[0], &[48]),
        (&[0, 0x5f00_0000, 0], &[0x120], &[48]),
        (&[!0, !0], &[0x120], &[48]),
    ] {
        let blob = uefi(place, bytes, stride).to_dtb();
        assert_eq!(
            Machine::read(&Tree::open(&blob).unwrap()),
            Err(Error::FirmwareMap),
            "{place:?} {bytes:?} {stride:?}"
        );
    }
}

#[test]
fn an_initrd_is_named_by_one_cell_each_or_two() {
    let with = |start: &[u32], end: &[u32]| {
        let mut tree = virt();
        let chosen = tree.root.child_mut("chosen").unwrap();
        for (name, value) in [("linux,initrd-start", start), ("linux,initrd-end", end)] {
            chosen.add_property(DeviceTreeProperty::new(name, cells(value)).unwrap());
        }
        Tree::open(&tree.to_dtb()).unwrap().initrd()
    };
    assert_eq!(
        with(&[0x4400_0000], &[0x4400_1000]),
        Some(PhysAddr::new(0x4400_0000)..PhysAddr::new(0x4400_1000))
    );
    assert_eq!(with(&[1, 0], &[1, 8]), Some(PhysAddr::new(1 << 32)..PhysAddr::new(1 << 32 | 8)));
    assert_eq!(with(&[1, 0], &[]), None);
    assert_eq!(Tree::open(&virt().to_dtb()).unwrap().initrd(), None);
}

#[test]
fn a_pci_host_has_the_buses_that_both_its_properties_have() {
    let with = |compatible: &str, bytes: u32, bus_range: Option<&[u32]>| {
        let mut tree = virt();
        let pci = tree.root.child_mut("pcie@10000000").unwrap();
        pci.add_property(DeviceTreeProperty::new("compatible", text(compatible)).unwrap());
        pci.add_property(DeviceTreeProperty::new("reg", cells(&[0x40, 0, 0, bytes])).unwrap());
        pci.remove_property("bus-range");
        if let Some(range) = bus_range {
            pci.add_property(DeviceTreeProperty::new("bus-range", cells(range)).unwrap());
        }
        let machine = Machine::read(&Tree::open(&tree.to_dtb()).unwrap()).unwrap();
        machine.pci.into_iter().next().map(|host| (host.layout, host.buses))
    };
    let ecam = "pci-host-ecam-generic";
    assert_eq!(with(ecam, 16 << 20, None), Some((ConfigSpace::Ecam, 0..=15)));
    assert_eq!(with(ecam, 16 << 20, Some(&[0, 7])), Some((ConfigSpace::Ecam, 0..=7)));
    assert_eq!(with(ecam, 16 << 20, Some(&[64, 255])), Some((ConfigSpace::Ecam, 64..=79)));
    assert_eq!(with(ecam, 16 << 20, Some(&[250, 255])), Some((ConfigSpace::Ecam, 250..=255)));
    assert_eq!(with(ecam, 16 << 20, Some(&[9, 8])), None);
    assert_eq!(with(ecam, 16 << 20, Some(&[256, 300])), None);
    assert_eq!(with(ecam, 64 << 10, None), None, "less than a bus");
    let cam = "pci-host-cam-generic";
    assert_eq!(with(cam, 16 << 20, None), Some((ConfigSpace::Cam, 0..=255)));
    assert_eq!(with(cam, 64 << 10, None), Some((ConfigSpace::Cam, 0..=0)));
}

#[test]
fn a_machine_is_what_its_tree_says() {
    let blob = virt().to_dtb();
    let tree = Tree::open(&blob).unwrap();
    assert_eq!(tree.bootargs(), b"generations=3 base=random", "padding is left out");
    let machine = Machine::read(&tree).unwrap();
    assert_eq!(
        machine.ram,
        [range(0x4000_0000, 0x2000_0000)],
        "two nodes that touch are one range"
    );
    assert_eq!(machine.psci, Some(Psci { conduit: Conduit::Smc, functions: None }));
    let console = Some(range(0x0904_0000, 0x1000));
    assert_eq!(registers(&machine), console, "stdout-path decides, options and all");
    assert_eq!(machine.virtio, [range(0x0a00_3e00, 0x200), range(0x0a00_0000, 0x200)]);
    let windows = vec![range(0x1000_0000, 0x2eff_0000), range(0x80_0000_0000, 0x80_0000_0000)];
    assert_eq!(
        machine.pci,
        [PciHost {
            config: range(0x40_1000_0000, 0x1000_0000),
            layout: ConfigSpace::Ecam,
            buses: 0..=255,
            windows,
            domain: None,
        }]
    );
    let reserved: Vec<_> =
        machine.reserved.iter().map(|r| (r.range.clone(), r.name.as_str(), r.no_map)).collect();
    let secure = (range(0x5000_0000, 0x1_0000), "secure@50000000", true);
    assert_eq!(reserved, [secure, (range(0x5100_0000, 0x1000), "log@51000000", false)]);
    assert!(
        machine.devices.contains(&range(0x0800_0000, 0x1000)),
        "a bus with empty ranges is followed"
    );
    assert!(machine.devices.contains(&range(0x1_0000_0010, 0x20)), "and one that moves");
    assert_eq!(machine.devices.len(), 11);
    assert_eq!(machine.skipped, []);
}

#[test]
fn cpus_interrupts_and_the_timer_are_found() {
    let blob = virt().to_dtb();
    let machine = Machine::read(&Tree::open(&blob).unwrap()).unwrap();
    assert_eq!(machine.cpus, [0, 1, 0x100], "without the one that failed");
    // The whole region: its frames may be those of CPUs that the tree does not name. The CPU
    // interface that follows it is left out.
    let distributor = range(0x0800_0000, 0x1_0000);
    let redistributors =
        Redistributors { regions: vec![range(0x080a_0000, 0xf6_0000)], stride: None };
    assert_eq!(machine.gic, Some(Gic::V3 { distributor, redistributors }));
    assert_eq!(machine.its, [range(0x0808_0000, 0x2_0000)]);
    assert_eq!(machine.timer, Some(Timer { virtual_el1: Some(27), physical_el2: Some(26) }));
}

#[test]
fn an_interrupt_that_is_not_private_is_none() {
    // The virtual timer's cells: an SPI; a PPI number above 15; one that overflows 32 bits once 16
    // is added.
    for odd in [[0, 11, 4], [1, 16, 4], [1, u32::MAX, 4]] {
        let mut tree = virt();
        let interrupts = cells(&[[1, 13, 4], [1, 14, 4], odd, [1, 10, 4]].concat());
        tree.root
            .child_mut("timer")
            .unwrap()
            .property_mut("interrupts")
            .unwrap()
            .set_value(interrupts);
        let blob = tree.to_dtb();
        let timer = Machine::read(&Tree::open(&blob).unwrap()).unwrap().timer.unwrap();
        assert_eq!(timer, Timer { virtual_el1: None, physical_el2: Some(26) }, "{odd:?}");
    }
}

#[test]
fn a_gicv2_is_two_ranges() {
    let mut tree = virt();
    let intc = tree.root.child_mut("intc@8000000").unwrap();
    intc.property_mut("compatible").unwrap().set_value("arm,cortex-a15-gic");
    let blob = tree.to_dtb();
    let machine = Machine::read(&Tree::open(&blob).unwrap()).unwrap();
    let [distributor, cpu_interface] =
        [range(0x0800_0000, 0x1_0000), range(0x080a_0000, 0xf6_0000)];
    assert_eq!(machine.gic, Some(Gic::V2 { distributor, cpu_interface }));
}

/// Reads the seeds of the fuzz target `tree`; one is QEMU's own blob.
#[test]
fn the_fuzzers_trees_are_machines() {
    let mut trees = 0;
    for entry in
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/tree")).unwrap()
    {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "dtb") {
            let blob = std::fs::read(&path).unwrap();
            let machine = Machine::read(&Tree::open(&blob).unwrap()).unwrap();
            assert_eq!(machine.ram, [range(0x4000_0000, 0x2000_0000)], "{path:?}");
            assert!(
                machine.console.is_some() && machine.psci.is_some() && !machine.virtio.is_empty(),
                "{path:?}: {machine:?}"
            );
            assert!(
                crate::handover::shrink(&blob, crate::handover::Shrink::default()).is_ok(),
                "{path:?}"
            );
            trees += 1;
        }
    }
    assert!(trees > 2);
}

#[test]
fn an_alias_names_the_console_and_a_disabled_one_is_none() {
    let mut aliased = virt();
    aliased
        .root
        .child_mut("chosen")
        .unwrap()
        .property_mut("stdout-path")
        .unwrap()
        .set_value("serial1");
    aliased.root.add_child(node("aliases", &[("serial1", text("/pl011@9040000"))]));
    let blob = aliased.to_dtb();
    let machine = Machine::read(&Tree::open(&blob).unwrap()).unwrap();
    assert_eq!(registers(&machine), Some(range(0x0904_0000, 0x1000)));

    let uart = aliased.root.child_mut("pl011@9040000").unwrap();
    uart.add_property(DeviceTreeProperty::new("status", "disabled").unwrap());
    let blob = aliased.to_dtb();
    let machine = Machine::read(&Tree::open(&blob).unwrap()).unwrap();
    assert_eq!(machine.console, None, "another one is no console");
    let path = "/pl011@9040000".into();
    assert_eq!(machine.console_error, Some(console::Error::Disabled(path)));
    assert_eq!(machine.devices.len(), 11, "disabled or not, nothing may land there");
}

#[test]
fn memory_out_of_order_and_overlapping_is_joined() {
    let mut ram = Vec::new();
    for (start, bytes) in
        [(0x9000, 0x1000), (0x1000, 0x1000), (0x3000, 0x1000), (0x2000, 0x1000), (0x8000, 0x4000)]
    {
        join(&mut ram, range(start, bytes));
    }
    assert_eq!(ram, [range(0x1000, 0x3000), range(0x8000, 0x4000)]);
}

#[test]
fn a_tree_that_no_kernel_can_use_is_refused() {
    assert!(matches!(Tree::open(&[0; 64]), Err(Error::Damaged(_))));
    let mut without = virt();
    without.root.remove_child("chosen").unwrap();
    assert_eq!(Tree::open(&without.to_dtb()).map(drop), Err(Error::NoChosen));
    let mut without = virt();
    without.root.remove_child("memory@40000000").unwrap();
    without.root.remove_child("memory@48000000").unwrap();
    let blob = without.to_dtb();
    assert_eq!(Machine::read(&Tree::open(&blob).unwrap()), Err(Error::NoRam));
    let mut odd = virt();
    odd.root.add_child(node("odd@0", &[("reg", cells(&[0, 0, 0]))]));
    let blob = odd.to_dtb();
    let machine = Machine::read(&Tree::open(&blob).unwrap()).unwrap();
    assert_eq!(machine.skipped, [Skipped::Reg("/odd@0".into())]);
    let mut crash = virt();
    let odd = DeviceTreeProperty::new(USABLE_MEMORY_RANGE, 0x5f00_0000_u32).unwrap();
    crash.find_node_mut("/chosen").unwrap().add_property(odd);
    let blob = crash.to_dtb();
    assert_eq!(Machine::read(&Tree::open(&blob).unwrap()), Err(Error::UsableMemory));
}

#[test]
fn buses_within_buses_come_to_an_end() {
    // A device behind this many buses, each with its own name and empty ranges.
    let machine = |buses: usize| {
        let mut inner = node("timer@b000000", &[("reg", cells(&[0x0b00_0000, 0x1000]))]);
        for bus in 0..buses {
            let one = cells(&[1]);
            let properties =
                [("#address-cells", one.clone()), ("#size-cells", one), ("ranges", vec![])];
            let mut outer = node(&alloc::format!("bus{bus}"), &properties);
            outer.add_child(inner);
            inner = outer;
        }
        let mut tree = virt();
        tree.root.add_child(inner);
        let blob = tree.to_dtb();
        Machine::read(&Tree::open(&blob).unwrap())
    };
    let deepest = machine(MAX_DEPTH - 1).unwrap();
    assert!(deepest.devices.contains(&range(0x0b00_0000, 0x1000)) && deepest.skipped.is_empty());
    let deeper = machine(MAX_DEPTH).unwrap();
    assert!(
        matches!(&deeper.skipped[..], [Skipped::TooDeep(path)] if path.ends_with("/timer@b000000"))
    );
    assert_eq!(machine(10_000).unwrap().devices, deeper.devices);
}

#[test]
fn no_flipped_byte_panics() {
    let blob = virt().to_dtb();
    for at in 0..blob.len() {
        for flip in [0xff, 0x01, 0x80] {
            let mut blob = blob.clone();
            blob[at] ^= flip;
            if let Ok(tree) = Tree::open(&blob) {
                let _ = (tree.bootargs(), tree.chosen_u64("bootargs"), Machine::read(&tree));
            }
        }
    }
}

mod boards;
mod edges;
mod vmms;
