//! Edges of what is read: each test has an input on either side of a limit.

use super::*;

fn read(tree: &DeviceTree) -> Machine {
    Machine::read(&Tree::open(&tree.to_dtb()).unwrap()).unwrap()
}

/// Returns a virtio slot with this `reg`.
fn slot(name: &str, reg: &[u32]) -> DeviceTreeNode {
    node(name, &[("compatible", text("virtio,mmio")), ("reg", cells(reg))])
}

#[test]
fn a_bus_has_addresses_and_sizes_of_one_or_two_cells() {
    for (address, size, is_read) in [
        (1, 1, true),
        (2, 2, true),
        (0, 1, false),
        (3, 1, false),
        (3, 3, false),
        (1, 0, false),
        (2, 0, false),
        (1, 3, false),
        (2, 3, false),
    ] {
        let mut tree = virt();
        let counts = [("#address-cells", cells(&[address])), ("#size-cells", cells(&[size]))];
        let mut bus = node("odd", &counts);
        bus.add_property(DeviceTreeProperty::new("ranges", Vec::<u8>::new()).unwrap());
        let mut reg = vec![0; (address + size) as usize];
        reg[(address as usize).saturating_sub(1)] = 0x0b00_0000;
        *reg.last_mut().unwrap() = 0x200;
        bus.add_child(slot("slot@b000000", &reg));
        tree.root.add_child(bus);
        let machine = read(&tree);
        let is_found = machine.virtio.contains(&range(0x0b00_0000, 0x200));
        let skipped = Skipped::Address("/odd/slot@b000000".into());
        assert_eq!(
            (is_found, machine.skipped.contains(&skipped)),
            (is_read, !is_read),
            "{address} and {size} cells: {:?}",
            machine.skipped
        );
    }
}

#[test]
fn no_bus_before_may_have_addresses_of_three_cells() {
    let mut tree = virt();
    let mut outer = node("outer", &[("#address-cells", cells(&[3])), ("#size-cells", cells(&[1]))]);
    outer.add_property(
        DeviceTreeProperty::new("ranges", cells(&[0, 0, 0, 0, 0x0b00_0000, 0x1_0000])).unwrap(),
    );
    let mut inner = node("inner", &[("#address-cells", cells(&[1])), ("#size-cells", cells(&[1]))]);
    inner.add_property(DeviceTreeProperty::new("ranges", cells(&[0, 0, 0, 0, 0x1_0000])).unwrap());
    inner.add_child(slot("slot@0", &[0, 0x200]));
    outer.add_child(inner);
    tree.root.add_child(outer);
    let machine = read(&tree);
    assert_eq!(machine.skipped, [Skipped::Address("/outer/inner/slot@0".into())]);
    assert_eq!(machine.virtio, read(&virt()).virtio);
}

#[test]
fn an_empty_range_is_neither_ram_nor_a_device() {
    let mut tree = virt();
    let reg = cells(&[0, 0x4000_0000, 0, 0x800_0000, !0, !0, 0, 0]);
    let memory = tree.find_node_mut("/memory@40000000").unwrap();
    memory.add_property(DeviceTreeProperty::new("reg", reg).unwrap());
    tree.root.add_child(slot("slot@b000000", &[0, 0x0b00_0000, 0, 0, 0, 0x0b00_1000, 0, 0x200]));
    let machine = read(&tree);
    assert_eq!(machine.skipped, []);
    assert_eq!(machine.ram, read(&virt()).ram);
    assert!(machine.devices.iter().all(|device| !device.is_empty()), "{:?}", machine.devices);
    assert!(machine.virtio.contains(&range(0x0b00_1000, 0x200)), "{:?}", machine.virtio);
}

#[test]
fn chosen_and_aliases_have_no_devices() {
    for part in ["chosen", "aliases"] {
        let mut tree = virt();
        if part == "aliases" {
            tree.root.add_child(node(part, &[]));
        }
        let parent = tree.root.child_mut(part).unwrap();
        parent.add_property(DeviceTreeProperty::new("#address-cells", 2_u32).unwrap());
        parent.add_property(DeviceTreeProperty::new("#size-cells", 2_u32).unwrap());
        parent.add_property(DeviceTreeProperty::new("ranges", Vec::<u8>::new()).unwrap());
        parent.add_child(slot("slot@b000000", &[0, 0x0b00_0000, 0, 0x200]));
        assert_eq!(read(&tree), read(&virt()), "{part}");
    }
}

#[test]
fn a_cpu_may_have_an_affinity_of_two_cells() {
    let mut tree = virt();
    tree.root.remove_child("cpus").unwrap();
    let mut cpus = node("cpus", &[("#address-cells", cells(&[2])), ("#size-cells", cells(&[0]))]);
    for reg in [[0, 0x100], [1, 0x200]] {
        cpus.add_child(node(&alloc::format!("cpu@{:x}", reg[1]), &[("reg", cells(&reg))]));
    }
    tree.root.add_child(cpus);
    assert_eq!(read(&tree).cpus, [0x100, 0x1_0000_0200]);
}

#[test]
fn a_redistributor_stride_of_0_is_none() {
    for (cell, expected) in [(0, None), (1, Some(1)), (0x3_0000, Some(0x3_0000))] {
        let mut tree = virt();
        let gic = tree.find_node_mut("/intc@8000000").unwrap();
        let stride = cells(&[0, cell]);
        gic.add_property(DeviceTreeProperty::new("redistributor-stride", stride).unwrap());
        let Some(Gic::V3 { redistributors, .. }) = read(&tree).gic else { panic!("a GICv3") };
        assert_eq!(redistributors.stride, expected, "{cell:#x}");
    }
}

#[test]
fn the_first_gic_timer_and_psci_count() {
    for v2 in [true, false] {
        let mut tree = virt();
        let frames = [0, 0x0800_0000, 0, 0x1_0000, 0, 0x0801_0000, 0, 0x1_0000];
        if v2 {
            let gic = tree.find_node_mut("/intc@8000000").unwrap();
            gic.add_property(DeviceTreeProperty::new("compatible", text("arm,gic-400")).unwrap());
            gic.add_property(DeviceTreeProperty::new("reg", cells(&frames)).unwrap());
        }
        let first = read(&tree);
        assert!(matches!(first.gic, Some(Gic::V2 { .. })) == v2, "{:?}", first.gic);
        let frames = frames.map(|word| if word < 0x100_0000 { word } else { word + 0x1000_0000 });
        let compatible = text(if v2 { "arm,gic-400" } else { "arm,gic-v3" });
        let second = [("compatible", compatible), ("reg", cells(&frames))];
        tree.root.add_child(node("intc@18000000", &second));
        let interrupts = cells(&[1, 1, 4, 1, 2, 4, 1, 3, 4, 1, 4, 4]);
        let timer = [("compatible", text("arm,armv8-timer")), ("interrupts", interrupts)];
        tree.root.add_child(node("timer-2", &timer));
        let psci = [("compatible", text("arm,psci-1.0")), ("method", text("hvc"))];
        tree.root.add_child(node("psci-2", &psci));
        let machine = read(&tree);
        assert_eq!(
            (machine.gic, machine.timer, machine.psci),
            (first.gic, first.timer, first.psci)
        );
    }
}

#[test]
fn a_timer_s_interrupts_have_the_cells_of_the_parent_that_it_names() {
    let mut tree = virt();
    // The first GIC of the tree has three cells, and the timer's has four.
    let timer = tree.find_node_mut("/timer").unwrap();
    let interrupts = cells(&[1, 13, 4, 0, 1, 14, 4, 0, 1, 11, 4, 0, 1, 10, 4, 0]);
    for (name, value) in [("interrupts", interrupts), ("interrupt-parent", cells(&[0x77]))] {
        timer.add_property(DeviceTreeProperty::new(name, value).unwrap());
    }
    let second = [
        ("compatible", text("arm,gic-v3")),
        ("phandle", cells(&[0x77])),
        ("#interrupt-cells", cells(&[4])),
    ];
    tree.root.add_child(node("intc@18000000", &second));
    let timer = Timer { virtual_el1: Some(27), physical_el2: Some(26) };
    assert_eq!(read(&tree).timer, Some(timer));
}

#[test]
fn windows_of_a_pci_host_are_memory_alone() {
    let mut tree = virt();
    let mut soc = node("soc-1", &[("#address-cells", cells(&[1])), ("#size-cells", cells(&[1]))]);
    soc.add_property(DeviceTreeProperty::new("ranges", Vec::<u8>::new()).unwrap());
    // One cell for an address of the CPU. The I/O window has one address on both sides.
    let windows = [
        [0x0100_0000, 0, 0x3000_0000, 0x3000_0000, 0, 0x1_0000],
        [0x0200_0000, 0, 0x2000_0000, 0x2000_0000, 0, 0x10_0000],
    ];
    soc.add_child(node(
        "pcie@b0000000",
        &[
            ("compatible", text("pci-host-ecam-generic")),
            ("#address-cells", cells(&[3])),
            ("#size-cells", cells(&[2])),
            ("reg", cells(&[0xb000_0000, 0x1000_0000])),
            ("ranges", cells(windows.as_flattened())),
        ],
    ));
    tree.root.add_child(soc);
    let host = read(&tree).pci.pop().unwrap();
    assert_eq!(host.windows, [range(0x2000_0000, 0x10_0000)]);
}

#[test]
fn a_gic_s_registers_are_all_of_its_ranges() {
    let distributor = range(0x0800_0000, 0x1_0000);
    let others = vec![range(0x080a_0000, 0x2_0000), range(0x0900_0000, 0x2_0000)];
    let v2 =
        Gic::V2 { distributor: distributor.clone(), cpu_interface: range(0x0801_0000, 0x2000) };
    assert_eq!(v2.registers(), [distributor.clone(), range(0x0801_0000, 0x2000)]);
    let redistributors = Redistributors { regions: others.clone(), stride: None };
    let v3 = Gic::V3 { distributor: distributor.clone(), redistributors };
    assert_eq!(v3.registers(), [vec![distributor], others].concat());
}
