//! A streaming gzip decoder (RFC 1952), with the inflate of miniz_oxide (RFC 1951).
//!
//! - Used if the FIT says `compression = "gzip"`.
//! - Takes the file in pieces, and writes the unpacked bytes into buffers of any size.
//! - Needs 32 KiB of memory, the window that the file refers back into.
//! - Passes over zeros after the end, as gzip(1) and U-Boot do.
//! - Refuses a file that is no gzip file, is damaged, ends early, has other bytes after its end,
//!   unpacks to more than its limit, or does not match its trailer.
//! - Never panics, and allocates nothing more, whatever the bytes are.
//!
//! The format:
//!
//! ```text
//! 1f 8b 08 flags time[4] extra-flags system
//! | extra, name, comment, CRC-16: each if its flag is set
//! | deflate data
//! | CRC-32[4] size[4]
//! ```

use alloc::boxed::Box;
use alloc::vec;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, TINFL_LZ_DICT_SIZE, decompress_with_limit};

/// The first two bytes of a gzip file.
pub const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The only compression method that RFC 1952 defines.
const DEFLATE: u8 = 8;

/// The size of the header without its optional parts.
const FIXED_BYTES: usize = 10;

/// The size of the trailer: CRC-32 and size.
const TRAILER_BYTES: usize = 8;

const FLAG_HEADER_CRC: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const FLAGS_RESERVED: u8 = 0b111 << 5;

/// The state of a file that is being unpacked.
pub struct Unpacker {
    inflate: Box<DecompressorOxide>,
    /// The last unpacked bytes, each at its offset modulo the window's size.
    window: Box<[u8]>,
    part: Part,
    crc32: u32,
    unpacked: u64,
    limit: u64,
}

/// The part of the file that comes next.
enum Part {
    Header,
    Deflate,
    /// The trailer, and how many of its bytes have arrived.
    Trailer([u8; TRAILER_BYTES], usize),
}

impl Unpacker {
    /// Starts with a file that may unpack to at most `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let (inflate, window) = (Box::default(), vec![0; TINFL_LZ_DICT_SIZE].into_boxed_slice());
        Self { inflate, window, part: Part::Header, crc32: u32::MAX, unpacked: 0, limit }
    }

    /// Unpacks from the start of `packed` into the start of `room`, and returns the number of bytes
    /// used of each.
    ///
    /// The caller repeats it with the rest of `packed`, and then with the next piece, and provides
    /// more room as needed. The first piece must hold the whole header.
    ///
    /// # Errors
    ///
    /// The first rule that is broken. The file cannot be unpacked any further.
    pub fn unpack(&mut self, packed: &[u8], room: &mut [u8]) -> Result<(usize, usize), Error> {
        match &mut self.part {
            Part::Header => {
                let bytes = header(packed)?;
                self.part = Part::Deflate;
                Ok((bytes, 0))
            }
            Part::Deflate => self.deflate(packed, room),
            Part::Trailer(trailer, there) => {
                let taken = packed.len().min(TRAILER_BYTES - *there);
                trailer[*there..*there + taken].copy_from_slice(&packed[..taken]);
                *there += taken;
                // Tools pad a file with zeros to the end of a block.
                if packed[taken..].iter().any(|&byte| byte != 0) {
                    Err(Error::GoesOn { unpacked: self.unpacked })
                } else {
                    Ok((packed.len(), 0))
                }
            }
        }
    }

    fn deflate(&mut self, packed: &[u8], room: &mut [u8]) -> Result<(usize, usize), Error> {
        let start = (self.unpacked % TINFL_LZ_DICT_SIZE as u64) as usize;
        let (inflate, window) = (&mut self.inflate, &mut self.window);
        let (status, taken, made) = decompress_with_limit(
            inflate,
            packed,
            window,
            start,
            room.len(),
            TINFL_FLAG_HAS_MORE_INPUT,
        );
        let made_here = &self.window[start..start + made];
        room[..made].copy_from_slice(made_here);
        self.crc32 = crc32(self.crc32, made_here);
        self.unpacked += made as u64;
        if self.unpacked > self.limit {
            return Err(Error::TooLarge { limit: self.limit });
        }
        match status {
            TINFLStatus::Done => self.part = Part::Trailer([0; TRAILER_BYTES], 0),
            TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput => {}
            _ => return Err(Error::Damaged { unpacked: self.unpacked }),
        }
        Ok((taken, made))
    }

    /// Finishes the file, and returns how many bytes it unpacked to.
    ///
    /// # Errors
    ///
    /// A file that ended too early, or that does not match its trailer.
    pub fn finish(self) -> Result<u64, Error> {
        let Part::Trailer([a, b, c, d, size @ ..], TRAILER_BYTES) = self.part else {
            return Err(Error::EndsEarly { unpacked: self.unpacked });
        };
        let (stated, found) = (u32::from_le_bytes([a, b, c, d]), !self.crc32);
        if stated != found {
            return Err(Error::Checksum { stated, found });
        }
        let (stated, found) = (u32::from_le_bytes(size), self.unpacked as u32);
        if stated != found {
            return Err(Error::Size { stated, found });
        }
        Ok(self.unpacked)
    }
}

/// Returns the length of the gzip header at the start of `file`.
fn header(file: &[u8]) -> Result<usize, Error> {
    let ends_early = Error::EndsEarly { unpacked: 0 };
    let [a, b, method, flags, ..] = *file else { return Err(ends_early) };
    if [a, b] != MAGIC {
        return Err(Error::NotGzip { magic: [a, b] });
    }
    if method != DEFLATE || flags & FLAGS_RESERVED != 0 {
        return Err(Error::Unknown { method, flags });
    }
    let mut end = FIXED_BYTES;
    if flags & FLAG_EXTRA != 0 {
        let Some(&[low, high]) = file.get(end..end + 2) else { return Err(ends_early) };
        end += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    for text in [FLAG_NAME, FLAG_COMMENT] {
        if flags & text != 0 {
            let nul = file.get(end..).and_then(|rest| rest.iter().position(|&byte| byte == 0));
            end += 1 + nul.ok_or(ends_early)?;
        }
    }
    // Skip the header's CRC-16: it does not cover the kernel.
    end += if flags & FLAG_HEADER_CRC != 0 { 2 } else { 0 };
    if end <= file.len() { Ok(end) } else { Err(ends_early) }
}

/// The CRC-32 table (ISO 3309, reflected): the remainder for each byte that is shifted out.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Continues a CRC-32 with more bytes. The initial value and the result are inverted.
///
/// It does not use the CPU's CRC32 instructions, because the library builds on any host.
pub(crate) fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The reason why a file cannot be unpacked: the rule, and the value that broke it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Error {
    /// Other bytes than the magic.
    #[error(
        "it is no gzip file, which starts with 0x1f 0x8b, but starts with {:#04x} {:#04x}: say how \
         it is compressed",
        magic[0], magic[1]
    )]
    NotGzip { magic: [u8; 2] },
    /// A method other than deflate, or reserved flags.
    #[error(
        "its gzip header has method {method} and flags {flags:#04x}, and only method 8 (deflate) \
         and the low five flags mean anything: pack it anew"
    )]
    Unknown { method: u8, flags: u8 },
    /// An invalid deflate stream.
    #[error("its gzip data are damaged after {unpacked} unpacked bytes: pack it anew")]
    Damaged { unpacked: u64 },
    /// A file that ends too early, or a header that is longer than the first piece.
    #[error("its gzip data end too early, after {unpacked} unpacked bytes: give the whole file")]
    EndsEarly { unpacked: u64 },
    /// Bytes other than zero after the trailer: a second member, or other appended data.
    #[error(
        "other bytes come behind its gzip data, after {unpacked} unpacked bytes: give one member \
         and nothing else"
    )]
    GoesOn { unpacked: u64 },
    /// More unpacked bytes than the limit.
    #[error(
        "it unpacks to more than {limit} bytes, which are the most by the FIT's uncomp-size, the \
         Image's image_size or the boot protocol: give what fits them"
    )]
    TooLarge { limit: u64 },
    /// Unpacked bytes whose CRC-32 differs from the trailer's.
    #[error(
        "it unpacks to bytes with CRC-32 {found:#010x}, and its gzip trailer says {stated:#010x}: \
         pack it anew"
    )]
    Checksum { stated: u32, found: u32 },
    /// More or fewer unpacked bytes than the trailer says, modulo 2³².
    #[error(
        "it unpacks to {found} bytes, and its gzip trailer says {stated} (modulo 2^32): pack it \
         anew"
    )]
    Size { stated: u32, found: u32 },
    /// Fewer unpacked bytes than the FIT's uncomp-size.
    #[error("it unpacks to {found} bytes, and the FIT's uncomp-size says {stated}: correct it")]
    NotAsStated { stated: u64, found: u64 },
}

#[cfg(test)]
mod tests;
