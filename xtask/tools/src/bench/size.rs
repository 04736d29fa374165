//! The bench `size`: bytes of the Image beside their limit, and lines of the kernel's code.
//!
//! It needs no run. A line of code is a line outside tests that is neither blank nor only a
//! comment. Assembler text in a raw string of a Rust file counts as assembly. The conformance suite
//! behind `selftest=stub` counts too, because it is linked into the Image.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use boot::image::Header;

use super::table::{Cell, Table};
use harness::kernel_build::{Built, IMAGE_LIMIT};

/// The crates that are linked into the kernel.
const CRATES: [&str; 9] =
    ["boot", "kernel", "relocate", "efi", "fdt", "protocol", "frames", "virtio", "gic"];

/// Counts of code lines by language.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Lines {
    rust: u64,
    assembly: u64,
}

/// Measures the built kernel and the sources, and returns the filled table.
pub fn table(kernel: &Built) -> Result<Table> {
    let mut table = Table::new("Size", &["what", "is", "limit", "verdict"]);
    let mut row = |what: &str, is: u64, limit: Option<u64>| {
        let [limit, verdict] = Cell::limit(is as f64, limit);
        table.row([what.into(), is.into(), limit, verdict]);
    };
    row("flat Image, bytes", kernel.image.len() as u64, Some(IMAGE_LIMIT as u64));
    row("image_size: the kernel in memory, bytes", Header::parse(&kernel.image)?.image_size, None);
    for name in CRATES {
        let lines = lines_in(&harness::paths::root().join(name).join("src"))?;
        row(&format!("{name}: lines of Rust"), lines.rust, None);
        row(&format!("{name}: lines of assembly"), lines.assembly, None);
    }
    Ok(table)
}

impl Lines {
    fn add(&mut self, other: Self) {
        self.rust += other.rust;
        self.assembly += other.assembly;
    }
}

/// Counts the code lines in all files below `folder`.
fn lines_in(folder: &Path) -> Result<Lines> {
    let mut lines = Lines::default();
    let entries = fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            lines.add(lines_in(&path)?);
            continue;
        }
        let text =
            || fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => lines.add(in_rust(&text()?)),
            Some("S") => {
                lines.assembly += text()?.lines().filter(|line| is_code(line)).count() as u64
            }
            _ => {}
        }
    }
    Ok(lines)
}

fn is_code(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with("//")
}

/// Counts the code lines in a Rust file formatted by rustfmt: a test module begins and ends at
/// column 0.
fn in_rust(text: &str) -> Lines {
    let mut lines = Lines::default();
    let (mut in_tests, mut in_assembly) = (false, false);
    for line in text.lines() {
        if line == "#[cfg(test)]" {
            in_tests = true;
        } else if in_tests {
            let without_block = line.ends_with(';') && !line.starts_with(' ');
            in_tests = line != "}" && !without_block;
        } else if is_code(line) {
            in_assembly &= !line.trim_start().starts_with("\"#");
            let kind = if in_assembly { &mut lines.assembly } else { &mut lines.rust };
            *kind += 1;
            in_assembly |= line.ends_with("r#\"");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blanks_and_tests_are_no_code() {
        let text = "//! What it is.\n\nuse x;\n\n/// Doc.\nfn f() {\n    // Why.\
                    \n    g(); // here\n}\n\
                    \n#[cfg(test)]\nmod tests {\n    use super::*;\n\
                    \n    #[test]\n    fn t() {\n    }\n}\n";
        assert_eq!(in_rust(text), Lines { rust: 4, assembly: 0 });
    }

    #[test]
    fn a_module_of_tests_in_a_file_of_its_own_ends_with_its_line() {
        assert_eq!(
            in_rust("#[cfg(test)]\nmod tests;\nfn f() {}\n"),
            Lines { rust: 1, assembly: 0 }
        );
        assert_eq!(in_rust("#[cfg(test)]\n#[path = \"t.rs\"]\nmod tests;\n"), Lines::default());
    }

    #[test]
    fn assembler_text_in_a_raw_string_is_assembly() {
        let text =
            "concat!(\n    r#\"\n    .macro m\n    // What for.\n    nop\n    .endm\n    \"#\n)\n";
        assert_eq!(in_rust(text), Lines { rust: 4, assembly: 3 });
    }

    #[test]
    fn each_room_has_code_and_assembly_counts() {
        let of = |name: &str| lines_in(&harness::paths::root().join(name).join("src")).unwrap();
        for name in CRATES {
            let has_assembly = ["boot", "kernel", "relocate", "efi"].contains(&name);
            let lines = of(name);
            assert!(lines.rust > 0 && (lines.assembly > 0) == has_assembly, "{name}: {lines:?}");
        }
    }
}
