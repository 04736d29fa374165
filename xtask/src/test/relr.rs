//! The kernel's Image as it lies in memory: with its relative relocations (RELR) applied for a base.
//!
//! *When:* a generation's memory is held against what it was built from. The encoding is the generic ABI's (DT_RELR): an even entry is the
//! place of one word; an odd one is a bitmap of the 63 words behind it. Each word named grows by the base.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

/// `image`, which was linked at 0 into this ELF, as it must be at `base`.
pub fn applied(elf: &Path, image: &[u8], base: u64) -> Result<Vec<u8>> {
    let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(bytes.as_slice()).with_context(|| format!("{} is no ELF", elf.display()))?;
    let relr = file.section_by_name(".relr.dyn").context("the kernel has no .relr.dyn: is it position independent?")?;
    let entries: Vec<_> = relr.data()?.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect();
    ensure!(!entries.is_empty(), "the kernel has no relative relocations: nothing would be tested");
    let mut image = image.to_vec();
    for place in places(&entries) {
        let at = usize::try_from(place)?;
        let word = image.get_mut(at..at + 8).with_context(|| format!("RELR names {place:#x}, outside the Image"))?;
        let value = u64::from_le_bytes(word.try_into()?).wrapping_add(base);
        word.copy_from_slice(&value.to_le_bytes());
    }
    Ok(image)
}

/// The words that the entries name, in order.
fn places(entries: &[u64]) -> Vec<u64> {
    let mut places = Vec::new();
    let mut next = 0;
    for &entry in entries {
        if entry & 1 == 0 {
            places.push(entry);
            next = entry + 8;
        } else {
            places.extend((0..63).filter(|bit| entry >> (bit + 1) & 1 == 1).map(|bit| next + bit * 8));
            next += 63 * 8;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_name_a_word_or_the_63_behind_it() {
        assert_eq!(places(&[0x1000]), [0x1000]);
        assert_eq!(places(&[0x1000, 0b1011]), [0x1000, 0x1008, 0x1018]);
        assert_eq!(places(&[0x1000, 1 << 63 | 1, 0b11]), [0x1000, 0x1008 + 62 * 8, 0x1008 + 63 * 8]);
        assert_eq!(places(&[0x1000, 0b11, 0x8000]), [0x1000, 0x1008, 0x8000]);
    }
}
