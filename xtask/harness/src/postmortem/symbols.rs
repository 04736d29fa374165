//! Symbols for addresses: the copy of the kernel that an address is in, and the symbol there.
//!
//! The kernel is linked at 0 and runs in any 2 MiB slot. An older copy may still be in memory, and
//! the relocation code runs from a page of its own. So an address may have several candidates.
//! Memory decides: the best one is the place whose bytes in the ELF match most of the memory around
//! the address. Patched or half overwritten code is still recognised, and reported as different.

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result};
use boot::{
    image::{BASE_ALIGNMENT, MAGIC, MAGIC_AT},
    phys::PAGE_SIZE,
};
use object::{Object, ObjectSegment, ObjectSymbol, SymbolKind};

/// Code that runs from a copy: its label, and the symbols that enclose it, on whole pages.
const MOVED: &[(&str, &str, &str)] =
    &[("control page", "relocate_page_start", "relocate_page_end")];

/// Reads physical memory: address, size. `None` if it cannot be read.
pub type Memory<'a> = dyn FnMut(u64, u64) -> Option<Vec<u8>> + 'a;

/// The kernel's symbols and bytes as linked, at 0.
#[derive(Default)]
pub struct Symbols {
    /// Sorted by address. Functions come first among the names of one address, and the first name
    /// is used.
    names: Vec<(u64, String)>,
    segments: Vec<(u64, Vec<u8>)>,
    size: u64,
}

/// The place of an address: a copy of the kernel and a symbol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The label of moved code, or `None` for the Image itself.
    moved: Option<&'static str>,
    /// The start of the Image, or of the moved page.
    pub base: u64,
    /// `symbol+0xoffset`.
    pub name: String,
    /// Number of words of the surrounding page that equal the ELF's, and number of all its words.
    alike: (usize, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.moved {
            Some(moved) => write!(f, "{moved}: {} (page {:#x})", self.name, self.base)?,
            None => write!(f, "{} (base {:#x})", self.name, self.base)?,
        }
        match self.alike {
            (alike, all) if alike == all => Ok(()),
            (alike, all) => {
                write!(f, ", {} of the {all} words around it differ from the ELF", all - alike)
            }
        }
    }
}

impl Symbols {
    /// Reads the symbols of an ELF file.
    pub fn read(elf: &Path) -> Result<Self> {
        let bytes = fs::read(elf).with_context(|| format!("{}", elf.display()))?;
        let file =
            object::File::parse(bytes.as_slice()).with_context(|| format!("{}", elf.display()))?;
        let mut names: Vec<(u64, bool, String)> = Vec::new();
        for symbol in file
            .symbols()
            .filter(|symbol| symbol.is_definition() && symbol.section_index().is_some())
        {
            let name = symbol.name().unwrap_or_default();
            // Skip the assembler's `$x` and `$d` and the compiler's `.L…`.
            let known = matches!(
                symbol.kind(),
                SymbolKind::Text | SymbolKind::Data | SymbolKind::Label | SymbolKind::Unknown
            );
            if known && !name.is_empty() && !name.starts_with(['$', '.']) {
                // The alternate form leaves out the hashes.
                let path = format!("{:#}", rustc_demangle::demangle(name));
                names.push((symbol.address(), symbol.kind() != SymbolKind::Text, path));
            }
        }
        names.sort();
        let names = names.into_iter().map(|(address, _, name)| (address, name)).collect();
        let segments = file
            .segments()
            .map(|segment| Ok((segment.address(), segment.data()?.to_vec())))
            .collect::<Result<_>>()?;
        let size = file
            .segments()
            .map(|segment| segment.address() + segment.size())
            .max()
            .unwrap_or_default();
        Ok(Self { names, segments, size })
    }

    /// Returns `symbol+0xoffset` for a link address, or `None` outside the image.
    pub fn name(&self, address: u64) -> Option<String> {
        let after = self.names.partition_point(|&(start, _)| start <= address);
        let nearest = self.names[..after].last()?.0;
        let (start, name) = self.names.iter().find(|&&(start, _)| start == nearest)?;
        let inside = address < self.size;
        inside.then(|| {
            if address == *start { name.clone() } else { format!("{name}+{:#x}", address - start) }
        })
    }

    /// Returns the link address of a symbol.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.names.iter().find(|(_, known)| known == name).map(|&(address, _)| address)
    }

    /// Finds the place of `address`.
    ///
    /// `bases` are the addresses at which copies of the kernel are known to have run. It looks for
    /// the headers of further copies in the slots from which they would reach `address`.
    pub fn place(&self, address: u64, bases: &[u64], memory: &mut Memory<'_>) -> Option<Place> {
        let slots = (0..=self.size.div_ceil(BASE_ALIGNMENT))
            .filter_map(|n| (address & !(BASE_ALIGNMENT - 1)).checked_sub(n * BASE_ALIGNMENT));
        let headed: Vec<u64> = slots
            .filter(|&slot| {
                memory(slot + MAGIC_AT as u64, 4).is_some_and(|bytes| bytes == MAGIC.to_le_bytes())
            })
            .collect();
        let images = bases.iter().copied().chain(headed);
        let images = images.filter_map(|base| {
            Some((None, base, address.checked_sub(base).filter(|&at| at < self.size)?))
        });

        let page = address & !(PAGE_SIZE - 1);
        let moved = MOVED.iter().filter_map(|&(what, start, end)| {
            Some((what, self.address(start)?..self.address(end)?))
        });
        let pages = moved.flat_map(|(what, linked)| {
            let offsets = (0..linked.end - linked.start).step_by(PAGE_SIZE as usize);
            offsets.filter_map(move |at| {
                Some((Some(what), page.checked_sub(at)?, linked.start + at + address - page))
            })
        });

        let mut best: Option<(usize, Place)> = None;
        let found = memory(page, PAGE_SIZE);
        for (moved, base, linked) in images.chain(pages) {
            let Some(name) = self.name(linked) else { continue };
            let (alike, all) = found
                .as_ref()
                .map_or((0, 0), |found| likeness(&self.bytes(linked & !(PAGE_SIZE - 1)), found));
            let score = alike * 1000 / all.max(1);
            // An Image's base was printed or found by its header. A moved page has only its bytes
            // to match.
            let believed = moved.is_none() || score >= 500;
            if believed && best.as_ref().is_none_or(|&(best, _)| score > best) {
                best = Some((score, Place { moved, base, name, alike: (alike, all) }));
            }
        }
        best.map(|(_, place)| place)
    }

    /// Returns the page at link address `address` from the file; bytes outside all segments are
    /// zero.
    fn bytes(&self, address: u64) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE as usize];
        for (start, data) in &self.segments {
            let from = address.max(*start);
            let to = (address + PAGE_SIZE).min(start + data.len() as u64);
            if from < to {
                let source = &data[(from - start) as usize..(to - start) as usize];
                page[(from - address) as usize..(to - address) as usize].copy_from_slice(source);
            }
        }
        page
    }

    /// Makes symbols without a file, for an image of 64 KiB.
    #[cfg(test)]
    pub fn from_names(names: &[(u64, &str)]) -> Self {
        let names = names.iter().map(|&(address, name)| (address, name.to_owned())).collect();
        Self { names, segments: Vec::new(), size: 0x1_0000 }
    }
}

/// Returns how many 32-bit words of `linked` are the same in `found`, and how many there are.
///
/// It skips zeros, which are padding.
fn likeness(linked: &[u8], found: &[u8]) -> (usize, usize) {
    let words = linked
        .chunks(4)
        .zip(found.chunks(4))
        .filter(|(linked, _)| linked.iter().any(|&byte| byte != 0));
    words.fold((0, 0), |(alike, all), (linked, found)| {
        (alike + usize::from(linked == found), all + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u64 = 0x4020_0000;
    const CONTROL: u64 = 0x4800_3000;

    /// Makes an image of three pages: header, code at 0x1000, the relocation code at 0x2000. Each
    /// word is its own address plus 1.
    fn symbols() -> Symbols {
        let mut image: Vec<u8> =
            (0..0x3000_u32 / 4).flat_map(|word| (word * 4 + 1).to_le_bytes()).collect();
        image[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(&MAGIC.to_le_bytes());
        let names = [
            (0x1000, "el2_setup"),
            (0x2000, "relocate_page_start"),
            (0x2004, "relocate_copy"),
            (0x3000, "relocate_page_end"),
        ];
        Symbols { segments: vec![(0, image)], ..Symbols::from_names(&names) }
    }

    /// Makes memory that holds copies of the image: each begins at an address, from an offset in
    /// the image.
    fn memory(copies: &[(u64, u64)]) -> impl FnMut(u64, u64) -> Option<Vec<u8>> {
        let image = symbols().segments[0].1.clone();
        let copies = copies.to_vec();
        move |address, size| {
            let byte = |at: u64| {
                let held = copies
                    .iter()
                    .find_map(|&(start, from)| image.get((at.checked_sub(start)? + from) as usize));
                held.copied().unwrap_or_default()
            };
            (address >= 0x4000_0000).then(|| (address..address + size).map(byte).collect())
        }
    }

    #[test]
    fn a_copy_is_found_by_its_header() {
        let place = symbols().place(RUN + 0x101c, &[], &mut memory(&[(RUN, 0)])).unwrap();
        assert_eq!(place.to_string(), "el2_setup+0x1c (base 0x40200000)");
    }

    #[test]
    fn a_copy_without_a_header_is_found_by_the_base_that_it_printed() {
        let mut memory = memory(&[(RUN + 0x1000, 0x1000)]);
        assert_eq!(symbols().place(RUN + 0x1000, &[], &mut memory), None);
        let place = symbols().place(RUN + 0x1000, &[0x4060_0000, RUN], &mut memory).unwrap();
        assert_eq!(place.to_string(), "el2_setup (base 0x40200000)");
    }

    #[test]
    fn moved_code_is_known_by_its_bytes_at_any_address() {
        let place = symbols()
            .place(CONTROL + 0x38, &[RUN], &mut memory(&[(RUN, 0), (CONTROL, 0x2000)]))
            .unwrap();
        assert_eq!(place.to_string(), "control page: relocate_copy+0x34 (page 0x48003000)");
        // Inside an image, the same bytes belong to the image.
        let place = symbols().place(RUN + 0x2038, &[], &mut memory(&[(RUN, 0)])).unwrap();
        assert_eq!(place.to_string(), "relocate_copy+0x34 (base 0x40200000)");
    }

    #[test]
    fn what_was_patched_is_recognised_and_said_to_differ() {
        let mut memory = memory(&[(CONTROL, 0x2000)]);
        let mut patched = |address: u64, size: u64| {
            let mut bytes = memory(address, size)?;
            if address == CONTROL {
                bytes[0x38..0x3c].copy_from_slice(&0x1400_0000_u32.to_le_bytes());
            }
            Some(bytes)
        };
        let place = symbols().place(CONTROL + 0x38, &[], &mut patched).unwrap();
        assert_eq!(
            place.to_string(),
            "control page: relocate_copy+0x34 (page 0x48003000), \
             1 of the 1024 words around it differ from the ELF"
        );
    }

    #[test]
    fn elsewhere_has_no_name() {
        assert_eq!(symbols().place(0x4900_0000, &[RUN], &mut memory(&[(RUN, 0)])), None);
        assert_eq!(symbols().place(0x200, &[RUN], &mut memory(&[(RUN, 0)])), None);
        assert_eq!(symbols().name(0x1_0000), None);
    }
}
