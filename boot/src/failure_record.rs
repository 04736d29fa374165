//! Failure record: why a kernel without a console failed, behind its entry record.
//!
//! - Filled by an entry at a wrong exception level, a full early idmap, an exception or a panic. A
//!   refusal fills it only if there is no console, and replaces the refusal before.
//! - Holds the numbers of an exception in any case, the text only if there is no UART: it is what
//!   the kernel would have printed.
//! - At the symbol `failure_record` of the linked kernel, behind the entry record, in its page.
//!   [`MAGIC`] is its first word, for a search in a dump of memory.
//! - Rust cleans it to PoC, and so does `early_off`: a debugger or a loader that reads RAM past the
//!   caches finds it there.
//! - Each Image has its own record: a kernel that kexecs after a refusal does not hand it on.

use core::sync::atomic::{AtomicU8, AtomicU64};

/// First word of the record.
pub const MAGIC: u64 = u64::from_le_bytes(*b"!!failed");

/// Size of the text in bytes; more is cut off. All registers of an exception fit.
pub const TEXT_SIZE: usize = 2304 - 6 * size_of::<u64>();

/// A reason to fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u64)]
pub enum Reason {
    /// Entered at neither EL1 nor EL2.
    Level = 1,
    /// The early idmap has no table left.
    EarlyIdmap,
    /// An exception that is not an interrupt.
    Exception,
    /// A panic.
    Panic,
    /// A refused kexec or run.
    Refused,
}

impl Reason {
    const ALL: [Self; 5] =
        [Self::Level, Self::EarlyIdmap, Self::Exception, Self::Panic, Self::Refused];
}

/// The record. All zero behind [`MAGIC`] until the kernel fails.
///
/// Its fields are atomics because assembly writes them, which the compiler does not see.
#[derive(Debug)]
#[repr(C, align(256))]
pub struct FailureRecord {
    /// [`MAGIC`].
    pub magic: u64,
    /// A number of [`Reason`], or zero.
    pub reason: AtomicU64,
    /// ESR_ELx, if an exception is the reason.
    pub esr: AtomicU64,
    /// ELR_ELx.
    pub elr: AtomicU64,
    /// FAR_ELx.
    pub far: AtomicU64,
    /// Number of bytes of text.
    pub text_bytes: AtomicU64,
    /// The text that would have been printed.
    pub text: [AtomicU8; TEXT_SIZE],
}

/// A failure, read from the bytes of a [`FailureRecord`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failure<'a> {
    /// The reason.
    pub reason: Reason,
    /// ESR_ELx, if an exception is the reason.
    pub esr: u64,
    /// ELR_ELx.
    pub elr: u64,
    /// FAR_ELx.
    pub far: u64,
    /// The text that would have been printed.
    pub text: &'a [u8],
}

impl<'a> Failure<'a> {
    /// Reads a record as it is in memory. Returns `None` if it shows no failure, or if it is no
    /// record.
    #[must_use]
    pub fn read(record: &'a [u8]) -> Option<Self> {
        let mut words = record.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut word = || words.next();
        let [magic, reason, esr, elr, far, bytes] =
            [word()?, word()?, word()?, word()?, word()?, word()?];
        let reason = Reason::ALL.into_iter().find(|&known| known as u64 == reason)?;
        let text = record.get(size_of::<FailureRecord>() - TEXT_SIZE..)?;
        let text = &text[..text.len().min(TEXT_SIZE).min(bytes as usize)];
        (magic == MAGIC).then_some(Self { reason, esr, elr, far, text })
    }
}

/// This kernel's own record, which `entry.S` defines.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "names a static that assembly defines")]
mod own {
    use super::{FailureRecord, Reason};
    use crate::cache::clean_and_invalidate;
    use crate::phys::PhysAddr;
    use core::ops::Range;
    use core::sync::atomic::Ordering::Relaxed;

    unsafe extern "C" {
        safe static failure_record: FailureRecord;
    }

    /// Returns the place of this kernel's record.
    #[must_use]
    pub fn place() -> Range<PhysAddr> {
        let start = PhysAddr::new((&raw const failure_record).expose_provenance() as u64);
        start..start + size_of::<FailureRecord>() as u64
    }

    /// Begins the record of a failure, with `[esr, elr, far]` and no text, and cleans it to PoC.
    ///
    /// Only the CPU that fails first calls this and [`append`].
    pub fn begin(reason: Reason, [esr, elr, far]: [u64; 3]) {
        let record = &failure_record;
        record.reason.store(reason as u64, Relaxed);
        record.esr.store(esr, Relaxed);
        record.elr.store(elr, Relaxed);
        record.far.store(far, Relaxed);
        record.text_bytes.store(0, Relaxed);
        clean_and_invalidate(&place());
    }

    /// Appends to the text, as much as fits, and cleans it to PoC.
    pub fn append(text: &str) {
        for byte in text.bytes() {
            let used = failure_record.text_bytes.load(Relaxed);
            if let Some(place) = failure_record.text.get(used as usize) {
                place.store(byte, Relaxed);
                failure_record.text_bytes.store(used + 1, Relaxed);
            }
        }
        clean_and_invalidate(&place());
    }
}
#[cfg(target_os = "none")]
pub use own::{append, begin, place};

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use std::vec::Vec;

    fn record(words: [u64; 5], text: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(text);
        bytes.resize(size_of::<FailureRecord>(), 0);
        bytes
    }

    #[test]
    fn a_record_is_read_as_it_is_in_memory() {
        let (esr, elr, far) = (0x9600_0045, 0x4020_1000, 0xdead_0000);
        let bytes = record([3, esr, elr, far, 5], b"words, and more");
        let text = &b"words"[..];
        let failure = Failure { reason: Reason::Exception, esr, elr, far, text };
        assert_eq!(Failure::read(&bytes), Some(failure));
        for (number, reason) in [
            (1, Reason::Level),
            (2, Reason::EarlyIdmap),
            (3, Reason::Exception),
            (4, Reason::Panic),
            (5, Reason::Refused),
        ] {
            let read = Failure::read(&record([number, 0, 0, 0, 0], b"")).map(|read| read.reason);
            assert_eq!(read, Some(reason), "{number}");
        }
        assert_eq!(offset_of!(FailureRecord, text), 48);
        assert_eq!(size_of::<FailureRecord>(), 0x900, "docs/kexec.md has it");
    }

    #[test]
    fn a_length_beyond_the_record_is_cut() {
        let mut bytes = record([4, 0, 0, 0, u64::MAX], b"words");
        assert_eq!(Failure::read(&bytes).map(|failure| failure.text.len()), Some(TEXT_SIZE));
        bytes.extend([1; 64]);
        assert_eq!(Failure::read(&bytes).map(|failure| failure.text.len()), Some(TEXT_SIZE));
    }

    #[test]
    fn other_bytes_are_no_failure() {
        let bytes = record([3, 0, 0, 0, 5], b"words");
        let mut other = bytes.clone();
        other[7] ^= 1;
        assert_eq!(Failure::read(&other), None, "the magic");
        assert_eq!(Failure::read(&record([0; 5], b"")), None, "no failure");
        assert_eq!(Failure::read(&record([6, 0, 0, 0, 0], b"")), None, "no such reason");
        assert_eq!(Failure::read(&bytes[..40]), None, "too short");
        assert_eq!(Failure::read(&[]), None);
    }
}
