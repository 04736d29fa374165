//! The command line: the verbs and their options.
//!
//! Each verb's module defines its options. The module also checks what clap cannot check and ends
//! with exit code 2, as clap does. Every example under a `--help` is a line that works.

use anyhow::Result;
use clap::{Parser, Subcommand};

use suites::TestOptions;
use tools::{
    bench::BenchOptions, boards::BoardsOptions, check::CheckOptions,
    check_loader::CheckLoaderOptions, dist::DistOptions, doctor, entry_state::DiffEntryOptions,
    fuzz::FuzzOptions, image::ImageOptions, interop::InteropOptions, run::RunOptions,
    stress::StressOptions,
};

/// Build, run, test and measure Ouroboros, a kernel for 64-bit Arm that kexecs itself
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    after_help = "\
Examples:
  cargo xtask run                                   three generations on the machine `nvhe`
  cargo xtask run --machine vhe --generations 100   a hundred generations with the kernel at EL2
  cargo xtask interop                             Linux after our own generations, in every mode
  cargo xtask stress                                thousands of generations on every cell
  cargo xtask check                                 the checks to pass before a commit
  cargo xtask doctor                                what is needed, and how to install it

rustup installs the Rust target, and each verb what it needs, with this machine's package manager."
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

const DOCTOR: &str = "\
Exit code: 0 if everything that is required is there, 1 otherwise. Nothing is installed.

Example:
  cargo xtask doctor";

/// The verbs of xtask.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Run(RunOptions),
    Test(TestOptions),
    Interop(InteropOptions),
    Image(ImageOptions),
    Dist(DistOptions),
    DiffEntry(DiffEntryOptions),
    Check(CheckOptions),
    CheckLoader(CheckLoaderOptions),
    Bench(BenchOptions),
    Boards(BoardsOptions),
    Fuzz(FuzzOptions),
    Stress(Box<StressOptions>),
    /// Try out everything that xtask needs, report what is missing, and print the line that
    /// installs it
    #[command(after_help = DOCTOR)]
    Doctor,
}

impl Verb {
    /// Runs the verb; returns its exit code.
    pub fn perform(&self) -> Result<u8> {
        match self {
            Self::Run(options) => options.perform(),
            Self::Test(options) => options.perform(),
            Self::Interop(options) => options.perform(),
            Self::Image(options) => options.perform(),
            Self::Dist(options) => options.perform(),
            Self::DiffEntry(options) => options.perform(),
            Self::Check(options) => options.perform(),
            Self::CheckLoader(options) => options.perform(),
            Self::Bench(options) => options.perform(),
            Self::Boards(options) => options.perform(),
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
