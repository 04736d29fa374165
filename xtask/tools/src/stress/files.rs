//! The reports that a campaign writes.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;

use super::{html, junit, report, tally::Tally};

/// The files that reports are written to.
#[derive(Args, Clone, Debug, Default)]
pub struct Files {
    /// Write the complete results to this file, for `stress merge` and other programs
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a JUnit test report for continuous integration
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write one self-contained page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Files {
    /// Checks that the reports can be written, before the runs take hours.
    pub fn check(&self) -> Result<()> {
        for path in [&self.json, &self.junit, &self.html].into_iter().flatten() {
            let mut file = std::fs::OpenOptions::new();
            file.create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes the requested reports, and the job summary if continuous integration wants one.
    pub fn write(&self, tally: &Tally) -> Result<()> {
        let write = |path: &Option<PathBuf>, text: &dyn Fn() -> String| match path {
            Some(path) => std::fs::write(path, text())
                .with_context(|| format!("cannot write {}", path.display())),
            None => Ok(()),
        };
        let json =
            serde_json::to_string_pretty(tally).context("cannot format the report as JSON")?;
        write(&self.json, &|| json.clone() + "\n")?;
        write(&self.junit, &|| junit::junit(tally))?;
        write(&self.html, &|| html::page(tally))?;
        match std::env::var_os("GITHUB_STEP_SUMMARY") {
            Some(path) => append(Path::new(&path), &report::markdown(tally)),
            None => Ok(()),
        }
    }
}

fn append(path: &Path, text: &str) -> Result<()> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| {
        format!("cannot append to {}, which GITHUB_STEP_SUMMARY names", path.display())
    })
}
