//! The pass over the tree that finds the machine: RAM, reservations, CPUs and devices.
//!
//! A node's role follows from its place below the root and from its `compatible`.

use super::bus::{self, Bus, Cells, LAST_PAGE, NoAddress, within};
use super::{
    AFFINITY, Conduit, ConfigSpace, Error, Functions, Gic, MAX_DEPTH, MAX_SKIPPED, Machine,
    PciHost, Psci, Redistributors, Reservation, Skipped, Tree, Watchdog, WatchdogKind, timer,
};
use crate::console::{self, Console};
use crate::node::{Node, Text, number, strings, until_nul};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::{PhysAddr, PhysRange};
use core::ops::{Range, RangeInclusive};

/// A device that this kernel drives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    GicV2,
    GicV3,
    Its,
    Virtio,
    Pci(ConfigSpace),
    Timer,
    Psci,
    Watchdog(WatchdogKind),
}

/// The `compatible` strings of what this kernel drives. The GICs are those of Linux's irq-gic.c and
/// irq-gic-v3.c.
const ROLES: [(&str, Role); 21] = [
    ("virtio,mmio", Role::Virtio),
    ("arm,gic-v3", Role::GicV3),
    ("arm,gic-v3-its", Role::Its),
    ("arm,gic-400", Role::GicV2),
    ("arm,arm11mp-gic", Role::GicV2),
    ("arm,arm1176jzf-devchip-gic", Role::GicV2),
    ("arm,cortex-a15-gic", Role::GicV2),
    ("arm,cortex-a9-gic", Role::GicV2),
    ("arm,cortex-a7-gic", Role::GicV2),
    ("qcom,msm-8660-qgic", Role::GicV2),
    ("qcom,msm-qgic2", Role::GicV2),
    ("arm,pl390", Role::GicV2),
    ("pci-host-cam-generic", Role::Pci(ConfigSpace::Cam)),
    ("pci-host-ecam-generic", Role::Pci(ConfigSpace::Ecam)),
    ("arm,armv8-timer", Role::Timer),
    ("arm,armv7-timer", Role::Timer),
    ("arm,psci-1.0", Role::Psci),
    ("arm,psci-0.2", Role::Psci),
    (PSCI_0_1, Role::Psci),
    ("arm,sp805", Role::Watchdog(WatchdogKind::Sp805)),
    ("arm,sbsa-gwdt", Role::Watchdog(WatchdogKind::Sbsa)),
];

/// PSCI 0.1. Its successors may be named beside it.
const PSCI_0_1: &str = "arm,psci";

impl Role {
    /// Returns the role of the first known string of a `compatible`.
    pub(super) fn of(compatible: &[u8]) -> Option<Self> {
        strings(compatible).find_map(|one| {
            ROLES.iter().find(|(known, _)| known.as_bytes() == one).map(|&(_, role)| role)
        })
    }
}

/// The part of the tree below a child of the root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    Memory,
    Reserved,
    Cpus,
    Devices,
    Nothing,
}

impl Part {
    fn of(child: &Node<'_>) -> Self {
        match child.base_name() {
            b"memory" => Self::Memory,
            b"reserved-memory" => Self::Reserved,
            b"cpus" => Self::Cpus,
            b"chosen" | b"aliases" => Self::Nothing,
            _ => Self::Devices,
        }
    }
}

impl Machine {
    /// Reads the machine from the device tree.
    ///
    /// # Errors
    ///
    /// Returns [`Error::FirmwareMap`], [`Error::UsableMemory`] or [`Error::NoRam`].
    pub fn read(tree: &Tree<'_>) -> Result<Self, Error> {
        let mut reader = Reader {
            root: tree.root.clone(),
            buses: Vec::from([Bus::of(&tree.root, None)]),
            console: None,
            machine: Self::default(),
        };
        for pair in tree.blob.reservations() {
            let (start, bytes) = pair.split_at(8);
            reader.reserve(number(start), number(bytes), "/memreserve/", false);
        }
        if let Some(path) = tree.stdout_path() {
            reader.console = tree.find(path);
            let path = || Text(path).to_string();
            reader.machine.console_error = Some(match reader.console {
                Some(_) => console::Error::NoAddress(path()),
                None => console::Error::NoNode(path()),
            });
        }
        reader.read();
        let mut machine = reader.machine;
        let limits = tree.usable_memory()?;
        machine.firmware_map = tree.firmware_map(limits.clone())?;
        if machine.firmware_map.is_some() {
            machine.ram.clear();
            return Ok(machine);
        }
        if let Some(limits) = limits {
            machine.ram = only(&machine.ram, &limits);
        }
        machine.keep_registers();
        if machine.ram.is_empty() { Err(Error::NoRam) } else { Ok(machine) }
    }
}

/// The reader on its way through the tree.
struct Reader<'a> {
    root: Node<'a>,
    /// The nodes that the reader is in, from the root on.
    buses: Vec<Bus<'a>>,
    /// The node that stdout-path names.
    console: Option<Node<'a>>,
    machine: Machine,
}

impl<'a> Reader<'a> {
    fn read(&mut self) {
        let mut part = Part::Nothing;
        for node in self.root.clone().descendants() {
            let depth = node.depth() - 1;
            if depth == 1 {
                part = Part::of(&node);
            }
            if depth > MAX_DEPTH {
                if depth == MAX_DEPTH + 1 {
                    self.skip(&node, Skipped::TooDeep);
                }
                continue;
            }
            self.buses.truncate(depth);
            let bus = Bus::of(&node, self.buses.last());
            match (part, depth) {
                (Part::Memory, 1) => self.add_memory(&node, &bus),
                (Part::Reserved, 2) => self.add_reservation(&node, &bus),
                (Part::Cpus, 2) => self.add_cpu(&node, &bus),
                (Part::Devices, _) => self.add_device(&node, &bus),
                _ => {}
            }
            self.buses.push(bus);
        }
    }

    /// Names a node that could not be read.
    fn skip(&mut self, node: &Node<'_>, why: fn(String) -> Skipped) {
        let skipped = &mut self.machine.skipped;
        if let Some(Skipped::More(count)) = skipped.last_mut() {
            *count += 1;
        } else if skipped.len() == MAX_SKIPPED {
            skipped.push(Skipped::More(1));
        } else {
            skipped.push(why(path(&self.buses, node)));
        }
    }

    /// Returns the cells of the node that the reader is in.
    fn cells(&self) -> Cells {
        self.buses[self.buses.len() - 1].cells
    }

    fn add_memory(&mut self, node: &Node<'_>, bus: &Bus<'_>) {
        let reg = node.property("linux,usable-memory").or(bus.reg).filter(|_| bus.is_available);
        let Some(pairs) = self.cells().pairs(reg.unwrap_or_default()) else {
            return self.skip(node, Skipped::Reg);
        };
        for (start, bytes) in pairs.filter(|(_, bytes)| *bytes > 0) {
            match within(start, bytes) {
                Some(range) => join(&mut self.machine.ram, range),
                None => self.skip(node, Skipped::Reg),
            }
        }
    }

    fn add_reservation(&mut self, node: &Node<'_>, bus: &Bus<'_>) {
        let Some(reg) = bus.reg.filter(|_| bus.is_available) else { return };
        let no_map = node.property("no-map").is_some();
        match self.cells().pairs(reg) {
            Some(pairs) => pairs.for_each(|(start, bytes)| {
                self.reserve(start, bytes, &node.to_string(), no_map);
            }),
            None => self.skip(node, Skipped::Reg),
        }
    }

    /// Adds a reservation, as much of it as is before the last page of the 64-bit space.
    fn reserve(&mut self, start: u64, bytes: u64, name: &str, no_map: bool) {
        let end = PhysAddr::new(start).saturating_add(bytes).min(LAST_PAGE);
        let range = PhysAddr::new(start)..end;
        if !range.is_empty() {
            self.machine.reserved.push(Reservation { range, name: name.into(), no_map });
        }
    }

    fn add_cpu(&mut self, node: &Node<'_>, bus: &Bus<'_>) {
        if node.base_name() != b"cpu" && !node.has_string("device_type", "cpu") {
            return;
        }
        let failed = node.property("status").is_some_and(|status| status.starts_with(b"fail"));
        if failed {
            return;
        }
        // A CPU with several threads has an affinity for each; the first is the CPU's own.
        let reg = bus.reg.unwrap_or_default();
        let affinity = match self.cells().address {
            cells @ (1 | 2) => reg.get(..4 * cells).map(number),
            _ => None,
        };
        match affinity {
            Some(affinity)
                if affinity & !AFFINITY == 0 && !self.machine.cpus.contains(&affinity) =>
            {
                self.machine.cpus.push(affinity);
            }
            _ => self.skip(node, Skipped::Cpu),
        }
    }

    fn add_device(&mut self, node: &Node<'a>, bus: &Bus<'_>) {
        let role = Role::of(bus.compatible).filter(|_| bus.is_available);
        let is_console = self.console.as_ref().is_some_and(|console| console.is(node));
        let mut registers = Vec::new();
        if let Some(reg) = bus.reg.filter(|reg| !reg.is_empty()) {
            match bus::registers(&self.buses, reg) {
                Ok(found) => registers = found,
                Err(NoAddress::Malformed) => self.skip(node, Skipped::Reg),
                Err(NoAddress::Elsewhere) if role.is_some() => self.skip(node, Skipped::Address),
                Err(NoAddress::Elsewhere) => {}
            }
        }
        if is_console {
            self.set_console(node, bus, registers.first().cloned());
        }
        if let Some(role) = role {
            self.add_driven(role, node, bus, &registers);
        }
        let devices = &mut self.machine.devices;
        for range in registers {
            match devices.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => devices.push(range),
            }
        }
    }

    fn set_console(&mut self, node: &Node<'_>, bus: &Bus<'_>, registers: Option<Range<PhysAddr>>) {
        let path = path(&self.buses, node);
        let machine = &mut self.machine;
        match Console::of(node, path, bus.is_available, registers) {
            Ok(console) => {
                (machine.console, machine.console_error) = (Some(console), None);
            }
            Err(error) => machine.console_error = Some(error),
        }
    }

    fn add_driven(
        &mut self,
        role: Role,
        node: &Node<'a>,
        bus: &Bus<'_>,
        registers: &[Range<PhysAddr>],
    ) {
        let machine = &mut self.machine;
        match (role, registers) {
            (Role::GicV2, [distributor, cpu_interface, ..]) if machine.gic.is_none() => {
                let (distributor, cpu_interface) = (distributor.clone(), cpu_interface.clone());
                machine.gic = Some(Gic::V2 { distributor, cpu_interface });
            }
            (Role::GicV3, [distributor, rest @ ..]) if machine.gic.is_none() => {
                // After the redistributor regions, `reg` may name a GICv2-compatible CPU interface.
                let regions = node.cell("#redistributor-regions").unwrap_or(1) as usize;
                let stride = node.property("redistributor-stride").map(number);
                let regions = rest[..regions.min(rest.len())].into();
                let redistributors =
                    Redistributors { regions, stride: stride.filter(|&stride| stride > 0) };
                machine.gic = Some(Gic::V3 { distributor: distributor.clone(), redistributors });
            }
            (Role::Its, [its, ..]) => machine.its.push(its.clone()),
            (Role::Virtio, [slot, ..]) => machine.virtio.push(slot.clone()),
            (Role::Pci(layout), [config, ..]) => {
                let windows = self.windows(bus.ranges.unwrap_or_default());
                let (config, buses) = (config.clone(), buses(node, layout, config));
                let domain = node.cell("linux,pci-domain");
                let host = buses.map(|buses| PciHost { config, layout, buses, windows, domain });
                self.machine.pci.extend(host);
            }
            (Role::Timer, _) if machine.timer.is_none() => {
                machine.timer = Some(timer::read(&self.root, node, bus));
            }
            (Role::Psci, _) if machine.psci.is_none() => self.set_psci(node),
            (Role::Watchdog(kind), [control, ..]) => {
                let (path, control) = (path(&self.buses, node), control.clone());
                machine.watchdogs.push(Watchdog { path, kind, control });
            }
            _ => {}
        }
    }

    fn set_psci(&mut self, node: &Node<'_>) {
        let conduit = match node.property("method").map(until_nul) {
            Some(b"smc") => Conduit::Smc,
            Some(b"hvc") => Conduit::Hvc,
            _ => return self.skip(node, Skipped::Method),
        };
        let is_0_1 = strings(node.property("compatible").unwrap_or_default())
            .all(|one| one == PSCI_0_1.as_bytes() || Role::of(one) != Some(Role::Psci));
        let functions = is_0_1.then(|| Functions {
            cpu_suspend: node.cell("cpu_suspend"),
            cpu_off: node.cell("cpu_off"),
            cpu_on: node.cell("cpu_on"),
            migrate: node.cell("migrate"),
        });
        self.machine.psci = Some(Psci { conduit, functions });
    }

    /// Returns the memory windows of a PCI host's `ranges` that have the same address on both
    /// sides. Bits 25:24 of the first of three cells are the space (PCI Bus Binding, 2.2.1.1).
    fn windows(&self, ranges: &[u8]) -> Vec<Range<PhysAddr>> {
        const MEMORY: u64 = 2;
        let address = self.cells().address;
        let entries = ranges.chunks_exact(4 * (3 + address + 2));
        let windows = entries.filter_map(|entry| {
            let (space, at) = (number(&entry[..4]) >> 24 & 3, number(&entry[4..12]));
            let (start, bytes) = entry[12..].split_at(4 * address);
            let start = bus::translate(&self.buses, number(start))?;
            (space & MEMORY != 0 && at == start).then(|| within(at, number(bytes)))?
        });
        windows.collect()
    }
}

/// Returns the bus numbers of a PCI host: its `bus-range`, cut to what configuration space holds
/// from the first one on. Linux reads both in the same way.
fn buses(
    node: &Node<'_>,
    layout: ConfigSpace,
    config: &Range<PhysAddr>,
) -> Option<RangeInclusive<u8>> {
    let given = node.property("bus-range").filter(|range| range.len() == 8);
    let (first, last) = given.map_or((0, 255), |range| {
        let (first, last) = range.split_at(4);
        (number(first), number(last))
    });
    let held = first + (config.bytes() / layout.bus_bytes()).checked_sub(1)?;
    let last = u8::try_from(last.min(held).min(255)).ok()?;
    let first = u8::try_from(first).ok()?;
    (first <= last).then_some(first..=last)
}

/// Returns the path of a node within these.
fn path(buses: &[Bus<'_>], node: &Node<'_>) -> String {
    let mut path = String::new();
    let names = buses.iter().skip(1).map(|bus| bus.name);
    for name in names.chain([node.name()]) {
        path += &alloc::format!("/{}", Text(name));
    }
    path
}

/// Returns the parts of `ranges` that are within `limits`.
pub(super) fn only(ranges: &[Range<PhysAddr>], limits: &[Range<PhysAddr>]) -> Vec<Range<PhysAddr>> {
    let mut left = Vec::new();
    for limit in limits {
        let parts =
            ranges.iter().map(|range| range.start.max(limit.start)..range.end.min(limit.end));
        parts.filter(|part| part.bytes() > 0).for_each(|part| join(&mut left, part));
    }
    left
}

/// Adds a range to ordered ranges, merging those that touch.
pub(super) fn join(ranges: &mut Vec<Range<PhysAddr>>, mut range: Range<PhysAddr>) {
    ranges.retain(|other| {
        let touch = other.start <= range.end && range.start <= other.end;
        if touch {
            range = range.start.min(other.start)..range.end.max(other.end);
        }
        !touch
    });
    let before = ranges.iter().take_while(|other| other.start < range.start).count();
    ranges.insert(before, range);
}
