//! A scene: code about to run, the memory that it finds, and what must be so when it is through.
//!
//! *When:* set up once, then played against every adversary, as the code is linked and with a word of it changed.

use std::collections::BTreeMap;
use std::ops::Range;

use relocate::random::SplitMix64;

use crate::adversary::Adversary;
use crate::cpu::Cpu;
use crate::failure::{Failure, Wrong};

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
    pub fn play_changed(&self, adversary: Adversary, words: &[(u64, u32)], as_linked: &Linked) -> Result<(), Failure> {
        let mut cpu = self.start.clone();
        cpu.memory.face(adversary);
        let place = |address: u64| address - self.code.start + self.placed;
        let exchange = |cpu: &mut Cpu, words: &[(u64, u32)]| -> Vec<(u64, u32)> {
            words.iter().map(|(address, word)| (*address, cpu.memory.exchange(place(*address), *word))).collect()
        };
        let own = exchange(&mut cpu, words);
        let last = words.iter().filter_map(|(address, _)| as_linked.last.get(address)).max().copied().unwrap_or(0);
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

/// Checks a value of the state at the end.
pub fn expect(what: &'static str, value: u64, wanted: u64) -> Result<(), Wrong> {
    if value == wanted { Ok(()) } else { Err(Wrong::State(what, value)) }
}
