//! A64 instructions that the checks recognise: PC-relative references, unconditional jumps.
//!
//! The checks of the moved code and of the vector slots use them. Encodings: Arm ARM, C4.1.

/// `nop`, the assembler's padding in code.
pub const NOP: u32 = 0xd503_201f;

/// The target of a PC-relative instruction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reference {
    /// An exact address.
    To(u64),
    /// A 4 KiB page; another instruction adds the offset.
    ToPage,
}

/// Returns the target of the instruction at `address`, if it is PC-relative.
pub fn reference(address: u64, word: u32) -> Option<Reference> {
    let to = |lsb: u32, bits: u32, scale: u32| {
        // Shift the field to the top and back, to extend its sign.
        let offset = i64::from((word >> lsb) << (32 - bits)) << 32 >> (64 - bits);
        Some(Reference::To(address.wrapping_add_signed(offset << scale)))
    };
    match word {
        // b, bl
        _ if word & 0x7c00_0000 == 0x1400_0000 => to(0, 26, 2),
        // b.cond, bc.cond; cbz, cbnz; ldr, ldrsw, prfm of a literal
        _ if word & 0xff00_0000 == 0x5400_0000 => to(5, 19, 2),
        _ if word & 0x7e00_0000 == 0x3400_0000 => to(5, 19, 2),
        _ if word & 0x3b00_0000 == 0x1800_0000 => to(5, 19, 2),
        // tbz, tbnz
        _ if word & 0x7e00_0000 == 0x3600_0000 => to(5, 14, 2),
        // adr: its two lowest bits are in a field of their own
        _ if word & 0x9f00_0000 == 0x1000_0000 => match to(5, 19, 2) {
            Some(Reference::To(base)) => {
                Some(Reference::To(base.wrapping_add(u64::from(word >> 29 & 0b11))))
            }
            other => other,
        },
        // adrp
        _ if word & 0x9f00_0000 == 0x9000_0000 => Some(Reference::ToPage),
        _ => None,
    }
}

/// Reports whether the CPU never falls through this instruction: `b`, `br`, `ret`, `eret`.
pub fn never_falls_through(word: u32) -> bool {
    word & 0xfc00_0000 == 0x1400_0000
        || word & 0xffff_fc1f == 0xd61f_0000
        || word & 0xffff_fc1f == 0xd65f_0000
        || word == 0xd69f_03e0
}

/// Returns the number that a `mov x1, #number` (movz, no shift) loads.
pub fn loads_x1(word: u32) -> Option<u32> {
    (word & 0xffe0_001f == 0xd280_0001).then_some(word >> 5 & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address, word, target: assembled by GNU as, decoded by objdump.
    const REFERENCES: &[(u64, u32, u64, &str)] = &[
        (0x1000, 0x1400_0040, 0x1100, "b 1100"),
        (0x1004, 0x17ff_fc00, 0x4, "b 4"),
        (0x1008, 0x95ff_ffff, 0x800_1004, "bl 8001004"),
        (0x100c, 0x9600_0000, 0xffff_ffff_f800_100c, "bl fffffffff800100c"),
        (0x1010, 0x547f_ffe0, 0x10_100c, "b.eq 10100c"),
        (0x1014, 0x5480_0003, 0xffff_ffff_fff0_1014, "b.cc fffffffffff01014"),
        (0x1018, 0xb400_0043, 0x1020, "cbz x3, 1020"),
        (0x101c, 0x35ff_ffc3, 0x1014, "cbnz w3, 1014"),
        (0x1020, 0xb643_ffe0, 0x901c, "tbz x0, #40, 901c"),
        (0x1024, 0x371c_0000, 0xffff_ffff_ffff_9024, "tbnz w0, #3, ffffffffffff9024"),
        (0x1028, 0x707f_ffe9, 0x10_1027, "adr x9, 101027"),
        (0x102c, 0x1080_0009, 0xffff_ffff_fff0_102c, "adr x9, fffffffffff0102c"),
        (0x1030, 0x3000_0029, 0x1035, "adr x9, 1035"),
        (0x1034, 0x30ff_ffe9, 0x1031, "adr x9, 1031"),
        (0x1038, 0x5800_0100, 0x1058, "ldr x0, 1058"),
        (0x103c, 0x18ff_ff00, 0x101c, "ldr w0, 101c"),
        (0x1040, 0x9c00_0180, 0x1070, "ldr q0, 1070"),
        (0x1044, 0x9800_0100, 0x1064, "ldrsw x0, 1064"),
        (0x1048, 0xd800_0200, 0x1088, "prfm pldl1keep, 1088"),
    ];

    const OTHERS: &[(u32, &str)] = &[
        (0xd61f_0120, "br x9"),
        (0xd63f_0120, "blr x9"),
        (0xd65f_03c0, "ret"),
        (0xd65f_0220, "ret x17"),
        (0xd69f_03e0, "eret"),
        (0xf940_0420, "ldr x0, [x1, #8]"),
        (0xa8c1_0440, "ldp x0, x1, [x2], #16"),
        (0xac81_04c0, "stp q0, q1, [x6], #32"),
        (0xd280_01e1, "mov x1, #0xf"),
        (0xd280_0001, "mov x1, #0x0"),
        (0xd280_01e2, "mov x2, #0xf"),
        (0xf280_00a1, "movk x1, #0x5"),
        (0xd400_0002, "hvc #0x0"),
        (0xd503_3fdf, "isb"),
        (0xd503_201f, "nop"),
        (0x9100_4020, "add x0, x1, #0x10"),
        (0xf100_0c1f, "cmp x0, #0x3"),
        (0xfa40_5a4d, "ccmp x18, #0x0, #0xd, pl"),
        (0x9ac3_5c00, "crc32cx w0, w0, x3"),
        (0xd50b_7e25, "dc civac, x5"),
        (0xd503_207f, "wfi"),
        (0x0000_0000, "udf #0"),
    ];

    #[test]
    fn references_are_found_to_the_ends_of_their_reach() {
        for &(address, word, target, text) in REFERENCES {
            assert_eq!(reference(address, word), Some(Reference::To(target)), "{text}");
        }
        assert_eq!(reference(0x104c, 0x9000_0009), Some(Reference::ToPage), "adrp x9, 0x1000");
    }

    #[test]
    fn other_instructions_refer_to_nothing() {
        for &(word, text) in OTHERS {
            assert_eq!(reference(0x1000, word), None, "{text}");
        }
    }

    #[test]
    fn instructions_that_never_fall_through_are_known() {
        let ends: Vec<_> = OTHERS
            .iter()
            .filter(|(word, _)| never_falls_through(*word))
            .map(|(_, text)| *text)
            .collect();
        assert_eq!(ends, ["br x9", "ret", "ret x17", "eret"]);
        let branches: Vec<_> =
            REFERENCES.iter().filter(|r| never_falls_through(r.1)).map(|r| r.3).collect();
        assert_eq!(branches, ["b 1100", "b 4"]);
    }

    #[test]
    fn a_slots_number_is_read() {
        let numbers: Vec<_> = OTHERS.iter().filter_map(|(word, _)| loads_x1(*word)).collect();
        assert_eq!(numbers, [15, 0]);
    }
}
