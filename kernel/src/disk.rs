//! The disk: the first virtio-blk device, on virtio-mmio or PCI.
//!
//! - Opened to load an image, and dropped before the plan is staged.
//! - Dropping it resets the device and frees its queue.
//! - Refuses a machine without a disk, a read past the end, and a read error.

use crate::clock;
use crate::devices::{Devices, Driven, DriverError, Identity};
use alloc::vec::Vec;
use virtio_drivers::Error as VirtioError;
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::{DeviceType, SomeTransport};

/// The most bytes in one request: devices may limit a buffer's size.
const MOST_BYTES: usize = 1 << 20;

/// The size of the bounce buffer for reads that do not start at a block boundary.
const BOUNCE: usize = MOST_BYTES;

/// The reason why the disk cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The machine has no disk, or its driver failed to start.
    #[error("no disk: {0}")]
    DriverError(DriverError),
    /// The heap has no room for the bounce buffer.
    #[error(
        "not enough memory: the heap has no room for {BOUNCE} bytes: give the machine more, or \
         align the FIT's payloads to blocks of {SECTOR_SIZE} bytes"
    )]
    Bounce,
    /// A read failed.
    #[error("the disk fails to read block {block}: {error}")]
    Read {
        /// The first block of the read. A block has 512 bytes.
        block: u64,
        /// The driver's error.
        error: VirtioError,
    },
}

/// An open disk.
pub struct Disk {
    device: Driven<VirtIOBlk<Identity, SomeTransport<'static>>>,
    requests: u64,
    /// The counter ticks spent waiting for requests.
    waited: u64,
}

impl Disk {
    /// Opens the first block device.
    ///
    /// # Errors
    ///
    /// [`Error::DriverError`].
    pub fn open(devices: &Devices) -> Result<Self, Error> {
        let device =
            devices.drive(DeviceType::Block, VirtIOBlk::new).map_err(Error::DriverError)?;
        Ok(Self { device, requests: 0, waited: 0 })
    }

    /// Returns the disk's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.device.capacity() * SECTOR_SIZE as u64
    }

    /// Returns the counter ticks spent waiting for requests, all together.
    #[must_use]
    pub fn waited(&self) -> u64 {
        self.waited
    }

    /// Returns the number of requests made.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Reads `buffer.len()` bytes, starting at byte `from`.
    ///
    /// If `from` is a block boundary, this takes one request for each [`MOST_BYTES`], and one more
    /// for an incomplete last block.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::Bounce`].
    pub fn read(&mut self, from: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let sector = SECTOR_SIZE as u64;
        if from.is_multiple_of(sector) {
            let (whole, rest) = buffer.split_at_mut(buffer.len() / SECTOR_SIZE * SECTOR_SIZE);
            let mut block = from / sector;
            for piece in whole.chunks_mut(MOST_BYTES) {
                self.read_blocks(block, piece)?;
                block += (piece.len() / SECTOR_SIZE) as u64;
            }
            let mut last = [0; SECTOR_SIZE];
            if !rest.is_empty() {
                self.read_blocks(block, &mut last)?;
                rest.copy_from_slice(&last[..rest.len()]);
            }
            return Ok(());
        }
        let mut bounce = Vec::new();
        bounce.try_reserve_exact(BOUNCE).map_err(|_| Error::Bounce)?;
        bounce.resize(BOUNCE, 0);
        let mut at = from;
        for piece in buffer.chunks_mut(BOUNCE - SECTOR_SIZE) {
            let skip = (at % sector) as usize;
            let blocks = (skip + piece.len()).next_multiple_of(SECTOR_SIZE);
            self.read_blocks(at / sector, &mut bounce[..blocks])?;
            piece.copy_from_slice(&bounce[skip..skip + piece.len()]);
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn read_blocks(&mut self, block: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.requests += 1;
        let asked = clock::now();
        let answer = self.device.read_blocks(block as usize, buffer);
        self.waited += clock::now() - asked;
        answer.map_err(|error| Error::Read { block, error })
    }
}
