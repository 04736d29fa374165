//! The folder of a run: all that it takes to understand or repeat it, by fixed names.
//!
//! It is made before QEMU starts and filled while QEMU runs. A successful run removes it unless
//! `--keep` was given.
//!
//! | name | content |
//! |---|---|
//! | `command` | one shell line that repeats the run: `sh <folder>/command` |
//! | `console.log` | the serial console, byte for byte |
//! | `qemu.log` | QEMU's own messages |
//! | `events.jsonl` | one JSON object a line: `ms`, `event`, `line` |
//! | `seed` | the seed of the run's random choices |
//! | `Image`, `disk.itb` | the Image that was booted, the disk that it restarts from |
//! | `kernel-<build id>.elf` | the kernel's symbols |
//! | `explanation.txt` | where each CPU stood, if xtask stopped the run |

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Makes a folder for sockets, with a short path: the system limits a socket's path to about 100
/// bytes, which a path in a run's folder may exceed.
pub fn sockets() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("xtask")
        .tempdir()
        .context("cannot make a folder for QEMU's sockets")
}

/// One run's folder.
#[derive(Clone, Debug)]
pub struct Artifacts(PathBuf);

impl Artifacts {
    /// Makes `<target>/ouroboros/runs/<name>`, or `<name>-2` and so on if that exists.
    pub fn create(name: &str) -> Result<Self> {
        Self::create_in(&crate::paths::target_dir().join("ouroboros").join("runs"), name)
    }

    fn create_in(runs: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(runs)
            .with_context(|| format!("cannot make the folder {}", runs.display()))?;
        let mut path = runs.join(name);
        let mut next = 2;
        loop {
            // Create it instead of checking first: parallel runs may make folders of one name at
            // the same time.
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    path = runs.join(format!("{name}-{next}"));
                    next += 1;
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot make the folder {}", path.display()));
                }
            }
        }
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of the file `name` in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes the file `name`; returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Removes the folder and its content.
    pub fn discard(&self) -> Result<()> {
        fs::remove_dir_all(&self.0).with_context(|| format!("cannot remove {}", self.0.display()))
    }
}

/// A name that sorts by time: `20261122-161100` in UTC, then `what`.
pub fn stamp(what: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{}-{what}", date(now))
}

/// Formats seconds since 1970 as `YYYYMMDD-HHMMSS`.
fn date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The Gregorian calendar repeats every 400 years, which are 146,097 days. Count years from 1
    // March, so that the leap day is the last of its year: 1 January 1970 is day 719,468 after 1
    // March of the year 0.
    let day = days + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}-{:02}{:02}{:02}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "19700101-000000");
        assert_eq!(date(951_782_399), "20000228-235959");
        assert_eq!(date(951_782_400), "20000229-000000");
        assert_eq!(date(951_868_800), "20000301-000000");
        assert_eq!(date(1_767_225_599), "20251231-235959");
        assert_eq!(date(1_767_225_600), "20260101-000000");
    }

    #[test]
    fn two_runs_of_one_name_have_two_folders() {
        let runs = tempfile::tempdir().unwrap();
        let first = Artifacts::create_in(runs.path(), "run").unwrap();
        let second = Artifacts::create_in(runs.path(), "run").unwrap();
        assert_ne!(first.path(), second.path());
        second.write("seed", "1\n").unwrap();
        second.discard().unwrap();
        assert!(first.path().exists() && !second.path().exists());
    }
}
