//! The check `layout`: page-aligned sections, permissions, no dynamic linking, size limit.
//!
//! The kernel maps each part by whole pages with its own permissions, and it has no dynamic linker.

use boot::phys::PAGE_SIZE;
use object::elf::{PF_W, PF_X, PT_INTERP, PT_LOAD};

use super::linked::Linked;
use harness::kernel_build::IMAGE_LIMIT;

/// The sections that each begin a range with its own permissions.
const SECTIONS: [&str; 7] = [".head", ".text", ".rodata", ".data", ".early", ".bss", ".stacks"];

/// The symbols at the boundaries of those ranges.
const BOUNDARIES: [&str; 5] = ["_start", "text_start", "text_end", "rodata_end", "_image_end"];

/// Returns the violations found in the linked kernel.
pub fn wrong(linked: &Linked) -> Vec<String> {
    let mut wrong = Vec::new();
    for name in SECTIONS {
        match linked.sections.iter().find(|section| section.name == name) {
            None => wrong.push(format!("there is no section {name}")),
            Some(section) if !section.address.is_multiple_of(PAGE_SIZE) => {
                wrong.push(format!(
                    "{name} begins at {:#x}, which is no multiple of 4 KiB",
                    section.address
                ));
            }
            Some(_) => {}
        }
    }
    for name in BOUNDARIES {
        match linked.symbol(name) {
            Err(absent) => wrong.push(absent),
            Ok(address) if !address.is_multiple_of(PAGE_SIZE) => {
                wrong.push(format!("{name} is at {address:#x}, which is no multiple of 4 KiB"));
            }
            Ok(_) => {}
        }
    }
    for (kind, flags) in &linked.segments {
        match *kind {
            PT_INTERP => {
                wrong.push("there is a PT_INTERP segment, but no dynamic linker".to_owned())
            }
            PT_LOAD if flags.contains(PF_W | PF_X) => {
                wrong.push(format!("a segment is writable and executable: flags {:#x}", flags.0));
            }
            _ => {}
        }
    }
    wrong.extend(linked.undefined.iter().map(|name| format!("nothing defines {name}")));
    if linked.image.len() > IMAGE_LIMIT {
        let over = linked.image.len() - IMAGE_LIMIT;
        wrong.push(format!(
            "the Image has {} bytes, {over} above the limit of {IMAGE_LIMIT}",
            linked.image.len()
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use object::elf::PF_R;

    use super::{super::linked::Section, *};

    fn good() -> Linked {
        let pages = |names: &[&str]| {
            (0..).step_by(0x1000).zip(names.iter().map(|&name| name.to_owned())).collect()
        };
        let sections: Vec<(u64, String)> = pages(&SECTIONS);
        let symbols: Vec<(u64, String)> = pages(&BOUNDARIES);
        Linked {
            sections: sections
                .into_iter()
                .map(|(address, name)| Section { name, address, ..Section::default() })
                .collect(),
            symbols: symbols.into_iter().map(|(address, name)| (name, address)).collect(),
            segments: vec![(PT_LOAD, PF_R | PF_X), (PT_LOAD, PF_R | PF_W)],
            image: vec![0; IMAGE_LIMIT],
            ..Linked::default()
        }
    }

    /// Returns the check's output for a good kernel changed by `spoil`.
    fn said<R>(spoil: impl Fn(&mut Linked) -> R) -> String {
        let mut linked = good();
        spoil(&mut linked);
        wrong(&linked).join("\n")
    }

    #[test]
    fn a_good_layout_passes() {
        assert_eq!(said(|_| ()), "");
    }

    #[test]
    fn each_rule_can_be_broken() {
        assert_eq!(
            said(|kernel| kernel.sections[3].address += 8),
            ".data begins at 0x3008, which is no multiple of 4 KiB"
        );
        assert_eq!(said(|kernel| kernel.sections.pop()), "there is no section .stacks");
        let nudged = said(|kernel| *kernel.symbols.get_mut("text_end").unwrap() += 4);
        assert_eq!(nudged, "text_end is at 0x2004, which is no multiple of 4 KiB");
        assert_eq!(
            said(|kernel| kernel.symbols.remove("_image_end")),
            "there is no symbol _image_end"
        );
        assert!(said(|kernel| kernel.segments.push((PT_INTERP, PF_R))).contains("PT_INTERP"));
        assert!(said(|kernel| kernel.segments[0].1 = PF_R | PF_W | PF_X).ends_with("flags 0x7"));
        assert_eq!(
            said(|kernel| kernel.undefined.push("memcpy".to_owned())),
            "nothing defines memcpy"
        );
        let over =
            format!("the Image has {} bytes, 1 above the limit of {IMAGE_LIMIT}", IMAGE_LIMIT + 1);
        assert_eq!(said(|kernel| kernel.image.push(0)), over);
    }
}
