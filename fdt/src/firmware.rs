//! New device tree for the kernel: the firmware's, with RAM and bootargs replaced.
//!
//! - Written each time the loader has read the memory map, before it leaves boot services.
//! - The input is any bytes that claim to be a blob.
//! - The result is a blob without padding, in the buffer that the caller gives.
//! - [`write()`] refuses an invalid tree by [`Error`]; the buffer's contents are then worthless.
//!
//! Under UEFI the memory map counts, and the memory nodes do not (Devicetree specification 0.4,
//! 3.4). But our kernel learns of RAM from the device tree alone. So the loader replaces all memory
//! nodes by one, which lists the RAM that the map leaves to a kernel. Memory that the firmware
//! keeps is then not RAM at all, instead of reserved RAM; the kernel does not even map it.
//!
//! - A range's NUMA node is lost; this kernel has no use for it.
//! - Linux's `linux,uefi-*` properties are not written. They say that Linux's own stub started
//!   it, and make Linux look for the memory map and the runtime services.

use crate::blob::{self, HEADER_BYTES, token};
use boot::phys::{PhysAddr, PhysRange};
use core::fmt;
use core::ops::Range;

/// Names that the strings block may lack; they are always appended.
const NAMES: &[u8] = b"bootargs\0device_type\0reg\0";
const BOOTARGS: u32 = 0;
const DEVICE_TYPE: u32 = 9;
const REG: u32 = 21;

/// Reason why no tree could be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Error {
    /// The blob is damaged, or not of a version that we know.
    Damaged(&'static str),
    /// The tree does not fit into the buffer, whose size this is.
    TooLarge(usize),
    /// The root's cells cannot express this address or size.
    Cells(u64),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => write!(f, "the firmware's device tree is damaged: {what}"),
            Self::TooLarge(room) => write!(f, "the device tree does not fit into {room} bytes"),
            Self::Cells(value) => write!(f, "the device tree's root has no cells for {value:#x}"),
        }
    }
}

/// Writes `from` into `to`, with `ram` as its only memory, and returns the size.
///
/// `bootargs`, if any, replace those of `from`.
///
/// # Errors
///
/// Returns [`Error`] if `from` is not a valid tree or the result does not fit.
pub fn write(
    from: &[u8],
    ram: impl Iterator<Item = Range<PhysAddr>> + Clone,
    mut bootargs: Option<impl Iterator<Item = char>>,
    to: &mut [u8],
) -> Result<usize, Error> {
    let blocks = blob::blocks(from).map_err(Error::Damaged)?;
    let old_strings = &from[blocks.strings];
    let mut out = Out { to, at: HEADER_BYTES };

    // The memory reservations, with the pair of zeroes that ends them.
    let reservations = from.get(blocks.reservations..).unwrap_or_default();
    let pairs = reservations.chunks_exact(16).position(|pair| pair == [0; 16]);
    let pairs = pairs.ok_or(Error::Damaged("reservations without an end"))?;
    out.put(&reservations[..16 * (pairs + 1)]);
    let structure = out.at;
    let names = old_strings.len() as u32;
    let mut root = Cells::DEFAULT;
    // `depth` is the depth of the walk, 0 outside the root. `left_out` is the depth of a node that
    // is being left out.
    let (mut depth, mut left_out, mut replaces) = (0_usize, None, false);
    let mut at = blocks.structure.start;
    loop {
        const CUT: Error = Error::Damaged("a structure that is cut off");
        let (token, next) = blob::token(from, at).ok_or(CUT)?;
        let bytes = from.get(at..next).ok_or(CUT)?;
        match token {
            token::BEGIN_NODE => {
                depth += 1;
                let name = blob::name(from, at + 4).ok_or(CUT)?;
                if depth == 2 && matches!(name.split(|&byte| byte == b'@').next(), Some(b"memory"))
                {
                    left_out = left_out.or(Some(depth));
                }
                if left_out.is_none() {
                    out.put(bytes);
                }
                // If there are new bootargs, drop the old ones of /chosen from here on.
                replaces = false;
                if depth == 2
                    && name == b"chosen"
                    && let Some(words) = bootargs.take()
                {
                    out.bootargs(names, words);
                    replaces = true;
                }
            }
            token::END_NODE => {
                if depth == 1 {
                    if let Some(words) = bootargs.take() {
                        out.begin_node(b"chosen\0\0");
                        out.bootargs(names, words);
                        out.word(token::END_NODE);
                    }
                    out.memory(names, root, ram.clone())?;
                }
                if left_out.is_none() {
                    out.put(bytes);
                }
                left_out = left_out.filter(|&at| at != depth);
                depth = depth.checked_sub(1).ok_or(Error::Damaged("a node that ends twice"))?;
                replaces = false;
            }
            token::PROP => {
                let [size, name] =
                    [at + 4, at + 8].map(|at| blob::word(from, at).unwrap_or_default());
                let name = blob::name(old_strings, name)
                    .ok_or(Error::Damaged("a name outside the strings"))?;
                if depth == 1 {
                    root.read(name, &bytes[12..12 + size])?;
                }
                if left_out.is_none() && !(replaces && name == b"bootargs") {
                    out.put(bytes);
                }
            }
            token::END => break,
            _ => {}
        }
        at = next;
    }
    if depth != 0 {
        return Err(Error::Damaged("a node without an end"));
    }
    out.word(token::END);
    let strings = out.at;
    out.put(old_strings);
    out.put(NAMES);
    let size = out.at;
    if size > out.to.len() {
        return Err(Error::TooLarge(out.to.len()));
    }

    out.at = 0;
    out.put(&blob::header(structure, strings, size, blob::boot_cpu(from)));
    Ok(size)
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
struct Out<'a> {
    to: &'a mut [u8],
    at: usize,
}

impl Out<'_> {
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

    fn begin_node(&mut self, padded_name: &[u8]) {
        self.word(token::BEGIN_NODE);
        self.put(padded_name);
    }

    /// Writes a property whose size is known only once its value is written.
    fn property(&mut self, name: u32, value: impl FnOnce(&mut Self)) {
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

    fn bootargs(&mut self, names: u32, words: impl Iterator<Item = char>) {
        self.property(names + BOOTARGS, |out| {
            words.for_each(|character| out.put(character.encode_utf8(&mut [0; 4]).as_bytes()));
            out.put(&[0]);
        });
    }

    fn memory(
        &mut self,
        names: u32,
        cells: Cells,
        ram: impl Iterator<Item = Range<PhysAddr>>,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        self.begin_node(b"memory\0\0");
        self.property(names + DEVICE_TYPE, |out| out.put(b"memory\0"));
        self.property(names + REG, |out| {
            for range in ram {
                for (number, cells) in [(range.start.0, cells.address), (range.bytes(), cells.size)]
                {
                    if cells == 2 {
                        out.put(&number.to_be_bytes());
                    } else {
                        out.word(u32::try_from(number).unwrap_or_else(|_| {
                            result = Err(Error::Cells(number));
                            0
                        }));
                    }
                }
            }
        });
        self.word(token::END_NODE);
        result
    }
}

#[cfg(test)]
mod tests;
