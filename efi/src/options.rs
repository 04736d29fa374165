//! Load options: the command line that a UEFI program passes to the Image.
//!
//! - A boot manager, a shell or another program passes them. They should be UCS-2, perhaps with a
//!   NUL at the end; but UEFI calls them binary data, so they may be anything.
//! - If they are not text, [`text`] refuses them, and the loader keeps the device tree's own
//!   bootargs.
//! - A shell puts the program's name first. The kernel ignores it, as an unknown parameter.

/// Returns the options as text, or `None` if they are not text or are empty.
pub fn text(bytes: &[u8]) -> Option<impl Iterator<Item = char> + Clone + '_> {
    // In UCS-2 each unit is a character; a surrogate is not one.
    let units = bytes
        .chunks_exact(2)
        .map(|unit| char::from_u32(u16::from_le_bytes([unit[0], unit[1]]).into()));
    let characters = units.take_while(|&character| character != Some('\0'));
    let is_text =
        |character: Option<char>| character.is_some_and(|character| !character.is_control());
    let is_all_text = bytes.len().is_multiple_of(2) && characters.clone().all(is_text);
    let is_empty = characters.clone().all(|character| character == Some(' '));
    (is_all_text && !is_empty).then(|| characters.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str, end: &[u8]) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).chain(end.iter().copied()).collect()
    }

    fn read(bytes: &[u8]) -> Option<String> {
        text(bytes).map(Iterator::collect)
    }

    #[test]
    fn text_is_read_to_its_nul_or_its_end() {
        assert_eq!(read(&options("generations=3", &[])).as_deref(), Some("generations=3"));
        assert_eq!(read(&options("a ä €", &[0, 0, 0xff, 0xff])).as_deref(), Some("a ä €"));
    }

    #[test]
    fn what_is_no_text_is_none() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&options("  ", &[0, 0])), None);
        assert_eq!(read(&options("a", &[7])), None, "an odd number of bytes");
        assert_eq!(read(&options("a\u{1b}[2J", &[])), None, "a control character");
        assert_eq!(read(&[0x00, 0xd8, 0x41, 0x00]), None, "a surrogate");
    }
}
