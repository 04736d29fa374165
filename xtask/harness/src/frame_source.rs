//! Source of frames for a guest's network device, sent until the run ends.
//!
//! QEMU reads datagrams from a socket of its own, so we need no host network, port or privilege.
//! Each datagram becomes a frame in the guest's memory as soon as a buffer is posted, whatever the
//! guest does at that moment. A virtio console would not do: it posts one buffer and waits for the
//! driver to post it again, so nothing would arrive between "Bye!" and the jump.

use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

/// The time between two frames. A guest that polls only twice in a generation of some 40 ms does
/// not run out of its 64 buffers between the polls.
const PERIOD: Duration = Duration::from_micros(500);

/// The largest frame without its checksum, so that each does as much damage as possible.
const FRAME: usize = 1514;

/// A broadcast frame of an EtherType for local experiments (IEEE 802a), filled with text that is
/// easy to find in memory.
pub fn frame() -> Vec<u8> {
    let mut frame = [[0xff; 6], [0x52, 0x54, 0, 0, 0, 1]].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend(b"no driver asked for this frame. ".iter().cycle().take(FRAME - frame.len()));
    frame
}

/// FrameSource that stops when it is dropped; dropping also removes the socket's name.
pub struct FrameSource {
    socket: PathBuf,
    over: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl FrameSource {
    /// Sends to the socket `socket`, which QEMU will create.
    pub fn to(socket: &Path) -> Result<Self> {
        let from = UnixDatagram::unbound().context("cannot make a socket to send frames from")?;
        // Never block: a frame that QEMU has no room for is lost, as on any network.
        from.set_nonblocking(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let (to, stop) = (socket.to_owned(), Arc::clone(&over));
        let sender = thread::spawn(move || {
            let frame = frame();
            while !stop.load(Ordering::Relaxed) {
                // An error means that QEMU has not started yet, has ended, or has no room.
                let _ = from.send_to(&frame, &to);
                thread::sleep(PERIOD);
            }
        });
        Ok(Self { socket: socket.to_owned(), over, sender: Some(sender) })
    }
}

impl Drop for FrameSource {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.sender.take().map(JoinHandle::join);
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_and_the_name_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let frame_source = FrameSource::to(&socket).unwrap();
        let qemu = UnixDatagram::bind(&socket).unwrap();
        qemu.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut arrived = [0; 2 * FRAME];
        for _ in 0..3 {
            assert_eq!(qemu.recv(&mut arrived).unwrap(), FRAME);
        }
        assert_eq!(arrived[..FRAME], frame());
        drop(frame_source);
        assert!(!socket.exists());
    }
}
