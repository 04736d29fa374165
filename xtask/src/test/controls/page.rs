//! The table of steps, on the screen and as docs/controls.md.
//!
//! *When:* after the controls were made. Evidence is quoted from the runs, with the numbers masked that differ from build to build and from QEMU to
//! QEMU, so that the page changes only when what is seen does. *Refuses* a committed page that is not what the run says.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, ensure};

use super::{super::page::hold, Shown, Step, steps::STEPS};

const PAGE: &str = "docs/controls.md";

const HEAD: &str = "\
# What happens without it

Every safety step of the way out, and of the way in where it answers for it: what it does, where it is, and what was seen when it was left out. This
page is written by `cargo xtask test controls --bless`, from runs on QEMU; `cargo xtask test controls` makes them again and fails where one tells
something else.

A step is left out by instructions of the Image put in place of others, found by symbol; the shipped kernel has no second path. Each is run twice, with
and without: with it all goes well, or the kernel says what the step is there to say; without it the quoted line is told, and with it never.
Mostly the booted generation leaves the step out, and the next one, which is whole, tells what it was left in. Numbers that differ from build to build are masked.
";

/// What the controls saw, by the names of their steps.
#[derive(Default)]
pub struct Seen(Mutex<BTreeMap<&'static str, String>>);

impl Seen {
    /// Keeps a step's evidence.
    pub fn keep(&self, step: &'static str, evidence: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(step, masked(&evidence));
    }

    /// Prints what was seen. Where every step was made, holds the committed page against it, or writes it; says whether it was enough for that.
    pub fn close(&self, bless: bool) -> Result<bool> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_empty() {
            return Ok(false);
        }
        println!("\nWithout it:");
        for step in STEPS {
            if let Some(evidence) = seen.get(step.name) {
                let evidence = if evidence.is_empty() { "(nothing is seen)" } else { evidence };
                println!("  {:34} {evidence}", step.name);
            }
        }
        let whole = STEPS
            .iter()
            .all(|step| !matches!(step.shown, Shown::Here(_)) || seen.contains_key(step.name));
        if !whole {
            ensure!(!bless, "{PAGE} is written from a run in which every control passed");
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
            Shown::Assumed => "nothing that runs".to_owned(),
        };
        let _ = writeln!(page, "| [{name}](#{name}) | {without} | {case} |");
    }
    for step in STEPS {
        let Step { name, does, at: [file, symbol], without, shown } = step;
        let _ = writeln!(page, "\n## {name}\n\n{}. `{file}`, `{symbol}`.\n", capital(does));
        let _ = match shown {
            Shown::Here(experiment) => writeln!(
                page,
                "- Left out: {}.\n- Without it {without}{}- Case `controls/{name}`.",
                experiment.how,
                match (experiment.red, seen.get(name)) {
                    (None, _) => ".\n".to_owned(),
                    (Some(_), evidence) =>
                        format!(":\n\n      {}\n\n", evidence.map_or("", String::as_str)),
                }
            ),
            Shown::By(case, words) => writeln!(
                page,
                "- Without it {without}.\n- Case `{case}`, which brings about what it refuses: `{words}`."
            ),
            Shown::Model => writeln!(
                page,
                "- {}: `cargo xtask check model` takes each of its words away, and says what goes wrong.",
                capital(without)
            ),
            Shown::Assumed => {
                writeln!(
                    page,
                    "- {}, and the model of `cargo xtask check model` begins behind it.",
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

/// Whether a number of a line of a source comes next: `….rs:12:34`.
fn is_line(before: &str) -> bool {
    before.ends_with(".rs:") || before.ends_with(".rs:…:")
}

/// The line without numbers that differ from build to build: addresses, checksums, sizes. Short ones, slots and syndromes stay.
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
        // All but the evidence.
        let evidence = |line: &&str| !line.starts_with("      ");
        let made = page(&BTreeMap::new());
        let (found, made): (Vec<_>, Vec<_>) =
            (found.lines().filter(evidence).collect(), made.lines().filter(evidence).collect());
        assert_eq!(found, made);
    }
}
