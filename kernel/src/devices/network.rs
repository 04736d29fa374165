//! Receive-only driver that keeps the network device writing to memory.
//!
//! - When: from the start of a generation to the devices' last reset.
//! - Leaves: the receive buffers with the device until it is reset.
//!
//! This kernel reads no frame. It posts buffers to have a device that writes to memory on its own,
//! whenever a frame arrives. A block device cannot serve for that: it writes only on request.

use super::{Driven, Identity, Opened};
use virtio::Error;
use virtio::transport::{begin, finish};
use virtio_drivers::queue::{OwningQueue, VirtQueue};
use virtio_drivers::transport::Transport;

/// Number of receive buffers: how many frames may arrive between two polls.
const BUFFERS: usize = 64;

/// Buffer size: the largest frame with virtio's header before it, rounded up.
const BUFFER_SIZE: usize = 2048;

/// The receive queue (virtio 1.2, 5.1.2).
const RECEIVE: u16 = 0;

/// A driver that counts received frames and discards them.
pub struct Receive {
    transport: Opened,
    queue: OwningQueue<Identity, BUFFERS, BUFFER_SIZE>,
    frames: u64,
}

/// The receive driver with its device.
pub type Receiver = Driven<Receive>;

impl Receive {
    /// Sets the device up and posts all buffers. (virtio-drivers' own network driver also sends,
    /// for which it needs a second queue.)
    ///
    /// # Errors
    ///
    /// Returns an error if the queue cannot be set up.
    pub fn start(mut transport: Opened) -> Result<Self, Error> {
        let features = begin(&mut transport, 0)?;
        let mut queue = OwningQueue::new(VirtQueue::new(&mut transport, RECEIVE, false, false)?)?;
        queue.set_dev_notify(false);
        finish(&mut transport, features);
        transport.notify(RECEIVE);
        Ok(Self { transport, queue, frames: 0 })
    }

    /// Counts the frames that have arrived and reposts their buffers, at most once around the
    /// queue. Returns the total number of frames.
    pub fn poll(&mut self) -> u64 {
        for _ in 0..BUFFERS {
            match self.queue.poll(&mut self.transport, |_| Ok(Some(()))) {
                Ok(Some(())) => self.frames += 1,
                _ => break,
            }
        }
        self.frames
    }
}
