//! PE/COFF header, which makes the Image an application that UEFI can start.
//!
//! `pe.S` takes its constants from here at build time; xtask parses the header of what was linked.
//! [`Header::parse`] refuses what EDK2's loader refuses, and what would load the Image in another
//! way than it is linked for.
//!
//! - The header is in the Image's first page, after the 64 bytes of the arm64 header, which begins
//!   with "MZ" and whose last field is the offset of the PE header.
//! - File and memory have the same layout: a section's offset in the file is its address.
//! - There are two sections, because a firmware that enforces W^X maps by sections: text, and
//!   everything after it. The second is writable from the application's first instruction on,
//!   because the Image itself relocates the pointers among its constants.
//! - So there are no base relocations. The flag `RELOCS_STRIPPED`, which would forbid any other
//!   address, is clear.
//!
//! The layout is that of Microsoft's PE format specification, PE32+, little-endian.

use core::ops::Range;

/// `Machine`: 64-bit Arm.
pub const MACHINE: u16 = 0xaa64;
/// `Characteristics`: an executable image that may be above 2 GiB.
///
/// RELOCS_STRIPPED, 0x0001, is clear: it would allow `ImageBase` as the only address.
pub const CHARACTERISTICS: u16 = 0x0002 | 0x0020;
/// `Magic` of the optional header: PE32+.
pub const MAGIC: u16 = 0x020b;
/// `Subsystem`: an EFI application.
pub const SUBSYSTEM: u16 = 10;
/// `DllCharacteristics`: data need not be executable (`NX_COMPAT`).
pub const NX_COMPAT: u16 = 0x0100;
/// `MajorImageVersion`: 1 says that the program asks for its initrd by LoadFile2. systemd-stub
/// refuses a kernel without it.
pub const IMAGE_VERSION: u16 = 1;
/// `SectionAlignment`: a page, so that each section can have its own permissions.
pub const SECTION_ALIGNMENT: u32 = 4096;
/// `FileAlignment`: the smallest that the format allows.
pub const FILE_ALIGNMENT: u32 = 512;
/// `NumberOfRvaAndSizes`: six. A signing tool fills in the fifth, the certificate table.
pub const DIRECTORIES: u32 = 6;
/// Offset of `ImageBase` in the Image, 8 bytes: a loader stores the load address there.
pub const IMAGE_BASE_AT: usize = boot::image::HEADER_BYTES + 48;
/// `SizeOfOptionalHeader`.
pub const OPTIONAL_HEADER_BYTES: u16 = 112 + 8 * DIRECTORIES as u16;

/// Size of the whole header: magic, file header, optional header, two section headers.
pub const BYTES: u64 = 4 + 20 + OPTIONAL_HEADER_BYTES as u64 + 2 * 40;

/// `Characteristics` of the text section: code, readable and executable.
pub const TEXT: u32 = 0x0000_0020 | EXECUTE | READ;
/// `Characteristics` of the data section: initialised data, readable and writable.
pub const DATA: u32 = 0x0000_0040 | READ | WRITE;
const EXECUTE: u32 = 0x2000_0000;
const READ: u32 = 0x4000_0000;
const WRITE: u32 = 0x8000_0000;

/// Fields of the header that decide how the Image is loaded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// `AddressOfEntryPoint`, from the Image's start.
    pub entry: u32,
    /// `SizeOfImage`: the file, and the memory after it.
    pub image_size: u32,
    /// `SizeOfHeaders`.
    pub headers: u32,
    /// `.text` and `.data`.
    pub sections: [Section; 2],
}

/// Section of the Image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section {
    /// Place in memory, from the Image's start.
    pub memory: Range<u32>,
    /// Place in the file.
    pub file: Range<u32>,
    /// `Characteristics`: contents and permissions.
    pub characteristics: u32,
}

impl Header {
    /// Parses the header at `offset` of an Image.
    ///
    /// # Errors
    ///
    /// Returns the first rule that is broken.
    pub fn parse(image: &[u8], offset: u32) -> Result<Self, Error> {
        let at = |field: usize| offset as usize + field;
        let half = |field| bytes(image, at(field)).map(u16::from_le_bytes);
        let word = |field| bytes(image, at(field)).map(u32::from_le_bytes);
        let is = |name, found: u32, expected: u32| {
            if found == expected { Ok(()) } else { Err(Error::Field { name, found, expected }) }
        };
        is("the MZ magic", bytes(image, 0).map(u16::from_le_bytes)?.into(), 0x5a4d)?;
        is("the PE magic", word(0)?, u32::from_le_bytes(*b"PE\0\0"))?;
        is("Machine", half(4)?.into(), MACHINE.into())?;
        is("NumberOfSections", half(6)?.into(), 2)?;
        is("SizeOfOptionalHeader", half(20)?.into(), OPTIONAL_HEADER_BYTES.into())?;
        is("Characteristics", half(22)?.into(), CHARACTERISTICS.into())?;
        is("Magic", half(24)?.into(), MAGIC.into())?;
        is("SectionAlignment", word(56)?, SECTION_ALIGNMENT)?;
        is("FileAlignment", word(60)?, FILE_ALIGNMENT)?;
        is("MajorImageVersion", half(68)?.into(), IMAGE_VERSION.into())?;
        is("Subsystem", half(92)?.into(), SUBSYSTEM.into())?;
        is("DllCharacteristics", half(94)?.into(), NX_COMPAT.into())?;
        is("NumberOfRvaAndSizes", word(132)?, DIRECTORIES)?;
        let table = 24 + usize::from(OPTIONAL_HEADER_BYTES);
        let section = |number: usize| {
            let word = |field| word(table + 40 * number + field);
            let range = |start: u32, size: u32| {
                start.checked_add(size).map(|end| start..end).ok_or(Error::Section { number })
            };
            Ok(Section {
                memory: range(word(12)?, word(8)?)?,
                file: range(word(20)?, word(16)?)?,
                characteristics: word(36)?,
            })
        };
        let header = Self {
            entry: word(40)?,
            image_size: word(80)?,
            headers: word(84)?,
            sections: [section(0)?, section(1)?],
        };
        header.check(image.len())?;
        Ok(header)
    }

    /// Checks that file and memory have the same layout, and that the sizes match.
    fn check(&self, file: usize) -> Result<(), Error> {
        let [text, data] = &self.sections;
        let mut end = self.headers;
        for (number, (section, characteristics)) in
            [(text, TEXT), (data, DATA)].into_iter().enumerate()
        {
            let is_whole = section.memory.start == end
                && section.file.start == end
                && end.is_multiple_of(SECTION_ALIGNMENT)
                && section.file.end.is_multiple_of(FILE_ALIGNMENT)
                && section.file.end <= section.memory.end
                && section.file.end as usize <= file
                && section.characteristics == characteristics;
            if !is_whole {
                return Err(Error::Section { number });
            }
            end = section.memory.end;
        }
        // A loader does not load what the file holds after its sections.
        if end != self.image_size || data.file.end as usize != file {
            return Err(Error::Size { image_size: self.image_size, sections: end });
        }
        if !text.memory.contains(&self.entry) {
            return Err(Error::Entry(self.entry));
        }
        Ok(())
    }
}

fn bytes<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N], Error> {
    image.get(at..).and_then(|rest| rest.first_chunk().copied()).ok_or(Error::TooShort)
}

/// Reason why a loader would not load the Image correctly by this header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Error {
    /// The header passes the end of the file.
    #[error("the PE header passes the file's end")]
    TooShort,
    /// A field does not have the value that it must have.
    #[error("the PE header's {name} is {found:#x}, where {expected:#x} belongs")]
    Field { name: &'static str, found: u32, expected: u32 },
    /// A section has a different layout in the file and in memory, or wrong permissions.
    #[error("the PE header's section {number} is not laid out in the file as in memory")]
    Section { number: usize },
    /// The sections do not add up to the size of the Image or of the file.
    #[error(
        "the PE header's SizeOfImage is {image_size:#x}, and its sections end at {sections:#x}"
    )]
    Size { image_size: u32, sections: u32 },
    /// The entry point is outside the text.
    #[error("the PE header's entry point {0:#x} is outside the code")]
    Entry(u32),
}

/// Assembly of the header.
#[cfg(target_os = "none")]
mod assembly {
    boot::assembly!(
        include_str!("pe.S"),
        HEADER_BYTES = const boot::image::HEADER_BYTES,
        MACHINE = const super::MACHINE,
        CHARACTERISTICS = const super::CHARACTERISTICS,
        MAGIC = const super::MAGIC,
        SUBSYSTEM = const super::SUBSYSTEM,
        NX_COMPAT = const super::NX_COMPAT,
        SECTION_ALIGNMENT = const super::SECTION_ALIGNMENT,
        IMAGE_VERSION = const super::IMAGE_VERSION,
        FILE_ALIGNMENT = const super::FILE_ALIGNMENT,
        DIRECTORIES = const super::DIRECTORIES,
        OPTIONAL_HEADER_BYTES = const super::OPTIONAL_HEADER_BYTES,
        TEXT = const super::TEXT,
        DATA = const super::DATA,
    );
}

/// Returns a header for tests, at 0x40 of an Image.
///
/// The Image has 0x1000 bytes of text. Its data is 0x400 bytes in the file, 0x2000 in memory.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn example() -> std::vec::Vec<u8> {
    let mut image = std::vec![0; 0x40];
    image[..2].copy_from_slice(b"MZ");
    let half = |image: &mut std::vec::Vec<u8>, value: u16| image.extend(value.to_le_bytes());
    let word = |image: &mut std::vec::Vec<u8>, value: u32| image.extend(value.to_le_bytes());
    image.extend(b"PE\0\0");
    half(&mut image, 0xaa64);
    half(&mut image, 2);
    (0..3).for_each(|_| word(&mut image, 0));
    half(&mut image, 160);
    half(&mut image, 0x22);
    half(&mut image, 0x20b);
    half(&mut image, 0);
    for value in
        [0x1000, 0x400, 0x1c00, 0x1800, 0x1000, 0, 0, 4096, 512, 0, 1, 0, 0, 0x4000, 0x1000, 0]
    {
        word(&mut image, value);
    }
    half(&mut image, 10);
    half(&mut image, 0x100);
    (0..9).for_each(|_| word(&mut image, 0));
    word(&mut image, 6);
    (0..12).for_each(|_| word(&mut image, 0));
    for (name, numbers) in [
        (b".text\0\0\0", [0x1000, 0x1000, 0x1000, 0x1000, 0, 0, 0, 0x6000_0020]),
        (b".data\0\0\0", [0x2000, 0x2000, 0x400, 0x2000, 0, 0, 0, 0xc000_0040]),
    ] {
        image.extend(name);
        numbers.into_iter().for_each(|value| word(&mut image, value));
    }
    image.resize(0x2400, 0);
    image
}

#[cfg(test)]
mod tests {
    use super::{example as image, *};

    #[test]
    fn a_good_header_is_read() {
        let header = Header::parse(&image(), 0x40).unwrap();
        assert_eq!((header.entry, header.image_size, header.headers), (0x1800, 0x4000, 0x1000));
        assert_eq!(header.sections[1].memory, 0x2000..0x4000);
        assert_eq!(header.sections[1].file, 0x2000..0x2400);
    }

    #[test]
    fn each_rule_refuses_by_its_value() {
        let spoilt = |at: usize, byte: u8| {
            let mut image = image();
            image[at] = byte;
            Header::parse(&image, 0x40).unwrap_err()
        };
        let field = |name, found, expected| Error::Field { name, found, expected };
        assert_eq!(spoilt(0, 0), field("the MZ magic", 0x5a00, 0x5a4d));
        assert_eq!(spoilt(0x43, 1), field("the PE magic", 0x0100_4550, 0x4550));
        assert_eq!(spoilt(0x44, 0x65), field("Machine", 0xaa65, 0xaa64));
        assert_eq!(spoilt(0x46, 1), field("NumberOfSections", 1, 2));
        assert_eq!(spoilt(0x54, 0), field("SizeOfOptionalHeader", 0, 160));
        assert_eq!(spoilt(0x56, 0x23), field("Characteristics", 0x23, 0x22));
        assert_eq!(spoilt(0x58, 0), field("Magic", 0x200, 0x20b));
        assert_eq!(spoilt(0x40 + 57, 2), field("SectionAlignment", 0x200, 0x1000));
        assert_eq!(spoilt(0x40 + 61, 0), field("FileAlignment", 0, 0x200));
        assert_eq!(spoilt(0x40 + 68, 0), field("MajorImageVersion", 0, 1));
        assert_eq!(spoilt(0x40 + 92, 11), field("Subsystem", 11, 10));
        assert_eq!(spoilt(0x40 + 95, 0), field("DllCharacteristics", 0, 0x100));
        assert_eq!(spoilt(0x40 + 132, 5), field("NumberOfRvaAndSizes", 5, 6));
        assert_eq!(spoilt(0x40 + 41, 0x20), Error::Entry(0x2000));
        assert_eq!(spoilt(0x40 + 81, 0x30), Error::Size { image_size: 0x3000, sections: 0x4000 });
        assert_eq!(
            spoilt(0x40 + 85, 0x20),
            Error::Section { number: 0 },
            "headers that pass the text"
        );
        let text = 0x40 + 24 + 160;
        assert_eq!(spoilt(text + 9, 0x20), Error::Section { number: 1 }, "text that overlaps data");
        assert_eq!(
            spoilt(text + 21, 0x20),
            Error::Section { number: 0 },
            "another place in the file"
        );
        assert_eq!(spoilt(text + 39, 0xe0), Error::Section { number: 0 }, "writable code");
        assert_eq!(
            spoilt(text + 40 + 17, 0x02),
            Error::Size { image_size: 0x4000, sections: 0x4000 },
            "a file that continues"
        );
        assert_eq!(
            spoilt(text + 40 + 17, 0x06),
            Error::Section { number: 1 },
            "past the file's end"
        );
    }

    #[test]
    fn sizes_and_offsets_are_those_of_the_format() {
        assert_eq!(IMAGE_BASE_AT, 112);
        assert_eq!((OPTIONAL_HEADER_BYTES, BYTES), (160, 264));
        assert_eq!((TEXT, DATA), (0x6000_0020, 0xc000_0040));
    }

    #[test]
    fn a_sentence_names_the_value() {
        for (error, sentence) in [
            (Error::TooShort, "the PE header passes the file's end"),
            (
                Error::Field { name: "Machine", found: 0x8664, expected: 0xaa64 },
                "the PE header's Machine is 0x8664, where 0xaa64 belongs",
            ),
            (
                Error::Section { number: 1 },
                "the PE header's section 1 is not laid out in the file as in memory",
            ),
            (
                Error::Size { image_size: 0x3000, sections: 0x4000 },
                "the PE header's SizeOfImage is 0x3000, and its sections end at 0x4000",
            ),
            (Error::Entry(0x2000), "the PE header's entry point 0x2000 is outside the code"),
        ] {
            assert_eq!(error.to_string(), sentence);
        }
    }

    #[test]
    fn no_file_is_too_short_to_be_refused() {
        let image = image();
        for end in (0..image.len()).step_by(if cfg!(miri) { 997 } else { 1 }) {
            assert!(Header::parse(&image[..end], 0x40).is_err(), "{end}");
        }
        assert_eq!(Header::parse(&image, u32::MAX), Err(Error::TooShort));
    }
}
