//! The device tree that a payload gets: ours or its own, written anew with what it is told in /chosen.
//!
//! *When:* once, by the last generation, where it goes to a kernel that is not ours. *On entry:* a blob, and what is to be said. *Leaves:* a blob
//! without padding, with one of each property and one reservation for the ramdisk, whatever stood there before. *Refuses:* a blob that is no tree,
//! and one that is larger than the boot protocol allows.
//!
//! It is written in one pass instead of edited in place: reservations can grow, /chosen may be missing, and nothing costs a kernel that goes to
//! itself ([`handover`](crate::handover) is what that uses).

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::flat::{self, Blocks, HEADER_BYTES, token, word};
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use boot::record::DTB_MAX_SIZE;
use core::fmt;
use core::ops::Range;
use dtoolkit::fdt::Fdt;

/// How many random bytes a payload gets: kaslr-seed, then rng-seed.
pub const SEED_BYTES: usize = KASLR_SEED_BYTES + 32;

const KASLR_SEED_BYTES: usize = 8;

const BOOTARGS: &str = "bootargs";
const INITRD_START: &str = "linux,initrd-start";
const INITRD_END: &str = "linux,initrd-end";
const KASLR_SEED: &str = "kaslr-seed";
const RNG_SEED: &str = "rng-seed";

/// What was said to whoever had the machine before, and would be wrong now: it is told anew or not at all. A seed is for one kernel.
pub(crate) const STALE: [&str; 10] = [
    INITRD_START,
    INITRD_END,
    KASLR_SEED,
    RNG_SEED,
    "linux,elfcorehdr",
    "linux,usable-memory-range",
    "linux,ima-kexec-buffer",
    "linux,tpm-kexec-buffer",
    "linux,kho-fdt",
    "linux,kho-scratch",
];

/// What our own generations tell each other; and where Linux's EFI stub found UEFI, which is a memory map of then, and services in memory that is
/// no longer theirs.
const STALE_PREFIXES: [&str; 2] = ["ouroboros,", "linux,uefi-"];

/// What a payload is told.
#[derive(Clone, Debug, Default)]
pub struct Chosen<'a> {
    /// Its orders; without any, those that are there stay.
    pub bootargs: Option<&'a str>,
    /// Its ramdisk, to the byte.
    pub ramdisk: Option<Range<PhysAddr>>,
    /// Random bytes that nobody has seen; none rather than old ones.
    pub seeds: Option<[u8; SEED_BYTES]>,
}

/// A tree that no payload could be given.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Refused {
    /// Not a tree: dtoolkit's own words, or those of [`flat::blocks`].
    Damaged { why: String },
    /// More bytes than a kernel need map (boot protocol, 2).
    TooLarge { bytes: u64 },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { why } => {
                write!(f, "the payload's device tree is damaged: {why}: write it to the FIT anew")
            }
            Self::TooLarge { bytes } => {
                write!(
                    f,
                    "the payload's device tree has {bytes} bytes, {DTB_MAX_SIZE} are the most by the boot protocol: leave nodes out"
                )
            }
        }
    }
}

impl core::error::Error for Refused {}

/// Whether so many bytes may be a device tree's.
///
/// # Errors
///
/// [`Refused::TooLarge`].
pub const fn check_size(bytes: u64) -> Result<(), Refused> {
    if bytes > DTB_MAX_SIZE { Err(Refused::TooLarge { bytes }) } else { Ok(()) }
}

/// The blob for a payload.
///
/// # Errors
///
/// [`Refused`].
pub fn write(blob: &[u8], chosen: &Chosen<'_>) -> Result<Vec<u8>, Refused> {
    let damaged = |why: &dyn ToString| Refused::Damaged { why: why.to_string() };
    Fdt::new(blob).map_err(|error| damaged(&error))?;
    let blocks = flat::blocks(blob).map_err(|what| damaged(&what))?;
    let mut writer =
        Writer { blob, blocks, chosen, structure: Vec::new(), strings: Vec::new(), old: [0; 2] };
    writer.strings.extend(&blob[writer.blocks.strings.clone()]);
    writer.structure().ok_or_else(|| damaged(&"a structure without an end"))?;
    let reservations =
        writer.reservations().ok_or_else(|| damaged(&"memory reservations without an end"))?;
    writer.joined(&reservations)
}

struct Writer<'a> {
    blob: &'a [u8],
    blocks: Blocks,
    chosen: &'a Chosen<'a>,
    structure: Vec<u8>,
    strings: Vec<u8>,
    /// The ramdisk that was there before: start, end.
    old: [u64; 2],
}

impl Writer<'_> {
    /// The structure block, token by token.
    fn structure(&mut self) -> Option<()> {
        let (mut at, mut depth, mut in_chosen, mut told) =
            (self.blocks.structure.start, 0_usize, false, false);
        loop {
            let (token, next) = flat::token(self.blob, at)?;
            let bytes = self.blob.get(at..next)?;
            match token {
                token::BEGIN_NODE => {
                    depth += 1;
                    self.structure.extend(bytes);
                    if depth == 2 {
                        in_chosen = flat::name(self.blob, at + 4)? == b"chosen";
                        if in_chosen && !told {
                            self.tell();
                            told = true;
                        }
                    }
                }
                token::END_NODE => {
                    if depth == 1 && !told {
                        self.word(token::BEGIN_NODE);
                        self.structure.extend(b"chosen\0\0");
                        self.tell();
                        self.word(token::END_NODE);
                        told = true;
                    }
                    depth = depth.checked_sub(1)?;
                    self.structure.extend(bytes);
                }
                token::PROP if in_chosen && depth == 2 && self.is_stale(at)? => {}
                token::NOP => {}
                _ => self.structure.extend(bytes),
            }
            if token == token::END {
                return Some(());
            }
            at = next;
        }
    }

    /// Whether the property of /chosen at `at` must not be handed on. Notes where the ramdisk was that it names.
    fn is_stale(&mut self, at: usize) -> Option<bool> {
        let strings = self.blob.get(self.blocks.strings.clone())?;
        let name = str::from_utf8(flat::name(strings, word(self.blob, at + 8)?)?).ok()?;
        let value = self.blob.get(at + 12..)?.get(..word(self.blob, at + 4)?)?;
        let number = || value.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
        match name {
            INITRD_START => self.old[0] = number(),
            INITRD_END => self.old[1] = number(),
            BOOTARGS => return Some(self.chosen.bootargs.is_some()),
            _ => {}
        }
        Some(STALE.contains(&name) || STALE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
    }

    /// What the payload is told, as properties.
    fn tell(&mut self) {
        let Chosen { bootargs, ramdisk, seeds } = self.chosen;
        if let Some(bootargs) = bootargs {
            self.property(BOOTARGS, &[bootargs.as_bytes(), &[0]]);
        }
        if let Some(ramdisk) = ramdisk {
            self.property(INITRD_START, &[&ramdisk.start.0.to_be_bytes()]);
            self.property(INITRD_END, &[&ramdisk.end.0.to_be_bytes()]);
        }
        if let Some((kaslr, rng)) = seeds.as_ref().map(|seeds| seeds.split_at(KASLR_SEED_BYTES)) {
            self.property(KASLR_SEED, &[kaslr]);
            self.property(RNG_SEED, &[rng]);
        }
    }

    fn property(&mut self, name: &str, value: &[&[u8]]) {
        // A name that is there already is shared.
        let whole = [name.as_bytes(), &[0]].concat();
        let found = self.strings.windows(whole.len()).position(|known| known == whole);
        let name = found.unwrap_or(self.strings.len());
        if found.is_none() {
            self.strings.extend(whole);
        }
        self.word(token::PROP);
        self.word(value.iter().map(|part| part.len()).sum::<usize>() as u32);
        self.word(name as u32);
        value.iter().for_each(|part| self.structure.extend(*part));
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    /// The reservations, without that of a ramdisk that is no more, and with the new one's.
    fn reservations(&self) -> Option<Vec<u8>> {
        let old = (self.old[0] & !(PAGE_SIZE - 1))
            ..self.old[1].checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        let mut reservations = Vec::new();
        let mut at = self.blocks.reservations;
        loop {
            let entry = self.blob.get(at..at + 16)?;
            let [start, size] = [&entry[..8], &entry[8..]]
                .map(|half| half.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)));
            at += 16;
            if [start, size] == [0; 2] {
                break;
            }
            if start < old.start || start.saturating_add(size) > old.end {
                reservations.extend(entry);
            }
        }
        let new = self
            .chosen
            .ramdisk
            .as_ref()
            .map_or([0; 2], |ramdisk| [ramdisk.start.0, ramdisk.bytes()]);
        for number in new.into_iter().chain([0; 2]).take(if new == [0; 2] { 2 } else { 4 }) {
            reservations.extend(number.to_be_bytes());
        }
        Some(reservations)
    }

    /// Header, reservations, structure, strings.
    fn joined(&self, reservations: &[u8]) -> Result<Vec<u8>, Refused> {
        let structure = HEADER_BYTES + reservations.len();
        let strings = structure + self.structure.len();
        let end = strings + self.strings.len();
        check_size(end as u64)?;
        let mut blob = Vec::with_capacity(end);
        blob.extend(flat::header(structure, strings, end, flat::boot_cpu(self.blob)));
        [reservations, &self.structure, &self.strings]
            .into_iter()
            .for_each(|block| blob.extend(block));
        Ok(blob)
    }
}

#[cfg(test)]
mod tests;
