//! One step of the check: a command, or a look at the linked kernel or at the sources.
//!
//! A command's output, both streams in order, is shown only if the command fails.

use std::{
    fs,
    io::{Read, Seek},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    linked::Linked,
    texts::{self, Text},
};
use harness::processes::Guarded;

/// The time limit of a step: many times what the slowest takes on a small machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// One step of the check.
pub struct Step {
    /// The name on the command line.
    pub name: &'static str,
    /// The message for its failure.
    pub what: &'static str,
    /// The action that decides.
    pub act: Act,
}

/// The action of a step.
pub enum Act {
    /// Runs a command.
    Run(Run),
    /// Looks at the linked kernel; returns the violations.
    Look(fn(&Linked) -> Vec<String>),
    /// Compares the linked kernel with the sources; returns the violations.
    Compare(fn(&Linked, &[Text]) -> Vec<String>),
    /// Executes the linked kernel's code; returns a report and the violations.
    Try(fn(&Linked) -> (String, Vec<String>)),
    /// Reads the files that git tracks or would track; returns the violations.
    Read(fn(&[Text]) -> Vec<String>),
    /// Makes this page from the same files; returns its text, or the violations.
    Generate(&'static str, fn(&[Text]) -> Result<String, Vec<String>>),
    /// Does something that takes long, which the step's name selects; only if the step is named.
    Named(fn(&str) -> Result<End>),
}

/// A command as typed, without quotes: variables, program, arguments.
#[derive(Default)]
pub struct Run {
    /// The command line.
    pub line: String,
    /// A command that fails if the tool is missing, and the command that installs it.
    pub needs: Option<(&'static str, &'static str)>,
    /// Output that turns a failure into a skip.
    pub excuse: Option<&'static str>,
}

/// The outcome of a step.
#[derive(Debug, Eq, PartialEq)]
pub enum End {
    /// No violation.
    Passed,
    /// No violation; carries a report to print.
    Reported(String),
    /// The step could not run; carries the reason.
    Skipped(String),
    /// Violations or an error; carries the text.
    Failed(String),
}

impl Step {
    /// Returns the command that runs this step alone.
    pub fn line(&self) -> String {
        match &self.act {
            Act::Run(run) => run.line.clone(),
            Act::Look(_)
            | Act::Compare(_)
            | Act::Try(_)
            | Act::Read(_)
            | Act::Generate(..)
            | Act::Named(_) => {
                format!("cargo xtask check {}", self.name)
            }
        }
    }

    /// Reports whether the step needs a built kernel.
    pub fn looks_at_the_kernel(&self) -> bool {
        matches!(self.act, Act::Look(_) | Act::Compare(_) | Act::Try(_))
    }

    /// Reports whether the step runs only if it is named.
    pub fn must_be_named(&self) -> bool {
        matches!(self.act, Act::Named(_))
    }

    /// Performs the step; `bless` writes a generated page instead of comparing it.
    pub fn perform(&self, bless: bool) -> End {
        let end = match &self.act {
            Act::Run(run) => run.perform(),
            Act::Look(look) => Linked::read().map(|linked| End::of(&look(&linked))),
            Act::Try(act) => Linked::read().map(|linked| match act(&linked) {
                (report, wrong) if wrong.is_empty() => End::Reported(report),
                (report, wrong) => End::Failed(format!("{report}\n{}", wrong.join("\n"))),
            }),
            Act::Compare(compare) => {
                on_sources(|texts| Ok(End::of(&compare(&Linked::read()?, texts))))
            }
            Act::Read(read) => on_sources(|texts| Ok(End::of(&read(texts)))),
            Act::Generate(page, make) => on_sources(|texts| match make(texts) {
                Ok(made) if bless => fs::write(harness::paths::root().join(page), made)
                    .with_context(|| format!("cannot write {page}"))
                    .map(|()| End::Passed),
                Ok(made) => Ok(End::of(stale(page, texts, &made, self.name).as_slice())),
                Err(wrong) => Ok(End::of(&wrong)),
            }),
            Act::Named(act) => act(self.name),
        };
        end.unwrap_or_else(|error| End::Failed(format!("{error:#}")))
    }
}

/// Performs a step on the files that git tracks or would track.
fn on_sources(act: impl FnOnce(&[Text]) -> Result<End>) -> Result<End> {
    match texts::all()? {
        Some(texts) => act(&texts),
        None => Ok(End::Skipped("this is not a git checkout: cannot list the sources".to_owned())),
    }
}

/// Returns the first line in which the committed page differs from `made`.
fn stale(page: &str, texts: &[Text], made: &str, step: &str) -> Option<String> {
    let found = texts.iter().find(|text| text.path == page).map_or("", |text| &text.text);
    let mut lines = found.lines().zip(made.lines());
    let line = lines.position(|(found, made)| found != made);
    let line = line.unwrap_or_else(|| found.lines().count().min(made.lines().count()));
    (found != made).then(|| {
        format!(
            "{page}:{}: it says {:?}, but should say {:?}: run `cargo xtask check {step} --bless`",
            line + 1,
            found.lines().nth(line).unwrap_or_default(),
            made.lines().nth(line).unwrap_or_default()
        )
    })
}

impl End {
    /// Returns the outcome of a look that found these violations.
    fn of(wrong: &[String]) -> Self {
        if wrong.is_empty() { Self::Passed } else { Self::Failed(wrong.join("\n")) }
    }
}

impl Run {
    fn perform(&self) -> Result<End> {
        if let Some((trial, mend)) = self.needs
            && !output_of(trial).is_ok_and(|(success, _)| success)
        {
            return Ok(End::Skipped(format!("`{trial}` fails; to have it: {mend}")));
        }
        Ok(match output_of(&self.line)? {
            (true, _) => End::Passed,
            (false, words) => match self.excuse.filter(|excuse| words.contains(excuse)) {
                Some(excuse) => End::Skipped(excuse.to_owned()),
                None => End::Failed(words),
            },
        })
    }
}

/// Runs the command to its end; returns whether it succeeded, and its output.
pub fn output_of(line: &str) -> Result<(bool, String)> {
    let mut said = tempfile::tempfile().context("cannot make a file for a command's output")?;
    let mut command = command(line);
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
    let guarded = Guarded::spawn(&mut command).with_context(|| format!("cannot start `{line}`"))?;
    let status = guarded.wait(PATIENCE)?;
    guarded.kill();
    let mut words = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut words)?;
    let words = String::from_utf8_lossy(&words).into_owned();
    match status {
        Some(status) => Ok((status.success(), words)),
        None => bail!("{words}\n`{line}` did not end within {} s", PATIENCE.as_secs()),
    }
}

/// Builds the command for a line, in the workspace and with our own cargo.
fn command(line: &str) -> Command {
    let words: Vec<_> = line.split(' ').collect();
    let variables = words.iter().take_while(|word| word.contains('=')).count();
    let program = match words[variables] {
        "cargo" => harness::paths::cargo(),
        other => other.into(),
    };
    let mut command = Command::new(program);
    command
        .current_dir(harness::paths::root())
        .env("CARGO_TARGET_DIR", harness::paths::target_dir())
        .args(&words[variables + 1..]);
    command.envs(words[..variables].iter().filter_map(|word| word.split_once('=')));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(
        line: &str,
        needs: Option<(&'static str, &'static str)>,
        excuse: Option<&'static str>,
    ) -> End {
        Run { line: line.to_owned(), needs, excuse }.perform().unwrap()
    }

    #[test]
    fn a_command_ends_as_its_exit_code_says_and_a_failure_shows_its_words() {
        assert_eq!(end("true", None, None), End::Passed);
        let End::Failed(words) = end("ls /nowhere", None, None) else { panic!("it succeeded") };
        assert!(words.contains("/nowhere"), "{words}");
    }

    #[test]
    fn without_its_tool_it_is_skipped_with_the_line_that_installs_it() {
        let lacking = end("true", Some(("false", "install it")), None);
        assert_eq!(lacking, End::Skipped("`false` fails; to have it: install it".to_owned()));
        assert_eq!(
            end("true", Some(("no-such-program", "")), None),
            End::Skipped("`no-such-program` fails; to have it: ".to_owned())
        );
        assert_eq!(end("true", Some(("true", "")), None), End::Passed);
    }

    #[test]
    fn only_a_failure_is_excused() {
        assert_eq!(end("ls /nowhere", None, Some("/nowhere")), End::Skipped("/nowhere".to_owned()));
        assert_eq!(end("echo /nowhere", None, Some("/nowhere")), End::Passed);
    }

    #[test]
    fn variables_before_the_program_reach_it() {
        let command = command("A=1 B=c=d printenv B");
        assert_eq!(command.get_program(), "printenv");
        assert_eq!(command.get_envs().find(|(name, _)| *name == "B").unwrap().1.unwrap(), "c=d");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["B"]);
    }

    #[test]
    fn a_page_that_is_stale_is_refused_at_its_first_wrong_line() {
        let texts = [Text { path: "a.md".to_owned(), text: "one\ntwo\n".to_owned() }];
        let stale = |made: &str| stale("a.md", &texts, made, "code-map").unwrap_or_default();
        assert_eq!(stale("one\ntwo\n"), "");
        assert_eq!(
            stale("one\n2\n"),
            "a.md:2: it says \"two\", but should say \"2\": \
             run `cargo xtask check code-map --bless`"
        );
        assert!(stale("one\ntwo\nthree\n").starts_with("a.md:3: it says \"\", "));
        assert!(stale("one\n").starts_with("a.md:2: it says \"two\", but should say \"\""));
    }

    #[test]
    fn what_is_found_wrong_is_a_failure() {
        assert_eq!(End::of(&[]), End::Passed);
        assert_eq!(
            End::of(&["one".to_owned(), "two".to_owned()]),
            End::Failed("one\ntwo".to_owned())
        );
    }
}
