//! A demangler for Rust symbol names, for the kernel's symbol table.
//!
//! It knows both manglings, because the standard library may use either. It is not complete: a name
//! that it cannot parse stays mangled.

/// Returns the Rust path of a mangled name, without hashes and type arguments; any other name
/// unchanged.
pub fn demangle(name: &str) -> String {
    let path = match name.strip_prefix("_R") {
        Some(mut rest) => v0_path(&mut rest),
        None => name.strip_prefix("_ZN").and_then(legacy_path),
    };
    path.unwrap_or_else(|| name.to_owned())
}

fn legacy_path(mut rest: &str) -> Option<String> {
    let mut parts = Vec::new();
    while !rest.starts_with('E') {
        parts.push(counted(&mut rest)?);
    }
    parts.pop_if(|part| part.len() == 17 && part.starts_with('h'));
    let path = parts.join("::").replace("..", "::");
    let path = [
        ("$LT$", "<"),
        ("$GT$", ">"),
        ("$u20$", " "),
        ("$RF$", "&"),
        ("$C$", ","),
        ("$u7b$", "{"),
        ("$u7d$", "}"),
    ]
    .iter()
    .fold(path, |path, (code, sign)| path.replace(code, sign));
    Some(path.replace("::_<", "::<").trim_start_matches('_').to_owned())
}

/// Parses v0 paths of nested names (RFC 2603). An `impl` needs a parser for types, so it stays
/// mangled.
fn v0_path(rest: &mut &str) -> Option<String> {
    match take(rest)? {
        'C' => v0_identifier(rest),
        'N' => {
            let space = take(rest)?;
            let parent = v0_path(rest)?;
            let name = v0_identifier(rest)?;
            Some(if space == 'C' {
                format!("{parent}::{{closure}}")
            } else {
                format!("{parent}::{name}")
            })
        }
        'I' => v0_path(rest),
        _ => None,
    }
}

fn v0_identifier(rest: &mut &str) -> Option<String> {
    if let Some(after) = rest.strip_prefix('s') {
        *rest = after.split_once('_')?.1;
    }
    // A `_` separates the length from a name that begins with a digit or with `_`.
    let digits = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let length = rest[..rest.len() - digits.len()].parse().ok()?;
    let (part, after) = digits.strip_prefix('_').unwrap_or(digits).split_at_checked(length)?;
    *rest = after;
    Some(part.to_owned())
}

/// Takes a decimal length and that many bytes.
fn counted<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let digits = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let (part, after) = digits.split_at_checked(rest[..rest.len() - digits.len()].parse().ok()?)?;
    *rest = after;
    Some(part)
}

fn take(rest: &mut &str) -> Option<char> {
    let mut letters = rest.chars();
    let first = letters.next();
    *rest = letters.as_str();
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mangled_names_become_paths() {
        for (mangled, path) in [
            ("_RNvCsfLfy6EI15iL_7___rustc12___rust_alloc", "__rustc::__rust_alloc"),
            (
                "_RNvNtNtCsgEmfK2I1SDS_4core5slice5index16slice_index_fail",
                "core::slice::index::slice_index_fail",
            ),
            ("_RNCNvCs1_6kernel4main0", "kernel::main::{closure}"),
            ("_RNvMCs1_6kernelNtB2_4Disk4load", "_RNvMCs1_6kernelNtB2_4Disk4load"),
            ("_ZN1m4disk4load17h0a0b2ac2b2288934E", "m::disk::load"),
            (
                "_ZN35_$LT$u32$u20$as$u20$m..disk..Tr$GT$2go17h6bf2086e87919398E",
                "<u32 as m::disk::Tr>::go",
            ),
            ("el2_setup", "el2_setup"),
        ] {
            assert_eq!(demangle(mangled), path);
        }
    }
}
