//! The PE/COFF header: what makes the Image an application to UEFI.
//!
//! *When:* at build time (`pe.S` takes its constants from here), and when xtask looks at what was linked. *On entry:* an Image.
//! *Leaves behind:* a [`Header`]. *Refuses:* what EDK2's loader refuses, and what would load the Image in another way than it is linked for.
//!
//! It lies in the Image's first page, behind the 64 bytes of the arm64 header, whose last field is its offset (and whose first two bytes
//! are "MZ"). The file's layout is the memory's: a section's place in the file is its address. There are two, because a firmware that
//! keeps W^X maps by sections: code, and everything behind it, which is writable from the application's first instruction on, since the
//! pointers among the constants are relocated by the Image itself. So there are no base relocations, and the flag that would
//! forbid another address (`RELOCS_STRIPPED`) is not set.
//!
//! The layout is that of Microsoft's PE format specification, PE32+, little-endian.

use core::fmt;
use core::ops::Range;

/// `Machine`: 64-bit Arm.
pub const MACHINE: u16 = 0xaa64;
/// `Characteristics`: an executable image, that can lie above 2 GiB. Not set is RELOCS_STRIPPED, 0x0001, by which it could lie at
/// `ImageBase` alone.
pub const CHARACTERISTICS: u16 = 0x0002 | 0x0020;
/// The optional header's `Magic`: PE32+.
pub const MAGIC: u16 = 0x020b;
/// `Subsystem`: an EFI application.
pub const SUBSYSTEM: u16 = 10;
/// `DllCharacteristics`: runs where data is never executable (`NX_COMPAT`).
pub const NX_COMPAT: u16 = 0x0100;
/// `SectionAlignment`: a page, so that each section can have its own permissions.
pub const SECTION_ALIGNMENT: u32 = 4096;
/// `FileAlignment`: the least that the format knows.
pub const FILE_ALIGNMENT: u32 = 512;
/// `NumberOfRvaAndSizes`: up to the sixth, so that the fifth, the signature's, can be filled in by a tool that signs.
pub const DIRECTORIES: u32 = 6;
/// Where `ImageBase` lies in the Image, 8 bytes: a loader notes there where it has put it.
pub const IMAGE_BASE_AT: usize = boot::image::HEADER_BYTES + 48;
/// `SizeOfOptionalHeader`.
pub const OPTIONAL_HEADER_BYTES: u16 = 112 + 8 * DIRECTORIES as u16;

/// All of it: magic, file header, optional header, two section headers.
pub const BYTES: u64 = 4 + 20 + OPTIONAL_HEADER_BYTES as u64 + 2 * 40;

/// A section's `Characteristics`: code, read and executed.
pub const TEXT: u32 = 0x0000_0020 | EXECUTE | READ;
/// A section's `Characteristics`: initialised data, read and written.
pub const DATA: u32 = 0x0000_0040 | READ | WRITE;
const EXECUTE: u32 = 0x2000_0000;
const READ: u32 = 0x4000_0000;
const WRITE: u32 = 0x8000_0000;

/// What of the header decides how the Image is loaded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// `AddressOfEntryPoint`, from the Image's start.
    pub entry: u32,
    /// `SizeOfImage`: file and what is behind it in memory.
    pub image_size: u32,
    /// `SizeOfHeaders`.
    pub headers: u32,
    /// `.text` and `.data`.
    pub sections: [Section; 2],
}

/// A section.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section {
    /// Where it lies in memory, from the Image's start.
    pub memory: Range<u32>,
    /// Where it lies in the file.
    pub file: Range<u32>,
    /// What it holds and what may be done with it.
    pub characteristics: u32,
}

impl Header {
    /// Reads the header at `offset` of an Image.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub fn parse(image: &[u8], offset: u32) -> Result<Self, Refused> {
        let at = |field: usize| offset as usize + field;
        let half = |field| bytes(image, at(field)).map(u16::from_le_bytes);
        let word = |field| bytes(image, at(field)).map(u32::from_le_bytes);
        let is = |name, found: u32, expected: u32| {
            if found == expected { Ok(()) } else { Err(Refused::Field { name, found, expected }) }
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
        is("Subsystem", half(92)?.into(), SUBSYSTEM.into())?;
        is("DllCharacteristics", half(94)?.into(), NX_COMPAT.into())?;
        is("NumberOfRvaAndSizes", word(132)?, DIRECTORIES)?;
        let table = 24 + usize::from(OPTIONAL_HEADER_BYTES);
        let section = |number: usize| {
            let word = |field| word(table + 40 * number + field);
            let range = |start: u32, size: u32| {
                start.checked_add(size).map(|end| start..end).ok_or(Refused::Section { number })
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

    /// That file and memory are laid out alike, and all is where its size says.
    fn check(&self, file: usize) -> Result<(), Refused> {
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
                return Err(Refused::Section { number });
            }
            end = section.memory.end;
        }
        // What the file has beyond its sections is not loaded.
        if end != self.image_size || data.file.end as usize != file {
            return Err(Refused::Size { image_size: self.image_size, sections: end });
        }
        if !text.memory.contains(&self.entry) {
            return Err(Refused::Entry(self.entry));
        }
        Ok(())
    }
}

fn bytes<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N], Refused> {
    image.get(at..).and_then(|rest| rest.first_chunk().copied()).ok_or(Refused::TooShort)
}

/// Why the header is none that an Image is loaded rightly by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Refused {
    /// The header passes the file's end.
    TooShort,
    /// A field with another value than the one that it must have.
    Field { name: &'static str, found: u32, expected: u32 },
    /// A section that is not laid out in the file as in memory, or may do something else.
    Section { number: usize },
    /// Sections that do not fill what the Image takes.
    Size { image_size: u32, sections: u32 },
    /// An entry point outside the code.
    Entry(u32),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("the PE header passes the file's end"),
            Self::Field { name, found, expected } => {
                write!(f, "the PE header's {name} is {found:#x}, where {expected:#x} belongs")
            }
            Self::Section { number } => {
                write!(
                    f,
                    "the PE header's section {number} is not laid out in the file as in memory"
                )
            }
            Self::Size { image_size, sections } => {
                write!(
                    f,
                    "the PE header's SizeOfImage is {image_size:#x}, and its sections end at {sections:#x}"
                )
            }
            Self::Entry(entry) => {
                write!(f, "the PE header's entry point {entry:#x} lies outside the code")
            }
        }
    }
}

impl core::error::Error for Refused {}

/// The header itself.
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
        FILE_ALIGNMENT = const super::FILE_ALIGNMENT,
        DIRECTORIES = const super::DIRECTORIES,
        OPTIONAL_HEADER_BYTES = const super::OPTIONAL_HEADER_BYTES,
        TEXT = const super::TEXT,
        DATA = const super::DATA,
    );
}

/// For tests: a header at 0x40 of an Image with 0x1000 bytes of text, and 0x400 of data in the file, 0x2000 in memory.
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
        [0x1000, 0x400, 0x1c00, 0x1800, 0x1000, 0, 0, 4096, 512, 0, 0, 0, 0, 0x4000, 0x1000, 0]
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
        let field = |name, found, expected| Refused::Field { name, found, expected };
        assert_eq!(spoilt(0, 0), field("the MZ magic", 0x5a00, 0x5a4d));
        assert_eq!(spoilt(0x43, 1), field("the PE magic", 0x0100_4550, 0x4550));
        assert_eq!(spoilt(0x44, 0x65), field("Machine", 0xaa65, 0xaa64));
        assert_eq!(spoilt(0x46, 1), field("NumberOfSections", 1, 2));
        assert_eq!(spoilt(0x54, 0), field("SizeOfOptionalHeader", 0, 160));
        assert_eq!(spoilt(0x56, 0x23), field("Characteristics", 0x23, 0x22));
        assert_eq!(spoilt(0x58, 0), field("Magic", 0x200, 0x20b));
        assert_eq!(spoilt(0x40 + 57, 2), field("SectionAlignment", 0x200, 0x1000));
        assert_eq!(spoilt(0x40 + 61, 0), field("FileAlignment", 0, 0x200));
        assert_eq!(spoilt(0x40 + 92, 11), field("Subsystem", 11, 10));
        assert_eq!(spoilt(0x40 + 95, 0), field("DllCharacteristics", 0, 0x100));
        assert_eq!(spoilt(0x40 + 132, 5), field("NumberOfRvaAndSizes", 5, 6));
        assert_eq!(spoilt(0x40 + 41, 0x20), Refused::Entry(0x2000));
        assert_eq!(spoilt(0x40 + 81, 0x30), Refused::Size { image_size: 0x3000, sections: 0x4000 });
        assert_eq!(
            spoilt(0x40 + 85, 0x20),
            Refused::Section { number: 0 },
            "headers that pass the text"
        );
        let text = 0x40 + 24 + 160;
        assert_eq!(
            spoilt(text + 9, 0x20),
            Refused::Section { number: 1 },
            "text that overlaps data"
        );
        assert_eq!(
            spoilt(text + 21, 0x20),
            Refused::Section { number: 0 },
            "another place in the file"
        );
        assert_eq!(spoilt(text + 39, 0xe0), Refused::Section { number: 0 }, "writable code");
        assert_eq!(
            spoilt(text + 40 + 17, 0x02),
            Refused::Size { image_size: 0x4000, sections: 0x4000 },
            "a file that goes on"
        );
        assert_eq!(
            spoilt(text + 40 + 17, 0x06),
            Refused::Section { number: 1 },
            "past the file's end"
        );
    }

    #[test]
    fn no_file_is_too_short_to_be_refused() {
        let image = image();
        for end in (0..image.len()).step_by(if cfg!(miri) { 997 } else { 1 }) {
            assert!(Header::parse(&image[..end], 0x40).is_err(), "{end}");
        }
        assert_eq!(Header::parse(&image, u32::MAX), Err(Refused::TooShort));
    }
}
