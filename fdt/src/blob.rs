//! FDT blobs: header, blocks and tokens (Devicetree specification, chapter 5).
//!
//! [`Blob::new`] accepts any bytes, and refuses those that could not be copied token by token, with
//! a reason. To read a blob as a tree of nodes, use [`node`](crate::node).

use core::ops::Range;

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 40;

/// Offset of a property's value in its event's bytes: after the token, the size and the name's
/// offset.
pub const VALUE_AT: usize = 12;

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

/// A blob whose header, blocks, tokens and names are sound.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "dtb")]
pub struct Blob<'a> {
    bytes: &'a [u8],
    /// Offset of the structure block.
    start: usize,
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [[u8; 16]],
}

impl<'a> Blob<'a> {
    /// Finds the blocks of a blob, and checks them.
    ///
    /// # Errors
    ///
    /// Refuses a blob in which
    ///
    /// - the header is missing, or has a version that we do not know;
    /// - a block passes the blob's end;
    /// - the memory reservations have no end;
    /// - the tokens continue past the size that the header gives their block;
    /// - nodes do not nest;
    /// - a property's name is outside the strings block;
    /// - the strings block does not end in NUL. Its names may be any bytes: a name that is not
    ///   UTF-8 is one that we do not know.
    pub fn new(bytes: &'a [u8]) -> Result<Self, &'static str> {
        const NO_END: &str = "memory reservations without an end";
        let header = |at| word(bytes, at).ok_or("no header");
        if header(0)? != MAGIC as usize {
            return Err("no magic");
        }
        // Version 17 is the first whose header has the structure block's size. All versions since
        // are compatible with 16.
        if header(20)? < 17 || header(24)? > 17 {
            return Err("a version that is not known");
        }
        let (start, size) = (header(8)?, header(36)?);
        let block = |start: usize, size| bytes.get(start..start + size);
        let structure = block(start, size).ok_or("blocks past the end")?;
        let strings = block(header(12)?, header(32)?).ok_or("blocks past the end")?;
        let pairs = bytes.get(header(16)?..).ok_or(NO_END)?.as_chunks().0;
        let count = pairs.iter().position(|pair| *pair == [0; 16]).ok_or(NO_END)?;
        let blob = Self { bytes, start, structure, strings, reservations: &pairs[..count] };
        if !matches!(strings, [] | [.., 0]) {
            return Err("strings that do not end in NUL");
        }
        let mut events = blob.events();
        while events.step()?.is_some() {}
        Ok(blob)
    }

    /// Returns the nodes' begins and ends, and their properties, in the blob's order.
    #[must_use]
    pub fn events(&self) -> Events<'a> {
        Events { blob: *self, at: 0, depth: 0, child: &[] }
    }

    /// Returns the bytes of an event of this blob, with name and padding.
    #[must_use]
    pub fn bytes(&self, event: &Event<'_>) -> &'a [u8] {
        &self.bytes[event.range.clone()]
    }

    /// Returns the memory reservations: pairs of an address and a size, without the pair of zeroes
    /// that ends them.
    #[must_use]
    #[doc(alias = "memreserve")]
    pub fn reservations(&self) -> &'a [[u8; 16]] {
        self.reservations
    }

    /// Returns the strings block: the names of properties, each with its NUL.
    #[must_use]
    pub fn strings(&self) -> &'a [u8] {
        self.strings
    }

    /// Returns the boot CPU's number.
    #[must_use]
    pub fn boot_cpu(&self) -> usize {
        word(self.bytes, 28).unwrap_or_default()
    }
}

/// A node's begin or end, or a property.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// The kind of event.
    pub kind: Kind<'a>,
    /// Depth of the node: 1 for the root.
    pub depth: usize,
    /// Name of the root's child that the event belongs to, at any depth. Empty for the root.
    pub child: &'a [u8],
    /// The bytes of the token, its name or value, and its padding in the blob.
    pub range: Range<usize>,
}

impl Event<'_> {
    /// Returns whether the event belongs to /chosen itself, and not to a node in it.
    #[must_use]
    pub fn is_of_chosen(&self) -> bool {
        self.depth == 2 && self.child == b"chosen"
    }
}

/// The kind of an [`Event`].
#[derive(Clone, Debug)]
pub enum Kind<'a> {
    /// A node begins.
    Begin,
    /// A node ends.
    End,
    /// A property. Its value is [`VALUE_AT`] bytes after the event's first.
    Property {
        /// Its name, without the NUL.
        name: &'a [u8],
        /// Its value, without padding.
        value: &'a [u8],
    },
}

/// Iterator over the events of a blob. It skips NOPs.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    blob: Blob<'a>,
    /// Offset of the next token in the structure block.
    at: usize,
    /// Number of nodes that have begun and not ended.
    depth: usize,
    child: &'a [u8],
}

impl<'a> Events<'a> {
    /// Returns the blob that the events are of.
    pub(crate) const fn blob(&self) -> &Blob<'a> {
        &self.blob
    }

    /// Reads the next event. Returns `None` at the END token.
    fn step(&mut self) -> Result<Option<Event<'a>>, &'static str> {
        const PASSES: &str = "a structure that passes its block";
        let structure = self.blob.structure;
        loop {
            let at = self.at;
            let (token, next) = token(structure, at).ok_or(PASSES)?;
            let bytes = structure.get(at..next).ok_or(PASSES)?;
            let mut depth = self.depth;
            let kind = match token {
                token::BEGIN_NODE => {
                    depth += 1;
                    self.depth = depth;
                    if depth == 2 {
                        self.child = name(bytes, 4).ok_or(PASSES)?;
                    }
                    Kind::Begin
                }
                token::END_NODE => {
                    self.depth = depth.checked_sub(1).ok_or("a node that ends twice")?;
                    Kind::End
                }
                token::PROP => {
                    let [size, name_at] = [4, 8].map(|at| word(bytes, at).unwrap_or_default());
                    let name = name(self.blob.strings, name_at);
                    let name = name.ok_or("a name outside the strings")?;
                    Kind::Property { name, value: &bytes[VALUE_AT..VALUE_AT + size] }
                }
                token::END if depth == 0 => return Ok(None),
                token::END => return Err("a node without an end"),
                _ => {
                    self.at = next;
                    continue;
                }
            };
            self.at = next;
            let child = if depth > 1 { self.child } else { &[] };
            let range = self.blob.start + at..self.blob.start + next;
            return Ok(Some(Event { kind, depth, child, range }));
        }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        // `Blob::new` has made every step once.
        self.step().ok().flatten()
    }
}

/// Returns the token at `at`, and the offset of the next one, which may be past the end.
fn token(blob: &[u8], at: usize) -> Option<(u32, usize)> {
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
fn name(blob: &[u8], at: usize) -> Option<&[u8]> {
    let rest = blob.get(at..)?;
    Some(&rest[..rest.iter().position(|&byte| byte == 0)?])
}

/// Reads the big-endian word at `at`.
pub(crate) fn word(blob: &[u8], at: usize) -> Option<usize> {
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

/// Returns the size that a blob's header gives, or `None` if `start` does not begin a blob.
#[must_use]
pub fn size(start: &[u8]) -> Option<usize> {
    word(start, 0).filter(|&magic| magic == MAGIC as usize).and(word(start, 4))
}

#[cfg(test)]
mod tests;
