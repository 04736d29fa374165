//! INTID arithmetic: the register bank, word and bit of each interrupt in a GIC.
//!
//! - When: whenever interrupts are enabled, silenced or read.
//!
//! Pure, so that host tests cover the extended ranges of GICv3.1 (IHI 0069, 2.2.1 and 12.8). No
//! emulator at hand has them, and a kexec must silence them too.

/// The first extended private peripheral interrupt.
const EXTENDED_PPI: u32 = 1056;

/// The first extended shared peripheral interrupt, and the first INTID after them.
const EXTENDED_SPI: u32 = 4096;
const EXTENDED_SPI_END: u32 = 5120;

/// A kind of interrupts whose enabled, pending and active bits share register banks, 32 to a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// One CPU's SGIs and PPIs, followed by its extended PPIs.
    Private,
    /// SPIs. Word 0 of the distributor's bank belongs to the CPU that reads it.
    Shared,
    /// Extended SPIs.
    Extended,
}

impl Kind {
    /// Returns the bank, word and bit mask of an interrupt; `None` for an LPI or a reserved INTID.
    #[must_use]
    pub const fn of(intid: u32) -> Option<(Self, u64, u32)> {
        let (kind, word) = match intid {
            0..32 => (Self::Private, 0),
            32..1020 => (Self::Shared, intid / 32),
            EXTENDED_PPI..1120 => (Self::Private, 1 + (intid - EXTENDED_PPI) / 32),
            EXTENDED_SPI..EXTENDED_SPI_END => (Self::Extended, (intid - EXTENDED_SPI) / 32),
            _ => return None,
        };
        Some((kind, word as u64, 1 << (intid % 32)))
    }

    /// Returns the INTID of a word's first bit.
    #[must_use]
    pub const fn first(self, word: u64) -> u32 {
        match (self, word as u32) {
            (Self::Private, word @ 1..) => EXTENDED_PPI + 32 * (word - 1),
            (Self::Extended, word) => EXTENDED_SPI + 32 * word,
            (_, word) => 32 * word,
        }
    }

    /// Returns the offset of word number `word`. `bank` is the offset of the plain bank: 0x80 for
    /// GICx_IGROUPR, 0x100 for GICx_ISENABLER, and so on.
    #[must_use]
    pub const fn offset(self, bank: u64, word: u64) -> u64 {
        let start = match self {
            Self::Private | Self::Shared => bank,
            // 0x1000, 0x1200, …: the extended banks are four times as far apart.
            Self::Extended => 0x1000 + 4 * (bank - 0x80),
        };
        start + 4 * word
    }

    /// Returns the number of words, from GICD_TYPER, or for private interrupts from GICR_TYPER's
    /// lower half.
    #[must_use]
    pub const fn words(self, typer: u32) -> u64 {
        let five_bits = (typer >> 27) as u64;
        match self {
            // PPInum: the number of further words; values above 2 are reserved.
            Self::Private if five_bits < 2 => 1 + five_bits,
            Self::Private => 3,
            // ITLinesNumber is one less than the number of words. INTIDs from 1020 are no SPIs;
            // their bits, if any, ignore writes.
            Self::Shared => (typer & 0x1f) as u64 + 1,
            // ESPI says that extended SPIs exist; ESPI_range is one less than their number of
            // words.
            Self::Extended if typer & 1 << 8 != 0 => five_bits + 1,
            Self::Extended => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interrupt_has_its_bit_and_the_bit_its_interrupt() {
        let mut kinds = [0; 3];
        for intid in 0..9000 {
            if let Some((kind, word, bit)) = Kind::of(intid) {
                assert_eq!(kind.first(word) + bit.trailing_zeros(), intid);
                kinds[kind as usize] += 1;
            }
        }
        assert_eq!(kinds, [32 + 64, 1020 - 32, 1024]);
        for none in [1020, 1023, 1055, 1120, 4095, 5120, 8192] {
            assert_eq!(Kind::of(none), None, "{none}");
        }
    }

    #[test]
    fn registers_are_where_the_specification_has_them() {
        // IHI 0069, tables 12-25 and 12-30: GICD_ICENABLER1, GICR_ISPENDR1E, GICD_ISENABLER0E, …,
        // GICD_ICACTIVER31E.
        assert_eq!(Kind::Shared.offset(0x180, 1), 0x184);
        assert_eq!(Kind::Private.offset(0x200, 1), 0x204);
        assert_eq!(Kind::Extended.offset(0x100, 0), 0x1200);
        assert_eq!(Kind::Extended.offset(0x180, 0), 0x1400);
        assert_eq!(Kind::Extended.offset(0x200, 0), 0x1600);
        assert_eq!(Kind::Extended.offset(0x280, 0), 0x1800);
        assert_eq!(Kind::Extended.offset(0x300, 0), 0x1a00);
        assert_eq!(Kind::Extended.offset(0x380, 31), 0x1c7c);
    }

    #[test]
    fn what_is_not_there_has_no_words() {
        // 288 interrupts and no extended ones; without ESPI, ESPI_range is ignored.
        assert_eq!((Kind::Shared.words(0x0378_0008), Kind::Extended.words(0xf800_0008)), (9, 0));
        assert_eq!(Kind::Private.words(0), 1);
        let most = 31 << 27 | 1 << 8 | 31;
        assert_eq!((Kind::Shared.words(most), Kind::Extended.words(most)), (32, 32));
        assert_eq!(
            [1_u32 << 27, 2 << 27, 3 << 27].map(|typer| Kind::Private.words(typer)),
            [2, 3, 3]
        );
    }
}
