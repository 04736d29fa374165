//! Device tree for a payload: ours or the payload's own, rewritten with a new /chosen.
//!
//! - When: once, in the last generation, if it kexecs another kernel.
//! - Expects: a blob, the new contents of /chosen, and RAM if the blob names none.
//! - Leaves: a blob without padding, with each /chosen property once and one reservation for the
//!   initrd, whatever the old blob contained.
//! - Refuses: an invalid blob, and a result larger than the boot protocol allows.
//!
//! A kernel that only kexecs itself uses the cheaper [`handover`](crate::handover), which edits in
//! place.

use crate::blob::{Blob, Kind};
use crate::copy::{self, Edits, Reservations, Value};
use crate::node::Node;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use boot::phys::{PAGE_SIZE, PhysAddr};
use boot::record::DTB_MAX_SIZE;
use core::ops::Range;

/// Number of random bytes for a payload: kaslr-seed, then rng-seed.
pub const SEED_BYTES: usize = KASLR_SEED_BYTES + 32;

const KASLR_SEED_BYTES: usize = 8;

const BOOTARGS: &str = "bootargs";
pub(crate) const INITRD_START: &str = "linux,initrd-start";
pub(crate) const INITRD_END: &str = "linux,initrd-end";
const KASLR_SEED: &str = "kaslr-seed";
const RNG_SEED: &str = "rng-seed";

/// Properties for the previous kernel that would be wrong for the next one. They are written anew
/// or left out; a seed, for one, must not serve two kernels.
///
/// `linux,usable-memory-range` is kept: a crashed kernel's memory is outside of it, and the next
/// kernel must not write there either.
pub(crate) const STALE: [&str; 9] = [
    INITRD_START,
    INITRD_END,
    KASLR_SEED,
    RNG_SEED,
    "linux,elfcorehdr",
    "linux,ima-kexec-buffer",
    "linux,tpm-kexec-buffer",
    "linux,kho-fdt",
    "linux,kho-scratch",
];

/// Prefixes of stale properties. `ouroboros,` is for our own generations. `linux,uefi-` is from
/// Linux's EFI stub: an outdated memory map, and runtime services in memory that is theirs no
/// longer.
const STALE_PREFIXES: [&str; 2] = ["ouroboros,", "linux,uefi-"];

/// New contents of /chosen, and RAM.
#[derive(Clone, Debug, Default)]
pub struct Chosen<'a> {
    /// All RAM, in place of what the tree names; `None` keeps that.
    pub memory: Option<&'a [Range<PhysAddr>]>,
    /// Command line; `None` keeps the old one.
    pub bootargs: Option<&'a str>,
    /// Exact range of the initrd.
    pub initrd: Option<Range<PhysAddr>>,
    /// Fresh random bytes. `None` leaves the seeds out, since old ones must not be reused.
    pub seeds: Option<[u8; SEED_BYTES]>,
}

/// A device tree that cannot be passed to a payload.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's comment describes its fields")]
pub enum Error {
    /// An invalid tree: the text of [`Blob::new`].
    #[error("the payload's device tree is damaged: {why}: write it to the FIT anew")]
    Damaged { why: String },
    /// More bytes than a kernel has to map (boot protocol, 2).
    #[error(
        "the payload's device tree has {bytes} bytes, {DTB_MAX_SIZE} are the most by the boot \
         protocol: leave nodes out"
    )]
    TooLarge { bytes: u64 },
}

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
    let old = Blob::new(blob).map_err(|what| damaged(&what))?;
    Node::root(&old).ok_or_else(|| damaged(&"no node"))?;
    let Chosen { memory, bootargs, initrd, seeds } = chosen;

    let mut new = Vec::new();
    if let Some(bootargs) = bootargs {
        new.push((BOOTARGS, Value::Text(bootargs)));
    }
    if let Some(initrd) = initrd {
        new.push((INITRD_START, Value::Number(initrd.start.get())));
        new.push((INITRD_END, Value::Number(initrd.end.get())));
    }
    if let Some((kaslr, rng)) = seeds.as_ref().map(|seeds| seeds.split_at(KASLR_SEED_BYTES)) {
        new.push((KASLR_SEED, Value::Bytes(kaslr)));
        new.push((RNG_SEED, Value::Bytes(rng)));
    }
    let ranges = memory.map(|ram| {
        move |visit: &mut dyn FnMut(Range<PhysAddr>)| ram.iter().cloned().for_each(visit)
    });
    let edits = Edits {
        memory: ranges.as_ref().map(|ranges| ranges as copy::Ranges<'_>),
        chosen: Some(copy::Chosen { new: &new, is_stale }),
        reservations: Some(Reservations { old: initrd_pages(&old), new: initrd.clone() }),
    };
    let written = copy::to_vec(&old, &edits).map_err(|error| damaged(&error))?;
    check_size(written.len() as u64)?;
    Ok(written)
}

/// Returns whether the property was for another kernel, or for a generation of ours.
pub(crate) fn is_stale(name: &[u8]) -> bool {
    is_for_one_kernel(name)
        || STALE_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// Returns whether the property is one of [`STALE`].
pub(crate) fn is_for_one_kernel(name: &[u8]) -> bool {
    STALE.iter().any(|stale| stale.as_bytes() == name)
}

/// Returns whether the property names the initrd.
pub(crate) fn is_initrd(name: &[u8]) -> bool {
    [INITRD_START, INITRD_END].iter().any(|initrd| initrd.as_bytes() == name)
}

/// Returns the old initrd's whole pages, which a reservation may fill. The range is empty if there
/// is no initrd.
fn initrd_pages(blob: &Blob<'_>) -> Range<PhysAddr> {
    let number = |wanted: &str| {
        let values = blob.events().filter_map(|event| match event.kind {
            Kind::Property { name, value } if event.is_of_chosen() && name == wanted.as_bytes() => {
                Some(value)
            }
            _ => None,
        });
        let value = values.last().unwrap_or_default();
        value.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
    };
    let end: u64 = number(INITRD_END);
    let end = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
    PhysAddr::new(number(INITRD_START)).align_down(PAGE_SIZE)..PhysAddr::new(end)
}

#[cfg(test)]
mod tests;
