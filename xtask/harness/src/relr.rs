//! Relative relocations (RELR): parses them and applies them to the Image.
//!
//! Used to check the linked kernel, and to compare a generation's memory with what was built. The
//! encoding is the generic ABI's DT_RELR: an even entry is the address of one 64-bit word; an odd
//! entry is a bitmap of the 63 words after it. The base is added to each word that an entry names.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use object::{
    LittleEndian, Object, ObjectSection, elf::FileHeader64, pod, read::elf::RelrIterator,
};

/// Applies the relocations of `elf` to `image`, which was linked at 0, for the address `base`.
pub fn applied(elf: &Path, image: &[u8], base: u64) -> Result<Vec<u8>> {
    let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(bytes.as_slice())
        .with_context(|| format!("{} is not an ELF file", elf.display()))?;
    let relr = file
        .section_by_name(".relr.dyn")
        .context("the kernel has no .relr.dyn: is it position independent?")?;
    let places = places(relr.data()?)?;
    ensure!(!places.is_empty(), "the kernel has no relative relocations: nothing would be tested");
    let mut image = image.to_vec();
    for place in places {
        let at = usize::try_from(place)?;
        let word = image
            .get_mut(at..at + 8)
            .with_context(|| format!("RELR names {place:#x}, outside the Image"))?;
        let value = u64::from_le_bytes(word.try_into()?).wrapping_add(base);
        word.copy_from_slice(&value.to_le_bytes());
    }
    Ok(image)
}

/// The addresses of the words that the section's entries name, in order.
pub fn places(section: &[u8]) -> Result<Vec<u64>> {
    let Ok(entries) = pod::slice_from_all_bytes(section) else {
        bail!("{} bytes are no whole number of RELR entries", section.len())
    };
    Ok(RelrIterator::<FileHeader64<LittleEndian>>::new(LittleEndian, entries).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(entries: &[u64]) -> Vec<u64> {
        places(&entries.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn entries_name_a_word_or_the_63_behind_it() {
        assert_eq!(named(&[0x1000]), [0x1000]);
        assert_eq!(named(&[0x1000, 0b1011]), [0x1000, 0x1008, 0x1018]);
        assert_eq!(named(&[0x1000, 1 << 63 | 1, 0b11]), [0x1000, 0x1008 + 62 * 8, 0x1008 + 63 * 8]);
        assert_eq!(named(&[0x1000, 0b11, 0x8000]), [0x1000, 0x1008, 0x8000]);
        assert!(places(&[0; 12]).is_err());
    }
}
