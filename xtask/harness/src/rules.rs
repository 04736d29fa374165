//! Reader of the boot-protocol checker's reports on a console.
//!
//! With `check` on the command line the kernel prints one record for each rule
//! (`protocol::rules`). A report whose rules do not count up from 1 is refused.

use anyhow::{Context, Result, anyhow, ensure};
use protocol::record::{self, Record, Rule};
use protocol::rules::Verdict;

/// Reads the reports, in the order of the console: one for each generation that ran with `check`.
pub fn reports(console: &str) -> Result<Vec<Vec<Rule>>> {
    let mut reports: Vec<Vec<Rule>> = Vec::new();
    for line in console.lines() {
        // A serial logger may have put a time stamp before it.
        let Some(start) = line.find(record::START) else { continue };
        let Some(record) = Record::parse(line[start..].trim_end()) else { continue };
        let Record::Rule(rule) = record.map_err(|why| anyhow!("the record \"{line}\": {why}"))?
        else {
            continue;
        };
        if rule.rule == 1 {
            reports.push(Vec::new());
        }
        let report = reports.last_mut().context("a report does not begin with rule 1")?;
        ensure!(
            report.len() + 1 == rule.rule as usize,
            "rule {} comes after {} rules",
            rule.rule,
            report.len()
        );
        report.push(rule);
    }
    Ok(reports)
}

/// The numbers of the rules with this verdict.
pub fn with(report: &[Rule], verdict: Verdict) -> Vec<u32> {
    report.iter().filter(|rule| rule.verdict == verdict).map(|rule| rule.rule).collect()
}

#[cfg(test)]
mod tests {
    use protocol::record::Hex;

    use super::*;

    fn line(rule: u32, verdict: Verdict) -> String {
        Record::Rule(Rule {
            generation: Some(0),
            mode: Some("nvhe".into()),
            midr: Hex(0x410f_d083),
            rule,
            text: "t".into(),
            place: "2".into(),
            value: "0x4".into(),
            verdict,
        })
        .line()
    }

    #[test]
    fn a_report_is_read_from_a_generation_and_from_a_panic() {
        let console = format!(
            "[0] Generation 0 of 2\n{}\n{}\nsomething else\n{}\n",
            line(1, Verdict::Broken),
            line(2, Verdict::Unseen),
            line(1, Verdict::Kept)
        );
        let reports = reports(&console).unwrap();
        assert_eq!(reports.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(with(&reports[0], Verdict::Broken), [1]);
        assert_eq!(with(&reports[0], Verdict::Unseen), [2]);
        assert_eq!(reports[1][0].value, "0x4");
    }

    #[test]
    fn doctored_reports_are_refused() {
        let (first, third) = (line(1, Verdict::Broken), line(3, Verdict::Broken));
        for wrong in [
            line(2, Verdict::Kept),
            format!("{first}\n{third}"),
            first.replace("broken", "maybe"),
            first.replace('}', ""),
        ] {
            assert!(reports(&wrong).is_err(), "{wrong}");
        }
    }
}
