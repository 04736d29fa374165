//! The check `vectors`: each vector table is on 2 KiB, and its slots fit in 128 bytes each.
//!
//! The assembler accepts a slot that is too long: it pads to the next 128 bytes, and every later
//! slot moves by one. So each slot's code must end in an unconditional jump followed only by
//! padding. A slot that loads its number must load the right one.

use std::collections::BTreeSet;

use super::{
    a64::{NOP, loads_x1, never_falls_through},
    linked::Linked,
};

/// VBAR_ELx\[10:0\] are RES0, so a table begins on 2 KiB.
const ALIGNMENT: u64 = 2048;
const SLOTS: u32 = 16;
const SLOT_WORDS: usize = 32;

/// Tables that must exist. Further ones are found by the suffix of their symbol names.
const TABLES: [&str; 5] = [
    "early_vectors",
    "hyp_stub_vectors",
    "exception_vectors",
    "fault_vectors",
    "private_el2_vectors",
];

/// Returns the violations found in the linked kernel.
pub fn wrong(linked: &Linked) -> Vec<String> {
    // A mangled Rust name begins with an underscore.
    let named = linked.symbols.keys().map(String::as_str).filter(|name| name.ends_with("_vectors"));
    let tables: BTreeSet<_> = named.filter(|name| !name.starts_with('_')).chain(TABLES).collect();
    tables
        .into_iter()
        .flat_map(|name| table(linked, name).unwrap_or_else(|lack| vec![lack]))
        .collect()
}

fn table(linked: &Linked, name: &str) -> Result<Vec<String>, String> {
    let start = linked.symbol(name)?;
    if !start.is_multiple_of(ALIGNMENT) {
        return Ok(vec![format!("{name} is at {start:#x}, which is no multiple of 2 KiB")]);
    }
    let words: Vec<_> =
        linked.words(&(start..start + ALIGNMENT))?.into_iter().map(|(_, word)| word).collect();
    let slots = (0..SLOTS).zip(words.chunks(SLOT_WORDS));
    Ok(slots
        .filter_map(|(number, slot)| {
            Some(format!("{name}, slot {number}: {}", fault(number, slot)?))
        })
        .collect())
}

/// Returns what is wrong with one slot.
fn fault(number: u32, slot: &[u32]) -> Option<String> {
    let Some(end) = slot.iter().position(|&word| never_falls_through(word)) else {
        return Some("its code does not end within 128 bytes".to_owned());
    };
    let (code, rest) = slot.split_at(end + 1);
    if let Some(behind) = rest.iter().position(|&word| word != NOP && word != 0) {
        return Some(format!(
            "{:#010x} follows its end, at byte {}",
            rest[behind],
            4 * (code.len() + behind)
        ));
    }
    let loaded = code.iter().find_map(|&word| loads_x1(word))?;
    (loaded != number).then(|| format!("it says that it is slot {loaded}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOV_X1: u32 = 0xd280_0001;
    const B: u32 = 0x1400_0000;

    /// Makes all tables, one after the other from 0, with slots that load their numbers and branch.
    fn good() -> Linked {
        let slot = |number: u32| {
            let mut slot = [NOP; SLOT_WORDS];
            (slot[0], slot[1]) = (MOV_X1 | number << 5, B);
            slot
        };
        let words = TABLES.iter().flat_map(|_| (0..SLOTS).flat_map(slot));
        let addresses = (0..).step_by(2048);
        Linked {
            image: words.flat_map(u32::to_le_bytes).collect(),
            symbols: TABLES.iter().map(|&name| name.to_owned()).zip(addresses).collect(),
            ..Linked::default()
        }
    }

    /// Returns the check's output for good tables with these words at that address.
    fn said(at: usize, words: &[u32]) -> String {
        let mut linked = good();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        linked.image[at..at + bytes.len()].copy_from_slice(&bytes);
        wrong(&linked).join("\n")
    }

    #[test]
    fn good_tables_pass() {
        assert_eq!(said(0, &[]), "");
        assert_eq!(said(4 * 128, &[B, NOP]), "", "a slot that does not load its number");
        assert_eq!(
            said(0, &[NOP; 31]),
            "early_vectors, slot 0: its code does not end within 128 bytes"
        );
        let mut full = [MOV_X1; 32];
        full[31] = B;
        assert_eq!(said(0, &full), "", "a slot that is just full");
    }

    #[test]
    fn a_slot_that_is_too_long_moves_the_others_and_is_reported() {
        let mut long = vec![MOV_X1 | 3 << 5; 32];
        long.extend([B, NOP, NOP]);
        assert_eq!(
            said(2048 + 3 * 128, &long),
            "hyp_stub_vectors, slot 3: its code does not end within 128 bytes"
        );
        assert_eq!(
            said(2048 + 128, &[MOV_X1]),
            "hyp_stub_vectors, slot 1: it says that it is slot 0"
        );
        let behind = said(128, &[MOV_X1 | 1 << 5, B, NOP, B]);
        assert_eq!(behind, "early_vectors, slot 1: 0x14000000 follows its end, at byte 12");
    }

    #[test]
    fn a_table_that_is_misaligned_or_missing_is_reported_and_a_new_one_is_found() {
        let mut linked = good();
        linked.symbols.insert("fault_vectors".to_owned(), 1024);
        linked.symbols.remove("exception_vectors");
        linked.symbols.insert("further_vectors".to_owned(), 64);
        linked.symbols.insert("_RN6Layout19private_el2_vectors".to_owned(), 64);
        assert_eq!(
            wrong(&linked),
            [
                "there is no symbol exception_vectors",
                "fault_vectors is at 0x400, which is no multiple of 2 KiB",
                "further_vectors is at 0x40, which is no multiple of 2 KiB"
            ]
        );
    }
}
