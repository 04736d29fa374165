//! The check `moved`: the relocation code runs from a copy, so it may refer only to itself.
//!
//! The kernel copies two pages, from `relocate_page_start` on, into control pages at any address. A
//! PC-relative reference stays correct only if its target is in the same two pages. An absolute
//! address would point to the original. The assembler itself checks that the arguments fit after
//! the code: if not, an `.org` in `control.S` would move backwards.

use std::ops::Range;

use boot::phys::PAGE_SIZE;

use super::{
    a64::{Reference, reference},
    linked::Linked,
    relocations,
};

/// Number of moved pages: code with its arguments, and vectors.
const PAGES: u64 = 2;

/// Returns the violations found in the linked kernel.
pub fn wrong(linked: &Linked) -> Vec<String> {
    look(linked).unwrap_or_else(|lack| vec![lack])
}

fn look(linked: &Linked) -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    let moved = linked.range("relocate_page_start", "relocate_page_end")?;
    if !moved.start.is_multiple_of(PAGE_SIZE) || moved.end - moved.start != PAGES * PAGE_SIZE {
        wrong.push(format!(
            "the moved code is at {moved:#x?}, and not in exactly {PAGES} aligned pages"
        ));
    }
    // The kernel writes the arguments there, so the linked bytes must be zero.
    let room = linked.symbol("relocate_code_end")?..moved.start + PAGE_SIZE;
    if !moved.contains(&room.start) || room.is_empty() {
        wrong.push(format!(
            "the code ends at {:#x}, and leaves the arguments no room in its first page",
            room.start
        ));
    } else if let Some(used) = linked.bytes(&room)?.iter().position(|&byte| byte != 0) {
        wrong.push(format!(
            "the byte at {:#x}, among the arguments, is not zero",
            room.start + used as u64
        ));
    }
    let within = relocations::places(linked)?.into_iter().filter(|place| overlaps(&moved, *place));
    wrong.extend(within.map(|place| format!("a relocation at {place:#x}, within the moved code")));
    if !linked.is_code(moved.start) {
        wrong.push(
            "no mapping symbol says what is code in the moved pages: were the symbols stripped?"
                .to_owned(),
        );
    }
    for (address, word) in
        linked.words(&moved)?.into_iter().filter(|(address, _)| linked.is_code(*address))
    {
        match reference(address, word) {
            Some(Reference::To(target)) if !moved.contains(&target) => {
                wrong.push(format!(
                    "the instruction at {address:#x} refers to {target:#x}, \
                     which is not moved with it"
                ));
            }
            Some(Reference::ToPage) => {
                wrong.push(format!(
                    "the instruction at {address:#x} is an adrp: take adr, which reaches both pages"
                ));
            }
            _ => {}
        }
    }
    Ok(wrong)
}

/// Reports whether a pointer at `place` overlaps the range.
fn overlaps(range: &Range<u64>, place: u64) -> bool {
    place < range.end && range.start < place.saturating_add(8)
}

#[cfg(test)]
mod tests {
    use object::elf::SHT_RELR;

    use super::{
        super::{a64::NOP, linked::Section},
        *,
    };

    const B_SELF: u32 = 0x1400_0000;

    /// Makes two pages at 0x1000: code up to 0x1800, except for a data word at 0x1100.
    fn good() -> Linked {
        let mut linked = Linked { image: vec![0; 0x4000], ..Linked::default() };
        linked.image[0x1000..0x1800].copy_from_slice(&NOP.to_le_bytes().repeat(0x200));
        let symbols = [
            ("relocate_page_start", 0x1000),
            ("relocate_code_end", 0x1800),
            ("relocate_page_end", 0x3000),
        ];
        linked.symbols = symbols.map(|(name, address)| (name.to_owned(), address)).into();
        linked.marks = [(0x1000, true), (0x1100, false), (0x1104, true)].into();
        linked
    }

    fn put(linked: &mut Linked, at: usize, word: u32) {
        linked.image[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    fn said<R>(spoil: impl Fn(&mut Linked) -> R) -> String {
        let mut linked = good();
        spoil(&mut linked);
        wrong(&linked).join("\n")
    }

    #[test]
    fn code_that_keeps_to_itself_passes() {
        assert_eq!(said(|_| ()), "");
        assert_eq!(said(|kernel| put(kernel, 0x1000, B_SELF | 0x7ff)), "", "b to the last word");
        // Read as an instruction, the text "!!  T..." would be a branch out of the pages.
        assert_eq!(said(|kernel| put(kernel, 0x1100, 0x5420_2121)), "", "data");
    }

    #[test]
    fn a_reference_out_of_the_pages_is_reported() {
        let beyond = "the instruction at 0x1000 refers to 0x3000, which is not moved with it";
        assert_eq!(said(|kernel| put(kernel, 0x1000, B_SELF | 0x800)), beyond);
        let before = "the instruction at 0x1104 refers to 0xffc, which is not moved with it";
        assert_eq!(
            said(|kernel| put(kernel, 0x1104, 0x9400_0000 | (0x3ff_ffff & (0x3ff_ffff - 0x41)))),
            before
        );
        assert!(said(|kernel| put(kernel, 0x1004, 0x9000_0009)).contains("0x1004 is an adrp"));
        assert!(said(|kernel| put(kernel, 0x2ffc, B_SELF | 1)).contains("refers to 0x3000"));
    }

    #[test]
    fn each_other_rule_can_be_broken() {
        let set = |kernel: &mut Linked, name: &str, address| {
            kernel.symbols.insert(name.to_owned(), address)
        };
        assert!(said(|kernel| set(kernel, "relocate_page_end", 0x3800)).contains("0x1000..0x3800"));
        assert!(
            said(|kernel| set(kernel, "relocate_page_start", 0x1800))
                .contains("exactly 2 aligned pages")
        );
        assert!(said(|kernel| set(kernel, "relocate_code_end", 0x2000)).contains("no room"));
        assert!(said(|kernel| put(kernel, 0x1ffc, 1)).contains("at 0x1ffc, among the arguments,"));
        assert!(said(|kernel| kernel.marks.clear()).contains("no mapping symbol"));
        assert_eq!(
            said(|kernel| kernel.symbols.remove("relocate_code_end")),
            "there is no symbol relocate_code_end"
        );
        let relocation = |place: u64| {
            said(|kernel| {
                kernel.image[..8].copy_from_slice(&place.to_le_bytes());
                kernel.sections = vec![Section { kind: SHT_RELR, size: 8, ..Section::default() }];
            })
        };
        assert!(relocation(0x1ff8).contains("a relocation at 0x1ff8"));
        assert!(relocation(0xffa).contains("a relocation at 0xffa"));
        assert_eq!((relocation(0xff8), relocation(0x3000)), (String::new(), String::new()));
    }
}
