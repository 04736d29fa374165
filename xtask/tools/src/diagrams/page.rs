//! Generator of the dumps in docs/boot-protocols.md: Image header, PE header, disk tree.
//!
//! The page is written by hand, except for the text between the lines `<!-- NAME: generated … -->`
//! and `<!-- end -->`. Values that depend on the build appear as `··`, so the page changes only
//! with the format. Refuses a page without a place for a block, headers of another length, and a
//! property without an explanation.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use dtoolkit::{
    Node, Property,
    fdt::{Fdt, FdtNode},
};
use fdt::blob;

use harness::kernel_build::Built;

/// A field of a header: offset, size, name, explanation, and the bits that depend on the build.
struct Field {
    at: usize,
    bytes: usize,
    name: &'static str,
    says: &'static str,
    varies: u64,
}

const fn field(at: usize, bytes: usize, name: &'static str, says: &'static str) -> Field {
    Field { at, bytes, name, says, varies: 0 }
}

/// Makes a field in which these bits depend on the build.
const fn built(
    at: usize,
    bytes: usize,
    name: &'static str,
    varies: u64,
    says: &'static str,
) -> Field {
    Field { at, bytes, name, says, varies }
}

/// Build-dependent bits: of a size in memory (a multiple of a page, below 2 MiB), of a size in the
/// file (a multiple of 512 bytes), of an address in the text.
const PAGES: u64 = 0x1f_f000;
const UNITS: u64 = 0x1f_fe00;
const PLACE: u64 = 0x1f_ffff;

/// The arm64 Image header.
const HEADER: [Field; 8] = [
    field(0x00, 4, "code0", "ccmp x18, #0, #0xd, pl: changes flags at most; to a PE loader \"MZ\""),
    built(0x04, 4, "code1", 0x03ff_ffff, "b entry"),
    field(0x08, 8, "text_offset", "0: at the 2 MiB boundary itself"),
    built(
        0x10,
        8,
        "image_size",
        PAGES,
        "file, tables, bss and stacks: this much from _start on is the kernel's",
    ),
    field(
        0x18,
        8,
        "flags",
        "0xa: little-endian; 4 KiB pages (bits 2:1 = 1); anywhere in RAM (bit 3)",
    ),
    field(0x20, 24, "res2 to res4", ""),
    field(0x38, 4, "magic", "\"ARM\\x64\""),
    field(0x3c, 4, "res5", "offset of the PE header; 0 without one"),
];

/// The PE header after it: COFF header, optional header, two sections.
const PE: [Field; 46] = [
    field(0x40, 4, "Signature", "\"PE\", 0, 0"),
    field(0x44, 2, "Machine", "0xaa64, ARM64"),
    field(0x46, 2, "NumberOfSections", "2"),
    field(0x48, 4, "TimeDateStamp", "none: the same sources make the same Image"),
    field(0x4c, 8, "symbol table", "none"),
    field(0x54, 2, "SizeOfOptionalHeader", "160"),
    field(
        0x56,
        2,
        "Characteristics",
        "executable, may be above 2 GiB; RELOCS_STRIPPED is clear: any address is possible",
    ),
    field(0x58, 2, "Magic", "0x20b, PE32+"),
    field(0x5a, 2, "linker's version", ""),
    built(0x5c, 4, "SizeOfCode", PAGES, ".text"),
    built(0x60, 4, "SizeOfInitializedData", UNITS, ".data in the file"),
    built(0x64, 4, "SizeOfUninitializedData", UNITS, "what the file does not hold"),
    built(0x68, 4, "AddressOfEntryPoint", PLACE, "efi_entry, not _start"),
    field(0x6c, 4, "BaseOfCode", "after this page"),
    field(
        0x70,
        8,
        "ImageBase",
        "in memory, EDK2 writes the address that it chose here; the stub clears it in its copy",
    ),
    field(0x78, 4, "SectionAlignment", "4096: the firmware gives each section its own permissions"),
    field(0x7c, 4, "FileAlignment", "512"),
    field(0x80, 4, "operating system's version", ""),
    field(0x84, 4, "image's version", "1.0: asks for its initrd by LoadFile2"),
    field(0x88, 4, "subsystem's version", ""),
    field(0x8c, 4, "Win32VersionValue", ""),
    built(0x90, 4, "SizeOfImage", PAGES, "image_size"),
    field(0x94, 4, "SizeOfHeaders", "4096"),
    field(0x98, 4, "CheckSum", "for drivers only"),
    field(0x9c, 2, "Subsystem", "10, EFI application"),
    field(0x9e, 2, "DllCharacteristics", "NX_COMPAT: nothing is both written and executed"),
    field(0xa0, 32, "stack and heap", "the firmware's own"),
    field(0xc0, 4, "LoaderFlags", ""),
    field(0xc4, 4, "NumberOfRvaAndSizes", "6"),
    field(
        0xc8,
        48,
        "data directories",
        "empty: no base relocations; the fifth is for a signing tool",
    ),
    field(0xf8, 8, "Name", "\".text\""),
    built(0x100, 4, "VirtualSize", PAGES, ""),
    field(0x104, 4, "VirtualAddress", ""),
    built(0x108, 4, "SizeOfRawData", PAGES, "file and memory are laid out alike"),
    field(0x10c, 4, "PointerToRawData", ""),
    field(0x110, 8, "relocations, line numbers", "none"),
    field(0x118, 4, "how many", ""),
    field(0x11c, 4, "Characteristics", "code; executed, read"),
    field(
        0x120,
        8,
        "Name",
        "\".data\": all after the code, also constants, whose pointers the Image relocates itself",
    ),
    built(0x128, 4, "VirtualSize", PAGES, "to image_size"),
    built(0x12c, 4, "VirtualAddress", PAGES, ""),
    built(0x130, 4, "SizeOfRawData", UNITS, "to the file's end"),
    built(0x134, 4, "PointerToRawData", PAGES, ""),
    field(0x138, 8, "relocations, line numbers", "none"),
    field(0x140, 4, "how many", ""),
    field(0x144, 4, "Characteristics", "initialised data; read, written"),
];

/// The properties of the disk's tree, and their explanations; [`BUILT`] if the value depends on the
/// build.
const FIT: [(&str, &str, &str); 19] = [
    ("/", "description", "for people"),
    (
        "/",
        "timestamp",
        "mkimage -l and U-Boot insist on one; a true one would make every disk different",
    ),
    ("/", "#address-cells", "of load and entry: 64 bits"),
    ("/images/kernel", "description", BUILT),
    ("/images/kernel", "type", "goes where its header allows, not to load"),
    ("/images/kernel", "arch", "bootm refuses any other"),
    ("/images/kernel", "os", "selects the boot protocol that bootm uses"),
    ("/images/kernel", "compression", "or gzip, and then uncomp-size"),
    ("/images/kernel", "load", "0: anywhere; bootm refuses a kernel without it. base=load uses it"),
    ("/images/kernel", "entry", "as load; our kernel reads it as an offset in the Image"),
    (
        "/images/kernel",
        "data-position",
        "its first byte on the disk: external data, read in whole blocks into frames",
    ),
    ("/images/kernel", "data-size", BUILT),
    ("/images/kernel/hash-1", "algo", "or sha512, sha384, sha1, md5, crc32; checked"),
    ("/images/kernel/hash-1", "value", BUILT),
    (
        "/configurations",
        "default",
        "the default choice; bootm without a name first looks for a compatible one",
    ),
    ("/configurations/conf-1", "description", "for people"),
    ("/configurations/conf-1", "kernel", "a node of /images; fdt, ramdisk and loadables likewise"),
    ("/images", "", "one node a payload"),
    ("/configurations", "", "one node a kernel, with what belongs to it"),
];

/// Replaces the explanation of a value that depends on the build.
const BUILT: &str = "the build’s";

/// Returns the page with its blocks generated anew.
pub fn with_blocks(page: &str, kernel: &Built, disk: &[u8]) -> Result<String> {
    let page = with_block(page, "image-header", &dump(&kernel.image, &HEADER)?)?;
    let page = with_block(&page, "pe-header", &dump(&kernel.image, &PE)?)?;
    with_block(&page, "fit", &tree(disk)?)
}

/// The line after a block.
const END: &str = "<!-- end -->";

/// Returns the line before a block.
fn mark(name: &str) -> String {
    format!("<!-- {name}: generated by `cargo xtask test diagrams/ --bless` -->\n")
}

/// Returns the page with the named block replaced.
fn with_block(page: &str, name: &str, block: &str) -> Result<String> {
    let mark = mark(name);
    let (before, rest) =
        page.split_once(&mark).with_context(|| format!("it has no line {}", mark.trim_end()))?;
    let (_, after) =
        rest.split_once(END).with_context(|| format!("nothing ends the block {name}"))?;
    Ok(format!("{before}{mark}```text\n{block}```\n{END}{after}"))
}

/// Dumps the fields' bytes from the Image, one field a line.
fn dump(image: &[u8], fields: &[Field]) -> Result<String> {
    let mut text = String::new();
    for field in fields {
        let bytes = image
            .get(field.at..field.at + field.bytes)
            .context("the Image is shorter than its header")?;
        let shown = if bytes.len() > 8 {
            ensure!(bytes.iter().all(|&byte| byte == 0), "{} is no longer empty", field.name);
            format!("00 × {}", bytes.len())
        } else {
            let shown = bytes
                .iter()
                .enumerate()
                .map(|(at, &byte)| hexadecimal(byte, (field.varies >> (8 * at)) as u8));
            shown.collect::<Vec<_>>().join(" ")
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}",
            format!("{:#05x}  {shown:23}  {:25}  {}", field.at, field.name, field.says).trim_end()
        );
    }
    Ok(text)
}

/// Formats a byte as two digits; a digit with one of the bits `varies` becomes a dot.
fn hexadecimal(byte: u8, varies: u8) -> String {
    let digit = |shift: u8| {
        if varies >> shift & 0xf == 0 {
            format!("{:x}", byte >> shift & 0xf)
        } else {
            "·".to_owned()
        }
    };
    digit(4) + &digit(0)
}

/// Dumps the disk's tree, one property a line, with explanations.
fn tree(disk: &[u8]) -> Result<String> {
    let size = blob::size(disk).context("the disk has no tree")?;
    let tree = disk.get(..size).context("the tree is longer than its disk")?;
    let tree =
        Fdt::new(tree).map_err(|error| anyhow::anyhow!("the disk's tree is damaged: {error}"))?;
    let mut text = String::new();
    node(&mut text, tree.root(), "/", 0)?;
    Ok(text)
}

fn node(text: &mut String, of: FdtNode<'_>, path: &str, depth: usize) -> Result<()> {
    let said = |property: &str| {
        FIT.iter()
            .find(|(node, name, _)| (*node, *name) == (path, property))
            .map(|(.., says)| *says)
    };
    let indent = "    ".repeat(depth);
    let name = if depth == 0 { "/" } else { of.name() };
    let mut line = |left: String, says: &str| {
        _ = writeln!(text, "{}", format!("{left:44}  {says}").trim_end())
    };
    line(format!("{indent}{name} {{"), said("").unwrap_or_default());
    for property in of.properties() {
        let name = property.name();
        let says = said(name)
            .with_context(|| format!("{path} has a property {name}, which nothing explains"))?;
        let value = if says == BUILT { "··".to_owned() } else { value(property.value()) };
        line(format!("{indent}    {name} = {value}"), if says == BUILT { "" } else { says });
    }
    for child in of.children() {
        node(text, child, &format!("{}/{}", path.trim_end_matches('/'), child.name()), depth + 1)?;
    }
    let _ = writeln!(text, "{indent}}}");
    Ok(())
}

/// Formats a property as text if it is text, otherwise as cells.
fn value(bytes: &[u8]) -> String {
    let words = bytes
        .strip_suffix(&[0])
        .filter(|words| !words.is_empty() && words.iter().all(|byte| (b' '..=b'~').contains(byte)));
    match words {
        Some(words) => format!("{:?}", String::from_utf8_lossy(words)),
        None => {
            let cells = bytes.chunks(4).map(|cell| {
                format!("{:#x}", cell.iter().fold(0_u32, |cell, &byte| cell << 8 | u32::from(byte)))
            });
            format!("<{}>", cells.collect::<Vec<_>>().join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::fit::writer::{self as fit, Kind, Payload};

    #[test]
    fn the_fields_follow_each_other_without_a_gap() {
        let end = HEADER.iter().chain(&PE).fold(0, |end, field| {
            assert_eq!(field.at, end, "{}", field.name);
            end + field.bytes
        });
        // COFF header and magic, optional header with six directories, two sections.
        assert_eq!(
            (HEADER.last().map(|field| field.at + field.bytes), end),
            (Some(0x40), 0x40 + 24 + 160 + 2 * 40)
        );
    }

    #[test]
    fn what_a_build_decides_is_dots_and_all_else_is_there() {
        assert_eq!(
            [hexadecimal(0x14, 0x03), hexadecimal(0xe0, 0xf0), hexadecimal(0x5a, 0)],
            ["1·", "·0", "5a"]
        );
        let image: Vec<u8> = (0..=255).chain(0..=255).collect();
        let fields = [field(0x40, 4, "Signature", "says"), built(0x44, 2, "size", 0xff0, "")];
        assert_eq!(
            dump(&image, &fields).unwrap(),
            "0x040  40 41 42 43              Signature                  says\n\
             0x044  ·4 4·                    size\n"
        );
        assert!(
            dump(&image, &[field(0, 9, "empty", "")]).unwrap_err().to_string().contains("empty")
        );
    }

    #[test]
    fn a_block_is_replaced_where_the_page_has_a_place_for_it() {
        const MARK: &str = "<!-- x: generated by `cargo xtask test diagrams/ --bless` -->";
        let page = &format!("a\n{MARK}\nold\n<!-- end -->\nb\n");
        let made = with_block(page, "x", "new\n").unwrap();
        assert_eq!(made, format!("a\n{MARK}\n```text\nnew\n```\n<!-- end -->\nb\n"));
        assert_eq!(with_block(&made, "x", "new\n").unwrap(), made);
        assert!(with_block(page, "y", "").unwrap_err().to_string().contains("<!-- y: "));
    }

    #[test]
    fn each_property_of_the_disk_is_explained_or_refused() {
        let payload = |kind| Payload {
            name: "kernel".into(),
            description: "d".into(),
            data: vec![1; 100],
            kind,
            bootargs: None,
        };
        let drawn = tree(&fit::write(&[payload(Kind::KernelNoload { load: None })])).unwrap();
        for line in [
            "data-position = <0x1000> ",
            "type = \"kernel_noload\" ",
            "data-size = ··\n",
            "kernel = \"kernel\" ",
        ] {
            assert!(drawn.contains(line), "{drawn}");
        }
        let more =
            Payload { bootargs: Some("a".into()), ..payload(Kind::KernelNoload { load: None }) };
        assert!(tree(&fit::write(&[more])).unwrap_err().to_string().contains("bootargs"));
    }
}
