//! Parser of the boot-protocol checker's reports on a console.
//!
//! The kernel prints them with `check` in bootargs, one line of JSON for each of its rules
//! (`protocol/src/rules.rs`). Refused: a line that does not parse, and a report whose rules do not
//! count up from 1.

use anyhow::{Context, Result, ensure};
use boot::marker;
use serde::Deserialize;

/// One rule and its verdict.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// The rule's number.
    pub rule: u32,
    /// The text of the rule.
    pub text: String,
    /// The section of the document that requires it.
    pub place: String,
    /// The value that was found.
    pub value: String,
    /// The verdict.
    pub verdict: Verdict,
}

/// The verdict on a rule.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum Verdict {
    /// The loader kept the rule.
    #[serde(rename = "kept")]
    Kept,
    /// The loader broke the rule.
    #[serde(rename = "broken")]
    Broken,
    /// The kernel cannot observe it.
    #[serde(rename = "cannot be seen from here")]
    Unseen,
}

/// Parses the reports, in the order of the console: one for each generation that ran with `check`.
pub fn reports(console: &str) -> Result<Vec<Vec<Told>>> {
    let mut reports: Vec<Vec<Told>> = Vec::new();
    for line in console.lines() {
        let text =
            line.split_once("] ").filter(|_| line.starts_with('[')).map_or(line, |(_, text)| text);
        if !text.starts_with(marker::RULE) {
            continue;
        }
        let told: Told = serde_json::from_str(text)
            .with_context(|| format!("this line is not the verdict on a rule: {line}"))?;
        if told.rule == 1 {
            reports.push(Vec::new());
        }
        let report = reports.last_mut().context("a report does not begin with rule 1")?;
        ensure!(
            report.len() + 1 == told.rule as usize,
            "rule {} comes after {} rules",
            told.rule,
            report.len()
        );
        report.push(told);
    }
    Ok(reports)
}

/// The numbers of the rules with this verdict.
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
