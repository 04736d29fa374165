//! The check `header`: the first page is the Image header and room for a PE header, and says of the Image what is so.
//!
//! *When:* the kernel is linked.

use boot::{
    image::{FLAGS, HEADER_BYTES, Header},
    phys::PAGE_SIZE,
};

use super::linked::Linked;

/// What is wrong.
pub fn wrong(linked: &Linked) -> Vec<String> {
    let mut wrong = Vec::new();
    match Header::parse(&linked.image) {
        Err(refused) => wrong.push(format!("the header is refused: {refused}")),
        Ok(Header { text_offset, image_size, flags, .. }) => {
            if flags != FLAGS || text_offset != 0 {
                wrong.push(format!("flags {flags:#x}, text_offset {text_offset:#x}, where {FLAGS:#x} and 0 belong"));
            }
            match linked.symbol("_image_size") {
                Ok(size) if size == image_size => {}
                Ok(size) => wrong.push(format!("image_size is {image_size:#x}, and _image_size {size:#x}")),
                Err(absent) => wrong.push(absent),
            }
        }
    }
    match linked.bytes(&(HEADER_BYTES as u64..PAGE_SIZE)) {
        Err(short) => wrong.push(short),
        Ok(rest) => {
            if let Some(used) = rest.iter().position(|&byte| byte != 0) {
                wrong.push(format!(
                    "the header page holds something at byte {:#x}, where only a PE header may lie",
                    HEADER_BYTES + used
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<R>(spoil: impl Fn(&mut Linked) -> R) -> String {
        let header = Header {
            code: [0xfa40_5a4d, 0x1400_1000],
            text_offset: 0,
            image_size: 0x7_1000,
            flags: FLAGS,
            pe_offset: 0,
        };
        let mut linked = Linked { image: vec![0; 8192], ..Linked::default() };
        linked.image[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        linked.symbols.insert("_image_size".to_owned(), 0x7_1000);
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
        let moved = said(|kernel| kernel.symbols.insert("_image_size".to_owned(), 0x7_2000));
        assert_eq!(moved, "image_size is 0x71000, and _image_size 0x72000");
        assert!(said(|kernel| kernel.image[4095] = 1).contains("at byte 0xfff,"));
        assert_eq!(said(|kernel| kernel.image[4096] = 1), "");
        assert!(said(|kernel| kernel.image.truncate(100)).contains("does not hold"));
    }
}
