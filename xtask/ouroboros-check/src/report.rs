//! Reader of a console: what each kernel on it reported about the loader that entered it.
//!
//! A line may have text before the record, such as the time stamp of a serial logger.

use anyhow::{Result, bail, ensure};
use boot::marker;
use harness::rules;
use protocol::{
    record::{Hex, Rule},
    rules::{RULES, Verdict},
};

/// Name in reports of our own kexec, which enters every generation but the first.
pub const OURSELVES: &str = "kexec";

/// The software that entered a kernel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Loader {
    /// Its name.
    pub name: String,
    /// Its version, if known.
    pub version: Option<String>,
    /// The machine that it ran on: a name of qemu.toml, or the user's.
    pub machine: Option<String>,
}

/// The report of one kernel.
#[derive(Clone, Debug)]
pub struct Report {
    /// The software that entered it.
    pub loader: Loader,
    /// Each rule in order.
    pub rules: Vec<Rule>,
}

/// Reads every report on the console. The first kernel was entered by `loader`, each later one by
/// our own kexec.
///
/// A kernel that stops because of a broken rule reports no other: its report is that rule alone.
///
/// # Errors
///
/// There is no report, or the console lost a line of one.
pub fn reports(console: &str, loader: &Loader) -> Result<Vec<Report>> {
    let lines: Vec<&str> = console.lines().map(|line| line.trim_end_matches('\r')).collect();
    let stopped = lines.iter().find_map(|line| broken_rule(line));
    let mut all = rules::reports(console)?;
    for report in &all {
        let (read, of) = (report.len(), RULES.len());
        ensure!(read == of, "a report ends after rule {read} of {of}: the console lost its rest");
    }
    if let Some(rule) = stopped {
        all.push(vec![rule]);
    }
    if all.is_empty() {
        let has = |text: &str| lines.iter().any(|line| line.contains(text));
        match has(marker::GENERATION) {
            true => {
                bail!("the kernel ran, but reported no rule: start it with `check` in bootargs")
            }
            false => bail!(
                "the kernel printed nothing that we know: it was not entered, or it has \
                            another console than this one"
            ),
        }
    }
    let reports = all.into_iter().enumerate().map(|(index, rules)| {
        let loader = match index {
            0 => loader.clone(),
            _ => Loader { name: OURSELVES.to_owned(), version: None, ..loader.clone() },
        };
        Report { loader, rules }
    });
    Ok(reports.collect())
}

/// Checks that the run on this console ended well, or failed for no other reason than a broken
/// rule.
///
/// # Errors
///
/// The kernel's last word, if it is another.
pub fn check_end(console: &str) -> Result<()> {
    let last = |text: &str| console.lines().rfind(|line| line.contains(text));
    let is_strict = last(marker::REFUSED).is_some_and(|line| line.contains("check=strict"));
    if last(marker::BROKEN).is_some() || is_strict {
        return Ok(());
    }
    let fatal = last(marker::FATAL).or_else(|| last(marker::REFUSED));
    let ended = last(marker::SUCCESS).is_some() && last(marker::FAILURE).is_none();
    let why = fatal.or_else(|| last(marker::FAILURE)).unwrap_or("no end of it is on the console");
    ensure!(ended, "the run did not succeed: {why}");
    Ok(())
}

/// The rule that a kernel names as it stops, as [`marker::BROKEN`] begins that line.
fn broken_rule(line: &str) -> Option<Rule> {
    let (_, rest) = line.split_once(marker::BROKEN)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    let number: u32 = digits.parse().ok()?;
    let rule = RULES.iter().find(|rule| u32::from(rule.number) == number)?;
    Some(Rule {
        generation: None,
        mode: None,
        midr: Hex(0),
        rule: number,
        text: rule.text.into(),
        place: rule.place.into(),
        value: format!("the kernel stopped: {}", rest.trim()),
        verdict: Verdict::Broken,
    })
}

/// Finds the version of the loader in what it printed before the kernel: the banner of U-Boot, EDK2
/// or Linux, whichever is last.
pub fn version(console: &str) -> Option<String> {
    let before = console.split(marker::GENERATION).next()?;
    let word = |rest: &str| {
        let end = rest.find(|c: char| c.is_whitespace() || c == ')').unwrap_or(rest.len());
        (!rest[..end].is_empty()).then(|| rest[..end].to_owned())
    };
    let banners = ["U-Boot ", "UEFI firmware (version ", "EDK II version ", "Linux version "];
    before
        .lines()
        .filter_map(|line| {
            banners.into_iter().find_map(|banner| {
                let (_, rest) = line.split_once(banner)?;
                let starts = rest.starts_with(|c: char| c.is_ascii_digit());
                // EDK2's may be a name, such as `edk2-stable202411`.
                (starts || banner.contains("version ")).then(|| word(rest))?
            })
        })
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn line(rule: u32, verdict: Verdict) -> String {
        let rule = Rule {
            generation: Some(0),
            mode: Some("el1".into()),
            midr: Hex(0x41),
            rule,
            text: "t".into(),
            place: "2".into(),
            value: "0x4".into(),
            verdict,
        };
        protocol::record::Record::Rule(rule).line()
    }

    /// A report of every rule, of which these are broken.
    fn whole(broken: &[u32]) -> String {
        let verdict = |rule| if broken.contains(&rule) { Verdict::Broken } else { Verdict::Kept };
        (1..=RULES.len() as u32).map(|rule| line(rule, verdict(rule)) + "\n").collect()
    }

    fn loader() -> Loader {
        Loader { name: "vmm".into(), version: Some("7".into()), machine: None }
    }

    #[test]
    fn the_loader_enters_the_first_kernel_and_we_the_others() {
        let one = whole(&[2]);
        let console = format!("[0] Generation 0 of 2\r\n{one}[1] Generation 1 of 2\n{one}");
        let reports = reports(&console, &loader()).unwrap();
        assert_eq!(reports[0].loader, loader());
        assert_eq!(
            (reports[1].loader.name.as_str(), &reports[1].loader.version),
            (OURSELVES, &None)
        );
        let broken = reports.iter().map(|report| rules::with(&report.rules, Verdict::Broken));
        assert!(broken.eq([[2], [2]]));
    }

    #[test]
    fn a_time_stamp_before_a_line_is_passed_over() {
        let console: String =
            whole(&[]).lines().map(|line| format!("[   12.345] {line}\r\n")).collect();
        assert_eq!(reports(&console, &loader()).unwrap()[0].rules[0].rule, 1);
    }

    #[test]
    fn a_kernel_that_stops_reports_the_one_rule() {
        let console = format!("hello\n{}21: HVC is UNDEFINED\n!! stopped\n", marker::BROKEN);
        let reports = reports(&console, &loader()).unwrap();
        let rule = &reports[0].rules[0];
        assert_eq!((rule.rule, rule.verdict), (21, Verdict::Broken));
        assert!(rule.value.contains("HVC is UNDEFINED"));
        check_end(&console).unwrap();
    }

    #[test]
    fn a_report_that_lost_a_line_is_no_report() {
        let why = |console: &str| reports(console, &loader()).unwrap_err().to_string();
        let console = whole(&[]);
        let lines: Vec<_> = console.lines().collect();
        assert!(why(&lines[..48].join("\n")).contains("after rule 48 of 49"));
        assert!(why(&[&lines[..6], &lines[7..]].concat().join("\n")).contains("rule 8"));
        assert!(why(&lines[1..].join("\n")).contains("rule 1"));
    }

    #[test]
    fn a_log_without_a_report_says_what_it_lacks() {
        let why = |console: &str| reports(console, &loader()).unwrap_err().to_string();
        assert!(why("[0] Generation 0 of 1\n").contains("`check`"));
        assert!(why("Starting kernel ...\n").contains("not entered"));
    }

    #[test]
    fn only_a_success_or_a_broken_rule_is_an_end() {
        check_end("[1] Ouroboros: success\r\n").unwrap();
        check_end("[0] Refused: check=strict: broken rules: [7]\n[0] Ouroboros: failure\n")
            .unwrap();
        let why = |console: &str| check_end(console).unwrap_err().to_string();
        assert!(why("[0] Generation 0 of 2\n").contains("no end"));
        assert!(why("!! panic at x\nOuroboros: failure\n").contains("!! panic at x"));
        assert!(why("[0] Refused: no disk\n[0] Ouroboros: failure\n").contains("no disk"));
        assert!(why("[1] Ouroboros: success\n!! stopped\nOuroboros: failure").contains("stopped"));
    }

    #[test]
    fn the_last_banner_before_the_kernel_is_the_loaders() {
        assert_eq!(
            version("\n\nU-Boot 2023.01+dfsg-2 (Jan 01 2023)\n[0] Generation 0\n").as_deref(),
            Some("2023.01+dfsg-2")
        );
        assert_eq!(
            version("UEFI firmware (version 2022.11-6 built at 12:00)\n").as_deref(),
            Some("2022.11-6")
        );
        assert_eq!(
            version("UEFI firmware (version 2022.11 built)\nLinux version 6.1.0-9-arm64 (gcc)\n")
                .as_deref(),
            Some("6.1.0-9-arm64")
        );
        assert_eq!(version("[0] Generation 0\nLinux version 6.1\n"), None);
        assert_eq!(version("U-Boot console\n"), None);
    }
}
