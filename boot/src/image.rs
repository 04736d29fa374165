//! The arm64 Image header: the 64 bytes by which a loader knows a kernel, and a kernel its successor.
//!
//! *When:* at build time (`entry.S` takes its constants from here), and while a generation plans its successor.
//! *On entry:* the first bytes of a file that claims to be an Image. *Leaves behind:* a [`Header`]; nothing is kept.
//! *Refuses:* what Linux's own loader refuses (`kexec_image.c`, `image_probe` and `image_load`), and what this kernel cannot place:
//! each by a [`Refused`] that carries the value.
//!
//! The layout is that of Linux's `Documentation/arch/arm64/booting.rst`, section 4, all fields little-endian:
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0-7 | code0, code1 | the first instructions; code0 may spell "MZ" where a PE header is wanted |
//! | 8-15 | text_offset | the Image starts so many bytes above a 2 MiB boundary |
//! | 16-23 | image_size | the memory that is the kernel's, from its start on: file, bss and stack |
//! | 24-31 | flags | endianness, page size, placement |
//! | 32-55 | res2-res4 | zero |
//! | 56-59 | magic | "ARM\x64" |
//! | 60-63 | res5 | offset of the PE header, 0 without one |

use core::fmt;

use crate::phys::PAGE_SIZE;

/// How long the header is, in bytes.
pub const HEADER_BYTES: usize = 64;

/// `magic`: "ARM\x64", read as a little-endian word.
pub const MAGIC: u32 = 0x644d_5241;

/// Where `text_offset` lies, 8 bytes.
pub const TEXT_OFFSET_AT: usize = 8;
/// Where `image_size` lies, 8 bytes.
pub const IMAGE_SIZE_AT: usize = 16;
/// Where `flags` lies, 8 bytes.
pub const FLAGS_AT: usize = 24;
/// Where `magic` lies, 4 bytes.
pub const MAGIC_AT: usize = 56;
/// Where the offset of the PE header lies, 4 bytes.
pub const PE_OFFSET_AT: usize = 60;

/// `flags` bit 0: the kernel is big-endian.
pub const FLAG_BIG_ENDIAN: u64 = 1 << 0;
/// `flags` bits 2:1: the page size that the kernel was built for; 0 says nothing about it.
pub const PAGE_SIZE_MASK: u64 = 0b11 << 1;
/// The page size field's value for 4 KiB pages.
pub const PAGES_4K: u64 = 1 << 1;
/// The page size field's value for 16 KiB pages.
pub const PAGES_16K: u64 = 2 << 1;
/// The page size field's value for 64 KiB pages.
pub const PAGES_64K: u64 = 3 << 1;
/// `flags` bit 3: any 2 MiB boundary will do, wherever it lies in RAM.
pub const PLACE_ANYWHERE: u64 = 1 << 3;

/// This kernel's own `flags`: little-endian, 4 KiB pages, placed anywhere.
pub const FLAGS: u64 = PAGES_4K | PLACE_ANYWHERE;

/// What a base address is a multiple of; the Image lies `text_offset` above one.
pub const BASE_ALIGNMENT: u64 = 2 << 20;

/// An arm64 Image's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// code0 and code1: the first two instructions.
    pub code: [u32; 2],
    /// Bytes from a 2 MiB boundary to the Image.
    pub text_offset: u64,
    /// Bytes of memory that are the kernel's, counted from the Image's start.
    pub image_size: u64,
    /// Endianness, page size, placement.
    pub flags: u64,
    /// Offset of the PE header in the Image, 0 without one.
    pub pe_offset: u32,
}

impl Header {
    /// Reads the header from an Image's first bytes; `start` may go on beyond it.
    ///
    /// # Errors
    ///
    /// The first rule that is broken. Reserved bits and fields are not looked at, as Linux does not.
    pub fn parse(start: &[u8]) -> Result<Self, Refused> {
        let Some(header) = start.first_chunk::<HEADER_BYTES>() else {
            return Err(Refused::TooShort { bytes: start.len() });
        };
        let magic = u32::from_le_bytes(field(header, MAGIC_AT));
        if magic != MAGIC {
            return Err(Refused::BadMagic { magic });
        }
        let flags = u64::from_le_bytes(field(header, FLAGS_AT));
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(Refused::BigEndian { flags });
        }
        match flags & PAGE_SIZE_MASK {
            PAGES_16K => return Err(Refused::PageSize { kib: 16, flags }),
            PAGES_64K => return Err(Refused::PageSize { kib: 64, flags }),
            _ => {}
        }
        let image_size = u64::from_le_bytes(field(header, IMAGE_SIZE_AT));
        if image_size == 0 {
            return Err(Refused::ImageSizeZero);
        }
        let text_offset = u64::from_le_bytes(field(header, TEXT_OFFSET_AT));
        if !text_offset.is_multiple_of(PAGE_SIZE) {
            return Err(Refused::TextOffsetMisaligned { text_offset });
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

    /// Whether a file of `bytes` bytes can be this Image: no more is copied than belongs to the kernel.
    ///
    /// # Errors
    ///
    /// [`Refused::ImageSizeBelowFile`]. Linux refuses such a segment as well (`sanity_check_segment_list`: bufsz above memsz).
    pub const fn check_file(&self, bytes: u64) -> Result<(), Refused> {
        if self.image_size < bytes {
            return Err(Refused::ImageSizeBelowFile { image_size: self.image_size, file: bytes });
        }
        Ok(())
    }

    /// Whether the kernel could lie in `ram_bytes` bytes of RAM at all: `text_offset` and `image_size` together.
    ///
    /// # Errors
    ///
    /// [`Refused::LargerThanRam`].
    pub const fn check_fits(&self, ram_bytes: u64) -> Result<(), Refused> {
        match self.text_offset.checked_add(self.image_size) {
            Some(bytes) if bytes <= ram_bytes => Ok(()),
            _ => {
                let Self { text_offset, image_size, .. } = *self;
                Err(Refused::LargerThanRam { text_offset, image_size, ram: ram_bytes })
            }
        }
    }

    /// The header as it lies in the file.
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

/// The `N` bytes at `at`.
fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    core::array::from_fn(|byte| header[at + byte])
}

/// Why something is no Image that this kernel can enter: the rule, and the value that broke it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Refused {
    /// Fewer bytes than a header has.
    TooShort { bytes: usize },
    /// Another word where the magic belongs.
    BadMagic { magic: u32 },
    /// A big-endian kernel.
    BigEndian { flags: u64 },
    /// A kernel for 16 KiB or 64 KiB pages, which the machine that we run on need not have.
    PageSize { kib: u32, flags: u64 },
    /// `image_size` 0: a kernel from before Linux 3.17, which does not say how much memory is its own.
    ImageSizeZero,
    /// `image_size` less than the file.
    ImageSizeBelowFile { image_size: u64, file: u64 },
    /// `text_offset` that is no multiple of 4 KiB, while segments consist of whole pages. (The boot protocol sets no upper bound.)
    TextOffsetMisaligned { text_offset: u64 },
    /// More memory than there is.
    LargerThanRam { text_offset: u64, image_size: u64, ram: u64 },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { bytes } => write!(
                f,
                "the Image has {bytes} bytes, its header alone {HEADER_BYTES}: give the whole flat Image"
            ),
            Self::BadMagic { magic } => write!(
                f,
                "not an arm64 Image: {magic:#010x} at byte {MAGIC_AT}, where the magic {MAGIC:#010x} belongs: give the flat \
                 Image, not an ELF file or a compressed one"
            ),
            Self::BigEndian { flags } => {
                write!(f, "the Image is big-endian (flags {flags:#x}, bit 0): give a little-endian one")
            }
            Self::PageSize { kib, flags } => write!(
                f,
                "the Image is built for {kib} KiB pages (flags {flags:#x}, bits 2:1): give one built for 4 KiB pages"
            ),
            Self::ImageSizeZero => f.write_str(
                "the Image's image_size is 0, so how much memory is its own is unknown: give one of Linux 3.17 or later",
            ),
            Self::ImageSizeBelowFile { image_size, file } => write!(
                f,
                "the Image's image_size is {image_size} bytes, the file has {file}: what is copied would pass the kernel's own \
                 memory: give the file without what was appended"
            ),
            Self::TextOffsetMisaligned { text_offset } => write!(
                f,
                "the Image's text_offset {text_offset:#x} is no multiple of {PAGE_SIZE:#x}: give one that starts on a page"
            ),
            Self::LargerThanRam { text_offset, image_size, ram } => write!(
                f,
                "the Image needs {image_size} bytes (image_size) from text_offset {text_offset:#x} on, and RAM has {ram}: give \
                 the machine more memory"
            ),
        }
    }
}

impl core::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header as Linux's are with an EFI stub: "MZ", a branch, 2 MiB, 4K, anywhere, PE header at 0x40.
    #[rustfmt::skip]
    const LINUX: [u8; HEADER_BYTES] = [
        0x4d, 0x5a, 0x40, 0xfa, 0x00, 0x10, 0x00, 0x14, // code0: ccmp x18, #0, #0xd, pl ("MZ"); code1: b 0x4004
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // text_offset
        0x00, 0x00, 0x20, 0x00, 0x00, 0x00, 0x00, 0x00, // image_size: 2 MiB
        0x0a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // flags
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x41, 0x52, 0x4d, 0x64, 0x40, 0x00, 0x00, 0x00, // magic, PE offset
    ];

    fn with(at: usize, byte: u8) -> Result<Header, Refused> {
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
        assert_eq!(Header::parse(&LINUX[..63]), Err(Refused::TooShort { bytes: 63 }));
        assert_eq!(Header::parse(&[]), Err(Refused::TooShort { bytes: 0 }));
        assert_eq!(with(59, 0x65), Err(Refused::BadMagic { magic: 0x654d_5241 }));
        assert_eq!(with(24, 0x0b), Err(Refused::BigEndian { flags: 0x0b }));
        assert_eq!(with(24, 0x0c), Err(Refused::PageSize { kib: 16, flags: 0x0c }));
        assert_eq!(with(24, 0x0e), Err(Refused::PageSize { kib: 64, flags: 0x0e }));
        assert_eq!(with(18, 0), Err(Refused::ImageSizeZero));
        assert_eq!(with(9, 0x08), Err(Refused::TextOffsetMisaligned { text_offset: 0x800 }));
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
    fn the_file_is_held_against_image_size() {
        let header = Header::parse(&LINUX).unwrap();
        assert_eq!(header.check_file(0x20_0000), Ok(()));
        assert_eq!(
            header.check_file(0x20_0001),
            Err(Refused::ImageSizeBelowFile { image_size: 0x20_0000, file: 0x20_0001 })
        );
    }

    #[test]
    fn ram_is_held_against_both_fields() {
        let header = with(10, 0x08).unwrap();
        assert_eq!(header.check_fits(0x28_0000), Ok(()));
        let refused =
            Refused::LargerThanRam { text_offset: 0x8_0000, image_size: 0x20_0000, ram: 0x27_ffff };
        assert_eq!(header.check_fits(0x27_ffff), Err(refused));
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
        fn what_is_built_is_read(code: [u32; 2], pages in 0_u64..1024, image_size in 1_u64.., pe_offset: u32, high: u64) {
            let header = Header { code, text_offset: pages * 4096, image_size, flags: (high << 4) | 0xa, pe_offset };
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
