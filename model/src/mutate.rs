//! Mutations: every maintenance instruction deleted, weakened, and swapped.
//!
//! They run after the code as linked has passed every scene. Maintenance instructions are barriers,
//! `dc`, `ic`, `tlbi`, and writes of an SCTLR or of HCR_EL2. A mutation is named by routine,
//! instruction and number (the second `isb` of `mmu_off`), so that the name survives edits around
//! it.

use std::fmt;
use std::ops::Range;

use crate::decode::{self, Domain, Instruction, decode};
use crate::kernel::Kernel;
use crate::system;

const NOP: u32 = 0xd503_201f;
const DSB_SY: u32 = 0xd503_3f9f;
const DSB_NSH: u32 = 0xd503_379f;
const IC_IALLU: u32 = 0xd508_751f;
const DMB_SY: u32 = 0xd503_3fbf;

/// A maintenance instruction.
#[derive(Clone, Debug)]
pub struct Site {
    /// Linked address.
    pub address: u64,
    /// Name, such as `mmu_off: isb #2`.
    pub name: String,
    /// The mutations of this instruction.
    pub mutations: Vec<Mutation>,
}

/// One change to the code.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// Description: `deleted`, `becomes dmb sy`, `swapped with the word before`.
    pub how: String,
    /// The changed words, with their addresses.
    pub words: Vec<(u64, u32)>,
}

/// Returns all maintenance instructions in the given ranges, in order.
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
    // Two adjacent maintenance instructions need only one swap: the first one makes it.
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

/// Returns instructions of the same kind that do less.
fn weaker(word: u32) -> Vec<u32> {
    let rt = word & 0x1f;
    match decode(word) {
        Some(Instruction::Isb) => vec![DSB_SY],
        Some(Instruction::Dsb(Domain::System)) => vec![DMB_SY, DSB_NSH],
        Some(Instruction::Dsb(Domain::Inner)) => vec![DMB_SY, DSB_NSH],
        Some(Instruction::Dsb(Domain::Local)) => vec![DMB_SY],
        Some(Instruction::Ic(Domain::Inner)) => vec![IC_IALLU],
        Some(Instruction::Dc { operation: decode::Dc::CleanInvalidate, .. }) => {
            vec![0xd50b_7a20 | rt, 0xd508_7620 | rt]
        }
        // `dc ivac` is used to discard a line; a clean leaves the line.
        Some(Instruction::Dc { operation: decode::Dc::Invalidate, .. }) => vec![0xd50b_7a20 | rt],
        _ => vec![],
    }
}

/// Returns whether swapping the two instructions is worth a run.
///
/// Branches and PC-relative instructions would do something else one word further on. Pure
/// computation is unaffected by the swap, unless it sets the register that the maintenance
/// instruction takes.
fn swaps(neighbour: u32, word: u32) -> bool {
    use Instruction::*;
    let taken = match decode(word) {
        Some(Dc { rt, .. } | WriteSystem { rt, .. }) => Some(rt),
        _ => None,
    };
    match decode(neighbour) {
        Some(Dsb(_) | Dmb | Isb | Dc { .. } | Ic(_) | Tlbi(_) | Pair { .. } | Single { .. }) => {
            true
        }
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

/// Returns the instruction's assembly text if it is a maintenance instruction.
fn maintenance(word: u32) -> Option<String> {
    let written = |name: &str, rt: usize| {
        if rt == 31 { format!("{name}, xzr") } else { format!("{name}, x{rt}") }
    };
    Some(match decode(word)? {
        Instruction::Isb => "isb".to_owned(),
        Instruction::Dsb(Domain::System) => "dsb sy".to_owned(),
        Instruction::Dsb(Domain::Local) => "dsb nsh".to_owned(),
        Instruction::Dsb(Domain::Inner) => "dsb ish".to_owned(),
        Instruction::Dmb => "dmb sy".to_owned(),
        Instruction::Dc { operation, rt } => {
            let name = match operation {
                decode::Dc::CleanInvalidate => "civac",
                decode::Dc::Clean => "cvac",
                decode::Dc::Invalidate => "ivac",
            };
            written(&format!("dc {name}"), rt)
        }
        Instruction::Ic(Domain::Inner) => "ic ialluis".to_owned(),
        Instruction::Ic(_) => "ic iallu".to_owned(),
        Instruction::Tlbi(decode::Tlbi::Vmalle1) => "tlbi vmalle1".to_owned(),
        Instruction::Tlbi(decode::Tlbi::Alle1) => "tlbi alle1".to_owned(),
        Instruction::Tlbi(decode::Tlbi::Alle2) => "tlbi alle2".to_owned(),
        Instruction::WriteSystem { register, rt } => {
            let name = system::name(register);
            (name.starts_with("sctlr_") || name == "hcr_el2")
                .then(|| written(&format!("msr {name}"), rt))?
        }
        _ => return None,
    })
}

impl Site {
    /// Returns the routine that contains the instruction.
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
