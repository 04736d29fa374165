//! Judgement of reports: each rule's standing, and whether all of them together pass.

use protocol::{record::Rule, rules::Verdict};

use crate::{
    known::{Break, Known},
    report::{Loader, Report},
};

/// Rules by number; empty means every rule.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selected(pub Vec<u32>);

/// How strictly to judge.
#[derive(Clone, Debug, Default)]
pub struct Strictness {
    /// The breaks that do not fail.
    pub known: Known,
    /// A known break that is no longer there fails too.
    pub exact: bool,
    /// The rules to judge.
    pub rules: Selected,
}

/// The standing of a rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// The rule is kept, absent or unseen, as expected.
    Fine,
    /// The rule is broken, and is not known to be.
    Broken,
    /// The rule is broken, as is known.
    Known(Break),
    /// The rule is known to be broken, but is not.
    Mended(Break),
}

/// A report with the standing of each rule.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The software that entered the kernel.
    pub loader: Loader,
    /// Each rule in order.
    pub rules: Vec<(Rule, Standing)>,
}

/// The judgement of several reports.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Each report.
    pub reports: Vec<Judged>,
    /// Runs without a complete report: what was run, and the reason.
    pub failures: Vec<(Loader, String)>,
    /// Whether a mended rule fails.
    exact: bool,
}

impl Selected {
    fn has(&self, rule: u32) -> bool {
        self.0.is_empty() || self.0.contains(&rule)
    }
}

impl Judgement {
    /// Judges reports, beside runs that failed.
    #[must_use]
    pub fn of(
        reports: Vec<Report>,
        failures: Vec<(Loader, String)>,
        strictness: &Strictness,
    ) -> Self {
        let Strictness { known, exact, rules: selected } = strictness;
        let judged = |Report { loader, rules }: Report| {
            let rules = rules.into_iter().filter(|rule| selected.has(rule.rule)).map(|rule| {
                let entry = known.find(&loader, rule.rule).cloned();
                let standing = match (rule.verdict, entry) {
                    (Verdict::Broken, Some(entry)) => Standing::Known(entry),
                    (Verdict::Broken, None) => Standing::Broken,
                    (_, Some(entry)) => Standing::Mended(entry),
                    (_, None) => Standing::Fine,
                };
                (rule, standing)
            });
            Judged { rules: rules.collect(), loader }
        };
        Self { reports: reports.into_iter().map(judged).collect(), failures, exact: *exact }
    }

    /// Every rule of every report.
    pub fn rules(&self) -> impl Iterator<Item = (&Loader, &Rule, &Standing)> {
        self.reports.iter().flat_map(|report| {
            report.rules.iter().map(|(rule, standing)| (&report.loader, rule, standing))
        })
    }

    /// Returns whether a rule with this standing fails.
    #[must_use]
    pub fn fails(&self, standing: &Standing) -> bool {
        match standing {
            Standing::Fine | Standing::Known(_) => false,
            Standing::Broken => true,
            Standing::Mended(_) => self.exact,
        }
    }

    /// Returns whether everything passes.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.failures.is_empty() && !self.rules().any(|(.., standing)| self.fails(standing))
    }

    /// The number of rules with this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.rules().filter(|(_, rule, _)| rule.verdict == verdict).count()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use protocol::record::Hex;

    use super::*;

    pub(crate) fn sample(rule: u32, verdict: Verdict) -> Rule {
        Rule {
            generation: Some(0),
            mode: Some("vhe".into()),
            midr: Hex(0x413f_d0c1),
            rule,
            text: format!("text {rule}").into(),
            place: "2".into(),
            value: "0x4".to_owned(),
            verdict,
        }
    }

    pub(crate) fn report(name: &str, version: Option<&str>, rules: &[(u32, Verdict)]) -> Report {
        let version = version.map(str::to_owned);
        let loader = Loader { name: name.into(), version, machine: Some("vhe".into()) };
        Report {
            loader,
            rules: rules.iter().map(|&(rule, verdict)| sample(rule, verdict)).collect(),
        }
    }

    pub(crate) fn strictness(exact: bool, rules: &[u32]) -> Strictness {
        let known = "[[known]]\nloader = \"u-boot-*\"\nversions = \"2023.*\"\nrule = 12\n\
                     reason = \"takes SErrors\"\n";
        let known = Known::parse(known).unwrap();
        Strictness { known, exact, rules: Selected(rules.to_vec()) }
    }

    /// Judges one report of rule 7 and rule 12.
    fn passes(name: &str, version: &str, seven: Verdict, twelve: Verdict, exact: bool) -> bool {
        let report = report(name, Some(version), &[(7, seven), (12, twelve)]);
        Judgement::of(vec![report], Vec::new(), &strictness(exact, &[])).passes()
    }

    #[test]
    fn a_loader_may_break_what_it_is_known_to_break_and_nothing_else() {
        use Verdict::{Absent, Broken, Kept, Unseen};
        let u_boot = |seven, twelve, exact| passes("u-boot-booti", "2023.01", seven, twelve, exact);
        assert!(u_boot(Kept, Broken, false) && u_boot(Kept, Broken, true));
        assert!(!u_boot(Broken, Broken, false), "rule 7 is not known");
        assert!(u_boot(Kept, Kept, false), "a mended rule does not fail");
        assert!(!u_boot(Kept, Kept, true) && !u_boot(Kept, Unseen, true));
        assert!(!passes("u-boot-booti", "2026.01", Kept, Broken, false), "another version");
        assert!(!passes("kexec", "2023.01", Kept, Broken, false));
        assert!(passes("kexec", "", Absent, Unseen, true));
    }

    #[test]
    fn only_the_selected_rules_count() {
        let broken = report("vmm", None, &[(7, Verdict::Broken), (12, Verdict::Kept)]);
        let judge = |rules: &[u32]| {
            Judgement::of(vec![broken.clone()], Vec::new(), &strictness(false, rules))
        };
        assert!(judge(&[12]).passes() && !judge(&[7, 12]).passes() && !judge(&[]).passes());
        assert_eq!(judge(&[12]).rules().count(), 1);
    }

    #[test]
    fn a_run_without_a_report_fails() {
        let failure = (Loader::default(), "out of time".to_owned());
        assert!(!Judgement::of(Vec::new(), vec![failure], &strictness(false, &[])).passes());
    }
}
