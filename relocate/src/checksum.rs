//! CRC-32C, the checksum that the relocation code holds every destination against.
//!
//! *When:* taken at load and once more as the last act before the point of no return; the control page's own loop is in `control.S`.
//! Castagnoli's polynomial, reflected, because the CPU has instructions for it (FEAT_CRC32, Arm ARM C6.2 CRC32CX), which no software
//! loop comes near. It finds damage, not malice; what the disk holds is held against SHA-256.

/// How many bytes the loop takes in at a time.
pub const BLOCK: usize = 64;

/// A running CRC-32C over bytes that come in pieces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Crc32c {
    /// Takes in the next piece, whole [`BLOCK`]s: what is checked is whole pages.
    ///
    /// # Panics
    ///
    /// Where the piece ends within a block.
    #[must_use]
    pub fn update(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks();
        assert!(rest.is_empty(), "{} bytes are no whole blocks", bytes.len());
        Self(imp::blocks(self.0, blocks))
    }

    /// The checksum of all that came in.
    #[must_use]
    pub const fn value(self) -> u32 {
        !self.0
    }
}

/// Whether this CPU has the instructions: ID_AA64ISAR0_EL1.CRC32.
#[cfg(target_os = "none")]
#[must_use]
#[expect(unsafe_code, reason = "reads a system register")]
pub fn is_available() -> bool {
    let isar0: u64;
    // SAFETY: an identification register has no side effects.
    unsafe {
        core::arch::asm!("mrs {}, id_aa64isar0_el1", out(reg) isar0, options(nomem, nostack, preserves_flags))
    };
    isar0 >> 16 & 0xf != 0
}

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the relocation code's own routine")]
mod imp {
    unsafe extern "C" {
        /// In `control.S`: goes on with `crc` over `start..end`, which are a positive multiple of 64 bytes apart.
        fn relocate_crc32c(crc: u32, start: *const u8, end: *const u8) -> u32;
    }

    pub(super) fn blocks(crc: u32, blocks: &[[u8; super::BLOCK]]) -> u32 {
        let range = blocks.as_flattened().as_ptr_range();
        // SAFETY: the range is borrowed and a positive multiple of 64 bytes; the kernel refuses to restart on a CPU without
        // FEAT_CRC32 before it takes a checksum.
        if blocks.is_empty() {
            crc
        } else {
            unsafe { relocate_crc32c(crc, range.start, range.end) }
        }
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
        // RFC 3720, B.4, knows 32 bytes of zeroes, of ones, ascending and descending; a block of them all, by the same bitwise definition.
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
