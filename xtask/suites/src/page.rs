//! Files under docs/ that are generated from runs.
//!
//! Refuses a committed file that differs from what the runs show, and names the command that
//! rewrites it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

/// Returns the path of a page, given relative to the repository.
pub fn path(page: &str) -> PathBuf {
    harness::paths::root().join(page)
}

/// Compares the committed page with `made`, which this run generated, or writes it if `bless`.
/// `suite` names the cases that generate the page, which must name the command.
pub fn hold(page: &str, made: &str, suite: &str, bless: bool) -> Result<()> {
    let path = path(page);
    let command = format!("cargo xtask test {suite} --bless");
    ensure!(made.contains(&command), "{page} does not say that `{command}` generates it");
    if bless {
        return fs::write(&path, made).with_context(|| format!("cannot write {}", path.display()));
    }
    same(&path, made).with_context(|| format!("{page}; `{command}` writes it anew"))
}

fn same(path: &Path, made: &str) -> Result<()> {
    let found =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let differs = found.lines().zip(made.lines()).find(|(found, made)| found != made);
    if let Some((found, made)) = differs {
        bail!("the page says\n  {found}\nand this run\n  {made}\nFind out which is right");
    }
    ensure!(found == made, "the page is longer or shorter than what this run says");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_does_not_name_its_command_is_refused() {
        let error = hold("docs/none.md", "# Page\n", "entry/", true).unwrap_err().to_string();
        assert_eq!(
            error,
            "docs/none.md does not say that `cargo xtask test entry/ --bless` generates it"
        );
    }

    #[test]
    fn a_page_that_says_something_else_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "one\ntwo\n").unwrap();
        same(file.path(), "one\ntwo\n").unwrap();
        assert!(
            same(file.path(), "one\n2\n")
                .unwrap_err()
                .to_string()
                .contains("  two\nand this run\n  2\n")
        );
        assert!(same(file.path(), "one\ntwo\nthree\n").is_err());
    }
}
