//! The unpacker: reads a gzip file from the boot medium into frames, or an FDT.
//!
//! - Runs in place of a plain read if the FIT says that a kernel, a loadable or the FDT is
//!   compressed.
//! - Leaves the unpacked file in its frames. The compressed file is never in memory as a whole.
//! - Refuses a file whose digest differs, then whatever [`protocol::gzip`] refuses. A damaged disk
//!   must be reported as such, and not as a bad gzip file.

use crate::error::Error;
use crate::medium::Medium;
use crate::memory::Frames;
use alloc::vec::Vec;
use boot::image::HEADER_BYTES;
use protocol::fit::{Hash, Payload};
use protocol::gzip::{self, Unpacker};

/// The bytes read at a time. The first piece must hold gzip's header, whose extra field alone may
/// have 64 KiB.
const PIECE: usize = 256 << 10;

/// Unpacks a kernel's Image header into `start`, and returns how many bytes of it there are.
///
/// The bytes are not verified yet.
pub fn start(
    medium: &mut Medium,
    kernel: &Payload,
    start: &mut [u8; HEADER_BYTES],
) -> Result<usize, Error> {
    let error = |why| Error::Gzip(kernel.name.clone(), why);
    let mut piece = piece(kernel)?;
    medium.read(kernel.place.start, &mut piece)?;
    let mut unpacker = Unpacker::new(HEADER_BYTES as u64);
    let (mut taken, mut made) = (0, 0);
    while taken < piece.len() && made < start.len() {
        let (more_taken, more_made) =
            unpacker.unpack(&piece[taken..], &mut start[made..]).map_err(error)?;
        (taken, made) = (taken + more_taken, made + more_made);
    }
    Ok(made)
}

/// Returns the size of a file without a stated one, as its last four bytes, the trailer's, give it.
///
/// It is a claim, which [`all`] checks.
pub fn size(medium: &mut Medium, payload: &Payload) -> Result<u64, Error> {
    let mut size = [0; 4];
    medium.read(payload.place.end.saturating_sub(4), &mut size)?;
    Ok(u32::from_le_bytes(size).into())
}

/// Unpacks a whole file into `frames`, verifies it, and returns its size.
///
/// The frames have room for `most` bytes.
pub fn all(
    medium: &mut Medium,
    payload: &Payload,
    stated: Option<u64>,
    most: u64,
    frames: &mut Frames,
) -> Result<u64, Error> {
    let error = |why| Error::Gzip(payload.name.clone(), why);
    let mut piece = piece(payload)?;
    let mut hash = Hash::new(payload);
    let mut unpacker = Unpacker::new(stated.unwrap_or(most));
    // Leave room for one byte after the frames, so that a file that is too large is noticed.
    let mut too_many = [0];
    let mut rooms = frames.slices_mut().chain([&mut too_many[..]]);
    let (mut room, mut unpacked) = (rooms.next().unwrap_or_default(), Ok(()));
    let mut at = payload.place.start;
    while at < payload.place.end {
        let bytes = (payload.place.end - at).min(piece.len() as u64);
        let piece = &mut piece[..bytes as usize];
        medium.read(at, piece)?;
        at += bytes;
        hash.update(piece);
        let mut packed = &*piece;
        while !packed.is_empty() && unpacked.is_ok() {
            if room.is_empty() {
                room = rooms.next().unwrap_or_default();
            }
            unpacked = unpacker.unpack(packed, room).map(|(taken, made)| {
                packed = &packed[taken..];
                room = &mut core::mem::take(&mut room)[made..];
            });
        }
    }
    hash.verify()?;
    let found = unpacked.and_then(|()| unpacker.finish()).map_err(error)?;
    match stated {
        Some(stated) if found != stated => Err(error(gzip::Error::NotAsStated { stated, found })),
        _ => Ok(found),
    }
}

/// Unpacks a verified file in memory, to at most `limit` bytes.
pub fn in_memory(
    payload: &Payload,
    packed: &[u8],
    stated: Option<u64>,
    limit: u64,
) -> Result<Vec<u8>, Error> {
    const ROOM: usize = 64 << 10;
    let error = |why| Error::Gzip(payload.name.clone(), why);
    let mut unpacker = Unpacker::new(stated.unwrap_or(limit).min(limit));
    let (mut bytes, mut taken) = (Vec::new(), 0);
    while taken < packed.len() {
        let used = bytes.len();
        bytes.try_reserve_exact(ROOM).map_err(|_| Error::Heap(ROOM as u64))?;
        bytes.resize(used + ROOM, 0);
        let (more, made) = unpacker.unpack(&packed[taken..], &mut bytes[used..]).map_err(error)?;
        taken += more;
        bytes.truncate(used + made);
    }
    let found = unpacker.finish().map_err(error)?;
    match stated {
        Some(stated) if found != stated => Err(error(gzip::Error::NotAsStated { stated, found })),
        _ => Ok(bytes),
    }
}

/// Allocates a buffer for one piece of the file.
fn piece(payload: &Payload) -> Result<Vec<u8>, Error> {
    let bytes = PIECE.min((payload.place.end - payload.place.start) as usize);
    let mut piece = Vec::new();
    piece.try_reserve_exact(bytes).map_err(|_| Error::Heap(bytes as u64))?;
    piece.resize(bytes, 0);
    Ok(piece)
}
