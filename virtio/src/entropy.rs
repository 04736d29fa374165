//! An entropy device: a source of random bytes.

use crate::transport::{begin, finish};
use crate::{Error, wait};
use alloc::boxed::Box;
use virtio_drivers::Hal;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

/// The request queue (virtio 1.2, 5.4.2), and the descriptors that we use of it.
const QUEUE: u16 = 0;
const QUEUE_SIZE: usize = 2;

/// The most bytes in one request.
const BYTES: usize = 64;

/// An entropy device in use.
pub struct Entropy<H: Hal, T: Transport> {
    transport: T,
    queue: VirtQueue<H, QUEUE_SIZE>,
    /// The device may write to it until it is reset, so it belongs to the driver.
    buffer: Box<[u8; BYTES]>,
}

impl<H: Hal, T: Transport> Entropy<H, T> {
    /// Sets up a device that is in reset. The caller resets it again before it drops the driver.
    ///
    /// # Errors
    ///
    /// [`Error::Features`], [`Error::Queue`].
    pub fn new(mut transport: T) -> Result<Self, Error> {
        let features = begin(&mut transport, 0)?;
        let queue = VirtQueue::new(&mut transport, QUEUE, false, false)?;
        let buffer = Box::new([0; BYTES]);
        finish(&mut transport, features);
        Ok(Self { transport, queue, buffer })
    }

    /// Fills `bytes`. After an error the driver is of no use.
    ///
    /// `is_late` is called while the device does not answer, and ends the wait if it returns true.
    ///
    /// # Errors
    ///
    /// [`Error::Late`], [`Error::Length`], [`Error::Queue`].
    pub fn fill(
        &mut self,
        mut bytes: &mut [u8],
        mut is_late: impl FnMut() -> bool,
    ) -> Result<(), Error> {
        while !bytes.is_empty() {
            let asked = bytes.len().min(BYTES);
            let buffer = &mut self.buffer[..asked];
            // SAFETY: `add` requires that the buffer stays valid and unused until `pop_used`. It is
            // the driver's, which does nothing more after an error.
            let token = unsafe { self.queue.add(&[], &mut [buffer]) }?;
            wait(&mut self.transport, &self.queue, QUEUE, &mut is_late)?;
            // SAFETY: this is the buffer that was added.
            let given = unsafe { self.queue.pop_used(token, &[], &mut [buffer]) }?;
            if !(1..=asked as u32).contains(&given) {
                return Err(Error::Length(given));
            }
            let (now, later) = bytes.split_at_mut(given as usize);
            now.copy_from_slice(&buffer[..now.len()]);
            bytes = later;
        }
        Ok(())
    }
}
