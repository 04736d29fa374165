//! Relative relocations (RELR): parses them and applies them to the Image.
//!
//! Used to check the linked kernel, and to compare a generation's memory with what was built. The
//! encoding is the generic ABI's DT_RELR: an even entry is the address of one 64-bit word; an odd
//! entry is a bitmap of the 63 words after it. The base is added to each word that an entry names.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

/// Applies the relocations of `elf` to `image`, which was linked at 0, for the address `base`.
pub fn applied(elf: &Path, image: &[u8], base: u64) -> Result<Vec<u8>> {
    let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(bytes.as_slice())
        .with_context(|| format!("{} is not an ELF file", elf.display()))?;
    let relr = file
        .section_by_name(".relr.dyn")
        .context("the kernel has no .relr.dyn: is it position independent?")?;
    let places = places(relr.data()?);
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
pub fn places(section: &[u8]) -> Vec<u64> {
    let mut places = Vec::new();
    let mut next = 0_u64;
    for entry in section.as_chunks().0.iter().copied().map(u64::from_le_bytes) {
        if entry & 1 == 0 {
            places.push(entry);
            next = entry.wrapping_add(8);
        } else {
            places.extend(
                (0..63)
                    .filter(|bit| entry >> (bit + 1) & 1 == 1)
                    .map(|bit| next.wrapping_add(8 * bit)),
            );
            next = next.wrapping_add(8 * 63);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(entries: &[u64]) -> Vec<u64> {
        places(&entries.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn entries_name_a_word_or_the_63_behind_it() {
        assert_eq!(named(&[0x1000]), [0x1000]);
        assert_eq!(named(&[0x1000, 0b1011]), [0x1000, 0x1008, 0x1018]);
        assert_eq!(named(&[0x1000, 1 << 63 | 1, 0b11]), [0x1000, 0x1008 + 62 * 8, 0x1008 + 63 * 8]);
        assert_eq!(named(&[0x1000, 0b11, 0x8000]), [0x1000, 0x1008, 0x8000]);
    }
}
