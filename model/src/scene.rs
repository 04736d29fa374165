//! A scene: code to run, its initial state, and the contract for its end.
//!
//! A scene is set up once, then played against every adversary: as linked, and with mutations.

use std::collections::BTreeMap;
use std::ops::Range;

use boot::phys::PAGE_SIZE;
use boot::sysreg::{descriptor, sctlr, spsr};
use relocate::random::SplitMix64;

use crate::adversary::Adversary;
use crate::cpu::Cpu;
use crate::failure::{Failure, Violation};
use crate::system::Level;
use crate::system::registers::{SCTLR_EL1, SCTLR_EL2};

/// A limit far above what the longest scene takes.
const STEPS: u64 = 400_000;

/// A check of the final state; it may read memory through the CPU's own map and caches.
pub type Contract = Box<dyn Fn(&mut Cpu) -> Result<(), Violation> + Send + Sync>;

/// Code, the state in which it starts, and its contract.
pub struct Scene {
    /// The name used in messages.
    pub name: String,
    /// The code that runs, at its linked addresses.
    pub code: Range<u64>,
    /// The address at which the code is placed.
    pub placed: u64,
    /// The initial state.
    pub start: Cpu,
    /// The instruction at which the contract is checked.
    pub stop: u64,
    /// The contract.
    pub contract: Contract,
    /// Addresses at which a mutated run is compared with the run as linked.
    ///
    /// If the two states are equal, the mutated run can stop there.
    pub milestones: Vec<u64>,
}

/// A record of the run of the code as linked.
#[derive(Clone, Debug, Default)]
pub struct Linked {
    /// The step at which each word was last executed.
    pub last: BTreeMap<u64, u64>,
    /// The step at which each milestone was first reached, and the fingerprint there.
    milestones: BTreeMap<u64, (u64, u64)>,
}

impl Scene {
    /// Plays the scene with the kernel as linked.
    pub fn play(&self, adversary: Adversary) -> Result<(Cpu, Linked), Failure> {
        let mut linked = Linked::default();
        let mut cpu = self.start.clone();
        cpu.memory.face(adversary);
        while cpu.pc != self.stop {
            let at = self.linked(cpu.pc);
            linked.last.insert(at, cpu.steps);
            if cpu.steps > STEPS {
                return Err(Failure { at: Some(at), wrong: Violation::Endless });
            }
            if self.milestones.contains(&at) {
                linked.milestones.entry(at).or_insert_with(|| (cpu.steps, cpu.fingerprint()));
            }
            cpu.step().map_err(|wrong| Failure { at: Some(at), wrong })?;
        }
        self.fulfil(&mut cpu)?;
        Ok((cpu, linked))
    }

    /// Plays the scene with these words, by linked address, in place of the kernel's own.
    ///
    /// The run ends early at a milestone if no difference from the run as linked remains, and if
    /// that run does not execute these words again: the rest would be the same.
    pub fn play_changed(
        &self,
        adversary: Adversary,
        words: &[(u64, u32)],
        as_linked: &Linked,
    ) -> Result<(), Failure> {
        let mut cpu = self.start.clone();
        cpu.memory.face(adversary);
        let place = |address: u64| address - self.code.start + self.placed;
        let exchange = |cpu: &mut Cpu, words: &[(u64, u32)]| -> Vec<(u64, u32)> {
            words
                .iter()
                .map(|(address, word)| (*address, cpu.memory.exchange(place(*address), *word)))
                .collect()
        };
        let own = exchange(&mut cpu, words);
        let last = words
            .iter()
            .filter_map(|(address, _)| as_linked.last.get(address))
            .max()
            .copied()
            .unwrap_or(0);
        while cpu.pc != self.stop {
            let at = self.linked(cpu.pc);
            if cpu.steps > STEPS {
                return Err(Failure { at: Some(at), wrong: Violation::Endless });
            }
            if self.milestones.contains(&at)
                && let Some((step, fingerprint)) = as_linked.milestones.get(&at)
                && *step == cpu.steps
                && last < *step
            {
                exchange(&mut cpu, &own);
                if cpu.fingerprint() == *fingerprint {
                    return Ok(());
                }
                exchange(&mut cpu, words);
            }
            cpu.step().map_err(|wrong| Failure { at: Some(at), wrong })?;
        }
        self.fulfil(&mut cpu)
    }

    fn fulfil(&self, cpu: &mut Cpu) -> Result<(), Failure> {
        (self.contract)(cpu).map_err(|wrong| Failure { at: None, wrong })
    }

    fn linked(&self, place: u64) -> u64 {
        place.wrapping_sub(self.placed).wrapping_add(self.code.start)
    }
}

/// Returns meaningless bytes.
#[must_use]
pub fn junk(seed: u64, length: u64) -> Vec<u8> {
    let mut random = SplitMix64::new(seed);
    (0..length / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()
}

/// Writes a number into `bytes`.
pub fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Makes four tables at `at` that map `window` 1:1 in pages: `code` executable, the rest writable.
#[must_use]
pub fn tables(at: u64, window: &Range<u64>, code: &Range<u64>) -> Vec<u8> {
    let mut bytes = vec![0; 4 * PAGE_SIZE as usize];
    for (level, shift) in [39, 30, 21].into_iter().enumerate() {
        let next = at + (level as u64 + 1) * PAGE_SIZE;
        let slot = (window.start >> shift & 0x1ff) as usize * 8;
        put(&mut bytes, level * PAGE_SIZE as usize + slot, next | descriptor::TABLE_OR_PAGE);
    }
    for page in window.clone().step_by(PAGE_SIZE as usize) {
        let leaf = if code.contains(&page) { descriptor::TEXT } else { descriptor::DATA };
        put(&mut bytes, 3 * PAGE_SIZE as usize + (page >> 12 & 0x1ff) as usize * 8, page | leaf);
    }
    bytes
}

/// Checks the promises of the arm64 boot protocol at an image's first instruction.
///
/// The CPU's state must be right. Image and device tree must be in memory as they were written,
/// with no dirty or older line over them, and no old instruction may be fetched.
pub fn protocol(
    cpu: &mut Cpu,
    level: Level,
    image: (&Range<u64>, &[u8]),
    tree: (&Range<u64>, &[u8]),
) -> Result<(), Violation> {
    for (register, name) in [(SCTLR_EL1, "SCTLR_EL1"), (SCTLR_EL2, "SCTLR_EL2")] {
        let value = cpu.system.get(register) & (sctlr::M | sctlr::C | sctlr::I | sctlr::EE);
        expect(name, value, 0)?;
        expect("a register that is not in effect", u64::from(!cpu.system.is_settled(register)), 0)?;
    }
    expect("the exception level", u64::from(cpu.level != level), 0)?;
    expect("DAIF", cpu.daif, spsr::DAIF)?;
    expect("x0", cpu.x[0], tree.0.start)?;
    (1..4).try_for_each(|register| expect("x1, x2 or x3", cpu.x[register], 0))?;
    if !cpu.memory.is_quiet() {
        return Err(Violation::Pending);
    }
    for (name, (range, held)) in [("the image", image), ("the device tree", tree)] {
        if let Some(line) = cpu.memory.dirty_line(range) {
            return Err(Violation::DirtyLine(line));
        }
        if let Some(line) = cpu.memory.stale_line(range) {
            return Err(Violation::StaleLine(line));
        }
        let found = cpu.memory.beneath(range);
        if let Some(at) = found.iter().zip(held).position(|(found, held)| found != held) {
            return Err(Violation::Content(name, range.start + at as u64));
        }
    }
    cpu.memory.would_fetch(image.0).map_or(Ok(()), |line| Err(Violation::StaleInstruction(line)))
}

/// Checks a value of the final state.
pub fn expect(what: &'static str, value: u64, wanted: u64) -> Result<(), Violation> {
    if value == wanted { Ok(()) } else { Err(Violation::State(what, value)) }
}
