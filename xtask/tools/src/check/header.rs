//! The check `header`: Image header and PE header in the first page describe the Image.
//!
//! The rest of the page must be zero.

use boot::{
    image::{FLAGS, HEADER_BYTES, Header},
    phys::PAGE_SIZE,
};
use efi::pe;

use super::linked::Linked;

/// Returns the violations found in the linked kernel.
pub fn wrong(linked: &Linked) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut used = HEADER_BYTES as u64;
    match Header::parse(&linked.image) {
        Err(refused) => wrong.push(format!("the header is refused: {refused}")),
        Ok(Header { text_offset, image_size, flags, pe_offset, .. }) => {
            if flags != FLAGS || text_offset != 0 {
                wrong.push(format!(
                    "flags {flags:#x}, text_offset {text_offset:#x}, where {FLAGS:#x} and 0 belong"
                ));
            }
            match linked.symbol("_image_size") {
                Ok(size) if size == image_size => {}
                Ok(size) => {
                    wrong.push(format!("image_size is {image_size:#x}, and _image_size {size:#x}"))
                }
                Err(absent) => wrong.push(absent),
            }
            match pe::Header::parse(&linked.image, pe_offset) {
                Err(refused) => {
                    wrong.push(format!("the PE header at {pe_offset:#x} is refused: {refused}"))
                }
                Ok(header) => {
                    wrong.extend(other_than_linked(&header, linked));
                    used = u64::from(pe_offset) + pe::BYTES;
                }
            }
        }
    }
    match linked.bytes(&(used..PAGE_SIZE)) {
        Err(short) => wrong.push(short),
        Ok(rest) => {
            if let Some(place) = rest.iter().position(|&byte| byte != 0) {
                wrong.push(format!(
                    "the header page holds something at byte {:#x}, after its headers",
                    used + place as u64
                ));
            }
        }
    }
    wrong
}

/// Returns the PE header fields that disagree with the linked kernel.
fn other_than_linked(header: &pe::Header, linked: &Linked) -> Vec<String> {
    let [text, data] = &header.sections;
    let places = [
        ("the entry point", header.entry, "efi_entry"),
        (".text begins", text.memory.start, "text_start"),
        (".text ends", text.memory.end, "text_end"),
        (".data ends in the file", data.file.end, "data_end"),
        (".data ends", data.memory.end, "_image_end"),
    ];
    let wrong = places.into_iter().filter_map(|(what, says, name)| match linked.symbol(name) {
        Ok(place) if place == u64::from(says) => None,
        Ok(place) => {
            Some(format!("the PE header: {what} at {says:#x}, and {name} is at {place:#x}"))
        }
        Err(absent) => Some(absent),
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<R>(spoil: impl Fn(&mut Linked) -> R) -> String {
        let header = Header {
            code: [0xfa40_5a4d, 0x1400_1000],
            text_offset: 0,
            image_size: 0x4000,
            flags: FLAGS,
            pe_offset: 0x40,
        };
        let mut linked = Linked { image: pe::example(), ..Linked::default() };
        linked.image[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        for (name, place) in [
            ("_image_size", 0x4000),
            ("efi_entry", 0x1800),
            ("text_start", 0x1000),
            ("text_end", 0x2000),
            ("data_end", 0x2400),
            ("_image_end", 0x4000),
        ] {
            linked.symbols.insert(name.to_owned(), place);
        }
        spoil(&mut linked);
        wrong(&linked).join("\n")
    }

    #[test]
    fn a_good_header_passes() {
        assert_eq!(said(|_| ()), "");
    }

    #[test]
    fn each_rule_can_be_broken() {
        assert!(said(|kernel| kernel.image[56] = 0).starts_with("the header is refused"));
        assert!(said(|kernel| kernel.image[24] = 0).starts_with("flags 0x0, text_offset 0x0"));
        assert!(said(|kernel| kernel.image[10] = 0x20).contains("text_offset 0x200000"));
        let moved = said(|kernel| kernel.symbols.insert("_image_size".to_owned(), 0x5000));
        assert_eq!(moved, "image_size is 0x4000, and _image_size 0x5000");
        assert!(said(|kernel| kernel.image[4095] = 1).contains("at byte 0xfff,"));
        assert_eq!(said(|kernel| kernel.image[4096] = 1), "");
        assert!(said(|kernel| kernel.image.truncate(100)).contains("passes the file's end"));
    }

    #[test]
    fn a_pe_header_says_what_was_linked() {
        assert!(said(|kernel| kernel.image[60] = 0).contains("the PE header at 0x0 is refused"));
        assert!(said(|kernel| kernel.image[0x44] = 0).contains("Machine is 0xaa00"));
        for name in ["efi_entry", "text_start", "text_end", "data_end", "_image_end"] {
            let moved = said(|kernel| kernel.symbols.insert(name.to_owned(), 0x9000));
            assert!(moved.ends_with(&format!("{name} is at 0x9000")), "{moved}");
        }
    }
}
