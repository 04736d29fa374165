//! Gzip: a compressed kernel's bytes, unpacked as they come in (RFC 1952, and RFC 1951 by miniz_oxide).
//!
//! *When:* the FIT says `compression = "gzip"`. *On entry:* the file's bytes in pieces, and room for what they unpack to, in pieces as well.
//! *Leaves:* the unpacked bytes; of itself 32 KiB, the window that they refer back into. *Refuses:* what is no gzip, does not
//! unpack, ends early or goes on, unpacks to more than it may, and what is not what its trailer says: each by a [`Refused`]. Nothing here
//! panics or takes more memory, whatever the bytes are.
//!
//! ```text
//! 1f 8b 08 flags time[4] extra-flags system | extra, name, comment, CRC-16, as the flags say | deflate | CRC-32[4] size[4]
//! ```

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, TINFL_LZ_DICT_SIZE, decompress_with_limit};

/// What a gzip file starts with.
pub const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The one method there is.
const DEFLATE: u8 = 8;

/// Bytes of the header that every file has.
const FIXED_BYTES: usize = 10;

/// CRC-32 and size.
const TRAILER_BYTES: usize = 8;

const FLAG_HEADER_CRC: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const FLAGS_RESERVED: u8 = 0b111 << 5;

/// A file that is being unpacked.
pub struct Unpacker {
    inflate: Box<DecompressorOxide>,
    /// What was unpacked last, at each byte's place modulo the window's size.
    window: Box<[u8]>,
    part: Part,
    crc32: u32,
    unpacked: u64,
    limit: u64,
}

/// What comes next.
enum Part {
    Header,
    Deflate,
    /// The trailer, of which so many bytes are there.
    Trailer([u8; TRAILER_BYTES], usize),
}

impl Unpacker {
    /// Begins with a file that may unpack to `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let (inflate, window) = (Box::default(), vec![0; TINFL_LZ_DICT_SIZE].into_boxed_slice());
        Self { inflate, window, part: Part::Header, crc32: u32::MAX, unpacked: 0, limit }
    }

    /// Unpacks what `packed` begins with into what `room` begins with: how many bytes of each. It is called again with the rest, and with what comes
    /// next, until all is taken in; that may need more room. The first piece holds all of the header.
    ///
    /// # Errors
    ///
    /// The first rule that is broken. Nothing can be done with the file any more.
    pub fn unpack(&mut self, packed: &[u8], room: &mut [u8]) -> Result<(usize, usize), Refused> {
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
                if taken < packed.len() {
                    Err(Refused::GoesOn { unpacked: self.unpacked })
                } else {
                    Ok((taken, 0))
                }
            }
        }
    }

    fn deflate(&mut self, packed: &[u8], room: &mut [u8]) -> Result<(usize, usize), Refused> {
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
            return Err(Refused::TooLarge { limit: self.limit });
        }
        match status {
            TINFLStatus::Done => self.part = Part::Trailer([0; TRAILER_BYTES], 0),
            TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput => {}
            _ => return Err(Refused::Damaged { unpacked: self.unpacked }),
        }
        Ok((taken, made))
    }

    /// Ends with the file; gives how many bytes it unpacked to.
    ///
    /// # Errors
    ///
    /// A file that ended too early, or that is not what its trailer says.
    pub fn finish(self) -> Result<u64, Refused> {
        let Part::Trailer([a, b, c, d, size @ ..], TRAILER_BYTES) = self.part else {
            return Err(Refused::EndsEarly { unpacked: self.unpacked });
        };
        let (stated, found) = (u32::from_le_bytes([a, b, c, d]), !self.crc32);
        if stated != found {
            return Err(Refused::Checksum { stated, found });
        }
        let (stated, found) = (u32::from_le_bytes(size), self.unpacked as u32);
        if stated != found {
            return Err(Refused::Size { stated, found });
        }
        Ok(self.unpacked)
    }
}

/// How long the header is that `file` begins with.
fn header(file: &[u8]) -> Result<usize, Refused> {
    let ends_early = Refused::EndsEarly { unpacked: 0 };
    let [a, b, method, flags, ..] = *file else { return Err(ends_early) };
    if [a, b] != MAGIC {
        return Err(Refused::NotGzip { magic: [a, b] });
    }
    if method != DEFLATE || flags & FLAGS_RESERVED != 0 {
        return Err(Refused::Unknown { method, flags });
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
    // Half of the header's CRC-32: it says nothing of the kernel.
    end += if flags & FLAG_HEADER_CRC != 0 { 2 } else { 0 };
    if end <= file.len() { Ok(end) } else { Err(ends_early) }
}

/// What one more byte does to a CRC-32 (ISO 3309, reflected), by the byte and what is shifted out.
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

/// Goes on with a CRC-32 that starts, and ends, inverted. Not the CPU's instruction for it: this half builds on any host.
fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, &byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// Why something cannot be unpacked: the rule, and the value that broke it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Refused {
    /// Other bytes where the magic belongs.
    NotGzip { magic: [u8; 2] },
    /// Another method than deflate, or flags that nobody has given a meaning.
    Unknown { method: u8, flags: u8 },
    /// Bits that no deflate stream has.
    Damaged { unpacked: u64 },
    /// The file's end before that of what is in it. The header's, too, where that is longer than the first piece.
    EndsEarly { unpacked: u64 },
    /// Bytes after the trailer: a second member, or anything that was appended.
    GoesOn { unpacked: u64 },
    /// More bytes than it may.
    TooLarge { limit: u64 },
    /// Bytes that are not those that were packed.
    Checksum { stated: u32, found: u32 },
    /// More or fewer bytes than were packed, modulo 2³².
    Size { stated: u32, found: u32 },
    /// Fewer bytes than the FIT says.
    NotAsStated { stated: u64, found: u64 },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGzip { magic: [a, b] } => write!(
                f,
                "it is no gzip file, which starts with 0x1f 0x8b, but starts with {a:#04x} {b:#04x}: say how it is compressed"
            ),
            Self::Unknown { method, flags } => write!(
                f,
                "its gzip header has method {method} and flags {flags:#04x}, and only method 8 (deflate) and the low five flags \
                 mean anything: pack it anew"
            ),
            Self::Damaged { unpacked } => {
                write!(f, "its gzip data are damaged after {unpacked} unpacked bytes: pack it anew")
            }
            Self::EndsEarly { unpacked } => {
                write!(
                    f,
                    "its gzip data end too early, after {unpacked} unpacked bytes: give the whole file"
                )
            }
            Self::GoesOn { unpacked } => write!(
                f,
                "its gzip data go on behind the end, after {unpacked} unpacked bytes: give one member and nothing else"
            ),
            Self::TooLarge { limit } => write!(
                f,
                "it unpacks to more than {limit} bytes, which are the most by the FIT's uncomp-size or the Image's image_size: \
                 give what fits them"
            ),
            Self::Checksum { stated, found } => write!(
                f,
                "it unpacks to bytes with CRC-32 {found:#010x}, and its gzip trailer says {stated:#010x}: pack it anew"
            ),
            Self::Size { stated, found } => {
                write!(
                    f,
                    "it unpacks to {found} bytes, and its gzip trailer says {stated} (modulo 2^32): pack it anew"
                )
            }
            Self::NotAsStated { stated, found } => {
                write!(
                    f,
                    "it unpacks to {found} bytes, and the FIT's uncomp-size says {stated}: correct it"
                )
            }
        }
    }
}

impl core::error::Error for Refused {}

#[cfg(test)]
mod tests;
