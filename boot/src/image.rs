//! The arm64 Image header: the 64 bytes that describe a kernel to its loader.
//!
//! - `entry.S` takes this Image's own header from here at build time.
//! - The kernel parses the header of the next Image before it plans a kexec.
//! - [`Header::parse`] refuses what Linux's loader refuses (`kexec_image.c`, `image_probe` and
//!   `image_load`), and what this kernel cannot place. Each [`Error`] carries the value.
//!
//! The layout is that of Linux's `Documentation/arch/arm64/booting.rst`, section 4. All fields are
//! little-endian:
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0-7 | code0, code1 | the first instructions; code0 may be "MZ", if there is a PE header |
//! | 8-15 | text_offset | offset of the Image from a 2 MiB boundary |
//! | 16-23 | image_size | memory that the kernel needs from its start on: file, bss and stack |
//! | 24-31 | flags | endianness, page size, placement |
//! | 32-55 | res2-res4 | zero |
//! | 56-59 | magic | "ARM\x64" |
//! | 60-63 | res5 | offset of the PE header, 0 without one |

use crate::phys::PAGE_SIZE;

/// Size of the header in bytes.
pub const HEADER_BYTES: usize = 64;

/// Value of `magic`: "ARM\x64", read as a little-endian word.
pub const MAGIC: u32 = 0x644d_5241;

/// Offset of `text_offset`, 8 bytes.
pub const TEXT_OFFSET_AT: usize = 8;
/// Offset of `image_size`, 8 bytes.
pub const IMAGE_SIZE_AT: usize = 16;
/// Offset of `flags`, 8 bytes.
pub const FLAGS_AT: usize = 24;
/// Offset of `magic`, 4 bytes.
pub const MAGIC_AT: usize = 56;
/// Offset of the PE header's offset (res5), 4 bytes.
pub const PE_OFFSET_AT: usize = 60;

/// `flags` bit 0: set for a big-endian kernel.
pub const FLAG_BIG_ENDIAN: u64 = 1 << 0;
/// `flags` bits 2:1: the page size that the kernel was built for; 0 leaves it open.
pub const PAGE_SIZE_MASK: u64 = 0b11 << 1;
/// Page size field for 4 KiB pages.
pub const PAGES_4K: u64 = 1 << 1;
/// Page size field for 16 KiB pages.
pub const PAGES_16K: u64 = 2 << 1;
/// Page size field for 64 KiB pages.
pub const PAGES_64K: u64 = 3 << 1;
/// `flags` bit 3: the Image may be at any 2 MiB boundary, anywhere in RAM.
pub const PLACE_ANYWHERE: u64 = 1 << 3;

/// This kernel's own `flags`: little-endian, 4 KiB pages, any place.
pub const FLAGS: u64 = PAGES_4K | PLACE_ANYWHERE;

/// Alignment of a base address; the Image starts `text_offset` bytes above one.
pub const BASE_ALIGNMENT: u64 = 2 << 20;

/// Header of an arm64 Image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// code0 and code1: the first two instructions.
    pub code: [u32; 2],
    /// Offset of the Image from a 2 MiB boundary, in bytes.
    pub text_offset: u64,
    /// Bytes of memory that the kernel needs, counted from the Image's start.
    pub image_size: u64,
    /// Endianness, page size, placement.
    pub flags: u64,
    /// Offset of the PE header in the Image, 0 without one.
    pub pe_offset: u32,
}

impl Header {
    /// Parses the header at the start of an Image; `start` may be longer than the header.
    ///
    /// # Errors
    ///
    /// Returns the first rule that is broken. Like Linux, it ignores reserved bits and fields.
    pub fn parse(start: &[u8]) -> Result<Self, Error> {
        let Some(header) = start.first_chunk::<HEADER_BYTES>() else {
            return Err(Error::TooShort { bytes: start.len() });
        };
        let magic = u32::from_le_bytes(field(header, MAGIC_AT));
        if magic != MAGIC {
            return Err(Error::BadMagic { magic });
        }
        let flags = u64::from_le_bytes(field(header, FLAGS_AT));
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(Error::BigEndian { flags });
        }
        match flags & PAGE_SIZE_MASK {
            PAGES_16K => return Err(Error::PageSize { kib: 16, flags }),
            PAGES_64K => return Err(Error::PageSize { kib: 64, flags }),
            _ => {}
        }
        let image_size = u64::from_le_bytes(field(header, IMAGE_SIZE_AT));
        if image_size == 0 {
            return Err(Error::ImageSizeZero);
        }
        let text_offset = u64::from_le_bytes(field(header, TEXT_OFFSET_AT));
        if !text_offset.is_multiple_of(PAGE_SIZE) {
            return Err(Error::TextOffsetMisaligned { text_offset });
        }
        let code = [u32::from_le_bytes(field(header, 0)), u32::from_le_bytes(field(header, 4))];
        Ok(Self {
            code,
            text_offset,
            image_size,
            flags,
            pe_offset: u32::from_le_bytes(field(header, PE_OFFSET_AT)),
        })
    }

    /// Checks that a file of `bytes` bytes fits into `image_size`, the memory that is the kernel's.
    ///
    /// # Errors
    ///
    /// Returns [`Error::ImageSizeBelowFile`]. Linux refuses such a segment as well
    /// (`sanity_check_segment_list`: bufsz above memsz).
    pub const fn check_file(&self, bytes: u64) -> Result<(), Error> {
        if self.image_size < bytes {
            return Err(Error::ImageSizeBelowFile { image_size: self.image_size, file: bytes });
        }
        Ok(())
    }

    /// Checks that `text_offset` and `image_size` together fit into `ram_bytes` bytes of RAM.
    ///
    /// # Errors
    ///
    /// Returns [`Error::LargerThanRam`].
    pub const fn check_fits(&self, ram_bytes: u64) -> Result<(), Error> {
        match self.text_offset.checked_add(self.image_size) {
            Some(bytes) if bytes <= ram_bytes => Ok(()),
            _ => {
                let Self { text_offset, image_size, .. } = *self;
                Err(Error::LargerThanRam { text_offset, image_size, ram: ram_bytes })
            }
        }
    }

    /// Returns the header as it is in the file.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.code[0].to_le_bytes());
        put(4, &self.code[1].to_le_bytes());
        put(TEXT_OFFSET_AT, &self.text_offset.to_le_bytes());
        put(IMAGE_SIZE_AT, &self.image_size.to_le_bytes());
        put(FLAGS_AT, &self.flags.to_le_bytes());
        put(MAGIC_AT, &MAGIC.to_le_bytes());
        put(PE_OFFSET_AT, &self.pe_offset.to_le_bytes());
        bytes
    }
}

/// Returns the `N` bytes at `at`.
fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    core::array::from_fn(|byte| header[at + byte])
}

/// Reason why a file is not an Image that this kernel can enter: the rule and the value.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Error {
    /// The file is shorter than a header.
    #[error(
        "the Image has {bytes} bytes, its header alone {HEADER_BYTES}: give the whole flat Image"
    )]
    TooShort { bytes: usize },
    /// The magic is wrong.
    #[error(
        "not an arm64 Image: {magic:#010x} at byte {MAGIC_AT}, where the magic {MAGIC:#010x} \
         belongs: give the flat Image, not an ELF file or a compressed one"
    )]
    BadMagic { magic: u32 },
    /// The kernel is big-endian.
    #[error("the Image is big-endian (flags {flags:#x}, bit 0): give a little-endian one")]
    BigEndian { flags: u64 },
    /// The kernel needs 16 KiB or 64 KiB pages, which this machine may not have.
    #[error(
        "the Image is built for {kib} KiB pages (flags {flags:#x}, bits 2:1): give one built for 4 \
         KiB pages"
    )]
    PageSize { kib: u32, flags: u64 },
    /// `image_size` is 0: kernels before Linux 3.17 do not say how much memory they need.
    #[error(
        "the Image's image_size is 0, so how much memory is its own is unknown: give one of Linux \
         3.17 or later"
    )]
    ImageSizeZero,
    /// `image_size` is less than the file's size.
    #[error(
        "the Image's image_size is {image_size} bytes, the file has {file}: what is copied would \
         pass the kernel's own memory: give the file without what was appended"
    )]
    ImageSizeBelowFile { image_size: u64, file: u64 },
    /// `text_offset` is not a multiple of 4 KiB, but segments are whole pages.
    ///
    /// (The boot protocol sets no upper bound for `text_offset`.)
    #[error(
        "the Image's text_offset {text_offset:#x} is no multiple of {PAGE_SIZE:#x}: give one that \
         starts on a page"
    )]
    TextOffsetMisaligned { text_offset: u64 },
    /// The kernel needs more memory than the machine has.
    #[error(
        "the Image needs {image_size} bytes (image_size) from text_offset {text_offset:#x} on, and \
         RAM has {ram}: give the machine more memory"
    )]
    LargerThanRam { text_offset: u64, image_size: u64, ram: u64 },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Linux's header, as built with an EFI stub: "MZ", a branch, 2 MiB, 4K, anywhere, PE at 0x40.
    #[rustfmt::skip]
    const LINUX: [u8; HEADER_BYTES] = [
        0x4d, 0x5a, 0x40, 0xfa, 0x00, 0x10, 0x00, 0x14, // ccmp x18, #0, #0xd, pl ("MZ"); b 0x4004
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // text_offset
        0x00, 0x00, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, // image_size: 2 MiB
        0x0a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // flags
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x41, 0x52, 0x4d, 0x64, 0x40, 0x00, 0x00, 0x00, // magic, PE offset
    ];

    fn with(at: usize, byte: u8) -> Result<Header, Error> {
        let mut bytes = LINUX;
        bytes[at] = byte;
        Header::parse(&bytes)
    }

    #[test]
    fn a_real_header_is_read_and_built_again() {
        let header = Header::parse(&LINUX).unwrap();
        let code = [0xfa40_5a4d, 0x1400_1000];
        assert_eq!(
            header,
            Header { code, text_offset: 0, image_size: 0x20_0000, flags: 0xa, pe_offset: 0x40 }
        );
        assert_eq!(header.to_bytes(), LINUX);
        assert_eq!(FLAGS, 0xa);
    }

    #[test]
    fn bytes_after_the_header_do_not_matter() {
        let mut longer = LINUX.to_vec();
        longer.extend([0xff; 64]);
        assert_eq!(Header::parse(&longer), Header::parse(&LINUX));
    }

    #[test]
    fn each_rule_refuses_by_its_value() {
        assert_eq!(Header::parse(&LINUX[..63]), Err(Error::TooShort { bytes: 63 }));
        assert_eq!(Header::parse(&[]), Err(Error::TooShort { bytes: 0 }));
        assert_eq!(with(59, 0x65), Err(Error::BadMagic { magic: 0x654d_5241 }));
        assert_eq!(with(24, 0x0b), Err(Error::BigEndian { flags: 0x0b }));
        assert_eq!(with(24, 0x0c), Err(Error::PageSize { kib: 16, flags: 0x0c }));
        assert_eq!(with(24, 0x0e), Err(Error::PageSize { kib: 64, flags: 0x0e }));
        assert_eq!(with(18, 0), Err(Error::ImageSizeZero));
        assert_eq!(with(9, 0x08), Err(Error::TextOffsetMisaligned { text_offset: 0x800 }));
    }

    #[test]
    fn what_linux_accepts_is_accepted() {
        assert_eq!(with(24, 0x08).unwrap().flags, 0x08, "no page size given");
        assert_eq!(with(24, 0x02).unwrap().flags, 0x02, "near the start of RAM");
        assert_eq!(with(31, 0x80).unwrap().flags, 0x8000_0000_0000_000a, "reserved flags");
        assert_eq!(with(10, 0x08).unwrap().text_offset, 0x8_0000, "text_offset before Linux 5.8");
        assert_eq!(with(55, 1), Header::parse(&LINUX), "reserved fields");
    }

    #[test]
    fn the_file_is_compared_with_image_size() {
        let header = Header::parse(&LINUX).unwrap();
        assert_eq!(header.check_file(0x20_0000), Ok(()));
        assert_eq!(
            header.check_file(0x20_0001),
            Err(Error::ImageSizeBelowFile { image_size: 0x20_0000, file: 0x20_0001 })
        );
    }

    #[test]
    fn ram_is_compared_with_both_fields() {
        let header = with(10, 0x08).unwrap();
        assert_eq!(header.check_fits(0x28_0000), Ok(()));
        let error =
            Error::LargerThanRam { text_offset: 0x8_0000, image_size: 0x20_0000, ram: 0x27_ffff };
        assert_eq!(header.check_fits(0x27_ffff), Err(error));
        assert!(
            Header { image_size: u64::MAX, ..header }.check_fits(u64::MAX).is_err(),
            "no overflow"
        );
    }

    #[test]
    fn a_sentence_names_the_value() {
        let sentence = with(24, 0x0b).unwrap_err().to_string();
        assert_eq!(
            sentence,
            "the Image is big-endian (flags 0xb, bit 0): give a little-endian one"
        );
        let sentence = with(56, 0).unwrap_err().to_string();
        assert!(
            sentence.contains("0x644d5200 at byte 56, where the magic 0x644d5241 belongs"),
            "{sentence}"
        );
    }

    proptest! {
        // Miri has no current directory to keep failures in.
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(if cfg!(miri) { 16 } else { 256 })
        })]

        #[test]
        fn what_is_built_is_read(
            code: [u32; 2],
            pages in 0_u64..1024,
            image_size in 1_u64..,
            pe_offset: u32,
            high: u64,
        ) {
            let header = Header {
                code,
                text_offset: pages * 4096,
                image_size,
                flags: (high << 4) | 0xa,
                pe_offset,
            };
            prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert_ne!(header.image_size, 0);
            }
        }
    }
}
