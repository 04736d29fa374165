//! The check `relocations`: only relative relocations, packed as RELR, and none in code.
//!
//! `relocate_self` in boot handles RELR only, and it runs when the text is already read-only.

use object::elf::{SHT_REL, SHT_RELA, SHT_RELR};

use super::linked::Linked;
use harness::relr;

/// Returns the violations found in the linked kernel.
pub fn wrong(linked: &Linked) -> Vec<String> {
    let mut wrong: Vec<_> = linked
        .sections
        .iter()
        .filter(|section| matches!(section.kind, SHT_REL | SHT_RELA) && section.size != 0)
        .map(|section| {
            format!(
                "{} holds {} bytes of relocations that are never applied",
                section.name, section.size
            )
        })
        .collect();
    match linked.range("text_end", "data_end").and_then(|data| Ok((data, places(linked)?))) {
        Err(absent) => wrong.push(absent),
        // Every kernel has a table of pointers; without RELR entries it was linked with other
        // options.
        Ok((_, places)) if places.is_empty() => {
            wrong.push("there is no RELR relocation".to_owned())
        }
        Ok((data, places)) => wrong.extend(
            places.iter().filter(|place| !data.contains(place) || data.end - **place < 8).map(
                |place| format!("a relocation at {place:#x}, outside of the data at {data:#x?}"),
            ),
        ),
    }
    wrong
}

/// Returns the addresses of the pointers in the RELR sections.
pub fn places(linked: &Linked) -> Result<Vec<u64>, String> {
    let sections = linked.sections.iter().filter(|section| section.kind == SHT_RELR);
    let bytes =
        sections.map(|section| linked.bytes(&(section.address..section.address + section.size)));
    let bytes = bytes.collect::<Result<Vec<_>, _>>()?.concat();
    relr::places(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{super::linked::Section, *};

    /// Makes a kernel with text below 0x1000, data from there to 0x2000, and these RELR entries at
    /// 0x100.
    fn with(entries: &[u64]) -> Linked {
        let section =
            |name: &str, kind, size| Section { name: name.to_owned(), kind, address: 0x100, size };
        let mut image = vec![0; 0x2000];
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        image[0x100..][..bytes.len()].copy_from_slice(&bytes);
        Linked {
            sections: vec![
                section(".relr.dyn", SHT_RELR, bytes.len() as u64),
                section(".rela.dyn", SHT_RELA, 0),
            ],
            symbols: [("text_end".to_owned(), 0x1000), ("data_end".to_owned(), 0x2000)].into(),
            image,
            ..Linked::default()
        }
    }

    #[test]
    fn packed_places_within_the_data_pass() {
        let linked = with(&[0x1000, 0b101, 0x1800]);
        assert_eq!(places(&linked).unwrap(), [0x1000, 0x1010, 0x1800]);
        assert!(wrong(&linked).is_empty());
    }

    #[test]
    fn each_rule_can_be_broken() {
        let mut linked = with(&[0x1000]);
        linked.sections[1].size = 24;
        assert_eq!(
            wrong(&linked),
            [".rela.dyn holds 24 bytes of relocations that are never applied"]
        );
        assert_eq!(
            wrong(&with(&[0xff8])),
            ["a relocation at 0xff8, outside of the data at 0x1000..0x2000"]
        );
        // The entries cover 63 pointers from 0x1e08 on, the last at 0x1ff8; one more entry adds one
        // at 0x2000.
        assert_eq!(wrong(&with(&[0x1e00, u64::MAX])), [""; 0]);
        assert_eq!(
            wrong(&with(&[0x1e00, u64::MAX, 0b11])),
            ["a relocation at 0x2000, outside of the data at 0x1000..0x2000"]
        );
        assert_eq!(wrong(&with(&[0x1ffa])).len(), 1, "half of the pointer is outside");
        assert_eq!(wrong(&with(&[])), ["there is no RELR relocation"]);
        linked.symbols.clear();
        assert!(wrong(&linked).contains(&"there is no symbol text_end".to_owned()));
    }
}
