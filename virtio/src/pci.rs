//! PCI functions behind bridges: bus numbers, and windows that let their registers be reached.
//!
//! - Takes a host's configuration space and memory windows.
//! - Finds other roots on the host's buses as well (QEMU's pxb-pcie), if the first bus names one.
//! - Leaves: bus mastering off in every function but host bridges; bus numbers in each bridge down
//!   to a depth of eight, while numbers last; each virtio function with its BARs, and the windows
//!   of the bridges above it, if there is room.
//! - Keeps the numbers of firmware where they are valid. Keeps its windows and BARs, unless a
//!   virtio function behind the same top-level bridge cannot be reached: then all windows there are
//!   assigned anew. QEMU's `-kernel`, for one, assigns none.
//!
//! A block for a bridge is a power of two, and so are the blocks within it. So each has its natural
//! alignment, if the larger ones come first.

use alloc::vec;
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::{Range, RangeInclusive};
use relocate::placement;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, HeaderType,
    MemoryBarType, PciRoot,
};
use virtio_drivers::transport::pci::virtio_device_type;

/// Class and subclass of a host bridge: it masters nothing by itself, and some cannot clear the
/// bit.
const HOST_BRIDGE: (u8, u8) = (6, 0);

/// The words of a bridge's header: bus numbers, memory window, prefetchable window (PCI-to-PCI
/// Bridge 1.2, 3.2.5).
const BUSES: u8 = 0x18;
const MEMORY: u8 = 0x20;
const PREFETCHABLE: [u8; 3] = [0x24, 0x28, 0x2c];

/// The granule of a bridge's windows.
const WINDOW: u64 = 1 << 20;

/// A window word whose base is above its limit: nothing is forwarded.
const CLOSED: u32 = 0x0000_fff0;

/// The PCI Express capability, and the port types (bits 7:4 of its register) whose bus is a link:
/// root port and downstream port. A link has device 0 alone; another number may reach the same one.
const CAP_EXPRESS: u8 = 0x10;
const LINK_PORTS: [u16; 2] = [4, 6];

/// The deepest bridge whose bus is searched. Real machines have some four below each other.
const MAX_DEPTH: usize = 8;

/// The place of a host's configuration space in memory.
#[derive(Clone, Copy, Debug)]
pub struct ConfigPlace {
    /// The address of the first bus.
    pub start: PhysAddr,
    /// The number of the first bus.
    pub first_bus: u8,
    /// The bytes of a bus.
    pub bus_bytes: u64,
}

impl ConfigPlace {
    /// Returns the address of a function's register, a word, on one of the host's buses.
    #[must_use]
    pub const fn register(&self, at: DeviceFunction, offset: u8) -> PhysAddr {
        let DeviceFunction { bus, device, function } = at;
        let bus = (bus - self.first_bus) as u64;
        // The functions of a bus have the same number of bytes each.
        let function = (device as u64) << 3 | function as u64;
        PhysAddr::new(
            self.start.get()
                + bus * self.bus_bytes
                + function * (self.bus_bytes / 256)
                + (offset & !3) as u64,
        )
    }
}

/// A memory BAR. Unassigned, its range starts at 0.
pub struct Bar {
    /// The number of its first register.
    pub index: u8,
    /// The BAR has 64 bits.
    pub is_wide: bool,
    /// The addresses.
    pub range: Range<PhysAddr>,
}

/// A function that was found.
pub struct Function {
    /// The place.
    pub at: DeviceFunction,
    /// The IDs.
    pub info: DeviceFunctionInfo,
    /// The Command register, if bus mastering was on.
    pub was_mastering: Option<u16>,
    /// The index of the bridge above it, which comes before it in the list.
    bridge: Option<usize>,
}

impl Function {
    fn is_bridge(&self) -> bool {
        self.info.header_type == HeaderType::PciPciBridge
    }

    fn is_virtio(&self) -> bool {
        !self.is_bridge() && virtio_device_type(&self.info).is_some()
    }
}

/// A host's functions.
pub struct Host<'w, C> {
    access: C,
    windows: &'w [Range<PhysAddr>],
    /// Every function but host bridges. A bridge comes before those behind it.
    pub functions: Vec<Function>,
}

impl<'w, C: ConfigurationAccess + Copy> Host<'w, C> {
    /// Finds every function on these buses, and turns its bus mastering off. Then makes the
    /// registers of virtio functions reachable.
    pub fn find(access: C, buses: &RangeInclusive<u8>, windows: &'w [Range<PhysAddr>]) -> Self {
        let mut host = Self { access, windows, functions: Vec::new() };
        let (first, last) = (*buses.start(), *buses.end());
        let mut highest = host.search(first, last, None, 0);
        // Each expander bridge has the class of a host bridge. Other machines have no other root,
        // and need not read hundreds of thousands of registers.
        if host.has_expander(first) {
            while highest < last {
                highest = host.search(highest + 1, last, None, 0);
            }
        }
        host.assign();
        host
    }

    /// Returns whether a bus has a host bridge besides the host's own, its device 0.
    fn has_expander(&self, bus: u8) -> bool {
        let is_expander = |(at, info): (DeviceFunction, DeviceFunctionInfo)| {
            at.device > 0 && (info.class, info.subclass) == HOST_BRIDGE
        };
        self.root().enumerate_bus(bus).any(is_expander)
    }

    fn root(&self) -> PciRoot<C> {
        PciRoot::new(self.access)
    }

    fn function(&self, index: usize) -> &Function {
        &self.functions[index]
    }

    /// Finds the functions of a bus, and of the buses behind its bridges, which may have numbers up
    /// to `last`. Returns the highest number in use.
    fn search(&mut self, bus: u8, last: u8, bridge: Option<usize>, depth: usize) -> u8 {
        let first = self.functions.len();
        let is_link = bridge.is_some_and(|bridge| self.is_link(self.function(bridge).at));
        for (at, info) in self.root().enumerate_bus(bus) {
            if is_link && at.device > 0 {
                break;
            }
            if (info.class, info.subclass) == HOST_BRIDGE {
                continue;
            }
            let (_, found) = self.root().get_status_command(at);
            let was_mastering = found.contains(Command::BUS_MASTER).then(|| found.bits());
            // No function may write to memory while numbers and BARs change.
            command(self.access, at, Command::empty(), Command::BUS_MASTER);
            self.functions.push(Function { at, info, was_mastering, bridge });
        }
        let mut highest = bus;
        if depth == MAX_DEPTH {
            return highest;
        }
        // Take the numbers away that cannot be kept, before they lead to another bridge's bus.
        let here = first..self.functions.len();
        for bridge in self.functions[here.clone()].iter().filter(|function| function.is_bridge()) {
            let at = bridge.at;
            let [primary, secondary, subordinate, _] = self.numbers(at);
            let is_within = highest < secondary && secondary <= subordinate && subordinate <= last;
            if primary == bus && is_within {
                highest = subordinate;
            } else {
                self.set_numbers(at, 0, 0, 0);
            }
        }
        for is_kept in [true, false] {
            for index in here.clone() {
                let (at, is_bridge) = (self.function(index).at, self.function(index).is_bridge());
                let [_, secondary, subordinate, _] = self.numbers(at);
                if !is_bridge || is_kept == (secondary == 0) {
                    continue;
                }
                if is_kept {
                    self.search(secondary, subordinate, Some(index), depth + 1);
                } else if highest < last {
                    let secondary = highest + 1;
                    self.set_numbers(at, bus, secondary, last);
                    highest = self.search(secondary, last, Some(index), depth + 1);
                    self.set_numbers(at, bus, secondary, highest);
                }
            }
        }
        highest
    }

    /// Returns whether the bus behind a bridge is a PCI Express link.
    fn is_link(&self, bridge: DeviceFunction) -> bool {
        let root = self.root();
        let mut capabilities = root.capabilities(bridge);
        capabilities.any(|capability| {
            let port = capability.private_header >> 4 & 0xf;
            capability.id == CAP_EXPRESS && LINK_PORTS.contains(&port)
        })
    }

    /// Returns a bridge's bus numbers, primary, secondary and subordinate, and its latency timer.
    fn numbers(&self, bridge: DeviceFunction) -> [u8; 4] {
        self.access.read_word(bridge, BUSES).to_le_bytes()
    }

    /// Writes a bridge's bus numbers, and keeps its latency timer.
    fn set_numbers(&self, at: DeviceFunction, primary: u8, secondary: u8, subordinate: u8) {
        let mut access = self.access;
        let [.., latency] = self.numbers(at);
        let word = u32::from_le_bytes([primary, secondary, subordinate, latency]);
        access.write_word(at, BUSES, word);
    }

    /// Returns the memory BARs of a function, of which a bridge has two at most.
    pub fn bars(&self, function: &Function) -> Vec<Bar> {
        let bars = match function.info.header_type {
            HeaderType::Standard => 6,
            HeaderType::PciPciBridge => 2,
            _ => 0,
        };
        let (mut found, mut index) = (Vec::new(), 0);
        while index < bars {
            let bar = self.root().bar_info(function.at, index).ok().flatten();
            let wide = bar.as_ref().is_some_and(BarInfo::takes_two_entries);
            if let Some(BarInfo::Memory { address_type, address, size, .. }) = bar
                && let Some(range) = PhysAddr::new(address).range(size)
            {
                let is_wide = address_type == MemoryBarType::Width64;
                found.push(Bar { index, is_wide, range });
            }
            index += if wide { 2 } else { 1 };
        }
        found
    }

    fn set_bar(&self, at: DeviceFunction, bar: &Bar, place: PhysAddr) {
        if bar.is_wide {
            self.root().set_bar_64(at, bar.index, place.get());
        } else {
            self.root().set_bar_32(at, bar.index, place.get() as u32);
        }
    }

    /// Returns what a bridge forwards to the bus behind it.
    fn forwarded(&self, bridge: DeviceFunction) -> [Range<PhysAddr>; 2] {
        let word = |register| u64::from(self.access.read_word(bridge, register));
        let window = |low: u64, base: u64, limit: u64| {
            let start = (low & 0xfff0) << 16 | base << 32;
            let end = (low >> 16 & 0xfff0) << 16 | limit << 32 | (WINDOW - 1);
            // An end below the start makes an empty range, and so does the end of the space.
            PhysAddr::new(start)..PhysAddr::new(end.saturating_add(1))
        };
        let [low, base, limit] = PREFETCHABLE.map(word);
        // Bit 0 says that the upper halves exist.
        let (base, limit) = if low & 1 == 1 { (base, limit) } else { (0, 0) };
        [window(word(MEMORY), 0, 0), window(low, base, limit)]
    }

    /// Returns whether `range` is in a window of the host and of every bridge above a function.
    fn is_reachable(&self, function: &Function, range: &Range<PhysAddr>) -> bool {
        let mut bridge = function.bridge.map(|bridge| self.function(bridge));
        while let Some(above) = bridge {
            if !self.forwarded(above.at).iter().any(|window| window.covers(range)) {
                return false;
            }
            bridge = above.bridge.map(|bridge| self.function(bridge));
        }
        self.windows.iter().any(|window| window.covers(range))
    }

    /// Returns whether all memory BARs of a function can be reached.
    pub fn is_assigned(&self, function: &Function) -> bool {
        self.bars(function).iter().all(|bar| self.is_reachable(function, &bar.range))
    }

    /// Turns memory decoding of a function on, and of the bridges above it.
    pub fn decode(&self, function: &Function) {
        let mut next = Some(function);
        while let Some(function) = next {
            command(self.access, function.at, Command::MEMORY_SPACE, Command::empty());
            next = function.bridge.map(|bridge| self.function(bridge));
        }
    }

    /// Returns the index of the function on the host's own bus that leads to function `index`.
    fn top(&self, mut index: usize) -> usize {
        while let Some(bridge) = self.function(index).bridge {
            index = bridge;
        }
        index
    }

    /// Assigns BARs and windows to what leads to a virtio function that cannot be reached.
    fn assign(&self) {
        let mut taken = Vec::new();
        let mut unreachable = vec![false; self.functions.len()];
        for (index, function) in self.functions.iter().enumerate() {
            taken.extend(self.bars(function).into_iter().map(|bar| bar.range));
            if function.is_bridge() {
                taken.extend(self.forwarded(function.at).into_iter().filter(|is| !is.is_empty()));
            }
            if function.is_virtio() && !self.is_assigned(function) {
                unreachable[self.top(index)] = true;
            }
        }
        let needs = self.needs();
        for (top, _) in unreachable.iter().enumerate().filter(|(_, is)| **is) {
            self.assign_own(top, &mut taken);
            if needs[top] > 0 {
                self.assign_behind(top, &needs, &mut taken);
            }
        }
    }

    /// Returns the size of the window that each bridge needs, for virtio functions and for bridges
    /// that lead to one. A function that is no bridge needs none.
    fn needs(&self) -> Vec<u64> {
        let mut needs = vec![0_u64; self.functions.len()];
        // The functions behind a bridge come after it.
        for (index, function) in self.functions.iter().enumerate().rev() {
            if needs[index] > 0 {
                needs[index] = needs[index].next_power_of_two().max(WINDOW);
            }
            if let Some(bridge) = function.bridge
                && (function.is_virtio() || needs[index] > 0)
            {
                let bars = self.bars(function);
                needs[bridge] +=
                    needs[index] + bars.iter().map(|bar| block(&bar.range)).sum::<u64>();
            }
        }
        needs
    }

    /// Assigns an address to each BAR of a function on the host's own bus that is in no window.
    fn assign_own(&self, index: usize, taken: &mut Vec<Range<PhysAddr>>) {
        let function = self.function(index);
        for bar in self.bars(function) {
            if self.is_reachable(function, &bar.range) {
                continue;
            }
            let size = block(&bar.range);
            let Some(place) = self.take_block(size, bar.is_wide, taken) else { continue };
            self.set_bar(function.at, &bar, place);
        }
    }

    /// Takes a free block of the host's windows. Windows below 4 GiB come first: a 32-bit BAR
    /// reaches no higher, and a 64-bit BAR works there too.
    fn take_block(
        &self,
        size: u64,
        is_wide: bool,
        taken: &mut Vec<Range<PhysAddr>>,
    ) -> Option<PhysAddr> {
        let is_low = |window: &Range<PhysAddr>| window.end.get() <= 1 << 32;
        let low = self.windows.iter().filter(|window| is_low(window));
        let high = self.windows.iter().filter(|window| is_wide && !is_low(window));
        let place = low.chain(high).find_map(|window| {
            placement::highest_block(core::slice::from_ref(window), taken, size, size)
        })?;
        taken.extend(place.range(size));
        Some(place)
    }

    /// Assigns a window to a bridge on the host's own bus, and parts of it to all that is behind.
    ///
    /// Only the window for memory that is not prefetchable is used: 64-bit BARs work there too.
    fn assign_behind(&self, top: usize, needs: &[u64], taken: &mut Vec<Range<PhysAddr>>) {
        let Some(place) = self.take_block(needs[top], false, taken) else { return };
        let mut places = vec![None; self.functions.len()];
        places[top] = Some(place);
        for bridge in top..self.functions.len() {
            let Some(start) = places[bridge] else { continue };
            self.forward(self.function(bridge).at, start, needs[bridge]);
            // Each block: size, function, and its BAR, or none for a bridge's window.
            let mut blocks = Vec::new();
            for (index, function) in self.functions.iter().enumerate() {
                if function.bridge == Some(bridge) && (function.is_virtio() || needs[index] > 0) {
                    let bars = self.bars(function).into_iter();
                    blocks.extend(bars.map(|bar| (block(&bar.range), index, Some(bar))));
                    if needs[index] > 0 {
                        blocks.push((needs[index], index, None));
                    }
                }
            }
            let mut at = start;
            // Take the largest one each time. A sort would take 2 KiB of the Image.
            while let Some((largest, _)) =
                blocks.iter().enumerate().max_by_key(|(_, (size, ..))| *size)
            {
                let (size, index, bar) = blocks.swap_remove(largest);
                match bar {
                    Some(bar) => self.set_bar(self.function(index).at, &bar, at),
                    None => places[index] = Some(at),
                }
                at = at + size;
            }
        }
    }

    /// Opens a bridge for `bytes` bytes from `start` on, below 4 GiB, and for nothing else.
    fn forward(&self, bridge: DeviceFunction, start: PhysAddr, bytes: u64) {
        let mut access = self.access;
        let last = start + (bytes - 1);
        let (base, limit) = (start.get() >> 16 & 0xfff0, last.get() >> 16 & 0xfff0);
        access.write_word(bridge, MEMORY, (limit << 16 | base) as u32);
        for (register, word) in PREFETCHABLE.into_iter().zip([CLOSED, 0, 0]) {
            access.write_word(bridge, register, word);
        }
    }
}

/// Returns the size of the block that a BAR takes, which is never part of a page.
fn block(bar: &Range<PhysAddr>) -> u64 {
    bar.bytes().max(PAGE_SIZE)
}

/// Sets and clears bits of a function's Command register. Returns what it reads afterwards.
pub fn command(
    access: impl ConfigurationAccess,
    at: DeviceFunction,
    set: Command,
    clear: Command,
) -> Command {
    let mut root = PciRoot::new(access);
    let (_, command) = root.get_status_command(at);
    root.set_command(at, (command | set) & !clear);
    root.get_status_command(at).1
}

/// Turns on bus mastering of a function and of every bridge between it and bus `first`.
pub fn master(access: impl ConfigurationAccess + Copy, first: u8, at: DeviceFunction) {
    let mut bus = first;
    while bus != at.bus {
        let below = PciRoot::new(access).enumerate_bus(bus).find_map(|(bridge, info)| {
            let [_, secondary, subordinate, _] = access.read_word(bridge, BUSES).to_le_bytes();
            let leads = info.header_type == HeaderType::PciPciBridge
                && secondary > bus
                && (secondary..=subordinate).contains(&at.bus);
            leads.then_some((bridge, secondary))
        });
        let Some((bridge, secondary)) = below else {
            // The function is below another root.
            bus += 1;
            continue;
        };
        command(access, bridge, Command::BUS_MASTER, Command::empty());
        bus = secondary;
    }
    command(access, at, Command::BUS_MASTER, Command::empty());
}

#[cfg(test)]
mod tests;
