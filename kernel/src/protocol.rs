//! The arm64 boot protocol as rules, and what was found held against them.
//!
//! *When:* `check` in bootargs, once all CPUs are up; and in the last words of a kernel that was handed no device tree to read orders from. Pure:
//! the binary's `checker` gathers [`Facts`]. The document is Linux's `Documentation/arch/arm64/booting.rst`; a place in it is its section's
//! number and, within section 4, the heading. A rule about what is not there (a feature that the CPU lacks, an initrd) is kept.
//! *Refuses:* nothing; a rule is broken, and life goes on.

use crate::tree::Conduit;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::PhysAddr;
use boot::record::EntryRecord;
use core::fmt;
use core::ops::Range;
pub use rules::RULES;

mod rules;

/// A rule of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What it is known by; it never changes.
    pub number: u8,
    /// What it asks, in our words.
    pub text: &'static str,
    /// Where the document asks it.
    pub place: &'static str,
    /// Holds what was found against it.
    pub hold: fn(&Facts) -> Finding,
}

/// What came of a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It was kept, as far as can be seen.
    Kept,
    /// It was not.
    Broken,
    /// Nothing that a kernel can look at would tell.
    Unseen,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kept => "kept",
            Self::Broken => "broken",
            Self::Unseen => "cannot be seen from here",
        })
    }
}

/// A verdict, and the value that led to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Kept or not.
    pub verdict: Verdict,
    /// What was found.
    pub value: String,
}

impl Finding {
    fn of(is_kept: bool, value: impl Into<String>) -> Self {
        Self { verdict: if is_kept { Verdict::Kept } else { Verdict::Broken }, value: value.into() }
    }

    fn unseen(why: &str) -> Self {
        Self { verdict: Verdict::Unseen, value: why.into() }
    }
}

/// What a loader, and whoever was there before it, left.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What the first instruction found.
    pub record: EntryRecord,
    /// The Image's header: how far above a 2 MiB boundary it wants to lie.
    pub text_offset: u64,
    /// The Image's header: how much memory is the kernel's.
    pub image_size: u64,
    /// What the device tree says, where there is one.
    pub tree: Option<TreeFacts>,
    /// What only a life finds out; none where the kernel could not come to live.
    pub lived: Option<Lived>,
}

/// What the device tree says.
#[derive(Clone, Debug, Default)]
pub struct TreeFacts {
    /// RAM.
    pub ram: Vec<Range<PhysAddr>>,
    /// What of it is reserved.
    pub reserved: Vec<Range<PhysAddr>>,
    /// linux,initrd-start to linux,initrd-end.
    pub initrd: Option<Range<PhysAddr>>,
    /// /psci.
    pub conduit: Option<Conduit>,
}

/// What a life finds out.
#[derive(Clone, Debug, Default)]
pub struct Lived {
    /// Devices that could write to memory: where, and the register that says so.
    pub running: Vec<String>,
    /// The CPUs besides the one that was entered first.
    pub others: Vec<Other>,
    /// Whether the GIC's system registers were used; none without a GICv3.
    pub gic_registers: Option<bool>,
    /// Whether HVC reaches EL2; none where the entry was at EL1.
    pub hvc: Option<bool>,
    /// GCSCR_ELx of the level that the kernel lives at; none where the CPU has no control stacks, or they are trapped.
    pub gcscr: Option<u64>,
    /// What became of each of [`ACCESSES`].
    pub accesses: [Access; ACCESSES],
}

/// A CPU that was started by PSCI.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Other {
    /// MPIDR_EL1's affinity.
    pub mpidr: u64,
    /// It came.
    pub came: bool,
    /// CurrentEL, as it was entered.
    pub current_el: u64,
    /// DAIF, as it was entered.
    pub daif: u64,
    /// SCTLR_ELx of that level.
    pub sctlr: u64,
    /// CNTVOFF_EL2, entered at EL2.
    pub cntvoff_el2: u64,
    /// CNTFRQ_EL0.
    pub cntfrq: u64,
    /// Its CNTVCT lay between two readings of the first CPU's.
    pub counts_alike: bool,
}

/// What became of an access that a higher level may trap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Access {
    /// The CPU has no such thing.
    #[default]
    Absent,
    /// Done.
    Free,
    /// An exception instead.
    Trapped,
    /// Of a register that only EL2 has: entered at EL1.
    NotAsked,
    /// The same: entered at EL2, and the kernel lives below.
    OutOfReach,
}

/// The ID registers that say what may be tried.
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
    /// Whether access number `access` is one that this CPU has. They are those of rule 19, of rules 23 to 36 and of
    /// rules 43 to 46, in order; those of 41 and 42, which the entry makes, are last.
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
            // 0xf is a PMU that is not the architecture's.
            EVENTS => matches!(field(self.dfr0, 8), 1..0xf),
            LATER_TRAPS => field(self.mmfr0, 56) >= 2,
            THREAD_POINTER | PRIORITIES => field(self.pfr1, 24) != 0,
            LATER_EVENTS => matches!(field(self.dfr0, 8), 9..0xf),
            MORE_TRAPS => field(self.mmfr1, 40) != 0,
            FINE_TRAPS => field(self.mmfr0, 56) != 0,
            _ => false,
        }
    }
}

/// How many accesses there are.
pub const ACCESSES: usize = 21;
/// How many of them, the first ones, are tried: the entry has made the others, or nobody would ask.
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
/// Whose control register is looked at as well.
pub const CONTROL_STACKS: usize = 12;
const EVENTS: usize = 13;
const DEBUG: usize = 14;
/// Of EL2 alone, as the last two.
pub const LATER_TRAPS: usize = 15;
const THREAD_POINTER: usize = 16;
const PRIORITIES: usize = 17;
const LATER_EVENTS: usize = 18;
const MORE_TRAPS: usize = 19;
const FINE_TRAPS: usize = 20;

const NO_LIFE: &str = "the kernel does not get so far";

impl Facts {
    fn image(&self) -> Range<PhysAddr> {
        let start = self.record.load_address;
        PhysAddr(start)..PhysAddr(start.saturating_add(self.image_size))
    }

    fn dtb(&self) -> Option<Range<PhysAddr>> {
        PhysAddr(self.record.x0).range(self.record.dtb_size).filter(|dtb| dtb.start < dtb.end)
    }

    fn lived(&self, hold: impl FnOnce(&Lived) -> Finding) -> Finding {
        self.lived.as_ref().map_or_else(|| Finding::unseen(NO_LIFE), hold)
    }

    fn others(&self) -> impl Iterator<Item = &Other> {
        self.lived.iter().flat_map(|lived| &lived.others)
    }

    /// Each CPU but the first: what is told is the first one that breaks the rule, or the last.
    fn each_of_all(
        &self,
        is_kept: impl Fn(&Other) -> bool,
        tell: impl Fn(&Other) -> String,
    ) -> Finding {
        self.lived(|_| match self.others().find(|other| !is_kept(other)) {
            Some(other) => Finding::of(false, tell(other)),
            None => match self.others().last() {
                Some(other) => Finding::of(true, tell(other)),
                None => Finding::unseen("one CPU"),
            },
        })
    }

    /// The same of those that came.
    fn each_other(
        &self,
        is_kept: impl Fn(&Other) -> bool,
        tell: impl Fn(&Other) -> String,
    ) -> Finding {
        if self.others().any(|other| other.came) {
            self.each_of_all(|other| !other.came || is_kept(other), tell)
        } else {
            self.lived(|_| Finding::unseen("no other CPU came"))
        }
    }
}

/// A rule and what came of it, for people; `{:#}` is one line of JSON for programs.
#[derive(Clone, Debug)]
pub struct Line {
    rule: &'static Rule,
    finding: Finding,
}

/// Holds the facts against every rule.
pub fn held(facts: &Facts) -> impl Iterator<Item = Line> {
    RULES.iter().map(|rule| Line { rule, finding: (rule.hold)(facts) })
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule: Rule { number, text, place, .. }, finding: Finding { verdict, value } } =
            self;
        if f.alternate() {
            // Neither text nor value holds anything that JSON would write in another way than Rust.
            write!(f, "{}{number},\"text\":{text:?},\"place\":{place:?},", boot::marker::RULE)?;
            write!(f, "\"value\":{value:?},\"verdict\":\"{verdict}\"}}")
        } else {
            write!(f, "{number:3} {verdict:24} {text}: {value} ({place})")
        }
    }
}

/// How many were kept, how many broken, and how many cannot be seen.
#[must_use]
pub fn summary(facts: &Facts) -> String {
    let count =
        |verdict| held(facts).filter(|line| line.finding.verdict == verdict).count().to_string();
    let [kept, broken, unseen] = [Verdict::Kept, Verdict::Broken, Verdict::Unseen].map(count);
    format!("boot protocol: {kept} rules kept, {broken} broken, {unseen} cannot be seen from here")
}

#[cfg(test)]
mod tests;
