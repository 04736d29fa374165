//! The words that are taken away: every maintenance word of the code deleted, weakened, and swapped with its neighbour.
//!
//! *When:* the code as it is has passed every scene. A word is maintenance if it is a barrier, a `dc`, `ic` or `tlbi`, or writes an SCTLR. A mutation
//! is known by routine, instruction and number (the second `isb` of `mmu_off`), so that its name outlives edits around it.

use std::fmt;
use std::ops::Range;

use crate::decode::{self, Domain, Instruction, decode};
use crate::kernel::Kernel;
use crate::system;

const NOP: u32 = 0xd503_201f;
const DSB_SY: u32 = 0xd503_3f9f;
const DSB_NSH: u32 = 0xd503_379f;
const DMB_SY: u32 = 0xd503_3fbf;

/// A word of maintenance.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where it lies linked.
    pub address: u64,
    /// `mmu_off: isb #2`
    pub name: String,
    /// What can be done to it.
    pub mutations: Vec<Mutation>,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// `deleted`, `becomes dmb sy`, `after mov x0, …`
    pub how: String,
    /// The words by their addresses.
    pub words: Vec<(u64, u32)>,
}

/// All of them in the given ranges, in their order.
#[must_use]
pub fn sites(kernel: &Kernel, ranges: &[Range<u64>]) -> Vec<Site> {
    let mut sites: Vec<Site> = Vec::new();
    for address in ranges.iter().cloned().flat_map(|range| range.step_by(4)) {
        let word = kernel.word(address);
        let Some(text) = maintenance(word) else { continue };
        let name = format!("{}: {text}", kernel.routine(address).0);
        let number = 1 + sites
            .iter()
            .filter(|site| site.name.rsplit_once(" #").is_some_and(|(one, _)| one == name))
            .count();
        sites.push(Site {
            address,
            name: format!("{name} #{number}"),
            mutations: mutations(kernel, address, word),
        });
    }
    sites
}

fn mutations(kernel: &Kernel, address: u64, word: u32) -> Vec<Mutation> {
    let mut all = vec![Mutation { how: "deleted".to_owned(), words: vec![(address, NOP)] }];
    for weaker in weaker(word) {
        let how = format!("becomes {}", maintenance(weaker).unwrap_or_default());
        all.push(Mutation { how, words: vec![(address, weaker)] });
    }
    // Where two words of maintenance follow each other, the first one's turn is enough.
    let before = kernel.word(address - 4);
    if maintenance(before).is_none() && swaps(before, word) {
        all.push(Mutation {
            how: "swapped with the word before".to_owned(),
            words: vec![(address - 4, word), (address, before)],
        });
    }
    let behind = kernel.word(address + 4);
    if behind != word && swaps(behind, word) {
        all.push(Mutation {
            how: "swapped with the word behind".to_owned(),
            words: vec![(address, behind), (address + 4, word)],
        });
    }
    all
}

/// What does less, of the same kind.
fn weaker(word: u32) -> Vec<u32> {
    let rt = word & 0x1f;
    match decode(word) {
        Some(Instruction::Isb) => vec![DSB_SY],
        Some(Instruction::Dsb(Domain::System)) => vec![DMB_SY, DSB_NSH],
        Some(Instruction::Dsb(Domain::Local)) => vec![DMB_SY],
        Some(Instruction::Dc { operation: decode::Dc::CleanInvalidate, .. }) => {
            vec![0xd50b_7a20 | rt, 0xd508_7620 | rt]
        }
        // Dropping a line is what it is for; a clean leaves it.
        Some(Instruction::Dc { operation: decode::Dc::Invalidate, .. }) => vec![0xd50b_7a20 | rt],
        _ => vec![],
    }
}

/// Is it worth swapping these two? What goes elsewhere, or names a place relative to itself, would not do the same a word further on; and
/// what only computes, without touching the register that the word of maintenance takes, does the same on either side of it.
fn swaps(neighbour: u32, word: u32) -> bool {
    use Instruction::*;
    let taken = match decode(word) {
        Some(Dc { rt, .. } | WriteSystem { rt, .. }) => Some(rt),
        _ => None,
    };
    match decode(neighbour) {
        Some(Dsb(_) | Dmb | Isb | Dc { .. } | Ic | Tlbi(_) | Pair { .. } | Single { .. }) => true,
        Some(ReadSystem { .. } | WriteSystem { .. } | Mask { .. } | SelectStack { .. }) => true,
        Some(
            AddImmediate { rd, .. }
            | AddRegister { rd, .. }
            | LogicalImmediate { rd, .. }
            | LogicalRegister { rd, .. },
        ) => taken == Some(rd),
        Some(
            MoveWide { rd, .. } | Bitfield { rd, .. } | ShiftLeft { rd, .. } | Select { rd, .. },
        ) => taken == Some(rd),
        _ => false,
    }
}

/// The instruction as one writes it, if it is one of maintenance.
fn maintenance(word: u32) -> Option<String> {
    let written = |name: &str, rt: usize| {
        if rt == 31 { format!("{name}, xzr") } else { format!("{name}, x{rt}") }
    };
    Some(match decode(word)? {
        Instruction::Isb => "isb".to_owned(),
        Instruction::Dsb(Domain::System) => "dsb sy".to_owned(),
        Instruction::Dsb(Domain::Local) => "dsb nsh".to_owned(),
        Instruction::Dmb => "dmb sy".to_owned(),
        Instruction::Dc { operation, rt } => {
            let name = match operation {
                decode::Dc::CleanInvalidate => "civac",
                decode::Dc::Clean => "cvac",
                decode::Dc::Invalidate => "ivac",
            };
            written(&format!("dc {name}"), rt)
        }
        Instruction::Ic => "ic iallu".to_owned(),
        Instruction::Tlbi(decode::Tlbi::Vmalle1) => "tlbi vmalle1".to_owned(),
        Instruction::Tlbi(decode::Tlbi::Alle1) => "tlbi alle1".to_owned(),
        Instruction::Tlbi(decode::Tlbi::Alle2) => "tlbi alle2".to_owned(),
        Instruction::WriteSystem { register, rt } => {
            let name = system::name(register);
            name.starts_with("sctlr_").then(|| written(&format!("msr {name}"), rt))?
        }
        _ => return None,
    })
}

impl Site {
    /// The routine that it lies in.
    #[must_use]
    pub fn routine(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.how)
    }
}
