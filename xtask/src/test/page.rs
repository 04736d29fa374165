//! A page under docs/ that is written from runs.
//!
//! *When:* all runs that it tells of were made. *Refuses* a committed page that is not what the runs say, and gives the line that writes it anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

/// Where the page lies.
pub fn path(page: &str) -> PathBuf {
    crate::root().join(page)
}

/// Holds the committed page against what this run makes of it, or writes it; `suite` is whose cases make it.
pub fn hold(page: &str, made: &str, suite: &str, bless: bool) -> Result<()> {
    let path = path(page);
    if bless {
        return fs::write(&path, made).with_context(|| format!("cannot write {}", path.display()));
    }
    same(&path, made)
        .with_context(|| format!("{page}; `cargo xtask test {suite} --bless` writes it anew"))
}

fn same(path: &Path, made: &str) -> Result<()> {
    let found =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let differs = found.lines().zip(made.lines()).find(|(found, made)| found != made);
    if let Some((found, made)) = differs {
        bail!("it says\n  {found}\nand this run\n  {made}\nLook at it");
    }
    ensure!(found == made, "it is longer or shorter than what this run says");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
