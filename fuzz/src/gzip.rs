//! The target `gzip`: any bytes as a compressed kernel.
//!
//! It checks that:
//!
//! - each call makes progress;
//! - the output of an accepted file does not exceed the limit;
//! - an accepted file unpacks to what another reader makes of it, whatever the sizes of the input
//!   pieces and of the output buffers.

use std::io::Read;

use flate2::bufread::GzDecoder;
use protocol::gzip::{Error, Unpacker};

/// The size of the first piece, which holds the header.
const FIRST: usize = 64;

/// The flag of a CRC-16 over the header, which only the other reader checks.
const HEADER_CRC: u8 = 1 << 1;

/// Checks an input: sizes of pieces and buffers, a limit in units of 256 bytes, the file.
pub fn hold(data: &[u8]) {
    let Some((&[piece, room, limit], file)) = data.split_first_chunk() else { return };
    let limit = u64::from(limit) << 8;
    match unpack(file, usize::from(piece) + 1, usize::from(room) + 1, limit) {
        Ok(bytes) => {
            assert!(bytes.len() as u64 <= limit);
            let (mut other, mut rest) = (Vec::new(), file);
            let read = GzDecoder::new(&mut rest).read_to_end(&mut other);
            if file[3] & HEADER_CRC == 0 {
                let is_padding = rest.iter().all(|&byte| byte == 0);
                assert!(read.is_ok() && is_padding && other == bytes, "{read:?}");
            }
        }
        Err(error) => assert!(error.to_string().len() > 20, "{error}"),
    }
}

fn unpack(file: &[u8], piece: usize, room: usize, limit: u64) -> Result<Vec<u8>, Error> {
    let mut unpacker = Unpacker::new(limit);
    let (mut bytes, mut room) = (Vec::new(), vec![0; room]);
    let (first, rest) = file.split_at(file.len().min(FIRST));
    for mut piece in std::iter::once(first).chain(rest.chunks(piece)) {
        while !piece.is_empty() {
            let (taken, made) = unpacker.unpack(piece, &mut room)?;
            assert!(taken + made > 0, "no progress");
            piece = &piece[taken..];
            bytes.extend(&room[..made]);
        }
    }
    assert_eq!(unpacker.finish()?, bytes.len() as u64);
    Ok(bytes)
}
