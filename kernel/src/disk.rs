//! The disk: a virtio-blk device, on virtio-mmio or PCI.
//!
//! - Opened to load an image, and dropped before the plan is staged.
//! - Dropping it resets the device and frees its queue.
//! - Reads in the device's own block size.
//! - Refuses a machine without a disk, a read past the end, a read error, and a device that does
//!   not answer in time.
#![expect(unsafe_code, reason = "hands frames to the device")]

use crate::clock;
use crate::devices::{Devices, Driven, DriverError, Identity, Opened, Place, deadline};
use crate::memory;
use alloc::vec::Vec;
use fdt::blob::MAGIC;
use log::warn;
use virtio::block::{Block, MAX_BLOCK_SIZE, SECTOR_SIZE};
use virtio_drivers::transport::DeviceType;

/// The most bytes in one request: devices may limit a buffer's size.
const MOST_BYTES: usize = 1 << 20;

/// The size of the bounce buffer for all that is not read into frames.
const BOUNCE: usize = 64 << 10;

const _: () = assert!(BOUNCE.is_multiple_of(MAX_BLOCK_SIZE));

/// The reason why the disk cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The machine has no disk, or its driver failed to start.
    #[error("no disk: {0}")]
    DriverError(DriverError),
    /// A read failed.
    #[error(
        "the disk fails to read block {sector}: {error} (the virtio device at {place}, asked for \
         {bytes} bytes)"
    )]
    Read {
        /// The first sector of the read: 512 bytes, whatever the device's blocks have.
        sector: u64,
        /// The bytes of the read.
        bytes: usize,
        /// The device's place.
        place: Place,
        /// The driver's error.
        error: virtio::Error,
    },
}

/// The driver with its bounce buffer. The device may write to both until it is reset.
struct Reader {
    block: Block<Identity, Opened>,
    bounce: Vec<u8>,
}

/// An open disk.
pub struct Disk {
    reader: Driven<Reader>,
    requests: u64,
    /// The counter ticks spent waiting for requests.
    waited: u64,
}

impl Disk {
    /// Opens the first block device that starts with a FIT, or the first one if none does.
    ///
    /// # Errors
    ///
    /// [`Error::DriverError`].
    pub fn open(devices: &Devices) -> Result<Self, Error> {
        let count = devices.count(DeviceType::Block);
        for nth in 0..if count > 1 { count } else { 0 } {
            match Self::open_nth(devices, nth).and_then(|mut disk| Ok((disk.has_fit()?, disk))) {
                Ok((true, disk)) => return Ok(disk),
                Ok((false, _)) => {}
                Err(why) => warn!("disk {nth} of {count} is passed over: {why}"),
            }
        }
        Self::open_nth(devices, 0)
    }

    fn open_nth(devices: &Devices, nth: usize) -> Result<Self, Error> {
        let start = |transport| {
            // First the buffer: nothing may fail once the device runs.
            let mut bounce = Vec::new();
            bounce
                .try_reserve_exact(BOUNCE)
                .map_err(|_| virtio::Error::Queue(virtio_drivers::Error::DmaError))?;
            bounce.resize(BOUNCE, 0);
            Ok(Reader { block: Block::new(transport)?, bounce })
        };
        let reader = devices.drive(DeviceType::Block, nth, start).map_err(Error::DriverError)?;
        Ok(Self { reader, requests: 0, waited: 0 })
    }

    fn has_fit(&mut self) -> Result<bool, Error> {
        let mut magic = [0; size_of_val(&MAGIC)];
        if self.bytes() >= magic.len() as u64 {
            self.read(0, &mut magic)?;
        }
        Ok(u32::from_be_bytes(magic) == MAGIC)
    }

    /// Returns the disk's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reader.block.bytes()
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

    /// Reads `buffer.len()` bytes, starting at byte `from`, through the bounce buffer. After an
    /// error the disk is of no use.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub fn read(&mut self, from: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let block_size = self.reader.block.block_size();
        let mut at = from;
        let mut rest = buffer;
        while !rest.is_empty() {
            let skip = (at % block_size as u64) as usize;
            let (now, later) = rest.split_at_mut(rest.len().min(BOUNCE - skip));
            self.request(at - skip as u64, (skip + now.len()).next_multiple_of(block_size), None)?;
            now.copy_from_slice(&self.reader.bounce[skip..][..now.len()]);
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Does the same as [`Self::read`] for a buffer of frames. If `from` is a block boundary, the
    /// device writes whole blocks directly to the frames.
    ///
    /// # Errors
    ///
    /// [`Error::Read`].
    pub fn read_frames(&mut self, from: u64, frames: &mut [u8]) -> Result<(), Error> {
        let block_size = self.reader.block.block_size();
        let whole = if from.is_multiple_of(block_size as u64) {
            frames.len() / block_size * block_size
        } else {
            0
        };
        let (whole, rest) = frames.split_at_mut(whole);
        let mut at = from;
        for piece in whole.chunks_mut(MOST_BYTES) {
            let bytes = piece.len();
            self.request(at, bytes, Some(piece))?;
            at += bytes as u64;
        }
        self.read(at, rest)
    }

    /// Reads whole blocks into frames, or into the bounce buffer.
    fn request(
        &mut self,
        from: u64,
        bytes: usize,
        mut frames: Option<&mut [u8]>,
    ) -> Result<(), Error> {
        self.requests += 1;
        let asked = clock::now();
        let Reader { block, bounce } = &mut *self.reader;
        let buffer = match &mut frames {
            Some(frames) => &mut **frames,
            None => &mut bounce[..bytes],
        };
        // SAFETY: `read` requires that the device is reset before the buffer is used again, if it
        // fails. It is reset below. If that fails as well, frames are kept, and so is the bounce
        // buffer, which belongs to the driver.
        let answer = unsafe { block.read(from, buffer, deadline()) };
        self.waited += clock::now() - asked;
        answer.map_err(|error| {
            if let (Err(_), Some(frames)) = (self.reader.stop(), frames) {
                memory::keep(frames);
            }
            let (sector, place) = (from / SECTOR_SIZE as u64, self.reader.place().clone());
            Error::Read { sector, bytes, place, error }
        })
    }
}
