//! The CPU: executes instructions one by one over [`Memory`] and [`System`].
//!
//! It runs from a symbol of the kernel until the code reaches the point where its contract is
//! checked. The semantics are those of the Arm ARM, C6. The only exceptions are HVC and ERET: any
//! other would be a failure of the code.

use crate::decode::{Dc, Instruction, Logical, Move, Place, Shifted, Tlbi, ZERO, decode};
use crate::failure::Violation;
use crate::memory::{Access, Memory};
use crate::system::registers::*;
use crate::system::{E2H, Level, System};
use crate::translation::{Regime, walk};
use boot::sysreg::{current_el, hcr, sctlr, spsr};
use std::hash::{DefaultHasher, Hash, Hasher};

/// N, Z, C, V: bits 31 to 28 of PSTATE.
const N: u64 = 1 << 31;
const Z: u64 = 1 << 30;
const C: u64 = 1 << 29;
const V: u64 = 1 << 28;

/// GCSCR_EL1.PCRSEL: calls push to, and returns pop from, the guarded control stack.
const PCRSEL: u64 = 1 << 0;

/// Offset of a vector table's synchronous slot, for exceptions from the same and from a lower
/// level.
const FROM_HERE: u64 = 0x200;
const FROM_BELOW: u64 = 0x400;

/// A CPU, with its registers and memory.
#[derive(Clone, Debug, Hash)]
#[expect(missing_docs, reason = "named as in the Arm ARM")]
pub struct Cpu {
    pub x: [u64; 31],
    pub q: [u128; 32],
    pub pc: u64,
    /// NZCV at their bits of PSTATE.
    pub flags: u64,
    /// DAIF at its bits of PSTATE.
    pub daif: u64,
    pub level: Level,
    pub sp_el2: u64,
    pub system: System,
    pub memory: Memory,
    /// The number of instructions executed, which is also the time.
    pub steps: u64,
    /// The steps of the last memory access and of the last context synchronization event.
    touched: u64,
    synchronised: u64,
    /// The number of early counter reads allowed: those that record the time of the entry.
    pub early_readings: u32,
}

impl Cpu {
    /// Makes a CPU about to execute at `pc`, with exceptions masked.
    #[must_use]
    pub fn new(system: System, memory: Memory, level: Level, pc: u64) -> Self {
        Self {
            x: [0; 31],
            q: [0; 32],
            pc,
            flags: 0,
            daif: spsr::DAIF,
            level,
            sp_el2: 0,
            system,
            memory,
            steps: 0,
            touched: 0,
            synchronised: 0,
            early_readings: 0,
        }
    }

    /// Executes one instruction.
    pub fn step(&mut self) -> Result<(), Violation> {
        self.memory.meddle();
        let (place, _) = self.translate(Access::Execute, self.pc)?;
        let word = self.memory.fetch(place)?;
        let instruction = decode(word).ok_or(Violation::Instruction(word))?;
        self.steps += 1;
        let next = self.pc.wrapping_add(4);
        self.pc = self.execute(instruction, next)?;
        Ok(())
    }

    /// Returns a hash of the state: two equal states continue in the same way.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Loads as the code would, through the map and the caches.
    pub fn read(&mut self, address: u64) -> Result<u64, Violation> {
        self.load(address, 8).map(|value| value as u64)
    }

    /// Translates an address; returns the physical address and whether the access is cacheable.
    pub fn translate(&mut self, access: Access, address: u64) -> Result<(u64, bool), Violation> {
        if access != Access::Execute {
            self.touched = self.steps;
        }
        let adversary = &mut self.memory.adversary;
        let (regime, sctlr, ttbr0, tcr, mair) = match self.level {
            Level::El1 => (Regime::El10, SCTLR_EL1, TTBR0_EL1, TCR_EL1, MAIR_EL1),
            Level::El2 if self.system.effect(HCR_EL2, adversary) & E2H == 0 => {
                (Regime::El2, SCTLR_EL2, TTBR0_EL2, TCR_EL2, MAIR_EL2)
            }
            Level::El2 => (Regime::El20, SCTLR_EL2, TTBR0_EL2, TCR_EL2, MAIR_EL2),
        };
        let control = self.system.effect(sctlr, adversary);
        if control & sctlr::EE != 0 && access != Access::Execute {
            return Err(Violation::BigEndian(address));
        }
        if control & sctlr::M == 0 {
            return Ok((address, false));
        }
        let root = self.system.effect(ttbr0, adversary);
        let asid = if regime == Regime::El2 { 0 } else { (root >> 48) as u16 };
        let page = address & !0xfff;
        let leaf = match self.memory.tlb.find(regime, asid, page)? {
            Some(leaf) => leaf,
            None => {
                let adversary = &mut self.memory.adversary;
                let (tcr, mair) =
                    (self.system.effect(tcr, adversary), self.system.effect(mair, adversary));
                if tcr & 0x3f != 16 || address >> 48 != 0 {
                    return Err(Violation::Translation(address, tcr));
                }
                let cacheable = control & sctlr::C != 0;
                let leaf = walk(root, mair, page, |at| {
                    self.memory
                        .load(at, 8, cacheable)
                        .map(|bytes| u128::from_le_bytes(bytes) as u64)
                })?;
                if self.memory.adversary.translations != crate::adversary::Mood::Eager {
                    self.memory.tlb.keep(regime, asid, page, leaf);
                }
                leaf
            }
        };
        let allowed = match access {
            Access::Read => true,
            Access::Write => leaf.writable,
            Access::Execute => leaf.executable,
        };
        if !allowed {
            return Err(Violation::Permission(access, address));
        }
        Ok((leaf.page | address & 0xfff, leaf.normal && control & sctlr::C != 0))
    }

    fn load(&mut self, address: u64, size: usize) -> Result<u128, Violation> {
        let (place, cacheable) = self.translate(Access::Read, address)?;
        Ok(u128::from_le_bytes(self.memory.load(place, size, cacheable)?))
    }

    fn store(&mut self, address: u64, value: u128, size: usize) -> Result<(), Violation> {
        let (place, cacheable) = self.translate(Access::Write, address)?;
        self.memory.store(place, &value.to_le_bytes()[..size], cacheable)
    }

    fn get(&self, register: usize) -> u64 {
        self.x.get(register).copied().unwrap_or(0)
    }

    fn set(&mut self, register: usize, wide: bool, value: u64) {
        if let Some(place) = self.x.get_mut(register) {
            *place = if wide { value } else { value & 0xffff_ffff };
        }
    }

    fn stack(&self) -> u64 {
        if self.level == Level::El1 { self.system.get(SP_EL1) } else { self.sp_el2 }
    }

    fn set_stack(&mut self, value: u64) {
        if self.level == Level::El1 {
            self.system.set(SP_EL1, value);
        } else {
            self.sp_el2 = value;
        }
    }

    fn shifted(&self, wide: bool, operand: Shifted) -> u64 {
        let (value, amount) = (self.get(operand.register), operand.amount);
        if wide {
            match operand.kind {
                0 => value << amount,
                1 => value >> amount,
                2 => (value as i64 >> amount) as u64,
                _ => value.rotate_right(amount),
            }
        } else {
            let value = value as u32;
            u64::from(match operand.kind {
                0 => value << amount,
                1 => value >> amount,
                2 => (value as i32 >> amount) as u32,
                _ => value.rotate_right(amount),
            })
        }
    }

    /// Computes AddWithCarry; a subtraction adds the complement and one.
    fn add(&mut self, wide: bool, a: u64, b: u64, subtract: bool, flags: bool) -> u64 {
        let bits = if wide { 64 } else { 32 };
        let mask = u64::MAX >> (64 - bits);
        let (a, b) = (a & mask, if subtract { !b & mask } else { b & mask });
        let sum = u128::from(a) + u128::from(b) + u128::from(subtract);
        let result = sum as u64 & mask;
        if flags {
            let top = 1 << (bits - 1);
            self.set_flags([
                result & top != 0,
                result == 0,
                sum >> bits != 0,
                (a ^ result) & (b ^ result) & top != 0,
            ]);
        }
        result
    }

    fn set_flags(&mut self, nzcv: [bool; 4]) {
        self.flags =
            nzcv.iter().zip([N, Z, C, V]).filter(|(set, _)| **set).map(|(_, flag)| flag).sum();
    }

    fn holds(&self, condition: u32) -> bool {
        let is = |flag| self.flags & flag != 0;
        let holds = match condition >> 1 {
            0 => is(Z),
            1 => is(C),
            2 => is(N),
            3 => is(V),
            4 => is(C) && !is(Z),
            5 => is(N) == is(V),
            6 => is(N) == is(V) && !is(Z),
            _ => return true,
        };
        holds != (condition & 1 == 1)
    }

    fn synchronise(&mut self) {
        self.synchronised = self.steps;
        self.system.synchronise();
        self.memory.synchronise();
    }

    /// Reads CNTVCT_EL0, which may be read as early as the last context synchronization event.
    fn time(&mut self) -> Result<u64, Violation> {
        if self.synchronised < self.touched {
            self.early_readings =
                self.early_readings.checked_sub(1).ok_or(Violation::EarlyReading)?;
        }
        Ok(self.steps)
    }

    fn execute(&mut self, instruction: Instruction, next: u64) -> Result<u64, Violation> {
        let here = next.wrapping_sub(4);
        let to = |offset| here.wrapping_add_signed(offset);
        match instruction {
            Instruction::Nop => {}
            Instruction::Branch { offset, link } => {
                if link {
                    self.push_return_address(here)?;
                    self.x[30] = next;
                }
                return Ok(to(offset));
            }
            Instruction::BranchIf { condition, offset } if self.holds(condition) => {
                return Ok(to(offset));
            }
            Instruction::BranchIf { .. } => {}
            Instruction::CompareBranch { wide, nonzero, rt, offset } => {
                let value = if wide { self.get(rt) } else { self.get(rt) & 0xffff_ffff };
                if (value != 0) == nonzero {
                    return Ok(to(offset));
                }
            }
            Instruction::TestBranch { bit, set, rt, offset } => {
                if (self.get(rt) >> bit & 1 == 1) == set {
                    return Ok(to(offset));
                }
            }
            Instruction::BranchTo { rn } => return Ok(self.get(rn)),
            Instruction::Hvc => return Ok(self.call(next)),
            Instruction::Eret => return self.return_from_exception(),
            Instruction::Address { page, rd, offset } => {
                let base = if page { here & !0xfff } else { here };
                self.set(rd, true, base.wrapping_add_signed(offset));
            }
            Instruction::AddImmediate { wide, subtract, flags, rd, rn, value } => {
                let a = if rn == ZERO { self.stack() } else { self.get(rn) };
                let result = self.add(wide, a, value, subtract, flags);
                if rd == ZERO && !flags {
                    self.set_stack(result);
                } else {
                    self.set(rd, wide, result);
                }
            }
            Instruction::AddRegister { wide, subtract, flags, rd, rn, rm } => {
                let (a, b) = (self.get(rn), self.shifted(wide, rm));
                let result = self.add(wide, a, b, subtract, flags);
                self.set(rd, wide, result);
            }
            Instruction::LogicalImmediate { wide, operation, rd, rn, value } => {
                let result = self.logic(wide, operation, self.get(rn), value);
                if rd == ZERO && operation != Logical::Ands {
                    self.set_stack(result);
                } else {
                    self.set(rd, wide, result);
                }
            }
            Instruction::LogicalRegister { wide, operation, invert, rd, rn, rm } => {
                let operand = self.shifted(wide, rm);
                let result = self.logic(
                    wide,
                    operation,
                    self.get(rn),
                    if invert { !operand } else { operand },
                );
                self.set(rd, wide, result);
            }
            Instruction::MoveWide { wide, kind, rd, value, shift } => {
                let result = match kind {
                    Move::Not => !(value << shift),
                    Move::Zero => value << shift,
                    Move::Keep => self.get(rd) & !(0xffff << shift) | value << shift,
                };
                self.set(rd, wide, result);
            }
            Instruction::Bitfield { wide, signed, rd, rn, rotate, last } => {
                let result = bitfield(wide, signed, self.get(rn), rotate, last);
                self.set(rd, wide, result);
            }
            Instruction::ShiftLeft { wide, rd, rn, rm } => {
                let amount = self.get(rm) % if wide { 64 } else { 32 };
                self.set(rd, wide, self.get(rn) << amount);
            }
            Instruction::ConditionalCompare { wide, rn, value, flags, condition } => {
                if self.holds(condition) {
                    self.add(wide, self.get(rn), value, true, true);
                } else {
                    self.flags = u64::from(flags) << 28;
                }
            }
            Instruction::Select { wide, rd, rn, rm, condition } => {
                let value = if self.holds(condition) { self.get(rn) } else { self.get(rm) };
                self.set(rd, wide, value);
            }
            Instruction::ReverseBytes { wide, rd, rn } => {
                let value = self.get(rn);
                self.set(
                    rd,
                    wide,
                    if wide { value.swap_bytes() } else { (value as u32).swap_bytes().into() },
                );
            }
            Instruction::Crc32c { rd, rn, rm } => {
                let crc = crc32c(self.get(rn) as u32, self.get(rm));
                self.set(rd, false, crc.into());
            }
            Instruction::Pair { load, size, rt, rt2, rn, offset, after } => {
                let base = self.get(rn);
                let address = if after { base } else { base.wrapping_add_signed(offset) };
                for (register, address) in [(rt, address), (rt2, address.wrapping_add(size))] {
                    match (load, size) {
                        (true, 16) => self.q[register] = self.load(address, 16)?,
                        (true, _) => {
                            let value = self.load(address, size as usize)? as u64;
                            self.set(register, true, value);
                        }
                        (false, 16) => self.store(address, self.q[register], 16)?,
                        (false, _) => {
                            self.store(address, self.get(register).into(), size as usize)?
                        }
                    }
                }
                if after {
                    self.set(rn, true, base.wrapping_add_signed(offset));
                }
            }
            Instruction::Single { load, rt, rn, place } => {
                let base = self.get(rn);
                let address = match place {
                    Place::At(offset) => base.wrapping_add_signed(offset),
                    Place::After(_) => base,
                    Place::Indexed { index, shift } => base.wrapping_add(self.get(index) << shift),
                };
                if load {
                    let value = self.load(address, 8)? as u64;
                    self.set(rt, true, value);
                } else {
                    self.store(address, self.get(rt).into(), 8)?;
                }
                if let Place::After(offset) = place {
                    self.set(rn, true, base.wrapping_add_signed(offset));
                }
            }
            Instruction::ReadSystem { register, rt } => {
                let value = match register {
                    CURRENT_EL if self.level == Level::El1 => current_el::EL1,
                    CURRENT_EL => current_el::EL2,
                    DAIF => self.daif,
                    CNTVCT_EL0 => self.time()?,
                    _ => self.system.read(register, self.level, &mut self.memory.adversary)?,
                };
                self.set(rt, true, value);
            }
            Instruction::WriteSystem { register, rt } => {
                let value = self.get(rt);
                if register == HCR_EL2 && self.daif != spsr::DAIF {
                    return Err(Violation::Unmasked(self.daif));
                }
                self.system.write(register, self.level, value, &mut self.memory.adversary)?;
            }
            Instruction::Mask { set, bits } => {
                self.daif = if set { self.daif | bits << 6 } else { self.daif & !(bits << 6) };
            }
            Instruction::SelectStack { value } => self.system.set(SPSEL, value),
            Instruction::Isb => self.synchronise(),
            Instruction::Dsb(domain) => self.memory.dsb(domain),
            Instruction::Dmb => self.memory.dmb(),
            Instruction::Dc { operation, rt } => {
                // Invalidating without cleaning requires write permission.
                let access = if operation == Dc::Invalidate { Access::Write } else { Access::Read };
                let (place, _) = self.translate(access, self.get(rt))?;
                self.memory.dc(operation, place)?;
            }
            Instruction::Ic(domain) => self.memory.ic(domain),
            Instruction::Tlbi(operation) => self.tlbi(operation)?,
        }
        Ok(next)
    }

    /// Does what `bl` does to a guarded control stack: there must be none at EL1.
    ///
    /// EL2's is off by the boot protocol, and no code turns it on.
    fn push_return_address(&mut self, here: u64) -> Result<(), Violation> {
        let adversary = &mut self.memory.adversary;
        let is_on =
            self.level == Level::El1 && self.system.effect(GCSCR_EL1, adversary) & PCRSEL != 0;
        if is_on { Err(Violation::ControlStack(here)) } else { Ok(()) }
    }

    fn logic(&mut self, wide: bool, operation: Logical, a: u64, b: u64) -> u64 {
        let result = match operation {
            Logical::And | Logical::Ands => a & b,
            Logical::Orr => a | b,
            Logical::Eor => a ^ b,
        };
        let result = if wide { result } else { result & 0xffff_ffff };
        if operation == Logical::Ands {
            let negative = result >> if wide { 63 } else { 31 } == 1;
            self.set_flags([negative, result == 0, false, false]);
        }
        result
    }

    /// Executes hvc: takes an exception to EL2.
    pub fn call(&mut self, next: u64) -> u64 {
        self.synchronise();
        let (mode, slot) = match self.level {
            Level::El1 => (spsr::EL1H, FROM_BELOW),
            Level::El2 => (spsr::EL2H, FROM_HERE),
        };
        self.system.set(ELR_EL2, next);
        self.system.set(SPSR_EL2, self.flags | self.daif | mode);
        self.system.set(ESR_EL2, boot::esr::EC_HVC64 << boot::esr::EC_SHIFT | 1 << 25);
        self.daif = spsr::DAIF;
        self.level = Level::El2;
        self.system.get(VBAR_EL2) + slot
    }

    fn return_from_exception(&mut self) -> Result<u64, Violation> {
        if self.level == Level::El1 {
            return Err(Violation::Undefined(ELR_EL2));
        }
        let state = self.system.get(SPSR_EL2);
        self.synchronise();
        self.level = match state & 0xf {
            spsr::EL1H => Level::El1,
            spsr::EL2H => Level::El2,
            _ => return Err(Violation::State("SPSR_EL2", state)),
        };
        (self.flags, self.daif) = (state & (N | Z | C | V), state & spsr::DAIF);
        Ok(self.system.get(ELR_EL2))
    }

    fn tlbi(&mut self, operation: Tlbi) -> Result<(), Violation> {
        let hcr = self.system.effect(HCR_EL2, &mut self.memory.adversary);
        let regime = match (operation, self.level) {
            (Tlbi::Vmalle1, Level::El2) if hcr & E2H != 0 && hcr & hcr::TGE != 0 => Regime::El20,
            (Tlbi::Vmalle1, _) | (Tlbi::Alle1, Level::El2) => Regime::El10,
            (Tlbi::Alle2, Level::El2) => {
                if hcr & E2H == 0 {
                    Regime::El2
                } else {
                    Regime::El20
                }
            }
            (_, Level::El1) => return Err(Violation::Undefined(HCR_EL2)),
        };
        self.memory.tlbi(regime);
        Ok(())
    }
}

/// Executes ubfm and sbfm.
///
/// Moves bits `rotate` to `last` down to bit 0, or bits 0 to `last` up to the place that `rotate`
/// gives.
fn bitfield(wide: bool, signed: bool, value: u64, rotate: u32, last: u32) -> u64 {
    let size = if wide { 64 } else { 32 };
    let (length, lsb) =
        if last >= rotate { (last - rotate + 1, 0) } else { (last + 1, size - rotate) };
    let field = (if last >= rotate { value >> rotate } else { value }) & u64::MAX >> (64 - length);
    let extended =
        if signed { ((field << (64 - length)) as i64 >> (64 - length)) as u64 } else { field };
    extended << lsb
}

/// Executes crc32cx: extends the running value by eight bytes, without complements.
fn crc32c(crc: u32, value: u64) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = (byte as u32, 0);
            while bit < 8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    value
        .to_le_bytes()
        .iter()
        .fold(crc, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}
