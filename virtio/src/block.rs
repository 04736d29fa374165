//! A block device, read with one request at a time, in the device's own block size.
//!
//! - Takes any queue of four descriptors or more: a request has three.
//! - Refuses a block size that is no power of two from 512 to 4096.

use crate::transport::{begin, finish};
use crate::{Error, wait};
use alloc::boxed::Box;
use virtio_drivers::Hal;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

/// The unit of the capacity and of a request's position, whatever the block size is.
pub const SECTOR_SIZE: usize = 512;

/// The largest block size that we take.
pub const MAX_BLOCK_SIZE: usize = 4096;

/// VIRTIO_BLK_F_BLK_SIZE: the configuration names the block size (virtio 1.2, 5.2.3).
const BLK_SIZE: u64 = 1 << 6;

/// Offsets in the configuration (5.2.4).
const CAPACITY: usize = 0;
const BLOCK_SIZE: usize = 20;

/// The request queue (5.2.2), and its size: a request takes three descriptors, and a size is a
/// power of two.
const QUEUE: u16 = 0;
const QUEUE_SIZE: usize = 4;

/// VIRTIO_BLK_T_IN, a read (5.2.6).
const READ: u32 = 0;

/// VIRTIO_BLK_S_OK (5.2.6), and a value that no device answers.
const OK: u8 = 0;
const UNANSWERED: u8 = 0xff;

/// How often we read a configuration that changes meanwhile.
const TRIES: usize = 16;

/// A block device in use.
pub struct Block<H: Hal, T: Transport> {
    transport: T,
    queue: VirtQueue<H, QUEUE_SIZE>,
    sectors: u64,
    block_size: usize,
    /// The parts of a request that are not data: header and status. The device may access them
    /// until it is reset, so they belong to the driver.
    request: Box<(Header, [u8; 1])>,
}

/// The header of a request: type, reserved, sector (5.2.6).
type Header = [u8; 16];

impl<H: Hal, T: Transport> Block<H, T> {
    /// Sets up a device that is in reset. The caller resets it again before it drops the driver.
    ///
    /// # Errors
    ///
    /// [`Error::Features`], [`Error::Unsteady`], [`Error::BlockSize`], [`Error::Queue`].
    pub fn new(mut transport: T) -> Result<Self, Error> {
        let features = begin(&mut transport, BLK_SIZE)?;
        let has_block_size = features & BLK_SIZE != 0;
        let (sectors, block_size) = configuration(&transport, has_block_size)?;
        let is_valid = block_size.is_power_of_two()
            && (SECTOR_SIZE..=MAX_BLOCK_SIZE).contains(&(block_size as usize));
        if !is_valid {
            return Err(Error::BlockSize(block_size));
        }
        let queue = VirtQueue::new(&mut transport, QUEUE, false, false)?;
        let request = Box::new(([0; 16], [UNANSWERED]));
        finish(&mut transport, features);
        Ok(Self { transport, queue, sectors, block_size: block_size as usize, request })
    }

    /// Returns the device's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR_SIZE as u64)
    }

    /// Returns the size of a block in bytes. Every read is of whole blocks.
    #[must_use]
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Reads whole blocks from byte `from` on.
    ///
    /// `is_late` is called while the device does not answer, and ends the wait if it returns true.
    ///
    /// # Errors
    ///
    /// [`Error::Status`] if the device refuses, [`Error::Late`], [`Error::Queue`].
    ///
    /// # Safety
    ///
    /// After an error the device may still write to `buffer`, until it is reset. The caller must
    /// reset it before the buffer is used for anything else.
    ///
    /// # Panics
    ///
    /// If `from` or the length is no multiple of the block size, or the buffer is empty.
    pub unsafe fn read(
        &mut self,
        from: u64,
        buffer: &mut [u8],
        is_late: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        assert!(!buffer.is_empty() && buffer.len().is_multiple_of(self.block_size));
        assert!(from.is_multiple_of(self.block_size as u64));
        let (header, status) = &mut *self.request;
        header[..4].copy_from_slice(&READ.to_le_bytes());
        header[8..].copy_from_slice(&(from / SECTOR_SIZE as u64).to_le_bytes());
        *status = [UNANSWERED];
        // SAFETY: `add` requires that the buffers stay valid and unused until `pop_used`. The
        // request is the driver's. If we return before that, our caller resets the device before it
        // uses `buffer`.
        let token = unsafe { self.queue.add(&[header], &mut [buffer, status]) }?;
        wait(&mut self.transport, &self.queue, QUEUE, is_late)?;
        // SAFETY: these are the buffers that were added.
        unsafe { self.queue.pop_used(token, &[header], &mut [buffer, status]) }?;
        match *status {
            [OK] => Ok(()),
            [status] => Err(Error::Status(status)),
        }
    }
}

/// Reads the capacity in sectors and the block size, both of one generation of the configuration.
fn configuration(transport: &impl Transport, has_block_size: bool) -> Result<(u64, u32), Error> {
    for _ in 0..TRIES {
        let before = transport.read_config_generation();
        let low: u32 = transport.read_config_space(CAPACITY)?;
        let high: u32 = transport.read_config_space(CAPACITY + 4)?;
        let block_size = match has_block_size {
            true => transport.read_config_space(BLOCK_SIZE)?,
            false => SECTOR_SIZE as u32,
        };
        if transport.read_config_generation() == before {
            return Ok((u64::from(high) << 32 | u64::from(low), block_size));
        }
    }
    Err(Error::Unsteady)
}
