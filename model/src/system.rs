//! System registers: the values written to them, and when a write takes effect.
//!
//! The model uses them for mrs and msr, and whenever it needs a register's meaning for the next
//! access. A direct read returns the value last written. Indirectly, the old value may be in effect
//! until a context synchronization event (an ISB, an exception or its return). The new value may
//! also be in effect at once, or either from one access to the next: the adversary chooses. With
//! HCR_EL2.E2H set, names of EL1 reach EL2's registers.
//!
//! The model refuses a register that is not listed here, and a name that is UNDEFINED at the level.

use crate::adversary::{Adversary, Mood};
use crate::decode::SystemRegister;
use crate::failure::Violation;
use boot::sysreg::sctlr;

/// An exception level.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Level {
    El1,
    El2,
}

/// The kind of CPU, as far as the code checks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Processor {
    /// Armv8.0: no VHE, no optional feature.
    Plain,
    /// VHE, and every feature that the EL2 set-up checks for.
    Rich,
    /// As `Rich`, but E2H is always 1, and reads as 1 (RAO/WI).
    VheOnly,
    /// As `Rich`, but E2H is always 1, reads as written, and ID_AA64MMFR4_EL1.E2H0 says so.
    ///
    /// The Arm ARM allows this of a RES1 bit, on a CPU without FEAT_E2H0.
    E2hRes1,
    /// As `Rich`, but E2H is always 1, reads as written, and no register says so.
    ///
    /// A hypervisor's guest with nested virtualization may be such a CPU, on a host that cannot
    /// trap reads of ID_AA64MMFR4_EL1 (no FEAT_FGT).
    NestedGuest,
}

impl Processor {
    /// Returns the bits of HCR_EL2 that are in effect whatever is written.
    #[must_use]
    pub fn stuck(self) -> u64 {
        match self {
            Self::Plain | Self::Rich => 0,
            Self::VheOnly | Self::E2hRes1 | Self::NestedGuest => E2H,
        }
    }
}

macro_rules! registers {
    (
        $($constant:ident, $name:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal;)*
    ) => {
        $(
            #[doc = $name]
            pub const $constant: SystemRegister =
                SystemRegister::new($op1, $crn, $crm, $op2);
        )*
        /// All registers of the model, with their names.
        pub const ALL: &[(SystemRegister, &str)] = &[$(($constant, $name)),*];
    };
}

/// The closed list of registers, by name.
#[rustfmt::skip]
pub mod registers {
    use super::SystemRegister;
    registers! {
        // EL1's controls; with op1 = 5 the same names reach them from EL2.
        SCTLR_EL1, "sctlr_el1", 0, 1, 0, 0;           CPACR_EL1, "cpacr_el1", 0, 1, 0, 2;
        SCTLR2_EL1, "sctlr2_el1", 0, 1, 0, 3;         TTBR0_EL1, "ttbr0_el1", 0, 2, 0, 0;
        TTBR1_EL1, "ttbr1_el1", 0, 2, 0, 1;           TCR_EL1, "tcr_el1", 0, 2, 0, 2;
        TCR2_EL1, "tcr2_el1", 0, 2, 0, 3;             MAIR_EL1, "mair_el1", 0, 10, 2, 0;
        VBAR_EL1, "vbar_el1", 0, 12, 0, 0;            TPIDR_EL1, "tpidr_el1", 0, 13, 0, 4;
        SPSEL, "spsel", 0, 4, 2, 0;                   CURRENT_EL, "currentel", 0, 4, 2, 2;
        // Registers available at every level.
        DAIF, "daif", 3, 4, 2, 1;                     CTR_EL0, "ctr_el0", 3, 0, 0, 1;
        CNTVCT_EL0, "cntvct_el0", 3, 14, 0, 2;        CNTFRQ_EL0, "cntfrq_el0", 3, 14, 0, 0;
        PMCR_EL0, "pmcr_el0", 3, 9, 12, 0;            CNTP_CTL_EL0, "cntp_ctl_el0", 3, 14, 2, 1;
        CNTV_CTL_EL0, "cntv_ctl_el0", 3, 14, 3, 1;    FPCR, "fpcr", 3, 4, 4, 0;
        // EL2's controls.
        SCTLR_EL2, "sctlr_el2", 4, 1, 0, 0;           SCTLR2_EL2, "sctlr2_el2", 4, 1, 0, 3;
        HCR_EL2, "hcr_el2", 4, 1, 1, 0;               TTBR0_EL2, "ttbr0_el2", 4, 2, 0, 0;
        TTBR1_EL2, "ttbr1_el2", 4, 2, 0, 1;           TCR_EL2, "tcr_el2", 4, 2, 0, 2;
        TCR2_EL2, "tcr2_el2", 4, 2, 0, 3;             MAIR_EL2, "mair_el2", 4, 10, 2, 0;
        VBAR_EL2, "vbar_el2", 4, 12, 0, 0;            ELR_EL2, "elr_el2", 4, 4, 0, 1;
        SPSR_EL2, "spsr_el2", 4, 4, 0, 0;             ESR_EL2, "esr_el2", 4, 5, 2, 0;
        TPIDR_EL2, "tpidr_el2", 4, 13, 0, 2;          SP_EL1, "sp_el1", 4, 4, 1, 0;
        FAR_EL1, "far_el1", 0, 6, 0, 0;               FAR_EL2, "far_el2", 4, 6, 0, 0;
        // Traps, and values that EL2 shows to EL1.
        CPTR_EL2, "cptr_el2", 4, 1, 1, 2;             HSTR_EL2, "hstr_el2", 4, 1, 1, 3;
        MDCR_EL2, "mdcr_el2", 4, 1, 1, 1;             ZCR_EL2, "zcr_el2", 4, 1, 2, 0;
        HCRX_EL2, "hcrx_el2", 4, 1, 2, 2;             SMPRIMAP_EL2, "smprimap_el2", 4, 1, 2, 5;
        SMCR_EL2, "smcr_el2", 4, 1, 2, 6;             VPIDR_EL2, "vpidr_el2", 4, 0, 0, 0;
        VMPIDR_EL2, "vmpidr_el2", 4, 0, 0, 5;         VTTBR_EL2, "vttbr_el2", 4, 2, 1, 0;
        CNTHCTL_EL2, "cnthctl_el2", 4, 14, 1, 0;      CNTVOFF_EL2, "cntvoff_el2", 4, 14, 0, 3;
        ICC_SRE_EL2, "icc_sre_el2", 4, 12, 9, 5;      ICH_HCR_EL2, "ich_hcr_el2", 4, 12, 11, 0;
        GCSCR_EL1, "gcscr_el1", 0, 2, 5, 0;           GCSCR_EL2, "gcscr_el2", 4, 2, 5, 0;
        GCSCRE0_EL1, "gcscre0_el1", 0, 2, 5, 2;
        HFGRTR_EL2, "hfgrtr_el2", 4, 1, 1, 4;         HFGWTR_EL2, "hfgwtr_el2", 4, 1, 1, 5;
        HFGITR_EL2, "hfgitr_el2", 4, 1, 1, 6;         HDFGRTR_EL2, "hdfgrtr_el2", 4, 3, 1, 4;
        HDFGWTR_EL2, "hdfgwtr_el2", 4, 3, 1, 5;       HAFGRTR_EL2, "hafgrtr_el2", 4, 3, 1, 6;
        CNTHP_CTL_EL2, "cnthp_ctl_el2", 4, 14, 2, 1;  CNTHV_CTL_EL2, "cnthv_ctl_el2", 4, 14, 3, 1;
        // Identification registers.
        MIDR_EL1, "midr_el1", 0, 0, 0, 0;             MPIDR_EL1, "mpidr_el1", 0, 0, 0, 5;
        ID_AA64PFR0_EL1, "id_aa64pfr0_el1", 0, 0, 4, 0;
        ID_AA64PFR1_EL1, "id_aa64pfr1_el1", 0, 0, 4, 1;
        ID_AA64PFR2_EL1, "id_aa64pfr2_el1", 0, 0, 4, 2;
        ID_AA64SMFR0_EL1, "id_aa64smfr0_el1", 0, 0, 4, 5;
        ID_AA64DFR0_EL1, "id_aa64dfr0_el1", 0, 0, 5, 0;
        ID_AA64ISAR1_EL1, "id_aa64isar1_el1", 0, 0, 6, 1;
        ID_AA64ISAR2_EL1, "id_aa64isar2_el1", 0, 0, 6, 2;
        ID_AA64MMFR0_EL1, "id_aa64mmfr0_el1", 0, 0, 7, 0;
        ID_AA64MMFR1_EL1, "id_aa64mmfr1_el1", 0, 0, 7, 1;
        ID_AA64MMFR3_EL1, "id_aa64mmfr3_el1", 0, 0, 7, 3;
        ID_AA64MMFR4_EL1, "id_aa64mmfr4_el1", 0, 0, 7, 4;
        SMIDR_EL1, "smidr_el1", 1, 0, 0, 6;           PMBIDR_EL1, "pmbidr_el1", 0, 9, 10, 7;
        TRBIDR_EL1, "trbidr_el1", 0, 9, 11, 7;
    }
}
use registers::*;

/// HCR_EL2.E2H.
pub const E2H: u64 = boot::sysreg::hcr::E2H;

/// The value of a register: as last written, and as in effect.
#[derive(Clone, Copy, Debug, Default, Hash)]
struct Value {
    written: u64,
    effect: u64,
}

/// All system registers of a CPU.
#[derive(Clone, Debug, Hash)]
pub struct System {
    processor: Processor,
    values: Vec<Value>,
    /// Some value is not in effect yet.
    unsynchronised: bool,
}

impl System {
    /// Makes a CPU out of reset: all registers are zero, except for those that identify it.
    #[must_use]
    pub fn new(processor: Processor) -> Self {
        let mut system =
            Self { processor, values: vec![Value::default(); ALL.len()], unsynchronised: false };
        for &(register, name) in ALL {
            let rich = processor != Processor::Plain;
            let value = match register {
                // D-cache lines are 64 bytes.
                CTR_EL0 => 0x8444_c004,
                CNTFRQ_EL0 => 62_500_000,
                MIDR_EL1 => 0x410f_d083,
                MPIDR_EL1 => 0x8000_0000,
                PMCR_EL0 => 6 << 11,
                // PMUv3; PARange is 44 bits.
                ID_AA64DFR0_EL1 if !rich => 1 << 8,
                ID_AA64MMFR0_EL1 if !rich => 4,
                ID_AA64SMFR0_EL1 if rich => 1 << 63,
                SMIDR_EL1 if rich => 1 << 15,
                PMBIDR_EL1 | TRBIDR_EL1 => 0,
                // E2H0 is signed, and negative without FEAT_E2H0.
                ID_AA64MMFR4_EL1 if processor == Processor::E2hRes1 => 0xf << 24,
                ID_AA64MMFR4_EL1 => 0,
                _ if name.starts_with("id_") && rich => 0x7777_7777_7777_7777,
                HCR_EL2 if processor == Processor::VheOnly => E2H,
                _ => 0,
            };
            system.set(register, value);
        }
        system
    }

    /// Sets a register; the value is in effect at once.
    pub fn set(&mut self, register: SystemRegister, value: u64) {
        let index = index(register).expect("a register of the list");
        self.values[index] = Value { written: value, effect: value };
    }

    /// Returns the value last written.
    #[must_use]
    pub fn get(&self, register: SystemRegister) -> u64 {
        self.values[index(register).expect("a register of the list")].written
    }

    /// Returns the value in effect for the next access: old or new, as the adversary chooses.
    pub fn effect(&self, register: SystemRegister, adversary: &mut Adversary) -> u64 {
        let value = self.written_in_effect(register, adversary);
        if register == HCR_EL2 { value | self.processor.stuck() } else { value }
    }

    fn written_in_effect(&self, register: SystemRegister, adversary: &mut Adversary) -> u64 {
        let value = self.values[index(register).expect("a register of the list")];
        if value.written == value.effect {
            return value.effect;
        }
        let new = match adversary.registers {
            Mood::Lazy => false,
            Mood::Eager => true,
            Mood::Random => adversary.one_in(2),
        };
        if new { value.written } else { value.effect }
    }

    /// Returns whether the value written is in effect, whatever the adversary does.
    #[must_use]
    pub fn is_settled(&self, register: SystemRegister) -> bool {
        let value = self.values[index(register).expect("a register of the list")];
        value.written == value.effect
    }

    /// Performs a context synchronization event: all values written take effect.
    pub fn synchronise(&mut self) {
        if std::mem::take(&mut self.unsynchronised) {
            self.values.iter_mut().for_each(|value| value.effect = value.written);
        }
    }

    /// Executes msr of a register by name at a level.
    pub fn write(
        &mut self,
        name: SystemRegister,
        level: Level,
        value: u64,
        adversary: &mut Adversary,
    ) -> Result<(), Violation> {
        let register = self.reached(name, level, adversary)?;
        let at = index(register).ok_or(Violation::Register(name))?;
        let mut value = value;
        if register == HCR_EL2 {
            // Such a CPU says that the bit is RES1, so software must write a 1.
            if self.processor == Processor::E2hRes1 && value & E2H == 0 {
                return Err(Violation::Reserved(register, value));
            }
            value = match self.processor {
                Processor::Plain => value & !E2H,
                Processor::VheOnly => value | E2H,
                Processor::Rich | Processor::E2hRes1 | Processor::NestedGuest => value,
            };
        }
        // A bit that is not in the current layout may be lost.
        let by_e2h = [CPTR_EL2, CNTHCTL_EL2, TCR_EL2];
        if by_e2h.contains(&register)
            && self.processor.stuck() == 0
            && (self.get(HCR_EL2) ^ self.values[index(HCR_EL2).unwrap_or(0)].effect) & E2H != 0
        {
            return Err(Violation::Layout(register));
        }
        // The value was never meant for this register.
        const RES1: u64 = sctlr::EL1_MMU_OFF & sctlr::EL2_MMU_OFF;
        if [SCTLR_EL1, SCTLR_EL2].contains(&register) && value & RES1 != RES1 {
            return Err(Violation::Reserved(register, value));
        }
        self.values[at].written = value;
        self.unsynchronised = true;
        Ok(())
    }

    /// Executes mrs of a register by name at a level.
    pub fn read(
        &self,
        name: SystemRegister,
        level: Level,
        adversary: &mut Adversary,
    ) -> Result<u64, Violation> {
        let register = self.reached(name, level, adversary)?;
        index(register).map(|at| self.values[at].written).ok_or(Violation::Register(name))
    }

    /// Returns the register that a name reaches.
    fn reached(
        &self,
        name: SystemRegister,
        level: Level,
        adversary: &mut Adversary,
    ) -> Result<SystemRegister, Violation> {
        const REDIRECTED: [SystemRegister; 10] = [
            SCTLR_EL1, SCTLR2_EL1, TTBR0_EL1, TTBR1_EL1, TCR_EL1, TCR2_EL1, MAIR_EL1, VBAR_EL1,
            FAR_EL1, GCSCR_EL1,
        ];
        const TIMERS: [SystemRegister; 2] = [CNTP_CTL_EL0, CNTV_CTL_EL0];
        let e2h = level == Level::El2 && self.effect(HCR_EL2, adversary) & E2H != 0;
        match name.op1() {
            4 | 5 if level == Level::El1 => Err(Violation::Undefined(name)),
            5 if !e2h => Err(Violation::Undefined(name)),
            // The registers of EL1's timers have names that end in _EL0.
            5 if TIMERS.contains(&name.with_op1(3)) => Ok(name.with_op1(3)),
            5 => Ok(name.with_op1(0)),
            0 if e2h && name == CPACR_EL1 => Ok(CPTR_EL2),
            0 if e2h && REDIRECTED.contains(&name) => Ok(name.with_op1(4)),
            3 if e2h && TIMERS.contains(&name) => Ok(name.with_op1(4)),
            _ => Ok(name),
        }
    }
}

fn index(register: SystemRegister) -> Option<usize> {
    // A table by encoding, built once: there are only a few dozen registers.
    static PLACES: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
        let mut places = vec![u8::MAX; 1 << 14];
        for (place, (register, _)) in ALL.iter().enumerate() {
            places[usize::from(register.0 & 0x3fff)] = place as u8;
        }
        places
    });
    let place = PLACES[usize::from(register.0 & 0x3fff)];
    (place != u8::MAX && ALL[usize::from(place)].0 == register).then_some(place.into())
}

/// Returns the register's name.
#[must_use]
pub fn name(register: SystemRegister) -> String {
    let listed = |register| {
        ALL.iter().find(|(known, _)| *known == register).map(|(_, name)| (*name).to_owned())
    };
    let under_e2h =
        || listed(register.with_op1(0)).filter(|_| register.op1() == 5).map(|name| name + "2");
    let SystemRegister(code) = register;
    listed(register).or_else(under_e2h).unwrap_or_else(|| {
        format!("s3_{}_c{}_c{}_{}", code >> 11 & 7, code >> 7 & 15, code >> 3 & 15, code & 7)
    })
}
