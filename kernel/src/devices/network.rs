//! The network device, as the device that never rests: its receive buffers are posted for as long as the kernel goes.
//!
//! *When:* from the start of a life to the devices' last reset. Nobody here reads a frame. What matters is that the device writes to memory
//! by itself, whenever somebody sends one: a block device writes when it is asked to, and rests in between. *Leaves:* its buffers the device's until
//! it is in reset.

use super::{Driven, Identity};
use virtio_drivers::Error;
use virtio_drivers::queue::{OwningQueue, VirtQueue};
use virtio_drivers::transport::{DeviceStatus, SomeTransport, Transport};

/// How many frames may arrive between two looks.
const BUFFERS: usize = 64;

/// A frame's largest size with the header that virtio puts before it, rounded up.
const BUFFER_SIZE: usize = 2048;

/// The queue that frames are received from (virtio 1.2, 5.1.2).
const RECEIVE: u16 = 0;

/// VIRTIO_F_VERSION_1: to be accepted where it is offered (virtio 1.2, 6.1).
const VERSION_1: u64 = 1 << 32;

/// The pages that a legacy device counts queues in.
const PAGE_SIZE: u32 = 4096;

/// Receives, and forgets.
pub struct Receive {
    transport: SomeTransport<'static>,
    queue: OwningQueue<Identity, BUFFERS, BUFFER_SIZE>,
    frames: u64,
}

/// One at work.
pub type Receiver = Driven<Receive>;

impl Receive {
    /// Sets the device up, all buffers posted. (virtio-drivers' own network driver sends as well, and needs a second queue for that.)
    ///
    /// # Errors
    ///
    /// The queue cannot be set up.
    pub fn start(mut transport: SomeTransport<'static>) -> Result<Self, Error> {
        let found = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        transport.set_status(found);
        let features = transport.read_device_features() & VERSION_1;
        transport.write_driver_features(features);
        transport.set_status(found | DeviceStatus::FEATURES_OK);
        transport.set_guest_page_size(PAGE_SIZE);
        let mut queue = OwningQueue::new(VirtQueue::new(&mut transport, RECEIVE, false, false)?)?;
        queue.set_dev_notify(false);
        transport.finish_init();
        transport.notify(RECEIVE);
        Ok(Self { transport, queue, frames: 0 })
    }

    /// Takes note of the frames that have arrived and posts their buffers again, once around the queue at most. Returns how many there
    /// have been.
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
