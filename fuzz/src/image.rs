//! The target `image`: any bytes as an arm64 Image header.
//!
//! It checks that:
//!
//! - a header that is accepted keeps each rule, and is written back as it was read, except for the
//!   reserved fields;
//! - a header that is refused breaks the rule that the error names;
//! - the sizes are compared as if in 128 bits.

use boot::image::{Error, FLAG_BIG_ENDIAN, HEADER_BYTES, Header, MAGIC, PAGE_SIZE_MASK, PAGES_4K};

/// Checks an input: a header, then a file's size and a machine's RAM, 8 bytes each.
pub fn hold(data: &[u8]) {
    let header = match Header::parse(data) {
        Ok(header) => header,
        Err(error) => return refused_rightly(data, &error),
    };
    assert!(data.len() >= HEADER_BYTES && word(data, 56) as u32 == MAGIC);
    assert_eq!(
        (header.text_offset, header.image_size, header.flags),
        (word(data, 8), word(data, 16), word(data, 24))
    );
    assert!(
        header.image_size > 0
            && header.text_offset % 4096 == 0
            && header.flags & FLAG_BIG_ENDIAN == 0
    );
    assert!([0, PAGES_4K].contains(&(header.flags & PAGE_SIZE_MASK)));

    let written = header.to_bytes();
    assert_eq!(Header::parse(&written), Ok(header));
    assert_eq!((&written[..32], &written[56..]), (&data[..32], &data[56..HEADER_BYTES]));

    let (file, ram) = (word(data, 64), word(data, 72));
    assert_eq!(header.check_file(file).is_ok(), file <= header.image_size);
    let bytes = u128::from(header.text_offset) + u128::from(header.image_size);
    assert_eq!(header.check_fits(ram).is_ok(), bytes <= ram.into());
    for error in [header.check_file(file).err(), header.check_fits(ram).err()].into_iter().flatten()
    {
        assert!(!error.to_string().is_empty());
    }
}

fn refused_rightly(data: &[u8], error: &Error) {
    let broken = match *error {
        Error::TooShort { bytes } => bytes == data.len() && bytes < HEADER_BYTES,
        Error::BadMagic { magic } => magic == word(data, 56) as u32 && magic != MAGIC,
        Error::BigEndian { flags } => flags == word(data, 24) && flags & FLAG_BIG_ENDIAN != 0,
        Error::PageSize { kib, flags } => {
            flags == word(data, 24) && [(16, 4), (64, 6)].contains(&(kib, flags & 6))
        }
        Error::ImageSizeZero => word(data, 16) == 0,
        Error::TextOffsetMisaligned { text_offset } => {
            text_offset == word(data, 8) && text_offset % 4096 != 0
        }
        Error::ImageSizeBelowFile { .. } | Error::LargerThanRam { .. } => false,
    };
    assert!(broken, "{error}: {data:x?}");
}

/// Returns eight little-endian bytes, with zeros after the input has ended.
fn word(data: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.iter_mut().zip(data.iter().skip(at)).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(word)
}
