//! A scene: code about to run, the memory that it finds, and what must be so when it is through.
//!
//! *When:* set up once, then played against every adversary, as the code is linked and with a word of it changed.

use std::collections::BTreeMap;
use std::ops::Range;

use boot::phys::PAGE_SIZE;
use boot::sysreg::{descriptor, sctlr, spsr};
use relocate::random::SplitMix64;

use crate::adversary::Adversary;
use crate::cpu::Cpu;
use crate::failure::{Failure, Wrong};
use crate::system::Level;
use crate::system::registers::{SCTLR_EL1, SCTLR_EL2};

/// Many times what the longest takes.
const STEPS: u64 = 400_000;

/// What must be so at the end; it may look through the CPU's own eyes.
pub type Contract = Box<dyn Fn(&mut Cpu) -> Result<(), Wrong> + Send + Sync>;

/// Code, the state that it starts in, and its contract.
pub struct Scene {
    /// What it is called.
    pub name: String,
    /// The code that runs, where it is linked.
    pub code: Range<u64>,
    /// Where that code lies.
    pub placed: u64,
    /// The first state.
    pub start: Cpu,
    /// The instruction at which the contract is due.
    pub stop: u64,
    /// The contract.
    pub contract: Contract,
    /// Where, at the latest, a run with a word changed is compared with the run as linked: it need not go on if nothing is left of the
    /// difference.
    pub milestones: Vec<u64>,
}

/// The run of the code as it is linked.
#[derive(Clone, Debug, Default)]
pub struct Linked {
    /// When it was last at each word.
    pub last: BTreeMap<u64, u64>,
    /// When it first came to each milestone, and what it was like there.
    milestones: BTreeMap<u64, (u64, u64)>,
}

impl Scene {
    /// Plays it as the kernel is linked.
    pub fn play(&self, adversary: Adversary) -> Result<(Cpu, Linked), Failure> {
        let mut linked = Linked::default();
        let mut cpu = self.start.clone();
        cpu.memory.face(adversary);
        while cpu.pc != self.stop {
            let at = self.linked(cpu.pc);
            linked.last.insert(at, cpu.steps);
            if cpu.steps > STEPS {
                return Err(Failure { at: Some(at), wrong: Wrong::Endless });
            }
            if self.milestones.contains(&at) {
                linked.milestones.entry(at).or_insert_with(|| (cpu.steps, cpu.fingerprint()));
            }
            cpu.step().map_err(|wrong| Failure { at: Some(at), wrong })?;
        }
        self.fulfil(&mut cpu)?;
        Ok((cpu, linked))
    }

    /// Plays it against the same adversary with these words, by the address of the link, in place of the kernel's own. Where nothing is left of
    /// the difference at a milestone, and the run as linked does not come back to these words, the rest of it has been seen.
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
                return Err(Failure { at: Some(at), wrong: Wrong::Endless });
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

/// Bytes that mean nothing.
#[must_use]
pub fn junk(seed: u64, length: u64) -> Vec<u8> {
    let mut random = SplitMix64::new(seed);
    (0..length / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()
}

/// Puts a number into bytes.
pub fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Four tables at `at` that map a window 1:1, page by page: code executable, the rest writable.
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

/// What the arm64 boot protocol promises an image at its first instruction: the state of the CPU, and image and device tree in memory
/// as they were written, with no line above them that is dirty or older, and no old instruction to fetch.
pub fn protocol(
    cpu: &mut Cpu,
    level: Level,
    image: (&Range<u64>, &[u8]),
    tree: (&Range<u64>, &[u8]),
) -> Result<(), Wrong> {
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
        return Err(Wrong::Pending);
    }
    for (name, (range, held)) in [("the image", image), ("the device tree", tree)] {
        if let Some(line) = cpu.memory.dirty_line(range) {
            return Err(Wrong::DirtyLine(line));
        }
        if let Some(line) = cpu.memory.stale_line(range) {
            return Err(Wrong::StaleLine(line));
        }
        let found = cpu.memory.beneath(range);
        if let Some(at) = found.iter().zip(held).position(|(found, held)| found != held) {
            return Err(Wrong::Content(name, range.start + at as u64));
        }
    }
    cpu.memory.would_fetch(image.0).map_or(Ok(()), |line| Err(Wrong::StaleInstruction(line)))
}

/// Checks a value of the state at the end.
pub fn expect(what: &'static str, value: u64, wanted: u64) -> Result<(), Wrong> {
    if value == wanted { Ok(()) } else { Err(Wrong::State(what, value)) }
}
