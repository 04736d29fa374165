//! Whole trees in the shapes of Firecracker's, crosvm's and kvmtool's, with two CPUs and GICv3.
//!
//! Each VMM's public sources give the addresses and names; the trees are written here. Each is
//! read, handed over and edited, and must describe the same machine each time.

use super::*;
use crate::chosen::Chosen;
use crate::console::Kind;
use crate::handover::{Shrink, shrink};
use alloc::format;

fn quads(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn with(mut parent: DeviceTreeNode, children: Vec<DeviceTreeNode>) -> DeviceTreeNode {
    children.into_iter().for_each(|child| parent.add_child(child));
    parent
}

/// Makes a device on the root's bus.
fn device(name: &str, compatible: &str, reg: &[u64], interrupt: u32) -> DeviceTreeNode {
    let interrupts = ("interrupts", cells(&[0, interrupt, 1]));
    node(name, &[("compatible", text(compatible)), ("reg", quads(reg)), interrupts])
}

/// Makes the root that all three have, with RAM from 2 GiB on.
fn root(memory: &str, start: u64, bytes: u64) -> DeviceTreeNode {
    let properties = [
        ("interrupt-parent", cells(&[1])),
        ("compatible", text("linux,dummy-virt")),
        ("#address-cells", cells(&[2])),
        ("#size-cells", cells(&[2])),
    ];
    let ram = [("device_type", text("memory")), ("reg", quads(&[start, bytes]))];
    with(node("", &properties), vec![node(memory, &ram)])
}

/// Makes two CPUs with MPIDRs of this many cells.
fn cpus(address: usize) -> DeviceTreeNode {
    let cpu = |nth: u32| {
        let reg = [0, nth][2 - address..].to_vec();
        let psci = ("enable-method", text("psci"));
        let kind = [("device_type", text("cpu")), ("compatible", text("arm,arm-v8"))];
        node(&format!("cpu@{nth:x}"), &[&kind[..], &[psci, ("reg", cells(&reg))]].concat())
    };
    let own = [("#address-cells", cells(&[address as u32])), ("#size-cells", cells(&[0]))];
    with(node("cpus", &own), vec![cpu(0), cpu(1)])
}

/// Makes GICv3 as all three place it: the distributor ends at 1 GiB, and the redistributors are
/// below. `its` is its MSI controller, if it has one.
fn intc(its: Option<u64>) -> DeviceTreeNode {
    let reg = quads(&[0x3fff_0000, 0x1_0000, 0x3ffb_0000, 0x4_0000]);
    let properties = [
        ("compatible", text("arm,gic-v3")),
        ("#interrupt-cells", cells(&[3])),
        ("interrupt-controller", vec![]),
        ("reg", reg),
        ("phandle", cells(&[1])),
        ("#address-cells", cells(&[2])),
        ("#size-cells", cells(&[2])),
        ("ranges", vec![]),
    ];
    let msic = |start| {
        let reg = ("reg", quads(&[start, 0x2_0000]));
        node("msic", &[("compatible", text("arm,gic-v3-its")), ("msi-controller", vec![]), reg])
    };
    with(node("intc", &properties), its.map(msic).into_iter().collect())
}

fn timer(flags: u32) -> DeviceTreeNode {
    let interrupts = [13, 14, 11, 10].map(|ppi| [1, ppi, flags]).concat();
    let interrupts = ("interrupts", cells(&interrupts));
    node("timer", &[("compatible", text("arm,armv8-timer")), interrupts, ("always-on", vec![])])
}

fn psci(compatible: &str, functions: &[(&str, Vec<u8>)]) -> DeviceTreeNode {
    let properties = [("compatible", text(compatible)), ("method", text("hvc"))];
    node("psci", &[&properties, functions].concat())
}

/// Makes a PCI host with these windows: space, address for both sides, and size.
fn pci(
    compatible: &str,
    reg: [u64; 2],
    last_bus: u32,
    windows: &[(u32, u64, u64)],
) -> DeviceTreeNode {
    let ranges = windows
        .iter()
        .flat_map(|&(space, at, bytes)| [cells(&[space << 24]), quads(&[at, at, bytes])].concat());
    let properties = [
        ("compatible", text(compatible)),
        ("device_type", text("pci")),
        ("ranges", ranges.collect()),
        ("bus-range", cells(&[0, last_bus])),
        ("#address-cells", cells(&[3])),
        ("#size-cells", cells(&[2])),
        ("reg", quads(&reg)),
        ("#interrupt-cells", cells(&[1])),
        ("dma-coherent", vec![]),
    ];
    node("pci", &properties)
}

fn tree(root: DeviceTreeNode, children: Vec<DeviceTreeNode>) -> DeviceTree {
    let mut tree = DeviceTree::new();
    tree.root = with(root, children);
    tree
}

/// Firecracker: no stdout-path, the first 2 MiB of RAM left out, virtio-mmio and PCI of one bus.
fn firecracker() -> DeviceTree {
    let clock = [("clocks", cells(&[2])), ("clock-names", text("apb_pclk"))];
    let pclk = [
        ("compatible", text("fixed-clock")),
        ("#clock-cells", cells(&[0])),
        ("clock-frequency", cells(&[24_000_000])),
        ("phandle", cells(&[2])),
    ];
    let clocked = |mut device: DeviceTreeNode| {
        for (name, value) in &clock {
            device.add_property(DeviceTreeProperty::new_unchecked(*name, value.clone()));
        }
        device
    };
    let windows = [(2, 0x4000_3000, 0x2fff_d000), (3, 0x40_0000_0000, 0x40_0000_0000)];
    let chosen = [("bootargs", text("reboot=k panic=1 generations=3"))];
    let mut children = vec![
        cpus(2),
        node("chosen", &chosen),
        intc(Some(0x3ff9_0000)),
        timer(4),
        node("apb-pclk", &pclk),
        psci("arm,psci-0.2", &[]),
        clocked(device("rtc@40001000", "arm,pl031\0arm,primecell", &[0x4000_1000, 0x1000], 1)),
        clocked(device("uart@40002000", "ns16550a", &[0x4000_2000, 0x1000], 0)),
    ];
    children.extend((0..2).map(|nth: u64| {
        let at = 0x4000_3000 + nth * 0x1000;
        device(&format!("virtio_mmio@{at:x}"), "virtio,mmio", &[at, 0x1000], 2 + nth as u32)
    }));
    let mut host = pci("pci-host-ecam-generic", [0x7000_0000, 0x10_0000], 0, &windows);
    host.add_property(DeviceTreeProperty::new_unchecked("linux,pci-domain", cells(&[0])));
    children.extend([host, device("vmgenid", "microsoft,vmgenid", &[0x801f_fff0, 16], 35)]);
    tree(root("memory@ram", 0x8020_0000, 0x1fe0_0000), children)
}

/// crosvm: UARTs at x86's port numbers, in page 0, and PCI through a CAM.
fn crosvm() -> DeviceTree {
    let chosen = [
        ("linux,pci-probe-only", cells(&[1])),
        ("bootargs", text("panic=-1 generations=3")),
        ("stdout-path", text("/U6_16550A@3f8")),
        ("kaslr-seed", quads(&[7])),
        ("rng-seed", vec![7; 256]),
    ];
    let windows = [(3, 0x0200_0000, 0x0200_0000), (3, 0xa000_0000, 0xff_5fff_ffff)];
    let mut children = vec![
        node("chosen", &chosen),
        node("config", &[("kernel-address", cells(&[0x8008_0000]))]),
        cpus(1),
        intc(None),
        timer(8 | 3 << 8),
    ];
    children.extend([0x3f8_u64, 0x2f8, 0x3e8, 0x2e8].map(|at| {
        let mut uart = device(&format!("U6_16550A@{at:x}"), "ns16550a", &[at, 8], 0);
        let speed = cells(&[1_843_200]);
        uart.add_property(DeviceTreeProperty::new_unchecked("clock-frequency", speed));
        uart
    }));
    children.extend([
        psci("arm,psci-1.0\0arm,psci-0.2", &[]),
        pci("pci-host-cam-generic", [0x1_0000, 0x100_0000], 0, &windows),
        device("rtc@2000", "arm,primecell", &[0x2000, 0x1000], 1),
        device("vmwdt@3000", "qemu,vcpu-stall-detector", &[0x3000, 0x1000], 15),
    ]);
    tree(root("memory", 0x8000_0000, 0x2000_0000), children)
}

/// kvmtool: UARTs of eight bytes at 16 MiB, PSCI 0.2 with function IDs, virtio-mmio and ECAM.
fn kvmtool() -> DeviceTree {
    let chosen = [
        ("linux,pci-probe-only", cells(&[1])),
        ("bootargs", text("generations=3")),
        ("stdout-path", text("/U6_16550A@1000000")),
        ("kaslr-seed", quads(&[7])),
    ];
    let functions = [
        ("cpu_suspend", cells(&[0xc400_0001])),
        ("cpu_off", cells(&[0x8400_0002])),
        ("cpu_on", cells(&[0xc400_0003])),
        ("migrate", cells(&[0xc400_0005])),
    ];
    let windows = [(1, 0, 0x1_0000), (2, 0x5000_0000, 0x3000_0000)];
    let mut children = vec![
        node("chosen", &chosen),
        cpus(1),
        intc(Some(0x3ff9_0000)),
        timer(8),
        device("virtio@3000000", "virtio,mmio", &[0x0300_0000, 0x200], 4),
        device("virtio@3000200", "virtio,mmio", &[0x0300_0200, 0x200], 5),
    ];
    children.extend((0..4).map(|nth: u64| {
        let at = 0x0100_0000 + nth * 0x1000;
        device(&format!("U6_16550A@{at:x}"), "ns16550a", &[at, 8], nth as u32)
    }));
    children.extend([
        device("rtc@1010000", "motorola,mc146818", &[0x0101_0000, 2], 6),
        pci("pci-host-ecam-generic", [0x4000_0000, 0x1000_0000], 1, &windows),
        psci("arm,psci-0.2\0arm,psci", &functions),
    ]);
    tree(root("memory", 0x8000_0000, 0x2000_0000), children)
}

/// Returns the part of the machine that all three share, with RAM and devices.
fn machine_of(ram: Range<PhysAddr>, devices: &[(u64, u64)]) -> Machine {
    let redistributors =
        Redistributors { regions: vec![range(0x3ffb_0000, 0x4_0000)], stride: None };
    let distributor = range(0x3fff_0000, 0x1_0000);
    Machine {
        ram: vec![ram],
        devices: devices.iter().map(|&(start, bytes)| range(start, bytes)).collect(),
        psci: Some(Psci { conduit: Conduit::Hvc, functions: None }),
        cpus: vec![0, 1],
        gic: Some(Gic::V3 { distributor, redistributors }),
        timer: Some(Timer { virtual_el1: Some(27), physical_el2: Some(26) }),
        ..Machine::default()
    }
}

fn ns16550(registers: Range<PhysAddr>) -> Console {
    let base = registers.start;
    let kind = Kind::Ns8250;
    Console { kind, registers, base, reg_shift: 0, io_width: 1, is_big_endian: false }
}

/// Returns each VMM's tree, and the machine that it describes.
fn all() -> [(&'static str, DeviceTree, Machine); 3] {
    let gic = [(0x3fff_0000, 0x1_0000), (0x3ffb_0000, 0x4_0000)];
    let its = [gic[0], gic[1], (0x3ff9_0000, 0x2_0000)];
    let host =
        |config, layout, buses, windows, domain| PciHost { config, layout, buses, windows, domain };
    let machine = machine_of(
        range(0x8020_0000, 0x1fe0_0000),
        &[&its[..], &[(0x4000_1000, 0x4000), (0x7000_0000, 0x10_0000), (0x801f_fff0, 16)]].concat(),
    );
    let windows = vec![range(0x4000_3000, 0x2fff_d000), range(0x40_0000_0000, 0x40_0000_0000)];
    let firecracker_machine = Machine {
        its: vec![range(0x3ff9_0000, 0x2_0000)],
        virtio: vec![range(0x4000_3000, 0x1000), range(0x4000_4000, 0x1000)],
        pci: vec![host(range(0x7000_0000, 0x10_0000), ConfigSpace::Ecam, 0..=0, windows, Some(0))],
        ..machine
    };
    let uarts = [(0x3f8, 8), (0x2f8, 8), (0x3e8, 8), (0x2e8, 8)];
    let rest = [(0x1_0000, 0x100_0000), (0x2000, 0x2000)];
    let machine = machine_of(range(0x8000_0000, 0x2000_0000), &[&gic[..], &uarts, &rest].concat());
    let windows = vec![range(0x0200_0000, 0x0200_0000), range(0xa000_0000, 0xff_5fff_ffff)];
    let crosvm_machine = Machine {
        console: Some(ns16550(range(0x3f8, 8))),
        pci: vec![host(range(0x1_0000, 0x100_0000), ConfigSpace::Cam, 0..=0, windows, None)],
        ..machine
    };
    let uarts = [0, 1, 2, 3].map(|nth| (0x0100_0000 + nth * 0x1000, 8));
    let rest = [(0x0101_0000, 2), (0x4000_0000, 0x1000_0000)];
    let devices = [&its[..], &[(0x0300_0000, 0x400)], &uarts, &rest].concat();
    let machine = machine_of(range(0x8000_0000, 0x2000_0000), &devices);
    let windows = vec![range(0x5000_0000, 0x3000_0000)];
    let kvmtool_machine = Machine {
        console: Some(ns16550(range(0x0100_0000, 8))),
        its: vec![range(0x3ff9_0000, 0x2_0000)],
        virtio: vec![range(0x0300_0000, 0x200), range(0x0300_0200, 0x200)],
        pci: vec![host(range(0x4000_0000, 0x1000_0000), ConfigSpace::Ecam, 0..=1, windows, None)],
        ..machine
    };
    [
        ("Firecracker", firecracker(), firecracker_machine),
        ("crosvm", crosvm(), crosvm_machine),
        ("kvmtool", kvmtool(), kvmtool_machine),
    ]
}

fn machine(blob: &[u8]) -> Machine {
    Machine::read(&Tree::open(blob).unwrap()).unwrap()
}

#[test]
fn every_vmms_machine_is_read_handed_over_and_edited() {
    for (name, tree, expected) in all() {
        let blob = tree.to_dtb();
        assert_eq!(machine(&blob), expected, "{name}");
        let shrunk = shrink(&blob, Shrink::default()).unwrap();
        assert_eq!(machine(&shrunk), expected, "{name}, handed over");
        let chosen = Chosen { bootargs: Some("quiet"), ..Chosen::default() };
        let written = crate::chosen::write(&blob, &chosen).unwrap();
        assert_eq!(machine(&written), expected, "{name}, edited");
        assert_eq!(Tree::open(&written).unwrap().bootargs(), b"quiet", "{name}");
    }
}
