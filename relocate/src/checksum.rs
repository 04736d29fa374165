//! CRC-32C, the checksum that the relocation code holds every destination against.
//!
//! *When:* taken at load and once more as the last act before the point of no return; the control page's own loop is in `control.S`.
//! Castagnoli's polynomial, reflected, because the CPU has instructions for it (FEAT_CRC32, Arm ARM C6.2 CRC32CX): a software
//! loop costs ten times as much. It finds damage, not malice; what the disk holds is held against SHA-256.

/// A running CRC-32C over bytes that come in pieces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Crc32c {
    /// Takes in the next piece, a multiple of 8 bytes long. What is left over past such a multiple is left out.
    #[must_use]
    pub fn update(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        debug_assert!(rest.is_empty(), "{} bytes are no whole words", bytes.len());
        Self(imp::words(self.0, words))
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
    unsafe { core::arch::asm!("mrs {}, id_aa64isar0_el1", out(reg) isar0, options(nomem, nostack, preserves_flags)) };
    isar0 >> 16 & 0xf != 0
}

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "instructions of an extension, in assembly so that the crate needs no target feature")]
mod imp {
    use core::arch::asm;

    pub(super) fn words(mut crc: u32, words: &[[u8; 8]]) -> u32 {
        let (blocks, rest) = words.as_chunks::<4>();
        for [a, b, c, d] in blocks {
            crc = word(word(word(word(crc, a), b), c), d);
        }
        rest.iter().fold(crc, word)
    }

    #[inline(always)]
    fn word(mut crc: u32, bytes: &[u8; 8]) -> u32 {
        // SAFETY: pure arithmetic; the kernel refuses to restart on a CPU without it before it is ever reached.
        unsafe {
            asm!(
                ".arch_extension crc",
                "crc32cx {crc:w}, {crc:w}, {word}",
                crc = inout(reg) crc,
                word = in(reg) u64::from_le_bytes(*bytes),
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        crc
    }
}

#[cfg(not(target_os = "none"))]
mod imp {
    pub(super) fn words(crc: u32, words: &[[u8; 8]]) -> u32 {
        const POLYNOMIAL: u32 = 0x82f6_3b78;
        words.as_flattened().iter().fold(crc, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_rfc_3720() {
        // RFC 3720, B.4: 32 bytes of zeroes, of ones, ascending, descending.
        let of = |bytes: &[u8]| Crc32c::default().update(bytes).value();
        assert_eq!(of(&[0; 32]), 0x8a91_36aa);
        assert_eq!(of(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(of(&core::array::from_fn::<u8, 32, _>(|i| i as u8)), 0x46dd_794e);
        assert_eq!(of(&core::array::from_fn::<u8, 32, _>(|i| 31 - i as u8)), 0x113f_db5c);
    }

    #[test]
    fn pieces_make_the_whole() {
        let bytes = core::array::from_fn::<u8, 64, _>(|i| (i * 7) as u8);
        let whole = Crc32c::default().update(&bytes);
        assert_eq!(Crc32c::default().update(&bytes[..24]).update(&bytes[24..]), whole);
    }
}
