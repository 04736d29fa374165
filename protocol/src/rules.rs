//! Rules of the arm64 boot protocol, and their check against a kernel's entry state.
//!
//! - When: with the `check` parameter, once all CPUs are up. Also in the panic of a kernel that got
//!   no device tree, and so no command line.
//! - Pure: the binary's `checker` gathers the [`Facts`].
//! - Refuses nothing: after a broken rule the kernel continues, unless it runs with `check=strict`.
//!
//! The document is Linux's `Documentation/arch/arm64/booting.rst`. [`Rule::place`] is a section's
//! number and, within section 4, the heading. A rule about something that this CPU or machine does
//! not have (a CPU feature, an initrd, a second CPU) is [absent](Verdict::Absent): no loader breaks
//! it here.

use crate::record::{self, Record};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::PhysAddr;
use boot::record::EntryRecord;
use core::fmt;
use core::ops::Range;
use fdt::machine::Conduit;
pub use table::RULES;

mod table;

/// A rule of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Permanent number of the rule.
    pub number: u8,
    /// The requirement, in our words.
    pub text: &'static str,
    /// Section of the document that requires it.
    pub place: &'static str,
    /// Function that checks the facts.
    pub hold: fn(&Facts) -> Finding,
}

/// Result of checking a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "read", derive(serde::Deserialize))]
#[cfg_attr(feature = "read", serde(rename_all = "lowercase"))]
pub enum Verdict {
    /// The loader kept the rule, as far as a kernel can see.
    Kept,
    /// The loader broke the rule.
    Broken,
    /// This CPU or machine has nothing that the rule is about, so that no loader can break it.
    Absent,
    /// Nothing that a kernel can read shows it.
    Unseen,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 4] = [Self::Kept, Self::Broken, Self::Absent, Self::Unseen];

    /// Returns the verdict's word, on the console and in records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Broken => "broken",
            Self::Absent => "absent",
            Self::Unseen => "unseen",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A verdict and the value that led to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The verdict.
    pub verdict: Verdict,
    /// The value found.
    pub value: String,
}

impl Finding {
    fn of(is_kept: bool, value: impl Into<String>) -> Self {
        Self { verdict: if is_kept { Verdict::Kept } else { Verdict::Broken }, value: value.into() }
    }

    fn unseen(why: &str) -> Self {
        Self { verdict: Verdict::Unseen, value: why.into() }
    }

    fn absent(what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Absent, value: what.into() }
    }
}

/// State that the loader, and any software before it, left.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Registers at the first instruction.
    pub record: EntryRecord,
    /// The Image header's text_offset: required distance from a 2 MiB boundary.
    pub text_offset: u64,
    /// The Image header's image_size: bytes from the Image's start that belong to the kernel.
    pub image_size: u64,
    /// Facts from the device tree; `None` without one.
    pub tree: Option<TreeFacts>,
    /// Facts that a running kernel collects; `None` if this kernel does not get that far.
    pub runtime: Option<Runtime>,
}

/// Facts from the device tree.
#[derive(Clone, Debug, Default)]
pub struct TreeFacts {
    /// RAM.
    pub ram: Vec<Range<PhysAddr>>,
    /// Reserved ranges of RAM.
    pub reserved: Vec<Range<PhysAddr>>,
    /// linux,initrd-start to linux,initrd-end.
    pub initrd: Option<Range<PhysAddr>>,
    /// PSCI's conduit, from /psci.
    pub conduit: Option<Conduit>,
    /// The console that stdout-path names: what drives it, or the reason why we do not. `None` if
    /// stdout-path names none.
    pub console: Option<Result<String, String>>,
}

/// Facts that a running kernel collects.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    /// Devices found able to write to memory, each with the register that shows it.
    pub running: Vec<String>,
    /// Every CPU except the one that was entered first.
    pub others: Vec<Other>,
    /// True if the kernel has used the GIC's system registers; `None` without a GICv3.
    pub gic_registers: Option<bool>,
    /// True if HVC reaches EL2; `None` after an entry at EL1.
    pub hvc: Option<bool>,
    /// GCSCR_ELx of the kernel's level, as it was at entry; `None` if the CPU has no control
    /// stacks, if they are trapped, or if the EL2 set-up has cleared it.
    pub gcscr: Option<u64>,
    /// Result of each of the [`ACCESSES`].
    pub accesses: [Access; ACCESSES],
}

/// A CPU that this kernel started by PSCI.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Other {
    /// Affinity bits of MPIDR_EL1.
    pub mpidr: u64,
    /// True if the CPU came up.
    pub came: bool,
    /// CurrentEL at entry.
    pub current_el: u64,
    /// DAIF at entry.
    pub daif: u64,
    /// SCTLR_ELx of the level of entry.
    pub sctlr: u64,
    /// CNTVOFF_EL2; zero after an entry at EL1.
    pub cntvoff_el2: u64,
    /// CNTFRQ_EL0.
    pub cntfrq: u64,
    /// True if its CNTVCT was between two readings of the first CPU's.
    pub counts_alike: bool,
}

/// Result of an access that a higher level may trap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Access {
    /// The CPU does not have the feature.
    #[default]
    Absent,
    /// The access succeeded.
    Free,
    /// The access raised an exception.
    Trapped,
    /// Not tried: the protocol does not ask for it after an entry at this level.
    NotAsked,
    /// Not tried: a trap would show only at memory that accepts such an access.
    Untried,
    /// Not tried: only EL2 has the register; the entry was at EL2, but the kernel runs at EL1.
    OutOfReach,
}

/// ID registers that say which accesses the CPU has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ids {
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64ISAR1_EL1.
    pub isar1: u64,
    /// ID_AA64ISAR2_EL1.
    pub isar2: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64MMFR3_EL1.
    pub mmfr3: u64,
    /// ID_AA64DFR0_EL1.
    pub dfr0: u64,
}

impl Ids {
    /// Returns whether the CPU has access number `access`. In order, the accesses belong to rule
    /// 19, rules 23 to 36, and rules 43 to 46. Then come those of rules 41 and 42, which the entry
    /// code makes, and that of rule 48, which no code makes.
    #[must_use]
    pub const fn has(&self, access: usize) -> bool {
        const fn field(register: u64, shift: u32) -> u64 {
            register >> shift & 0xf
        }
        match access {
            COUNTER | DEBUG => true,
            FP => field(self.pfr0, 16) != 0xf,
            POINTER_KEYS => {
                field(self.isar1, 4) | field(self.isar1, 8) | field(self.isar2, 12) != 0
            }
            POINTER_CODES => {
                field(self.isar1, 24) | field(self.isar1, 28) | field(self.isar2, 8) != 0
            }
            SVE => field(self.pfr0, 32) != 0,
            SME => field(self.pfr1, 24) != 0,
            TAGS => field(self.pfr1, 8) >= 2,
            ACTIVITY => field(self.pfr0, 44) != 0,
            BRANCHES => field(self.dfr0, 52) != 0,
            COPIES => field(self.isar2, 16) != 0,
            TCR2 => field(self.mmfr3, 0) != 0,
            PERMISSIONS => field(self.mmfr3, 8) != 0,
            CONTROL_STACKS => field(self.pfr1, 44) != 0,
            // 0xf is an IMPLEMENTATION DEFINED PMU.
            EVENTS => matches!(field(self.dfr0, 8), 1..0xf),
            LATER_TRAPS => field(self.mmfr0, 56) >= 2,
            THREAD_POINTER | PRIORITIES => field(self.pfr1, 24) != 0,
            LATER_EVENTS => matches!(field(self.dfr0, 8), 9..0xf),
            MORE_TRAPS => field(self.mmfr1, 40) != 0,
            FINE_TRAPS => field(self.mmfr0, 56) != 0,
            LONG_ACCESSES => field(self.isar1, 60) != 0,
            _ => false,
        }
    }
}

/// Number of accesses.
pub const ACCESSES: usize = 22;
/// Number of accesses that have a probe, from the first on.
pub const PROBES: usize = 19;
const COUNTER: usize = 0;
const FP: usize = 1;
const POINTER_KEYS: usize = 2;
const POINTER_CODES: usize = 3;
const SVE: usize = 4;
const SME: usize = 5;
const TAGS: usize = 6;
const ACTIVITY: usize = 7;
const BRANCHES: usize = 8;
const COPIES: usize = 9;
const TCR2: usize = 10;
const PERMISSIONS: usize = 11;
/// Guarded control stacks; rule 47 also checks their control register.
pub const CONTROL_STACKS: usize = 12;
const EVENTS: usize = 13;
const DEBUG: usize = 14;
/// FGT2, whose register only EL2 has; so do MORE_TRAPS and FINE_TRAPS.
pub const LATER_TRAPS: usize = 15;
const THREAD_POINTER: usize = 16;
const PRIORITIES: usize = 17;
const LATER_EVENTS: usize = 18;
const MORE_TRAPS: usize = 19;
const FINE_TRAPS: usize = 20;
/// 64-byte loads and stores (LS64), with and without status: EL2 may trap them for EL1.
pub const LONG_ACCESSES: usize = 21;

const NO_RUNTIME: &str = "the kernel does not get so far";

impl Facts {
    fn image(&self) -> Range<PhysAddr> {
        let start = self.record.load_address;
        PhysAddr::new(start)..PhysAddr::new(start.saturating_add(self.image_size))
    }

    fn dtb(&self) -> Option<Range<PhysAddr>> {
        PhysAddr::new(self.record.x0).range(self.record.dtb_size).filter(|dtb| dtb.start < dtb.end)
    }

    fn runtime(&self, hold: impl FnOnce(&Runtime) -> Finding) -> Finding {
        self.runtime.as_ref().map_or_else(|| Finding::unseen(NO_RUNTIME), hold)
    }

    fn others(&self) -> impl Iterator<Item = &Other> {
        self.runtime.iter().flat_map(|runtime| &runtime.others)
    }

    /// Checks every CPU but the first. Reports the first that breaks the rule, or else the last.
    fn each_of_all(
        &self,
        is_kept: impl Fn(&Other) -> bool,
        tell: impl Fn(&Other) -> String,
    ) -> Finding {
        self.runtime(|_| match self.others().find(|other| !is_kept(other)) {
            Some(other) => Finding::of(false, tell(other)),
            None => match self.others().last() {
                Some(other) => Finding::of(true, tell(other)),
                None => Finding::absent("one CPU"),
            },
        })
    }

    /// Checks every CPU but the first that came up, like [`Self::each_of_all`].
    fn each_other(
        &self,
        is_kept: impl Fn(&Other) -> bool,
        tell: impl Fn(&Other) -> String,
    ) -> Finding {
        if self.others().all(|other| !other.came) && self.others().next().is_some() {
            return Finding::unseen("no other CPU came");
        }
        self.each_of_all(|other| !other.came || is_kept(other), tell)
    }
}

/// The kernel that checked the rules, and its CPU.
#[derive(Clone, Debug)]
pub struct Observer {
    /// Number of the generation; `None` if there is no device tree to read it from.
    pub generation: Option<u32>,
    /// Mode of that generation; `None` without a device tree.
    pub mode: Option<record::Text>,
    /// MIDR_EL1 of the CPU that was entered first.
    pub midr: record::Hex,
}

/// A rule and its finding, as a line for people.
#[derive(Clone, Debug)]
pub struct Line {
    rule: &'static Rule,
    finding: Finding,
}

impl Line {
    /// Returns the record for programs.
    #[must_use]
    pub fn record(self, observer: &Observer) -> Record {
        let Self { rule: Rule { number, text, place, .. }, finding: Finding { verdict, value } } =
            self;
        let (rule, text, place) = (u32::from(*number), (*text).into(), (*place).into());
        let Observer { generation, mode, midr } = observer.clone();
        Record::Rule(record::Rule { generation, mode, midr, rule, text, place, value, verdict })
    }

    /// Returns the rule's number if the rule is broken.
    #[must_use]
    pub fn broken(&self) -> Option<u8> {
        (self.finding.verdict == Verdict::Broken).then_some(self.rule.number)
    }
}

/// Checks the facts against every rule.
pub fn held(facts: &Facts) -> impl Iterator<Item = Line> {
    RULES.iter().map(|rule| Line { rule, finding: (rule.hold)(facts) })
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule: Rule { number, text, place, .. }, finding: Finding { verdict, value } } =
            self;
        write!(f, "{number:3} {verdict:6} {text}: {value} ({place})")
    }
}

/// Counts the rules by verdict.
#[must_use]
pub fn summary(facts: &Facts) -> String {
    let count =
        |verdict| held(facts).filter(|line| line.finding.verdict == verdict).count().to_string();
    let [kept, broken, absent, unseen] = Verdict::ALL.map(count);
    format!("boot protocol: {kept} rules kept, {broken} broken, {absent} absent, {unseen} unseen")
}

#[cfg(test)]
mod tests;
