//! Device tree for a payload: ours or the payload's own, rewritten with a new /chosen.
//!
//! - When: once, in the last generation, if it kexecs another kernel.
//! - Expects: a blob, and the new contents of /chosen.
//! - Leaves: a blob without padding, with each /chosen property once and one reservation for the
//!   initrd, whatever the old blob contained.
//! - Refuses: an invalid blob, and a result larger than the boot protocol allows.
//!
//! This code writes the blob anew in one pass, since reservations can grow and /chosen may be
//! missing. A kernel that only kexecs itself uses the cheaper [`handover`](crate::handover), which
//! edits in place.

use crate::blob::{self, Blocks, HEADER_BYTES, token, word};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use boot::record::DTB_MAX_SIZE;
use core::fmt;
use core::ops::Range;
use dtoolkit::fdt::Fdt;

/// Number of random bytes for a payload: kaslr-seed, then rng-seed.
pub const SEED_BYTES: usize = KASLR_SEED_BYTES + 32;

const KASLR_SEED_BYTES: usize = 8;

const BOOTARGS: &str = "bootargs";
const INITRD_START: &str = "linux,initrd-start";
const INITRD_END: &str = "linux,initrd-end";
const KASLR_SEED: &str = "kaslr-seed";
const RNG_SEED: &str = "rng-seed";

/// Properties for the previous kernel that would be wrong for the next one. They are written anew
/// or left out; a seed, for one, must not serve two kernels.
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

/// Prefixes of stale properties. `ouroboros,` is for our own generations. `linux,uefi-` is from
/// Linux's EFI stub: an outdated memory map, and runtime services in memory that is theirs no
/// longer.
const STALE_PREFIXES: [&str; 2] = ["ouroboros,", "linux,uefi-"];

/// New contents of /chosen.
#[derive(Clone, Debug, Default)]
pub struct Chosen<'a> {
    /// Command line; `None` keeps the old one.
    pub bootargs: Option<&'a str>,
    /// Exact range of the initrd.
    pub initrd: Option<Range<PhysAddr>>,
    /// Fresh random bytes. `None` leaves the seeds out, since old ones must not be reused.
    pub seeds: Option<[u8; SEED_BYTES]>,
}

/// A device tree that cannot be passed to a payload.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "each variant's comment describes its fields")]
pub enum Error {
    /// An invalid tree: dtoolkit's error text, or that of [`blob::blocks`].
    Damaged { why: String },
    /// More bytes than a kernel has to map (boot protocol, 2).
    TooLarge { bytes: u64 },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { why } => {
                write!(f, "the payload's device tree is damaged: {why}: write it to the FIT anew")
            }
            Self::TooLarge { bytes } => {
                write!(
                    f,
                    "the payload's device tree has {bytes} bytes, {DTB_MAX_SIZE} are the most \
                     by the boot protocol: leave nodes out"
                )
            }
        }
    }
}

impl core::error::Error for Error {}

/// Checks a device tree's size against the boot protocol's limit.
///
/// # Errors
///
/// Returns [`Error::TooLarge`].
pub const fn check_size(bytes: u64) -> Result<(), Error> {
    if bytes > DTB_MAX_SIZE { Err(Error::TooLarge { bytes }) } else { Ok(()) }
}

/// Writes the blob for a payload.
///
/// # Errors
///
/// Returns [`Error`] if the old blob is invalid or the new one too large.
pub fn write(blob: &[u8], chosen: &Chosen<'_>) -> Result<Vec<u8>, Error> {
    let damaged = |why: &dyn ToString| Error::Damaged { why: why.to_string() };
    Fdt::new(blob).map_err(|error| damaged(&error))?;
    let blocks = blob::blocks(blob).map_err(|what| damaged(&what))?;
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
    /// Start and end of the previous initrd.
    old: [u64; 2],
}

impl Writer<'_> {
    /// Copies the structure block, token by token, with the new /chosen properties.
    fn structure(&mut self) -> Option<()> {
        let (mut at, mut depth, mut in_chosen, mut told) =
            (self.blocks.structure.start, 0_usize, false, false);
        loop {
            let (token, next) = blob::token(self.blob, at)?;
            let bytes = self.blob.get(at..next)?;
            match token {
                token::BEGIN_NODE => {
                    depth += 1;
                    self.structure.extend(bytes);
                    if depth == 2 {
                        in_chosen = blob::name(self.blob, at + 4)? == b"chosen";
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

    /// Returns whether the property of /chosen at `at` must be left out. Notes the previous
    /// initrd's addresses.
    fn is_stale(&mut self, at: usize) -> Option<bool> {
        let strings = self.blob.get(self.blocks.strings.clone())?;
        let name = str::from_utf8(blob::name(strings, word(self.blob, at + 8)?)?).ok()?;
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

    /// Writes the new /chosen properties.
    fn tell(&mut self) {
        let Chosen { bootargs, initrd, seeds } = self.chosen;
        if let Some(bootargs) = bootargs {
            self.property(BOOTARGS, &[bootargs.as_bytes(), &[0]]);
        }
        if let Some(initrd) = initrd {
            self.property(INITRD_START, &[&initrd.start.0.to_be_bytes()]);
            self.property(INITRD_END, &[&initrd.end.0.to_be_bytes()]);
        }
        if let Some((kaslr, rng)) = seeds.as_ref().map(|seeds| seeds.split_at(KASLR_SEED_BYTES)) {
            self.property(KASLR_SEED, &[kaslr]);
            self.property(RNG_SEED, &[rng]);
        }
    }

    fn property(&mut self, name: &str, value: &[&[u8]]) {
        // Reuse a name that the strings block has already.
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

    /// Returns the memory reservations, with the previous initrd's left out and the new initrd's
    /// added.
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
        let new =
            self.chosen.initrd.as_ref().map_or([0; 2], |initrd| [initrd.start.0, initrd.bytes()]);
        for number in new.into_iter().chain([0; 2]).take(if new == [0; 2] { 2 } else { 4 }) {
            reservations.extend(number.to_be_bytes());
        }
        Some(reservations)
    }

    /// Joins header, reservations, structure and strings to a blob.
    fn joined(&self, reservations: &[u8]) -> Result<Vec<u8>, Error> {
        let structure = HEADER_BYTES + reservations.len();
        let strings = structure + self.structure.len();
        let end = strings + self.strings.len();
        check_size(end as u64)?;
        let mut blob = Vec::with_capacity(end);
        blob.extend(blob::header(structure, strings, end, blob::boot_cpu(self.blob)));
        [reservations, &self.structure, &self.strings]
            .into_iter()
            .for_each(|block| blob.extend(block));
        Ok(blob)
    }
}

#[cfg(test)]
mod tests;
