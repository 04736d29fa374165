//! The copier of device trees: writes a blob anew, with edits, into memory that the caller gives.
//!
//! - [`write()`] allocates nothing, because the EFI loader has no heap.
//! - Keeps everything that the [`Edits`] do not name, in its order: nodes, properties, memory
//!   reservations, and the boot CPU. Only padding and NOPs are left out.
//! - Refuses a copy that does not fit, and RAM that the root's cells cannot express.

use crate::blob::{self, Blob, HEADER_BYTES, Kind, token};
use alloc::vec;
use alloc::vec::Vec;
use boot::phys::{PhysAddr, PhysRange};
use core::fmt::{self, Write};
use core::ops::Range;

/// Edits to make in a copy. By default there are none.
#[derive(Clone, Default)]
pub struct Edits<'a> {
    /// All RAM: one memory node with these ranges replaces all memory nodes.
    pub memory: Option<Ranges<'a>>,
    /// New properties of /chosen. If the tree has no /chosen, it gets one.
    pub chosen: Option<Chosen<'a>>,
    /// Changes of the memory reservations.
    pub reservations: Option<Reservations>,
}

/// Calls its argument for each range of RAM.
pub type Ranges<'a> = &'a dyn Fn(&mut dyn FnMut(Range<PhysAddr>));

/// Edits of /chosen.
#[derive(Clone, Copy)]
pub struct Chosen<'a> {
    /// Properties that /chosen begins with. Old ones with these names are left out.
    pub new: &'a [(&'a str, Value<'a>)],
    /// Returns whether the old property with this name is left out as well.
    pub is_stale: fn(&[u8]) -> bool,
}

/// Value of a new property.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// A number in two cells.
    Number(u64),
    /// Bytes as they are.
    Bytes(&'a [u8]),
    /// Text; a NUL is added.
    Text(&'a dyn fmt::Display),
}

/// Changes of the memory reservations.
#[derive(Clone, Debug)]
#[doc(alias = "memreserve")]
pub struct Reservations {
    /// Old reservations within this range are left out.
    pub old: Range<PhysAddr>,
    /// New reservation.
    pub new: Option<Range<PhysAddr>>,
}

/// Reason why no copy could be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The blob is damaged, or not of a version that we know.
    #[error("the device tree is damaged: {0}")]
    Damaged(&'static str),
    /// The copy does not fit into the buffer, whose size this is.
    #[error("the device tree does not fit into {0} bytes")]
    TooLarge(usize),
    /// The root's cells cannot express this address or size of RAM.
    #[error("the device tree's root has no cells for {0:#x}")]
    Cells(u64),
}

/// Copies `from` into `to` with `edits`, and returns the copy's size.
///
/// # Errors
///
/// Returns [`Error`] if the copy does not fit, or if an edit cannot be expressed in this tree. The
/// contents of `to` are then worthless.
pub fn write(from: &Blob<'_>, edits: &Edits<'_>, to: &mut [u8]) -> Result<usize, Error> {
    let room = to.len();
    let size = copy(from, edits, to)?;
    if size > room { Err(Error::TooLarge(room)) } else { Ok(size) }
}

/// Copies `from` with `edits` onto the heap.
///
/// # Errors
///
/// Returns [`Error`] if an edit cannot be expressed in this tree.
pub fn to_vec(from: &Blob<'_>, edits: &Edits<'_>) -> Result<Vec<u8>, Error> {
    let mut to = vec![0; copy(from, edits, &mut [])?];
    copy(from, edits, &mut to)?;
    Ok(to)
}

/// Writes as much of the copy as fits into `to`, and returns the size of all of it.
fn copy(blob: &Blob<'_>, edits: &Edits<'_>, to: &mut [u8]) -> Result<usize, Error> {
    let mut writer = Writer { strings: blob.strings(), edits, to, at: HEADER_BYTES };
    writer.reservations(blob.reservations());

    let structure = writer.at;
    let mut cells = Cells::DEFAULT;
    // Taken when it is written: only the first /chosen gets the new properties.
    let mut chosen = edits.chosen;
    for event in blob.events() {
        if edits.memory.is_some() && is_memory(event.child) {
            continue;
        }
        match event.kind {
            Kind::Property { name, value } => {
                if event.depth == 1 && edits.memory.is_some() {
                    cells.read(name, value)?;
                }
                if event.is_of_chosen() && is_left_out(edits.chosen.as_ref(), name) {
                    continue;
                }
                writer.put(blob.bytes(&event));
            }
            Kind::Begin => {
                writer.put(blob.bytes(&event));
                if event.is_of_chosen()
                    && let Some(chosen) = chosen.take()
                {
                    writer.properties(chosen.new);
                }
            }
            Kind::End => {
                if event.depth == 1 {
                    if let Some(chosen) = chosen.take() {
                        writer.begin_node(b"chosen\0\0");
                        writer.properties(chosen.new);
                        writer.word(token::END_NODE);
                    }
                    if let Some(ranges) = edits.memory {
                        writer.memory(cells, ranges)?;
                    }
                }
                writer.put(blob.bytes(&event));
            }
        }
    }
    writer.word(token::END);

    let strings = writer.at;
    writer.put(blob.strings());
    for name in new_names(edits, blob.strings()) {
        writer.put(name.as_bytes());
        writer.put(&[0]);
    }
    let size = writer.at;
    writer.at = 0;
    writer.put(&blob::header(structure, strings, size, blob.boot_cpu()));
    Ok(size)
}

fn is_memory(child: &[u8]) -> bool {
    child.split(|&byte| byte == b'@').next() == Some(b"memory")
}

/// Returns whether the old property `name` of /chosen is left out.
///
/// Not inlined, so that a test can find it by name and have it keep every property.
#[inline(never)]
fn is_left_out(chosen: Option<&Chosen<'_>>, name: &[u8]) -> bool {
    chosen.is_some_and(|chosen| {
        chosen.new.iter().any(|(new, _)| new.as_bytes() == name) || (chosen.is_stale)(name)
    })
}

const DEVICE_TYPE: &str = "device_type";
const REG: &str = "reg";

/// Returns the names of new properties that the old strings lack, in the order in which they are
/// appended.
fn new_names<'a>(edits: &Edits<'a>, strings: &[u8]) -> impl Iterator<Item = &'a str> {
    let chosen = edits.chosen.map_or(&[][..], |chosen| chosen.new);
    let memory = edits.memory.map_or(&[][..], |_| &[DEVICE_TYPE, REG]);
    let names = chosen.iter().map(|(name, _)| *name).chain(memory.iter().copied());
    names.filter(|name| offset(strings, name).is_none())
}

/// Returns where `name` is in the old strings, alone or as the end of another one.
fn offset(strings: &[u8], name: &str) -> Option<usize> {
    let is_here = |at: &usize| strings[*at..].strip_prefix(name.as_bytes()).is_some_and(is_ended);
    (0..strings.len()).find(is_here)
}

fn is_ended(rest: &[u8]) -> bool {
    rest.first() == Some(&0)
}

/// Number of 32-bit cells that an address and a size take in the root's children.
#[derive(Clone, Copy)]
struct Cells {
    address: u32,
    size: u32,
}

impl Cells {
    /// Values if the root does not give any (Devicetree specification 2.3.5).
    const DEFAULT: Self = Self { address: 2, size: 1 };

    fn read(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        let cells = match name {
            b"#address-cells" => &mut self.address,
            b"#size-cells" => &mut self.size,
            _ => return Ok(()),
        };
        *cells = match value {
            [0, 0, 0, count @ 1..=2] => (*count).into(),
            _ => return Err(Error::Damaged("cells that are neither one nor two")),
        };
        Ok(())
    }
}

/// Blob being written. Bytes that do not fit are only counted, so that only the end must check.
struct Writer<'a> {
    /// Strings block of the old blob.
    strings: &'a [u8],
    edits: &'a Edits<'a>,
    to: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.at.saturating_add(bytes.len());
        if let Some(to) = self.to.get_mut(self.at..end) {
            to.copy_from_slice(bytes);
        }
        self.at = end;
    }

    #[inline(never)]
    fn word(&mut self, word: u32) {
        self.put(&word.to_be_bytes());
    }

    fn number(&mut self, number: u64) {
        self.put(&number.to_be_bytes());
    }

    fn begin_node(&mut self, padded_name: &[u8]) {
        self.word(token::BEGIN_NODE);
        self.put(padded_name);
    }

    /// Writes the memory reservations, with the pair of zeroes that ends them.
    fn reservations(&mut self, old: &[[u8; 16]]) {
        let edit = self.edits.reservations.as_ref();
        for pair in old {
            let both = u128::from_be_bytes(*pair);
            let (start, size) = ((both >> 64) as u64, both as u64);
            let is_within = |range: &Range<PhysAddr>| {
                start >= range.start.get() && start.saturating_add(size) <= range.end.get()
            };
            if !edit.is_some_and(|edit| is_within(&edit.old)) {
                self.put(pair);
            }
        }
        if let Some(new) = edit.and_then(|edit| edit.new.as_ref()) {
            self.number(new.start.get());
            self.number(new.bytes());
        }
        self.put(&[0; 16]);
    }

    fn properties(&mut self, new: &[(&str, Value<'_>)]) {
        for (name, value) in new {
            self.property(name, |writer| match value {
                Value::Number(number) => writer.number(*number),
                Value::Bytes(bytes) => writer.put(bytes),
                Value::Text(text) => {
                    // `write_str` never fails.
                    let _ = write!(writer, "{text}\0");
                }
            });
        }
    }

    /// Writes a property whose size is known only once its value is written.
    fn property(&mut self, name: &str, value: impl FnOnce(&mut Self)) {
        let name = self.name(name);
        self.word(token::PROP);
        let size = self.at;
        self.word(0);
        self.word(name);
        let start = self.at;
        value(self);
        let end = core::mem::replace(&mut self.at, size);
        self.word((end - start) as u32);
        self.at = end;
        self.put(&[0; 3][..end.next_multiple_of(4) - end]);
    }

    /// Returns the offset of a new property's name in the copy's strings block.
    fn name(&self, name: &str) -> u32 {
        let offset = offset(self.strings, name).unwrap_or_else(|| {
            let before = new_names(self.edits, self.strings).take_while(|new| *new != name);
            self.strings.len() + before.map(|name| name.len() + 1).sum::<usize>()
        });
        offset as u32
    }

    /// Writes the memory node.
    fn memory(&mut self, cells: Cells, ranges: Ranges<'_>) -> Result<(), Error> {
        let mut result = Ok(());
        self.begin_node(b"memory\0\0");
        self.property(DEVICE_TYPE, |writer| writer.put(b"memory\0"));
        self.property(REG, |writer| {
            ranges(&mut |range| {
                for (number, cells) in
                    [(range.start.get(), cells.address), (range.bytes(), cells.size)]
                {
                    if cells == 2 {
                        writer.number(number);
                    } else {
                        writer.word(u32::try_from(number).unwrap_or_else(|_| {
                            result = Err(Error::Cells(number));
                            0
                        }));
                    }
                }
            });
        });
        self.word(token::END_NODE);
        result
    }
}

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
