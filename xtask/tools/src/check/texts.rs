//! The repository's text files, and the check `paths`: none of them names a home directory.
//!
//! It runs before a commit, so it also reads files that git does not track yet and does not ignore.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};

/// A text file of the repository.
#[derive(Clone, Debug)]
pub struct Text {
    /// Path relative to the workspace's root.
    pub path: String,
    /// Contents.
    pub text: String,
}

/// Parent directories of home directories: Linux users, root, macOS users.
///
/// Without slashes, so that this file does not match itself.
const HOMES: [&str; 3] = ["home", "root", "Users"];

/// Returns all text files that git tracks or would track; `None` without a git checkout.
pub fn all() -> Result<Option<Vec<Text>>> {
    let mut git = Command::new("git");
    // -z: unquoted names, separated by NUL.
    git.current_dir(harness::paths::root()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let Some(listed) = git.output().ok().filter(|output| output.status.success()) else {
        return Ok(None);
    };
    let mut texts = Vec::new();
    for path in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
        let file = harness::paths::root().join(path);
        // Skip files that are tracked but deleted, and symlinks: the target has its own entry.
        if !file.symlink_metadata().is_ok_and(|found| found.is_file()) {
            continue;
        }
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {path}"))?;
        texts
            .extend(String::from_utf8(bytes).ok().map(|text| Text { path: path.to_owned(), text }));
    }
    Ok(Some(texts))
}

/// Returns the lines that name a home directory or the path of this clone.
pub fn homes(texts: &[Text]) -> Vec<String> {
    named(texts, &harness::paths::root())
}

fn named(texts: &[Text], clone: &Path) -> Vec<String> {
    let mut folders: Vec<_> = HOMES.iter().map(|home| format!("/{home}/")).collect();
    // A clone directly below / may have the name of any system directory.
    let clone = clone.display().to_string();
    folders.extend((clone.matches('/').count() > 1).then_some(clone));
    let mut found = Vec::new();
    for Text { path, text } in texts {
        for (number, line) in text.lines().enumerate() {
            if let Some(folder) = folders.iter().find(|folder| begins_a_path(line, folder)) {
                found.push(format!("{path}:{}: names {folder}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

/// Reports whether `folder` is in the line as the beginning of a path, not in the middle of a
/// longer one.
fn begins_a_path(line: &str, folder: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || "_-.~})".contains(c);
    line.match_indices(folder).any(|(at, _)| {
        let goes_on = folder.ends_with('/') || !line[at + folder.len()..].starts_with(part);
        goes_on && !line[..at].ends_with(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Vec<String> {
        let text = Text { path: "notes.md".to_owned(), text: format!("first\n  {line}\n") };
        named(&[text], Path::new("/build/place"))
    }

    #[test]
    fn a_home_and_the_place_of_the_clone_are_reported_with_file_and_line() {
        let home = format!("/{}/", HOMES[0]);
        assert_eq!(
            said(&format!("see {home}me/x")),
            [format!("notes.md:2: names {home}: see {home}me/x")]
        );
        for home in HOMES {
            assert_eq!(said(&format!("(/{home}/me)")).len(), 1);
        }
        assert_eq!(said("cd /build/place && ls").len(), 1);
        assert_eq!(said("/build/place/kernel").len(), 1);
    }

    #[test]
    fn other_paths_are_not() {
        assert_eq!(said("/build/places, /other/build/place, /usr/bin/env"), [""; 0]);
        let home = format!("/{}/", HOMES[0]);
        assert_eq!(said(&format!("https://example.org{home}page and ${{PLACE}}{home}x")), [""; 0]);
    }
}
