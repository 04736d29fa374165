//! The closed list: the A64 instructions that the modelled code consists of.
//!
//! Each word is decoded before it is executed. Encodings are those of the Arm ARM, C4.1. Any other
//! word is an error. This shows that the code does not run outside its contracts: a byte store of
//! the printer, a use of a stack, or any instruction that the model cannot execute.

/// Register 31: zero or the stack pointer, depending on the instruction.
pub const ZERO: usize = 31;

/// One instruction, decoded. Offsets are in bytes; `wide` means 64 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "fields are named as in the Arm ARM")]
pub enum Instruction {
    Nop,
    Branch {
        offset: i64,
        link: bool,
    },
    BranchIf {
        condition: u32,
        offset: i64,
    },
    /// cbz, cbnz
    CompareBranch {
        wide: bool,
        nonzero: bool,
        rt: usize,
        offset: i64,
    },
    /// tbz, tbnz
    TestBranch {
        bit: u32,
        set: bool,
        rt: usize,
        offset: i64,
    },
    /// br, ret
    BranchTo {
        rn: usize,
    },
    Hvc,
    Eret,
    /// adr, adrp
    Address {
        page: bool,
        rd: usize,
        offset: i64,
    },
    AddImmediate {
        wide: bool,
        subtract: bool,
        flags: bool,
        rd: usize,
        rn: usize,
        value: u64,
    },
    AddRegister {
        wide: bool,
        subtract: bool,
        flags: bool,
        rd: usize,
        rn: usize,
        rm: Shifted,
    },
    LogicalImmediate {
        wide: bool,
        operation: Logical,
        rd: usize,
        rn: usize,
        value: u64,
    },
    LogicalRegister {
        wide: bool,
        operation: Logical,
        invert: bool,
        rd: usize,
        rn: usize,
        rm: Shifted,
    },
    /// movn, movz, movk
    MoveWide {
        wide: bool,
        kind: Move,
        rd: usize,
        value: u64,
        shift: u32,
    },
    /// ubfm, sbfm
    Bitfield {
        wide: bool,
        signed: bool,
        rd: usize,
        rn: usize,
        rotate: u32,
        last: u32,
    },
    /// lslv
    ShiftLeft {
        wide: bool,
        rd: usize,
        rn: usize,
        rm: usize,
    },
    /// ccmp with an immediate
    ConditionalCompare {
        wide: bool,
        rn: usize,
        value: u64,
        flags: u32,
        condition: u32,
    },
    /// csel
    Select {
        wide: bool,
        rd: usize,
        rn: usize,
        rm: usize,
        condition: u32,
    },
    /// rev
    ReverseBytes {
        wide: bool,
        rd: usize,
        rn: usize,
    },
    /// crc32cx
    Crc32c {
        rd: usize,
        rn: usize,
        rm: usize,
    },
    /// ldp, stp
    Pair {
        load: bool,
        size: u64,
        rt: usize,
        rt2: usize,
        rn: usize,
        offset: i64,
        after: bool,
    },
    /// ldr, str of 64 bits
    Single {
        load: bool,
        rt: usize,
        rn: usize,
        place: Place,
    },
    ReadSystem {
        register: SystemRegister,
        rt: usize,
    },
    WriteSystem {
        register: SystemRegister,
        rt: usize,
    },
    /// msr daifset, daifclr
    Mask {
        set: bool,
        bits: u64,
    },
    /// msr SPSel
    SelectStack {
        value: u64,
    },
    Isb,
    Dsb(Domain),
    Dmb,
    Dc {
        operation: Dc,
        rt: usize,
    },
    /// ic iallu (this CPU's), ic ialluis (all CPUs')
    Ic(Domain),
    Tlbi(Tlbi),
}

/// A shifted register operand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "named as in the Arm ARM: 0 lsl, 1 lsr, 2 asr, 3 ror")]
pub struct Shifted {
    pub register: usize,
    pub kind: u32,
    pub amount: u32,
}

/// and, orr, eor, ands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "named as in the Arm ARM")]
pub enum Logical {
    And,
    Orr,
    Eor,
    Ands,
}

/// movn, movz, movk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "named as in the Arm ARM")]
pub enum Move {
    Not,
    Zero,
    Keep,
}

/// The address of a load or store of one register, with the update of its base.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// `[rn, #offset]`
    At(i64),
    /// `[rn], #offset`
    After(i64),
    /// `[rn, rm, lsl #shift]`
    Indexed {
        /// rm
        index: usize,
        /// 0 or 3
        shift: u32,
    },
}

/// The domain of a barrier.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Domain {
    /// nsh: this CPU's own operations, on its own TLB and I-cache.
    Local,
    /// ish: its operations on the TLBs and I-caches of all CPUs.
    Inner,
    /// sy: everything.
    System,
}

/// dc by VA, to PoC.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Dc {
    /// civac
    CleanInvalidate,
    /// cvac
    Clean,
    /// ivac
    Invalidate,
}

/// The scope of a tlbi.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Tlbi {
    /// vmalle1: EL1&0, or at EL2 under E2H and TGE, EL2&0.
    Vmalle1,
    /// alle1: EL1&0.
    Alle1,
    /// alle2: EL2, or under E2H, EL2&0.
    Alle2,
}

/// A system register by its encoding: op0, op1, CRn, CRm and op2, as in the instruction's bits
/// 20:5.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SystemRegister(pub u16);

impl SystemRegister {
    /// s3_`op1`_c`crn`_c`crm`_`op2`.
    #[must_use]
    pub const fn new(op1: u16, crn: u16, crm: u16, op2: u16) -> Self {
        Self(0b11 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2)
    }

    /// Returns the register under another op1, which in most names gives the exception level.
    #[must_use]
    pub const fn with_op1(self, op1: u16) -> Self {
        Self(self.0 & !(0b111 << 11) | op1 << 11)
    }

    /// Returns op1.
    #[must_use]
    pub const fn op1(self) -> u16 {
        self.0 >> 11 & 0b111
    }
}

/// The part of the list that computes, loads, stores or branches, as fixed bits: name, value, mask.
///
/// Tests draw random words from it. [`decode`] refuses some of them: a base of SP, for example.
pub const PATTERNS: &[(&str, u32, u32)] = &[
    ("b, bl", 0x1400_0000, 0x7c00_0000),
    ("b.cond", 0x5400_0000, 0xff00_0010),
    ("cbz, cbnz", 0x3400_0000, 0x7e00_0000),
    ("tbz, tbnz", 0x3600_0000, 0x7e00_0000),
    ("br", 0xd61f_0000, 0xffff_fc1f),
    ("ret", 0xd65f_0000, 0xffff_fc1f),
    ("adr, adrp", 0x1000_0000, 0x1f00_0000),
    ("add, sub, immediate", 0x1100_0000, 0x1f80_0000),
    ("add, sub, register", 0x0b00_0000, 0x1f20_0000),
    ("logical, immediate", 0x1200_0000, 0x1f80_0000),
    ("logical, register", 0x0a00_0000, 0x1f00_0000),
    ("move wide", 0x1280_0000, 0x1f80_0000),
    ("bitfield", 0x1300_0000, 0x1f80_0000),
    ("lslv", 0x1ac0_2000, 0x7fe0_fc00),
    ("ccmp", 0x7a40_0800, 0x7fe0_0c10),
    ("csel", 0x1a80_0000, 0x7fe0_0c00),
    ("rev, 32 bits", 0x5ac0_0800, 0xffff_fc00),
    ("rev, 64 bits", 0xdac0_0c00, 0xffff_fc00),
    ("crc32cx", 0x9ac0_5c00, 0xffe0_fc00),
    ("ldp, stp, 32 bits", 0x2900_0000, 0xff80_0000),
    ("ldp, stp, 64 bits", 0xa900_0000, 0xff80_0000),
    ("ldp, stp, 64 bits, after", 0xa880_0000, 0xff80_0000),
    ("ldr, str", 0xf900_0000, 0xff80_0000),
    ("ldr, str, after", 0xf800_0400, 0xffa0_0c00),
    ("ldr, str, indexed", 0xf820_6800, 0xffa0_ec00),
    ("msr daifset, daifclr", 0xd503_40df, 0xffff_f0df),
];

/// Decodes the instruction if it is in the list.
#[must_use]
pub fn decode(word: u32) -> Option<Instruction> {
    system(word)
        .or_else(|| branch(word))
        .or_else(|| immediate(word))
        .or_else(|| register(word))
        .or_else(|| memory(word))
}

/// Returns a field of the word.
const fn field(word: u32, lsb: u32, bits: u32) -> u32 {
    word >> lsb & ((1 << bits) - 1)
}

/// Returns a field of the word as a signed number.
const fn signed(word: u32, lsb: u32, bits: u32) -> i64 {
    ((word << (32 - lsb - bits)) as i32 >> (32 - bits)) as i64
}

const fn at(word: u32, lsb: u32) -> usize {
    field(word, lsb, 5) as usize
}

fn system(word: u32) -> Option<Instruction> {
    use Instruction::{
        Dmb, Dsb, Eret, Hvc, Ic, Isb, Mask, Nop, ReadSystem, SelectStack, WriteSystem,
    };
    let rt = at(word, 0);
    Some(match word {
        0xd503_201f => Nop,
        0xd503_3fdf => Isb,
        0xd503_3f9f => Dsb(Domain::System),
        0xd503_379f => Dsb(Domain::Local),
        0xd503_3b9f => Dsb(Domain::Inner),
        0xd503_3fbf => Dmb,
        0xd508_751f => Ic(Domain::Local),
        0xd508_711f => Ic(Domain::Inner),
        0xd508_871f => Instruction::Tlbi(Tlbi::Vmalle1),
        0xd50c_879f => Instruction::Tlbi(Tlbi::Alle1),
        0xd50c_871f => Instruction::Tlbi(Tlbi::Alle2),
        0xd400_0002 => Hvc,
        0xd69f_03e0 => Eret,
        _ if word & !0x1f == 0xd50b_7e20 => Instruction::Dc { operation: Dc::CleanInvalidate, rt },
        _ if word & !0x1f == 0xd50b_7a20 => Instruction::Dc { operation: Dc::Clean, rt },
        _ if word & !0x1f == 0xd508_7620 => Instruction::Dc { operation: Dc::Invalidate, rt },
        _ if word & 0xffff_f0ff == 0xd503_40df => {
            Mask { set: true, bits: field(word, 8, 4).into() }
        }
        _ if word & 0xffff_f0ff == 0xd503_40ff => {
            Mask { set: false, bits: field(word, 8, 4).into() }
        }
        _ if word & 0xffff_f0ff == 0xd500_40bf => SelectStack { value: field(word, 8, 4).into() },
        _ if word & 0xfff0_0000 == 0xd530_0000 => {
            ReadSystem { register: SystemRegister((word >> 5) as u16), rt }
        }
        _ if word & 0xfff0_0000 == 0xd510_0000 => {
            WriteSystem { register: SystemRegister((word >> 5) as u16), rt }
        }
        _ => return None,
    })
}

fn branch(word: u32) -> Option<Instruction> {
    let (wide, rt) = (word >> 31 == 1, at(word, 0));
    Some(match word {
        _ if word & 0x7c00_0000 == 0x1400_0000 => {
            Instruction::Branch { offset: signed(word, 0, 26) << 2, link: wide }
        }
        _ if word & 0xff00_0010 == 0x5400_0000 => {
            Instruction::BranchIf { condition: field(word, 0, 4), offset: signed(word, 5, 19) << 2 }
        }
        _ if word & 0x7e00_0000 == 0x3400_0000 => Instruction::CompareBranch {
            wide,
            nonzero: field(word, 24, 1) == 1,
            rt,
            offset: signed(word, 5, 19) << 2,
        },
        _ if word & 0x7e00_0000 == 0x3600_0000 => Instruction::TestBranch {
            bit: field(word, 31, 1) << 5 | field(word, 19, 5),
            set: field(word, 24, 1) == 1,
            rt,
            offset: signed(word, 5, 14) << 2,
        },
        _ if word & 0xffff_fc1f == 0xd61f_0000 || word & 0xffff_fc1f == 0xd65f_0000 => {
            Instruction::BranchTo { rn: at(word, 5) }
        }
        _ => return None,
    })
}

fn immediate(word: u32) -> Option<Instruction> {
    let (wide, rd, rn) = (word >> 31 == 1, at(word, 0), at(word, 5));
    Some(match word {
        _ if word & 0x1f00_0000 == 0x1000_0000 => {
            let offset = signed(word, 5, 19) << 2 | i64::from(field(word, 29, 2));
            Instruction::Address {
                page: wide,
                rd,
                offset: if wide { offset << 12 } else { offset },
            }
        }
        _ if word & 0x1f80_0000 == 0x1100_0000 => Instruction::AddImmediate {
            wide,
            subtract: field(word, 30, 1) == 1,
            flags: field(word, 29, 1) == 1,
            rd,
            rn,
            value: u64::from(field(word, 10, 12)) << (12 * field(word, 22, 1)),
        },
        _ if word & 0x1f80_0000 == 0x1200_0000 => Instruction::LogicalImmediate {
            wide,
            operation: logical(word),
            rd,
            rn,
            value: bitmask(wide, field(word, 22, 1), field(word, 16, 6), field(word, 10, 6))?,
        },
        _ if word & 0x1f80_0000 == 0x1280_0000 => Instruction::MoveWide {
            wide,
            kind: match field(word, 29, 2) {
                0 => Move::Not,
                2 => Move::Zero,
                3 => Move::Keep,
                _ => return None,
            },
            rd,
            value: field(word, 5, 16).into(),
            shift: Some(16 * field(word, 21, 2)).filter(|shift| wide || *shift < 32)?,
        },
        _ if matches!(word & 0x7f80_0000, 0x1300_0000 | 0x5300_0000) => {
            let (rotate, last) = (field(word, 16, 6), field(word, 10, 6));
            let fits = field(word, 22, 1) == u32::from(wide) && (wide || rotate < 32 && last < 32);
            fits.then_some(Instruction::Bitfield {
                wide,
                signed: field(word, 30, 1) == 0,
                rd,
                rn,
                rotate,
                last,
            })?
        }
        _ => return None,
    })
}

fn logical(word: u32) -> Logical {
    [Logical::And, Logical::Orr, Logical::Eor, Logical::Ands][field(word, 29, 2) as usize]
}

/// Computes DecodeBitMasks: an element of 2 to 64 bits, with a rotated run of ones, repeated.
fn bitmask(wide: bool, n: u32, rotate: u32, ones: u32) -> Option<u64> {
    let length = 31_u32.checked_sub((n << 6 | !ones & 0x3f).leading_zeros())?;
    let size = (1..=6).contains(&length).then_some(1 << length)?;
    let (rotate, ones) = (rotate & (size - 1), ones & (size - 1));
    if ones == size - 1 || size == 64 && !wide {
        return None;
    }
    let run = (1 << (ones + 1)) - 1;
    let whole = u64::MAX >> (64 - size);
    let element = if rotate == 0 { run } else { (run >> rotate | run << (size - rotate)) & whole };
    let value = (0..64 / size).fold(0, |value, part| value | element << (part * size));
    Some(if wide { value } else { value & 0xffff_ffff })
}

fn register(word: u32) -> Option<Instruction> {
    let (wide, rd, rn, rm) = (word >> 31 == 1, at(word, 0), at(word, 5), at(word, 16));
    let shifted = Shifted { register: rm, kind: field(word, 22, 2), amount: field(word, 10, 6) };
    let fits = wide || shifted.amount < 32;
    Some(match word {
        _ if word & 0x1f00_0000 == 0x0a00_0000 && fits => Instruction::LogicalRegister {
            wide,
            operation: logical(word),
            invert: field(word, 21, 1) == 1,
            rd,
            rn,
            rm: shifted,
        },
        _ if word & 0x1f20_0000 == 0x0b00_0000 && fits && shifted.kind != 3 => {
            Instruction::AddRegister {
                wide,
                subtract: field(word, 30, 1) == 1,
                flags: field(word, 29, 1) == 1,
                rd,
                rn,
                rm: shifted,
            }
        }
        _ if word & 0x7fe0_fc00 == 0x1ac0_2000 => Instruction::ShiftLeft { wide, rd, rn, rm },
        _ if word & 0x7fe0_0c10 == 0x7a40_0800 => Instruction::ConditionalCompare {
            wide,
            rn,
            value: rm as u64,
            flags: field(word, 0, 4),
            condition: field(word, 12, 4),
        },
        _ if word & 0x7fe0_0c00 == 0x1a80_0000 => {
            Instruction::Select { wide, rd, rn, rm, condition: field(word, 12, 4) }
        }
        _ if matches!(word & 0xffff_fc00, 0x5ac0_0800 | 0xdac0_0c00) => {
            Instruction::ReverseBytes { wide, rd, rn }
        }
        _ if word & 0xffe0_fc00 == 0x9ac0_5c00 => Instruction::Crc32c { rd, rn, rm },
        _ => return None,
    })
}

fn memory(word: u32) -> Option<Instruction> {
    let (rt, rn, rt2, load) = (at(word, 0), at(word, 5), at(word, 10), field(word, 22, 1) == 1);
    // A base of 31 is the stack pointer; the modelled code has no stack.
    if rn == ZERO {
        return None;
    }
    let pair = |size: u64, after| {
        let offset = signed(word, 15, 7) * size as i64;
        // Writing back to a transferred register, or loading one twice, is CONSTRAINED
        // UNPREDICTABLE.
        let clash = size < 16 && after && (rt == rn || rt2 == rn) || load && rt == rt2;
        (!clash).then_some(Instruction::Pair { load, size, rt, rt2, rn, offset, after })
    };
    let single = |place| Instruction::Single { load, rt, rn, place };
    Some(match word & 0xffc0_0000 {
        0x2900_0000 | 0x2940_0000 => pair(4, false)?,
        0xa900_0000 | 0xa940_0000 => pair(8, false)?,
        0xa880_0000 | 0xa8c0_0000 => pair(8, true)?,
        0xac80_0000 | 0xacc0_0000 => pair(16, true)?,
        0xf900_0000 | 0xf940_0000 => single(Place::At(i64::from(field(word, 10, 12)) * 8)),
        0xf800_0000 | 0xf840_0000 if word & 0x0020_0c00 == 0x0000_0400 && rt != rn => {
            single(Place::After(signed(word, 12, 9)))
        }
        0xf800_0000 | 0xf840_0000 if word & 0x0020_ec00 == 0x0020_6800 => {
            single(Place::Indexed { index: at(word, 16), shift: 3 * field(word, 12, 1) })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_on_the_list_is_refused() {
        for (word, text) in [
            (0x3840_17c9, "ldrb w9, [x30], #1"),
            (0xb900_0109, "str w9, [x8]"),
            (0xf940_03e0, "ldr x0, [sp]"),
            (0xa9bf_7bfd, "stp x29, x30, [sp, #-16]!"),
            (0xd503_207f, "wfi"),
            (0xd503_339f, "dsb osh"),
            (0xd50b_7520, "ic ivau, x0"),
            (0xd400_0003, "smc #0"),
            (0x885f_7c00, "ldxr w0, [x0]"),
            (0, "udf #0"),
        ] {
            assert_eq!(decode(word), None, "{text}");
        }
    }

    #[test]
    fn a_bit_mask_is_a_run_that_is_rotated_and_repeated() {
        // and x3, x0, #0xfffffffff000; tst x1, #0x7ff
        for (word, wanted) in [(0x9274_8c03, 0x0000_ffff_ffff_f000), (0xf240_283f, 0x7ff)] {
            let Some(Instruction::LogicalImmediate { value, .. }) = decode(word) else {
                panic!("{word:#x}")
            };
            assert_eq!(value, wanted);
        }
    }
}
