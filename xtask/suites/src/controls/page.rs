//! Output of the controls: a table on the terminal, and docs/controls.md.
//!
//! The page quotes evidence from the runs. It masks numbers that depend on the build or on the
//! QEMU, so the page changes only if the behaviour does. Refuses a committed page that differs from
//! the runs.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, ensure};

use super::{super::page::hold, Shown, Step, steps::STEPS};

const PAGE: &str = "docs/controls.md";

const HEAD: &str = "\
# Safety steps, each left out once

This page lists every safety step of the way out, and the steps of the way in that a kexec
depends on: what each does, where it is, and what happened in a run without it.
`cargo xtask test controls --bless` writes this page from runs on QEMU.
`cargo xtask test controls` repeats the runs and fails if one shows something else.

Each step has two runs, one with it and one without.
With the step, the run succeeds, or the kernel reports what the step exists to report.
Without the step, the run reports the quoted line, which the run with the step never does.
To leave a step out, a control replaces instructions of the Image, found by symbol.
The shipped kernel has no second path for this.
Usually the booted kernel lacks the step; the next kernel is unmodified and reports the state
that it was left in.
Numbers that differ from build to build are masked.
";

/// The evidence of the controls, by the names of their steps.
#[derive(Default)]
pub struct Seen(Mutex<BTreeMap<&'static str, String>>);

impl Seen {
    /// Keeps a step's evidence.
    pub fn keep(&self, step: &'static str, evidence: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(step, masked(&evidence));
    }

    /// Prints the evidence. If every control passed, compares or writes the page, and returns true.
    pub fn close(&self, bless: bool) -> Result<bool> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_empty() {
            return Ok(false);
        }
        println!("\nWithout it:");
        for step in STEPS {
            if let Some(evidence) = seen.get(step.name) {
                let evidence = if evidence.is_empty() { "(no effect)" } else { evidence };
                println!("  {:34} {evidence}", step.name);
            }
        }
        let whole = STEPS
            .iter()
            .all(|step| !matches!(step.shown, Shown::Here(_)) || seen.contains_key(step.name));
        if !whole {
            ensure!(!bless, "{PAGE} is only written from a run in which every control passed");
            return Ok(false);
        }
        hold(PAGE, &page(&seen), "controls", bless).map(|()| true)
    }
}

fn page(seen: &BTreeMap<&'static str, String>) -> String {
    let mut page = HEAD.to_owned();
    // Writing to a String cannot fail.
    let _ = writeln!(page, "\n| step | without it | shown by |\n|---|---|---|");
    for Step { name, without, shown, .. } in STEPS {
        let case = match shown {
            Shown::Here(_) => format!("`controls/{name}`"),
            Shown::By(case, _) => format!("`{case}`"),
            Shown::Model => "`cargo xtask check model`".to_owned(),
            Shown::Assumed => "no test".to_owned(),
        };
        let _ = writeln!(page, "| [{name}](#{name}) | {without} | {case} |");
    }
    for step in STEPS {
        let Step { name, does, at: [file, symbol], without, shown } = step;
        let _ = writeln!(page, "\n## {name}\n\n{}.\n`{file}`, `{symbol}`.\n", capital(does));
        let _ = match shown {
            Shown::Here(experiment) => writeln!(
                page,
                "- Left out: {}.\n- Without it,\n  {without}{}- Case `controls/{name}`.",
                experiment.how,
                match (experiment.red, seen.get(name)) {
                    (None, _) => ".\n".to_owned(),
                    (Some(_), evidence) =>
                        format!(":\n\n      {}\n\n", evidence.map_or("", String::as_str)),
                }
            ),
            Shown::By(case, words) => writeln!(
                page,
                "- Without it,\n  {without}.\n- Case `{case}`, which provokes this:\n  `{words}`."
            ),
            Shown::Model => writeln!(
                page,
                "- {}.\n  `cargo xtask check model` removes each of its instructions in turn, and \
                 reports what goes wrong.",
                capital(without)
            ),
            Shown::Assumed => {
                writeln!(
                    page,
                    "- {}, and the model of `cargo xtask check model` starts after it.",
                    capital(without)
                )
            }
        };
    }
    page
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Returns whether `before` is followed by a line or column of a source file, as in `….rs:12:34`.
fn is_line(before: &str) -> bool {
    before.ends_with(".rs:") || before.ends_with(".rs:…:")
}

/// Masks numbers that differ from build to build: addresses, checksums, sizes. Short numbers, slots
/// and syndromes stay.
fn masked(line: &str) -> String {
    let mut masked = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(|sign: char| sign.is_ascii_digit()) {
        let digits = &rest[start..];
        let (prefix, number) =
            digits.strip_prefix("0x").map_or(("", digits), |number| ("0x", number));
        let end = number.find(|sign: char| !sign.is_ascii_hexdigit()).unwrap_or(number.len());
        masked += &rest[..start];
        masked += prefix;
        let stays =
            (end < 4 && !is_line(&masked)) || masked.ends_with("slot=") || masked.ends_with("esr=");
        masked += if stays { &number[..end] } else { "…" };
        rest = &number[end..];
    }
    masked + rest
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::super::page::path, *};

    #[test]
    fn numbers_of_a_build_are_masked() {
        for (line, expected) in [
            ("segment \"a\": 0x5ff80000..0x60000000 lies", "segment \"a\": 0x…..0x… lies"),
            (
                "slot=0000000000000004 esr=000000008600000f elr=00000000402000ab",
                "slot=0000000000000004 esr=000000008600000f elr=…",
            ),
            (
                "panic at kernel/src/main.rs:94:9: 7 of 12",
                "panic at kernel/src/main.rs:…:…: 7 of 12",
            ),
            ("CPU 1 (MPIDR 0x1) had 536217920 bytes", "CPU 1 (MPIDR 0x1) had … bytes"),
        ] {
            assert_eq!(masked(line), expected);
        }
    }

    #[test]
    fn the_committed_page_has_each_step_and_no_other() {
        let found = fs::read_to_string(path(PAGE)).unwrap();
        let names: Vec<_> = found.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        let expected: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        assert_eq!(names, expected);
        // Compare everything but the evidence.
        let evidence = |line: &&str| !line.starts_with("      ");
        let made = page(&BTreeMap::new());
        let (found, made): (Vec<_>, Vec<_>) =
            (found.lines().filter(evidence).collect(), made.lines().filter(evidence).collect());
        assert_eq!(found, made);
    }
}
