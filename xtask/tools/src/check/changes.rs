//! Computes which registers a routine of the linked kernel has changed when it is left.
//!
//! It interprets the routine's instructions without values: a register holds what another place
//! held at the entry, an address on the stack, a constant, or something unknown. So a register that
//! the routine saves and restores counts as kept. At a join, places that differ are unknown.
//!
//! - Code leaves by `ret` or `eret`; in a routine with neither, by `br`. Paths that never leave,
//!   such as those that print and stop, do not count.
//! - A `bl` to assembly changes what that routine changes, one to Rust what AAPCS64 allows, `hvc`
//!   what the hyp-stub's ABI allows.
//! - An `adr` of a place in the routine is a way there. In such a routine `eret` leads there too.
//! - The condition flags are kept by an `eret` if the routine kept them in SPSR.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
};

use model::decode::{Instruction, Logical, Move, Place as Address, SystemRegister, ZERO, decode};

use super::linked::Linked;

/// A register that a contract can name, or a place that the interpretation needs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// x0 to x30.
    X(usize),
    /// q0 to q31.
    Q(usize),
    /// The condition flags.
    Flags,
    /// A system register that has no effect on the CPU: an index of [`SCRATCH`].
    Scratch(usize),
    /// SPSR of the current level.
    Spsr,
    /// The stack pointer.
    Sp,
    /// A place on the stack, relative to SP at the entry.
    Slot(i64),
}

/// System registers that code uses as scratch space, and FPSR.
pub const SCRATCH: [(&str, SystemRegister); 4] = [
    ("TPIDR_EL0", SystemRegister::new(3, 13, 0, 2)),
    ("TPIDRRO_EL0", SystemRegister::new(3, 13, 0, 3)),
    ("TPIDR_EL2", SystemRegister::new(4, 13, 0, 2)),
    ("FPSR", SystemRegister::new(3, 4, 4, 1)),
];
const TPIDR_EL2: Place = Place::Scratch(2);
const FPSR: Place = Place::Scratch(3);

/// SPSR_EL1 and SPSR_EL2. Under E2H the first name reaches the second register.
const SPSR: [SystemRegister; 2] =
    [SystemRegister::new(0, 4, 0, 0), SystemRegister::new(4, 4, 0, 0)];

/// N, Z, C and V in SPSR.
const NZCV: u64 = 0b1111 << 28;

/// Returns what a function may change by AAPCS64, with x18, which our target does not reserve.
pub fn by_a_function() -> BTreeSet<Place> {
    let general = (0..=18).chain([30]).map(Place::X);
    general.chain((0..32).map(Place::Q)).chain([Place::Flags, FPSR]).collect()
}

/// Returns what an `hvc` may change by the hyp-stub's ABI.
fn by_the_stub() -> BTreeSet<Place> {
    (0..=18).map(Place::X).chain([TPIDR_EL2]).collect()
}

impl Place {
    /// Reports whether a contract names such places.
    fn is_register(self) -> bool {
        !matches!(self, Self::Spsr | Self::Sp | Self::Slot(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X(number) => write!(f, "x{number}"),
            Self::Q(number) => write!(f, "q{number}"),
            Self::Flags => f.write_str("flags"),
            Self::Scratch(index) => f.write_str(SCRATCH[*index].0),
            Self::Spsr => f.write_str("SPSR"),
            Self::Sp => f.write_str("SP"),
            Self::Slot(offset) => write!(f, "[SP, #{offset}]"),
        }
    }
}

/// The contents of a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Value {
    /// The contents of that place at the entry.
    Entry(Place),
    /// A word with the NZCV that SPSR had at the entry.
    WithFlags,
    /// SP at the entry, plus an offset.
    Stack(i64),
    Constant(u64),
    /// An address in the table that starts there.
    In(u64),
    Unknown,
}

/// The places that differ from the entry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct State(BTreeMap<Place, Value>);

impl State {
    fn default_of(place: Place) -> Value {
        match place {
            Place::Slot(_) => Value::Unknown,
            Place::Sp => Value::Stack(0),
            Place::X(ZERO) => Value::Constant(0),
            _ => Value::Entry(place),
        }
    }

    fn get(&self, place: Place) -> Value {
        self.0.get(&place).copied().unwrap_or(Self::default_of(place))
    }

    fn set(&mut self, place: Place, value: Value) {
        if place == Place::X(ZERO) || value == Self::default_of(place) {
            self.0.remove(&place);
        } else {
            self.0.insert(place, value);
        }
    }

    fn forget(&mut self, places: &BTreeSet<Place>) {
        places.iter().for_each(|&place| self.set(place, Value::Unknown));
    }

    /// Merges the state of another path; reports whether that changed anything.
    fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        let places: BTreeSet<_> = self.0.keys().chain(other.0.keys()).copied().collect();
        for place in places {
            if self.get(place) != other.get(place) {
                self.set(place, Value::Unknown);
            }
        }
        *self != before
    }

    fn changed(&self) -> impl Iterator<Item = Place> {
        self.0.keys().copied().filter(|place| place.is_register())
    }

    /// Moves registers between memory and themselves. Only the stack is known memory.
    fn access(&mut self, access: &Access) {
        let base = self.get(access.base);
        let offset = if access.update == Update::After { 0 } else { access.offset };
        for (slot, &place) in (0..).zip(&access.places) {
            let at = match base {
                Value::Stack(start) if access.size >= 8 => {
                    Some(Place::Slot(start + offset + slot * access.size))
                }
                _ => None,
            };
            match at {
                Some(at) if access.load => self.set(place, self.get(at)),
                Some(at) => self.set(at, self.get(place)),
                None if access.load => self.set(place, Value::Unknown),
                None => {}
            }
        }
        if access.update != Update::None {
            self.set(access.base, plus(base, access.offset));
        }
    }
}

/// Returns a value plus an offset.
fn plus(value: Value, offset: i64) -> Value {
    match value {
        _ if offset == 0 => value,
        Value::Stack(start) => Value::Stack(start + offset),
        Value::Constant(number) => Value::Constant(number.wrapping_add_signed(offset)),
        _ => Value::Unknown,
    }
}

/// A load or a store.
struct Access {
    load: bool,
    places: Vec<Place>,
    /// Bytes of each place.
    size: i64,
    base: Place,
    offset: i64,
    update: Update,
}

/// The moment at which the base takes the offset.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Update {
    None,
    Before,
    After,
}

/// An instruction outside the model's closed list, which refuses stacks, bytes and waiting.
enum Further {
    Access(Access),
    /// Changes these places, and nothing that is tracked depends on it.
    Changes(Vec<Place>),
    /// blr
    CallTo(usize),
}

/// Decodes the further instructions that the contracts' routines consist of.
fn further(word: u32) -> Option<Further> {
    let field = |lsb: u32, bits: u32| (word >> lsb & ((1 << bits) - 1)) as usize;
    let signed =
        |lsb: u32, bits: u32| i64::from((word << (32 - lsb - bits)).cast_signed() >> (32 - bits));
    let (rt, rn, rt2) = (field(0, 5), field(5, 5), field(10, 5));
    let load = field(22, 1) == 1;
    let base = if rn == ZERO { Place::Sp } else { Place::X(rn) };
    let pair = |update| {
        let places = vec![Place::X(rt), Place::X(rt2)];
        Further::Access(Access { load, places, size: 8, base, offset: 8 * signed(15, 7), update })
    };
    let changes = |places: &[Place]| Further::Changes(places.to_vec());
    Some(match word {
        // smc, by the SMC Calling Convention
        0xd400_0003 => Further::Changes((0..=17).map(Place::X).collect()),
        // wfi; str of 8, 16 or 32 bits
        0xd503_207f => changes(&[]),
        _ if word >> 30 < 3 && word & 0x3fc0_0000 == 0x3900_0000 => changes(&[]),
        // ldr of 8, 16 or 32 bits; ldrb with update
        _ if word >> 30 < 3 && word & 0x3fc0_0000 == 0x3940_0000 => changes(&[Place::X(rt)]),
        _ if word & 0xffe0_0c00 == 0x3840_0400 => changes(&[Place::X(rt), base]),
        // lsrv, udiv, msub, pacga
        _ if word & 0x7fe0_fc00 == 0x1ac0_2400 => changes(&[Place::X(rt)]),
        _ if word & 0x7fe0_fc00 == 0x1ac0_0800 => changes(&[Place::X(rt)]),
        _ if word & 0x7fe0_8000 == 0x1b00_8000 => changes(&[Place::X(rt)]),
        _ if word & 0xffe0_fc00 == 0x9ac0_3000 => changes(&[Place::X(rt)]),
        // ccmp with a register
        _ if word & 0x7fe0_0c10 == 0x7a40_0000 => changes(&[Place::Flags]),
        // setp
        _ if word & 0xffe0_fc00 == 0x19c0_0400 => {
            changes(&[Place::X(rt), Place::X(rn), Place::Flags])
        }
        _ if word & 0xffff_fc1f == 0xd63f_0000 => Further::CallTo(rn),
        // stp, ldp; str, ldr
        _ if word & 0xff80_0000 == 0xa880_0000 => pair(Update::After),
        _ if word & 0xff80_0000 == 0xa980_0000 => pair(Update::Before),
        _ if word & 0xff80_0000 == 0xa900_0000 => pair(Update::None),
        _ if word & 0xff80_0000 == 0xf900_0000 => Further::Access(Access {
            load,
            places: vec![Place::X(rt)],
            size: 8,
            base,
            offset: 8 * field(10, 12) as i64,
            update: Update::None,
        }),
        // st1, ld1 of four whole registers
        _ if word & 0xffbf_fc00 == 0x4c9f_2c00 => Further::Access(Access {
            load,
            places: (rt..rt + 4).map(|number| Place::Q(number % 32)).collect(),
            size: 16,
            base,
            offset: 64,
            update: Update::After,
        }),
        _ => return None,
    })
}

/// The way on from an instruction.
enum Next {
    /// To these addresses.
    To(Vec<u64>),
    /// To the instruction behind, after a call of this routine or of any function.
    Call(Option<u64>),
    /// Out of the routine.
    Leave(Exit),
}

/// How a routine is left.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Exit {
    Return,
    Eret,
    /// br
    Jump,
}

/// A routine that has a contract.
#[derive(Clone, Debug)]
pub struct Routine {
    /// Its code, up to the next symbol.
    pub range: Range<u64>,
    /// Bytes of a slot, if it is a table: each slot is an entry.
    pub slot: Option<usize>,
}

/// Computes what routines change; keeps what it has computed.
pub struct Reader<'a> {
    linked: &'a Linked,
    routines: BTreeMap<u64, Routine>,
    functions: BTreeSet<u64>,
    known: BTreeMap<u64, Option<BTreeSet<Place>>>,
    active: Vec<u64>,
}

impl<'a> Reader<'a> {
    /// Makes a reader; `routines` are those that have contracts, by their start.
    pub fn new(linked: &'a Linked, routines: BTreeMap<u64, Routine>) -> Self {
        let mangled = |name: &str| name.starts_with("_R") || name.starts_with("_ZN");
        let functions = linked.symbols.iter().filter(|(name, _)| mangled(name));
        let functions = functions.map(|(_, &address)| address).collect();
        Self { linked, routines, functions, known: BTreeMap::new(), active: Vec::new() }
    }

    /// Returns the registers changed when the routine is left; `None` if it never is.
    pub fn routine(&mut self, start: u64) -> Result<Option<BTreeSet<Place>>, String> {
        if self.functions.contains(&start) {
            return Ok(Some(by_a_function()));
        }
        if let Some(known) = self.known.get(&start) {
            return Ok(known.clone());
        }
        if self.active.contains(&start) {
            return Err(format!("the routine at {start:#x} calls itself"));
        }
        self.active.push(start);
        let routine = self.routines.get(&start).cloned();
        let Routine { range, slot } =
            routine.unwrap_or(Routine { range: start..start, slot: None });
        let entries = match slot {
            Some(slot) => range.clone().step_by(slot).collect(),
            None => vec![start],
        };
        let changed = self.entered(&entries, &range);
        self.active.pop();
        let changed = changed?;
        self.known.insert(start, changed.clone());
        Ok(changed)
    }

    fn entered(
        &mut self,
        entries: &[u64],
        own: &Range<u64>,
    ) -> Result<Option<BTreeSet<Place>>, String> {
        let mut states: BTreeMap<u64, State> = BTreeMap::new();
        let mut to_do: Vec<_> = entries.iter().map(|&entry| (entry, State::default())).collect();
        let mut exits: BTreeMap<Exit, BTreeSet<Place>> = BTreeMap::new();
        let mut finds_itself = false;
        while let Some((address, state)) = to_do.pop() {
            let is_new = !states.contains_key(&address);
            let known = states.entry(address).or_insert_with(|| state.clone());
            if !known.merge(&state) && !is_new {
                continue;
            }
            let mut state = known.clone();
            let word = self.word(address)?;
            let next = step(address, word, &mut state)?;
            if let Some(Instruction::Address { page: false, offset, .. }) = decode(word) {
                let target = address.wrapping_add_signed(offset);
                // Its start may also be the end of the code before, and nothing leads back there.
                if own.contains(&target) && target != own.start && self.linked.is_code(target) {
                    finds_itself = true;
                    to_do.push((target, state.clone()));
                }
            }
            match next {
                Next::To(targets) => {
                    to_do.extend(targets.into_iter().map(|target| (target, state.clone())));
                }
                Next::Call(target) => {
                    let changed = match target {
                        Some(target) => self.routine(target)?,
                        None => Some(by_a_function()),
                    };
                    if let Some(changed) = changed {
                        state.set(Place::X(30), Value::Unknown);
                        state.forget(&changed);
                        to_do.push((self.behind(address), state));
                    }
                }
                Next::Leave(exit) => exits.entry(exit).or_default().extend(state.changed()),
            }
        }
        if finds_itself {
            exits.remove(&Exit::Eret);
        }
        let jump = exits.remove(&Exit::Jump);
        Ok(exits.into_values().reduce(|all, one| &all | &one).or(jump))
    }

    /// Returns the address of the next code: text for the printer follows its call.
    fn behind(&self, address: u64) -> u64 {
        let next = address + 4;
        if self.linked.is_code(next) {
            return next;
        }
        self.linked.marks.range(next..).find(|(_, code)| **code).map_or(next, |(&code, _)| code)
    }

    fn word(&self, address: u64) -> Result<u32, String> {
        if !self.linked.is_code(address) {
            return Err(format!("it reaches {address:#x}, which holds no code"));
        }
        Ok(self.linked.words(&(address..address + 4))?[0].1)
    }
}

/// Applies one instruction to the state.
fn step(address: u64, word: u32, state: &mut State) -> Result<Next, String> {
    use Instruction as I;
    let on = Next::To(vec![address + 4]);
    let to = |offset| address.wrapping_add_signed(offset);
    let Some(instruction) = decode(word) else {
        match further(word) {
            Some(Further::Access(access)) => state.access(&access),
            Some(Further::Changes(places)) => state.forget(&places.into_iter().collect()),
            Some(Further::CallTo(rn)) => {
                return Ok(Next::Call(match state.get(Place::X(rn)) {
                    Value::Constant(start) | Value::In(start) => Some(start),
                    _ => None,
                }));
            }
            None => {
                return Err(format!("the instruction {word:#x} at {address:#x} is unknown"));
            }
        }
        return Ok(on);
    };
    match instruction {
        I::Branch { offset, link: false } => return Ok(Next::To(vec![to(offset)])),
        I::Branch { offset, link: true } => return Ok(Next::Call(Some(to(offset)))),
        I::BranchIf { offset, .. }
        | I::CompareBranch { offset, .. }
        | I::TestBranch { offset, .. } => return Ok(Next::To(vec![address + 4, to(offset)])),
        I::BranchTo { .. } => {
            let jump = word & 0xffff_fc1f == 0xd61f_0000;
            return Ok(Next::Leave(if jump { Exit::Jump } else { Exit::Return }));
        }
        I::Eret => {
            let kept =
                matches!(state.get(Place::Spsr), Value::Entry(Place::Spsr) | Value::WithFlags);
            let flags = if kept { Value::Entry(Place::Flags) } else { Value::Unknown };
            state.set(Place::Flags, flags);
            return Ok(Next::Leave(Exit::Eret));
        }
        I::Hvc => state.forget(&by_the_stub()),
        I::AddImmediate { wide, subtract, flags, rd, rn, value } => {
            let from = if rn == ZERO { Place::Sp } else { Place::X(rn) };
            let offset = i64::try_from(value).map_err(|error| error.to_string())?;
            let sum = plus(state.get(from), if subtract { -offset } else { offset });
            let into = if rd == ZERO && !flags { Place::Sp } else { Place::X(rd) };
            state.set(into, if wide { sum } else { Value::Unknown });
            if flags {
                state.set(Place::Flags, Value::Unknown);
            }
        }
        I::LogicalImmediate { operation, rd, rn, value, .. } => {
            let from = state.get(Place::X(rn));
            let result = match operation {
                Logical::And if from == Value::WithFlags && value & NZCV == NZCV => from,
                Logical::Orr if rn == ZERO => Value::Constant(value),
                _ => Value::Unknown,
            };
            let flags = operation == Logical::Ands;
            state.set(if rd == ZERO && !flags { Place::Sp } else { Place::X(rd) }, result);
            if flags {
                state.set(Place::Flags, Value::Unknown);
            }
        }
        I::LogicalRegister { wide, operation, invert, rd, rn, rm } => {
            let (first, second) = (state.get(Place::X(rn)), state.get(Place::X(rm.register)));
            let result = match (operation, first, second) {
                _ if !wide || invert || rm.amount != 0 => Value::Unknown,
                (Logical::Orr, Value::Constant(0), other) => other,
                (Logical::Orr, Value::WithFlags, Value::Constant(bits)) if bits & NZCV == 0 => {
                    first
                }
                _ => Value::Unknown,
            };
            state.set(Place::X(rd), result);
            if operation == Logical::Ands {
                state.set(Place::Flags, Value::Unknown);
            }
        }
        I::MoveWide { kind: Move::Zero, rd, value, shift, .. } => {
            state.set(Place::X(rd), Value::Constant(value << shift));
        }
        I::AddRegister { wide, subtract, flags, rd, rn, .. } => {
            let sum = match state.get(Place::X(rn)) {
                Value::Constant(start) if wide && !subtract => Value::In(start),
                _ => Value::Unknown,
            };
            state.set(Place::X(rd), sum);
            if flags {
                state.set(Place::Flags, Value::Unknown);
            }
        }
        I::Address { page, rd, offset } => {
            let base = if page { address & !0xfff } else { address };
            state.set(Place::X(rd), Value::Constant(base.wrapping_add_signed(offset)));
        }
        I::MoveWide { rd, .. }
        | I::Bitfield { rd, .. }
        | I::ShiftLeft { rd, .. }
        | I::Select { rd, .. }
        | I::ReverseBytes { rd, .. }
        | I::Crc32c { rd, .. } => state.set(Place::X(rd), Value::Unknown),
        I::ConditionalCompare { .. } => state.set(Place::Flags, Value::Unknown),
        I::Pair { load, size, rt, rt2, rn, offset, after } => {
            let place = if size == 16 { Place::Q } else { Place::X };
            let update = if after { Update::After } else { Update::None };
            state.access(&Access {
                load,
                places: vec![place(rt), place(rt2)],
                size: size.cast_signed(),
                base: Place::X(rn),
                offset,
                update,
            });
        }
        I::Single { load, rt, rn, place } => {
            // Only code without a stack indexes, so the base is no address on it.
            let (offset, update) = match place {
                Address::At(offset) => (offset, Update::None),
                Address::After(offset) => (offset, Update::After),
                Address::Indexed { .. } => (0, Update::None),
            };
            let places = vec![Place::X(rt)];
            let base = Place::X(rn);
            state.access(&Access { load, places, size: 8, base, offset, update });
        }
        I::ReadSystem { register, rt } => {
            let value = match tracked(register) {
                Some(Place::Spsr) if state.get(Place::Spsr) == Value::Entry(Place::Spsr) => {
                    Value::WithFlags
                }
                Some(place) => state.get(place),
                None => Value::Unknown,
            };
            state.set(Place::X(rt), value);
        }
        I::WriteSystem { register, rt } => {
            if let Some(place) = tracked(register) {
                state.set(place, state.get(Place::X(rt)));
            }
        }
        I::Nop | I::Mask { .. } | I::SelectStack { .. } | I::Isb | I::Dsb(_) | I::Dmb => {}
        I::Dc { .. } | I::Ic(_) | I::Tlbi(_) => {}
    }
    Ok(on)
}

/// Returns the place that follows a system register.
fn tracked(register: SystemRegister) -> Option<Place> {
    let scratch = SCRATCH.iter().position(|(_, scratch)| *scratch == register);
    scratch.map(Place::Scratch).or(SPSR.contains(&register).then_some(Place::Spsr))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RET: u32 = 0xd65f_03c0;
    const ERET: u32 = 0xd69f_03e0;
    const B_SELF: u32 = 0x1400_0000;
    const CMP_X0: u32 = 0xf100_041f;
    const MOV_X9_X0: u32 = 0xaa00_03e9;
    const MOV_X10: u32 = 0xd280_00aa;
    /// stp, ldp: x19 and x30, with 16 bytes of stack.
    const PUSH: u32 = 0xa9bf_7bf3;
    const POP: u32 = 0xa8c1_7bf3;
    const MOV_X19_X0: u32 = 0xaa00_03f3;

    /// Returns what the code changes, as text; the first word is at 0x1000.
    fn said(code: &[u32]) -> Result<String, String> {
        linked_said(&linked(code), None)
    }

    fn linked(code: &[u32]) -> Linked {
        let mut image = vec![0; 0x1000];
        image.extend(code.iter().flat_map(|word| word.to_le_bytes()));
        let end = image.len() as u64;
        Linked { image, marks: [(0x1000, true), (end, false)].into(), ..Linked::default() }
    }

    fn linked_said(linked: &Linked, slot: Option<usize>) -> Result<String, String> {
        let routine = Routine { range: 0x1000..0x1010, slot };
        let mut reader = Reader::new(linked, [(0x1000, routine)].into());
        Ok(match reader.routine(0x1000)? {
            None => "never left".to_owned(),
            Some(places) => places.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        })
    }

    fn changes(code: &[u32]) -> String {
        said(code).unwrap()
    }

    #[test]
    fn a_register_is_changed_unless_it_is_restored() {
        assert_eq!(changes(&[RET]), "");
        assert_eq!(changes(&[MOV_X9_X0, CMP_X0, RET]), "x9 flags");
        assert_eq!(changes(&[PUSH, MOV_X19_X0, RET]), "x19");
        assert_eq!(changes(&[PUSH, MOV_X19_X0, POP, RET]), "");
        assert_eq!(changes(&[PUSH, 0xa8c1_4ffe, RET]), "x19 x30", "ldp x30, x19, [sp], #16");
        // msr tpidr_el2, x18; mrs x18, esr_el2; mrs x18, tpidr_el2
        assert_eq!(changes(&[0xd51c_d052, 0xd53c_5212, 0xd53c_d052, RET]), "TPIDR_EL2");
        assert_eq!(changes(&[0xd51c_d052, 0xd53c_5212, RET]), "x18 TPIDR_EL2");
    }

    #[test]
    fn vector_registers_are_restored_through_a_copy_of_sp() {
        // sub sp, sp, #96; add x0, sp, #16; st1 {v0-v3}, [x0], #64
        let save = [0xd101_83ff, 0x9100_43e0, 0x4c9f_2c00];
        // ldp q0, q1, [x5], #32
        let use_them = [0xacc1_04a0];
        // add x0, sp, #16; ld1 {v0-v3}, [x0], #64; add sp, sp, #96; ret
        let restore = [0x9100_43e0, 0x4cdf_2c00, 0x9101_83ff, RET];
        assert_eq!(changes(&[&save[..], &use_them, &restore].concat()), "x0 x5");
        assert_eq!(changes(&[&save[..], &use_them, &restore[2..]].concat()), "x0 x5 q0 q1");
    }

    #[test]
    fn only_paths_that_leave_count() {
        // cbz x0, to the ret
        assert_eq!(changes(&[0xb400_0060, MOV_X10, B_SELF, RET]), "");
        assert_eq!(changes(&[0xb400_0040, MOV_X10, RET]), "x10");
        assert_eq!(changes(&[MOV_X10, B_SELF]), "never left");
        let br_x4 = 0xd61f_0080;
        assert_eq!(changes(&[MOV_X10, br_x4]), "x10");
        // cbz x0, to the br
        assert_eq!(changes(&[0xb400_0060, MOV_X9_X0, RET, MOV_X10, br_x4]), "x9");
    }

    #[test]
    fn a_call_changes_what_it_calls_does() {
        // bl +8; ret; mov x9, x0; ret
        assert_eq!(changes(&[0x9400_0002, RET, MOV_X9_X0, RET]), "x9 x30");
        // mov x17, x30; bl +8; ret x17; b .
        assert_eq!(changes(&[0xaa1e_03f1, 0x9400_0002, 0xd65f_0220, B_SELF]), "never left");
        assert!(changes(&[0xd400_0002, RET]).ends_with(" x17 x18 TPIDR_EL2"), "hvc");
        let mut rust = linked(&[0x9400_0002, RET, MOV_X9_X0, RET]);
        rust.symbols.insert("_RNvCs_6kernel1f".to_owned(), 0x1008);
        let changed = linked_said(&rust, None).unwrap();
        assert!(changed.starts_with("x0 x1 ") && changed.contains(" x18 x30 q0 "), "{changed}");
        assert!(changed.ends_with(" q31 flags FPSR"), "{changed}");
    }

    #[test]
    fn text_behind_a_call_is_skipped() {
        let mut with_text = linked(&[0x9400_0003, 0x0021_2121, RET, RET]);
        assert!(linked_said(&with_text, None).unwrap_err().contains("0x212121 at 0x1004"));
        with_text.marks.extend([(0x1004, false), (0x1008, true)]);
        assert_eq!(linked_said(&with_text, None).unwrap(), "x30");
    }

    #[test]
    fn an_eret_restores_the_flags_that_spsr_holds() {
        let (read, write) = (0xd53c_4009, 0xd51c_4009);
        let (clear_mode, keep_mode, orr_x10) = (0x927b_e929, 0x9240_1129, 0xaa0a_0129);
        assert_eq!(changes(&[CMP_X0, ERET]), "");
        assert_eq!(changes(&[write, ERET]), "flags");
        assert_eq!(changes(&[MOV_X10, read, clear_mode, orr_x10, write, ERET]), "x9 x10");
        assert_eq!(changes(&[MOV_X10, read, keep_mode, orr_x10, write, ERET]), "x9 x10 flags");
        assert_eq!(changes(&[read, clear_mode, orr_x10, write, ERET]), "x9 flags");
    }

    #[test]
    fn an_address_of_its_own_code_is_a_way_there() {
        // adr x1, to the word behind the eret; the eret itself does not leave
        assert_eq!(changes(&[0x1000_0061, MOV_X9_X0, ERET, RET]), "x1");
        assert_eq!(changes(&[0x1000_0061, MOV_X9_X0, RET, RET]), "x1 x9");
    }

    #[test]
    fn each_slot_of_a_table_is_an_entry_and_a_call_into_it_calls_any() {
        let table = linked(&[MOV_X9_X0, RET, MOV_X10, RET]);
        assert_eq!(linked_said(&table, Some(8)).unwrap(), "x9 x10");
        assert_eq!(linked_said(&table, None).unwrap(), "x9");
        // adrp x1, 0x1000; add x1, x1, #0; add x1, x1, x0, lsl #3; blr x1; ret
        let code = [0x9000_0001, 0x9100_0021, 0x8b00_0c21, 0xd63f_0020, RET];
        let caller = linked(&[&[MOV_X9_X0, RET, MOV_X10, RET], &code[..]].concat());
        let mut reader = Reader::new(
            &caller,
            [(0x1000, Routine { range: 0x1000..0x1010, slot: Some(8) })].into(),
        );
        let changed = reader.routine(0x1010).unwrap().unwrap();
        assert_eq!(changed, [1, 9, 10, 30].map(Place::X).into());
    }

    #[test]
    fn further_instructions_change_these() {
        for (word, changed) in [
            (0x3840_15a9, "x9 x13"),
            (0xb900_0109, ""),
            (0x7900_0149, ""),
            (0x3900_0149, ""),
            (0x3940_0150, "x16"),
            (0x7940_0150, "x16"),
            (0xb940_190a, "x10"),
            (0x9acb_2409, "x9"),
            (0x1aca_092b, "x11"),
            (0x1b0a_a560, "x0"),
            (0x9ac1_3021, "x1"),
            (0x19df_0441, "x1 x2 flags"),
            (0xd503_207f, ""),
            (0xd400_0003, "x0 x1 x2 x3 x4 x5 x6 x7 x8 x9 x10 x11 x12 x13 x14 x15 x16 x17"),
            (0xf877_7a69, "x9"),
            (0xf240_083f, "flags"),
            (0x9a89_1169, "x9"),
            (0xfa41_2002, "flags"),
            (0xab0a_0129, "x9 flags"),
            (0xf940_0bf2, "x18"),
            (0x9100_03fd, "x29"),
        ] {
            assert_eq!(changes(&[word, RET]), changed, "{word:#x}");
        }
    }

    #[test]
    fn an_unknown_instruction_and_a_way_out_of_the_code_are_refused() {
        assert!(said(&[0xd400_0001, RET]).unwrap_err().contains("0xd4000001 at 0x1000 is unknown"));
        assert!(said(&[MOV_X10]).unwrap_err().contains("0x1004, which holds no code"));
        assert!(said(&[0x9400_0000, RET]).unwrap_err().contains("calls itself"), "bl .");
    }
}
