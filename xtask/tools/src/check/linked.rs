//! The linked kernel as plain values, which the checks read and their tests can change.
//!
//! All addresses are link addresses, based at 0. Refuses an ELF without symbols, and everything
//! that `kernel_build` refuses.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use object::{
    Endianness, Object, ObjectSection, ObjectSymbol,
    elf::{ProgramFlags, ProgramType, SHF_ALLOC, SectionType},
    read::elf::{ElfFile64, ProgramHeader, SectionHeader},
};

use harness::kernel_build;

/// The linker's output.
#[derive(Clone, Debug, Default)]
pub struct Linked {
    /// Sections that are loaded into memory.
    pub sections: Vec<Section>,
    /// Program headers: `p_type`, `p_flags`.
    pub segments: Vec<(ProgramType, ProgramFlags)>,
    /// Addresses by symbol name; the last of several local symbols with one name wins.
    pub symbols: BTreeMap<String, u64>,
    /// Names of undefined symbols.
    pub undefined: Vec<String>,
    /// Addresses where code (true) or data (false) begins: the mapping symbols of AAELF64.
    pub marks: BTreeMap<u64, bool>,
    /// The flat Image.
    pub image: Vec<u8>,
}

/// A section that is loaded into memory.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Name, including its dot.
    pub name: String,
    /// `sh_type`.
    pub kind: SectionType,
    /// Address of the first byte.
    pub address: u64,
    /// Size in memory, in bytes.
    pub size: u64,
}

impl Linked {
    /// Reads the kernel that was built last.
    pub fn read() -> Result<Self> {
        Self::of(&kernel_build::elf())
    }

    fn of(elf: &Path) -> Result<Self> {
        let mut linked = Self { image: kernel_build::read(elf)?.image, ..Self::default() };
        let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let file = ElfFile64::<Endianness>::parse(bytes.as_slice())?;
        let endian = file.endian();
        let headers = file.elf_program_headers().iter();
        linked.segments =
            headers.map(|header| (header.p_type(endian), header.p_flags(endian))).collect();
        let mut in_memory = HashSet::new();
        for section in file.sections() {
            let header = section.elf_section_header();
            if header.sh_flags(endian).contains(SHF_ALLOC) {
                in_memory.insert(section.index());
                let (name, kind) = (section.name()?.to_owned(), header.sh_type(endian));
                linked.sections.push(Section {
                    name,
                    kind,
                    address: section.address(),
                    size: section.size(),
                });
            }
        }
        for symbol in
            file.symbols().chain(file.dynamic_symbols()).filter(|symbol| symbol.name() != Ok(""))
        {
            let (name, address) = (symbol.name()?, symbol.address());
            if name.starts_with("$x") || name.starts_with("$d") {
                // Debug sections have mapping symbols too.
                if symbol.section_index().is_some_and(|section| in_memory.contains(&section)) {
                    linked.marks.insert(address, name.starts_with("$x"));
                }
            } else if symbol.is_undefined() {
                linked.undefined.push(name.to_owned());
            } else {
                linked.symbols.insert(name.to_owned(), address);
            }
        }
        ensure!(!linked.symbols.is_empty(), "{} has no symbols: was it stripped?", elf.display());
        Ok(linked)
    }

    /// Returns the address of a symbol.
    pub fn symbol(&self, name: &str) -> Result<u64, String> {
        self.symbols.get(name).copied().ok_or_else(|| format!("there is no symbol {name}"))
    }

    /// Returns the range from one symbol to another.
    pub fn range(&self, start: &str, end: &str) -> Result<Range<u64>, String> {
        let range = self.symbol(start)?..self.symbol(end)?;
        if range.start > range.end {
            return Err(format!("{start} ({:#x}) is above {end} ({:#x})", range.start, range.end));
        }
        Ok(range)
    }

    /// Returns the Image's bytes in that range.
    pub fn bytes(&self, range: &Range<u64>) -> Result<&[u8], String> {
        let held = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let held = held.and_then(|(start, end)| self.image.get(start..end));
        held.ok_or_else(|| format!("the Image does not hold {range:#x?}"))
    }

    /// Returns the 32-bit words of that range, code or data, each with its address.
    pub fn words(&self, range: &Range<u64>) -> Result<Vec<(u64, u32)>, String> {
        let (words, _) = self.bytes(range)?.as_chunks();
        Ok((range.start..).step_by(4).zip(words.iter().copied().map(u32::from_le_bytes)).collect())
    }

    /// Reports whether the address holds code, not data.
    pub fn is_code(&self, address: u64) -> bool {
        self.marks.range(..=address).next_back().is_some_and(|(_, &code)| code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let linked = Linked {
            symbols: [("a".to_owned(), 8), ("b".to_owned(), 4)].into(),
            ..Linked::default()
        };
        assert!(linked.symbol("fish").unwrap_err().contains("fish"));
        assert!(linked.range("a", "b").unwrap_err().contains("0x8"));
        assert!(linked.words(&(0..4)).unwrap_err().contains("0x4"));
    }

    #[test]
    fn marks_separate_code_from_data() {
        let linked =
            Linked { marks: [(4, true), (8, false), (16, true)].into(), ..Linked::default() };
        let code: Vec<_> = (0..5).map(|word| linked.is_code(4 * word)).collect();
        assert_eq!(code, [false, true, false, false, true]);
    }
}
