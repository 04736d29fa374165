//! The checks `mutants-*`: change a pure crate, and count the changes that its tests notice.
//!
//! - cargo-mutants makes the mutants. Each changes one operator, constant or result.
//! - A crate passes if its own tests catch [`LEAST`] % of its viable mutants.
//! - `mutants.txt` lists, with a reason, the mutants that no test can catch. They do not count. A
//!   crate's step fails if one of that crate is caught, or no longer exists.
//! - All of them take hours, so a step runs only when it is named. A night is a good time.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use harness::{paths, processes::Guarded};
use serde::Deserialize;

use super::step::{End, output_of};

/// A step for each crate that is pure, or has a pure half; quick ones first.
pub const STEPS: [&str; 8] = [
    "mutants-gic",
    "mutants-efi",
    "mutants-frames",
    "mutants-virtio",
    "mutants-boot",
    "mutants-fdt",
    "mutants-protocol",
    "mutants-relocate",
];

/// The percentage of its viable mutants that a crate's tests must catch.
const LEAST: usize = 95;

/// The time limit for one crate.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

const LIST: &str = "mutants.txt";

/// Part of cargo-mutants' outcomes.json.
#[derive(Deserialize)]
struct Report {
    outcomes: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    scenario: Scenario,
    summary: Summary,
}

#[derive(Deserialize)]
enum Scenario {
    Baseline,
    Mutant(Mutant),
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
enum Summary {
    CaughtMutant,
    MissedMutant,
    Timeout,
    /// It does not compile, or the tests of the unchanged crate fail.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Mutant {
    /// `file:line:column: what changes`
    name: String,
    file: String,
    /// The function, which `name` then mentions; none in a constant.
    function: Option<serde::de::IgnoredAny>,
    span: Span,
}

#[derive(Deserialize)]
struct Span {
    start: Position,
}

#[derive(Deserialize)]
struct Position {
    line: usize,
    column: usize,
}

/// The viable mutants of a crate by name, and whether each was caught.
type Mutants = BTreeMap<String, bool>;

/// Returns the crate whose mutants a step tests.
fn crate_of(step: &str) -> &str {
    step.trim_start_matches("mutants-")
}

/// Tests the mutants of a step's crate; returns the table, or what is wrong.
pub fn trial(step: &str) -> Result<End> {
    let (trial, mend) = ("cargo mutants --version", "cargo install --locked cargo-mutants");
    if !output_of(trial).is_ok_and(|(success, _)| success) {
        return Ok(End::Skipped(format!("`{trial}` fails; to have it: {mend}")));
    }
    let text = fs::read_to_string(paths::root().join(LIST)).context("cannot read mutants.txt")?;
    let name = crate_of(step);
    let listed = listed(&text, name)?;
    let (table, wrong) = judge(name, &mutants_of(name)?, &listed);
    Ok(match wrong.is_empty() {
        true => End::Reported(table),
        false => End::Failed(format!("{table}\n{}", wrong.join("\n"))),
    })
}

/// Runs cargo-mutants over a crate, with the crate's own tests.
fn mutants_of(name: &str) -> Result<Mutants> {
    let out = paths::target_dir().join("ouroboros/mutants").join(name);
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut command = Command::new(paths::cargo());
    command.args(["mutants", "--package", name, "--jobs", "2", "--output"]).arg(&out);
    // Its words are in the middle of our line, so let it report only what is wrong.
    command.args(["--colors", "never", "--level", "warn"]);
    // Each job builds in a copy of the workspace, which needs a target directory of its own.
    command.current_dir(paths::root()).env_remove("CARGO_TARGET_DIR");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    let guarded = Guarded::spawn(&mut command).context("cannot start cargo mutants")?;
    let hours = PATIENCE.as_secs() / 3600;
    let status = guarded
        .wait(PATIENCE)?
        .with_context(|| format!("the mutants of {name} took more than {hours} hours"))?;
    // 0: all were caught. 2: some were not. 3: some did not end.
    ensure!(
        matches!(status.code(), Some(0 | 2 | 3)),
        "cargo mutants --package {name} fails ({status}); its output is in {}",
        out.display()
    );
    let report = out.join("mutants.out/outcomes.json");
    let report = fs::read(&report).with_context(|| format!("cannot read {}", report.display()))?;
    let report = serde_json::from_slice(&report).context("outcomes.json is not as expected")?;
    named(report, |file| Ok(fs::read_to_string(paths::root().join(file))?))
}

/// Gives every viable mutant a name that survives changes elsewhere in its file.
///
/// The name has no line number. In a constant, which has no function, the line's text stands for
/// it. Mutants of the same name are numbered in the order of the source.
fn named(report: Report, read: impl Fn(&str) -> Result<String>) -> Result<Mutants> {
    let mut places = BTreeMap::new();
    for Outcome { scenario, summary } in report.outcomes {
        let Scenario::Mutant(Mutant { name, file, function, span }) = scenario else { continue };
        let caught = match summary {
            // A mutant that does not end is noticed.
            Summary::CaughtMutant | Summary::Timeout => true,
            Summary::MissedMutant => false,
            Summary::Other => continue,
        };
        let (_, change) = name.split_once(": ").with_context(|| format!("{name}: no change"))?;
        let mut name = format!("{file}: {change}");
        if function.is_none() {
            let text = read(&file)?;
            let line = text.lines().nth(span.start.line - 1);
            let line = line.with_context(|| format!("{file} has no line {}", span.start.line))?;
            name += &format!(" in `{}`", line.trim());
        }
        places
            .entry(name)
            .or_insert_with(BTreeMap::new)
            .insert((span.start.line, span.start.column), caught);
    }
    let mut mutants = Mutants::new();
    for (name, places) in places {
        if let [caught] = places.values().copied().collect::<Vec<_>>()[..] {
            mutants.insert(name, caught);
        } else {
            let numbered = places.into_values().zip(1..);
            mutants.extend(numbered.map(|(caught, number)| (format!("{name} #{number}"), caught)));
        }
    }
    Ok(mutants)
}

/// Parses the list of mutants that no test can catch, and returns the entries of a crate.
///
/// A reason is one or more lines that begin with `=`. Below it come its entries: a name, or the
/// beginning of names and a `*`.
fn listed<'a>(text: &'a str, name: &str) -> Result<Vec<&'a str>> {
    let is_of = |entry: &str, name: &str| {
        entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
    };
    let (mut entries, mut has_reason) = (Vec::new(), false);
    for line in text.lines().map(str::trim) {
        match line.strip_prefix('=') {
            _ if line.is_empty() || line.starts_with('#') => {}
            Some(reason) => has_reason = !reason.trim().is_empty(),
            None if !has_reason => bail!("{LIST}: `{line}` is under no reason"),
            None if entries.contains(&line) => bail!("{LIST}: `{line}` is listed twice"),
            None if !STEPS.iter().any(|step| is_of(line, crate_of(step))) => {
                bail!("{LIST}: `{line}` is in no crate whose mutants we test")
            }
            None => entries.push(line),
        }
    }
    entries.retain(|entry| is_of(entry, name));
    Ok(entries)
}

/// Returns whether an entry of the list means this mutant.
fn means(entry: &str, mutant: &str) -> bool {
    match entry.strip_suffix('*') {
        Some(beginning) => mutant.starts_with(beginning),
        None => mutant == entry,
    }
}

/// Returns a table of a crate's mutants, and what is wrong.
fn judge(name: &str, mutants: &Mutants, listed: &[&str]) -> (String, Vec<String>) {
    let is_listed = |mutant: &str| listed.iter().any(|entry| means(entry, mutant));
    let caught = mutants.values().filter(|caught| **caught).count();
    let missed = mutants.iter().filter(|(_, caught)| !**caught).map(|(mutant, _)| mutant);
    let (excused, missed): (Vec<_>, Vec<_>) = missed.partition(|mutant| is_listed(mutant));
    let percent = (100 * caught).checked_div(caught + missed.len()).unwrap_or(100);
    let mut table =
        format!("{:10}{:>8}{:>8}{:>8}{:>8}\n", "crate", "viable", "listed", "caught", "percent");
    let (viable, excused) = (mutants.len(), excused.len());
    table += &format!("{name:10}{viable:>8}{excused:>8}{caught:>8}{percent:>8}\n");
    table.extend(missed.iter().map(|mutant| format!("  {mutant}\n")));
    let mut wrong = Vec::new();
    if percent < LEAST {
        wrong.push(format!("{name}: the tests catch {percent} %, and must catch {LEAST} %"));
    }
    for entry in listed {
        let mut meant = mutants.iter().filter(|(mutant, _)| means(entry, mutant));
        let (count, caught) = (meant.clone().count(), meant.find(|(_, caught)| **caught));
        if count == 0 {
            wrong.push(format!("{LIST}: `{entry}` is no viable mutant"));
        } else if let Some((mutant, _)) = caught {
            wrong.push(format!("{LIST}: `{entry}` is listed, and `{mutant}` is caught"));
        }
    }
    (table, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form of outcomes.json as cargo-mutants 27 writes it.
    const REPORT: &str = r#"{"total_mutants": 5, "outcomes": [
        {"scenario": "Baseline", "summary": "Success"},
        {"scenario": {"Mutant": {"name": "a/src/b.rs:2:9: replace | with ^", "file": "a/src/b.rs",
            "function": null, "span": {"start": {"line": 2, "column": 9}}}},
         "summary": "MissedMutant"},
        {"scenario": {"Mutant": {"name": "a/src/b.rs:2:5: replace | with ^", "file": "a/src/b.rs",
            "function": null, "span": {"start": {"line": 2, "column": 5}}}},
         "summary": "CaughtMutant"},
        {"scenario": {"Mutant": {"name": "a/src/b.rs:7:1: replace f -> bool with true",
            "file": "a/src/b.rs", "function": {"function_name": "f"},
            "span": {"start": {"line": 7, "column": 1}}}}, "summary": "Timeout"},
        {"scenario": {"Mutant": {"name": "a/src/b.rs:8:1: replace f -> bool with false",
            "file": "a/src/b.rs", "function": {"function_name": "f"},
            "span": {"start": {"line": 8, "column": 1}}}}, "summary": "Unviable"}
    ]}"#;

    fn mutants(of: &[(&str, bool)]) -> Mutants {
        of.iter().map(|(name, caught)| ((*name).to_owned(), *caught)).collect()
    }

    /// Ninety-five caught mutants, one missed, and one that cannot be caught.
    fn tested() -> Mutants {
        let mut all = mutants(&[("missed", false), ("equal: replace | with ^", false)]);
        all.extend((0..95).map(|number| (format!("caught {number}"), true)));
        all
    }

    #[test]
    fn a_name_has_no_line_number() {
        let report = serde_json::from_str(REPORT).unwrap();
        let text = |_: &str| Ok("// a\n    x | y | z;\n".to_owned());
        assert_eq!(
            named(report, text).unwrap(),
            mutants(&[
                ("a/src/b.rs: replace | with ^ in `x | y | z;` #1", true),
                ("a/src/b.rs: replace | with ^ in `x | y | z;` #2", false),
                ("a/src/b.rs: replace f -> bool with true", true),
            ])
        );
    }

    #[test]
    fn what_is_listed_does_not_count() {
        let (table, wrong) = judge("boot", &tested(), &["equal: *"]);
        assert_eq!(wrong, [""; 0]);
        assert!(
            table.contains("boot            97       1      95      98\n  missed\n"),
            "{table}"
        );
    }

    #[test]
    fn less_than_the_least_is_wrong() {
        let mut tested = tested();
        tested.extend(mutants(&[("m1", false), ("m2", false), ("m3", false), ("m4", false)]));
        let (_, wrong) = judge("boot", &tested, &["equal: *"]);
        assert_eq!(wrong, [""; 0]);
        tested.extend(mutants(&[("m5", false)]));
        let (_, wrong) = judge("boot", &tested, &["equal: *"]);
        assert_eq!(wrong, ["boot: the tests catch 94 %, and must catch 95 %"]);
    }

    #[test]
    fn an_entry_that_is_caught_or_does_not_exist_is_wrong() {
        let (_, wrong) = judge("boot", &tested(), &["equal: *", "caught 7", "gone"]);
        assert_eq!(
            wrong,
            [
                "mutants.txt: `caught 7` is listed, and `caught 7` is caught",
                "mutants.txt: `gone` is no viable mutant"
            ]
        );
    }

    #[test]
    fn an_entry_needs_a_reason_and_stands_once() {
        let wrong = |text: &str| listed(text, "gic").unwrap_err().to_string();
        assert_eq!(listed("# text\n= why\ngic/a\ngic/b *\n", "gic").unwrap(), ["gic/a", "gic/b *"]);
        assert!(wrong("gic/a\n").contains("`gic/a` is under no reason"));
        assert!(wrong("=\ngic/a\n").contains("under no reason"));
        assert!(wrong("= why\ngic/a\ngic/a\n").contains("listed twice"));
    }

    #[test]
    fn a_step_sees_the_entries_of_its_crate() {
        let text = "= why\ngic/a\nefi/b\ngic/c\n";
        assert_eq!(listed(text, "gic").unwrap(), ["gic/a", "gic/c"]);
        assert_eq!(listed(text, "efi").unwrap(), ["efi/b"]);
        assert_eq!(listed(text, "boot").unwrap(), [""; 0]);
        for entry in ["a", "gic", "gicv3/a", "xtask/a"] {
            let error = listed(&format!("= why\n{entry}\n"), "gic").unwrap_err();
            assert!(error.to_string().contains("is in no crate"), "{error}");
        }
    }

    #[test]
    fn each_step_names_a_crate() {
        for step in STEPS {
            let manifest = paths::root().join(crate_of(step)).join("Cargo.toml");
            assert!(step != crate_of(step) && manifest.is_file(), "{}", manifest.display());
        }
    }

    #[test]
    fn the_list_can_be_read() {
        let text = fs::read_to_string(paths::root().join(LIST)).unwrap();
        assert!(!listed(&text, "boot").unwrap().is_empty());
    }
}
