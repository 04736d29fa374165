//! Options of a judgement, for `cargo xtask check-loader` and for `ouroboros-check`.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use harness::error::Usage;
use protocol::rules::RULES;

use crate::{
    judgement::{Judgement, Selected, Strictness},
    known::Known,
    output,
};

/// How to judge, and the files for the result.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Judgement")]
pub struct JudgementOptions {
    /// A list of known breaks, which do not fail: TOML tables `known` with loader, versions, rule,
    /// reason and link; may be given more than once
    #[arg(long, value_name = "FILE")]
    known: Vec<PathBuf>,
    /// Fail as well if a known break is no longer there
    #[arg(long)]
    exact: bool,
    /// Judge only these rules: 7,12-16
    #[arg(long, value_name = "N,…", value_parser = parse_rules)]
    rules: Option<Selected>,
    /// Write the result as JSON (docs/check-report.schema.json) to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the result as JUnit's XML to this file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Append a summary in Markdown to this file, such as $GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Print the result as TAP, version 14, instead of a table
    #[arg(long)]
    tap: bool,
}

impl JudgementOptions {
    /// Reads the lists of known breaks, of which `ours` is one.
    ///
    /// # Errors
    ///
    /// A list that cannot be read or is wrong.
    pub fn strictness(&self, mut ours: Known) -> Result<Strictness> {
        for path in &self.known {
            ours.extend(Known::read(path)?);
        }
        let rules = self.rules.clone().unwrap_or_default();
        Ok(Strictness { known: ours, exact: self.exact, rules })
    }

    /// Prints the judgement, and writes the files that were asked for; returns the exit code.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn report(&self, judgement: &Judgement) -> Result<u8> {
        let written = |path: &Path, text: String| {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        if let Some(path) = &self.json {
            written(path, output::json(judgement)?)?;
        }
        if let Some(path) = &self.junit {
            written(path, output::junit(judgement))?;
        }
        if let Some(path) = &self.markdown {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.and_then(|mut file| file.write_all(output::markdown(judgement).as_bytes()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        match self.tap {
            true => print!("{}", output::tap(judgement)),
            false => print!("{}", output::table(judgement)),
        }
        Ok(u8::from(!judgement.passes()))
    }
}

/// Parses numbers of rules and ranges of them.
fn parse_rules(text: &str) -> Result<Selected, Usage> {
    let last = RULES.len() as u32;
    let mut rules = Vec::new();
    for part in text.split(',') {
        let (first, end) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<u32>(), end.trim().parse::<u32>()) {
            (Ok(first), Ok(end)) if 1 <= first && first <= end && end <= last => {
                rules.extend(first..=end);
            }
            _ => return Err(Usage(format!("`{part}`: expected a rule or a range, 1 to {last}"))),
        }
    }
    Ok(Selected(rules))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_numbers_and_ranges_of_those_that_exist() {
        assert_eq!(parse_rules("7, 12-14").unwrap(), Selected(vec![7, 12, 13, 14]));
        for wrong in ["", "0", "7-", "14-12", "x", "1-999"] {
            assert!(parse_rules(wrong).is_err(), "{wrong}");
        }
    }
}
