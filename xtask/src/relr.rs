//! Relative relocations (RELR): which words of the kernel's Image they name, and the Image with them applied for a base.
//!
//! *When:* the linked kernel is checked, and a generation's memory is held against what it was built from. The encoding is the generic
//! ABI's (DT_RELR): an even entry is the place of one word; an odd one is a bitmap of the 63 words behind it. Each word named grows by
//! the base.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

/// `image`, which was linked at 0 into this ELF, as it must be at `base`.
pub fn applied(elf: &Path, image: &[u8], base: u64) -> Result<Vec<u8>> {
    let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(bytes.as_slice())
        .with_context(|| format!("{} is no ELF", elf.display()))?;
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

/// The words that a section's entries name, in order.
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
