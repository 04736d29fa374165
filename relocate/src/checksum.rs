//! CRC-32C, the checksum that every range must match after the copy.
//!
//! The kernel computes it when it loads a segment, and again just before "Bye!". The relocation
//! code computes it in `control.S`, just before it enters the next image. We use Castagnoli's
//! polynomial, reflected, because the CPU has instructions for it (FEAT_CRC32, Arm ARM C6.2
//! CRC32CX), far faster than any software loop. A CRC detects damage but not tampering. Files on
//! the disk are therefore checked against SHA-256.

/// The granule of the loop, in bytes.
pub const BLOCK: usize = 64;

/// A running CRC-32C over data that arrives in pieces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Crc32c {
    /// Adds the next piece. It must be whole [`BLOCK`]s; callers pass whole pages.
    ///
    /// # Panics
    ///
    /// Panics if the piece ends within a block.
    #[must_use]
    pub fn update(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks();
        assert!(rest.is_empty(), "{} bytes are no whole blocks", bytes.len());
        Self(imp::blocks(self.0, blocks))
    }

    /// Returns the checksum of all data so far.
    #[must_use]
    pub const fn value(self) -> u32 {
        !self.0
    }
}

/// Returns whether this CPU has the instructions: ID_AA64ISAR0_EL1.CRC32. Not inlined: a test
/// patches it.
#[cfg(target_os = "none")]
#[must_use]
#[inline(never)]
#[expect(unsafe_code, reason = "reads a system register")]
pub fn is_available() -> bool {
    let isar0: u64;
    // SAFETY: reading an ID register has no side effects.
    unsafe {
        core::arch::asm!(
            "mrs {}, id_aa64isar0_el1",
            out(reg) isar0,
            options(nomem, nostack, preserves_flags)
        )
    };
    isar0 >> 16 & 0xf != 0
}

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the relocation code's own routine")]
mod imp {
    unsafe extern "C" {
        /// Extends `crc` over `start..end`, a positive multiple of 64 bytes apart; in `control.S`.
        fn relocate_crc32c(crc: u32, start: *const u8, end: *const u8) -> u32;
    }

    pub(super) fn blocks(crc: u32, blocks: &[[u8; super::BLOCK]]) -> u32 {
        if blocks.is_empty() {
            return crc;
        }
        let range = blocks.as_flattened().as_ptr_range();
        // SAFETY: `relocate_crc32c` requires a readable range whose length is a positive multiple
        // of 64 bytes: `blocks` is borrowed and not empty. It also requires FEAT_CRC32. Without
        // that, CRC32CX is UNDEFINED: it traps, and no memory is at risk.
        unsafe { relocate_crc32c(crc, range.start, range.end) }
    }
}

#[cfg(not(target_os = "none"))]
mod imp {
    pub(super) fn blocks(crc: u32, blocks: &[[u8; super::BLOCK]]) -> u32 {
        const POLYNOMIAL: u32 = 0x82f6_3b78;
        blocks.as_flattened().iter().fold(crc, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_polynomial() {
        // RFC 3720, B.4, lists the values for 32 bytes of zeroes, of ones, and ascending. They
        // confirm the bitwise reference, which then gives the expected value for a whole block.
        let mut block = [0; BLOCK];
        block[..32].copy_from_slice(&core::array::from_fn::<u8, 32, _>(|i| i as u8));
        let reference = |bytes: &[u8]| {
            !bytes.iter().fold(u32::MAX, |crc, &byte| {
                (0..8).fold(crc, |crc, bit| {
                    let feedback = (crc ^ (u32::from(byte) >> bit)) & 1;
                    (crc >> 1) ^ (feedback * 0x82f6_3b78)
                })
            })
        };
        assert_eq!(reference(&[0; 32]), 0x8a91_36aa);
        assert_eq!(reference(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(reference(&block[..32]), 0x46dd_794e);
        assert_eq!(Crc32c::default().update(&block).value(), reference(&block));
    }

    #[test]
    fn pieces_make_the_whole() {
        let bytes = core::array::from_fn::<u8, 192, _>(|i| (i * 7) as u8);
        let whole = Crc32c::default().update(&bytes);
        assert_eq!(Crc32c::default().update(&bytes[..64]).update(&bytes[64..]), whole);
    }

    #[test]
    #[should_panic(expected = "no whole blocks")]
    fn a_part_of_a_block_is_refused() {
        let _ = Crc32c::default().update(&[0; 65]);
    }
}
