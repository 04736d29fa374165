//! Results for people and for programs: a table, JSON, JUnit's XML, TAP and Markdown.

use anyhow::Result;
use harness::xml::escaped;
use protocol::{
    record::{Hex, Rule},
    rules::Verdict,
};
use serde::Serialize;

use crate::{
    judgement::{Judged, Judgement, Standing},
    known::Break,
    report::{Loader, OURSELVES},
};

/// Version of the JSON document's schema: docs/check-report.schema.json.
pub const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    tool: &'static str,
    result: &'static str,
    counts: Counts,
    reports: Vec<ReportEntry<'a>>,
    failures: Vec<Failure<'a>>,
}

#[derive(Serialize)]
struct Counts {
    kept: usize,
    broken: usize,
    absent: usize,
    unseen: usize,
}

#[derive(Serialize)]
struct Failure<'a> {
    loader: &'a str,
    version: Option<&'a str>,
    machine: Option<&'a str>,
    reason: &'a str,
}

#[derive(Serialize)]
struct ReportEntry<'a> {
    loader: &'a str,
    version: Option<&'a str>,
    machine: Option<&'a str>,
    generation: Option<u32>,
    mode: Option<&'a str>,
    midr: Option<String>,
    rules: Vec<RuleEntry<'a>>,
}

#[derive(Serialize)]
struct RuleEntry<'a> {
    rule: u32,
    text: &'a str,
    place: &'a str,
    value: &'a str,
    verdict: &'static str,
    fails: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<&'a Break>,
}

/// Formats the judgement as a JSON document.
///
/// # Errors
///
/// None that we know of.
pub fn json(judgement: &Judgement) -> Result<String> {
    let document = Document {
        schema: SCHEMA,
        tool: concat!("ouroboros-check ", env!("CARGO_PKG_VERSION")),
        result: result(judgement),
        counts: Counts {
            kept: judgement.count(Verdict::Kept),
            broken: judgement.count(Verdict::Broken),
            absent: judgement.count(Verdict::Absent),
            unseen: judgement.count(Verdict::Unseen),
        },
        reports: judgement.reports.iter().map(|report| entry(judgement, report)).collect(),
        failures: judgement
            .failures
            .iter()
            .map(|(loader, reason)| Failure {
                loader: &loader.name,
                version: loader.version.as_deref(),
                machine: loader.machine.as_deref(),
                reason,
            })
            .collect(),
    };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn entry<'a>(judgement: &Judgement, Judged { loader, rules }: &'a Judged) -> ReportEntry<'a> {
    let first = rules.first().map(|(rule, _)| rule);
    let rules = rules.iter().map(|(rule, standing)| RuleEntry {
        rule: rule.rule,
        text: &rule.text,
        place: &rule.place,
        value: &rule.value,
        verdict: rule.verdict.word(),
        fails: judgement.fails(standing),
        known: match standing {
            Standing::Known(entry) | Standing::Mended(entry) => Some(entry),
            Standing::Fine | Standing::Broken => None,
        },
    });
    ReportEntry {
        loader: &loader.name,
        version: loader.version.as_deref(),
        machine: loader.machine.as_deref(),
        generation: first.and_then(|rule| rule.generation),
        mode: first.and_then(|rule| rule.mode.as_deref()),
        midr: first.map(|rule| rule.midr).filter(|midr| *midr != Hex(0)).map(|it| it.to_string()),
        rules: rules.collect(),
    }
}

fn result(judgement: &Judgement) -> &'static str {
    if judgement.passes() { "passed" } else { "failed" }
}

/// Names what entered a kernel, and where: "u-boot-booti 2023.01 on nvhe".
fn subject(Loader { name, version, machine }: &Loader) -> String {
    let version = version.iter().map(|version| format!(" {version}"));
    let machine = machine.iter().map(|machine| format!(" on {machine}"));
    [name.clone()].into_iter().chain(version).chain(machine).collect()
}

/// Describes a rule's standing, if it is worth a line.
fn remark(loader: &Loader, rule: &Rule, standing: &Standing) -> Option<String> {
    let Rule { rule: number, text, value, place, .. } = rule;
    let subject = subject(loader);
    let link =
        |entry: &Break| entry.link.iter().map(|link| format!(" ({link})")).collect::<String>();
    match standing {
        Standing::Fine => None,
        Standing::Broken => {
            Some(format!("BROKEN: {subject} breaks rule {number}: {text}: {value} ({place})"))
        }
        Standing::Known(entry) => Some(format!(
            "known: {subject} breaks rule {number}: {text}: {value} ({place}): {}{}",
            entry.reason,
            link(entry)
        )),
        Standing::Mended(entry) => Some(format!(
            "mended: {subject} is known to break rule {number} ({}), but does not: {value}",
            entry.reason
        )),
    }
}

/// Formats a table of rules × loaders, then a line for each break, failure and mended rule.
///
/// A loader has a column, with a sign for each of its machines; the worst verdict counts.
pub fn table(judgement: &Judgement) -> String {
    let mut names: Vec<&str> =
        judgement.reports.iter().map(|report| report.loader.name.as_str()).collect();
    // Our own kexec comes last.
    let place = |name: &str| judgement.reports.iter().position(|it| it.loader.name == name);
    names.sort_by_key(|&name| (name == OURSELVES, place(name)));
    names.dedup();
    let mut numbers: Vec<(u32, &str)> =
        judgement.rules().map(|(_, rule, _)| (rule.rule, rule.text.as_ref())).collect();
    numbers.sort_unstable();
    numbers.dedup_by_key(|(number, _)| *number);
    let mut text = String::new();
    if !numbers.is_empty() {
        text = format!("    {:72}", "rule");
        names.iter().for_each(|name| text += &format!(" {name:>12}"));
    }
    for (number, words) in numbers {
        text += &format!("\n{number:3} {words:72}");
        for name in &names {
            text += &format!(" {:>12}", cell(judgement, name, number));
        }
    }
    text += "\n\n";
    for (loader, reason) in &judgement.failures {
        text += &format!("FAILED: {}: {reason}\n", subject(loader));
    }
    for (loader, rule, standing) in judgement.rules() {
        text.extend(remark(loader, rule, standing).map(|line| line + "\n"));
    }
    let counts = Verdict::ALL.map(|verdict| format!("{} {verdict}", judgement.count(verdict)));
    text + &format!("{}: rules {}\n", result(judgement), counts.join(", "))
}

/// The signs of one loader's verdicts on a rule, one for each of its machines.
fn cell(judgement: &Judgement, name: &str, number: u32) -> String {
    let reports = || judgement.reports.iter().filter(|report| report.loader.name == name);
    let mut machines: Vec<_> = reports().map(|report| &report.loader.machine).collect();
    machines.sort();
    machines.dedup();
    let sign = |machine: &Option<String>| {
        let of = reports().filter(|report| report.loader.machine == *machine);
        let rules = of.flat_map(|report| &report.rules).filter(|(rule, _)| rule.rule == number);
        let verdicts: Vec<_> = rules.map(|(rule, _)| rule.verdict).collect();
        let signs = [(Verdict::Broken, 'X'), (Verdict::Kept, '+'), (Verdict::Absent, '-')];
        let worst = signs.into_iter().find(|(verdict, _)| verdicts.contains(verdict));
        worst.map_or('·', |(_, sign)| sign)
    };
    machines.into_iter().map(sign).collect()
}

/// Formats JUnit's XML: a suite for each report, a case for each rule.
#[must_use]
pub fn junit(judgement: &Judgement) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    xml += "<testsuites name=\"arm64 boot protocol\">\n";
    for Judged { loader, rules } in &judgement.reports {
        let count = |pick: &dyn Fn(&(Rule, Standing)) -> bool| {
            rules.iter().filter(|rule| pick(rule)).count()
        };
        xml += &format!(
            "<testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\">\n",
            escaped(&subject(loader)),
            rules.len(),
            count(&|(_, standing)| judgement.fails(standing)),
            count(&|(rule, standing)| skipped(judgement, rule, standing).is_some())
        );
        for (rule, standing) in rules {
            xml += &format!(
                "<testcase classname=\"{}\" name=\"rule {}: {}\">",
                escaped(&subject(loader)),
                rule.rule,
                escaped(&rule.text)
            );
            let value = escaped(&format!("{} ({})", rule.value, rule.place));
            if judgement.fails(standing) {
                let why = remark(loader, rule, standing).unwrap_or_default();
                xml += &format!("<failure message=\"{}\">{value}</failure>", escaped(&why));
            } else if let Some(why) = skipped(judgement, rule, standing) {
                xml += &format!("<skipped message=\"{}\"/>", escaped(&why));
            } else {
                xml += &format!("<system-out>{value}</system-out>");
            }
            xml += "</testcase>\n";
        }
        xml += "</testsuite>\n";
    }
    for (loader, reason) in &judgement.failures {
        let name = escaped(&subject(loader));
        xml += &format!(
            "<testsuite name=\"{name}\" tests=\"1\" failures=\"0\" errors=\"1\" skipped=\"0\">\n\
             <testcase classname=\"{name}\" name=\"reports\"><error message=\"{}\"/></testcase>\n\
             </testsuite>\n",
            escaped(reason)
        );
    }
    xml + "</testsuites>\n"
}

/// The reason why a rule neither passes nor fails.
fn skipped(judgement: &Judgement, rule: &Rule, standing: &Standing) -> Option<String> {
    match (standing, rule.verdict) {
        _ if judgement.fails(standing) => None,
        (Standing::Known(entry), _) => Some(format!("known: {}", entry.reason)),
        (_, verdict @ (Verdict::Absent | Verdict::Unseen)) => {
            Some(format!("{verdict}: {}", rule.value))
        }
        _ => None,
    }
}

/// Formats TAP, version 14. A known break is a TODO; an absent or unseen rule is skipped.
#[must_use]
pub fn tap(judgement: &Judgement) -> String {
    let count = judgement.rules().count() + judgement.failures.len();
    let mut text = format!("TAP version 14\n1..{count}\n");
    // A # begins a directive.
    let plain = |text: &str| text.replace(['#', '\n'], " ");
    let mut number = 0;
    for (loader, rule, standing) in judgement.rules() {
        number += 1;
        let is_ok = rule.verdict != Verdict::Broken && !judgement.fails(standing);
        let (not, subject) = (if is_ok { "" } else { "not " }, subject(loader));
        text += &format!(
            "{not}ok {number} - {}: rule {}: {}",
            plain(&subject),
            rule.rule,
            plain(&rule.text)
        );
        text += &match standing {
            Standing::Known(entry) => format!(" # TODO {}", plain(&entry.reason)),
            _ => skipped(judgement, rule, standing)
                .map(|why| format!(" # SKIP {}", plain(&why)))
                .unwrap_or_default(),
        };
        text.push('\n');
        if !is_ok {
            let (value, place) = (quoted(&rule.value), quoted(&rule.place));
            text += &format!("  ---\n  value: {value}\n  place: {place}\n  ...\n");
        }
    }
    for (loader, reason) in &judgement.failures {
        number += 1;
        text += &format!("not ok {number} - {}: {}\n", plain(&subject(loader)), plain(reason));
    }
    text
}

/// Quotes a scalar for YAML, which reads JSON's strings.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Formats a summary in Markdown.
#[must_use]
pub fn markdown(judgement: &Judgement) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let mut text = format!("## arm64 boot protocol: {}\n\n", result(judgement));
    text += "| loader | mode | kept | broken | absent | unseen |\n|---|---|---|---|---|---|\n";
    for Judged { loader, rules } in &judgement.reports {
        let mode = rules.first().and_then(|(rule, _)| rule.mode.as_deref()).unwrap_or("unknown");
        let count = |verdict| rules.iter().filter(|(rule, _)| rule.verdict == verdict).count();
        let counts = Verdict::ALL.map(|verdict| count(verdict).to_string()).join(" | ");
        text += &format!("| {} | {mode} | {counts} |\n", cell(&subject(loader)));
    }
    text.push('\n');
    for (loader, reason) in &judgement.failures {
        text += &format!("- **failed**: {}: {}\n", subject(loader), cell(reason));
    }
    for (loader, rule, standing) in judgement.rules() {
        text.extend(remark(loader, rule, standing).map(|line| format!("- {}\n", cell(&line))));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judgement::tests::{report, strictness};

    /// A report of ours and of two loaders, and a run that failed.
    fn sample(exact: bool) -> Judgement {
        use Verdict::{Absent, Broken, Kept, Unseen};
        let rules = |seven, twelve| [(7, seven), (12, twelve), (16, Unseen), (18, Absent)];
        let reports = vec![
            report("kexec", None, &rules(Kept, Kept)),
            report("u-boot-booti", Some("2023.01"), &rules(Kept, Broken)),
            report("u-boot-bootm", Some("2023.01"), &rules(Kept, Kept)),
            report("a <vmm> | #1", None, &rules(Broken, Kept)),
        ];
        let failures =
            vec![(Loader { name: "uefi".into(), ..Loader::default() }, "out of time".to_owned())];
        Judgement::of(reports, failures, &strictness(exact, &[]))
    }

    #[test]
    fn the_table_has_a_row_for_each_rule_and_a_line_for_each_break() {
        let text = table(&sample(false));
        let words: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0][..3], ["rule", "u-boot-booti", "u-boot-bootm"]);
        assert_eq!(words[0].last(), Some(&OURSELVES));
        assert_eq!(words[1], ["7", "text", "7", "+", "+", "X", "+"]);
        assert_eq!(words[3], ["16", "text", "16", "·", "·", "·", "·"]);
        assert_eq!(words[4], ["18", "text", "18", "-", "-", "-", "-"]);
        for line in [
            "FAILED: uefi: out of time",
            "known: u-boot-booti 2023.01 on vhe breaks rule 12: text 12: 0x4 (2): takes SErrors",
            "mended: u-boot-bootm 2023.01 on vhe is known to break rule 12 (takes SErrors), but \
             does not: 0x4",
            "BROKEN: a <vmm> | #1 on vhe breaks rule 7: text 7: 0x4 (2)",
            "failed: rules 6 kept, 2 broken, 4 absent, 4 unseen",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_json_is_as_its_schema_says() {
        let schema = include_str!("../../../docs/check-report.schema.json");
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let mut document: serde_json::Value =
            serde_json::from_str(&json(&sample(true)).unwrap()).unwrap();
        let errors: Vec<_> = validator.iter_errors(&document).map(|it| it.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(document["result"], "failed");
        assert_eq!(document["reports"][1]["rules"][1]["known"]["reason"], "takes SErrors");
        assert_eq!(document["reports"][2]["rules"][1]["fails"], true, "mended, and exact");
        document["reports"][0]["rules"][0]["verdict"] = "perhaps".into();
        assert!(!validator.is_valid(&document));
    }

    #[test]
    fn junit_is_well_formed_and_counts_what_fails() {
        let xml = junit(&sample(false));
        harness::xml::well_formed(&xml, &[]).unwrap();
        assert_eq!(xml.matches("<failure ").count(), 1, "{xml}");
        assert_eq!(xml.matches("<error ").count(), 1);
        assert_eq!(xml.matches("<skipped ").count(), 4 * 2 + 1);
        assert!(xml.contains("tests=\"4\" failures=\"1\" errors=\"0\" skipped=\"2\""), "{xml}");
        assert!(xml.contains("a &lt;vmm&gt; | #1"));
    }

    #[test]
    fn tap_has_a_line_for_each_rule_and_no_stray_directive() {
        let text = tap(&sample(false));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["TAP version 14", "1..17"]);
        let points = lines.iter().filter(|line| line.contains("ok "));
        assert_eq!(points.count(), 17);
        assert!(
            text.contains("not ok 6 - u-boot-booti 2023.01 on vhe: rule 12: text 12 # TODO takes")
        );
        assert!(
            text.contains("not ok 13 - a <vmm> |  1 on vhe: rule 7: text 7\n  ---\n"),
            "{text}"
        );
        assert!(text.contains("ok 3 - kexec on vhe: rule 16: text 16 # SKIP unseen: 0x4\n"));
        assert!(lines.last().unwrap().starts_with("not ok 17 - uefi: out of time"));
        assert!(tap(&sample(true)).contains("not ok 10 - u-boot-bootm"), "mended, and exact");
    }

    #[test]
    fn markdown_has_a_row_for_each_report_and_whole_cells() {
        let text = markdown(&sample(false));
        assert!(text.contains("| u-boot-booti 2023.01 on vhe | vhe | 1 | 1 | 1 | 1 |"), "{text}");
        assert!(text.contains("| a <vmm> \\| #1 on vhe | vhe |"));
        assert!(text.contains("- **failed**: uefi: out of time"));
    }
}
