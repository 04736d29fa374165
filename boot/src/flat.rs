//! A flattened device tree as what it is: a header, three blocks, tokens (Devicetree specification 5).
//!
//! *When:* wherever a blob is cut or written anew, by a loader's stub or by a kernel that hands one over. *On entry:* any bytes. *Leaves:* where
//! things lie in them; what they say is for a library to read. *Refuses:* by the words for it, what nobody could write anew.

use core::ops::Range;

/// How many bytes the header has.
pub const HEADER_BYTES: usize = 40;

/// The first word.
pub const MAGIC: u32 = 0xd00d_feed;

/// The tokens of the structure block.
pub mod token {
    /// A node begins: its name with a NUL, padded to a word.
    pub const BEGIN_NODE: u32 = 1;
    /// It ends.
    pub const END_NODE: u32 = 2;
    /// A property: how many bytes its value has, where its name starts among the strings, the value, padded to a word.
    pub const PROP: u32 = 3;
    /// Nothing.
    pub const NOP: u32 = 4;
    /// The block ends.
    pub const END: u32 = 9;
}

/// Where a blob's blocks lie.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Blocks {
    /// The first memory reservation.
    pub reservations: usize,
    /// The tokens.
    pub structure: Range<usize>,
    /// The properties' names: text, each with its NUL.
    pub strings: Range<usize>,
}

impl Blocks {
    /// Where the last of them ends: what follows is padding.
    #[must_use]
    pub fn end(&self) -> usize {
        self.structure.end.max(self.strings.end)
    }
}

/// The blocks of a blob.
///
/// # Errors
///
/// No header, or one of another version; blocks past the blob's end, a structure that goes on past the block that its header gives it, and
/// strings that are no text, also those that no property is named by: a reader may look at all of them to find one to share.
pub fn blocks(blob: &[u8]) -> Result<Blocks, &'static str> {
    let header = |at| word(blob, at).ok_or("no header");
    if header(0)? != MAGIC as usize {
        return Err("no magic");
    }
    // Version 17 is the first that says how long the structure is; all later ones so far are compatible with 16.
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

/// The token at `at`, and where the next one is, which may be past the end.
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

/// The bytes from `at` on up to a NUL.
#[must_use]
pub fn name(blob: &[u8], at: usize) -> Option<&[u8]> {
    let rest = blob.get(at..)?;
    Some(&rest[..rest.iter().position(|&byte| byte == 0)?])
}

/// The big-endian word at `at`.
#[must_use]
pub fn word(blob: &[u8], at: usize) -> Option<usize> {
    blob.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize)
}

/// The header of a blob whose blocks follow it in this order: reservations, structure, strings, where these two begin, and where all ends. It says
/// version 17, which version 16's readers understand.
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

/// The boot CPU's number in a blob's header.
#[must_use]
pub fn boot_cpu(blob: &[u8]) -> usize {
    word(blob, 28).unwrap_or_default()
}

/// The size that a blob gives itself, or `None` where its first 8 bytes are no blob's.
#[must_use]
pub fn size(start: &[u8]) -> Option<usize> {
    word(start, 0).filter(|&magic| magic == MAGIC as usize).and(word(start, 4))
}

/// Where the structure that starts at `at` really ends: behind its token for that.
fn end_of_structure(blob: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let (token, next) = token(blob, at)?;
        if token == token::END {
            return Some(next);
        }
        at = next;
    }
}
