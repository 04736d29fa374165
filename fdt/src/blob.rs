//! FDT blobs: header, blocks and tokens (Devicetree specification, chapter 5).
//!
//! For code that cuts a blob, or writes one anew: the EFI loader, and a kernel that passes one on.
//! It accepts any bytes and returns where things are in them; reading what they say is left to a
//! library. It refuses, with a reason, a blob that could not be written anew.

use core::ops::Range;

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 40;

/// Magic number: the first word of the header.
pub const MAGIC: u32 = boot::record::FDT_MAGIC;

/// Tokens of the structure block.
pub mod token {
    /// Start of a node. Its name follows, with a NUL, padded to a word.
    pub const BEGIN_NODE: u32 = 1;
    /// End of a node.
    pub const END_NODE: u32 = 2;
    /// Property. The size of its value, the offset of its name in the strings block, and the value
    /// follow, padded to a word.
    pub const PROP: u32 = 3;
    /// Filler, which readers skip.
    pub const NOP: u32 = 4;
    /// End of the structure block.
    pub const END: u32 = 9;
}

/// Offsets of a blob's blocks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Blocks {
    /// Offset of the first memory reservation.
    pub reservations: usize,
    /// Structure block: the tokens.
    pub structure: Range<usize>,
    /// Strings block: the names of properties, each with its NUL.
    pub strings: Range<usize>,
}

impl Blocks {
    /// Returns where the last block ends; the rest of the blob is padding.
    #[must_use]
    pub fn end(&self) -> usize {
        self.structure.end.max(self.strings.end)
    }
}

/// Finds the blocks of a blob.
///
/// # Errors
///
/// Refuses a blob in which
///
/// - the header is missing, or has a version that we do not know;
/// - a block passes the blob's end;
/// - the tokens continue past the size that the header gives their block;
/// - the strings block is not text. This includes strings that no property uses, because a reader
///   may search all of them for one to share.
pub fn blocks(blob: &[u8]) -> Result<Blocks, &'static str> {
    let header = |at| word(blob, at).ok_or("no header");
    if header(0)? != MAGIC as usize {
        return Err("no magic");
    }
    // Version 17 is the first whose header has the structure block's size. All versions since are
    // compatible with 16.
    if header(20)? < 17 || header(24)? > 17 {
        return Err("a version that is not known");
    }
    let (structure, strings) =
        (header(8)?..header(8)? + header(36)?, header(12)?..header(12)? + header(32)?);
    let blocks = Blocks { reservations: header(16)?, structure, strings };
    let names = blob
        .get(blocks.strings.clone())
        .filter(|_| blocks.end() <= blob.len())
        .ok_or("blocks past the end")?;
    if end_of_structure(blob, blocks.structure.start).is_none_or(|end| end > blocks.structure.end) {
        return Err("a structure that passes its block");
    }
    match names {
        [names @ .., 0] if str::from_utf8(names).is_ok() => Ok(blocks),
        [] => Ok(blocks),
        _ => Err("strings that are no text or do not end in NUL"),
    }
}

/// Returns the token at `at`, and the offset of the next one, which may be past the end.
#[must_use]
pub fn token(blob: &[u8], at: usize) -> Option<(u32, usize)> {
    let token = word(blob, at)? as u32;
    let at = at + 4;
    let bytes = match token {
        token::BEGIN_NODE => (name(blob, at)?.len() + 1).next_multiple_of(4),
        token::PROP => 8 + word(blob, at)?.next_multiple_of(4),
        token::END_NODE | token::NOP | token::END => 0,
        _ => return None,
    };
    Some((token, at + bytes))
}

/// Returns the bytes from `at` up to a NUL.
#[must_use]
pub fn name(blob: &[u8], at: usize) -> Option<&[u8]> {
    let rest = blob.get(at..)?;
    Some(&rest[..rest.iter().position(|&byte| byte == 0)?])
}

/// Reads the big-endian word at `at`.
#[must_use]
pub fn word(blob: &[u8], at: usize) -> Option<usize> {
    blob.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize)
}

/// Builds the header of a blob whose blocks follow it: reservations, then structure, then strings.
///
/// `structure` and `strings` are the offsets of these two, `end` that of the blob's end. The header
/// has version 17, which readers of version 16 understand.
#[must_use]
pub fn header(structure: usize, strings: usize, end: usize, boot_cpu: usize) -> [u8; HEADER_BYTES] {
    let words = [
        MAGIC as usize,
        end,
        structure,
        strings,
        HEADER_BYTES,
        17,
        16,
        boot_cpu,
        end - strings,
        strings - structure,
    ];
    let mut bytes = [0; HEADER_BYTES];
    bytes
        .as_chunks_mut()
        .0
        .iter_mut()
        .zip(words)
        .for_each(|(bytes, word)| *bytes = (word as u32).to_be_bytes());
    bytes
}

/// Returns the boot CPU's number from a blob's header.
#[must_use]
pub fn boot_cpu(blob: &[u8]) -> usize {
    word(blob, 28).unwrap_or_default()
}

/// Returns the size that a blob's header gives, or `None` if `start` does not begin a blob.
#[must_use]
pub fn size(start: &[u8]) -> Option<usize> {
    word(start, 0).filter(|&magic| magic == MAGIC as usize).and(word(start, 4))
}

/// Returns where the structure that starts at `at` really ends: after its END token.
fn end_of_structure(blob: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let (token, next) = token(blob, at)?;
        if token == token::END {
            return Some(next);
        }
        at = next;
    }
}
