//! Entry point of `cargo xtask`: runs one verb and returns an exit code.
//!
//! xtask builds, runs, tests and measures Ouroboros; it reads qemu.toml and never links the kernel.
//!
//! - 0: done
//! - 1: failed
//! - 2: requested something that does not exist
//! - 124: out of time
//! - 130: interrupted
//! - 141: the reader of our output went away

mod cli;
mod closed_pipe;

use std::process::ExitCode;

use clap::Parser;
use harness::{error::Usage, processes};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let perform = || processes::end_with_us().and_then(|()| cli.verb.perform());
    let Some(ended) = closed_pipe::unless_closed(perform) else {
        return ExitCode::from(closed_pipe::EXIT_CODE);
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is::<processes::Interrupted>() => {
            ExitCode::from(processes::INTERRUPTED)
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}
