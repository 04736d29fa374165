//! Tests of the search behind bridges, with a fake configuration space.

use super::*;
use core::cell::RefCell;

/// A word of configuration space: the bits that a write changes, and the value.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Word {
    writable: u32,
    value: u32,
}

/// A function, and the index of the bridge above it, or the number of its root bus.
#[derive(Clone)]
struct Fake {
    bridge: Option<usize>,
    root: u8,
    device: u8,
    words: [Word; 64],
}

impl Fake {
    fn new(bridge: Option<usize>, device: u8, ids: u32, class: u32, header: u32) -> Self {
        let mut words = [Word::default(); 64];
        words[0].value = ids;
        words[1] = Word { writable: 0x7, value: 0x7 };
        words[2].value = class << 16;
        words[3].value = header << 16;
        Self { bridge, root: 0, device, words }
    }

    /// A bridge with a BAR of 4 KiB.
    fn bridge(above: Option<usize>, device: u8) -> Self {
        let mut fake = Self::new(above, device, 0x000e_1b36, 0x0604, 1);
        fake.words[4].writable = !0xfff;
        fake.words[6].writable = !0;
        fake.words[8].writable = 0xfff0_fff0;
        fake.words[9] = Word { writable: 0xfff0_fff0, value: 0x0001_0001 };
        fake.words[10].writable = !0;
        fake.words[11].writable = !0;
        fake
    }

    /// A port of a PCI Express link.
    fn port(above: Option<usize>, device: u8) -> Self {
        let mut fake = Self::bridge(above, device);
        fake.words[1].value |= 1 << 20;
        fake.words[13].value = 0x40;
        fake.words[16].value = 4 << 20 | 0x10;
        fake
    }

    /// A virtio disk: a BAR of 4 KiB, and one of 64 bits with 16 KiB.
    fn disk(above: Option<usize>, device: u8) -> Self {
        let mut fake = Self::new(above, device, 0x1042_1af4, 0x0100, 0);
        fake.words[5].writable = !0xfff;
        fake.words[8] = Word { writable: !0x3fff, value: 0xc };
        fake.words[9].writable = !0;
        fake
    }

    fn other(above: Option<usize>, device: u8) -> Self {
        Self::new(above, device, 0x10d3_8086, 0x0200, 0)
    }

    /// A host bridge, which says that there is another root.
    fn expander(device: u8) -> Self {
        Self::new(None, device, 0x000b_1b36, 0x0600, 0)
    }

    /// Puts the function on another root bus.
    fn on(self, root: u8) -> Self {
        Self { root, ..self }
    }

    fn is_below(&self, bridge: Option<usize>, root: u8) -> bool {
        self.bridge == bridge && (bridge.is_some() || self.root == root)
    }

    fn numbers(&self) -> [u8; 3] {
        let [primary, secondary, subordinate, _] = self.words[6].value.to_le_bytes();
        [primary, secondary, subordinate]
    }
}

/// The functions, and whether every device number of a bus reaches its device 0.
struct Fakes {
    all: Vec<Fake>,
    is_aliased: bool,
}

#[derive(Clone, Copy)]
struct Space<'a>(&'a RefCell<Fakes>);

impl Space<'_> {
    /// Finds the function as bridges would forward the access.
    fn at(&self, at: DeviceFunction) -> Option<usize> {
        let fakes = self.0.borrow();
        let roots = fakes.all.iter().map(|fake| fake.root).filter(|root| *root <= at.bus);
        let root = roots.max().unwrap_or_default();
        let (mut bridge, mut bus) = (None, root);
        while bus != at.bus {
            let leads = |fake: &Fake| {
                let [_, secondary, subordinate] = fake.numbers();
                fake.is_below(bridge, root)
                    && fake.words[3].value >> 16 == 1
                    && secondary > bus
                    && (secondary..=subordinate).contains(&at.bus)
            };
            let found: Vec<_> = (0..fakes.all.len()).filter(|&n| leads(&fakes.all[n])).collect();
            assert!(found.len() < 2, "two bridges forward to bus {}", at.bus);
            bridge = Some(*found.first()?);
            bus = fakes.all[found[0]].numbers()[1];
        }
        let device = if fakes.is_aliased && bridge.is_some() { 0 } else { at.device };
        let is_it = |fake: &Fake| fake.is_below(bridge, root) && fake.device == device;
        fakes.all.iter().position(is_it).filter(|_| at.function == 0)
    }
}

impl ConfigurationAccess for Space<'_> {
    fn read_word(&self, at: DeviceFunction, register: u8) -> u32 {
        let found = self.at(at);
        found.map_or(!0, |found| self.0.borrow().all[found].words[usize::from(register) / 4].value)
    }

    fn write_word(&mut self, at: DeviceFunction, register: u8, data: u32) {
        let found = self.at(at).expect("a write to a function");
        let word = &mut self.0.borrow_mut().all[found].words[usize::from(register) / 4];
        word.value = word.value & !word.writable | data & word.writable;
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

fn fakes(all: Vec<Fake>) -> RefCell<Fakes> {
    RefCell::new(Fakes { all, is_aliased: false })
}

/// The windows of QEMU's `virt`.
const WINDOWS: &[Range<PhysAddr>] = &[
    PhysAddr::new(0x1000_0000)..PhysAddr::new(0x3eff_0000),
    PhysAddr::new(0x80_0000_0000)..PhysAddr::new(0x100_0000_0000),
];

fn range(start: u64, bytes: u64) -> Range<PhysAddr> {
    PhysAddr::new(start).range(bytes).unwrap()
}

fn find<'a>(fakes: &'a RefCell<Fakes>, last: u8) -> Host<'static, Space<'a>> {
    Host::find(Space(fakes), &(0..=last), WINDOWS)
}

fn places<C>(host: &Host<'_, C>) -> Vec<(u8, u8)> {
    host.functions.iter().map(|function| (function.at.bus, function.at.device)).collect()
}

/// Checks that every virtio function can be reached, and that no two BARs overlap.
fn check(host: &Host<'_, Space<'_>>) {
    let mut taken: Vec<Range<PhysAddr>> = Vec::new();
    for function in host.functions.iter().filter(|function| function.is_virtio()) {
        assert!(host.is_assigned(function), "{:?}", function.at);
        for bar in host.bars(function) {
            assert!(bar.range.start.get().is_multiple_of(bar.range.bytes()), "{:?}", bar.range);
            assert!(!taken.iter().any(|taken| taken.overlaps(&bar.range)), "{:?}", bar.range);
            taken.push(bar.range);
        }
    }
    // Bridges on one bus forward nothing in common, and only what the bridge above does.
    let bridges: Vec<_> = host.functions.iter().filter(|function| function.is_bridge()).collect();
    for (index, bridge) in bridges.iter().enumerate() {
        let [memory, prefetchable] = host.forwarded(bridge.at);
        if host.functions.iter().any(|below| below.is_virtio() && is_below(host, below, bridge)) {
            assert!(!memory.is_empty() && prefetchable.is_empty(), "{:?}", bridge.at);
            assert!(host.is_reachable(bridge, &memory), "{:?}", bridge.at);
        }
        for other in &bridges[..index] {
            let is_sibling = other.bridge == bridge.bridge;
            assert!(!is_sibling || !host.forwarded(other.at)[0].overlaps(&memory));
        }
    }
}

fn is_below<C>(host: &Host<'_, C>, function: &Function, bridge: &Function) -> bool {
    let mut above = function.bridge;
    while let Some(index) = above {
        if host.functions[index].at == bridge.at {
            return true;
        }
        above = host.functions[index].bridge;
    }
    false
}

/// A disk behind a port; an empty port; a bridge behind a port with two disks and another device;
/// a disk on the first bus.
fn machine() -> Vec<Fake> {
    vec![
        Fake::port(None, 1),
        Fake::disk(Some(0), 0),
        Fake::port(None, 2),
        Fake::port(None, 3),
        Fake::bridge(Some(3), 0),
        Fake::disk(Some(4), 1),
        Fake::other(Some(4), 2),
        Fake::disk(Some(4), 3),
        Fake::disk(None, 4),
    ]
}

#[test]
fn a_register_is_where_the_layout_puts_it() {
    let at = |bus, device, function| DeviceFunction { bus, device, function };
    let (start, first_bus) = (PhysAddr::new(0x40_1000_0000), 0);
    let ecam = ConfigPlace { start, first_bus, bus_bytes: 1 << 20 };
    assert_eq!(ecam.register(at(0, 0, 0), 0), start);
    assert_eq!(ecam.register(at(2, 3, 1), 0x13), PhysAddr::new(0x40_1021_9010));
    assert_eq!(ecam.register(at(255, 31, 7), 0xfc), PhysAddr::new(0x40_1fff_f0fc));
    let cam = ConfigPlace { bus_bytes: 1 << 16, ..ecam };
    assert_eq!(cam.register(at(2, 3, 1), 0x13), PhysAddr::new(0x40_1002_1910));
    assert_eq!(cam.register(at(255, 31, 7), 0xfc), PhysAddr::new(0x40_10ff_fffc));
    // A host whose buses begin with another number: configuration space begins with that bus.
    let second = ConfigPlace { first_bus: 0x40, ..ecam };
    assert_eq!(second.register(at(0x40, 0, 0), 4), PhysAddr::new(0x40_1000_0004));
    assert_eq!(second.register(at(0x41, 1, 0), 4), PhysAddr::new(0x40_1010_8004));
}

/// Configuration space as CAM: a word for each address, in place of memory.
#[derive(Clone, Copy)]
struct Cam<'a>(ConfigPlace, Space<'a>);

impl Cam<'_> {
    /// Takes an address apart as a host does (16 bits for each bus, 256 bytes for each function).
    fn decoded(&self, at: DeviceFunction, register: u8) -> (DeviceFunction, u8) {
        let offset = self.0.register(at, register).get() - self.0.start.get();
        let [register, function, bus, 0, ..] = offset.to_le_bytes() else {
            panic!("{offset:#x} is outside")
        };
        (DeviceFunction { bus, device: function >> 3, function: function & 7 }, register)
    }
}

impl ConfigurationAccess for Cam<'_> {
    fn read_word(&self, at: DeviceFunction, register: u8) -> u32 {
        let (at, register) = self.decoded(at, register);
        self.1.read_word(at, register)
    }

    fn write_word(&mut self, at: DeviceFunction, register: u8, data: u32) {
        let (at, register) = self.decoded(at, register);
        self.1.write_word(at, register, data);
    }

    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

#[test]
fn what_is_behind_bridges_is_found_by_cam_as_well() {
    let fakes = fakes(machine());
    let place = ConfigPlace { start: PhysAddr::new(0x4000_0000), first_bus: 0, bus_bytes: 1 << 16 };
    let host = Host::find(Cam(place, Space(&fakes)), &(0..=255), WINDOWS);
    assert_eq!(places(&host).len(), 9);
    let mut virtio = host.functions.iter().filter(|function| function.is_virtio());
    assert!(virtio.all(|function| host.is_assigned(function)));
}

#[test]
fn what_is_behind_bridges_is_found_and_can_be_reached() {
    let fakes = fakes(machine());
    let host = find(&fakes, 255);
    let expected = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (3, 0), (4, 1), (4, 2), (4, 3)];
    assert_eq!(places(&host), expected);
    assert!(host.functions.iter().all(|function| function.was_mastering == Some(7)));
    let numbers: Vec<_> = [0, 2, 3, 4].map(|at| fakes.borrow().all[at].numbers()).into();
    assert_eq!(numbers, [[0, 1, 1], [0, 2, 2], [0, 3, 4], [3, 4, 4]]);
    check(&host);
    assert!(fakes.borrow().all.iter().all(|fake| fake.words[1].value & 4 == 0), "bus mastering");
}

#[test]
fn firmwares_numbers_and_windows_are_kept() {
    let fakes = fakes(machine());
    find(&fakes, 255);
    let words = || fakes.borrow().all.iter().map(|fake| fake.words).collect::<Vec<_>>();
    let found = words();
    check(&find(&fakes, 255));
    assert_eq!(words(), found, "the second search changes nothing");
    // Numbers with gaps stay as well; what has none comes after them.
    let mut with_gaps = machine();
    with_gaps[3].words[6].value = 0x0009_0700;
    with_gaps[4].words[6].value = 0x0009_0907;
    let fakes = self::fakes(with_gaps);
    check(&find(&fakes, 255));
    let numbers = [0, 2, 3, 4].map(|at| fakes.borrow().all[at].numbers());
    assert_eq!(numbers, [[0, 10, 10], [0, 11, 11], [0, 7, 9], [7, 9, 9]]);
}

#[test]
fn numbers_that_cannot_be_are_replaced() {
    for word in [0x0001_0101, 0x0000_0100, 0x00ff_0100, 0x0001_0000, 0x0001_0100, 0x0002_0100] {
        let mut all = machine();
        for bridge in [0, 2, 3, 4] {
            all[bridge].words[6].value = word;
        }
        let fakes = fakes(all);
        let host = find(&fakes, 254);
        assert_eq!(host.functions.len(), 9, "{word:#x}");
        check(&host);
    }
}

#[test]
fn a_window_of_firmware_that_misses_the_bar_is_replaced() {
    let fakes = fakes(machine());
    find(&fakes, 255);
    for (fake, word, value) in [(1, 8, 0x2000_000c), (0, 8, 0x2000_2000), (4, 8, 0x2000_2000)] {
        fakes.borrow_mut().all[fake].words[word].value = value;
        check(&find(&fakes, 255));
    }
}

#[test]
fn a_bar_in_a_prefetchable_window_above_4_gib_is_kept() {
    let fakes = fakes(vec![Fake::port(None, 1), Fake::disk(Some(0), 0)]);
    {
        let all = &mut fakes.borrow_mut().all;
        all[0].words[6].value = 0x0001_0100;
        all[0].words[8].value = 0x1000_1000;
        (all[0].words[9].value, all[0].words[10].value) = (0x0011_0001, 0x80);
        all[0].words[11].value = 0x80;
        all[1].words[5].value = 0x1000_0000;
        (all[1].words[8].value, all[1].words[9].value) = (0x0010_000c, 0x80);
    }
    let host = find(&fakes, 255);
    assert!(host.is_assigned(&host.functions[1]));
    assert_eq!(host.bars(&host.functions[1])[1].range, range(0x80_0010_0000, 0x4000));
}

#[test]
fn a_bar_below_its_bridges_window_is_moved() {
    let fakes = fakes(vec![Fake::port(None, 1), Fake::disk(Some(0), 0)]);
    {
        let all = &mut fakes.borrow_mut().all;
        all[0].words[6].value = 0x0001_0100;
        all[0].words[8].value = 0x1000_1000;
        // The prefetchable window begins at 0x80_0010_0000, the wide BAR one MiB below it.
        (all[0].words[9].value, all[0].words[10].value) = (0x0011_0011, 0x80);
        all[0].words[11].value = 0x80;
        all[1].words[5].value = 0x1000_0000;
        (all[1].words[8].value, all[1].words[9].value) = (0x0000_000c, 0x80);
    }
    let host = find(&fakes, 255);
    check(&host);
    assert!(host.bars(&host.functions[1])[1].range.end.get() <= 1 << 32);
}

#[test]
fn a_narrow_bar_gets_no_address_above_4_gib() {
    let fakes = fakes(vec![Fake::disk(None, 1)]);
    let windows = [range(0x80_0000_0000, 0x10_0000)];
    let host = Host::find(Space(&fakes), &(0..=255), &windows);
    let [narrow, wide] = &host.bars(&host.functions[0])[..] else { panic!("two BARs") };
    assert_eq!((narrow.is_wide, &narrow.range), (false, &range(0, 0x1000)));
    assert!(wide.is_wide && windows[0].covers(&wide.range), "{:?}", wide.range);
}

#[test]
fn a_bridges_own_bar_gets_an_address() {
    let fakes = fakes(machine());
    let host = find(&fakes, 255);
    let disks = host.functions.iter().filter(|function| function.is_virtio());
    let mut taken: Vec<_> = disks.flat_map(|disk| host.bars(disk)).map(|bar| bar.range).collect();
    // The bridges that lead to a disk: two ports on the first bus, and a bridge behind one.
    for bridge in [0, 3, 4] {
        let bar = range(fakes.borrow().all[bridge].words[4].value.into(), 0x1000);
        assert!(WINDOWS[0].covers(&bar), "{bridge}: {bar:?}");
        assert!(!taken.iter().any(|taken| taken.overlaps(&bar)), "{bridge}: {bar:?}");
        taken.push(bar);
    }
}

#[test]
fn windows_of_other_bridges_stay_and_are_not_given_away() {
    let fakes = fakes(vec![
        Fake::bridge(None, 1),
        Fake::other(Some(0), 0),
        Fake::port(None, 2),
        Fake::disk(Some(2), 0),
    ]);
    // Firmware opened the first bridge for the highest MiB of the host's window.
    let window = 0x3ee0_3ee0;
    fakes.borrow_mut().all[0].words[6].value = 0x0001_0100;
    fakes.borrow_mut().all[0].words[8].value = window;
    let host = find(&fakes, 255);
    check(&host);
    assert_eq!(fakes.borrow().all[0].words[8].value, window);
}

#[test]
fn a_device_of_another_kind_takes_no_room() {
    // A BAR of 256 MiB, with which the bridge would need 512 MiB: the host has no such block.
    let mut large = Fake::other(Some(0), 2);
    large.words[4].writable = !0xfff_ffff;
    let fakes = fakes(vec![Fake::bridge(None, 1), Fake::disk(Some(0), 1), large]);
    let host = find(&fakes, 255);
    check(&host);
    assert_eq!(fakes.borrow().all[2].words[4].value, 0);
}

#[test]
fn a_bus_that_is_no_link_has_many_devices() {
    // A bridge from PCI Express to PCI has port type 7. The other has a capability that is not PCI
    // Express, and 4 where the port type would be.
    for capability in [7 << 20 | 0x10, 4 << 20 | 0x09] {
        let mut bridge = Fake::port(None, 1);
        bridge.words[16].value = capability;
        let fakes = fakes(vec![bridge, Fake::disk(Some(0), 3)]);
        assert_eq!(places(&find(&fakes, 255)), [(0, 1), (1, 3)], "{capability:#x}");
    }
}

#[test]
fn a_link_has_one_device() {
    let fakes = fakes(vec![Fake::port(None, 1), Fake::disk(Some(0), 0)]);
    fakes.borrow_mut().is_aliased = true;
    assert_eq!(places(&find(&fakes, 255)), [(0, 1), (1, 0)]);
}

#[test]
fn buses_without_a_number_are_left_alone() {
    let fakes = fakes(vec![
        Fake::port(None, 1),
        Fake::disk(Some(0), 0),
        Fake::port(None, 2),
        Fake::disk(Some(2), 0),
    ]);
    let host = find(&fakes, 1);
    assert_eq!(places(&host), [(0, 1), (0, 2), (1, 0)]);
    assert_eq!(fakes.borrow().all[2].numbers(), [0, 0, 0]);
    check(&host);
}

#[test]
fn a_chain_without_end_is_cut() {
    let chain = (0..20_usize).map(|at| Fake::bridge(at.checked_sub(1), 0)).collect();
    assert_eq!(find(&fakes(chain), 255).functions.len(), MAX_DEPTH + 1);
    // The same with numbers that firmware gave: each bridge leads to the buses up to 20.
    let numbered = |at: u8| {
        let mut bridge = Fake::bridge(usize::from(at).checked_sub(1), 0);
        bridge.words[6].value = u32::from_le_bytes([at, at + 1, 20, 0]);
        bridge
    };
    let chain = (0..20).map(numbered).collect();
    assert_eq!(find(&fakes(chain), 255).functions.len(), MAX_DEPTH + 1);
}

#[test]
fn a_host_without_room_assigns_nothing() {
    let fakes = fakes(machine());
    let windows = [range(0x1000_0000, 0x4000)];
    let host = Host::find(Space(&fakes), &(0..=255), &windows);
    let assigned = host.functions.iter().filter(|it| it.is_virtio() && host.is_assigned(it));
    assert_eq!(assigned.count(), 0);
}

#[test]
fn decoding_and_mastering_reach_every_bridge_above() {
    let fakes = fakes(machine());
    fakes.borrow_mut().all.iter_mut().for_each(|fake| fake.words[1].value &= !7);
    let host = find(&fakes, 255);
    let disk = host.functions.iter().find(|it| (it.at.bus, it.at.device) == (4, 3)).unwrap();
    host.decode(disk);
    master(Space(&fakes), 0, disk.at);
    let commands: Vec<_> = fakes.borrow().all.iter().map(|it| it.words[1].value & 7).collect();
    assert_eq!(commands, [0, 0, 0, 6, 6, 0, 0, 6, 0]);
    // A second time changes nothing.
    host.decode(disk);
    master(Space(&fakes), 0, disk.at);
    let again: Vec<_> = fakes.borrow().all.iter().map(|it| it.words[1].value & 7).collect();
    assert_eq!(again, commands);
}

#[test]
fn mastering_passes_a_bridge_that_leads_back_to_its_own_bus() {
    let fakes = fakes(vec![Fake::bridge(None, 1), Fake::bridge(None, 2), Fake::disk(Some(1), 0)]);
    let host = find(&fakes, 255);
    let disk = host.functions.iter().find(|function| function.is_virtio()).unwrap().at;
    // Out of reset a bridge may claim all buses from 0 on.
    fakes.borrow_mut().all[0].words[6].value = 0x00ff_0000;
    fakes.borrow_mut().all.iter_mut().for_each(|fake| fake.words[1].value &= !7);
    master(Space(&fakes), 0, disk);
    let commands: Vec<_> = fakes.borrow().all.iter().map(|it| it.words[1].value & 7).collect();
    assert_eq!(commands, [0, 4, 4]);
}

#[test]
fn another_root_is_searched_if_an_expander_names_it() {
    let mut all = vec![
        Fake::port(None, 1),
        Fake::disk(Some(0), 0),
        Fake::port(None, 0).on(64),
        Fake::disk(Some(2), 0),
        Fake::disk(None, 3).on(64),
        Fake::new(None, 0, 0x0008_1b36, 0x0600, 0),
    ];
    assert_eq!(places(&find(&fakes(all.clone()), 255)), [(0, 1), (1, 0)], "no expander");
    all.push(Fake::expander(4));
    assert_eq!(places(&find(&fakes(all.clone()), 63)), [(0, 1), (1, 0)], "not the host's bus");
    let fakes = fakes(all);
    let host = find(&fakes, 255);
    assert_eq!(places(&host), [(0, 1), (1, 0), (64, 0), (64, 3), (65, 0)]);
    check(&host);
    fakes.borrow_mut().all.iter_mut().for_each(|fake| fake.words[1].value &= !7);
    master(Space(&fakes), 0, DeviceFunction { bus: 65, device: 0, function: 0 });
    let commands: Vec<_> = fakes.borrow().all.iter().map(|it| it.words[1].value & 7).collect();
    assert_eq!(commands, [0, 0, 4, 4, 0, 0, 0]);
}
