//! Virtio drivers that keep to the letter of the specification, each with a limit to every wait.
//!
//! A *strict* device ignores a driver that departs from the specification. `virtio-drivers` has
//! transports and queues, and this crate has what strict devices ask for beyond it:
//!
//! - [`transport`]: status bits one at a time, queue addresses as 32-bit accesses, no wait.
//! - [`block`]: a disk, read in its own block size, with a queue as small as four.
//! - [`entropy`]: a source of random bytes.
//! - [`pci`]: the functions behind bridges, and their addresses.
//!
//! A driver never waits longer than its caller allows. It does not reset its device: the caller
//! does, before it drops the driver.
#![no_std]
#![expect(unsafe_code, reason = "hands buffers to devices")]

extern crate alloc;

pub mod block;
pub mod entropy;
pub mod pci;
#[cfg(test)]
mod tests;
pub mod transport;

use virtio_drivers::Hal;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

/// Notifies the device of a request, and waits until it has answered or `is_late` returns true.
fn wait<H: Hal, const SIZE: usize>(
    transport: &mut impl Transport,
    queue: &VirtQueue<H, SIZE>,
    number: u16,
    mut is_late: impl FnMut() -> bool,
) -> Result<(), Error> {
    if queue.should_notify() {
        transport.notify(number);
    }
    while !queue.can_pop() {
        if is_late() {
            return Err(Error::Late);
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// A reason why a device cannot be driven, or a request failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The device cleared FEATURES_OK: it does not work with this subset of its features.
    #[error("it refuses the features {0:#x}")]
    Features(u64),
    /// The device changed its configuration each time that we read it.
    #[error("its configuration changes while it is read")]
    Unsteady,
    /// The disk's blocks have this size.
    #[error("its blocks have {0} bytes: give it blocks of a power of two, from 512 to 4096")]
    BlockSize(u32),
    /// The device did not answer in time.
    #[error("it does not answer in time")]
    Late,
    /// The device answered with this status (virtio 1.2, 5.2.6).
    #[error("{}", match .0 { 1 => "I/O error", 2 => "the device does not support reads",
        _ => "a status that virtio does not know" })]
    Status(u8),
    /// The device answered with more bytes than we asked for, or with none.
    #[error("it answers with {0} bytes")]
    Length(u32),
    /// The queue or the configuration cannot be used.
    #[error("{0}")]
    Queue(virtio_drivers::Error),
}

impl From<virtio_drivers::Error> for Error {
    fn from(error: virtio_drivers::Error) -> Self {
        Self::Queue(error)
    }
}
