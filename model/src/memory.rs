//! Memory, D-cache, pending operations, I-cache and pipeline.
//!
//! It serves each load, store, fetch and maintenance instruction, by physical address. Memory,
//! D-cache, I-cache and pipeline can all hold different data, and only maintenance makes them
//! agree:
//!
//! - A cacheable access uses the D-cache and allocates a line. Any other access goes past it. A
//!   line stays until it is evicted or maintained.
//! - A store past the caches, a `dc`, an `ic` and a `tlbi` are pending until a DSB, which completes
//!   them in the most harmful order. Stores keep their order among themselves (they are to Device
//!   memory). A DMB separates the stores and `dc` before it from those after it. An `ic` is not
//!   ordered at all: it may complete before everything else.
//! - Speculation, by this CPU or another observer, may bring in a clean line at any time, with what
//!   memory holds then.
//! - Fetches read the pipeline first, which holds what there was to fetch at the last context
//!   synchronization event. Next is the I-cache, which holds what was in memory at its last
//!   invalidation, and then memory. They never read the D-cache. The other CPUs have an I-cache
//!   too, and only `ic ialluis` reaches it.
//!
//! An access that the contract does not allow is an error.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::adversary::{Adversary, Mood};
use crate::decode::{Dc, Domain};
use crate::failure::Violation;
use crate::translation::{Regime, Tlb};

/// Bytes in a cache line.
pub const LINE: usize = 64;

/// The state of a line in the D-cache.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Line {
    Absent,
    Clean,
    Dirty,
}

/// An operation that is pending until a barrier.
#[derive(Clone, Copy, Debug, Hash)]
enum Operation {
    Store { at: usize, bytes: [u8; 16], length: usize },
    Dc { operation: Dc, line: usize },
    Ic(Domain),
    Tlbi(Regime),
}

/// A pending operation, and the number of DMBs before it.
#[derive(Clone, Copy, Debug, Hash)]
struct Pending {
    barriers: u32,
    operation: Operation,
}

/// A kind of access that a contract can allow.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Access {
    Read,
    Write,
    Execute,
}

/// A window of RAM, and the caches over it.
#[derive(Clone, Debug, Hash)]
pub struct Memory {
    start: u64,
    bytes: Vec<u8>,
    lines: Vec<Line>,
    cached: Vec<u8>,
    /// Lines for which the I-cache and memory differ.
    instructions: BTreeMap<usize, [u8; LINE]>,
    /// The same for the other CPUs, which fetch nothing while the code runs.
    others: BTreeMap<usize, [u8; LINE]>,
    /// Lines fetched since the last synchronization that would be fetched differently now.
    pipeline: BTreeMap<usize, [u8; LINE]>,
    pending: VecDeque<Pending>,
    /// The pending stores by line: offset, length and bytes, in order.
    buffered: BTreeMap<usize, VecDeque<(usize, usize, [u8; 16])>>,
    barriers: u32,
    contract: Vec<(Access, Range<u64>)>,
    /// Offset of the last access.
    last: usize,
    /// The TLB.
    pub tlb: Tlb,
    /// Decides wherever the architecture leaves a choice.
    pub adversary: Adversary,
}

impl Memory {
    /// Makes RAM at `start` with these bytes: all caches are empty, and no access is allowed.
    #[must_use]
    pub fn new(start: u64, bytes: Vec<u8>) -> Self {
        Self {
            start,
            lines: vec![Line::Absent; bytes.len() / LINE],
            cached: vec![0; bytes.len()],
            instructions: BTreeMap::new(),
            others: BTreeMap::new(),
            pipeline: BTreeMap::new(),
            pending: VecDeque::new(),
            buffered: BTreeMap::new(),
            barriers: 0,
            contract: Vec::new(),
            last: 0,
            tlb: Tlb::default(),
            adversary: Adversary::eager(),
            bytes,
        }
    }

    /// Sets the adversary that decides from now on.
    pub fn face(&mut self, adversary: Adversary) {
        if adversary.instructions == Mood::Eager {
            self.instructions.clear();
            self.others.clear();
        }
        self.adversary = adversary;
    }

    /// Allows an access.
    pub fn allow(&mut self, access: Access, range: Range<u64>) {
        self.contract.push((access, range));
    }

    /// Returns what memory itself holds, below the caches.
    #[must_use]
    pub fn beneath(&self, range: &Range<u64>) -> &[u8] {
        &self.bytes[(range.start - self.start) as usize..(range.end - self.start) as usize]
    }

    /// Returns memory below the caches for a scene to fill.
    pub fn beneath_mut(&mut self, range: &Range<u64>) -> &mut [u8] {
        &mut self.bytes[(range.start - self.start) as usize..(range.end - self.start) as usize]
    }

    /// Replaces a word in memory and in the D-cache line over it; returns the old word.
    pub fn exchange(&mut self, address: u64, word: u32) -> u32 {
        let at = (address - self.start) as usize;
        let place = &mut self.bytes[at..at + 4];
        let was = [place[0], place[1], place[2], place[3]];
        place.copy_from_slice(&word.to_le_bytes());
        self.cached[at..at + 4].copy_from_slice(&word.to_le_bytes());
        u32::from_le_bytes(was)
    }

    /// Writes back and invalidates all lines.
    pub fn settle(&mut self) {
        for line in 0..self.lines.len() {
            self.write_back(line);
        }
        self.lines.fill(Line::Absent);
    }

    /// Makes dirty lines at `start` that hold these bytes, whatever memory holds.
    pub fn dirty(&mut self, start: u64, bytes: &[u8]) {
        let at = (start - self.start) as usize;
        assert!(at.is_multiple_of(LINE) && bytes.len().is_multiple_of(LINE), "whole lines");
        self.cached[at..at + bytes.len()].copy_from_slice(bytes);
        self.lines[at / LINE..(at + bytes.len()) / LINE].fill(Line::Dirty);
    }

    /// Puts these bytes into every CPU's I-cache for the lines at `start`.
    pub fn remember(&mut self, start: u64, bytes: &[u8]) {
        let first = (start - self.start) as usize / LINE;
        for cache in [&mut self.instructions, &mut self.others] {
            cache.extend(
                bytes.as_chunks().0.iter().enumerate().map(|(line, bytes)| (first + line, *bytes)),
            );
        }
    }

    /// Does what the adversary's random freedoms may do between two instructions.
    pub fn meddle(&mut self) {
        if self.adversary.completion == Mood::Random
            && !self.pending.is_empty()
            && self.adversary.one_in(4)
        {
            let chosen = self.adversary.below(self.pending.len());
            if self.may_complete(chosen) {
                self.complete(chosen);
            }
        }
        if self.adversary.eviction == Mood::Random && self.adversary.one_in(8) {
            let line = self.any_line();
            self.write_back(line);
            self.lines[line] = Line::Absent;
        }
        if self.adversary.speculation == Mood::Random && self.adversary.one_in(8) {
            let line = self.any_line();
            self.fill(line);
        }
        if self.adversary.translations == Mood::Random && self.adversary.one_in(64) {
            self.tlb.lose();
        }
    }

    /// Returns a line near the last access, or any line.
    fn any_line(&mut self) -> usize {
        let lines = self.lines.len();
        if self.adversary.one_in(2) {
            self.adversary.below(lines)
        } else {
            (self.last / LINE + self.adversary.below(9)).saturating_sub(4).min(lines - 1)
        }
    }

    /// Loads `length` bytes, at most 16, from within one line.
    pub fn load(
        &mut self,
        address: u64,
        length: usize,
        cacheable: bool,
    ) -> Result<[u8; 16], Violation> {
        let at = self.place(Access::Read, address, length)?;
        let mut bytes = [0; 16];
        if cacheable {
            self.fill(at / LINE);
            bytes[..length].copy_from_slice(&self.cached[at..at + length]);
        } else {
            bytes[..length].copy_from_slice(&self.bytes[at..at + length]);
            // A CPU sees its own stores.
            for (stored, size, new) in self.buffered.get(&(at / LINE)).into_iter().flatten() {
                for (place, byte) in (*stored..).zip(&new[..*size]) {
                    if let Some(seen) =
                        place.checked_sub(at).and_then(|offset| bytes[..length].get_mut(offset))
                    {
                        *seen = *byte;
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// Stores at most 16 bytes within one line.
    pub fn store(&mut self, address: u64, bytes: &[u8], cacheable: bool) -> Result<(), Violation> {
        let at = self.place(Access::Write, address, bytes.len())?;
        if cacheable {
            self.fill(at / LINE);
            self.cached[at..at + bytes.len()].copy_from_slice(bytes);
            self.lines[at / LINE] = Line::Dirty;
            if self.adversary.eviction == Mood::Eager {
                self.write_back(at / LINE);
            }
        } else {
            let mut padded = [0; 16];
            padded[..bytes.len()].copy_from_slice(bytes);
            self.issue(Operation::Store { at, bytes: padded, length: bytes.len() });
        }
        Ok(())
    }

    /// Fetches an instruction word.
    pub fn fetch(&mut self, address: u64) -> Result<u32, Violation> {
        let at = self.place(Access::Execute, address, 4)?;
        let (line, within) = (at / LINE, at % LINE);
        let old = self.pipeline.get(&line).or_else(|| self.instructions.get(&line));
        let word = old.map_or(&self.bytes[at..at + 4], |old| &old[within..within + 4]);
        Ok(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    }

    /// Returns the first line in `range` that a CPU would fetch differently from memory.
    #[must_use]
    pub fn would_fetch(&self, range: &Range<u64>) -> Option<u64> {
        let lines =
            (range.start - self.start) as usize / LINE..(range.end - self.start) as usize / LINE;
        let mut old = self
            .pipeline
            .keys()
            .chain(self.instructions.keys())
            .chain(self.others.keys())
            .filter(|line| lines.contains(line));
        old.next().map(|line| self.start + (line * LINE) as u64)
    }

    /// Issues dc by VA; the address is already translated.
    pub fn dc(&mut self, operation: Dc, address: u64) -> Result<(), Violation> {
        let line = self.place(Access::Read, address & !(LINE as u64 - 1), 1)? / LINE;
        self.issue(Operation::Dc { operation, line });
        Ok(())
    }

    /// Issues ic iallu, or ic ialluis for the inner domain.
    pub fn ic(&mut self, domain: Domain) {
        self.issue(Operation::Ic(domain));
    }

    /// Issues tlbi of a whole regime.
    pub fn tlbi(&mut self, regime: Regime) {
        self.issue(Operation::Tlbi(regime));
    }

    /// Performs a context synchronization event: discards what was fetched.
    pub fn synchronise(&mut self) {
        self.pipeline.clear();
    }

    /// Performs a DMB: stores and dc before it come before those after it.
    pub fn dmb(&mut self) {
        self.barriers += 1;
    }

    /// Performs a DSB: completes what is pending, in the most harmful order.
    ///
    /// A local one waits only for this CPU's own ic and tlbi, an inner one for all ic and tlbi.
    pub fn dsb(&mut self, domain: Domain) {
        let waits_for = |pending: &Pending| match pending.operation {
            Operation::Ic(Domain::Inner) => domain != Domain::Local,
            Operation::Ic(_) | Operation::Tlbi(_) => true,
            Operation::Store { .. } | Operation::Dc { .. } => false,
        };
        while let Some(chosen) = self.pending.iter().position(waits_for) {
            self.complete(chosen);
        }
        while domain == Domain::System && !self.pending.is_empty() {
            let stores_first = match self.adversary.order {
                Mood::Lazy => false,
                Mood::Eager => true,
                Mood::Random => self.adversary.one_in(2),
            };
            let barriers = self.pending[0].barriers;
            let mut group = self.pending.iter().take_while(|pending| pending.barriers == barriers);
            match group.position(|pending| {
                matches!(pending.operation, Operation::Store { .. }) == stores_first
            }) {
                Some(preferred) => self.complete(preferred),
                // The group has operations of one kind only.
                None => (0..self
                    .pending
                    .iter()
                    .take_while(|pending| pending.barriers == barriers)
                    .count())
                    .for_each(|_| self.complete(0)),
            }
        }
    }

    /// Returns whether nothing is pending.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns the first dirty line in `range`.
    #[must_use]
    pub fn dirty_line(&self, range: &Range<u64>) -> Option<u64> {
        self.find(range, |line| self.lines[line] == Line::Dirty)
    }

    /// Returns the first valid line in `range` that differs from memory.
    #[must_use]
    pub fn stale_line(&self, range: &Range<u64>) -> Option<u64> {
        self.find(range, |line| {
            let bytes = line * LINE..(line + 1) * LINE;
            self.lines[line] != Line::Absent && self.cached[bytes.clone()] != self.bytes[bytes]
        })
    }

    fn find(&self, range: &Range<u64>, wanted: impl Fn(usize) -> bool) -> Option<u64> {
        let mut lines = (range.start - self.start) as usize / LINE
            ..(range.end - self.start).div_ceil(LINE as u64) as usize;
        lines.find(|&line| wanted(line)).map(|line| self.start + (line * LINE) as u64)
    }

    fn place(&mut self, access: Access, address: u64, length: usize) -> Result<usize, Violation> {
        let end = address.wrapping_add(length as u64);
        let covers = |(allowed, range): &(Access, Range<u64>)| {
            *allowed == access && range.start <= address && address < end && end <= range.end
        };
        if !self.contract.iter().any(covers) {
            return Err(Violation::Access(access, address));
        }
        let at = (address - self.start) as usize;
        if at % LINE + length > LINE {
            return Err(Violation::Straddles(address));
        }
        if access != Access::Execute {
            self.last = at;
        }
        Ok(at)
    }

    fn issue(&mut self, operation: Operation) {
        if let Operation::Store { at, bytes, length } = operation {
            self.buffered.entry(at / LINE).or_default().push_back((at, length, bytes));
        }
        self.pending.push_back(Pending { barriers: self.barriers, operation });
        if self.adversary.completion == Mood::Eager {
            self.complete(self.pending.len() - 1);
        }
    }

    /// Returns whether this operation may complete before those issued earlier.
    fn may_complete(&self, chosen: usize) -> bool {
        let Pending { barriers, operation } = self.pending[chosen];
        let mut before = self.pending.iter().take(chosen);
        match operation {
            Operation::Ic(_) | Operation::Tlbi(_) => true,
            Operation::Store { .. } => before.all(|other| {
                !matches!(other.operation, Operation::Store { .. })
                    && (other.barriers == barriers
                        || !matches!(other.operation, Operation::Dc { .. }))
            }),
            Operation::Dc { .. } => before.all(|other| {
                other.barriers == barriers
                    || matches!(other.operation, Operation::Ic(_) | Operation::Tlbi(_))
            }),
        }
    }

    fn complete(&mut self, chosen: usize) {
        let Some(pending) = self.pending.remove(chosen) else { return };
        match pending.operation {
            Operation::Store { at, bytes, length } => {
                // Stores keep their order, so this is the first one of its line.
                self.buffered.get_mut(&(at / LINE)).map(VecDeque::pop_front);
                self.change(at, &bytes[..length]);
            }
            Operation::Dc { operation, line } => self.maintain(operation, line),
            Operation::Ic(domain) => {
                if domain != Domain::Local {
                    self.others.clear();
                }
                // The pipeline still holds what was fetched from the I-cache before.
                for (line, old) in std::mem::take(&mut self.instructions) {
                    self.pipeline.entry(line).or_insert(old);
                }
            }
            Operation::Tlbi(regime) => self.tlb.forget(regime),
        }
    }

    fn maintain(&mut self, operation: Dc, line: usize) {
        let loses = match (operation, self.adversary.ivac) {
            (Dc::Invalidate, Mood::Lazy) => true,
            (Dc::Invalidate, Mood::Random) => self.adversary.one_in(2),
            _ => false,
        };
        if !loses {
            self.write_back(line);
        }
        if operation != Dc::Clean {
            self.lines[line] = Line::Absent;
        }
    }

    fn fill(&mut self, line: usize) {
        if self.lines[line] == Line::Absent {
            let bytes = line * LINE..(line + 1) * LINE;
            self.cached[bytes.clone()].copy_from_slice(&self.bytes[bytes]);
            self.lines[line] = Line::Clean;
        }
    }

    fn write_back(&mut self, line: usize) {
        if self.lines[line] == Line::Dirty {
            self.lines[line] = Line::Clean;
            let mut bytes = [0; LINE];
            bytes.copy_from_slice(&self.cached[line * LINE..(line + 1) * LINE]);
            self.change(line * LINE, &bytes);
        }
    }

    /// Changes memory, and lets speculation and the I-cache keep the old contents.
    fn change(&mut self, at: usize, bytes: &[u8]) {
        let line = at / LINE;
        let ahead = match self.adversary.speculation {
            Mood::Lazy => false,
            Mood::Eager => true,
            Mood::Random => self.adversary.one_in(4),
        };
        if ahead {
            self.fill(line);
        }
        let kept = match self.adversary.instructions {
            Mood::Lazy => true,
            Mood::Eager => false,
            Mood::Random => self.adversary.one_in(2),
        };
        if kept && self.bytes[at..at + bytes.len()] != *bytes {
            let mut old = [0; LINE];
            old.copy_from_slice(&self.bytes[line * LINE..(line + 1) * LINE]);
            self.others.entry(line).or_insert(old);
            let old = *self.instructions.entry(line).or_insert(old);
            self.pipeline.entry(line).or_insert(old);
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x1000;

    fn memory(adversary: Adversary) -> Memory {
        let mut memory = Memory::new(START, vec![0; 4 * LINE]);
        for access in [Access::Read, Access::Write, Access::Execute] {
            memory.allow(access, START..START + 4 * LINE as u64);
        }
        memory.face(adversary);
        memory
    }

    fn byte(memory: &mut Memory, cacheable: bool) -> u8 {
        memory.load(START, 1, cacheable).unwrap()[0]
    }

    #[test]
    fn a_store_through_the_cache_reaches_memory_when_it_is_cleaned() {
        let mut memory = memory(Adversary::lazy());
        memory.store(START, &[1], true).unwrap();
        assert_eq!((byte(&mut memory, true), byte(&mut memory, false)), (1, 0));
        memory.dc(Dc::Clean, START).unwrap();
        assert_eq!(byte(&mut memory, false), 0, "pending until a dsb");
        memory.dsb(Domain::Local);
        assert_eq!(byte(&mut memory, false), 0, "and a local one does not wait for it");
        memory.dsb(Domain::System);
        assert_eq!((byte(&mut memory, false), memory.is_quiet()), (1, true));
    }

    #[test]
    fn a_store_past_the_cache_is_hidden_by_what_speculation_brought_in() {
        let mut memory = memory(Adversary::lazy());
        memory.store(START, &[1], false).unwrap();
        assert_eq!(byte(&mut memory, false), 1, "a CPU sees its own stores");
        memory.dsb(Domain::System);
        let line = START..START + LINE as u64;
        assert_eq!((byte(&mut memory, true), memory.stale_line(&line)), (0, Some(START)));
        memory.dc(Dc::Invalidate, START).unwrap();
        memory.dsb(Domain::System);
        assert_eq!((byte(&mut memory, true), memory.stale_line(&line)), (1, None));
    }

    #[test]
    fn without_a_barrier_between_them_stores_and_maintenance_go_in_the_order_that_hurts() {
        for (barrier, adversary, left) in [
            (false, Adversary::lazy_stores_first(), 7),
            (true, Adversary::lazy_stores_first(), 1),
            (false, Adversary::lazy(), 1),
        ] {
            let mut memory = memory(adversary);
            memory.dirty(START, &[7; LINE]);
            memory.dc(Dc::CleanInvalidate, START).unwrap();
            if barrier {
                memory.dmb();
            }
            memory.store(START, &[1], false).unwrap();
            memory.dsb(Domain::System);
            assert_eq!(memory.beneath(&(START..START + 1)), [left]);
        }
    }

    #[test]
    fn a_fetch_forgets_the_i_cache_and_then_the_pipeline() {
        let mut memory = memory(Adversary::lazy());
        memory.store(START, &[1], false).unwrap();
        memory.ic(Domain::Local);
        memory.dsb(Domain::System);
        memory.synchronise();
        assert_eq!(
            memory.fetch(START).unwrap(),
            0,
            "the ic was before the store: no barrier separates them"
        );
        memory.ic(Domain::Local);
        memory.dsb(Domain::Local);
        assert_eq!(memory.fetch(START).unwrap(), 0, "the pipeline still has it");
        memory.synchronise();
        assert_eq!(memory.fetch(START).unwrap(), 1);
    }

    #[test]
    fn an_ic_of_this_cpu_leaves_the_others_as_they_are() {
        let range = START..START + LINE as u64;
        let mut memory = memory(Adversary::lazy());
        memory.remember(START, &[7; LINE]);
        memory.ic(Domain::Local);
        memory.dsb(Domain::System);
        memory.synchronise();
        assert_eq!(memory.fetch(START).unwrap(), 0);
        assert_eq!(memory.would_fetch(&range), Some(START), "another CPU would");
        memory.ic(Domain::Inner);
        memory.dsb(Domain::Local);
        assert!(!memory.is_quiet(), "dsb nsh does not wait for the other CPUs");
        memory.dsb(Domain::Inner);
        assert!(memory.is_quiet());
        assert_eq!(memory.would_fetch(&range), None);
    }

    #[test]
    fn what_no_contract_names_is_refused() {
        let mut memory = memory(Adversary::eager());
        let beyond = START + 4 * LINE as u64;
        assert_eq!(memory.load(beyond, 1, false), Err(Violation::Access(Access::Read, beyond)));
        assert_eq!(memory.load(START + 60, 8, false), Err(Violation::Straddles(START + 60)));
    }
}
