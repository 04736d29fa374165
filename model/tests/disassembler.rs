//! The model's decoder against a disassembler, the crate `disarm64`.
//!
//! Each instruction that the model decodes is written as assembly, without aliases, and must be the
//! text that the disassembler has for the same word. Words are random within the patterns of the
//! closed list. The test of the interpreter against QEMU (xtask) compares what they do.

use std::collections::BTreeSet;

use disarm64::decoder;
use model::{
    decode::{
        Dc, Domain, Instruction, Logical, Move, PATTERNS, Place, Shifted, SystemRegister, Tlbi,
        ZERO, decode,
    },
    system::registers,
};
use relocate::random::SplitMix64;

/// Words drawn from each pattern.
const RANDOM: usize = 5_000;

/// The part of the closed list that is not in [`PATTERNS`]: fixed bits as name, value and mask.
const SYSTEM: &[(&str, u32, u32)] = &[
    ("nop", 0xd503_201f, u32::MAX),
    ("barriers", 0xd503_309f, 0xffff_f09f),
    ("hvc", 0xd400_0002, 0xffff_ffff),
    ("eret", 0xd69f_03e0, 0xffff_ffff),
    // CRn = 11 and 15 are IMPLEMENTATION DEFINED, and so without names.
    ("mrs, msr", 0xd518_b000, 0xffd8_b000),
    ("msr SPSel", 0xd500_40bf, 0xffff_f0ff),
    ("ic, dc and tlbi of EL1", 0xd508_7000, 0xffff_f000),
    ("tlbi of EL1", 0xd508_8700, 0xffff_ff00),
    ("dc of EL0", 0xd50b_7000, 0xffff_f000),
    ("tlbi of EL2", 0xd50c_8700, 0xffff_ff00),
];

/// Registers that the disassembler does not know by name.
const UNKNOWN: &[&str] = &["id_aa64pfr2_el1"];

const CONDITIONS: [&str; 16] = [
    "eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le", "al", "nv",
];
const SHIFTS: [&str; 4] = ["lsl", "lsr", "asr", "ror"];

/// Returns a general register whose number 31 is zero.
fn zr(wide: bool, number: usize) -> String {
    let size = if wide { 'x' } else { 'w' };
    if number == ZERO { format!("{size}zr") } else { format!("{size}{number}") }
}

/// Returns a general register whose number 31 is the stack pointer.
fn sp(wide: bool, number: usize) -> String {
    match (number, wide) {
        (ZERO, true) => "sp".to_owned(),
        (ZERO, false) => "wsp".to_owned(),
        _ => zr(wide, number),
    }
}

fn shifted(wide: bool, rm: Shifted) -> String {
    let register = zr(wide, rm.register);
    match (rm.kind, rm.amount) {
        (0, 0) => register,
        (kind, amount) => format!("{register}, {} #{amount}", SHIFTS[kind as usize]),
    }
}

/// Returns the name of a register that the model knows, or else its encoding.
fn system_register(register: SystemRegister) -> String {
    let field = |lsb: u16, bits: u16| register.0 >> lsb & ((1 << bits) - 1);
    match registers::ALL.iter().find(|(known, _)| *known == register) {
        Some((_, name)) => (*name).to_owned(),
        None => format!(
            "s{}_{}_c{}_c{}_{}",
            field(14, 2),
            field(11, 3),
            field(7, 4),
            field(3, 4),
            field(0, 3)
        ),
    }
}

/// Returns the model's instruction as the disassembler writes it.
fn ours(instruction: Instruction) -> String {
    use Instruction::*;
    let target = |offset: i64| format!("{offset:#x}");
    match instruction {
        Nop => "nop".to_owned(),
        Isb => "isb".to_owned(),
        Dmb => "dmb sy".to_owned(),
        Dsb(Domain::System) => "dsb sy".to_owned(),
        Dsb(Domain::Local) => "dsb nsh".to_owned(),
        Dsb(Domain::Inner) => "dsb ish".to_owned(),
        Hvc => "hvc #0x0".to_owned(),
        Eret => "eret".to_owned(),
        Branch { offset, link } => {
            format!("{} {}", if link { "bl" } else { "b" }, target(offset))
        }
        BranchIf { condition, offset } => {
            format!("b.{} {}", CONDITIONS[condition as usize], target(offset))
        }
        CompareBranch { wide, nonzero, rt, offset } => {
            let name = if nonzero { "cbnz" } else { "cbz" };
            format!("{name} {}, {}", zr(wide, rt), target(offset))
        }
        TestBranch { bit, set, rt, offset } => {
            let name = if set { "tbnz" } else { "tbz" };
            format!("{name} {}, #{bit}, {}", zr(bit >= 32, rt), target(offset))
        }
        BranchTo { rn } => format!("br {}", zr(true, rn)),
        Address { page, rd, offset } => {
            format!("{} {}, {}", if page { "adrp" } else { "adr" }, zr(true, rd), target(offset))
        }
        AddImmediate { wide, subtract, flags, rd, rn, value } => {
            let rd = if flags { zr(wide, rd) } else { sp(wide, rd) };
            format!("{} {rd}, {}, #{value:#x}", add(subtract, flags), sp(wide, rn))
        }
        AddRegister { wide, subtract, flags, rd, rn, rm } => {
            let (rd, rn, rm) = (zr(wide, rd), zr(wide, rn), shifted(wide, rm));
            format!("{} {rd}, {rn}, {rm}", add(subtract, flags))
        }
        LogicalImmediate { wide, operation, rd, rn, value } => {
            let rd = if operation == Logical::Ands { zr(wide, rd) } else { sp(wide, rd) };
            format!("{} {rd}, {}, #{value:#x}", logical(operation, false), zr(wide, rn))
        }
        LogicalRegister { wide, operation, invert, rd, rn, rm } => {
            let (rd, rn, rm) = (zr(wide, rd), zr(wide, rn), shifted(wide, rm));
            format!("{} {rd}, {rn}, {rm}", logical(operation, invert))
        }
        MoveWide { wide, kind, rd, value, shift } => {
            let name = match kind {
                Move::Not => "movn",
                Move::Zero => "movz",
                Move::Keep => "movk",
            };
            format!("{name} {}, #{value:#x}, lsl #{shift:#x}", zr(wide, rd))
        }
        Bitfield { wide, signed, rd, rn, rotate, last } => {
            let name = if signed { "sbfm" } else { "ubfm" };
            format!("{name} {}, {}, #{rotate}, #{last}", zr(wide, rd), zr(wide, rn))
        }
        ShiftLeft { wide, rd, rn, rm } => {
            format!("lslv {}, {}, {}", zr(wide, rd), zr(wide, rn), zr(wide, rm))
        }
        ConditionalCompare { wide, rn, value, flags, condition } => {
            let condition = CONDITIONS[condition as usize];
            format!("ccmp {}, #{value:#x}, #{flags:#x}, {condition}", zr(wide, rn))
        }
        Select { wide, rd, rn, rm, condition } => {
            let condition = CONDITIONS[condition as usize];
            format!("csel {}, {}, {}, {condition}", zr(wide, rd), zr(wide, rn), zr(wide, rm))
        }
        ReverseBytes { wide, rd, rn } => format!("rev {}, {}", zr(wide, rd), zr(wide, rn)),
        Crc32c { rd, rn, rm } => {
            format!("crc32cx {}, {}, {}", zr(false, rd), zr(false, rn), zr(true, rm))
        }
        Pair { load, size, rt, rt2, rn, offset, after } => {
            let register = |number| match size {
                16 => format!("q{number}"),
                _ => zr(size == 8, number),
            };
            let place = if after { after_base(rn, offset) } else { at_base(rn, offset, "#") };
            let name = if load { "ldp" } else { "stp" };
            format!("{name} {}, {}, {place}", register(rt), register(rt2))
        }
        Single { load, rt, rn, place } => {
            let place = match place {
                Place::At(0) => format!("[{}]", sp(true, rn)),
                Place::At(offset) => format!("[{}, #{offset:#x}]", sp(true, rn)),
                Place::After(offset) => after_base(rn, offset),
                Place::Indexed { index, shift: 0 } => {
                    format!("[{}, {}]", sp(true, rn), zr(true, index))
                }
                Place::Indexed { index, shift } => {
                    format!("[{}, {}, lsl #{shift}]", sp(true, rn), zr(true, index))
                }
            };
            format!("{} {}, {place}", if load { "ldr" } else { "str" }, zr(true, rt))
        }
        ReadSystem { register, rt } => {
            format!("mrs {}, {}", zr(true, rt), system_register(register))
        }
        WriteSystem { register, rt } => {
            format!("msr {}, {}", system_register(register), zr(true, rt))
        }
        Mask { set, bits } => {
            format!("msr {}, #{bits:#x}", if set { "daifset" } else { "daifclr" })
        }
        SelectStack { value } => format!("msr spsel, #{value:#x}"),
        // The disassembler writes these by their encodings.
        Dc { operation: self::Dc::CleanInvalidate, rt } => sys("#3, c7, c14, #1", rt),
        Dc { operation: self::Dc::Clean, rt } => sys("#3, c7, c10, #1", rt),
        Dc { operation: self::Dc::Invalidate, rt } => sys("#0, c7, c6, #1", rt),
        Ic(Domain::Inner) => sys("#0, c7, c1, #0", ZERO),
        Ic(_) => sys("#0, c7, c5, #0", ZERO),
        Tlbi(self::Tlbi::Vmalle1) => sys("#0, c8, c7, #0", ZERO),
        Tlbi(self::Tlbi::Alle1) => sys("#4, c8, c7, #4", ZERO),
        Tlbi(self::Tlbi::Alle2) => sys("#4, c8, c7, #0", ZERO),
    }
}

fn sys(encoding: &str, rt: usize) -> String {
    format!("sys {encoding}, {}", zr(true, rt))
}

fn add(subtract: bool, flags: bool) -> String {
    format!("{}{}", if subtract { "sub" } else { "add" }, if flags { "s" } else { "" })
}

fn logical(operation: Logical, invert: bool) -> &'static str {
    match (operation, invert) {
        (Logical::And, false) => "and",
        (Logical::Orr, false) => "orr",
        (Logical::Eor, false) => "eor",
        (Logical::Ands, false) => "ands",
        (Logical::And, true) => "bic",
        (Logical::Orr, true) => "orn",
        (Logical::Eor, true) => "eon",
        (Logical::Ands, true) => "bics",
    }
}

fn at_base(rn: usize, offset: i64, sign: &str) -> String {
    match offset {
        0 => format!("[{}]", sp(true, rn)),
        _ => format!("[{}, {sign}{offset}]", sp(true, rn)),
    }
}

fn after_base(rn: usize, offset: i64) -> String {
    format!("[{}], #{offset}", sp(true, rn))
}

/// Returns the disassembler's text at PC 0, with single spaces; `None` if there is no such
/// instruction.
///
/// The model has one form for returns and branches, and the value of a shifted immediate.
fn theirs(word: u32) -> Option<String> {
    let text = decoder::decode(word)?.to_string();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.strip_prefix("ret ").map_or(text.clone(), |rest| format!("br {rest}"));
    if text.contains("<undefined>") {
        return None;
    }
    let is_add = word & 0x1f80_0000 == 0x1100_0000;
    Some(match text.strip_suffix(", lsl #12").filter(|_| is_add) {
        Some(unshifted) => {
            let (before, value) = unshifted.split_once("#0x").expect("an immediate");
            let value = u64::from_str_radix(value, 16).expect("a hexadecimal number") << 12;
            format!("{before}#{value:#x}")
        }
        None => text,
    })
}

#[test]
fn what_the_model_decodes_is_what_a_disassembler_reads() {
    let mut random = SplitMix64::new(0xdeca);
    let mut mnemonics = BTreeSet::new();
    for (name, value, mask) in PATTERNS.iter().chain(SYSTEM) {
        let mut decoded = 0;
        for _ in 0..RANDOM {
            let word = random.next_u64() as u32 & !mask | value;
            if let Some(instruction) = decode(word) {
                let ours = ours(instruction);
                assert_eq!(Some(&ours), theirs(word).as_ref(), "{name}: {word:#010x}");
                mnemonics.insert(ours.split(' ').next().expect("a mnemonic").to_owned());
                decoded += 1;
            }
        }
        assert!(decoded > 0, "{name}: the model decodes none");
    }
    let conditional = |mnemonic: &&String| mnemonic.starts_with("b.");
    assert_eq!(mnemonics.iter().filter(conditional).count(), 16);
    mnemonics.retain(|mnemonic| !conditional(&mnemonic));
    assert_eq!(
        mnemonics.iter().map(String::as_str).collect::<Vec<_>>().join(" "),
        "add adds adr adrp and ands b bic bics bl br cbnz cbz ccmp crc32cx csel dmb dsb eon eor \
         eret hvc isb ldp ldr lslv movk movn movz mrs msr nop orn orr rev sbfm stp str sub subs \
         sys tbnz tbz ubfm"
    );
}

#[test]
fn each_system_register_has_its_name() {
    let mut unknown = Vec::new();
    for (register, name) in registers::ALL {
        let word = 0xd530_0000 | u32::from(register.0) << 5;
        let text = theirs(word).expect("an mrs");
        if text.starts_with("mrs x0, s3_") {
            unknown.push(*name);
        } else {
            assert_eq!(text, format!("mrs x0, {name}"));
        }
    }
    assert_eq!(unknown, UNKNOWN, "the disassembler knows no name of these");
}

#[test]
fn the_model_refuses_only_what_its_code_may_not_do() {
    let mut random = SplitMix64::new(0x5eed);
    for (name, value, mask) in PATTERNS {
        for _ in 0..RANDOM {
            let word = random.next_u64() as u32 & !mask | value;
            let Some(text) = theirs(word).filter(|_| decode(word).is_none()) else { continue };
            // A base of SP, or a register that is transferred twice or written back to, which is
            // CONSTRAINED UNPREDICTABLE. The code has no bfm.
            let registers: Vec<_> = text
                .split([' ', ',', '[', ']'])
                .skip(1)
                .filter(|word| word.starts_with(['x', 'w', 'q']))
                .collect();
            let twice =
                (1..registers.len()).any(|last| registers[..last].contains(&registers[last]));
            let is_meant = text.contains("[sp") || twice || text.starts_with("bfm ");
            assert!(is_meant, "{name}: {word:#010x} is {text}");
        }
    }
}
