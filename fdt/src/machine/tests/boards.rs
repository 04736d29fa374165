//! Small trees in the shapes of real boards' and VMMs', each read, handed over and edited.
//!
//! Each row takes the tree of a machine like QEMU virt, gives it one shape, and checks that shape.

use super::*;
use crate::chosen::Chosen;
use crate::console::Kind;
use crate::handover::{Shrink, shrink};
use alloc::format;
use dtoolkit::Node as _;

/// A shape: its name, the edit that makes it, and the check.
type Shape = (&'static str, fn(&mut DeviceTree), fn(&Machine));

fn quads(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Returns the node at this path.
fn at<'a>(tree: &'a mut DeviceTree, path: &str) -> &'a mut DeviceTreeNode {
    tree.find_node_mut(path).unwrap_or_else(|| panic!("{path}"))
}

fn set(tree: &mut DeviceTree, path: &str, name: &str, value: Vec<u8>) {
    at(tree, path).add_property(DeviceTreeProperty::new_unchecked(name, value));
}

fn add(tree: &mut DeviceTree, name: &str, properties: &[(&str, Vec<u8>)]) {
    tree.root.add_child(node(name, properties));
}

/// Makes a bus with these cells and `ranges`.
fn bus(name: &str, address: u32, size: u32, ranges: Vec<u8>) -> DeviceTreeNode {
    node(
        name,
        &[
            ("compatible", text("simple-bus")),
            ("#address-cells", cells(&[address])),
            ("#size-cells", cells(&[size])),
            ("ranges", ranges),
        ],
    )
}

/// Moves children of the root onto a bus, each with a new `reg`.
fn onto(tree: &mut DeviceTree, bus: &mut DeviceTreeNode, moved: &[(&str, Vec<u8>)]) {
    for (name, reg) in moved {
        let mut child = tree.root.remove_child(name).unwrap();
        child.add_property(DeviceTreeProperty::new("reg", reg.clone()).unwrap());
        bus.add_child(child);
    }
}

const UART: &str = "pl011@9040000";

fn gic_v3() -> Option<Gic> {
    let redistributors =
        Redistributors { regions: vec![range(0x080a_0000, 0xf6_0000)], stride: None };
    Some(Gic::V3 { distributor: range(0x0800_0000, 0x1_0000), redistributors })
}

/// Puts the console onto a bus at this address of the bus, one cell each.
fn console_on(tree: &mut DeviceTree, mut bus: DeviceTreeNode, address: u32) -> DeviceTreeNode {
    onto(tree, &mut bus, &[(UART, cells(&[address, 0x1000]))]);
    bus
}

fn stdout(tree: &mut DeviceTree, path: &str) {
    set(tree, "/chosen", "stdout-path", text(path));
}

fn has_uart(machine: &Machine, start: u64) {
    assert_eq!(registers(machine), Some(range(start, 0x1000)));
    assert!(machine.devices.iter().any(|device| device.covers(&range(start, 0x1000))));
}

const SHAPES: &[Shape] = &[
    (
        "names of any length",
        |tree| {
            set(tree, "/timer", "arm,cpu-registers-not-fw-configured", vec![]);
            let long = "a-node-whose-name-is-longer-than-31-characters@1";
            add(tree, long, &[("mcu_r5fss0_core1_dma_memory_region_abc", text("/psci"))]);
            add(tree, "odd name, with (everything)", &[("odd name", vec![])]);
        },
        |machine| has_uart(machine, 0x0904_0000),
    ),
    (
        "a GIC behind ranges of identity (Qualcomm)",
        |tree| {
            let mut soc = bus("soc@0", 2, 2, quads(&[0, 0, 0x10_0000_0000]));
            let intc = tree.root.remove_child("intc@8000000").unwrap();
            soc.add_child(intc);
            tree.root.add_child(soc);
        },
        |machine| {
            assert_eq!(machine.gic, gic_v3());
            assert_eq!(machine.its, [range(0x0808_0000, 0x2_0000)], "two buses deep");
            assert_eq!(
                machine.timer,
                Some(Timer { virtual_el1: Some(27), physical_el2: Some(26) })
            );
        },
    ),
    (
        "a bus that moves, of fewer cells (Raspberry Pi 4)",
        |tree| {
            let ranges = cells(&[0x7e00_0000, 0, 0xfe00_0000, 0x0180_0000]);
            let soc = console_on(tree, bus("soc", 1, 1, ranges), 0x7e20_1000);
            tree.root.add_child(soc);
            stdout(tree, "/soc/pl011@9040000:115200n8");
        },
        |machine| has_uart(machine, 0xfe20_1000),
    ),
    (
        "several windows, two buses deep (TI K3)",
        |tree| {
            let windows = [[0x0100_0000, 0, 0x4100_0000, 0x10_0000], [0, 1, 0, 0x10_0000]];
            let inner = bus("interconnect@100000", 1, 1, cells(&windows.concat()));
            let inner = console_on(tree, inner, 0x2000);
            // 1 << 32 on the inner bus's parent is 0x28_0000_0000 to the CPU.
            let mut outer = bus("bus@f0000", 2, 2, quads(&[0x4000_0000, 0x4000_0000, 0x1000]));
            let more = quads(&[1 << 32, 0x28_0000_0000, 0x1_0000]);
            let ranges = [quads(&[0x4000_0000, 0x4000_0000, 0x1000]), more].concat();
            outer.add_property(DeviceTreeProperty::new("ranges", ranges).unwrap());
            outer.add_child(inner);
            tree.root.add_child(outer);
            stdout(tree, "/bus@f0000/interconnect@100000/pl011@9040000");
        },
        |machine| has_uart(machine, 0x28_0000_2000),
    ),
    (
        "empty ranges between buses of different cells",
        |tree| {
            let soc = console_on(tree, bus("soc", 1, 1, vec![]), 0x0904_0000);
            tree.root.add_child(soc);
            stdout(tree, "/soc/pl011@9040000");
        },
        |machine| has_uart(machine, 0x0904_0000),
    ),
    (
        "a bus without ranges loses its children, not the machine",
        |tree| {
            let mut lost = bus("lost", 1, 1, vec![]);
            lost.remove_property("ranges").unwrap();
            onto(tree, &mut lost, &[("virtio_mmio@a000000", cells(&[0x0a00_0000, 0x200]))]);
            lost.add_child(node("sensor@48", &[("reg", cells(&[0x48, 1]))]));
            tree.root.add_child(lost);
        },
        |machine| {
            assert_eq!(machine.virtio, [range(0x0a00_3e00, 0x200)]);
            let slot = "/lost/virtio_mmio@a000000".into();
            assert_eq!(
                machine.skipped,
                [Skipped::Address(slot)],
                "the sensor is none that we drive"
            );
            assert!(!machine.devices.contains(&range(0x48, 1)));
        },
    ),
    (
        "a device outside of its bus's windows",
        |tree| {
            let mut far = bus("far2", 1, 1, cells(&[0, 1, 0, 0x1000]));
            onto(tree, &mut far, &[("virtio_mmio@a000000", cells(&[0x1000, 0x200]))]);
            tree.root.add_child(far);
        },
        |machine| {
            let slot = "/far2/virtio_mmio@a000000".into();
            assert_eq!(machine.skipped, [Skipped::Address(slot)]);
        },
    ),
    (
        "a bus of numbers, as I2C",
        |tree| {
            let mut i2c = bus("i2c@1", 1, 0, vec![]);
            i2c.remove_property("ranges").unwrap();
            i2c.add_child(node("sensor@48", &[("reg", cells(&[0x48]))]));
            tree.root.add_child(i2c);
        },
        |machine| assert_eq!(machine.skipped, []),
    ),
    (
        "PCI's functions have no registers of their own",
        |tree| {
            let function = node("ethernet@0,1", &[("reg", cells(&[0x100, 0, 0, 0, 0]))]);
            at(tree, "/pcie@10000000").add_child(function);
        },
        |machine| assert_eq!(machine.skipped, []),
    ),
    (
        "nothing behind a disabled bus is driven",
        |tree| {
            let mut off = bus("off", 2, 2, vec![]);
            let slot = quads(&[0x0a00_0000, 0x200]);
            onto(tree, &mut off, &[("virtio_mmio@a000000", slot)]);
            off.add_property(DeviceTreeProperty::new("status", "disabled").unwrap());
            tree.root.add_child(off);
        },
        |machine| {
            assert_eq!(machine.virtio, [range(0x0a00_3e00, 0x200)]);
            assert!(machine.devices.contains(&range(0x0a00_0000, 0x200)));
        },
    ),
    (
        "PCI behind a bus that moves",
        |tree| {
            let mut soc = bus("soc", 2, 2, quads(&[0, 0x50_0000_0000, 0x1_0000_0000]));
            let mut pci = tree.root.remove_child("pcie@10000000").unwrap();
            let reg = quads(&[0x1000_0000, 0x1000_0000]);
            pci.add_property(DeviceTreeProperty::new("reg", reg).unwrap());
            // Two windows: only the first has one address for PCI and the CPU.
            let window =
                |at: u64, start: u64| [cells(&[0x0300_0000]), quads(&[at, start, 0x1000])].concat();
            let ranges = [window(0x50_2000_0000, 0x2000_0000), window(0x3000_0000, 0x3000_0000)];
            pci.add_property(DeviceTreeProperty::new("ranges", ranges.concat()).unwrap());
            soc.add_child(pci);
            tree.root.add_child(soc);
        },
        |machine| {
            let windows = vec![range(0x50_2000_0000, 0x1000)];
            let config = range(0x50_1000_0000, 0x1000_0000);
            let (layout, buses) = (ConfigSpace::Ecam, 0..=255);
            let domain = None;
            assert_eq!(machine.pci, [PciHost { config, layout, buses, windows, domain }]);
        },
    ),
    (
        "stdout-path is a path: two UARTs of one name",
        |tree| {
            for (soc, start) in [("ap", 0xf000_0000_u32), ("cp", 0xf200_0000)] {
                let mut bus = bus(soc, 1, 1, cells(&[0, 0, start, 0x10_0000]));
                let compatible = text("marvell,armada-38x-uart\0snps,dw-apb-uart");
                let numbers = [("reg-shift", cells(&[2])), ("reg-io-width", cells(&[1]))];
                let mut uart = node("serial@12000", &numbers);
                uart.add_property(DeviceTreeProperty::new("compatible", compatible).unwrap());
                uart.add_property(
                    DeviceTreeProperty::new("reg", cells(&[0x1_2000, 0x100])).unwrap(),
                );
                bus.add_child(uart);
                tree.root.add_child(bus);
            }
            add(tree, "aliases", &[("serial0", text("/cp/serial"))]);
            stdout(tree, "serial0:115200n8");
        },
        |machine| {
            let console = machine.console.as_ref().unwrap();
            assert_eq!((console.kind, console.base), (Kind::Ns8250, PhysAddr::new(0xf201_2000)));
            assert_eq!((console.reg_shift, console.io_width), (2, 1));
            assert_eq!(machine.console_error, None);
        },
    ),
    (
        "a console of another kind, and a PL011 of Bluetooth (Raspberry Pi 3)",
        |tree| {
            let reg = quads(&[0x0900_0000, 0x1000]);
            add(tree, "serial@1", &[("compatible", text("acme,uart")), ("reg", reg)]);
            stdout(tree, "/serial@1");
        },
        |machine| {
            assert_eq!(machine.console, None);
            let error = machine.console_error.as_ref().unwrap();
            let (path, compatible) = ("/serial@1".into(), "acme,uart".into());
            assert_eq!(error, &console::Error::Unknown(path, compatible));
        },
    ),
    (
        "a console that no node is",
        |tree| stdout(tree, "serial7:9600"),
        |machine| {
            let error = machine.console_error.as_ref().unwrap();
            assert_eq!(error, &console::Error::NoNode("serial7".into()));
        },
    ),
    (
        "no console (Firecracker), RAM at 2 GiB, PSCI by HVC",
        |tree| {
            at(tree, "/chosen").remove_property("stdout-path").unwrap();
            tree.root.remove_child("memory@48000000").unwrap();
            tree.root.remove_child("memory@40000000").unwrap();
            add(tree, "memory@ram", &[("reg", quads(&[0x8020_0000, 0x1fe0_0000]))]);
            set(tree, "/psci", "method", text("hvc"));
        },
        |machine| {
            let none = (&None, &None);
            assert_eq!((&machine.console, &machine.console_error), none);
            assert_eq!(machine.ram, [range(0x8020_0000, 0x1fe0_0000)]);
            let psci = Psci { conduit: Conduit::Hvc, functions: None };
            assert_eq!(machine.psci, Some(psci));
            assert_eq!(psci.conduit_of_0_2(), Some(Conduit::Hvc));
        },
    ),
    (
        "SBSA's UART (Xen's vpl011)",
        |tree| set(tree, "/pl011@9040000", "compatible", text("arm,sbsa-uart")),
        |machine| {
            has_uart(machine, 0x0904_0000);
            assert_eq!(machine.console.as_ref().map(|console| console.kind), Some(Kind::Sbsa));
        },
    ),
    (
        "RAM at 0 and at 32 GiB (Versal), and at 512 GiB",
        |tree| {
            set(tree, "/memory@40000000", "reg", quads(&[0, 0x8000_0000, 8 << 32, 8 << 32]));
            set(tree, "/memory@48000000", "reg", quads(&[0x80 << 32, 1 << 30]));
        },
        |machine| {
            let ranges =
                [range(0, 0x8000_0000), range(8 << 32, 8 << 32), range(0x80 << 32, 1 << 30)];
            assert_eq!(machine.ram, ranges);
        },
    ),
    (
        "a crash kernel's RAM",
        |tree| {
            let usable =
                quads(&[0x5000_0000, 0x800_0000, 0x4100_0000, 0x1000, 0x7fff_0000, 0x1000]);
            set(tree, "/chosen", USABLE_MEMORY_RANGE, usable);
        },
        |machine| {
            assert_eq!(machine.ram, [range(0x4100_0000, 0x1000), range(0x5000_0000, 0x800_0000)]);
        },
    ),
    (
        "a memory node cut by linux,usable-memory",
        |tree| {
            let usable = quads(&[0x4010_0000, 0x10_0000]);
            set(tree, "/memory@40000000", "linux,usable-memory", usable);
            set(tree, "/memory@48000000", "status", text("disabled"));
        },
        |machine| assert_eq!(machine.ram, [range(0x4010_0000, 0x10_0000)]),
    ),
    (
        "reservations: disabled, without reg, odd, in the last page",
        |tree| {
            let reserved = at(tree, "/reserved-memory");
            let disabled = ("status", text("disabled"));
            let all = ("reg", quads(&[0x4000_0000, 0x2000_0000]));
            reserved.add_child(node("all@40000000", &[all, disabled]));
            reserved.add_child(node("linux,cma", &[("size", quads(&[0x1000]))]));
            reserved.add_child(node("odd@0", &[("reg", cells(&[0]))]));
            reserved.add_child(node("unaligned", &[("reg", quads(&[0x4000_0123, 0x456]))]));
            reserved.add_child(node("last", &[("reg", quads(&[u64::MAX - 0x7ff, 0x400]))]));
            reserved.add_child(node("end", &[("reg", quads(&[u64::MAX - 0xffff, 0x1_0000]))]));
        },
        |machine| {
            let names: Vec<_> =
                machine.reserved.iter().map(|one| (one.name.as_str(), &one.range)).collect();
            let end = PhysAddr::new(u64::MAX - 0xffff)..PhysAddr::new(u64::MAX - 0xfff);
            assert_eq!(names[2..], [("unaligned", &range(0x4000_0123, 0x456)), ("end", &end)]);
            assert!(machine.reserved.iter().all(|one| one.range.whole_pages().bytes() > 0));
            assert_eq!(machine.skipped, [Skipped::Reg("/reserved-memory/odd@0".into())]);
        },
    ),
    (
        "a memory reservation past the end",
        |tree| {
            let one = dtoolkit::memreserve::MemoryReservation::new(1 << 63, u64::MAX);
            tree.memory_reservations.push(one);
        },
        |machine| assert_eq!(machine.reserved[0].range, PhysAddr::new(1 << 63)..bus::LAST_PAGE),
    ),
    (
        "PSCI in /firmware (TI K3)",
        |tree| {
            let psci = tree.root.remove_child("psci").unwrap();
            let mut firmware = node("firmware", &[]);
            firmware.add_child(psci);
            tree.root.add_child(firmware);
        },
        |machine| assert_eq!(machine.psci.map(|psci| psci.conduit), Some(Conduit::Smc)),
    ),
    (
        "PSCI that is disabled",
        |tree| set(tree, "/psci", "status", text("disabled")),
        |machine| assert_eq!(machine.psci, None),
    ),
    (
        "PSCI 0.1, with function IDs",
        |tree| {
            set(tree, "/psci", "compatible", text("arm,psci"));
            set(tree, "/psci", "cpu_on", cells(&[0x8400_0003]));
            set(tree, "/psci", "cpu_off", cells(&[0x8400_0002]));
        },
        |machine| {
            let functions = machine.psci.unwrap().functions.unwrap();
            let [off, on] = [Some(0x8400_0002), Some(0x8400_0003)];
            assert_eq!(functions, Functions { cpu_on: on, cpu_off: off, ..Functions::default() });
            assert_eq!(machine.psci.unwrap().conduit_of_0_2(), None);
        },
    ),
    (
        "PSCI by a method that we do not know",
        |tree| set(tree, "/psci", "method", text("svc")),
        |machine| {
            let skipped = Skipped::Method("/psci".into());
            assert_eq!((machine.psci, &machine.skipped[..]), (None, &[skipped][..]));
        },
    ),
    (
        "four cells an interrupt (RK3399)",
        |tree| {
            set(tree, "/intc@8000000", "#interrupt-cells", cells(&[4]));
            set(tree, "/timer", "interrupt-parent", cells(&[GIC]));
            let four = [13, 14, 11, 10].map(|ppi| [1, ppi, 4, 0]).concat();
            set(tree, "/timer", "interrupts", cells(&four));
        },
        |machine| {
            assert_eq!(
                machine.timer,
                Some(Timer { virtual_el1: Some(27), physical_el2: Some(26) })
            );
        },
    ),
    (
        "three interrupts (Xen)",
        |tree| set(tree, "/timer", "interrupts", cells(&[1, 13, 4, 1, 14, 4, 1, 11, 4])),
        |machine| {
            assert_eq!(machine.timer, Some(Timer { virtual_el1: Some(27), physical_el2: None }));
        },
    ),
    (
        "interrupts-extended and interrupt-names (MediaTek)",
        |tree| {
            add(tree, "mux", &[("phandle", cells(&[7])), ("#interrupt-cells", cells(&[1]))]);
            at(tree, "/timer").remove_property("interrupts").unwrap();
            let list = cells(&[7, 99, GIC, 1, 12, 4, GIC, 1, 11, 4, GIC, 1, 10, 4]);
            set(tree, "/timer", "interrupts-extended", list);
            set(tree, "/timer", "interrupt-names", text("x\0hyp-virt\0virt\0hyp-phys"));
        },
        |machine| {
            assert_eq!(
                machine.timer,
                Some(Timer { virtual_el1: Some(27), physical_el2: Some(26) })
            );
        },
    ),
    (
        "a timer whose interrupts are not a GIC's (Raspberry Pi 3)",
        |tree| {
            let local = ("compatible", text("brcm,bcm2836-l1-intc"));
            let two = ("#interrupt-cells", cells(&[2]));
            add(tree, "local_intc", &[local, ("phandle", cells(&[9])), two]);
            set(&mut *tree, "/", "interrupt-parent", cells(&[9]));
            set(tree, "/timer", "compatible", text("arm,armv7-timer"));
            set(tree, "/timer", "interrupts", cells(&[0, 4, 1, 11, 3, 4, 1, 10]));
        },
        |machine| {
            assert_eq!(machine.timer, Some(Timer { virtual_el1: None, physical_el2: None }));
        },
    ),
    (
        "a memory node that covers a device's registers",
        |tree| set(tree, "/memory@40000000", "reg", quads(&[0, 0x8000_0000])),
        |machine| {
            let names = machine.reserved.iter().map(|one| (one.range.clone(), one.no_map));
            let uart = range(0x0904_0000, 0x1000);
            assert!(names.clone().any(|one| one == (uart.clone(), true)), "{names:?}");
            assert_eq!(machine.ram, [range(0, 0x8000_0000)]);
        },
    ),
    (
        "two watchdogs",
        |tree| {
            let watchdog = |name, compatible: &str, reg: &[u64]| {
                let compatible = format!("{compatible}\0arm,primecell\0").into_bytes();
                node(name, &[("compatible", compatible), ("reg", quads(reg))])
            };
            tree.root.add_child(watchdog("wdt@a", "arm,sp805", &[0x0b00_0000, 0x1000]));
            let frames = [0x0b01_0000, 0x1000, 0x0b02_0000, 0x1000];
            tree.root.add_child(watchdog("wdt@b", "arm,sbsa-gwdt", &frames));
        },
        |machine| {
            let watchdog = |path: &str, kind, start| Watchdog {
                path: path.to_owned(),
                kind,
                control: range(start, 0x1000),
            };
            let (sp805, sbsa) = (WatchdogKind::Sp805, WatchdogKind::Sbsa);
            assert_eq!(
                machine.watchdogs,
                [watchdog("/wdt@a", sp805, 0x0b00_0000), watchdog("/wdt@b", sbsa, 0x0b01_0000)]
            );
            assert_eq!([sp805.enable(), sbsa.enable()], [8, 0]);
        },
    ),
    (
        "two regions of redistributors",
        |tree| {
            let reg = quads(&[
                0x0800_0000,
                0x1_0000,
                0x080a_0000,
                0x2_0000,
                0x40_0000_0000,
                0x4_0000, //
                0x0c00_0000,
                0x2000,
            ]);
            set(tree, "/intc@8000000", "reg", reg);
            set(tree, "/intc@8000000", "#redistributor-regions", cells(&[2]));
            set(tree, "/intc@8000000", "redistributor-stride", quads(&[0x3_0000]));
        },
        |machine| {
            let redistributors = Redistributors {
                regions: vec![range(0x080a_0000, 0x2_0000), range(0x40_0000_0000, 0x4_0000)],
                stride: Some(0x3_0000),
            };
            let distributor = range(0x0800_0000, 0x1_0000);
            assert_eq!(machine.gic, Some(Gic::V3 { distributor, redistributors }));
        },
    ),
    (
        "a second GIC, and one that is disabled",
        |tree| {
            let mut twin = at(tree, "/intc@8000000").clone();
            twin.add_property(DeviceTreeProperty::new("status", "disabled").unwrap());
            let intc = tree.root.remove_child("intc@8000000").unwrap();
            let second = quads(&[0x0200_0000, 0x1000, 0x0201_0000, 0x1000]);
            tree.root.add_child(node("a@1", &[]));
            let mut off = node("intc@1", &[]);
            twin.properties().for_each(|property| off.add_property(property.clone()));
            off.add_property(DeviceTreeProperty::new("reg", second.clone()).unwrap());
            tree.root.add_child(off);
            tree.root.add_child(intc);
            add(tree, "agic@2", &[("compatible", text("arm,gic-400")), ("reg", second)]);
        },
        |machine| assert_eq!(machine.gic, gic_v3()),
    ),
    (
        "one odd node is not the whole machine",
        |tree| {
            add(tree, "odd@1", &[("reg", cells(&[1])), ("compatible", text("acme,odd"))]);
            add(tree, "high@f", &[("reg", quads(&[u64::MAX - 0xff, 0x100]))]);
            let cpus = at(tree, "/cpus");
            cpus.add_child(node("cpu@7", &[("device_type", text("cpu"))]));
            cpus.add_child(node("cpu@8", &[("reg", cells(&[0x100]))]));
            cpus.add_child(node("cpu@9", &[("reg", cells(&[0x8000_0000]))]));
        },
        |machine| {
            let cpu = |number| Skipped::Cpu(format!("/cpus/cpu@{number}"));
            let reg = |name: &str| Skipped::Reg(name.into());
            let all = [cpu(7), cpu(8), cpu(9), reg("/odd@1"), reg("/high@f")];
            assert_eq!((&machine.skipped[..], &machine.cpus[..]), (&all[..], &[0, 1, 0x100][..]));
        },
    ),
    (
        "a memory node that is odd",
        |tree| set(tree, "/memory@48000000", "reg", cells(&[0, 0x4800_0000, 0x1000])),
        |machine| {
            assert_eq!(machine.ram, [range(0x4000_0000, 0x800_0000)]);
            assert_eq!(machine.skipped, [Skipped::Reg("/memory@48000000".into())]);
        },
    ),
    (
        "the boot CPU is not named",
        |tree| drop(at(tree, "/cpus").remove_child("cpu@0").unwrap()),
        |machine| assert_eq!(machine.cpus, [1, 0x100]),
    ),
    (
        "more odd nodes than are named",
        |tree| (0..40).for_each(|nth| add(tree, &format!("odd@{nth}"), &[("reg", cells(&[1]))])),
        |machine| {
            let Some(Skipped::More(24)) = machine.skipped.last() else { panic!() };
            assert_eq!(machine.skipped.len(), MAX_SKIPPED + 1);
        },
    ),
    (
        "thousands of devices",
        |tree| {
            for nth in 0..3000 {
                let reg = quads(&[0x1_0000_0000 + nth * 4096, 4096]);
                add(tree, &format!("dev@{nth}"), &[("compatible", text("x,y")), ("reg", reg)]);
            }
        },
        |machine| {
            let devices = &machine.devices;
            assert!(devices.contains(&range(0x1_0000_0000, 3000 * 4096)), "they touch");
        },
    ),
];

fn machine(blob: &[u8]) -> Machine {
    Machine::read(&Tree::open(blob).unwrap()).unwrap()
}

#[test]
fn every_shape_is_read() {
    for (name, edit, check) in SHAPES {
        std::println!("{name}");
        let mut tree = virt();
        edit(&mut tree);
        check(&machine(&tree.to_dtb()));
    }
    assert!(SHAPES.len() >= 30);
}

/// A check that holds without the shape checks nothing.
#[test]
fn no_check_holds_without_its_shape() {
    let plain = machine(&virt().to_dtb());
    // These say that nothing is lost.
    let same = [
        "names of any length",
        "empty ranges between buses of different cells",
        "a GIC behind ranges of identity (Qualcomm)",
        "a bus of numbers, as I2C",
        "PCI's functions have no registers of their own",
        "PSCI in /firmware (TI K3)",
        "four cells an interrupt (RK3399)",
        "interrupts-extended and interrupt-names (MediaTek)",
        "a second GIC, and one that is disabled",
    ];
    std::panic::set_hook(std::boxed::Box::new(|_| {}));
    let holds = SHAPES
        .iter()
        .map(|(name, _, check)| (name, std::panic::catch_unwind(|| check(&plain)).is_ok()));
    let holds: Vec<_> = holds.collect();
    drop(std::panic::take_hook());
    for (name, holds) in holds {
        assert_eq!(holds, same.contains(name), "{name}");
    }
}

#[test]
fn every_shape_is_handed_over_and_edited() {
    for (name, edit, _) in SHAPES {
        let mut tree = virt();
        edit(&mut tree);
        let blob = tree.to_dtb();
        let machine_was = machine(&blob);
        let shrunk = shrink(&blob, Shrink::default()).unwrap();
        assert_eq!(machine(&shrunk), machine_was, "{name}");
        let chosen = Chosen { bootargs: Some("quiet"), ..Chosen::default() };
        let written = crate::chosen::write(&blob, &chosen).unwrap();
        assert_eq!(machine(&written), machine_was, "{name}");
    }
}

#[test]
fn every_gic_of_linux_is_known() {
    for (compatible, is_v3) in [
        ("arm,gic-400", false),
        ("arm,gic-400\0arm,cortex-a15-gic", false),
        ("arm,cortex-a15-gic", false),
        ("arm,cortex-a9-gic", false),
        ("arm,cortex-a7-gic", false),
        ("arm,arm11mp-gic", false),
        ("arm,arm1176jzf-devchip-gic", false),
        ("arm,pl390", false),
        ("qcom,msm-qgic2", false),
        ("qcom,msm-8660-qgic", false),
        ("qcom,msm8996-gic-v3\0arm,gic-v3", true),
    ] {
        let mut tree = virt();
        set(&mut tree, "/intc@8000000", "compatible", text(compatible));
        let gic = machine(&tree.to_dtb()).gic;
        assert!(gic.is_some_and(|gic| matches!(gic, Gic::V3 { .. }) == is_v3), "{compatible}");
    }
}

#[test]
fn bootargs_are_bytes_up_to_the_nul_or_the_end() {
    for (value, bootargs) in [
        (&b"name=M\xfcller\0"[..], &b"name=M\xfcller"[..]),
        (b"no nul", b"no nul"),
        (b"padded\0\0\0", b"padded"),
        (b"", b""),
    ] {
        let mut tree = virt();
        set(&mut tree, "/chosen", "bootargs", value.into());
        let shrunk = shrink(&tree.to_dtb(), Shrink::default()).unwrap();
        assert_eq!(Tree::open(&shrunk).unwrap().bootargs(), bootargs);
    }
}

#[test]
fn a_crash_kernels_ram_is_handed_on() {
    let mut tree = virt();
    set(&mut tree, "/chosen", USABLE_MEMORY_RANGE, quads(&[0x5000_0000, 0x800_0000]));
    let blob = shrink(&tree.to_dtb(), Shrink::default()).unwrap();
    let blob = crate::chosen::write(&blob, &Chosen::default()).unwrap();
    assert_eq!(machine(&blob).ram, [range(0x5000_0000, 0x800_0000)]);
}

/// Such a name is one that we do not know. The next generation gets it as it is.
#[test]
fn a_propertys_name_that_is_not_utf_8_is_handed_on() {
    let mut tree = virt();
    let plain = machine(&tree.to_dtb());
    set(&mut tree, "/timer", "acme,mueller", vec![1]);
    let mut blob = tree.to_dtb();
    let at = blob.windows(12).position(|name| name == b"acme,mueller").unwrap();
    blob[at + 6] = 0xfc;
    let chosen = Chosen { bootargs: Some("quiet"), ..Chosen::default() };
    let written = crate::chosen::write(&blob, &chosen).unwrap();
    for blob in [&blob, &shrink(&blob, Shrink::default()).unwrap(), &written] {
        assert_eq!(machine(blob), plain);
        let root = Node::root(&crate::blob::Blob::new(blob).unwrap()).unwrap();
        let mut properties = root.child(b"timer").unwrap().properties();
        assert!(properties.any(|one| one.name == b"acme,m\xfceller" && one.value == [1]));
    }
}
