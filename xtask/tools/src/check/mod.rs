//! The verb `check`: everything that must hold before a commit; CI runs the same.
//!
//! The steps cover formatting, lints, documentation, the linked kernel, source rules, host tests,
//! Miri and fuzzing.
//!
//! - Each step runs regardless of the earlier ones, has a time limit, and reports how long it took.
//! - A step whose tool is missing is reported as skipped.
//! - The end names each failed step and the command that repeats it.

mod a64;
mod changes;
mod clobbers;
mod code_map;
mod contracts;
mod header;
mod layout;
mod linked;
mod model;
mod moved;
mod mutants;
mod prose;
mod relocations;
mod step;
mod steps;
mod texts;
mod vectors;

use std::{io::Write, time::Instant};

use anyhow::Result;
use clap::Args;

use harness::{
    error::Usage,
    processes::{Interrupted, interrupted},
    setup,
};
use step::{End, Step};

/// Check what must hold before a commit: format, lints, documentation, linked kernel, host tests,
/// Miri
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 if nothing failed, 1 otherwise, 2 for a step that does not exist. \
A step whose tool is missing is skipped. \
The `mutants` steps take hours, and run only if they are named.

Examples:
  cargo xtask check
  cargo xtask check fmt clippy      all steps whose names begin so
  cargo xtask check moved vectors   two looks at the linked kernel
  cargo xtask check code-map --bless")]
pub struct CheckOptions {
    /// Names of steps, or their beginnings [default: all]
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// Skip these steps, by names or their beginnings; may be given more than once
    #[arg(long, value_name = "STEP")]
    except: Vec<String>,
    /// Write the code map in ARCHITECTURE.md instead of comparing it with the files
    #[arg(long)]
    bless: bool,
}

impl CheckOptions {
    /// Runs the steps and returns the exit code.
    pub fn perform(&self) -> Result<u8> {
        let mut steps = chosen(steps::all(), &self.steps)?;
        let left_out = chosen(steps::all(), &self.except)?;
        steps.retain(|step| {
            self.except.is_empty() || !left_out.iter().any(|left_out| left_out.name == step.name)
        });
        setup::check_target()?;
        setup::check_components()?;
        check(&steps, self.bless)
    }
}

fn check(steps: &[Step], bless: bool) -> Result<u8> {
    let mut failed = Vec::new();
    let (mut passed, mut skipped) = (0, 0);
    let all = Instant::now();
    for step in steps {
        print!("  {:<14}", step.name);
        // After an error the next print fails as well, and ends the verb.
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        let end = step.perform(bless);
        if interrupted() {
            return Err(Interrupted.into());
        }
        let seconds = start.elapsed().as_secs_f64();
        match end {
            End::Passed => {
                println!("ok      {seconds:>6.1} s");
                passed += 1;
            }
            End::Reported(words) => {
                println!("ok      {seconds:>6.1} s\n{}\n", words.trim_end());
                passed += 1;
            }
            End::Skipped(why) => {
                println!("skipped           {why}");
                skipped += 1;
            }
            End::Failed(words) => {
                println!("FAILED  {seconds:>6.1} s\n{}\n", words.trim_end());
                failed.push(step);
            }
        }
    }
    for step in &failed {
        println!("\n{} failed: {}. Make it again:\n  {}", step.name, step.what, step.line());
    }
    println!(
        "\n{passed} passed, {} failed, {skipped} skipped in {:.0} s",
        failed.len(),
        all.elapsed().as_secs_f64()
    );
    Ok((!failed.is_empty()).into())
}

/// Returns the steps whose names begin with one of `wanted`; if that is empty, all steps but those
/// that must be named.
///
/// Adds the kernel's build before steps that look at the kernel.
fn chosen(steps: Vec<Step>, wanted: &[String]) -> Result<Vec<Step>> {
    for name in wanted {
        if !steps.iter().any(|step| step.name.starts_with(name.as_str())) {
            let names: Vec<_> = steps.iter().map(|step| step.name).collect();
            return Err(
                Usage(format!("there is no step {name}: there are {}", names.join(", "))).into()
            );
        }
    }
    let is_wanted = |step: &Step| {
        wanted.is_empty() && !step.must_be_named()
            || wanted.iter().any(|name| step.name.starts_with(name.as_str()))
    };
    let builds = steps.iter().any(|step| step.looks_at_the_kernel() && is_wanted(step));
    Ok(steps
        .into_iter()
        .filter(|step| is_wanted(step) || builds && step.name == steps::BUILD)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Vec<&'static str> {
        let wanted: Vec<_> = wanted.iter().map(|&name| name.to_owned()).collect();
        chosen(steps::all(), &wanted).unwrap().iter().map(|step| step.name).collect()
    }

    #[test]
    fn a_name_chooses_what_begins_with_it_in_the_steps_own_order() {
        assert_eq!(
            names(&["clippy", "fmt"]),
            ["fmt", "fmt-fuzz", "clippy-host", "clippy-fuzz", "clippy-target"]
        );
        let unnamed = steps::all().len() - mutants::STEPS.len();
        assert_eq!(names(&[]).len(), unnamed, "all but the mutants");
        assert_eq!(names(&["mutants"]), mutants::STEPS);
        assert_eq!(names(&["mutants-gic"]), ["mutants-gic"]);
    }

    #[test]
    fn what_looks_at_the_kernel_builds_it_first() {
        assert_eq!(names(&["vectors"]), ["build", "vectors"]);
    }

    #[test]
    fn a_step_that_does_not_exist_is_refused_and_the_others_named() {
        let error = chosen(steps::all(), &["spell".to_owned()]).err().unwrap();
        assert!(error.is::<Usage>() && error.to_string().contains("fmt, "), "{error}");
    }
}
