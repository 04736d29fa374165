//! The subcommand `stress merge`: makes one report from the files of several shards.
//!
//! It refuses files that `stress --json` did not write, and what `Tally::merge` refuses.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::{files::Files, report, tally::Tally};

/// Make one report from the files that shards wrote with --json
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Exit code: 0 only if all shards passed.

Examples:
  cargo xtask stress --seed 0x2a --shard 1/2 --json 1.json
  cargo xtask stress --seed 0x2a --shard 2/2 --json 2.json
  cargo xtask stress merge 1.json 2.json --html stress.html")]
pub struct MergeOptions {
    /// The files to merge
    #[arg(required = true, value_name = "JSON")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    files: Files,
}

impl MergeOptions {
    /// Merges, prints and writes the report; returns the exit code.
    pub fn perform(&self) -> Result<u8> {
        let mut whole: Option<Tally> = None;
        for path in &self.from {
            let name = path.display();
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
            let part: Tally = serde_json::from_str(&text).with_context(|| {
                format!("{name} was not written by `stress --json` of this version")
            })?;
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => whole
                    .merge(part)
                    .with_context(|| format!("{name} cannot be merged with the files before it"))?,
            }
        }
        let whole = whole.context("there is nothing to merge")?;
        println!("{}", report::screen(&whole));
        self.files.write(&whole)?;
        Ok(whole.exit_code())
    }
}
