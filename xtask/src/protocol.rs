//! The checker's reports, read from a console.
//!
//! *When:* after a run with `check` in bootargs. The rules are the kernel's own (`kernel/src/protocol.rs`): here they are what it printed, one line of
//! JSON each. Refuses a line that is none, and a report that does not begin with rule 1 and count up.

use anyhow::{Context, Result, ensure};
use boot::marker;
use serde::Deserialize;

/// One rule and what came of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// Its number.
    pub rule: u32,
    /// What it asks.
    pub text: String,
    /// Where the document asks it.
    pub place: String,
    /// What was found.
    pub value: String,
    /// Whether that keeps it.
    pub verdict: Verdict,
}

/// Whether a rule was kept.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum Verdict {
    /// It was.
    #[serde(rename = "kept")]
    Kept,
    /// It was not.
    #[serde(rename = "broken")]
    Broken,
    /// The kernel cannot know.
    #[serde(rename = "cannot be seen from here")]
    Unseen,
}

/// The reports, in the order of the console: one for each generation that was told to check.
pub fn reports(console: &str) -> Result<Vec<Vec<Told>>> {
    let mut reports: Vec<Vec<Told>> = Vec::new();
    for line in console.lines() {
        let text =
            line.split_once("] ").filter(|_| line.starts_with('[')).map_or(line, |(_, text)| text);
        if !text.starts_with(marker::RULE) {
            continue;
        }
        let told: Told = serde_json::from_str(text).with_context(|| format!("no rule: {line}"))?;
        if told.rule == 1 {
            reports.push(Vec::new());
        }
        let report = reports.last_mut().context("a report does not begin with rule 1")?;
        ensure!(
            report.len() + 1 == told.rule as usize,
            "rule {} follows {} others",
            told.rule,
            report.len()
        );
        report.push(told);
    }
    Ok(reports)
}

/// The numbers of the rules with that verdict.
pub fn with(report: &[Told], verdict: Verdict) -> Vec<u32> {
    report.iter().filter(|told| told.verdict == verdict).map(|told| told.rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"rule":1,"text":"t","place":"2","value":"0x4","verdict":"broken"}"#;

    #[test]
    fn a_report_is_read_from_a_generation_and_from_last_words() {
        let second =
            LINE.replace("\"rule\":1", "\"rule\":2").replace("broken", "cannot be seen from here");
        let console =
            format!("[0] Generation 0 of 2\n[0] {LINE}\n[0] {second}\nsomething else\n{LINE}\n");
        let reports = reports(&console).unwrap();
        assert_eq!(reports.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(with(&reports[0], Verdict::Broken), [1]);
        assert_eq!(with(&reports[0], Verdict::Unseen), [2]);
        assert_eq!(reports[1][0].value, "0x4");
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for wrong in [
            LINE.replace("\"rule\":1", "\"rule\":2"),
            format!("{LINE}\n{}", LINE.replace("\"rule\":1", "\"rule\":3")),
            LINE.replace("broken", "maybe"),
            LINE.replace("}", ""),
        ] {
            assert!(reports(&wrong).is_err(), "{wrong}");
        }
    }
}
