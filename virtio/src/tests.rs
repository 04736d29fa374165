//! A strict device for tests: it fails on a wrong order or width, as Firecracker does.
//!
//! It answers requests when it is notified, from the queue's memory.

use crate::Error;
use crate::block::{Block, SECTOR_SIZE};
use crate::entropy::Entropy;
use crate::transport::{CommonConfig, Strict, begin, finish};
use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::ptr::NonNull;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const VERSION_1: u64 = 1 << 32;

/// DMA memory on the host: an address is a pointer.
struct Host;

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap()
}

// SAFETY: the memory comes from the allocator, page aligned, zeroed, and not aliased.
unsafe impl Hal for Host {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout has at least one page.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout(pages)) }).unwrap();
        (memory.as_ptr().expose_provenance() as u64, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: it comes from `dma_alloc`, with the same number of pages.
        unsafe { dealloc(memory.as_ptr(), layout(pages)) };
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("no test opens a BAR")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as u64
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// The device's answer to requests.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    /// It reads byte `n` as `n % 251`.
    Data,
    /// It answers with this status.
    Status(u8),
    /// It claims this many bytes of entropy.
    Length(u32),
    /// It never answers.
    Never,
}

/// The state of the device, and what it was given.
struct Device {
    status: u32,
    offered: u64,
    accepted: Option<u64>,
    legacy: bool,
    /// The page size that the driver set.
    page_size: Option<u32>,
    clears_features_ok: bool,
    config: Vec<u8>,
    /// Adds one to each generation of the configuration that is read.
    is_unsteady: bool,
    generation: u32,
    queue_size: u32,
    queue: Option<(u32, [u64; 3])>,
    answer: Answer,
    answered: u16,
    asked: Vec<(u64, usize)>,
}

impl Device {
    fn new() -> Rc<RefCell<Self>> {
        let mut config = vec![0; 60];
        config[..8].copy_from_slice(&100_u64.to_le_bytes());
        config[20..24].copy_from_slice(&4096_u32.to_le_bytes());
        Rc::new(RefCell::new(Self {
            status: 0,
            offered: VERSION_1 | 1 << 6 | 1 << 28 | 1 << 29,
            accepted: None,
            legacy: false,
            page_size: None,
            clears_features_ok: false,
            config,
            is_unsteady: false,
            generation: 0,
            queue_size: 256,
            queue: None,
            answer: Answer::Data,
            answered: 0,
            asked: Vec::new(),
        }))
    }

    fn peek<const N: usize>(at: u64) -> [u8; N] {
        let from: *const [u8; N] = core::ptr::with_exposed_provenance(at as usize);
        // SAFETY: the address is that of queue memory or of a buffer in it.
        unsafe { from.read_unaligned() }
    }

    fn poke(at: u64, bytes: &[u8]) {
        let to: *mut u8 = core::ptr::with_exposed_provenance_mut(at as usize);
        // SAFETY: the driver gave the device this buffer to write to.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    /// Answers the request that was made last.
    fn serve(&mut self) {
        assert_eq!(self.status & 4, 4, "a request before DRIVER_OK");
        let (size, [descriptors, driver, device]) = self.queue.expect("a queue");
        if self.answer == Answer::Never {
            return;
        }
        let slot = u64::from(u32::from(self.answered) % size);
        let head = u16::from_le_bytes(Self::peek(driver + 4 + 2 * slot));
        let mut chain = Vec::new();
        let mut next = Some(head);
        while let Some(index) = next {
            let descriptor: [u8; 16] = Self::peek(descriptors + 16 * u64::from(index));
            let address = u64::from_le_bytes(descriptor[..8].try_into().unwrap());
            let length = u32::from_le_bytes(descriptor[8..12].try_into().unwrap());
            let flags = u16::from_le_bytes(descriptor[12..14].try_into().unwrap());
            assert_eq!(flags & 4, 0, "indirect descriptors were not accepted");
            chain.push((address, length as usize, flags & 2 != 0));
            let follower = u16::from_le_bytes(descriptor[14..].try_into().unwrap());
            next = (flags & 1 != 0).then_some(follower);
        }
        let written = match chain[..] {
            [(header, 16, false), (data, length, true), (status, 1, true)] => {
                let header: [u8; 16] = Self::peek(header);
                assert_eq!(header[..8], [0; 8], "a read");
                let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
                let from = sector * SECTOR_SIZE as u64;
                self.asked.push((from, length));
                let code = match self.answer {
                    Answer::Status(code) => code,
                    _ => 0,
                };
                let bytes: Vec<u8> = (from..).take(length).map(|n| (n % 251) as u8).collect();
                Self::poke(data, &bytes);
                Self::poke(status, &[code]);
                length as u32 + 1
            }
            [(data, length, true)] => {
                self.asked.push((0, length));
                Self::poke(data, &vec![0x5a; length]);
                match self.answer {
                    Answer::Length(length) => length,
                    _ => length as u32,
                }
            }
            ref other => panic!("a request of {other:?}"),
        };
        let used = device + 4 + 8 * slot;
        Self::poke(used, &u32::from(head).to_le_bytes());
        Self::poke(used + 4, &written.to_le_bytes());
        self.answered += 1;
        Self::poke(device + 2, &self.answered.to_le_bytes());
    }
}

/// The device's transport, which panics at what a strict device ignores or refuses.
struct Fake(Rc<RefCell<Device>>);

impl Drop for Fake {
    fn drop(&mut self) {
        panic!("the transport is dropped, which resets the device without a limit");
    }
}

impl Transport for Fake {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn read_device_features(&mut self) -> u64 {
        assert_eq!(self.0.borrow().status, 3, "features are read with ACKNOWLEDGE and DRIVER");
        self.0.borrow().offered
    }

    fn write_driver_features(&mut self, features: u64) {
        let mut device = self.0.borrow_mut();
        assert_eq!(device.status, 3, "features are written with ACKNOWLEDGE and DRIVER");
        assert_eq!(features & !device.offered, 0, "a feature that was not offered");
        assert_eq!(features & VERSION_1, device.offered & VERSION_1, "VERSION_1 is not accepted");
        device.accepted = Some(features);
    }

    fn max_queue_size(&mut self, _: u16) -> u32 {
        self.0.borrow().queue_size
    }

    fn notify(&mut self, queue: u16) {
        assert_eq!(queue, 0);
        self.0.borrow_mut().serve();
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.0.borrow().status)
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let mut device = self.0.borrow_mut();
        let (old, new) = (device.status, status.bits());
        let steps: &[(u32, u32)] = match device.legacy {
            false => &[(0, 1), (1, 3), (3, 0xb), (0xb, 0xf)],
            true => &[(0, 1), (1, 3), (3, 7)],
        };
        assert!(steps.contains(&(old, new)), "a status transition from {old:#x} to {new:#x}");
        device.status = if new == 0xb && device.clears_features_ok { 3 } else { new };
    }

    fn set_guest_page_size(&mut self, bytes: u32) {
        self.0.borrow_mut().page_size = Some(bytes);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.0.borrow().legacy
    }

    fn queue_set(&mut self, queue: u16, size: u32, a: PhysAddr, b: PhysAddr, c: PhysAddr) {
        let mut device = self.0.borrow_mut();
        assert_eq!((queue, device.status), (0, if device.legacy { 3 } else { 0xb }));
        assert!(size <= device.queue_size);
        if device.legacy {
            // A legacy device is given one page number, and computes the rest (virtio 1.2, 2.7.2).
            assert_eq!(device.page_size, Some(4096), "no page size before the queue");
            let used = (a + u64::from(16 * size + 6 + 2 * size)).next_multiple_of(4096);
            assert_eq!((a % 4096, b, c), (0, a + u64::from(16 * size), used));
        }
        device.queue = Some((size, [a, b, c]));
    }

    fn queue_unset(&mut self, _: u16) {
        panic!("a queue is taken down, which waits without a limit");
    }

    fn queue_used(&mut self, _: u16) -> bool {
        self.0.borrow().queue.is_some()
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        unreachable!("no driver takes interrupts")
    }

    fn read_config_generation(&self) -> u32 {
        let mut device = self.0.borrow_mut();
        device.generation += u32::from(device.is_unsteady);
        device.generation
    }

    fn read_config_space<V: FromBytes + IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<V> {
        assert_eq!(size_of::<V>(), 4, "a field of 32 bits is read as such");
        if offset >= 8 {
            assert_ne!(self.0.borrow().accepted.unwrap_or_default() & 1 << 6, 0, "BLK_SIZE");
        }
        Ok(V::read_from_bytes(&self.0.borrow().config[offset..][..size_of::<V>()]).unwrap())
    }

    fn write_config_space<V: IntoBytes + Immutable>(
        &mut self,
        _: usize,
        _: V,
    ) -> virtio_drivers::Result<()> {
        unreachable!("no driver writes the configuration")
    }
}

/// The common configuration of a PCI device, which records each access.
#[derive(Clone, Default)]
struct Registers(Rc<RefCell<Vec<(u64, u32, u32)>>>);

impl CommonConfig for Registers {
    fn write_u16(&mut self, offset: u64, value: u16) {
        self.0.borrow_mut().push((offset, 16, value.into()));
    }

    fn write_u32(&mut self, offset: u64, value: u32) {
        self.0.borrow_mut().push((offset, 32, value));
    }
}

type Slot = Strict<Fake, Registers>;

fn slot(device: &Rc<RefCell<Device>>) -> Slot {
    Strict::new(Fake(device.clone()), None)
}

fn in_time() -> bool {
    false
}

fn read(block: &mut Block<Host, Slot>, from: u64, bytes: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![0; bytes];
    // SAFETY: the fake device writes only while it is notified.
    unsafe { block.read(from, &mut buffer, in_time) }.map(|()| buffer)
}

#[test]
fn a_disk_is_read_in_its_own_blocks() {
    let device = Device::new();
    let mut block = Block::<Host, _>::new(slot(&device)).unwrap();
    assert_eq!((block.bytes(), block.block_size()), (51_200, 4096));
    for from in [0, 4096, 40_960] {
        let bytes = read(&mut block, from, 8192).unwrap();
        assert!((from..).zip(&bytes).all(|(n, &byte)| byte == (n % 251) as u8));
    }
    assert_eq!(device.borrow().asked, [(0, 8192), (4096, 8192), (40_960, 8192)]);
    assert_eq!(device.borrow().accepted, Some(VERSION_1 | 1 << 6));
    assert_eq!(device.borrow().status, 0xf);
}

#[test]
fn a_disk_without_a_block_size_has_sectors() {
    let device = Device::new();
    device.borrow_mut().offered &= !(1 << 6);
    let mut block = Block::<Host, _>::new(slot(&device)).unwrap();
    assert_eq!(block.block_size(), 512);
    read(&mut block, 512, 1024).unwrap();
    assert_eq!(device.borrow().asked, [(512, 1024)]);
}

#[test]
fn a_disk_older_than_the_standard_sees_no_features_ok() {
    let device = Device::new();
    device.borrow_mut().legacy = true;
    device.borrow_mut().offered = 0;
    let mut block = Block::<Host, _>::new(slot(&device)).unwrap();
    read(&mut block, 0, 512).unwrap();
    assert_eq!((device.borrow().status, device.borrow().accepted), (7, Some(0)));
}

#[test]
fn the_devices_own_transport_decides_about_the_layout_of_queues() {
    for legacy in [false, true] {
        let device = Device::new();
        device.borrow_mut().legacy = legacy;
        assert_eq!(slot(&device).requires_legacy_layout(), legacy);
    }
}

#[test]
fn a_queue_that_is_in_use_is_not_taken() {
    let device = Device::new();
    device.borrow_mut().queue = Some((4, [0; 3]));
    let error = Block::<Host, _>::new(slot(&device)).err();
    assert_eq!(error, Some(Error::Queue(virtio_drivers::Error::AlreadyUsed)));
    assert_eq!(device.borrow().queue, Some((4, [0; 3])));
}

#[test]
fn a_disks_capacity_has_64_bits() {
    for (sectors, bytes) in [
        (0xffff_ffff, 0x1ff_ffff_fe00),
        (0x1_0000_0000, 0x200_0000_0000),
        (0x1_0000_0003, 0x200_0000_0600),
        (u64::MAX, u64::MAX),
    ] {
        let device = Device::new();
        device.borrow_mut().config[..8].copy_from_slice(&sectors.to_le_bytes());
        assert_eq!(Block::<Host, _>::new(slot(&device)).unwrap().bytes(), bytes, "{sectors:#x}");
    }
}

#[test]
fn odd_block_sizes_are_refused() {
    for size in [0, 1, 256, 513, 3072, 8192, u32::MAX] {
        let device = Device::new();
        device.borrow_mut().config[20..24].copy_from_slice(&size.to_le_bytes());
        let error = Block::<Host, _>::new(slot(&device)).err();
        assert_eq!(error, Some(Error::BlockSize(size)));
        assert_eq!(device.borrow().status & 4, 0, "the device may use its queue");
    }
}

#[test]
fn a_small_queue_is_enough_and_a_smaller_one_is_refused() {
    for (size, is_enough) in [(1024, true), (8, true), (4, true), (2, false), (0, false)] {
        let device = Device::new();
        device.borrow_mut().queue_size = size;
        let block = Block::<Host, _>::new(slot(&device));
        assert_eq!(block.is_ok(), is_enough, "{size}");
        let mut source = Device::new();
        Rc::get_mut(&mut source).unwrap().get_mut().queue_size = size;
        assert_eq!(Entropy::<Host, _>::new(slot(&source)).is_ok(), size >= 2, "{size}");
    }
}

#[test]
fn version_1_is_accepted_if_it_is_offered_whether_the_caller_wants_it_or_not() {
    for wanted in [0, VERSION_1] {
        let device = Device::new();
        assert_eq!(begin(&mut slot(&device), wanted), Ok(VERSION_1), "{wanted:#x}");
    }
}

#[test]
fn features_that_the_device_refuses_end_the_set_up() {
    let device = Device::new();
    device.borrow_mut().clears_features_ok = true;
    let features = VERSION_1 | 1 << 6;
    assert_eq!(Block::<Host, _>::new(slot(&device)).err(), Some(Error::Features(features)));
    assert_eq!(device.borrow().queue, None);
}

#[test]
fn a_configuration_that_keeps_changing_is_refused() {
    let device = Device::new();
    device.borrow_mut().is_unsteady = true;
    assert_eq!(Block::<Host, _>::new(slot(&device)).err(), Some(Error::Unsteady));
}

#[test]
fn an_error_of_the_device_is_reported() {
    for (code, says) in [(1, "I/O error"), (2, "not support"), (77, "does not know")] {
        let device = Device::new();
        device.borrow_mut().answer = Answer::Status(code);
        let mut block = Block::<Host, _>::new(slot(&device)).unwrap();
        let error = read(&mut block, 0, 4096).unwrap_err();
        assert_eq!(error, Error::Status(code));
        assert!(alloc::format!("{error}").contains(says), "{error}");
    }
}

#[test]
fn a_device_that_never_answers_is_waited_for_as_long_as_its_caller_allows() {
    let (mut patience, mut buffer) = (1000, vec![0; 4096]);
    let mut is_late = || {
        patience -= 1;
        patience == 0
    };
    let device = Device::new();
    device.borrow_mut().answer = Answer::Never;
    let mut block = Block::<Host, _>::new(slot(&device)).unwrap();
    // SAFETY: the fake device writes nothing.
    let error = unsafe { block.read(0, &mut buffer, &mut is_late) };
    assert_eq!((error, patience), (Err(Error::Late), 0));

    patience = 1000;
    let mut is_late = || {
        patience -= 1;
        patience == 0
    };
    let source = Device::new();
    source.borrow_mut().answer = Answer::Never;
    let mut entropy = Entropy::<Host, _>::new(slot(&source)).unwrap();
    assert_eq!(entropy.fill(&mut [0; 8], &mut is_late), Err(Error::Late));
    assert_eq!(patience, 0);
}

#[test]
fn entropy_fills_any_number_of_bytes() {
    let source = Device::new();
    let mut entropy = Entropy::<Host, _>::new(slot(&source)).unwrap();
    let mut bytes = [0; 130];
    entropy.fill(&mut bytes, in_time).unwrap();
    assert_eq!(bytes, [0x5a; 130]);
    assert_eq!(source.borrow().asked, [(0, 64), (0, 64), (0, 2)]);
    for length in [0, 9, u32::MAX] {
        source.borrow_mut().answer = Answer::Length(length);
        let mut entropy = Entropy::<Host, _>::new(slot(&Device::with(&source))).unwrap();
        assert_eq!(entropy.fill(&mut [0; 8], in_time), Err(Error::Length(length)));
    }
}

impl Device {
    /// Makes another device that answers in the same way.
    fn with(other: &Rc<RefCell<Self>>) -> Rc<RefCell<Self>> {
        let device = Self::new();
        device.borrow_mut().answer = other.borrow().answer;
        device
    }
}

#[test]
fn a_pci_device_gets_queue_addresses_in_halves() {
    let (device, registers) = (Device::new(), Registers::default());
    let mut transport = Strict::new(Fake(device.clone()), Some(registers.clone()));
    let features = begin(&mut transport, 0).unwrap();
    transport.queue_set(1, 4, 0x1_2345_6000, 0x1_2345_6040, 0x7_2345_7000);
    finish(&mut transport, features);
    assert_eq!(
        *registers.0.borrow(),
        [
            (0x16, 16, 1),
            (0x18, 16, 4),
            (0x20, 32, 0x2345_6000),
            (0x24, 32, 1),
            (0x28, 32, 0x2345_6040),
            (0x2c, 32, 1),
            (0x30, 32, 0x2345_7000),
            (0x34, 32, 7),
            (0x1c, 16, 1),
        ]
    );
    assert_eq!(device.borrow().queue, None, "the addresses went through the transport");
}

#[test]
fn dropping_a_driver_does_not_touch_the_device() {
    let device = Device::new();
    let mut block = Block::<Host, _>::new(slot(&device)).unwrap();
    block_reads(&mut block);
    drop(block);
    assert_eq!(device.borrow().status, 0xf);
}

fn block_reads(block: &mut Block<Host, Slot>) {
    assert_eq!(read(block, 0, 4096).unwrap().len(), 4096);
}
