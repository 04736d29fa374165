//! Frames for a guest's network device: sent all the time, to whoever listens, until the run is over.
//!
//! *When:* beside a run that asked for a network device. QEMU reads datagrams from a socket of its own, so no host network, no port and no
//! privilege is needed, and each datagram becomes a frame in the guest's memory as soon as a buffer is posted, whatever the guest does
//! at that moment. (A virtio console has one buffer posted and waits for it to be posted again: between "Bye!" and the jump nothing would arrive.)

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

/// From one frame to the next: a guest that looks but twice in a life of 40 ms or so does not run out of its 64 buffers before it looks.
const PERIOD: Duration = Duration::from_micros(500);

/// As large as a frame may be without its checksum: each does as much damage as it can.
const FRAME: usize = 1514;

/// What a frame holds: to everybody, from nobody, of a type for local experiments (IEEE 802a), and then words that are found easily in memory.
pub fn frame() -> Vec<u8> {
    let mut frame = [[0xff; 6], [0x52, 0x54, 0, 0, 0, 1]].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend(b"nobody asked for this frame. ".iter().cycle().take(FRAME - frame.len()));
    frame
}

/// Traffic that ends, and takes its socket's name away, when it is dropped.
pub struct Traffic {
    socket: PathBuf,
    over: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Sends to the socket that QEMU makes at `socket`, as soon as it is there.
    pub fn to(socket: &Path) -> Result<Self> {
        let from = UnixDatagram::unbound().context("cannot make a socket to send frames from")?;
        // What QEMU has no room for is lost, as on any network.
        from.set_nonblocking(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let (to, stop) = (socket.to_owned(), Arc::clone(&over));
        let sender = thread::spawn(move || {
            let frame = frame();
            while !stop.load(Ordering::Relaxed) {
                // No QEMU yet, none any more, or no room.
                let _ = from.send_to(&frame, &to);
                thread::sleep(PERIOD);
            }
        });
        Ok(Self { socket: socket.to_owned(), over, sender: Some(sender) })
    }
}

impl Drop for Traffic {
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
        let traffic = Traffic::to(&socket).unwrap();
        let qemu = UnixDatagram::bind(&socket).unwrap();
        qemu.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut arrived = [0; 2 * FRAME];
        for _ in 0..3 {
            assert_eq!(qemu.recv(&mut arrived).unwrap(), FRAME);
        }
        assert_eq!(arrived[..FRAME], frame());
        drop(traffic);
        assert!(!socket.exists());
    }
}
