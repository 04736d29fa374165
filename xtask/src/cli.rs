//! The command line: verbs and their options.
//!
//! *When:* first. Each verb's options are its module's; what clap cannot check is checked there and ends with exit code 2 as well. The
//! examples under each `--help` are lines that work.

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    bench::BenchOptions, check::CheckOptions, check_loader::CheckLoaderOptions, doctor,
    entry_state::DiffEntryOptions, fuzz::FuzzOptions, image::ImageOptions,
    protocols::ProtocolsOptions, run::RunOptions, stress::StressOptions, test::TestOptions,
};

/// Builds, runs, tests and measures Ouroboros, a kernel for 64-bit Arm that kexecs itself.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    after_help = "\
Examples:
  cargo xtask run                                   three generations on the machine `nvhe`
  cargo xtask run --machine vhe --generations 100   a hundred of them with the kernel at EL2
  cargo xtask protocols                             Linux at the end of our generations, in every mode
  cargo xtask stress                                thousands of generations on every cell of the matrix
  cargo xtask check                                 what must hold before a commit
  cargo xtask doctor                                what is needed, what is there, and what mends a lack

What is missing is installed by the verbs themselves: the Rust target, then QEMU through this machine's package manager."
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

const DOCTOR: &str = "\
Exit code: 0 if nothing that is needed is missing, 1 otherwise. Nothing is installed.

Example:
  cargo xtask doctor";

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Run(RunOptions),
    Test(TestOptions),
    Protocols(ProtocolsOptions),
    Image(ImageOptions),
    DiffEntry(DiffEntryOptions),
    Check(CheckOptions),
    CheckLoader(CheckLoaderOptions),
    Bench(BenchOptions),
    Fuzz(FuzzOptions),
    Stress(Box<StressOptions>),
    /// Say what is needed and what is there, found out by trying it, with the line that mends each lack
    #[command(after_help = DOCTOR)]
    Doctor,
}

impl Verb {
    /// Does it; gives the exit code.
    pub fn perform(&self) -> Result<u8> {
        match self {
            Self::Run(options) => options.perform(),
            Self::Test(options) => options.perform(),
            Self::Protocols(options) => options.perform(),
            Self::Image(options) => options.perform(),
            Self::DiffEntry(options) => options.perform(),
            Self::Check(options) => options.perform(),
            Self::CheckLoader(options) => options.perform(),
            Self::Bench(options) => options.perform(),
            Self::Fuzz(options) => options.perform(),
            Self::Stress(options) => options.perform(),
            Self::Doctor => doctor::examine(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        assert!(Cli::try_parse_from(["xtask", "fly"]).is_err());
    }
}
